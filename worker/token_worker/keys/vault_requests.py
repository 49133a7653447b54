"""One request to Vault: sends it, and turns each failure into one of our errors.

- ``Unavailable("vault", reason)``: Vault is away, sealed, on standby or overloaded, or it fails inside.
- ``MasterKeyError``: a setting has to change first; the text says which.
- ``Forbidden``, ``InvalidPath`` and ``InvalidRequest`` of hvac are left to the caller, who knows what was asked.

No text carries what a secret holds, a token, a secret id or a JWT. Texts of the libraries beneath are dropped, because
servers quote arguments in their answers.
"""

import ssl
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

import hvac.exceptions
import requests

from token_worker.errors import MasterKeyError, Unavailable, VaultRefused

_HOST_NAME, _ADDRESS, _NOT_YET_VALID, _EXPIRED = 62, 64, 9, 10
"""Reasons why a certificate is refused: X509_V_ERR_ of OpenSSL."""

_ANOTHER_NAME: Final = (
    "its certificate is for another name; set VAULT_ADDR to a name of the certificate, or VAULT_TLS_SERVER_NAME to one"
)
_OF_CERTIFICATES: Final = {
    _HOST_NAME: _ANOTHER_NAME,
    _ADDRESS: _ANOTHER_NAME,
    _NOT_YET_VALID: "its certificate is not valid yet; check the clocks of both machines",
    _EXPIRED: "its certificate has expired; renew it, or set the clock of this machine",
}
_UNKNOWN_AUTHORITY: Final = (
    "its certificate is signed by an authority that is not known here; set VAULT_CACERT to the PEM file of that"
    " authority, or add it to the authorities of this machine"
)
_NOT_TLS: Final = {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST"}


def send(address: str, request: Callable[[], Any]) -> Any:
    """Send a request to the Vault at ``address``; returns the answer as hvac gives it.

    Raises:
        Unavailable: see above.
        MasterKeyError: see above.
        hvac.exceptions.VaultError: Vault refuses this very request.
    """
    try:
        return request()
    except requests.exceptions.SSLError as error:
        cause = _find(error, ssl.SSLError)
        if isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError):  # as a server that restarts hangs up
            raise Unavailable("vault", "ConnectionError", address) from None
        raise VaultRefused(f"TLS with Vault at {address} failed: {_remedy(cause)}") from None
    except (requests.exceptions.InvalidSchema, requests.exceptions.MissingSchema, requests.exceptions.InvalidURL):
        raise MasterKeyError(_no_url(address)) from None
    except (requests.exceptions.RequestException, ConnectionError, TimeoutError) as error:
        raise Unavailable("vault", _cause(error), address) from None
    except hvac.exceptions.InvalidRequest as error:
        if "HTTP request to an HTTPS server" in str(error.text):
            raise MasterKeyError(f"Vault at {address} speaks TLS: set VAULT_ADDR to https://…") from None
        raise
    except (hvac.exceptions.Forbidden, hvac.exceptions.InvalidPath):
        raise
    except hvac.exceptions.Unauthorized:  # Vault itself never answers 401, a proxy before it does
        raise MasterKeyError(f"{address} asks for a log-in that is not Vault's") from None
    except hvac.exceptions.VaultError as error:
        text = str(error.text).lower()
        reason = "sealed" if "sealed" in text else "standby" if "not active" in text else type(error).__name__
        raise Unavailable("vault", reason, address) from None


def answer(address: str, request: Callable[[], Any], part: str) -> dict[str, Any]:
    """Send a request, and return one part of the answer (``data`` or ``auth``). Errors as by ``send``."""
    found = send(address, request)
    if not isinstance(found, dict) or not isinstance(found.get(part), dict):  # hvac gives a response if it is not JSON
        raise not_vault(address)
    members: dict[str, Any] = found[part]
    return members


def not_vault(address: str) -> MasterKeyError:
    """The error for a server that answers, but not as Vault does."""
    return MasterKeyError(f"{address} does not answer as Vault does: check VAULT_ADDR")


def _cause(error: BaseException) -> str:
    """The class of the error beneath, which says more than ``ConnectionError`` does."""
    if isinstance(error, requests.exceptions.Timeout):
        return "TimeoutError"
    while error.__context__ is not None:
        error = error.__context__
    return type(error).__name__


def _find(error: BaseException, kind: type[ssl.SSLError]) -> ssl.SSLError | None:
    """The error beneath those of the libraries."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, kind):
        cause = cause.__context__
    return cause


def _remedy(error: ssl.SSLError | None) -> str:
    """Say what is wrong with a connection, and what to do."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _OF_CERTIFICATES.get(error.verify_code, _UNKNOWN_AUTHORITY)
    reason = "" if error is None else str(error.reason)
    if reason in _NOT_TLS:
        return "it does not speak TLS; set VAULT_ADDR to http://…"
    if "ALERT" in reason and "VERSION" not in reason:
        return "it refuses this client; if it asks for a certificate, set VAULT_CLIENT_CERT and VAULT_CLIENT_KEY"
    return f"{reason or 'no reason is known'}; set VAULT_ADDR to http://… if it has no TLS"


def _no_url(address: str) -> str:
    """Say which URL cannot be used: that of Vault, or else that of a proxy, which may hold a password."""
    try:
        parts = urlsplit(address)
        is_good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_good = False
    if is_good:
        return (
            f"{parts.scheme.upper()}_PROXY or ALL_PROXY names no proxy that can be used for {address}; set it to"
            " http://host:port, or add the host of Vault to NO_PROXY"
        )
    return f"VAULT_ADDR: {address} is not a URL such as https://vault:8200"
