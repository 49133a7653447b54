"""Commits answers and dead letters: scripts write them, and acknowledge the entries they belong to. Sans-IO.

Touches: the request streams and their group, the dead-letter, response and reply streams.
"""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

from token_worker.chunks import bounded_chunks
from token_worker.errors import ServerError
from token_worker.redis.exchange import Exchange, RunScript
from token_worker.redis.script import Script
from token_worker.streams.delivery_protocol import DeliveryProtocol
from token_worker.streams.entry import Answer, Committed, Entry
from token_worker.streams.routes import Route

COMMIT = Script(__package__, "commit.lua", before="replies.lua")
DEAD_LETTER = Script(__package__, "dead_letter.lua", before="replies.lua")

COMMIT_ENTRIES = 500
COMMIT_BYTES = 2 << 20
"""Bounds of one commit script: it takes a few milliseconds of the server."""

_TARGET_REFUSED = frozenset({"NOPERM", "CROSSSLOT"})


class CommitScripts(DeliveryProtocol):
    """The part of a delivery that acknowledges entries of one consumer group."""

    def __init__(self, group: str) -> None:
        self._group = group

    @abstractmethod
    def _pause(self, route: Route, now: float) -> None:
        """Pause a route, because one of its streams cannot be written."""

    def commit(self, parts: Sequence[Sequence[Answer]], now: float) -> Exchange[Committed]:
        total = Committed()
        for part in parts:
            route, stuck = part[0].entry.route, len(total.stuck)
            try:
                yield from self._commit(route, part, total)
            except ServerError as error:
                total.stuck += (answer.entry for answer in part)
                total.refused[route.requests] = error.code
            if len(total.stuck) > stuck:
                self._pause(route, now)
        return total

    def parts(self, answers: Sequence[Answer]) -> list[list[Answer]]:
        if len(answers) == 1:
            return [[*answers]]
        by_route: dict[str, list[Answer]] = {}
        route: Route | None = None
        for answer in answers:
            if answer.entry.route is not route:  # mostly one route, or runs of them
                route = answer.entry.route
                of_route = by_route.setdefault(route.requests, [])
            of_route.append(answer)
        return [part for whole in by_route.values() for part in _parts(whole)]

    def _commit(self, route: Route, answers: Sequence[Answer], total: Committed) -> Exchange[None]:
        targets: dict[str, int] = {}
        args: list[Any] = [self._group, route.response_seconds]
        for answer in answers:
            entry, reply_to = answer.entry, answer.reply_to
            if reply_to is None and entry.others is None:
                args += (entry.id, answer.payload)
                continue
            number = 2 if reply_to is None else targets.setdefault(reply_to, len(targets) + 3)
            args += (b"+" + entry.id, answer.payload, number, *trace_of(entry), answer.forbidden)
        try:
            statuses = yield RunScript(COMMIT, (route.requests, route.responses, *targets), args)
        except ServerError as error:
            if not targets or error.code not in _TARGET_REFUSED:
                raise
        else:
            total.written += statuses.count(1)
            total.suppressed += statuses.count(0)
            if len(statuses) > len(answers):
                total.refused[route.responses] = statuses.pop().decode()
                total.stuck += [answer.entry for answer, status in zip(answers, statuses, strict=True) if status == 3]
            if targets:
                total.forbidden += [
                    answer.entry for answer, status in zip(answers, statuses, strict=True) if status == 2
                ]
            return
        # The server refused the script as a whole because of one of its targets, before anything was done.
        if len(answers) == 1:
            instead = Committed()
            yield from self._commit(route, [Answer(answers[0].entry, answers[0].forbidden)], instead)
            total.suppressed += instead.suppressed
            total.forbidden += [answers[0].entry] * instead.written
            total.stuck += instead.stuck
            total.refused |= instead.refused
            return
        for answer in answers:
            yield from self._commit(route, [answer], total)

    def dead_letter(self, entry: Entry, reason: str, reply: Answer | None, now: float) -> Exchange[Committed]:
        route = entry.route
        try:
            moved = yield from self._dead_letter(entry, reason, reply)
        except ServerError as error:
            refused = route.requests, error.code
        else:
            if isinstance(moved, int):
                return Committed(written=1) if moved else Committed(suppressed=1)
            number, why = moved
            refused = (route.dead_letters if number == 2 else route.responses), why.decode()
        self._pause(route, now)
        return Committed(stuck=[entry], refused=dict([refused]))

    def _dead_letter(self, entry: Entry, reason: str, reply: Answer | None) -> Exchange[Any]:
        route = entry.route
        payload, reply_to = (b"", None) if reply is None else (reply.payload, reply.reply_to)
        keys = (route.requests, route.dead_letters, route.responses)
        args = (self._group, entry.id, reason, entry.deliveries, route.response_seconds, payload, *trace_of(entry))
        if reply_to is None:
            return (yield RunScript(DEAD_LETTER, keys, args))
        try:
            return (yield RunScript(DEAD_LETTER, (*keys, reply_to), args))
        except ServerError as error:
            if error.code not in _TARGET_REFUSED:
                raise
        return (yield RunScript(DEAD_LETTER, keys, args))


def trace_of(entry: Entry) -> tuple[bytes, bytes]:
    """The fields ``traceparent`` and ``tracestate`` of the reply to an entry; empty ones are left out."""
    if entry.others is None:
        return b"", b""
    parent = entry.others.get(b"traceparent", b"")
    return parent, entry.others.get(b"tracestate", b"") if parent else b""  # ``tracestate`` alone means nothing


def _parts(answers: Sequence[Answer]) -> Iterable[list[Answer]]:
    sizes = [len(answer.payload) + len(answer.forbidden) for answer in answers]
    return bounded_chunks(answers, [1] * len(answers), sizes, max_count=COMMIT_ENTRIES, max_size=COMMIT_BYTES)
