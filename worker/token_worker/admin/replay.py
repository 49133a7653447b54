"""Replay: requests that were answered, or became dead letters, are sent again. Sans-IO like ``delivery``.

A replayed request is a new entry of the same request stream. It carries ``replay`` (a count) and ``replay_of`` (id of
the original, so that an inconsistent token is the same again), and no ``expires_at``. What is still undelivered or
pending is not sent, since it will be answered anyway; nor, in a range, what is a replay itself.

The record of a replay (``<stream>:replay``, beside the stream that is read) holds what was asked for and how far it has
come. It is written by the script that sends, and compared there: a replay that was cut short goes on exactly where it
stopped, and two that go on with it do not send anything twice.

Touches the request and dead-letter streams of the routes and these records; ``Comparison`` reads the replies.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal, NamedTuple

import msgspec

from token_worker.admin.lag import look
from token_worker.contract.codec import sniff, without_mark
from token_worker.contract.messages import MAX_ID_CHARACTERS, Format, Op
from token_worker.errors import CheckFailed, ServerError
from token_worker.redis.exchange import Exchange, RunScript
from token_worker.redis.script import Script
from token_worker.streams.routes import Route, replay_key
from token_worker.streams.stream_ids import FIRST_ID, LAST_ID, MOST, after, before, is_id, order

_RESEND = Script(__package__, "resend.lua")

PAGE_ENTRIES = 100
"""Entries read, and sent, in one go."""

RECORD_SECONDS = 7 * 86_400
"""How long a replay that was cut short can be gone on with."""

Decision = Literal["send", "undelivered", "pending", "replay", "unreadable"]
"""What becomes of an entry: sent; left, since it will be answered anyway; or is a replay; or has no readable id."""


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """What to replay from one stream.

    Attributes:
        stream: request stream, or dead-letter stream.
        first, last: ids of the range, both included.
        ids: these entries alone; empty: all of the range.
        origins: dead letters from these request streams alone; empty: from any.
        client, op, reason: only such; the reason is that of dead letters.
        force: also what is undelivered or pending.
        keep: leave dead letters where they are; else each is deleted as it is sent.
    """

    stream: str
    first: str = FIRST_ID
    last: str = LAST_ID
    ids: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    client: str | None = None
    op: Op | None = None
    reason: str | None = None
    force: bool = False
    keep: bool = False


class Progress(msgspec.Struct, kw_only=True):
    """The record of a replay.

    Attributes:
        done: the last entry that was dealt with.
        sent: requests sent so far.
    """

    selection: Selection
    done: str = FIRST_ID
    sent: int = 0


class Candidate(NamedTuple):
    """An entry that was selected, and what becomes of it; nothing of a value in it, but for the payload to send.

    Attributes:
        entry: id in the stream that is read.
        original: id of the request that was first sent.
        request_id, op, client_id: as the payload has them; empty where it has none.
        replays: its ``replay`` when it is sent.
        reply_to: stream that the request names for its reply.
    """

    route: Route
    entry: str
    original: str
    request_id: str
    op: str
    client_id: str
    replays: int
    reply_to: str | None
    decision: Decision
    payload: bytes
    fields: dict[bytes, bytes]


class Sent(NamedTuple):
    """A request sent again, as far as its reply is to be found and compared.

    Attributes:
        read: its id in the stream that was read.
        original: id of the request that was first sent.
        entry: id of its new entry.
        streams: where its reply can be: the route's responses, and the stream it names.
        was_answered: whether the original had a reply of its own; a dead letter had none, or one that says so.
    """

    read: str
    original: str
    entry: str
    request_id: str
    streams: tuple[str, ...]
    was_answered: bool


class Replay:
    """One replay of one stream.

    Args:
        routes: the routes whose requests are in the stream: one, or those that share a dead-letter stream.
        group: the group of the workers.
        selection: what to replay.
    """

    def __init__(self, routes: Sequence[Route], group: str, selection: Selection) -> None:
        self._routes = {route.requests: route for route in routes}
        self._group = group
        self._of_dead = selection.stream not in self._routes
        self.progress = Progress(selection=selection)
        self.missing: set[str] = set()
        """Of the ``ids`` selected, those that are not there, as far as the pages read tell."""
        self._raw = b""
        self._earlier: dict[str, int] = {}

    @property
    def record(self) -> str:
        """Key of the record."""
        return replay_key(self.progress.selection.stream)

    # -- the record

    def begin(self) -> Exchange[None]:
        """Fix the ends of the range, and note the replay.

        Raises:
            CheckFailed: one of this stream was cut short.
        """
        yield from self.prepare()
        raw = msgspec.json.encode(self.progress)
        if (yield "SET", self.record, raw, "NX", "EX", RECORD_SECONDS) is None:
            raise CheckFailed(
                f"{self.progress.selection.stream}: a replay is running, or was cut short: go on with it by --resume,"
                " or forget it by --forget"
            )
        self._raw = raw

    def prepare(self) -> Exchange[None]:
        """Fix the ends of the range at what is there: what is sent from now on is not in it."""
        selection = self.progress.selection
        first, last = yield from _ends(next(iter(self._routes.values())), selection.stream)
        self.progress.selection = msgspec.structs.replace(
            selection, first=max(selection.first, first, key=order), last=min(selection.last, last, key=order)
        )

    def resume(self) -> Exchange[bool]:
        """Go on with the replay of this stream that was cut short; False where there is none."""
        raw = yield "GET", self.record
        if raw is None:
            return False
        self.progress = msgspec.json.decode(raw, type=Progress)
        self._raw = raw
        return True

    def forget(self) -> Exchange[bool]:
        """Delete the record of a replay that was cut short; False where there is none."""
        return bool((yield "DEL", self.record))

    # -- the entries

    def next_page(self) -> Exchange[list[Candidate] | None]:
        """The next entries that were selected, to be sent or not; None at the end. Sends nothing."""
        selection = self.progress.selection
        if not self._earlier and not self._of_dead:
            yield from self._count_earlier()
        if selection.ids:
            entries = yield from self._named()
        else:
            start = after(max(self.progress.done, before(selection.first), key=order))
            if start is None or order(start) > order(selection.last):
                return None
            entries = yield "XRANGE", selection.stream, start, selection.last, "COUNT", PAGE_ENTRIES
        if not entries:
            return None
        self.progress.done = entries[-1][0].decode()
        found = [self._look_at(entry_id.decode(), raw) for entry_id, raw in entries]
        candidates = [candidate for candidate in found if candidate is not None and self._is_meant(candidate)]
        if self._of_dead or selection.force:
            return candidates
        return (yield from self._leave_open_ones(candidates))

    def send(self, candidates: Sequence[Candidate]) -> Exchange[list[Sent]]:
        """Send those of a page that are to be sent, and note how far the replay has come.

        Raises:
            CheckFailed: somebody else goes on with this replay.
            Unavailable: thrown in; perhaps they were sent. ``resume`` knows.
        """
        reached = self.progress.done
        chosen = [candidate for candidate in candidates if candidate.decision == "send"]
        sent: list[Sent] = []
        for _, part in groupby(chosen, key=lambda candidate: candidate.route.requests):
            left = list(part)
            has_ids = False
            while left:  # one, until its new id tells that those of the stream are not about to be used up
                now, left = (left, []) if has_ids else (left[:1], left[1:])
                self.progress.done = now[-1].entry
                went = yield from self._send(now)
                sent += went
                has_ids = any(order(it.entry)[0] < MOST for it in went)
        self.progress.done = reached
        return sent

    def end(self) -> Exchange[None]:
        """All was sent: there is nothing left to go on with."""
        yield "DEL", self.record

    def _send(self, chosen: Sequence[Candidate]) -> Exchange[list[Sent]]:
        selection = self.progress.selection
        self.progress.sent += len(chosen)
        raw = msgspec.json.encode(self.progress)
        is_moved = self._of_dead and not selection.keep
        args: list[Any] = [self._raw, raw, RECORD_SECONDS, int(is_moved)]
        for candidate in chosen:
            fields = candidate.fields
            args += (candidate.entry, candidate.payload)
            args += (fields.get(b"traceparent", b""), fields.get(b"tracestate", b""))
        new_ids = yield RunScript(_RESEND, (chosen[0].route.requests, self.record, selection.stream), args)
        if new_ids is None:
            raise CheckFailed(f"{selection.stream}: somebody else has gone on with this replay, or forgot it")
        self._raw = raw
        return [_sent(it, new.decode()) for it, new in zip(chosen, new_ids, strict=True) if new]

    def _named(self) -> Exchange[list[Any]]:
        selection, done = self.progress.selection, order(self.progress.done)
        entries: list[Any] = []
        for entry_id in sorted((it for it in selection.ids if order(it) > done), key=order):
            found = yield "XRANGE", selection.stream, entry_id, entry_id
            if not found:
                self.missing.add(entry_id)
            entries += found
            if len(entries) == PAGE_ENTRIES:
                break
        return entries

    def _count_earlier(self) -> Exchange[None]:
        """How often each request was replayed before, as far as the stream still tells."""
        self._earlier[""] = 0
        start: str | None = self.progress.selection.first
        while start and (page := (yield "XRANGE", self.progress.selection.stream, start, "+", "COUNT", PAGE_ENTRIES)):
            for _, raw in page:
                payload = _map(raw).get(b"payload", b"")
                if b"replay_of" in payload:
                    message = read_message(payload) or {}
                    original = _original(message)
                    self._earlier[original] = max(self._earlier.get(original, 0), _count(message))
            start = after(page[-1][0])

    def _look_at(self, entry_id: str, raw: list[bytes]) -> Candidate | None:
        fields = _map(raw)
        route = self._routes.get(fields.get(b"dead_stream", b"").decode(errors="replace"))
        if not self._of_dead:
            route = self._routes[self.progress.selection.stream]
        if route is None:
            return None  # a dead letter of a route that others serve
        original = fields.get(b"dead_entry", b"").decode(errors="replace") if self._of_dead else entry_id
        message = read_message(fields.get(b"payload", b""))
        if message is None or not is_id(original):
            return Candidate(route, entry_id, original, "", "", "", 0, None, "unreadable", b"", fields)
        is_replay = bool(_original(message))
        original = _original(message) or original
        count = max(_count(message), self._earlier.get(original, 0)) + 1
        selection = self.progress.selection
        skipped = is_replay and not self._of_dead and not selection.ids
        changed = {name: member for name, member in message.items() if name != "expires_at"}
        try:
            payload = _encode({**changed, "replay": count, "replay_of": original}, fields[b"payload"])
        except OverflowError:  # a number too large for any value, which no worker accepts either
            return Candidate(route, entry_id, original, message["id"], "", "", 0, None, "unreadable", b"", fields)
        return Candidate(
            route,
            entry_id,
            original,
            message["id"],
            _text(message.get("op")),
            _text(message.get("client_id")) or route.client_id or "",
            count,
            _text(message.get("reply_to")) or None,
            "replay" if skipped else "send",
            payload,
            fields,
        )

    def _is_meant(self, candidate: Candidate) -> bool:
        selection = self.progress.selection
        return (
            selection.client in (None, candidate.client_id)
            and selection.op in (None, candidate.op)
            and (not selection.origins or candidate.route.requests in selection.origins)
            and selection.reason in (None, candidate.fields.get(b"dead_reason", b"").decode(errors="replace"))
        )

    def _leave_open_ones(self, candidates: list[Candidate]) -> Exchange[list[Candidate]]:
        """The same, without a decision to send what is undelivered or pending.

        First what was delivered, then what of it is pending: what is delivered in between counts as undelivered.
        """
        if not candidates:
            return candidates
        stream = self.progress.selection.stream
        reached = yield from self._last_delivered(stream)
        pending: set[str] = set()
        start: str | None = candidates[0].entry
        while reached is not None and start is not None:
            page = yield "XPENDING", stream, self._group, start, candidates[-1].entry, PAGE_ENTRIES
            pending.update(entry_id.decode() for entry_id, *_ in page)
            if len(page) < PAGE_ENTRIES:
                break
            start = after(page[-1][0])
        looked: list[Candidate] = []
        for candidate in candidates:
            decision = candidate.decision
            if reached is None or order(candidate.entry) > order(reached):
                decision = "undelivered"
            elif candidate.entry in pending:
                decision = "pending"
            looked.append(candidate._replace(decision=decision))
        return looked

    def _last_delivered(self, stream: str) -> Exchange[str | None]:
        for raw in (yield "XINFO", "GROUPS", stream):
            group = _map(raw)
            if group[b"name"] == self._group.encode():
                return str(group[b"last-delivered-id"].decode())
        return None


# -- replies


@dataclass
class Compared:
    """How the replies to replayed requests compare with those to the originals.

    Attributes:
        same: they say the same.
        different: original, new entry and request id of those that say something else.
        no_original: there is no first reply to compare with: not retained, or that of a dead letter.
        missing: new entries without a reply so far.
    """

    same: int = 0
    different: list[tuple[str, str, str]] = field(default_factory=list)
    no_original: int = 0
    missing: list[str] = field(default_factory=list)


class Comparison:
    """Looks for the replies to what was sent, and to the originals; keeps hashes of them, no values.

    Args:
        sent: at least one.
    """

    def __init__(self, sent: Sequence[Sent]) -> None:
        self._sent = sent
        self._wanted = {it.entry for it in sent} | {it.original for it in sent}
        first = min((it.original for it in sent), key=order)
        self._read_to: dict[str, str | None] = {stream: first for it in sent for stream in it.streams}
        self._found: dict[str, bytes] = {}

    def look(self) -> Exchange[int]:
        """Read what was replied since the last look; how many of the replies that are waited for are still to come."""
        for stream in self._read_to:
            while page := (yield from _page_of(stream, self._read_to[stream])):
                for _, raw in page:
                    self._note(_map(raw).get(b"payload", b""))
                self._read_to[stream] = after(page[-1][0])
        return sum(it.entry not in self._found for it in self._sent)

    def result(self) -> Compared:
        """What was found so far."""
        compared = Compared()
        for it in self._sent:
            if it.entry not in self._found:
                compared.missing.append(it.entry)
            elif not it.was_answered or it.original not in self._found:
                compared.no_original += 1
            elif self._found[it.entry] == self._found[it.original]:
                compared.same += 1
            else:
                compared.different.append((it.original, it.entry, it.request_id))
        return compared

    def _note(self, payload: bytes) -> None:
        reply = read_message(payload)
        if reply is None or reply.get("request_entry") not in self._wanted:
            return
        said = [reply.get(name) for name in ("status", "value", "items", "error")]
        self._found[reply["request_entry"]] = hashlib.sha256(msgspec.msgpack.encode(said)).digest()


def _sent(candidate: Candidate, entry: str) -> Sent:
    named = () if candidate.reply_to is None else (candidate.reply_to,)
    was_answered = b"dead_entry" not in candidate.fields
    streams = (candidate.route.responses, *named)
    return Sent(candidate.entry, candidate.original, entry, candidate.request_id, streams, was_answered)


def _page_of(stream: str, position: str | None) -> Exchange[list[Any]]:
    if position is None:  # no entry comes after the last id
        return []
    try:
        page: list[Any] = yield "XRANGE", stream, position, "+", "COUNT", PAGE_ENTRIES
    except ServerError as error:
        if error.code != "WRONGTYPE":
            raise
        return []  # a reply_to that could take no reply
    return page


def _ends(route: Route, stream: str) -> Exchange[tuple[str, str]]:
    """The first id that is there, and the last that ever was."""
    ends = yield from look(route, stream)
    return FIRST_ID if ends.first is None else ends.first.decode(), ends.last_given.decode()


# -- payloads


def read_message(payload: bytes) -> dict[str, Any] | None:
    """The members of a request or reply; None where it cannot be read or has no readable id."""
    try:
        decode = msgspec.json.decode if sniff(payload) is Format.JSON else msgspec.msgpack.decode
        message = decode(without_mark(payload))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError):
        return None
    if not isinstance(message, dict):
        return None
    request_id = message.get("id")
    return message if isinstance(request_id, str) and 1 <= len(request_id) <= MAX_ID_CHARACTERS else None


def _encode(message: dict[str, Any], like: bytes) -> bytes:
    if sniff(like) is Format.JSON:
        return msgspec.json.encode(message)
    return msgspec.msgpack.encode(message)


def _original(message: dict[str, Any]) -> str:
    """Id of the request that a replay is of; empty for what is none."""
    original = _text(message.get("replay_of"))
    return original if is_id(original) else ""


def _count(message: dict[str, Any]) -> int:
    count = message.get("replay")
    return count if isinstance(count, int) and count > 0 else 0


def _text(member: object) -> str:
    return member if isinstance(member, str) else ""


def _map(raw: Sequence[Any]) -> dict[bytes, Any]:
    return dict(zip(raw[::2], raw[1::2], strict=True))
