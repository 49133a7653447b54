"""Access to the master keys and to the key storage for commands that change keys."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from token_worker.admin.key_store import AdminStore, RedisAdminStore, VaultAdminStore
from token_worker.errors import MasterKeyError, Unavailable, in_words
from token_worker.keys import master
from token_worker.keys.access import KeyAccess, required
from token_worker.keys.master import MasterKeys, VaultMasterKey
from token_worker.redis.connect import make_primary_link
from token_worker.storage.durability import CONFIRM_MS, Durability, DurabilityBarrier, NoBarrier


class AdminAccess(KeyAccess):
    """``KeyAccess`` for operators, who can also change keys and replace the master key."""

    def connect_admin(self) -> tuple[MasterKeys, AdminStore]:
        """Return the master keys, and the key storage for commands that change keys. Errors as by ``connect``."""
        current, _ = self.connect()
        return MasterKeys(current, self.previous_master_key), self.admin_store()

    def connect_names(self) -> AdminStore:
        """Return the key storage for a command that needs no master key. Errors as by ``connect``."""
        if self._settings.keys_source == "vault":
            required(self._vault).session.connect()
        return self.admin_store()

    def replace_master_key(self, current: bytes) -> None:
        """Store a new master key in its secret in Vault, and read it back.

        Raises:
            Unavailable: Vault is away. The new key may have been stored.
            MasterKeyError: a right is missing, or the secret does not hold ``current`` any more.
        """
        vault, new = required(self._vault), os.urandom(master.MASTER_KEY_BYTES_MIN)
        if not master.store_in_vault(vault, current, new) or master.from_vault(vault) != new:
            raise MasterKeyError("the master key in Vault was changed meanwhile; run the command again")

    def drop_previous_master_keys(self, current: bytes) -> list[int]:
        """Delete the older versions of the secret in Vault that hold another master key. Returns their numbers.

        Raises:
            Unavailable: Vault is away. Versions may have been deleted.
            MasterKeyError: a right is missing, or the secret does not hold ``current`` any more: nothing was deleted.
        """
        vault = required(self._vault)
        secret = VaultMasterKey(vault)
        newest = secret.read()
        if newest.key != current:  # then ``current`` is a previous one, and still seals all keys
            raise MasterKeyError("the master key in Vault was changed meanwhile; run the command again")
        numbers = [older.number for older in secret.older(newest) if older.key != newest.key]
        if numbers:
            vault.delete_versions(secret.mount, secret.path, numbers)
        return numbers

    @contextmanager
    def confirmed(self) -> Iterator[None]:
        """Hold a command until replicas have the keys that it stores, if the settings ask for replicas.

        A key storage with fewer replicas needs all of those that are connected. Vault waits by itself.

        Raises:
            Unavailable: they were not confirmed in time, or the key storage is away.
            SettingsError, ServerError: a right is missing; nothing was changed.
        """
        barrier = self._barrier()
        barrier.check_server()
        barrier.open()
        yield
        try:
            barrier.wait()
        except Unavailable as error:
            words = (
                f"{in_words(error.reason)}: the keys are stored, but a fail-over may lose them until replicas have them"
            )
            raise Unavailable(error.server, error.reason, error.address, words) from None

    def _barrier(self) -> DurabilityBarrier:
        settings = self._settings
        wanted = Durability.parse(settings.durability).replicas
        if not wanted or settings.keys_source == "vault":
            return NoBarrier()
        link = make_primary_link("keys", settings.keys, raise_server_errors=True)
        role, _, replicas, *_ = link.call("ROLE")
        wanted = min(wanted, len(replicas)) if role == b"master" else 0
        return DurabilityBarrier(link, Durability(replicas=wanted), CONFIRM_MS) if wanted else NoBarrier()

    def admin_store(self) -> AdminStore:
        """Return the key storage for commands, after one of the other methods has connected."""
        settings = self._settings
        if settings.keys_source == "vault":
            vault = required(self._vault)
            mount, _ = vault.split(vault.session.settings.secret)
            return VaultAdminStore(vault, mount, settings.keys_folder)
        return RedisAdminStore(make_primary_link("keys", settings.keys, raise_server_errors=True), settings.keys_folder)
