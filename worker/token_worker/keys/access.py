"""Access to the master key and to the key storage."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Self, TypeVar

from token_worker.errors import SettingsError
from token_worker.keys import master
from token_worker.keys.store import KeyStore, RedisKeyStore, VaultKeyStore
from token_worker.redis.connect import make_primary_link
from token_worker.settings.options import Settings
from token_worker.settings.vault import VaultSettings

if TYPE_CHECKING:
    from token_worker.keys.vault_kv import VaultKv

T = TypeVar("T")


class KeyAccess:
    """The master key and the key storage, from the places that the settings name.

    Attributes:
        previous_master_key: the master key before the one that ``connect`` returned, while one replaces the other.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.previous_master_key: bytes | None = None
        self._vault = None if settings.vault is None else _vault_kv(settings.vault)

    @property
    def vault(self) -> "VaultKv | None":
        """Vault, if the master key or the keys come from there."""
        is_used = "vault" in (self._settings.master_key_source, self._settings.keys_source)
        return self._vault if is_used else None

    def connect(self, progress: Callable[[int], object] | None = None) -> tuple[bytes, KeyStore]:
        """Return the master key and the storage of the sealed keys; ``progress`` as by ``RedisKeyStore``.

        Raises:
            Unavailable: Vault is away.
            MasterKeyError, SettingsError: a person has to change something.
        """
        settings, vault = self._settings, self._vault
        if self.vault is not None:
            self.vault.session.connect()
        if settings.master_key_source == "vault":
            master_key = master.from_vault(required(vault))
        else:
            master_key = master.from_environment(settings.master_key, settings.master_key_file)
        if settings.master_key_previous is not None:
            previous = master.decode_master_key(settings.master_key_previous, "ACRA_MASTER_KEY_PREVIOUS")
            self.previous_master_key = None if previous == master_key else previous
        elif settings.master_key_source == "vault":
            self.previous_master_key = master.previous_from_vault(required(vault), master_key)
        if settings.keys_source == "vault":
            mount, _ = required(vault).split(required(settings.vault).secret)
            return master_key, VaultKeyStore(required(vault), mount, settings.keys_folder)
        link, history = (make_primary_link("keys", settings.keys) for _ in range(2))
        return master_key, RedisKeyStore(link, settings.keys_folder, history=history, progress=progress)

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
