"""Workers as puppets: the production loop of ``service`` in a thread that runs only while its world waits for it.

A puppet stops at every command and every wait, and goes on when the world gives it an outcome. So of all threads one
runs at a time, and what happens depends on nothing but the world's choices.
"""

import math
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple, Protocol, cast
from unittest.mock import patch

from structlog.typing import FilteringBoundLogger

from simulation.broken import Broken
from simulation.brought import size_of
from simulation.handling import PuppetAudit, PuppetHandler, Services
from token_worker.errors import ReplyTooLarge, ServerError, Unavailable
from token_worker.redis.exchange import BoundedCommand, Command, RunScript, Together
from token_worker.redis.link import RedisLink
from token_worker.redis.script import Script
from token_worker.service import committer as committing
from token_worker.service import outage, worker
from token_worker.service.committer import Committer
from token_worker.service.maintenance import Maintenance
from token_worker.service.outage import Drain, Outage
from token_worker.service.runtime import Runtime
from token_worker.service.worker import Worker
from token_worker.settings.options import Settings
from token_worker.storage.tokens import TokenStorage
from token_worker.streams import commit, delivery, pending, reads, uncounted
from token_worker.streams.clock import ServerClock
from token_worker.streams.cluster_delivery import ClusterDelivery
from token_worker.streams.delivery import Delivery
from token_worker.streams.retention import Retention
from token_worker.streams.routes import Route
from token_worker.telemetry.health import Health
from token_worker.telemetry.metrics import Metrics
from token_worker.telemetry.telemetry import Telemetry

UNIT_ITEMS = 2
COMMIT_ENTRIES = UNCOUNT_ENTRIES = 3
"""Small, so that batches of few entries are taken apart."""

OWN_AT_ONCE = FOUND_AT_ONCE = 3
"""Small, so that few pending entries are several pages."""

BATCH_BYTES, READ_BYTES = 400, 1600
"""Small, so that few large requests are too much."""

COMMITS_APART = 2
"""Few, so that a read is often sent with a commit, though most come too early here."""

NAP_SECONDS = 1.0
DRAIN_SECONDS = 3.0
JOIN_SECONDS = 10.0


class Crash(BaseException):
    """The process is killed."""


class Wait(NamedTuple):
    """A puppet waits until this time of the world, in seconds."""

    until: float


class Late(NamedTuple):
    """A read that a puppet has sent, and that the server does though the connection is lost: nobody gets its reply."""

    read: tuple[Any, ...]


class Stage(Services, Protocol):
    """The world as a puppet sees it."""

    @property
    def seconds(self) -> float:
        """Monotonic time."""

    def ping(self) -> None:
        """Ask the token storage."""

    def probe(self) -> None:
        """Ask the token storage whether it takes writes."""


class Terms(NamedTuple):
    """The set-up of the workers of a world. Mutants replace classes here.

    With ``is_apart`` workers serve each route by itself, as if each were in its own slot of a cluster.
    """

    worker: type[Worker]
    committer: type[Committer]
    delivery: type[Delivery]
    handler: type[PuppetHandler]
    is_apart: bool
    routes: Sequence[Route]
    group: str
    batch_size: int
    claim_idle_ms: int
    max_deliveries: int


