"""The master key: the key that opens all other keys. It comes from the environment, a file, or a secret in Vault.

It is base64 text of at least 32 bytes, as Acra requires. The bytes are used as they are. Line breaks in the text are
ignored, as Acra does. No error contains any part of the text or of the key.
"""

import base64
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from token_worker.acra import secure_cell
from token_worker.errors import CorruptData, MasterKeyError

if TYPE_CHECKING:
    from token_worker.keys.vault_kv import VaultKv

MASTER_KEY_BYTES_MIN = 32
"""Shortest length of a master key."""

FIELD = "acra_master_key"
"""Field of the secret in Vault."""

VERSIONS_SEARCHED_MAX = 10
"""Versions of the secret in which the previous master key is searched: as many as Vault keeps by default."""


class MasterKeys(NamedTuple):
    """The master key and, while it is being replaced, the one before it."""

    current: bytes
    previous: bytes | None = None

    def __repr__(self) -> str:
        return f"MasterKeys({'one' if self.previous is None else 'two'})"

    def open(self, cell: bytes, context: bytes) -> tuple[bytes, bool]:
        """Open a cell. Returns the data, and True if the current master key opened it.

        Raises:
            CorruptData: neither master key opens the cell.
        """
        try:
            return secure_cell.open_cell(self.current, cell, context), True
        except CorruptData:
            if self.previous is None:
                raise
        return secure_cell.open_cell(self.previous, cell, context), False


def decode_master_key(text: str, where: str) -> bytes:
    """Decode a master key; ``where`` names its place (a variable, a file, a secret and its field) for errors.

    Raises:
        MasterKeyError: the text is not base64, or the key is shorter than 32 bytes.
    """
    try:
        key = base64.b64decode(text.strip().replace("\r", "").replace("\n", ""), validate=True)
    except ValueError:
        raise MasterKeyError(f"{where}: not base64") from None
    if len(key) < MASTER_KEY_BYTES_MIN:
        raise MasterKeyError(f"{where}: {len(key)} bytes, needs at least {MASTER_KEY_BYTES_MIN}")
    return key


def from_environment(value: str | None, file: str | None) -> bytes:
    """The master key from the value of ``ACRA_MASTER_KEY``, or from the file that ``ACRA_MASTER_KEY_FILE`` names.

    Raises:
        MasterKeyError: both or neither is given, the file cannot be read, or it holds no master key.
    """
    if value is not None and file is not None:
        raise MasterKeyError("both ACRA_MASTER_KEY and ACRA_MASTER_KEY_FILE are set: leave one out")
    if value is not None:
        return decode_master_key(value, "ACRA_MASTER_KEY")
    if file is None:
        raise MasterKeyError(
            "no master key: set ACRA_MASTER_KEY to it (base64), ACRA_MASTER_KEY_FILE to a file that holds it, or"
            " VAULT_ADDR to read it from Vault"
        )
    where = f"ACRA_MASTER_KEY_FILE ({file})"
    try:
        content = Path(file).read_bytes()
    except OSError as error:
        raise MasterKeyError(f"{where}: cannot be read ({error.strerror})") from None
    return decode_master_key(content.decode("latin-1"), where)  # text that is not ASCII is not base64 either


def from_vault(vault: "VaultKv") -> bytes:
    """The master key from the field ``acra_master_key`` of the secret that the settings of ``vault`` name.

    Raises:
        Unavailable: Vault is away, sealed or on standby.
        MasterKeyError: the secret or its field does not exist, may not be read, or does not hold a master key.
    """
    mount, path = vault.split(vault.session.settings.secret)
    try:
        secret = vault.read_secret(mount, path)
    except MasterKeyError:
        _check_for_data(vault, mount, path)
        raise
    if secret is None:
        _check_for_data(vault, mount, path)
        raise MasterKeyError(
            f"Vault has no secret {mount}/{path}: put the master key there (base64, from standard input) with"
            f" `vault kv put -mount={mount} {path} {FIELD}=-`, or set TOKEN_WORKER_VAULT_SECRET"
        )
    return _in_secret(secret, mount, path)


def previous_from_vault(vault: "VaultKv", current: bytes) -> bytes | None:
    """The master key before ``current``, from the older versions of its secret. None if there is no other key.

    Versions that do not hold a master key, or were deleted, are skipped. KV 1 has only one version.

    Raises:
        Unavailable: Vault is away, sealed or on standby.
        MasterKeyError: the secret may not be read.
    """
    mount, path = vault.split(vault.session.settings.secret)
    newest = vault.read_version(mount, path)
    if newest is None:
        return None
    for version in range(newest.number - 1, max(0, newest.number - VERSIONS_SEARCHED_MAX), -1):
        older = vault.read_version(mount, path, version)
        if older is None:
            continue
        try:
            key = _in_secret(older.fields, mount, path)
        except MasterKeyError:
            continue
        if key != current:
            return key
    return None


def store_in_vault(vault: "VaultKv", current: bytes, new: bytes) -> bool:
    """Replace the master key in its secret by check-and-set. All other fields stay.

    Returns False, and changes nothing, if the secret does not hold ``current`` any more.

    Raises:
        Unavailable: Vault is away, sealed or on standby. The new key may have been stored.
        MasterKeyError: the secret may not be read or written, or the mount is KV 1, which has no check-and-set.
    """
    mount, path = vault.split(vault.session.settings.secret)
    found = vault.read_version(mount, path)
    if found is None or _in_secret(found.fields, mount, path) != current:
        return False
    fields = {**found.fields, FIELD: base64.b64encode(new).decode()}
    return vault.write_version(mount, path, fields, found.number)


def _check_for_data(vault: "VaultKv", mount: str, path: str) -> None:
    """Refuse a path as the API has it, where the secret cannot be read. A secret may really have that name."""
    below = path.removeprefix("data/")
    if below != path and vault.is_versioned(mount):
        raise MasterKeyError(f"TOKEN_WORKER_VAULT_SECRET: leave data/ out: set it to {mount}/{below}")


def _in_secret(secret: dict[str, object], mount: str, path: str) -> bytes:
    where = f"Vault secret {mount}/{path}, field {FIELD}"
    if FIELD not in secret:
        raise MasterKeyError(f"{where}: no such field")
    text = secret[FIELD]
    if not isinstance(text, str):
        raise MasterKeyError(f"{where}: not base64")
    return decode_master_key(text, where)
