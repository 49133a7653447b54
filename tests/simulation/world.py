"""A world of workers and one server, driven by a seed: every choice comes from it, time too, so it replays exactly.

First come steps with faults: each lets a worker do its next command, perhaps with a fault, or does something to the
server, its clock or the requests. Then the faults end, and within a bounded number of steps all has to be settled.
"""

import math
import random
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from simulation import faults, requests
from simulation.broken import Broken
from simulation.brought import size_of
from simulation.commands import LARGEST, START_MS, Stream, after, parse_id
from simulation.events import Id
from simulation.faults import Climate
from simulation.handling import PuppetHandler, RunItems
from simulation.model import Model
from simulation.promises import PromiseLedger
from simulation.puppets import Crash, Late, Puppet, Terms, Wait, small_bounds
from simulation.reading import ReadLedger
from simulation.trace import Step, Trace, ids_of
from token_worker.contract.messages import Op
from token_worker.errors import ReplyTooLarge, ServerError, Unavailable
from token_worker.redis.exchange import BoundedCommand, Command, RunScript
from token_worker.service.committer import Committer
from token_worker.service.replies import Postponed, Result
from token_worker.service.worker import Worker
from token_worker.storage.token_item import TokenItem
from token_worker.streams.commit import COMMIT
from token_worker.streams.delivery import Delivery
from token_worker.streams.entry import Answer, Entry
from token_worker.streams.routes import Route

GROUP = "workers"
KEPT: dict[str, Any] = {"response_retention_seconds": 15, "dead_letter_retention_seconds": 12}
ROUTES = (
    Route("a", "a:out", frozenset({Op.TOKENIZE}), request_retention_seconds=0, **KEPT),
    Route("b", "b:out", frozenset({Op.DETOKENIZE}), request_retention_seconds=12, **KEPT),
)
CLAIM_IDLE_MS = 6000
STALL_SECONDS = (0.2 * CLAIM_IDLE_MS / 1000, 3 * CLAIM_IDLE_MS / 1000)

FAULTY_STEPS = (200, 1200)
"""Fewest and most steps with faults."""

QUIET_STEPS = 20_000
"""Steps without faults in which all has to be settled: twice what any world was seen to need."""

SEND_SHARE = 0.2
"""In how many steps a producer sends that waits for a server at its limit."""

HASTE_SECONDS = 0.05
"""Factor by which time passes faster while everything waits for a retention to end."""

AHEAD_MS = (3_600_000, 86_400_000, 8 * 10**12)
"""Distance of a chosen id ahead of the clock."""

BURSTS = (1, 1, 2, 5, 12)
"""Requests that a producer sends at once."""


class Figures(NamedTuple):
    """The result of a world; two runs of one seed have equal results, to the last bit of ``checksum``."""

    steps: int
    settled: int
    faults: Counter[str]
    permitted: Counter[str]
    checksum: int


class Failure(Exception):  # noqa: N818 - reads as what it says: the world failed
    """A promise was broken, or not everything got settled; names the seed, the step, and the steps before."""


