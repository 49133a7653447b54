"""Access to the master keys and to the key storage for commands that change keys."""

import os

from token_worker.admin.key_store import AdminStore, RedisAdminStore, VaultAdminStore
from token_worker.errors import MasterKeyError
from token_worker.keys import master
from token_worker.keys.access import KeyAccess, required
from token_worker.keys.master import MasterKeys
from token_worker.redis.connect import make_primary_link


class AdminAccess(KeyAccess):
    """``KeyAccess`` for operators: it can also change keys, and replace the master key."""

    def connect_admin(self) -> tuple[MasterKeys, AdminStore]:
        """The master keys, and the key storage for commands that change keys; errors as by ``connect``."""
        current, _ = self.connect()
        return MasterKeys(current, self.previous_master_key), self._admin_store()

    def connect_names(self) -> AdminStore:
        """The key storage for a command that needs no master key; errors as by ``connect``."""
        if self._settings.keys_source == "vault":
            required(self._vault).session.connect()
        return self._admin_store()

    def replace_master_key(self, current: bytes) -> None:
        """Put a new master key into its secret in Vault, and see that it is there.

        Raises:
            Unavailable: Vault is away; a new one may have been stored.
            MasterKeyError: a right is missing, or it is another by now.
        """
        vault, new = required(self._vault), os.urandom(master.MASTER_KEY_BYTES_MIN)
        if not master.store_in_vault(vault, current, new) or master.from_vault(vault) != new:
            raise MasterKeyError("the master key in Vault was changed by somebody else meanwhile; look again")

    def _admin_store(self) -> AdminStore:
        settings = self._settings
        if settings.keys_source == "vault":
            vault = required(self._vault)
            mount, _ = vault.split(vault.session.settings.secret)
            return VaultAdminStore(vault, mount, settings.keys_folder)
        return RedisAdminStore(make_primary_link("keys", settings.keys, refusals=True), settings.keys_folder)