class Puppet:
    """One worker process.

    Attributes:
        request: the command that waits for its outcome, or how long to wait; None: it has ended.
        ready_at: time of the world from which on it may go on.
        blocks_until: when its blocking read ends, None where it does not block.
        late: the outcome of its request, if it gets that only when it goes on.
    """

    def __init__(self, name: str, stage: Stage, terms: Terms, rng: random.Random) -> None:
        self.name = name
        self.request: Command | Wait | Late | None = None
        self.ready_at = 0.0
        self.blocks_until: float | None = None
        self.late: tuple[object] | None = None
        self._stage = stage
        self._outcome: object = None
        self._is_dead = False
        self._failure: BaseException | None = None
        self._go, self._stopped = threading.Lock(), threading.Lock()
        self._go.acquire()
        self._stopped.acquire()
        runtime = _runtime(self, stage, rng)
        self.drain = Drain(DRAIN_SECONDS, runtime)
        self._worker = self._make(terms, rng, runtime)
        self._thread = threading.Thread(target=self._live, name=name, daemon=True)
        self._thread.start()

    def _make(self, terms: Terms, rng: random.Random, runtime: Runtime) -> Worker:
        def make(routes: Sequence[Route]) -> Delivery:
            return terms.delivery(
                routes,
                terms.group,
                self.name,
                batch_size=terms.batch_size,
                claim_idle_ms=terms.claim_idle_ms,
                max_deliveries=terms.max_deliveries,
                rng=random.Random(rng.random()),
                clock=lambda: self._stage.seconds,
            )

        subject = ClusterDelivery([[route] for route in terms.routes], make) if terms.is_apart else make(terms.routes)
        retention = Retention(terms.routes, terms.group, self.name)
        silent, audit = _Silent(), PuppetAudit(self.name, self._stage)
        telemetry = Telemetry(cast(Metrics, silent), cast(Health, silent), audit)
        link, tokens = cast(RedisLink, _Link(self, rng)), cast(TokenStorage, self._stage)
        handler = terms.handler(self._stage)
        settings = cast(Settings, terms)
        clock = ServerClock(lambda: self._stage.seconds)
        outage = Outage(self.drain, telemetry.health, runtime)
        committer = terms.committer(link, subject, clock, outage, telemetry, runtime)
        maintenance = Maintenance(retention, subject, committer, runtime)
        return terms.worker(settings, subject, handler, tokens, committer, maintenance, outage, telemetry, runtime)

    def _live(self) -> None:
        self._go.acquire()
        try:
            if not self._is_dead:
                self._worker.run()
        except Crash:
            pass
        except BaseException as failure:  # noqa: BLE001 - the world raises it where it waits
            self._failure = failure
        finally:
            self.request = None
            self._stopped.release()

    # -- for the world

    @property
    def paused(self) -> list[Route]:
        """Routes that it does not serve now."""
        return self._worker._delivery.paused

    def go_on(self, outcome: object) -> None:
        """Give it the outcome of its request, an error to be raised, and run it to the next; or to its first."""
        self.blocks_until = None
        self._outcome = outcome
        self._is_dead = isinstance(outcome, Crash)
        self._go.release()
        self._stopped.acquire()
        if self.request is None:
            self._thread.join(JOIN_SECONDS)
        if self._failure is not None:
            raise self._failure

    def kill(self) -> None:
        """End it as a crash would; if it has ended already, nothing happens."""
        if self.request is not None:
            self.go_on(Crash())

    # -- for the worker

    def ask(self, request: Command | Wait | Late) -> Any:
        """Have the world perform this."""
        if self._is_dead:
            raise Crash
        self.request = request
        self._stopped.release()
        self._go.acquire()
        outcome = self._outcome
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