class World:
    """One world, to be run once.

    Attributes:
        seconds: monotonic time.
        storage_life: how many times connections to the token storage were made.
        on_stage: the worker that runs now.
    """

    def __init__(
        self,
        seed: int,
        delivery: type[Delivery] = Delivery,
        server: type[Model] = Model,
        worker: type[Worker] = Worker,
        handler: type[PuppetHandler] = PuppetHandler,
        committer: type[Committer] = Committer,
    ) -> None:
        self.seconds = 0.0
        self.storage_life = 1
        self.on_stage: Puppet | None = None
        self._seed = seed
        self._rng = rng = random.Random(seed)
        is_apart, batch_size, max_deliveries = rng.random() < 0.2, rng.choice([1, 4, 8]), rng.choice([2, 3, 5])
        self._terms = Terms(
            worker, committer, delivery, handler, is_apart, ROUTES, GROUP, batch_size, CLAIM_IDLE_MS, max_deliveries
        )
        self._model = server()
        self._ledger = PromiseLedger(self._model, self._terms)
        self._reads = ReadLedger(self._model, self._terms)
        self._climate = Climate(rng)
        self._is_quiet = self._is_over = False
        self._puppets: list[Puppet] = []
        self._started = 0
        self._starts = [0.0] * rng.randint(2, 4)  # when the next workers start
        self._clock_ms = START_MS
        self._behind_ms = self._leapt_ms = 0
        self._is_at_limit = False
        self._storage_back = self._keys_back = self._audit_back = self._streams_back = self._full_until = 0.0
        self._steps = 0
        self._faults: Counter[str] = Counter()
        self._trace = Trace()
        self._do: dict[str, Callable[[], None]] = {
            faults.WORK: self._work,
            "send": self._send,
            "time passes": lambda: self._pass(rng.uniform(0.05, 1)),
            "long time passes": lambda: self._pass(rng.uniform(5, 30)),
            "hours pass": lambda: self._pass(rng.uniform(3600, 100_000)),
            "clock jumps ahead": lambda: self._jump(rng.choice([100, 10_000, 4_000_000])),
            "id ahead": self._send_ahead,
            "clock jumps back": lambda: self._jump(-rng.choice([100, 10_000, 4_000_000])),
            "storage away": self._lose_storage,
            "key away": self._lose_keys,
            "audit away": self._lose_audit,
            "server full": self._fill,
            "drain": self._drain,
            "flush": lambda: self._operate("FLUSHALL"),
            "group destroyed": lambda: self._operate("XGROUP", "DESTROY", rng.choice(ROUTES).requests, GROUP),
            "stream deleted": lambda: self._operate("DEL", rng.choice(ROUTES).requests),
            "entry deleted": self._delete_entry,
            "key of another type": self._spoil,
            "ids used up": self._use_ids_up,
        }

    def run(self) -> Figures:
        """Run it to its end.

        Raises:
            Failure: a promise was broken.
        """
        with small_bounds():
            try:
                self._run()
            except Exception as error:
                what = f"seed {self._seed}, step {self._steps}: {type(error).__name__}: {error}"
                raise Failure(f"{what}\n{self._trace}") from error
            finally:
                for puppet in self._puppets:
                    if puppet is not self.on_stage:  # Ctrl-C came while that one was running: it stops by itself
                        puppet.kill()
        return Figures(self._steps, self._ledger.settled, self._faults, self._ledger.permitted, self._trace.checksum)

    def _run(self) -> None:
        for _ in range(self._rng.randint(*FAULTY_STEPS)):
            event = self._climate.event()
            if event not in faults.ALWAYS and event != faults.WORK:
                self._faults[event] += 1
            self._do[event]()
            self._go_with_time()
        self._calm()
        self._work_until(self._is_accepted)
        self._work_until(self._is_settled)
        self._work_until(self._is_trimmed)
        self._is_over = True
        self._starts.clear()
        for puppet in self._puppets:
            _ask_to_drain(puppet)
        self._work_until(lambda: not self._puppets)

    def _work_until(self, is_reached: Callable[[], bool]) -> None:
        last = self._steps + QUIET_STEPS
        while not is_reached():
            if self._steps > last:
                some, left = ", ".join(map(str, self._ledger.open[:5])), self._model.count()
                raise Broken(f"no end: {left} entries are left, {len(self._ledger.open)} requests are open {some}")
            self._work()

    def _calm(self) -> None:
        """End every fault; a clock that was set back is set right, since take-overs wait for as long."""
        self._is_quiet = True
        self._clock_ms += self._behind_ms
        self._leapt_ms += self._behind_ms
        self._storage_back = self._keys_back = self._audit_back = self.seconds
        self._streams_back = self._full_until = self.seconds
        for key in _keys():
            found = self._model.peek(key.encode())
            if isinstance(found, bytes) or (found is not None and found.last[0] == LARGEST[0]):
                self._operate("DEL", key)
        self._note("-", "faults end")

    def _is_settled(self) -> bool:
        for route in ROUTES:
            found = self._model.peek(route.requests.encode())
            if not isinstance(found, Stream) or _has_news(found) or found.groups[GROUP.encode()].pending:
                return False
        return not self._ledger.open

    def _is_accepted(self) -> bool:
        """Tell whether the server takes a request of producers that keep sending; at its limit it has to recover."""
        self.seconds += HASTE_SECONDS
        route = self._rng.choice(ROUTES)
        return self._rng.random() < SEND_SHARE and self._send_one(route)

    def _is_trimmed(self) -> bool:
        """Tell whether everything is acknowledged, and the retention of all entries is over."""
        self.seconds += HASTE_SECONDS
        found = (self._model.peek(key.encode()) for route in ROUTES for key in route.streams)
        return not any(isinstance(stream, Stream) and stream.ids for stream in found)

    def _go_with_time(self) -> None:
        self._model.now_ms = self._clock_ms + int(self.seconds * 1000)
        self._ledger.elapsed_ms = self._leapt_ms + int(self.seconds * 1000)
        was_at_limit, self._is_at_limit = self._is_at_limit, self._model.count() >= self._climate.most_entries
        self._faults[faults.MEMORY_LIMIT] += self._is_at_limit and not was_at_limit
        self._model.is_full = self._is_at_limit or self.seconds < self._full_until
        for start in [start for start in self._starts if start <= self.seconds]:
            self._starts.remove(start)
            self._start()

    def _note(self, who: str, what: str, command: Command | None = None, outcome: object = None) -> None:
        self._trace.add(Step(self._steps, self.seconds, who, what, command, outcome))

    # -- workers

    def _start(self) -> None:
        self._started += 1
        puppet = Puppet(f"w{self._started}", self, self._terms, self._rng)
        self._puppets.append(puppet)
        self._let(puppet, None)

    def _let(self, puppet: Puppet, outcome: object) -> None:
        """Let a worker go on with the outcome of what it asked for, until it asks for the next."""
        self.on_stage = puppet
        puppet.go_on(outcome)
        self.on_stage = None
        if puppet.request is None:
            self._puppets.remove(puppet)
            self._ledger.left(puppet.name)
            self._reads.left(puppet.name)
            if not self._is_over:
                self._starts.append(self.seconds + self._rng.uniform(0.1, 3))
        elif isinstance(puppet.request, Wait):
            puppet.ready_at = max(puppet.ready_at, puppet.request.until)

    def _work(self) -> None:
        """Let one worker do what it is at; if none can, let time pass until one can."""
        self._steps += 1
        self.seconds += self._rng.random() * 0.006
        self._go_with_time()
        ready = [puppet for puppet in self._puppets if self._is_ready(puppet)]
        if not ready:
            waits = [max(puppet.ready_at, puppet.blocks_until or 0.0) for puppet in self._puppets]
            self.seconds = max(self.seconds, min(waits + self._starts))
            return
        puppet = self._rng.choice(ready)
        if puppet.late is not None:
            [outcome], puppet.late = puppet.late, None
            self._let(puppet, outcome)
        elif isinstance(puppet.request, Wait):
            self._let(puppet, None)
        elif isinstance(puppet.request, Late):
            self._perform_late(puppet, puppet.request.read)
        elif puppet.request is not None:
            self._perform(puppet, puppet.request)

    def _is_ready(self, puppet: Puppet) -> bool:
        if puppet.ready_at > self.seconds:
            return False
        is_over = puppet.blocks_until is None or puppet.blocks_until <= self.seconds
        return is_over or any(self._is_news_at(key) for key in _streams_of(puppet.request))

    def _is_news_at(self, key: str) -> bool:
        """Tell whether a read of this stream returns at once, with entries or an error."""
        found = self._model.peek(key.encode())
        return not isinstance(found, Stream) or _has_news(found)

    def _perform_late(self, puppet: Puppet, read: tuple[Any, ...]) -> None:
        """Do a read whose reply nobody gets."""
        if self.seconds >= self._streams_back:
            streams, waiting = _streams_of(read), self._waiting_for(puppet)
            self._ledger.read_was_sent(puppet.name, streams)
            outcome = self._execute(puppet.name, read)
            if isinstance(outcome, list):
                self._reads.done(puppet.name, read, waiting, outcome)
            self._ledger.read_failed(puppet.name, streams)
        self._let(puppet, None)

    def _perform(self, puppet: Puppet, command: Command) -> None:
        fault = "" if self._is_quiet else self._climate.fault()
        is_bounded = isinstance(command, BoundedCommand)
        most_bytes = math.inf
        if isinstance(command, BoundedCommand):
            most_bytes, command = command
        if fault and is_bounded and command[0] == "XCLAIM" and self._rng.random() < 0.5:
            fault = "too much"  # such claims are rare
        elif fault == "too much" and not is_bounded:
            fault = ""
        if self.seconds < self._streams_back:
            fault = "refused"
        outcome: object = None
        is_done = fault not in {"crash before", "refused"}
        if is_done:
            waiting = self._waiting_for(puppet)
            outcome = self._execute(puppet.name, command)
            if outcome is None and not fault and self._blocks(puppet, command):
                return
            if _is_read(command) and isinstance(outcome, list):
                self._reads.done(puppet.name, command, waiting, outcome)
            if not fault and is_bounded and isinstance(outcome, list) and size_of(command, outcome) > most_bytes:
                self._reads.gave_up(puppet.name, command, outcome)
                fault = "too much"
        if fault:
            self._faults[fault] += 1
            self._note(puppet.name, fault, command)
            outcome = self._spoiled(fault, outcome)
        if fault == "all away":
            self._lose_all()
        self._tell_books(puppet.name, command, outcome)
        if fault == "stall":  # the process is stopped, and sees the reply later
            puppet.blocks_until = None
            puppet.ready_at = max(puppet.ready_at, self.seconds + self._rng.uniform(*STALL_SECONDS))
            puppet.late = (outcome,)
        else:
            self._let(puppet, outcome)

    def _waiting_for(self, puppet: Puppet) -> list[bytes]:
        """Streams that have something to read for this worker."""
        served = [route.requests.encode() for route in ROUTES if route not in puppet.paused]
        return [key for key in served if self._model.group(key, GROUP.encode()) and self._is_news_at(key.decode())]

    def _spoiled(self, fault: str, outcome: object) -> object:
        """The outcome that a worker gets for a command with a fault."""
        match fault:
            case "crash before" | "crash after":
                return Crash()
            case "refused":
                return Unavailable("streams", "ConnectionError")
            case "reply lost":
                return Unavailable("streams", "TimeoutError")
            case "too much" if not isinstance(outcome, Exception):
                return ReplyTooLarge()
        return outcome

    def _blocks(self, puppet: Puppet, command: Command) -> bool:
        """Tell whether an empty read has to wait, and to be tried again afterwards."""
        if "BLOCK" not in command:
            return False
        if puppet.blocks_until is None:
            self._ledger.sleeps(puppet.name, _streams_of(command))
            self._reads.sleeps(puppet.name, _streams_of(command))
            puppet.blocks_until = self.seconds + int(command[command.index("BLOCK") + 1]) / 1000
        return puppet.blocks_until > self.seconds

    def _execute(self, worker: str | None, command: Command) -> object:
        outcome: object
        try:
            outcome = self._model.run(*command) if isinstance(command, RunScript) else self._model.call(*command)
        except (Unavailable, ServerError) as error:
            outcome = error
        self._note(worker or "-", "does", command, outcome)
        events = self._model.events[:]
        self._model.events.clear()
        self._ledger.observe(worker, command, events)
        return outcome

    def _tell_books(self, worker: str, command: Command, outcome: object) -> None:
        """Tell the ledgers what a worker learns of its command, or that it learns nothing."""
        is_lost = isinstance(outcome, Unavailable | ReplyTooLarge)
        if _is_read(command) and isinstance(outcome, list):
            self._reads.took(worker, command, outcome)
        if isinstance(command, RunScript):
            if command.script is COMMIT and isinstance(outcome, ServerError):
                self._ledger.put_off(worker, command.keys[0], ids_of(command))
        elif command[0] == "XREADGROUP" and is_lost:
            self._ledger.read_failed(worker, _streams_of(command))
        elif command[0] == "XCLAIM":
            self._ledger.claim_ended(worker, is_lost=is_lost)
        elif command[0] == "XPENDING" and len(command) > 3 and isinstance(outcome, list):
            self._ledger.looked(worker, command, {entry[0]: entry[3] for entry in outcome})

    # -- what else happens

    def _pass(self, seconds: float) -> None:
        self.seconds += seconds
        self._note("-", f"{seconds:.3f} s pass")

    def _jump(self, ms: int) -> None:
        self._note("-", f"{ms} ms jump")
        self._clock_ms += ms
        self._behind_ms += max(-ms, 0)
        self._leapt_ms += max(ms, 0)

    def _lose_storage(self) -> None:
        self._note("-", "storage away")
        self._storage_back = self.seconds + self._rng.uniform(0.1, 20)

    def _lose_keys(self) -> None:
        self._note("-", "key away")
        self._keys_back = self.seconds + self._rng.uniform(0.1, 10)

    def _lose_audit(self) -> None:
        self._note("-", "audit away")
        self._audit_back = self.seconds + self._rng.uniform(0.1, 10)

    def _lose_all(self) -> None:
        back = self.seconds + self._rng.uniform(0.1, 3)
        self._streams_back = back
        self._storage_back = max(self._storage_back, back)
        self._keys_back = max(self._keys_back, back)

    def _fill(self) -> None:
        self._note("-", "server full")
        self._full_until = self.seconds + self._rng.uniform(0.1, 5)

    def _drain(self) -> None:
        if self._puppets:
            puppet = self._rng.choice(self._puppets)
            self._note(puppet.name, "drain")
            _ask_to_drain(puppet)

    def _operate(self, *command: Any) -> None:
        """Do a command as an operator with all rights."""
        self._execute(None, command)

    def _delete_entry(self) -> None:
        route = self._rng.choice(ROUTES)
        found = self._model.peek(route.requests.encode())
        if isinstance(found, Stream) and found.ids:
            self._operate("XDEL", route.requests, b"%d-%d" % self._rng.choice(found.ids[-8:]))

    def _spoil(self) -> None:
        """Replace a stream by a key of another type, or remove such a key."""
        key = self._rng.choice(_keys())
        is_spoiled = isinstance(self._model.peek(key.encode()), bytes)
        self._operate(*(("DEL", key) if is_spoiled else ("SET", key, "x")))

    def _use_ids_up(self) -> None:
        """A stream that workers write to has few ids left, or none."""
        route = self._rng.choice(ROUTES)
        key = self._rng.choice([route.responses, route.responses, route.dead_letters, *_named(route)])
        self._operate("XADD", key, b"%d-%d" % (LARGEST[0], LARGEST[1] - self._rng.choice([0, 0, 1, 3])), "x", "y")

    def _send(self) -> None:
        for _ in range(self._rng.choice(BURSTS)):
            self._send_one(self._rng.choice(ROUTES))

    def _send_ahead(self) -> None:
        """Somebody chooses an id that lies ahead of the clock: all later ones follow that."""
        route = self._rng.choice(ROUTES)
        ms = self._model.now_ms + self._rng.choice(AHEAD_MS)
        while self._ledger.knows(route.requests.encode(), (ms, 0)):
            ms += 1
        key = self._rng.choice(route.streams)
        if key == route.requests:
            self._send_one(route, f"{ms}-0")
        else:
            self._operate("XADD", key, f"{ms}-0", "payload", "x")

    def _send_one(self, route: Route, at: str = "*") -> bool:
        """Send a request; returns whether the server accepted it."""
        [kind] = self._rng.choices(list(requests.KINDS), list(requests.KINDS.values()))
        target = route.responses
        if kind in requests.ELSEWHERE:
            target = self._rng.choice(_named(route))
        payload = requests.payload_of(kind, target, is_large=self._climate.is_large())
        trace = ("traceparent", "parent") if self._rng.random() < 0.1 else ()
        key = route.requests.encode()
        while self._ledger.knows(key, self._next_id(key)):
            self._clock_ms += 1
            self._leapt_ms += 1  # no id comes twice, whatever became of clock and stream: nobody could tell them apart
            self._go_with_time()
        try:
            entry = self._model.call("XADD", key, at, "payload", payload, *trace)
        except (ServerError, Unavailable):
            return False
        self._ledger.sent(requests.request_of(key, parse_id(entry), kind, target))
        self._model.events.clear()
        self._note("-", "sends", (route.requests, entry, kind))
        return True

    def _next_id(self, key: bytes) -> Id:
        found = self._model.peek(key)
        last = found.last if isinstance(found, Stream) else (0, 0)
        return (self._model.now_ms, 0) if self._model.now_ms > last[0] else after(last)

    # -- what workers handle

    def ping(self) -> None:
        """Stand in for ``TokenStorage.ping``."""
        if self.seconds < self._storage_back:
            raise Unavailable("tokens", "ConnectionError")

    def probe(self) -> None:
        """Stand in for ``TokenStorage.probe``."""
        self.ping()

    def find(self, items: Sequence[TokenItem]) -> None:
        """Stand in for the token storage."""
        self.ping()
        for item in items:
            item.result = item.data
            if item.tokenize:
                entry, _ = item.form
                place = entry.route.requests.encode(), parse_id(entry.id)
                self._ledger.precautions.found(self._worker.name, place, self.storage_life)

    def confirm(self) -> int:
        """Stand in for ``WAIT`` of the token storage, which may be another by now."""
        self.ping()
        puppet = self._worker
        fault = "" if self._is_quiet else self._climate.confirm_fault()
        if fault:
            self._faults[fault] += 1
            self._note(puppet.name, fault)
        if fault == "too few replicas":
            return 0
        self.storage_life += fault == "storage made anew"
        self._ledger.precautions.confirmed(puppet.name, self.storage_life)
        return 1

    def audit(self, lines: bytes) -> None:
        """Stand in for the file of the audit log."""
        if self.seconds < self._audit_back:
            raise Unavailable("audit", "OSError")
        for line in lines.splitlines():
            self._ledger.precautions.wrote(line)

    @property
    def _worker(self) -> Puppet:
        """The worker that runs now."""
        if self.on_stage is None:
            raise RuntimeError("no worker runs")
        return self.on_stage

    def handle(self, entries: Sequence[Entry], run: RunItems) -> list[Result]:
        """Stand in for ``Handler.handle``."""
        puppet = self._worker
        self._reads.handled(puppet.name, [(entry.route.requests.encode(), parse_id(entry.id)) for entry in entries])
        if not self._is_quiet and self._climate.is_slow():
            self._faults[faults.SLOW_BATCH] += 1
            self._note(puppet.name, faults.SLOW_BATCH)
            puppet.ask(Wait(self.seconds + self._rng.uniform(*STALL_SECONDS)))
            if self._rng.random() < 0.5:
                raise Unavailable("tokens", "TimeoutError")
        try:
            results = requests.handle(entries, run, has_keys=self.seconds >= self._keys_back)
        except RuntimeError:
            self._ledger.failed(puppet.name, entries[0].route.requests)
            raise
        for result in results:
            if isinstance(result, Postponed):
                self._ledger.put_off(puppet.name, result.entry.route.requests, [result.entry.id])
        return results

    def internal(self, entry: Entry) -> Answer:
        """Stand in for ``Handler.internal``."""
        self._reads.handled(self._worker.name, [(entry.route.requests.encode(), parse_id(entry.id))])
        return requests.internal(entry)


def _keys() -> list[str]:
    """Every stream that workers use."""
    return [key for route in ROUTES for key in (*route.streams, *_named(route))]


def _named(route: Route) -> list[str]:
    """Streams that requests name for their replies."""
    return [f"{route.responses}:{name}" for name in ("one", "two", "text")]


def _has_news(stream: Stream) -> bool:
    group = stream.groups.get(GROUP.encode())
    return group is None or bool(stream.ids and stream.ids[-1] > group.last)


def _is_read(command: Command) -> bool:
    """Tell whether a command brings requests."""
    return command[0] in {"XREADGROUP", "XCLAIM"}


def _streams_of(request: Command | Wait | Late | None) -> Sequence[str]:
    """The streams of a read that blocks."""
    if isinstance(request, BoundedCommand):
        request = request.command
    if not isinstance(request, tuple) or "STREAMS" not in request:
        return ()
    names = request[request.index("STREAMS") + 1 :]
    return names[: len(names) // 2]


def _ask_to_drain(puppet: Puppet) -> None:
    if not puppet.drain.is_asked:
        puppet.drain._on_signal(signal.SIGTERM, None)
