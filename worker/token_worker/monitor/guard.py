"""The guard of the pages. A password opens everything; without one, only this machine is answered.

Without a password, a request also has to name this machine in ``Host``: else a page of a foreign site could read the
answers in the operator's own browser, by a name of its own that leads to the loopback (DNS rebinding).
"""

import base64
import binascii
import hashlib
import hmac
import ipaddress
import os
import threading
from pathlib import Path

from token_worker.errors import SettingsError

TOKEN_BYTES_MIN = 16
"""A shorter password could be found by trying."""


class TokenFile:
    """A file that holds the password. It is read again whenever it has changed.

    Raises:
        SettingsError: the file cannot be read, or what it holds is too short.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._state: tuple[int, int, int] | None = None
        self._digest: bytes | None = None
        try:
            self._refresh()
        except OSError as error:
            raise SettingsError(f"--token-file {path}: cannot be read ({error.strerror})") from None
        if self._digest is None:
            raise SettingsError(f"--token-file {path}: expected at least {TOKEN_BYTES_MIN} characters")

    def matches(self, password: bytes) -> bool:
        """True if this is the password. Takes the same time for every wrong one. False while there is no password."""
        with self._lock:
            try:
                self._refresh()
            except OSError:
                return False
            expected = self._digest
        return expected is not None and hmac.compare_digest(_digest(password), expected)

    def _refresh(self) -> None:
        with self._path.open("rb") as file:
            found = os.fstat(file.fileno())
            state = found.st_mtime_ns, found.st_size, found.st_ino
            if state != self._state:
                password = file.read(4096).strip()
                self._digest = _digest(password) if len(password) >= TOKEN_BYTES_MIN else None
                self._state = state


class Guard:
    """Decides about requests.

    Args:
        token: the password; None if there is none.
        metrics_open: whether everybody may read the metrics.

    Attributes:
        is_local: whether the server listens on the loopback alone; False until that is known.
    """

    def __init__(self, token: TokenFile | None, *, metrics_open: bool) -> None:
        self.is_local = False
        self._token = token
        self._metrics_open = metrics_open

    def refusal(self, path: str, authorization: str, host: str, peer: str) -> str | None:
        """Return why a request is refused; None if it is answered.

        Args:
            path: what is asked for.
            authorization: the header ``Authorization``.
            host: the header ``Host``.
            peer: address of the client.
        """
        is_metrics = path == "/metrics"
        if is_metrics and self._metrics_open:
            return None
        if self._token is not None:
            if self._token.matches(_password(authorization, bearer=is_metrics)):
                return None
            return "the password of --token-file is needed"
        if not self.is_local:
            return "without --token-file, this is answered only where the monitor listens on the loopback"
        if not is_loopback(peer) or not is_loopback_name(host):
            return "without --token-file, only requests to localhost are answered"
        return None

    @property
    def asks_for_password(self) -> bool:
        """True if a password helps."""
        return self._token is not None


def is_loopback(address: str) -> bool:
    """True if an IP address is one of this machine's loopback."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_loopback


def is_loopback_name(host: str) -> bool:
    """True if a ``Host`` header names the loopback: ``localhost``, a name below it, or an address."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.rpartition(":")[0] or host
    name = name.lower().removesuffix(".")
    return name == "localhost" or name.endswith(".localhost") or is_loopback(name)


def _password(authorization: str, *, bearer: bool) -> bytes:
    scheme, _, given = authorization.partition(" ")
    if bearer and scheme.lower() == "bearer":
        return given.strip().encode("latin-1", errors="replace")  # as http.server decodes headers
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(given, validate=True).partition(b":")[2]
        except (ValueError, binascii.Error):
            return b""
    return b""


def _digest(password: bytes) -> bytes:
    return hashlib.sha256(password).digest()
