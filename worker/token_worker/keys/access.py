"""Access to the master key and to the key storage."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Self, TypeVar

from token_worker.errors import SettingsError
from token_worker.keys import master
from token_worker.keys.background import Executor
from token_worker.keys.live_master_keys import LiveMasterKeys, MasterKeySource
from token_worker.keys.master import FileMasterKey, MasterKeys, MasterKeyVersion, VaultMasterKey
from token_worker.keys.store import ListedKeyStore, RedisKeyStore, VaultKeyStore
from token_worker.redis.connect import make_primary_link
from token_worker.settings.options import Settings
from token_worker.settings.vault import VaultSettings

if TYPE_CHECKING:
    from token_worker.keys.vault_kv import VaultKv

T = TypeVar("T")

_NEVER_GOES = -1
"""Stands for the version of a previous master key that a setting holds."""


class KeyAccess:
    """The master key and the key storage, from the places that the settings name.

    Attributes:
        previous_master_key: the master key before the one that ``connect`` returned, while one replaces the other.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.previous_master_key: bytes | None = None
        self._newest: MasterKeyVersion | None = None
        self._older: MasterKeyVersion | None = None
        self._source: MasterKeySource | None = None
        self._vault = None if settings.vault is None else _vault_kv(settings.vault)

    @property
    def vault(self) -> "VaultKv | None":
        """Vault, if the master key or the keys come from there."""
        is_used = "vault" in (self._settings.master_key_source, self._settings.keys_source)
        return self._vault if is_used else None

    def connect(self, progress: Callable[[int], object] | None = None) -> tuple[bytes, ListedKeyStore]:
        """Return the master key and the storage of the sealed keys; ``progress`` as by ``RedisKeyStore``.

        Raises:
            Unavailable: Vault is away.
            MasterKeyError, SettingsError: a person has to change something.
        """
        settings, vault = self._settings, self._vault
        if self.vault is not None:
            self.vault.session.connect()
        newest, older = self._read_master_keys()
        master_key, self.previous_master_key = newest.key, None if older is None else older.key
        self._newest, self._older = newest, older
        if settings.keys_source == "vault":
            mount, _ = required(vault).split(required(settings.vault).secret)
            return master_key, VaultKeyStore(required(vault), mount, settings.keys_folder)
        link, history = (make_primary_link("keys", settings.keys) for _ in range(2))
        return master_key, RedisKeyStore(link, settings.keys_folder, history=history, progress=progress)

    def _read_master_keys(self) -> tuple[MasterKeyVersion, MasterKeyVersion | None]:
        settings, older = self._settings, None
        if settings.master_key_source == "vault":
            secret = VaultMasterKey(required(self._vault))
            newest = secret.read()
            self._source = secret
            older = secret.previous(newest) if settings.master_key_previous is None else None
        else:
            newest = MasterKeyVersion(master.from_environment(settings.master_key, settings.master_key_file))
            self._source = None if settings.master_key_file is None else FileMasterKey(settings.master_key_file)
        if settings.master_key_previous is not None:
            previous = master.decode_master_key(settings.master_key_previous, "ACRA_MASTER_KEY_PREVIOUS")
            older = None if previous == newest.key else MasterKeyVersion(previous, _NEVER_GOES)
        return newest, older

    def live_master_keys(self, executor: Executor) -> LiveMasterKeys:
        """The master keys that ``connect`` has read, and will read again by ``executor`` if a key does not open."""
        newest, older = required(self._newest), self._older
        return LiveMasterKeys(
            MasterKeys(newest.key, self.previous_master_key),
            self._source,
            version=newest.number,
            previous_version=None if older is None or older.number == _NEVER_GOES else older.number,
            executor=executor,
        )

    @property
    def master_key_place(self) -> str:
        """The place of the master key, for people."""
        settings = self._settings
        if settings.master_key_source == "vault":
            vault = required(settings.vault)
            return f"the secret {vault.secret} in Vault at {vault.address}"
        return "ACRA_MASTER_KEY" if settings.master_key_file is None else f"the file {settings.master_key_file}"

    @property
    def keys_place(self) -> str:
        """The server of the keys, for people."""
        settings = self._settings
        return f"Vault at {required(settings.vault).address}" if settings.keys_source == "vault" else settings.keys.url

    def keep_alive(self) -> None:
        """Renew the Vault token in the background, if Vault is used."""
        if self.vault is not None:
            self.vault.session.keep_alive()

    def close(self) -> None:
        """End the session with Vault; a token from a log-in is revoked."""
        if self._vault is not None:
            self._vault.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def required(setting: T | None) -> T:
    """Return a setting that is set; else raise an error that names the missing address of Vault."""
    if setting is None:
        raise SettingsError("VAULT_ADDR: is needed if the master key or the keys are in Vault")
    return setting


def _vault_kv(settings: VaultSettings) -> "VaultKv":
    from token_worker.keys.vault_kv import VaultKv  # noqa: PLC0415 - 7 MiB that only workers with Vault need

    return VaultKv(settings)
