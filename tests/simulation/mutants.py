"""Planted bugs: workers and scripts that each break a promise in one place. The simulation has to find every one."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from simulation.commands import ZERO, Group, Stream
from simulation.events import Id
from simulation.handling import PuppetHandler
from simulation.hasty import (
    AuditsAfterwards,
    AuditsNoneGivenUp,
    AuditsNoneIsolated,
    ConfirmsAllTokens,
    ConfirmsConsistent,
    ConfirmsFirstTries,
    RepliesUnaudited,
    TrustsAnyConnection,
    TrustsTheFirstTime,
)
from simulation.model import Model, Note
from token_worker.errors import ServerError, Unavailable
from token_worker.redis.exchange import Exchange, RunScript, drive
from token_worker.service.committer import Committer, T
from token_worker.service.worker import Worker
from token_worker.streams.commit import COMMIT
from token_worker.streams.delivery import Delivery
from token_worker.streams.entry import Answer, Batch, Committed, Entry
from token_worker.streams.pending import Candidate
from token_worker.streams.routes import Route


class _ReplyFirst(Delivery):
    """Replies, then acknowledges."""

    def _commit(self, route: Route, answers: Sequence[Answer], total: Committed) -> Exchange[None]:
        of_none = (route.requests, route.responses), (self._group, route.response_seconds)
        yield RunScript(COMMIT, *of_none)
        for answer in answers:
            yield "XADD", answer.reply_to or route.responses, "*", "payload", answer.payload
            total.written += yield "XACK", route.requests, self._group, answer.entry.id


class _GroupAtEnd(Model):
    """Makes a lost group at the end of its stream."""

    def _start(self, stream: Stream, mark: Id | None) -> Id:
        return stream.last


class _GroupAtMark(Model):
    """Makes a group at the mark, whatever the stream has come to."""

    def _start(self, stream: Stream, mark: Id | None) -> Id:
        return mark or ZERO


class _CountedByAutoclaim(Delivery):
    """Takes over many at once, which counts a try of each."""

    def _fetch_older(self, now: float) -> Exchange[Batch | None]:
        for route in self._active() if now >= self._pending._others_due else ():
            idle_ms = self._pending._claim_idle_ms
            yield "XAUTOCLAIM", route.requests, self._group, self._consumer, idle_ms, "0-0"
        return (yield from super()._fetch_older(now))


class _ClaimsUnconditionally(Delivery):
    """Takes over whatever has happened to the entry since it was found."""

    def _claim(self, candidate: Candidate, now: float) -> Exchange[Entry | None]:
        return (yield from super()._claim(candidate._replace(idle_ms=0), now))


class _ForgetsItsOwn(Delivery):
    """Reads on after a read that failed."""

    def fetch(self, now: float, block_ms: int, *, with_commit: bool = False) -> Exchange[Batch]:
        due = self._pending._own_due
        try:
            return (yield from super().fetch(now, block_ms, with_commit=with_commit))
        except Unavailable:
            self._pending._own_due = due
            raise


class _ForgetsWhatWasTooMuch(Delivery):
    """Reads on after a read that was given up."""

    def _read_new(self, now: float, block_ms: int, *, with_commit: bool) -> Exchange[Batch]:
        due = self._pending._own_due
        found = yield from super()._read_new(now, block_ms, with_commit=with_commit)
        self._pending._own_due = due
        return found


class _IgnoresBytes(Delivery):
    """Asks for as many entries as a batch may have, however large they were."""

    def _pace(self, found: int, size: int) -> None:
        self._room = self._batch_size


class _ReadsTheBusyRouteAlone(Delivery):
    """Reads on from a route as long as it has more."""

    _busy: Sequence[Route] = ()

    def _read(
        self, routes: list[Route], count: int, block_ms: int, now: float, *, with_commit: bool = False
    ) -> Exchange[list[tuple[Route, list[Entry]]]]:
        busy = [route for route in self._busy if route in routes]
        got = yield from super()._read(busy or routes, count, block_ms, now, with_commit=with_commit)
        self._busy = [route for route, found in got if len(found) >= count]
        return got


class _WaitsForMore(Delivery):
    """Waits for more with entries in hand."""

    def _read(
        self, routes: list[Route], count: int, block_ms: int, now: float, *, with_commit: bool = False
    ) -> Exchange[list[tuple[Route, list[Entry]]]]:
        return (yield from super()._read(routes, count, block_ms or 1000, now, with_commit=with_commit))


class _TakesTheFirstPartAlone(Delivery):
    """Takes of a read that was sent with a commit what its first part has brought."""

    def _read(
        self, routes: list[Route], count: int, block_ms: int, now: float, *, with_commit: bool = False
    ) -> Exchange[list[tuple[Route, list[Entry]]]]:
        exchange = super()._read(routes, count, block_ms, now, with_commit=with_commit)
        if not with_commit:
            return (yield from exchange)
        replies = yield next(exchange)
        try:
            exchange.send(replies[:1])
        except StopIteration as end:
            got: list[tuple[Route, list[Entry]]] = end.value
            return got
        raise RuntimeError("one command reads")


class _CountsOutages(Delivery):
    """Lets a try count that failed for an outage."""

    def put_off(self, entries: Sequence[Entry], now: float) -> Exchange[None]:
        yield from super().put_off([entry for entry in entries if entry.deliveries == 1], now)


class _CountsBatches(Delivery):
    """Leaves entries counted as delivered that were put off out of a batch."""

    def put_off(self, entries: Sequence[Entry], now: float) -> Exchange[None]:
        yield from super().put_off([entry for entry in entries if entry.deliveries > 1], now)


class _TakesBackOnce(Delivery):
    """Forgets a try that could not be taken back at once."""

    def put_off(self, entries: Sequence[Entry], now: float) -> Exchange[None]:
        try:
            yield from super().put_off(entries, now)
        except Unavailable:
            self._uncounted.open.clear()
            raise


class _ForgetsClaimsInDoubt(Delivery):
    """Takes a claim whose reply was lost for one that was not done."""

    def _fetch_older(self, now: float) -> Exchange[Batch | None]:
        try:
            return (yield from super()._fetch_older(now))
        except Unavailable:
            self._uncounted.open.clear()
            raise


class _SuspectsNobody(Delivery):
    """Takes entries of a batch that failed as one batch again."""

    def suspect(self, entries: Sequence[Entry], now: float) -> None:
        super().suspect(entries[:0], now)


class _SleepsOnFullPages(Delivery):
    """Waits for new entries after each page of pending ones, unless it is in the middle of one."""

    def _block_ms(self, now: float, most_ms: int) -> int:
        return 0 if self._pending._tried or self._pending._untried else most_ms


class _SleepsOnWhatItFound(Delivery):
    """Waits for new entries between those that it has found."""

    def _block_ms(self, _now: float, most_ms: int) -> int:
        return most_ms


class _TakesBackBlindly(Delivery):
    """Takes a try back whoever has the entry."""

    def put_off(self, entries: Sequence[Entry], now: float) -> Exchange[None]:
        self._pending.look_again(now)
        for entry in entries:
            claim = ("XCLAIM", entry.route.requests, self._group, self._consumer, 0, entry.id)
            with suppress(ServerError):  # its group is gone, as by the script
                yield (*claim, "RETRYCOUNT", entry.deliveries - 1, "JUSTID")


class _RenewsBlindly(Delivery):
    """Renews what another worker has taken over."""

    def renew(self, entries: Sequence[Entry]) -> Exchange[list[Entry]]:
        for entry in entries:
            yield "XCLAIM", entry.route.requests, self._group, self._consumer, 0, entry.id, "JUSTID"
        return list(entries)


class _TriesForEver(Delivery):
    """Never gives an entry up."""

    def _claim(self, candidate: Candidate, now: float) -> Exchange[Entry | None]:
        return (yield from super()._claim(candidate._replace(deliveries=1), now))


class _GivesUpEarly(Delivery):
    """Gives an entry up one try too soon."""

    def _claim(self, candidate: Candidate, now: float) -> Exchange[Entry | None]:
        return (yield from super()._claim(candidate._replace(deliveries=candidate.deliveries + 1), now))


class _InternalToAll(Delivery):
    """Answers an entry that is given up on its route's stream, whatever the request asked."""

    def dead_letter(self, entry: Entry, reason: str, reply: Answer | None, now: float) -> Exchange[Committed]:
        reply = reply and Answer(reply.entry, reply.payload)
        return (yield from super().dead_letter(entry, reason, reply, now))


