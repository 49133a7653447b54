"""Address of Vault and log-in method. A worker without Vault loads this module, but not ``keys.vault_session``."""

from pathlib import Path
from typing import Literal

import msgspec

from token_worker.errors import MasterKeyError


class VaultSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Address of Vault and log-in method. The environment variables are those of the Vault command line.

    Attributes:
        address: URL, ``https://host:8200``, or ``unix:///path`` of an agent's socket.
        auth: the log-in method.
        token: for ``token``, as Vault issued it; None if an agent adds its own.
        namespace: of Vault Enterprise or OpenBao.
        ca_cert: PEM file of the authorities to trust; goes before the other two.
        ca_cert_bytes: their certificates in PEM; goes before ``ca_path``.
        ca_path: folder with PEM files of them, of any names.
        server_name: name that the server's certificate has to be for, in place of the host of the address.
        client_cert: PEM file, with the key in ``client_key`` or in the same file.
        skip_verify: believe any certificate.
        auth_mount: where the method is mounted, by default under its own name.
        role: for ``jwt``; the method's default role if left out.
        role_id: for ``approle``.
        secret_id_file: for ``approle``, read at each log-in; may be left out if the role needs no secret id.
        secret_id_wrapped: that file holds a wrapping token.
        jwt_file: for ``jwt``, read at each log-in.
        secret: mount and path of the secret with the master key, without ``data/``.
    """

    address: str
    auth: Literal["token", "approle", "jwt"] = "token"
    token: str | None = None
    namespace: str | None = None
    ca_cert: str | None = None
    ca_cert_bytes: str | None = None
    ca_path: str | None = None
    server_name: str | None = None
    client_cert: str | None = None
    client_key: str | None = None
    skip_verify: bool = False
    auth_mount: str | None = None
    role: str | None = None
    role_id: str | None = None
    secret_id_file: str | None = None
    secret_id_wrapped: bool = False
    jwt_file: str | None = None
    secret: str = "secret/acra/transport"  # noqa: S105 - a path

    def __repr__(self) -> str:
        return f"VaultSettings(address={self.address!r}, auth={self.auth!r}, secret={self.secret!r})"

    def __rich_repr__(self) -> list[tuple[str, str]]:
        return [("address", self.address), ("auth", self.auth), ("secret", self.secret)]


def read_file(path: str, name: str) -> str:
    """Read a file for the log-in. ``name`` is the end of the name of its option.

    Raises:
        MasterKeyError: the file cannot be read, or is empty.
    """
    try:
        text = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise MasterKeyError(f"TOKEN_WORKER_VAULT_{name}: {path} cannot be read") from None
    if not text:
        raise MasterKeyError(f"TOKEN_WORKER_VAULT_{name}: {path} is empty")
    return text
