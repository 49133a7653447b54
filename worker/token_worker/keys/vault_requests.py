"""One request to Vault: sends it, and turns each failure into one of our errors.

- ``Unavailable("vault", reason)``: Vault is away, sealed, on standby or overloaded, or it fails inside.
- ``MasterKeyError``: a setting has to change first; the text says which.
- ``Forbidden``, ``InvalidPath`` and ``InvalidRequest`` of hvac are left to the caller, who knows what was asked.

No text carries what a secret holds, a token, a secret id or a JWT. Texts of the libraries beneath are dropped, because
servers quote arguments in their answers.
"""

import ssl
from collections.abc import Callable
from typing import Any

import hvac.exceptions
import requests

from token_worker.errors import MasterKeyError, Unavailable


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
        if _is_hang_up(error):
            raise Unavailable("vault", "ConnectionError") from None
        raise MasterKeyError(
            f"TLS with Vault at {address} failed: set VAULT_CACERT to the PEM file of the authority that signed its"
            " certificate (VAULT_CLIENT_CERT and VAULT_CLIENT_KEY if it asks for one), or http:// if it has no TLS"
        ) from None
    except (requests.exceptions.InvalidSchema, requests.exceptions.MissingSchema, requests.exceptions.InvalidURL):
        raise MasterKeyError(f"VAULT_ADDR: {address} is not a URL such as https://vault:8200") from None
    except (requests.exceptions.RequestException, ConnectionError, TimeoutError) as error:
        raise Unavailable("vault", type(error).__name__) from None
    except OSError:  # requests raises it for files that do not exist
        raise MasterKeyError(
            "a file of VAULT_CACERT, VAULT_CAPATH, VAULT_CLIENT_CERT or VAULT_CLIENT_KEY cannot be read"
        ) from None
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
        raise Unavailable("vault", reason) from None


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


def _is_hang_up(error: BaseException) -> bool:
    """True if the server closed the connection during the handshake, as a server that restarts does."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        cause = cause.__context__
    return cause is not None