class _DropsDeadLetters(Model):
    """Acknowledges an entry that is given up, and keeps no dead letter."""

    def _dead_letter(self, keys: list[bytes], args: list[bytes]) -> int | list[Any]:
        return self._xack(keys[0], args[0], args[1])


class _AcknowledgesFirst(Model):
    """Acknowledges an entry whose reply is then refused."""

    def _commit(self, keys: list[bytes], args: list[bytes]) -> list[Any]:
        statuses = super()._commit(keys, args)
        at = 2
        for position, status in enumerate(statuses):
            if status == 3:
                self._xack(keys[0], args[0], args[at].removeprefix(b"+"))
                statuses[position] = 1
            at += 6 if at < len(args) and args[at].startswith(b"+") else 2
        return [status for status in statuses if isinstance(status, int)]


class _AcknowledgesDeadLettersFirst(Model):
    """Acknowledges an entry whose dead letter, or reply beside it, is then refused."""

    def _dead_letter(self, keys: list[bytes], args: list[bytes]) -> int | list[Any]:
        moved = super()._dead_letter(keys, args)
        if isinstance(moved, list):
            self._xack(keys[0], args[0], args[1])
        return moved


class _RepliesAlways(Model):
    """Writes a reply whether or not this call acknowledged the entry."""

    def _commit(self, keys: list[bytes], args: list[bytes]) -> list[Any]:
        statuses = super()._commit(keys, args)
        at = 2
        for status in statuses[: len(statuses) - (3 in statuses)]:
            is_long = args[at].startswith(b"+")
            if status == 0:
                self._reply(keys[int(args[at + 2]) - 1] if is_long else keys[1], args[at + 1], (b"", b""))
            at += 6 if is_long else 2
        return statuses


