"""The master key: the key that opens all other keys. It comes from the environment, a file, or a secret in Vault.

It is base64 text of at least 32 bytes, as Acra requires. The bytes are used as they are. Line breaks in the text are
ignored, as Acra does. No error contains any part of the text or of the key.
"""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from token_worker.acra import secure_cell
from token_worker.errors import CorruptData, MasterKeyError, VaultRefused

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


class MasterKeyVersion(NamedTuple):
    """A master key, and the number of its version in its source; 0 if the source has no versions."""

    key: bytes
    number: int = 0

    def __repr__(self) -> str:
        return f"MasterKeyVersion(number={self.number})"


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
    """The newest master key in Vault; errors as by ``VaultMasterKey``."""
    return VaultMasterKey(vault).read().key


class VaultMasterKey:
    """The master key in the field ``acra_master_key`` of the secret that the settings of ``vault`` name.

    All methods, and making one, raise:
        Unavailable: Vault is away, sealed or on standby.
        MasterKeyError: the secret or its field does not exist, may not be read, or does not hold a master key.
    """

    def __init__(self, vault: "VaultKv") -> None:
        self._vault = vault
        self.mount, self.path = vault.split(vault.session.settings.secret)

    def read(self) -> MasterKeyVersion:
        """Read the newest version by one request."""
        mount, path = self.mount, self.path
        try:
            found = self._vault.read_version(mount, path)
        except MasterKeyError:
            _check_for_data(self._vault, mount, path)
            raise
        if found is None:
            _check_for_data(self._vault, mount, path)
            raise VaultRefused(
                f"Vault has no secret {mount}/{path}: put the master key there (base64, from standard input) with"
                f" `vault kv put -mount={mount} {path} {FIELD}=-`, or set TOKEN_WORKER_VAULT_SECRET"
            )
        try:
            return MasterKeyVersion(_in_secret(found.fields, mount, path), found.number)
        except MasterKeyError as error:
            raise VaultRefused(str(error)) from None

    def holds(self, version: MasterKeyVersion) -> bool:
        """Tell whether an older version still has this key. That takes one request, unless the key may be gone.

        Then all versions are looked at: its number goes first if other fields of the secret change often.
        """
        if self._key_of(version.number) == version.key:
            return True
        return any(older.key == version.key for older in self.older(self.read()))

    def previous(self, newest: MasterKeyVersion) -> MasterKeyVersion | None:
        """The newest older version with another key; None if there is none.

        Versions that do not hold a master key, or were deleted, are skipped. KV 1 has only one version.
        """
        return next((version for version in self.older(newest) if version.key != newest.key), None)

    def older(self, newest: MasterKeyVersion) -> Iterator[MasterKeyVersion]:
        """Older versions that hold a master key, the newest first."""
        for number in range(newest.number - 1, max(0, newest.number - VERSIONS_SEARCHED_MAX), -1):
            key = self._key_of(number)
            if key is not None:
                yield MasterKeyVersion(key, number)

    def _key_of(self, number: int) -> bytes | None:
        older = self._vault.read_version(self.mount, self.path, number)
        if older is None:
            return None
        try:
            return _in_secret(older.fields, self.mount, self.path)
        except MasterKeyError:
            return None


class FileMasterKey:
    """The master key in the file that ``ACRA_MASTER_KEY_FILE`` names. It may be replaced while workers run."""

    def __init__(self, file: str) -> None:
        self._file = file

    def read(self) -> MasterKeyVersion:
        """Read the file; errors as by ``from_environment``."""
        return MasterKeyVersion(from_environment(None, self._file))

    def holds(self, version: MasterKeyVersion) -> bool:  # noqa: ARG002 - it has no older ones
        """Keep the previous master key: nothing tells when it is not needed any more."""
        return True


def previous_from_vault(vault: "VaultKv", current: bytes) -> bytes | None:
    """The master key before ``current``, from the older versions of its secret. None if there is no other key."""
    source = VaultMasterKey(vault)
    found = source.previous(MasterKeyVersion(current, source.read().number))
    return None if found is None else found.key


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
