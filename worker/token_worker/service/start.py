"""Puts a worker together from its settings; waits for servers that are away."""

import gc
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import structlog
from prometheus_client import CollectorRegistry, ProcessCollector

from token_worker import __version__
from token_worker.acra.owner import Owner
from token_worker.errors import NoKeyOpens, SettingsError, Unavailable, VaultRefused
from token_worker.keys.access import KeyAccess
from token_worker.keys.background import ThreadExecutor
from token_worker.keys.cache import KeyCache
from token_worker.keys.layout_record import LayoutName
from token_worker.keys.layout_watch import LayoutWatch
from token_worker.keys.live_master_keys import LiveMasterKeys
from token_worker.keys.sample import try_sample
from token_worker.keys.store import KeyStore, ListedKeyStore, RedisKeyStore
from token_worker.redis.cluster_pipeline import ClusterPipeline
from token_worker.redis.connect import make_link, make_tokens_link
from token_worker.service import hangup
from token_worker.service.committer import Committer
from token_worker.service.handler import Handler
from token_worker.service.maintenance import Maintenance
from token_worker.service.note_writer import NoteWriter
from token_worker.service.outage import Drain, Outage
from token_worker.service.runtime import REAL, Runtime
from token_worker.service.state import WorkerState, servers_of
from token_worker.service.worker import Worker
from token_worker.settings.options import Settings
from token_worker.storage.cluster_durability import ClusterBarrier
from token_worker.storage.cluster_tokens import ClusterTokenStorage
from token_worker.storage.durability import Durability, DurabilityBarrier, NoBarrier
from token_worker.storage.layout import Layout
from token_worker.storage.make_layout import make_layout
from token_worker.storage.token_store import TokenStore
from token_worker.storage.tokens import TokenStorage
from token_worker.streams.clock import ServerClock
from token_worker.streams.cluster_delivery import ClusterDelivery
from token_worker.streams.delivery import EXHAUSTED, Delivery
from token_worker.streams.delivery_protocol import DeliveryProtocol
from token_worker.streams.entry import Entry
from token_worker.streams.retention import Retention
from token_worker.streams.routes import Route, by_slot
from token_worker.streams.worker_notes import WorkerNotes
from token_worker.telemetry.audit import Audit
from token_worker.telemetry.health import Health
from token_worker.telemetry.health import serve as serve_http
from token_worker.telemetry.metrics import Metrics
from token_worker.telemetry.telemetry import Telemetry
from token_worker.telemetry.tracing import find_tracer

if TYPE_CHECKING:
    from token_worker.telemetry.spans import Spans

log = structlog.get_logger("start")

T = TypeVar("T")

GARBAGE_OBJECTS = 50_000
"""New objects after which cycles are looked for: a few batches. The work makes none, only errors do."""

REFUSED_SECONDS = 15.0
"""Least pause before a Vault that refuses is asked again, up to one half shorter: it may lock out a frequent caller."""

ABSENT_LOOKUPS_PER_SECOND = 200.0
"""Names without a key that Vault is asked for: a request each. Redis is asked for all of a batch at once."""