class _WritesDeadLettersAlways(Model):
    """Writes a dead letter whether or not this call acknowledged the entry."""

    def _dead_letter(self, keys: list[bytes], args: list[bytes]) -> int | list[Any]:
        moved = super()._dead_letter(keys, args)
        if moved == 0:
            why = [b"dead_reason", args[2], b"dead_stream", keys[0], b"dead_entry", args[1]]
            self._add(keys[1], why)
        return moved


class _MarksTooFar(Model):
    """Keeps a low-water mark one entry too far."""

    def _done(self, group: Group) -> Id | None:
        return min(group.pending) if group.pending else group.last


class _TrimsPending(Model):
    """Trims up to what was delivered last."""

    def _needed(self, stream: Stream, group: Group) -> Id:
        return group.last[0], group.last[1] + 1


class _TrimsWithoutGroup(Model):
    """Trims what a lost group had not acknowledged."""

    def _trim(self, keys: list[bytes], args: list[bytes]) -> list[int]:
        found = self.peek(keys[0])
        if args[0] and isinstance(found, Stream) and args[0] not in found.groups:
            return [self._trim_to(keys[0], found, self._oldest([], int(args[1]))), 0, 0, 0]
        return super()._trim(keys, args)


class _NeedsMemoryForItsTurn(Model):
    """Takes no turn to trim at the memory limit."""

    def _turn(self, keys: list[bytes], args: list[bytes]) -> int:
        self._need_memory()
        return super()._turn(keys, args)


class _NeedsMemoryToTrim(Model):
    """Trims nothing at the memory limit, since the low-water mark is written first."""

    def _trim(self, keys: list[bytes], args: list[bytes]) -> list[int]:
        self._need_memory()
        return super()._trim(keys, args)


class _GoesByIdsAlone(Model):
    """Trims by the times of ids, wherever they lie."""

    def _notes(self, key: bytes) -> list[Note]:
        return []


