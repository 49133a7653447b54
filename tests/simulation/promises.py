"""The promises of workers, checked after every command by a ledger that is kept beside the server.

The ledger believes only the changes on the server. It counts the troubles that a fault permits, and permits no more:

- *deleted*: somebody deleted the request, its stream or everything before it was answered;
- *again*: its group was lost after it was answered, and the low-water mark did not tell so;
- *hidden*: the clock of the server was set back, and it was sent to a stream that was deleted and made again by a
  producer, and had come as far as the mark of the stream before when its group was made;
- *given up*: as many isolated tries as are allowed ended by a kill or a stall, so it is a dead letter; or by an outage
  that lasted for longer than the claim time, if another worker saw that try before it was taken back; or two workers
  took it from each other, since the clock leapt or one was stalled between its look and its claim.

So an outage, a refused command or a lost reply counts as no try: a worker takes it back before its next claim. An entry
that is put off out of a batch is not isolated for that. No worker sleeps while it knows of entries to take, or has put
some off and not taken that back. ``precautions`` has the steps before a reply.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, assert_never

from simulation.broken import Broken
from simulation.commands import ZERO, format_id, parse_id
from simulation.events import (
    Acknowledged,
    Added,
    Claimed,
    Deleted,
    Delivered,
    Dropped,
    Event,
    Gone,
    GroupGone,
    GroupMade,
    Id,
    Written,
)
from simulation.model import Model
from simulation.precautions import INSTEAD, INTERNAL, Precautions
from simulation.puppets import Terms
from token_worker.contract.messages import Op
from token_worker.redis.exchange import Command, RunScript
from token_worker.streams.delivery import EXHAUSTED, GROUP
from token_worker.streams.routes import Route

NO_ID = "no_id"
"""Reason of a dead letter whose producer cannot be answered."""


@dataclass
class Request:
    """One request.

    Attributes:
        target: stream that its reply goes to.
        is_answerable: whether it has to be answered as it is; else it is a dead letter.
        is_poison: whether it makes every try fail.
        settled_in: which group of the stream, counted from 1, has acknowledged it last; 0: none.
        causes: isolated tries that failed for another cause than an outage.
        late: tries that were taken back when another worker may have seen them counted, or that stay counted because
            two workers took the entry from each other: the clock leapt, or one was stalled between look and claim.
        put_off_by: the worker that put it off out of a batch, and has still to take back that it was delivered.
    """

    key: bytes
    id: Id
    target: bytes
    is_answerable: bool
    is_poison: bool
    settled_in: int = 0
    causes: int = 0
    late: int = 0
    put_off_by: str = ""

    def __str__(self) -> str:
        return f"{self.key.decode()} {format_id(self.id).decode()}"


@dataclass
class _Stream:
    """A request stream.

    Attributes:
        open: requests that have to be answered yet.
        mark: its low-water mark.
        groups: how many groups it has had.
        is_unserved: it was made anew, and has had no group since.
        hides: its group was made at the mark of the stream before.
    """

    route: Route
    requests: dict[Id, Request]
    open: dict[Id, Request]
    mark: Id | None = None
    groups: int = 0
    is_unserved: bool = False
    hides: bool = False


@dataclass
class _Look:
    """A worker's look at pending entries.

    Attributes:
        known: those that it has seen, and not claimed; each with its delivery count at that time.
        is_full: the last page was full, so there may be a next one.
    """

    known: dict[Id, int] = field(default_factory=dict)
    is_full: bool = False


class PromiseLedger:
    """The ledger of the requests on some routes of a server."""

    def __init__(self, model: Model, terms: Terms) -> None:
        routes = terms.routes
        self._model = model
        self._group = terms.group.encode()
        self._claim_idle_ms = terms.claim_idle_ms
        self._max_deliveries = terms.max_deliveries
        self._streams = {route.requests.encode(): _Stream(route, {}, {}) for route in routes}
        self._marks = {stream.route.own_keys.low_water_mark.encode(): stream for stream in self._streams.values()}
        self._dead = {route.dead_letters.encode() for route in routes}
        self._kept_ms = {
            stream.encode(): 1000 * min(route.kept_seconds(stream) for route in routes if stream in route.streams)
            for route in routes
            for stream in route.streams
        }
        self._arrived: dict[tuple[bytes, Id], int] = {}
        self._trying: dict[tuple[str, str], Request] = {}  # by worker and stream
        self._commands = 0
        self._looked: dict[str, int] = {}  # when a worker has looked at its own entries
        self._got: dict[tuple[bytes, Id], dict[str, int]] = {}  # when a worker has got an entry
        self._unsure: set[tuple[str, str]] = set()  # a read of this stream failed, and the worker has not looked since
        self._taken: dict[str, list[Request]] = {}  # what the last claim of many has brought
        self._looks: dict[tuple[str, str], dict[bool, _Look]] = {}  # at own entries or not, by worker and stream
        self.precautions = Precautions(
            frozenset(route.requests.encode() for route in routes if Op.DETOKENIZE in route.ops)
        )
        self.permitted: Counter[str] = Counter()
        self.settled = 0
        self.elapsed_ms = 0
        """By a clock that leaps ahead with that of the server, and never back."""

    # -- what the world tells

    def sent(self, request: Request) -> None:
        """A request was sent."""
        stream = self._streams[request.key]
        self._arrived[request.key, request.id] = self.elapsed_ms
        stream.requests[request.id] = stream.open[request.id] = request
        group = self._model.group(request.key, self._group)
        if stream.hides and group is not None and request.id <= group.last:
            self._hide(stream, [request])

    def knows(self, key: bytes, entry: Id) -> bool:
        """Tell whether there was a request of this id before."""
        return entry in self._streams[key].requests

    def failed(self, worker: str, key: str) -> None:
        """This worker's isolated try on a stream, if it is at one, failed for another cause than an outage."""
        request = self._trying.pop((worker, key), None)
        if request is not None:
            request.causes += 1

    def put_off(self, worker: str, key: str, ids: Sequence[bytes]) -> None:
        """This worker learned that entries cannot be answered now, for no fault of their own."""
        stream = self._streams[key.encode()]
        group = self._model.group(key.encode(), self._group)
        for entry in map(parse_id, ids):
            pending = group.pending.get(entry) if group is not None else None
            if pending is not None and (pending.owner, pending.count) == (worker.encode(), 1):
                stream.requests[entry].put_off_by = worker

    def claim_ended(self, worker: str, *, is_lost: bool) -> None:
        """A claim of this worker has ended. If its reply is lost, the worker does not know what it has claimed."""
        taken = self._taken.pop(worker, ())
        if is_lost:
            for request in taken:
                request.put_off_by = worker

    def looked(self, worker: str, command: tuple[Any, ...], counts: Mapping[bytes, int]) -> None:
        """A worker knows of these pending entries now, and of how often each was delivered."""
        _, key, _, *rest = command
        is_own = rest[:1] != ["IDLE"]
        start, _, count, *_ = rest if is_own else rest[2:]
        if not isinstance(start, str):  # it was about to renew these
            return
        looks = self._looks.setdefault((worker, key), {})
        look = looks[is_own] = _Look() if start == "-" else looks.get(is_own, _Look())
        look.known.update({parse_id(entry): deliveries for entry, deliveries in counts.items()})
        look.is_full = len(counts) >= count

    def sleeps(self, worker: str, keys: Sequence[str]) -> None:
        """A worker waits for new entries of these streams, and does nothing else.

        Raises:
            Broken: it knows that there is something to do.
        """
        for key in keys:
            group = self._model.group(key.encode(), self._group)
            pending = group.pending.keys() if group is not None else set()
            for look in self._looks.get((worker, key), {}).values():
                if look.is_full:
                    raise Broken(f"{worker} sleeps, and has not read the page after a full one of {key}")
                if left := look.known.keys() & pending:
                    raise Broken(f"{worker} sleeps, and knows of {key} {format_id(min(left)).decode()}")
            for request in self._streams[key.encode()].open.values():
                if request.put_off_by == worker and request.id in pending:
                    raise Broken(f"{worker} sleeps, and has not taken back that {request} was delivered")

    def read_failed(self, worker: str, keys: Sequence[str]) -> None:
        """A read of this worker failed: it does not know what was delivered to it from these streams."""
        self._unsure |= {(worker, key) for key in keys}

    def read_was_sent(self, worker: str, keys: Sequence[str]) -> None:
        """A read of this worker is done that it had sent before it knew that another one failed."""
        self._unsure -= {(worker, key) for key in keys}

    def left(self, worker: str) -> None:
        """A worker has ended."""
        for place in [place for place in self._trying if place[0] == worker]:
            self.failed(*place)
        self._unsure = {place for place in self._unsure if place[0] != worker}
        for stream in self._streams.values():
            for request in stream.open.values():
                if request.put_off_by == worker:
                    request.put_off_by = ""

    @property
    def open(self) -> list[Request]:
        """Requests that have to be answered yet."""
        return [request for stream in self._streams.values() for request in stream.open.values()]

    # -- what the server shows

    def observe(self, worker: str | None, command: Command, events: Sequence[Event]) -> None:
        """Note what a command changed; ``worker``: who sent it, None: somebody who may do anything.

        Raises:
            Broken: it should not have.
        """
        self._commands += 1
        together: set[Id] = set()
        if worker is not None and not isinstance(command, RunScript):
            together = self._note_look(worker, command)
        elif worker is not None and isinstance(command, RunScript) and command.script is GROUP:
            self._looks.pop((worker, command.keys[0]), None)  # what it knew may have been of another one
        answered: dict[tuple[bytes, Id], list[str]] = {
            (event.key, event.entry): [] for event in events if isinstance(event, Acknowledged)
        }
        raised = 0
        for event in events:
            if isinstance(event, Added):
                self._arrived[event.key, event.entry] = self.elapsed_ms
            match event:
                case Added() if worker is not None:
                    self._note_answer(worker, event, answered)
                case Claimed():
                    is_alone = event.entry not in together
                    raised += is_alone and event.deliveries > event.deliveries_before > 0
                    self._note_claim(worker or "", command, event, is_alone=is_alone)
                case Delivered():
                    self._got.setdefault((event.key, event.entry), {})[worker or ""] = self._commands
                    self._streams[event.key].requests[event.entry].put_off_by = ""
                case Deleted():
                    self._note_deleted(event)
                case Dropped():
                    self._check_dropped(event)
                case GroupMade():
                    self._note_group(event)
                case Written():
                    self._note_mark(event)
                case Gone():
                    self._note_gone(event)
                case Acknowledged() | Added() | GroupGone():
                    pass
                case _:
                    assert_never(event)
        if raised > 1:
            raise Broken("one command counted a try of several entries")
        for (key, entry), outcomes in answered.items():
            self._settle(self._streams[key], entry, outcomes)

    def _note_look(self, worker: str, command: tuple[Any, ...]) -> set[Id]:
        """Note what a worker learns, and what it gives up, by a command. Return what it claims as put-off entries."""
        together: set[Id] = set()
        if command[0] in {"XREADGROUP", "XCLAIM"}:
            for place in [(worker, key) for key in command if (worker, key) in self._trying]:
                del self._trying[place]  # it goes on: whatever became of its try is known
        match command:
            case ("XCLAIM", key, _, _, _, *ids):
                named = {parse_id(entry) for entry in ids if isinstance(entry, bytes)}  # the others are options
                for look in self._looks.get((worker, key), {}).values():
                    together |= {entry for entry in named if look.known.pop(entry, None) == 0}
            case ("XPENDING", key, *_, consumer) if consumer == worker:
                self._unsure.discard((worker, key))
                self._looked[worker] = self._commands
            case ("XREADGROUP", *rest):
                for key in rest:
                    if (worker, key) in self._unsure:
                        raise Broken(f"{worker} reads {key} on, and has not looked at what a failed read brought")
        return together

    def _note_answer(self, worker: str, event: Added, answered: dict[tuple[bytes, Id], list[str]]) -> None:
        fields = dict(zip(event.fields[::2], event.fields[1::2], strict=True))
        if event.key in self._dead:
            found = fields[b"dead_stream"], parse_id(fields[b"dead_entry"])
            outcome = fields[b"dead_reason"].decode()
        else:
            how, key, entry = fields[b"payload"].split(b" ")
            found = key, parse_id(entry)
            outcome = "reply"
            request = self._streams[key].requests[found[1]]
            if not self._is_right_place(event.key, how, request):
                raise Broken(f"{request}: the reply went to another stream")
            if missing := self.precautions.missing(worker, found, how):
                raise Broken(f"{request}: {missing}")
        if found not in answered:
            raise Broken(f"{found[0].decode()} {format_id(found[1]).decode()}: {outcome} without its acknowledgement")
        answered[found].append(outcome)

    def _is_right_place(self, key: bytes, how: bytes, request: Request) -> bool:
        """Tell whether a reply is on the stream that the request named, or, if that refused it, on the route's."""
        if key == request.target:
            return how != INSTEAD
        is_instead = how in {INSTEAD, INTERNAL} and self._model.why_unfit(request.target) is not None
        return is_instead and key == self._streams[request.key].route.responses.encode()

    def _settle(self, stream: _Stream, entry: Id, outcomes: list[str]) -> None:
        request = stream.requests[entry]
        match outcomes:
            case []:
                if entry in stream.open or self._is_there(request):
                    raise Broken(f"{request}: acknowledged without a reply or a dead letter")
            case ["reply"]:
                if not request.is_answerable:
                    raise Broken(f"{request}: a reply to what cannot be answered")
            case [reason] | [reason, "reply"] if reason == EXHAUSTED:
                if request.causes + request.late < self._max_deliveries:
                    raise Broken(f"{request}: given up after {request.causes} tries that failed for a cause of its own")
                self.permitted["given up"] += not request.is_poison
            case [reason] if reason == NO_ID and not request.is_answerable:
                pass
            case _:
                raise Broken(f"{request}: answered by {', '.join(outcomes)}")
        if request.settled_in == stream.groups:
            raise Broken(f"{request}: answered twice")
        self.permitted["again"] += request.settled_in > 0
        request.settled_in = stream.groups
        self.settled += 1
        stream.open.pop(entry, None)
        self._close_tries(lambda tried: tried is request)

    def _is_there(self, request: Request) -> bool:
        found = self._model.stream(request.key)
        return found is not None and request.id in found.entries

    def _close_tries(self, is_meant: Callable[[Request], bool]) -> None:
        for place in [place for place, tried in self._trying.items() if is_meant(tried)]:
            del self._trying[place]

    def _note_claim(self, worker: str, command: Command, event: Claimed, *, is_alone: bool) -> None:
        request = self._streams[event.key].requests[event.entry]
        got = self._got.setdefault((event.key, event.entry), {})
        is_stolen = event.owner != event.owner_before and event.idle_ms < self._claim_idle_ms
        if event.owner != event.owner_before:
            request.put_off_by = ""
        if event.deliveries > event.deliveries_before:
            if isinstance(command, RunScript) or command[0] != "XCLAIM":
                raise Broken(f"{request}: a try was counted that was not alone")
            if is_stolen and worker not in got:
                raise Broken(f"{request}: taken over from a worker that had it for {event.idle_ms} ms")
            request.late += is_stolen  # back from a worker that the clock's leap let have it, whose try stays counted
            for other in [other for other, tried in self._trying.items() if tried is request]:
                self.failed(*other)  # that one was stalled
            if event.deliveries_before > 0 and is_alone:
                self._note_try(worker, request, event)
            elif event.deliveries_before > 0:
                request.late += 1  # it was stalled since its look, for so long that another worker got it and left it
            else:
                self._taken.setdefault(worker, []).append(request)
        elif event.deliveries < event.deliveries_before:
            if event.owner != event.owner_before:
                raise Broken(f"{request}: a try was taken back that was another worker's")
            self._close_tries(lambda tried: tried is request)
            request.late += event.idle_ms >= self._claim_idle_ms and event.deliveries > 0
            request.put_off_by = ""
        elif is_stolen and event.deliveries <= self._max_deliveries + 1:
            looked = self._looked.get(worker, 0)
            if not got.get(worker, 0) < looked < got[event.owner_before.decode()]:  # lost before it could be seen
                raise Broken(f"{request}: renewed by a worker that had lost it")
        got[worker] = self._commands

    def _note_try(self, worker: str, request: Request, event: Claimed) -> None:
        if event.deliveries_before - 1 > request.causes + request.late:
            raise Broken(f"{request}: a try is still counted that failed for an outage")
        if request.put_off_by == worker:
            raise Broken(f"{request}: was put off out of a batch, and is isolated for it")
        self._trying[worker, event.key.decode()] = request

    def _note_deleted(self, event: Deleted) -> None:
        kept_ms = self.elapsed_ms - self._arrived.pop((event.key, event.entry), 0)
        if event.by_trim and kept_ms < self._kept_ms.get(event.key, 0):
            where = f"{event.key.decode()} {format_id(event.entry).decode()}"
            raise Broken(f"{where}: trimmed {kept_ms} ms after it arrived, before its time")
        stream = self._streams.get(event.key)
        if stream is None:
            return
        request = stream.requests[event.entry]
        if event.by_trim:
            group = self._model.group(event.key, self._group)
            is_needed = group is not None and (event.entry in group.pending or event.entry > group.last)
            if is_needed or event.entry in stream.open:
                raise Broken(f"{request}: trimmed before it was acknowledged")
        elif stream.open.pop(event.entry, None) is not None:
            self.permitted["deleted"] += 1

    def _check_dropped(self, event: Dropped) -> None:
        request = self._streams[event.key].requests[event.entry]
        if self._is_there(request):
            raise Broken(f"{request}: no longer pending, and not acknowledged")

    def _note_group(self, event: GroupMade) -> None:
        stream = self._streams[event.key]
        stream.groups += 1
        passed = [request for request in stream.open.values() if request.id <= event.start]
        found = self._model.stream(event.key)
        has_come_so_far = found is not None and found.last >= event.start
        stream.hides = stream.is_unserved and event.start == stream.mark and has_come_so_far
        stream.is_unserved = False
        if stream.hides:
            self._hide(stream, passed)
        elif passed:
            raise Broken(f"{passed[0]}: a group was made after it, and it was not answered")
        mark = stream.mark or ZERO
        for entry in found.ids if found and mark <= found.last else ():
            if event.start < entry <= mark:
                raise Broken(f"{stream.requests[entry]}: a group was made before it, and it is known to be answered")
        self._close_tries(lambda tried: tried.key == event.key)

    def _hide(self, stream: _Stream, requests: Sequence[Request]) -> None:
        for request in requests:
            del stream.open[request.id]
            self.permitted["hidden"] += 1

    def _note_mark(self, event: Written) -> None:
        stream = self._marks.get(event.key)
        if stream is None:
            return
        stream.mark = parse_id(event.value)
        group = self._model.group(stream.route.requests.encode(), self._group)
        needed = [*stream.open, *(group.pending if group is not None else ())]
        if needed and min(needed) <= stream.mark:
            raise Broken(f"{stream.route.requests} {format_id(min(needed)).decode()}: the low-water mark has passed it")

    def _note_gone(self, event: Gone) -> None:
        if event.key in self._marks:
            self._marks[event.key].mark = None
        stream = self._streams.get(event.key)
        if stream is not None:
            self.permitted["deleted"] += len(stream.open)
            stream.open.clear()
            stream.is_unserved = True
            self._close_tries(lambda tried: tried.key == event.key)