def serve(settings: Settings) -> None:
    """Run one worker until SIGTERM or SIGINT.

    Raises:
        OperatorError: settings, master key or rights need a person.
    """
    drain = Drain(settings.drain_seconds)
    drain.listen()
    audit = Audit(settings.consumer, settings.audit_file)
    hangup.listen(drain, audit.reopen)
    access = KeyAccess(settings)
    _log_start(settings, access)
    if settings.streams_and_storage_share_server:
        log.warning("streams and storage share one server: give the streams another")
    keys: KeyCache | None = None
    master_keys: LiveMasterKeys | None = None

    def trouble() -> str | None:
        if drain.is_asked:
            return "draining"
        if keys is not None and keys.away is not None:
            return str(keys.away)
        return None if master_keys is None else master_keys.trouble

    metrics = Metrics(CollectorRegistry(), [route.requests for route in settings.routes])
    health = Health(settings.claim_idle_ms / 1000, trouble)
    vault = access.vault
    state = WorkerState(servers_of(settings), health, None if vault is None else lambda: vault.session.seconds_left)
    metrics.registry.register(state)
    ProcessCollector(registry=metrics.registry)
    if settings.http_address is not None:
        serve_http(settings.http_address, health, metrics.registry)
    telemetry = Telemetry(metrics, health, audit, _spans(settings))
    streams = _streams(settings, drain, telemetry, state)
    start = _Start(streams.outage, health, streams.maintenance.tend)
    try:
        _, key_store = start.wait_for(access.connect)
        access.keep_alive()
        if isinstance(key_store, RedisKeyStore):
            state.count_connections("keys", lambda: key_store.connections)
        watch = _layout_watch(settings, state)
        tokens = _token_storage(settings, watch, start.wait_for(lambda: watch.choose(key_store)))
        start.wait_for(tokens.barrier.open)
        if access.previous_master_key is not None:
            log.warning("two master keys loaded: keys sealed with the previous one are read, too")
        master_keys = access.live_master_keys(ThreadExecutor("master key"))
        start.wait_for(lambda: _try_keys(settings, access, key_store, master_keys))
        keys = state.keys = _key_cache(settings, key_store, master_keys, tokens.layout)
        worker = _worker(settings, keys, tokens, streams, telemetry, state)
        gc.collect()
        gc.freeze()  # what is here now stays
        gc.set_threshold(GARBAGE_OBJECTS, *gc.get_threshold()[1:])
        worker.run()
    except _DrainedAtStart:
        streams.maintenance.remove_notes()
    finally:
        if keys is not None:
            keys.close()
        access.close()


def _log_start(settings: Settings, access: KeyAccess) -> None:
    """Say what this worker is, and which servers it will ask. No address has a password here."""
    log.info(
        "worker starts",
        version=__version__,
        group=settings.group,
        consumer=settings.consumer,
        routes=[route.requests for route in settings.routes],
        streams=settings.streams.url,
        tokens=settings.tokens.url,
        keys=access.keys_place,
        keys_folder=settings.keys_folder,
        master_key=access.master_key_place,
        durability=settings.durability,
    )


def _try_keys(settings: Settings, access: KeyAccess, store: ListedKeyStore, master_keys: LiveMasterKeys) -> None:
    """Try a sample of keys; errors as by ``try_sample``. If none opens, the master key is read again, when it may."""
    pinned = {Owner("client", route.client_id): None for route in settings.routes if route.client_id is not None}
    zones = {Owner("zone", zone): None for route in settings.routes for zone in route.zones or ()}
    master_keys.poll()
    folder, where, owners = settings.keys_folder, access.keys_place, [*pinned, *zones]
    try:
        found = try_sample(store, master_keys, owners, folder=folder, where=where, master_key=access.master_key_place)
    except NoKeyOpens:
        master_keys.ask_again()
        raise
    if found == "none":
        log.warning("no client key was seen: token-worker keys generate makes the first", folder=folder, where=where)
    elif found == "unseen":
        log.info("client keys are tried when they are used: one look found none", folder=folder, where=where)


def _key_cache(settings: Settings, store: KeyStore, master_keys: LiveMasterKeys, layout: Layout) -> KeyCache:
    return KeyCache(
        store,
        master_keys,
        lookups=ThreadExecutor("keys"),
        history=ThreadExecutor("key history"),
        absent_lookups_per_second=ABSENT_LOOKUPS_PER_SECOND if settings.keys_source == "vault" else float("inf"),
        settling_seconds=settings.key_settling_seconds,
        with_index=layout.has_index_keys,
    )


class _Streams(NamedTuple):
    """The parts of a worker for the streams' server. They need no key, and connect when they are used first."""

    delivery: DeliveryProtocol
    clock: ServerClock
    outage: Outage
    committer: Committer
    maintenance: Maintenance
    runtime: Runtime


def _streams(settings: Settings, drain: Drain, telemetry: Telemetry, state: WorkerState) -> _Streams:
    runtime = REAL._replace(log=REAL.log.bind())  # the log is set up by now: a line need not look up how, each time
    clock = ServerClock()
    delivery = _delivery(settings, lambda entry: committer.note_dead_letter(entry, EXHAUSTED))
    is_apart = settings.streams.kind == "cluster"
    names = settings.routes, settings.group, settings.consumer
    outage = Outage(drain, telemetry.health, runtime)
    link = make_link("streams", settings.streams, raise_server_errors=True)
    state.count_connections("streams", lambda: link.connections)
    committer = Committer(link, delivery, clock, outage, telemetry, runtime)
    notes = NoteWriter(WorkerNotes(*names, is_apart=is_apart), settings.routes, telemetry.health, clock.now, runtime)
    maintenance = Maintenance(Retention(*names, is_apart=is_apart), delivery, committer, runtime, notes)
    return _Streams(delivery, clock, outage, committer, maintenance, runtime)