class _NotesOfTheFuture(Model):
    """Notes that the last id arrived long ago."""

    def _take_note(
        self, key: bytes, stream: Stream, notes: list[Note], kept_ms: int, spacing: int
    ) -> tuple[list[Note], int]:
        kept, ahead = super()._take_note(key, stream, notes, kept_ms, spacing)
        return [(ms - 60_000, entry) for ms, entry in kept], ahead


class _SweepsHolders(Model):
    """Removes consumers with what they hold."""

    def _sweep(self, keys: list[bytes], args: list[bytes]) -> int:
        group = self.group(keys[0], args[0])
        for consumer in list(group.consumers) if group is not None else ():
            if args[2] == consumer:
                self._remove_consumer(keys[0], self._group(keys[0], args[0])[1], consumer)
        return super()._sweep(keys, args)


class _ForgetsWhatItReadAhead(Worker):
    """Reads anew after a commit, whatever was read before it."""

    def _commit(self, answers: Sequence[Answer], *, more: bool, last: bool) -> None:
        super()._commit(answers, more=more, last=last)
        self._prefetched = None


class _ForgetsItsCommit(Committer):
    """Takes a commit for done that was in flight when the connection broke."""

    def _finish(
        self,
        parts: Sequence[Sequence[Answer]],
        taken_ns: int,
        exchange: Exchange[Committed],
        receive: Callable[[], Any] | None = None,
    ) -> None:
        with suppress(Unavailable):
            drive(exchange, self._link, receive=receive)


class _ForgetsItsCommitBeforeARead(Committer):
    """Takes a commit for done whose read was sent with it, whatever the reply was."""

    def _complete(self, done: Committed | None, parts: Sequence[Sequence[Answer]], taken_ns: int) -> None:
        pass


class _ForgetsWhatCameWithACommit(Worker):
    """Forgets the entries of a read that was sent with a commit."""

    def _commit_and_read(self, parts: Sequence[Sequence[Answer]]) -> bool:
        done = super()._commit_and_read(parts)
        self._prefetched = None
        return done


class _AsksTooSoon(Committer):
    """Asks the streams while a commit is in flight."""

    def drive(self, exchange: Exchange[T]) -> T:
        return drive(exchange, self._link)


class Mutant(NamedTuple):
    """A planted bug, and within how many seeds it has to be found: several times what was seen to be needed."""

    seeds: int
    delivery: type[Delivery] = Delivery
    server: type[Model] = Model
    worker: type[Worker] = Worker
    handler: type[PuppetHandler] = PuppetHandler
    committer: type[Committer] = Committer


def _worker(delivery: type[Delivery], seeds: int) -> Mutant:
    return Mutant(seeds, delivery)