class _Link:
    """Stands for the connection to the streams' server.

    What is begun is done at once or, as by a server that is busy, when its reply is asked for; the worker cannot know.
    """

    def __init__(self, puppet: Puppet, rng: random.Random) -> None:
        self._puppet = puppet
        self._rng = random.Random(rng.random())
        self._end: Callable[[], Any] | None = None
        self._pair: RunScript | None = None
        self._rest = Together(0, ())
        self._lost: Unavailable | None = None

    sends_pairs = True
    connections = 1

    def connect(self) -> int:
        return 1

    def call(self, *command: Any) -> Any:
        return self._ask(command)

    def call_bounded(self, max_bytes: int, *command: Any) -> Any:
        return self._ask(BoundedCommand(max_bytes, command))

    def run(self, script: Script, keys: Sequence[Any], args: Sequence[Any]) -> Any:
        return self._ask(RunScript(script, keys, args))

    def start_script(self, script: Script, keys: Sequence[Any], args: Sequence[Any]) -> None:
        command = RunScript(script, keys, args)
        if self._rng.random() < 0.5:
            self._end = partial(self._ask, command)
            return
        try:
            reply = self._ask(command)
        except (Unavailable, ServerError) as error:
            self._end = partial(_raise, error)
        else:
            self._end = partial(_give, reply)

    def finish_script(self) -> Any:
        end, self._end = self._end, None
        if end is None:
            raise RuntimeError("no script was started")
        return end()

    def start_pair(
        self, script: Script, keys: Sequence[Any], args: Sequence[Any], max_bytes: float, *commands: tuple[Any, ...]
    ) -> None:
        if self._end is not None or self._pair is not None:
            raise Broken("a pair was started before the last one was finished")
        self._pair, self._rest = RunScript(script, keys, args), Together(max_bytes, commands)

    def finish_first(self) -> Any:
        if self._pair is None:
            raise RuntimeError("no pair was started")
        try:
            return self._puppet.ask(self._pair)
        except Unavailable as error:
            self._lost = error
            raise

    @property
    def has_second(self) -> bool:
        return self._rng.random() < 0.02

    def finish_second(self) -> list[Any]:
        most_bytes, commands = self._rest
        lost: Unavailable | ReplyTooLarge | None = self._lost
        self._pair = self._lost = None
        refused: ServerError | None = None
        replies: list[Any] = []
        for command in commands:
            try:
                if lost is None:
                    read = command if most_bytes == math.inf else BoundedCommand(int(most_bytes), command)
                    replies.append(self._puppet.ask(read))
                    most_bytes -= size_of(command, replies[-1] or [])
                elif self._rng.random() < 0.5:
                    self._puppet.ask(Late(command))
            except (Unavailable, ReplyTooLarge) as error:
                lost = error
            except ServerError as error:
                refused = refused or error
        failure = lost or refused
        if failure is not None:
            raise failure
        return replies

    def _ask(self, command: Command) -> Any:
        if self._end is not None or self._pair is not None:
            raise Broken("the streams were asked before the commit in flight was finished")
        return self._puppet.ask(command)


class _Silent:
    """Takes any call and does nothing: stands for log, metrics and health."""

    def __getattr__(self, _name: str) -> Callable[..., None]:
        return _nothing


def _nothing(*_: object, **__: object) -> None:
    pass


def _give(reply: object) -> object:
    return reply


def _raise(error: Exception) -> None:
    raise error


def _runtime(puppet: Puppet, stage: Stage, rng: random.Random) -> Runtime:
    """Time and chance of the world, and a log that nobody reads."""

    def sleep(seconds: float) -> None:
        puppet.ask(Wait(stage.seconds + seconds))

    return Runtime(
        monotonic=lambda: stage.seconds,
        sleep=sleep,
        uniform=rng.uniform,
        collect_garbage=_nothing,
        log=cast(FilteringBoundLogger, _Silent()),
    )


@contextmanager
def small_bounds() -> Iterator[None]:
    """Make limits small, so that few entries are split like many in production."""
    with ExitStack() as changes:
        for module, name, value in (
            (worker, "UNIT_ITEMS", UNIT_ITEMS),
            (outage, "NAP_SECONDS", NAP_SECONDS),
            (commit, "COMMIT_ENTRIES", COMMIT_ENTRIES),
            (uncounted, "UNCOUNT_ENTRIES", UNCOUNT_ENTRIES),
            (committing, "COMMITS_APART", COMMITS_APART),
            (delivery, "BATCH_BYTES", BATCH_BYTES),
            (delivery, "READ_BYTES", READ_BYTES),
            (reads, "BATCH_BYTES", BATCH_BYTES),
            (reads, "READ_BYTES", READ_BYTES),
            (pending, "OWN_AT_ONCE", OWN_AT_ONCE),
            (pending, "FOUND_AT_ONCE", FOUND_AT_ONCE),
        ):
            changes.enter_context(patch.object(module, name, value))
        yield