def _worker(
    settings: Settings,
    keys: KeyCache,
    tokens: TokenStore,
    streams: _Streams,
    telemetry: Telemetry,
    state: WorkerState,
) -> Worker:
    delivery, clock, outage, committer, maintenance, runtime = streams
    handler = Handler(settings, keys, tokens, server_now=clock.now)
    worker = Worker(settings, delivery, handler, tokens, committer, maintenance, outage, telemetry, runtime)
    state.has_routes_away = lambda: worker.has_routes_away
    return worker


def _delivery(settings: Settings, note_unread: Callable[[Entry], object]) -> DeliveryProtocol:
    def of(routes: Sequence[Route]) -> Delivery:
        return Delivery(
            routes,
            settings.group,
            settings.consumer,
            batch_size=settings.batch_size,
            claim_idle_ms=settings.claim_idle_ms,
            max_deliveries=settings.max_deliveries,
            note_unread=note_unread,
        )

    groups = by_slot(settings.routes) if settings.streams.kind == "cluster" else [settings.routes]
    return of(*groups) if len(groups) == 1 else ClusterDelivery(groups, of)


def _layout_watch(settings: Settings, state: WorkerState) -> LayoutWatch:
    link = make_tokens_link(settings.tokens, waits_for_disk=settings.durability == "fsync")
    state.count_connections("tokens", lambda: link.connections)
    return LayoutWatch(settings.layout, link)


def _token_storage(settings: Settings, watch: LayoutWatch, layout: LayoutName) -> TokenStore:
    link, durability, most_ms = watch.link, Durability.parse(settings.durability), settings.claim_idle_ms // 3
    if not isinstance(link, ClusterPipeline):
        barrier = DurabilityBarrier(link, durability, most_ms) if any(durability) else NoBarrier()
        return TokenStorage(link, barrier, make_layout(layout, has_foreign=watch.has_foreign))
    if layout == "acra":
        raise SettingsError(
            "TOKEN_WORKER_TOKENS_URL: is that of a cluster, but tokens in Acra's layout need one primary:"
            " set the address of a server or of Sentinels"
        )
    in_cluster = ClusterBarrier(link, durability, most_ms) if any(durability) else None
    return ClusterTokenStorage(link, make_layout(layout, has_foreign=watch.has_foreign), in_cluster)


def _spans(settings: Settings) -> "Spans | None":
    tracer = find_tracer()
    if tracer is None:
        return None
    from token_worker.telemetry.spans import Spans  # noqa: PLC0415 - of the extra "otel"

    log.info("tracing enabled: traced requests get spans")
    return Spans(tracer, settings)


class _DrainedAtStart(Exception):  # noqa: N818 - no error: somebody asked for it
    """The worker was asked to drain before all servers were available."""


class _Start(NamedTuple):
    """The start of a worker: waits for what it needs.

    Attributes:
        outage: waits while a server is unavailable.
        health: told that the worker is not ready.
        waiting: called while it waits: the streams are trimmed, and the notes written.
    """

    outage: Outage
    health: Health
    waiting: Callable[[], object]

    def wait_for(self, connect: Callable[[], T]) -> T:
        """Call ``connect`` until the server is available, and return its result.

        A Vault that refuses is asked again, too: it is mended there, not here.

        Raises:
            _DrainedAtStart: the worker was asked to drain meanwhile.
        """
        failed = set[str]()
        while not self.outage.drain.is_asked:
            try:
                result = connect()
            except Unavailable as error:
                failed.add(error.server)
                self.outage.idle.wait(error, self.waiting)
            except VaultRefused as error:
                failed.add("vault")
                refusal = Unavailable("vault", str(error))
                self.outage.idle.wait(refusal, self.waiting, least_seconds=REFUSED_SECONDS)
            else:
                self.outage.returned(*failed)
                self.health.not_ready("starting")
                return result
        raise _DrainedAtStart