MUTANTS: dict[str, Mutant] = {
    "reply before acknowledgement": _worker(_ReplyFirst, 5),
    "unconditional reply": Mutant(50, server=_RepliesAlways),
    "group made again at $": Mutant(20, server=_GroupAtEnd),
    "counting by XAUTOCLAIM": _worker(_CountedByAutoclaim, 20),
    "group made at the mark of a deleted stream": Mutant(200, server=_GroupAtMark),
    "claim without the idle time": _worker(_ClaimsUnconditionally, 50),
    "own entries forgotten after a read error": _worker(_ForgetsItsOwn, 150),
    "own entries forgotten after too much": _worker(_ForgetsWhatWasTooMuch, 200),
    "COUNT that ignores bytes": _worker(_IgnoresBytes, 50),
    "busy route read alone": _worker(_ReadsTheBusyRouteAlone, 50),
    "wait for more with entries in hand": _worker(_WaitsForMore, 50),
    "read ahead forgotten": Mutant(50, worker=_ForgetsWhatItReadAhead),
    "outages count as tries": _worker(_CountsOutages, 100),
    "put off and still counted as delivered": _worker(_CountsBatches, 50),
    "put off and forgotten while the server is away": _worker(_TakesBackOnce, 200),
    "claim in doubt forgotten": _worker(_ForgetsClaimsInDoubt, 100),
    "batch that failed taken as one again": _worker(_SuspectsNobody, 40),
    "sleep after a full page": _worker(_SleepsOnFullPages, 50),
    "sleep while entries are found": _worker(_SleepsOnWhatItFound, 50),
    "try of another worker taken back": _worker(_TakesBackBlindly, 200),
    "entry of another worker renewed": _worker(_RenewsBlindly, 100),
    "tries without end": _worker(_TriesForEver, 20),
    "given up too early": _worker(_GivesUpEarly, 50),
    "acknowledged without a dead letter": Mutant(20, server=_DropsDeadLetters),
    "acknowledged before a reply that is refused": Mutant(100, server=_AcknowledgesFirst),
    "acknowledged before a dead letter that is refused": Mutant(200, server=_AcknowledgesDeadLettersFirst),
    "internal on the route's stream alone": _worker(_InternalToAll, 100),
    "unconditional dead letter": Mutant(100, server=_WritesDeadLettersAlways),
    "low-water mark too far": Mutant(20, server=_MarksTooFar),
    "pending entries trimmed": Mutant(20, server=_TrimsPending),
    "requests trimmed while their group is gone": Mutant(50, server=_TrimsWithoutGroup),
    "no turn to trim at the memory limit": Mutant(50, server=_NeedsMemoryForItsTurn),
    "no trim at the memory limit": Mutant(50, server=_NeedsMemoryToTrim),
    "arrivals ignored": Mutant(200, server=_GoesByIdsAlone),
    "arrivals noted too early": Mutant(50, server=_NotesOfTheFuture),
    "consumers swept with what they hold": Mutant(100, server=_SweepsHolders),
    "commit in flight forgotten": Mutant(150, committer=_ForgetsItsCommit),
    "streams asked before the commit in flight is finished": Mutant(50, committer=_AsksTooSoon),
    "commit forgotten that was sent with a read": Mutant(600, committer=_ForgetsItsCommitBeforeARead),
    "second part of a read forgotten": Mutant(100, delivery=_TakesTheFirstPartAlone),
    "entries forgotten that were read with a commit": Mutant(50, worker=_ForgetsWhatCameWithACommit),
    "audit after the commit": Mutant(20, worker=AuditsAfterwards),
    "no audit of isolated entries": Mutant(50, worker=AuditsNoneIsolated),
    "no audit of what is given up": Mutant(100, worker=AuditsNoneGivenUp),
    "replies while the audit is away": Mutant(50, worker=RepliesUnaudited),
    "no confirmation of what was taken again": Mutant(50, handler=ConfirmsFirstTries),
    "no confirmation of inconsistent tokens": Mutant(50, handler=ConfirmsConsistent),
    "no confirmation beside values": Mutant(50, handler=ConfirmsAllTokens),
    "confirmation of another connection": Mutant(50, handler=TrustsAnyConnection),
    "confirmation that failed forgotten": Mutant(50, handler=TrustsTheFirstTime),
}

FOUND_BY: dict[str, int] = {
    "commit forgotten that was sent with a read": 402,
    "put off and forgotten while the server is away": 94,
    "group made at the mark of a deleted stream": 60,
    "try of another worker taken back": 36,
    "unconditional dead letter": 33,
    "own entries forgotten after too much": 19,
    "claim in doubt forgotten": 17,
    "sleep after a full page": 13,
    "COUNT that ignores bytes": 11,
    "put off and still counted as delivered": 10,
    "sleep while entries are found": 10,
    "entry of another worker renewed": 9,
    "second part of a read forgotten": 9,
    "entries forgotten that were read with a commit": 9,
    "acknowledged before a dead letter that is refused": 8,
    "commit in flight forgotten": 8,
    "busy route read alone": 7,
    "consumers swept with what they hold": 7,
    "outages count as tries": 7,
    "arrivals ignored": 5,
    "wait for more with entries in hand": 3,
    "acknowledged before a reply that is refused": 3,
    "replies while the audit is away": 2,
    "confirmation of another connection": 2,
    "claim without the idle time": 1,
    "no confirmation of what was taken again": 1,
    "read ahead forgotten": 1,
    "no confirmation of inconsistent tokens": 1,
}
"""Seeds that have found some of them, to be tried before the others. This saves a minute and a half."""
