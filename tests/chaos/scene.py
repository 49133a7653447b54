"""The scene of every act: two servers, workers, requests and replies, and their ledger."""

import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Self

import redis

from chaos.traffic import REQUESTS, AnyPlanter, Collector, SteadyProducer
from harness.ending import uninterrupted
from harness.ledger import Ledger, order
from harness.planter import DensePlanter, Planter
from harness.servers import Valkey
from harness.stack import GROUP, Stack, wait_until
from token_worker.acra.owner import Owner
from token_worker.keys.index_key import index_path, open_index_key
from token_worker.keys.layout_record import LayoutName

CLIENTS = ("shop-frontend", "shop-backoffice")

KEPT = ("appendonly yes", "appendfsync always")
"""A server that keeps what it has acknowledged."""

SETTINGS = {
    "TOKEN_WORKER_CLAIM_IDLE_MS": "1000",
    "TOKEN_WORKER_BATCH_SIZE": "20",
    "TOKEN_WORKER_MAX_DELIVERIES": "1000",
}
"""Settings of all workers. Entries of dead workers are taken over soon. The kills may hit one entry often: with the
default of 5 tries it would become a dead letter, like an entry that kills its workers."""

SETTLE_SECONDS = 120.0
"""Time for workers to answer the remaining requests after the faults have ended."""


class Crew:
    """Threads that work until the crew is stopped. The first error stops all threads, and is raised by the crew."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self._errors: list[BaseException] = []
        self._threads: list[threading.Thread] = []

    def start(self, work: Callable[[threading.Event], None]) -> None:
        """Run ``work`` in a thread; the event that it gets is set when it has to stop."""

        def run() -> None:
            try:
                work(self.over)
            except BaseException as error:  # noqa: BLE001 - raised by check
                self._errors.append(error)
                self.over.set()

        thread = threading.Thread(target=run, daemon=True)
        self._threads.append(thread)
        thread.start()

    def check(self) -> None:
        """Raises the first error."""
        if self._errors:
            raise self._errors[0]

    def stop(self) -> None:
        """Tell all to stop and wait for them; raises the first error."""
        self.over.set()
        with uninterrupted():  # they could start what nobody would stop
            for thread in self._threads:
                thread.join()
        self.check()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()


class Scene:
    """Servers, workers and traffic of one act.

    Args:
        streams, storage: servers that run.
        settings: of the workers, besides ``SETTINGS``.
        rate: requests a second.
        keep_requests: check second replies, too.
        layout: of the tokens.
    """

    def __init__(
        self,
        streams: Valkey,
        storage: Valkey,
        rng: random.Random,
        *,
        settings: dict[str, str] | None = None,
        rate: int,
        keep_requests: bool = False,
        layout: LayoutName,
    ) -> None:
        self.streams_server = streams
        self.storage_server = storage
        self.stack = Stack(streams, storage, settings={**SETTINGS, **(settings or {})}, layout=layout)
        self.ledger = Ledger(keep_requests=keep_requests)
        self.producer = SteadyProducer(self.ledger, self.connect, rng, rate)
        self.collector = Collector(self.ledger, self.connect)
        for client_id in CLIENTS:
            self.producer.add_client(client_id, self.make_client(client_id))

    def connect(self) -> Any:
        """A connection to the server of the streams that waits for it as long as it takes."""
        return self.streams_server.client(socket_timeout=None)

    def make_client(self, client_id: str) -> AnyPlanter:
        """Make a client's keys in the key storage."""
        storage, key = self.stack.storage, self.stack.generate_key(client_id)
        if self.stack.layout == "acra":
            return Planter(storage, client_id, key)
        owner = Owner("client", client_id)
        sealed = storage.get(index_path(".acrakeys", owner))
        return DensePlanter(storage, client_id, key, open_index_key(sealed, self.stack.master_key, owner))

    @contextmanager
    def traffic(self) -> Iterator[Crew]:
        """Requests for as long as the body runs, and longer until all of them are answered and detokenized."""
        with Crew() as collecting, Crew() as producing:
            collecting.start(self.collector.work)
            producing.start(self.producer.work)
            yield producing
            producing.stop()
            wait_until(lambda: self.producer.send([]), "the server of the streams")  # nothing is in doubt then
            self.settle()
            self.ledger.close()
            self.producer.detokenize_all(collecting.over)
            self.settle()
            collecting.stop()
        self.ledger.close()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Stop all workers by SIGSTOP within the block, whatever entries they have in hand."""
        for worker in self.stack.workers:
            worker.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for worker in self.stack.workers:
                worker.signal(signal.SIGCONT)

    def settle(self) -> None:
        """Wait for a bounded time until every entry is acknowledged and every reply has come."""
        try:
            wait_until(self._is_settled, "every request to be acknowledged", SETTLE_SECONDS)
        except TimeoutError:
            return

    def _is_settled(self) -> bool:
        try:
            with self.streams_server.client() as client:
                return all(_is_acknowledged(client, stream) for stream in REQUESTS) and self.collector.has_all(client)
        except redis.RedisError:
            return False

    def __enter__(self) -> Self:
        return self

    @uninterrupted()
    def __exit__(self, *error: object) -> None:
        with ExitStack() as exits:
            exits.callback(self.stack.stop)
            for worker in self.stack.workers:  # a drain takes a second each
                exits.callback(worker.kill)


def _is_acknowledged(client: Any, stream: str) -> bool:
    """Tell whether the group has acknowledged every entry. This uses its position, since its lag can be unknown."""
    if not client.exists(stream):
        return True
    groups = {group["name"].decode(): group for group in client.xinfo_groups(stream)}
    last = client.xrevrange(stream, count=1)
    if not last:
        return True
    group = groups.get(GROUP)
    return (
        group is not None
        and group["pending"] == 0
        and order(group["last-delivered-id"].decode()) >= order(last[0][0].decode())
    )
