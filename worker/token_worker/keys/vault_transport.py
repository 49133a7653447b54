"""HTTP connections to Vault, as its own command line makes them.

- ``https://``: the authorities that may sign the server's certificate are those of VAULT_CACERT, VAULT_CACERT_BYTES or
  VAULT_CAPATH, whichever is given first. Without any, they are those of the machine, or of SSL_CERT_FILE. The
  certificate has to be for the host of the address, or for VAULT_TLS_SERVER_NAME.
- ``unix://``: the socket of an agent.

Files are read at each new connection, so they can be replaced while a worker runs.
"""

import os
import re
import socket
import ssl
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NoReturn
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

from token_worker.errors import MasterKeyError
from token_worker.settings.vault import VaultSettings

_CERTIFICATE: Final = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def new_session(settings: VaultSettings) -> tuple[str, requests.Session]:
    """A session for one thread, and the URL that requests through it begin with."""
    session = requests.Session()
    if not settings.address.startswith("unix://"):
        session.mount("https://", _Adapter(_tls_pool(settings)))
        return settings.address, session
    session.trust_env = False  # no proxy for a socket of this machine
    session.mount("http://", _Adapter(_socket_pool(urlsplit(settings.address).path)))
    return "http://localhost", session


class _Adapter(HTTPAdapter):
    """Makes connections of one class. The options of requests for certificates are not used.

    The reason: without such an option requests trusts a list of its own instead of that of the machine.
    """

    def __init__(self, pool: type[HTTPConnectionPool]) -> None:
        self._pools = {pool.scheme: pool}
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = {**manager.pool_classes_by_scheme, **self._pools}
        return manager

    def build_connection_pool_key_attributes(self, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        host, _ = super().build_connection_pool_key_attributes(*args, **kwargs)
        return host, {}

    def cert_verify(self, *args: Any, **kwargs: Any) -> None:
        pass


def _socket_pool(path: str) -> type[HTTPConnectionPool]:
    class Connection(HTTPConnection):
        def connect(self) -> None:
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(self.timeout)
            try:
                self.sock.connect(path)
            except PermissionError:
                raise MasterKeyError(f"VAULT_ADDR: the user of this process may not use the socket {path}") from None

    class Pool(HTTPConnectionPool):
        ConnectionCls = Connection

    return Pool


def _tls_pool(settings: VaultSettings) -> type[HTTPConnectionPool]:
    class Connection(HTTPSConnection):
        def connect(self) -> None:
            if settings.skip_verify:
                self.cert_reqs = ssl.CERT_NONE
            else:
                self.ca_cert_data = authorities(settings)
            self.cert_file, self.key_file = _client_certificate(settings)
            self.server_hostname = settings.server_name
            super().connect()

    class Pool(HTTPSConnectionPool):
        ConnectionCls = Connection

    return Pool


def authorities(settings: VaultSettings) -> str | None:
    """The certificates to trust, in PEM. None: those of the machine.

    Raises:
        MasterKeyError: a file cannot be read, or there is no certificate where there should be one.
    """
    if settings.ca_cert:
        return _certificates("VAULT_CACERT", [_read("VAULT_CACERT", Path(settings.ca_cert))])
    if settings.ca_cert_bytes:
        return _certificates("VAULT_CACERT_BYTES", [settings.ca_cert_bytes])
    if settings.ca_path:
        return _certificates("VAULT_CAPATH", [_read("VAULT_CAPATH", file) for file in _files(settings.ca_path)])
    return None


def _certificates(variable: str, texts: Iterable[str]) -> str:
    found = dict.fromkeys(certificate for text in texts for certificate in _CERTIFICATE.findall(text))
    if not found:
        raise MasterKeyError(f"{variable}: there is no certificate in PEM")
    pem = "\n".join(found)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem)
    except (ssl.SSLError, ValueError):  # ValueError: not ASCII
        raise MasterKeyError(f"{variable}: a certificate is damaged") from None
    return pem


def _files(folder: str) -> Iterator[Path]:
    def refuse(error: OSError) -> NoReturn:
        raise MasterKeyError(f"VAULT_CAPATH: {error.filename} cannot be read ({error.strerror})") from None

    for place, _, names in os.walk(folder, onerror=refuse):
        yield from (file for file in (Path(place, name) for name in sorted(names)) if file.is_file())


def _read(variable: str, path: Path) -> str:
    try:
        return path.read_text(encoding="latin-1")  # comments between the certificates may have any encoding
    except OSError as error:
        raise MasterKeyError(f"{variable}: {path} cannot be read ({error.strerror})") from None


def _client_certificate(settings: VaultSettings) -> tuple[str | None, str | None]:
    certificate, key = settings.client_cert, settings.client_key
    if certificate:
        for variable, path in (("VAULT_CLIENT_CERT", certificate), ("VAULT_CLIENT_KEY", key)):
            if path:
                _read(variable, Path(path))
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key, password="")  # "": do not prompt
        except ssl.SSLError:
            raise MasterKeyError(
                "VAULT_CLIENT_CERT and VAULT_CLIENT_KEY: not a certificate and its key, in PEM and without a password"
            ) from None
    return certificate, key
