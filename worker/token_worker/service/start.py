"""Puts a worker together from its settings; waits for servers that are away."""

from collections.abc import Callable
from typing import TypeVar

import structlog

from token_worker.errors import SettingsError, Unavailable
from token_worker.keys import master
from token_worker.keys.cache import KeyCache
from token_worker.keys.store import KeyStore, RedisKeyStore, VaultKeyStore
from token_worker.keys.vault import Vault
from token_worker.redis_link import RedisLink
from token_worker.service.handler import Handler
from token_worker.service.loop import BackOff, Drain, Worker
from token_worker.settings import Settings
from token_worker.storage.tokens import TokenStorage
from token_worker.streams.delivery import Delivery
from token_worker.streams.retention import Retention

log = structlog.get_logger("start")

T = TypeVar("T")


class KeyAccess:
    """The master key and the key storage, from wherever the settings say they are."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._vault = Vault(settings.vault) if settings.vault is not None else None

    def connect(self) -> tuple[bytes, KeyStore]:
        """The master key, and where the sealed keys are.

        Raises:
            Unavailable: Vault is away.
            MasterKeyError, SettingsError: a person has to mend something.
        """
        settings, vault = self._settings, self._vault
        if vault is not None and "vault" in (settings.master_key_source, settings.keys_source):
            vault.connect()
        if settings.master_key_source == "vault":
            master_key = master.from_vault(_set(vault))
        else:
            master_key = master.from_environment(settings.master_key, settings.master_key_file)
        if settings.keys_source == "vault":
            mount, _ = _set(vault).split(_set(settings.vault).secret)
            return master_key, VaultKeyStore(_set(vault), mount, settings.keys_folder)
        return master_key, RedisKeyStore(RedisLink("keys", settings.keys), settings.keys_folder)

    def keep_alive(self) -> None:
        """Renew the Vault token in the background, where keys are read from Vault later on."""
        if self._vault is not None and "vault" in (self._settings.master_key_source, self._settings.keys_source):
            self._vault.keep_alive()

    def close(self) -> None:
        """Give back what was got by log-in."""
        if self._vault is not None:
            self._vault.close()


def serve(settings: Settings) -> None:
    """Run one worker until SIGTERM or SIGINT.

    Raises:
        GiveUp: settings, master key or rights need a person.
    """
    drain = Drain(settings.drain_seconds)
    drain.listen()
    log.info(
        "worker starts",
        consumer=settings.consumer,
        group=settings.group,
        routes=[route.requests for route in settings.routes],
    )
    if settings.streams_and_storage_share_server:
        log.warning("streams and key or token storage are on one server; set TOKEN_WORKER_KEYS_URL to one of their own")
    access = KeyAccess(settings)
    try:
        connected = _wait_for(access.connect, drain)
        if connected is None:
            return
        access.keep_alive()
        master_key, key_store = connected
        streams = RedisLink("streams", settings.streams, refusals=True)
        tokens = TokenStorage(RedisLink("tokens", settings.tokens))
        delivery = Delivery(
            settings.routes,
            settings.group,
            settings.consumer,
            batch_size=settings.batch_size,
            claim_idle_ms=settings.claim_idle_ms,
            max_deliveries=settings.max_deliveries,
        )
        handler = Handler(settings, KeyCache(key_store, master_key), tokens)
        log.info("worker is ready")
        retention = Retention(settings.routes, settings.group, settings.consumer)
        Worker(settings, streams, delivery, handler, tokens, retention, drain).run()
    finally:
        access.close()


def _wait_for(connect: Callable[[], T], drain: Drain) -> T | None:
    """What ``connect`` gives, as soon as it does; None when asked to drain before."""
    back_off = BackOff(lambda: drain.is_asked)
    while not drain.is_asked:
        try:
            return connect()
        except Unavailable as error:
            back_off.wait(error)
    return None


def _set(setting: T | None) -> T:
    if setting is None:
        raise SettingsError("VAULT_ADDR: is needed where the master key or keys are in Vault")
    return setting
