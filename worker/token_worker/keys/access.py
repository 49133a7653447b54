"""Access to the master key and to the key storage."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Self, TypeVar

from token_worker.errors import SettingsError
from token_worker.keys import master
from token_worker.keys.store import KeyStore, RedisKeyStore, VaultKeyStore
from token_worker.redis.connect import make_primary_link
from token_worker.settings.options import Settings

if TYPE_CHECKING:
    from token_worker.keys.vault import Vault

T = TypeVar("T")


class KeyAccess:
    """The master key and the key storage, from wherever the settings say they are."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.previous_master_key: bytes | None = None
        """The master key before the one that ``connect`` gave, while one is replaced by the other."""
        self._vault: Vault | None = None
        if settings.vault is not None:
            from token_worker.keys import vault  # noqa: PLC0415 - 7 MiB that only workers with Vault need

            self._vault = vault.Vault(settings.vault)

    @property
    def vault(self) -> "Vault | None":
        """The session with Vault, where the master key or keys come from there."""
        is_used = "vault" in (self._settings.master_key_source, self._settings.keys_source)
        return self._vault if is_used else None

    def connect(self, progress: Callable[[int], object] | None = None) -> tuple[bytes, KeyStore]:
        """The master key, and where the sealed keys are; ``progress`` as by ``RedisKeyStore``.

        Raises:
            Unavailable: Vault is away.
            MasterKeyError, SettingsError: a person has to mend something.
        """
        settings, vault = self._settings, self._vault
        if self.vault is not None:
            self.vault.connect()
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
        """Renew the Vault token in the background, where keys are read from Vault later on."""
        if self.vault is not None:
            self.vault.keep_alive()

    def close(self) -> None:
        """Give back what was got by log-in."""
        if self._vault is not None:
            self._vault.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def required(setting: T | None) -> T:
    """The setting, or an error that names the missing address of Vault."""
    if setting is None:
        raise SettingsError("VAULT_ADDR: is needed where the master key or keys are in Vault")
    return setting
