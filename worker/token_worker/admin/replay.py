"""Replay: sends requests again that were answered, or that became dead letters. Sans-IO like ``delivery``.

A replayed request is a new entry of the same request stream. It carries ``replay`` (a count) and ``replay_of`` (the id
of the original entry, so that an inconsistent token is the same again). It has no ``expires_at``. Entries that are
undelivered or pending are not sent, because a worker will answer them anyway. Of a range, entries that are replays
themselves are not sent either.

The record of a replay holds what was asked for and how far the replay has come. Its key is ``<stream>:replay``, named
after the stream that is read. The script that sends requests compares the record first and writes the new one. So an
interrupted replay continues exactly where it stopped, and two that continue at the same time send nothing twice.

Touches the request and dead-letter streams of the routes, and these records. ``reply_comparison`` reads the replies.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Any, Literal, NamedTuple

import msgspec

from token_worker.admin.pages import PAGE_ENTRIES, Pages, size_of
from token_worker.admin.payloads import encode_like, fields_of, read_message, replay_count, replay_origin, text_member
from token_worker.admin.reply_comparison import ResentRequest
from token_worker.admin.stream_ends import read_ends
from token_worker.contract.messages import Op
from token_worker.errors import CheckFailed
from token_worker.redis.exchange import Exchange, RunScript
from token_worker.redis.script import Script
from token_worker.streams.own_keys import replay_record
from token_worker.streams.reads import BATCH_BYTES
from token_worker.streams.routes import Route
from token_worker.streams.stream_ids import FIRST_ID, LAST_ID, MOST, after, before, is_id, order

_RESEND = Script(__package__, "resend.lua")

RECORD_SECONDS = 7 * 86_400
"""Time for which an interrupted replay can be continued."""

Decision = Literal["send", "undelivered", "pending", "replay", "unreadable"]
"""The decision about a selected entry: it is sent, or the reason why not.

``undelivered`` and ``pending``: a worker will answer it anyway. ``replay``: it is a replay itself. ``unreadable``: its
payload cannot be read.
"""


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """The entries of one stream that are to be replayed. An entry is selected if all filters take it.

    Attributes:
        stream: request stream, or dead-letter stream.
        first, last: ids of the range, both included.
        ids: only these entries; empty: all of the range.
        origins: only dead letters from these request streams; empty: from any.
        client, op: only requests of this client, with this operation.
        reason: only dead letters with this reason.
        force: also entries that are undelivered or pending.
        keep: leave dead letters in their stream; else each is deleted when it is sent.
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


class ReplayRecord(msgspec.Struct, kw_only=True):
    """The record of a replay, as it is stored.

    Attributes:
        done: the last entry that was dealt with.
        sent: requests sent so far.
    """

    selection: Selection
    done: str = FIRST_ID
    sent: int = 0


class ReplayCandidate(NamedTuple):
    """A selected entry and what happens to it. Only ``payload`` and ``fields`` hold values.

    Attributes:
        entry: id in the stream that is read.
        original: id of the entry that was sent first.
        request_id, op, client_id: as in the payload; empty if absent.
        reply_to: stream that the request names for its reply.
        decision: see ``Decision`` above.
        payload: the payload to send.
        fields: the fields of the entry.
    """

    route: Route
    entry: str
    original: str
    request_id: str
    op: str
    client_id: str
    reply_to: str | None
    decision: Decision
    payload: bytes
    fields: dict[bytes, bytes]


class Replay:
    """One replay of one stream.

    Args:
        routes: the routes whose requests are in the stream: one, or those that share a dead-letter stream.
        group: the consumer group of the workers.
        selection: the entries to replay.
    """

    def __init__(self, routes: Sequence[Route], group: str, selection: Selection) -> None:
        self._routes = {route.requests: route for route in routes}
        self._group = group
        self._reads_dead_letters = selection.stream not in self._routes
        self.progress = ReplayRecord(selection=selection)
        self.missing: set[str] = set()
        """Selected ``ids`` that do not exist, of the pages read so far."""
        self._raw = b""
        """The record as it is stored."""
        self._earlier: dict[str, int] = {}
        """By original entry: how often it was replayed before."""
        self._pages = Pages()

    @property
    def record(self) -> str:
        """Key of the record."""
        return replay_record(self.progress.selection.stream)

    # -- the record

    def begin(self) -> Exchange[None]:
        """Fix the ends of the range, and store the record.

        Raises:
            CheckFailed: an earlier replay of this stream was interrupted, or is running.
        """
        yield from self.prepare()
        raw = msgspec.json.encode(self.progress)
        if (yield "SET", self.record, raw, "NX", "EX", RECORD_SECONDS) is None:
            raise CheckFailed(
                f"{self.progress.selection.stream}: a replay is running, or was interrupted: continue it with --resume,"
                " or forget it with --forget"
            )
        self._raw = raw

    def prepare(self) -> Exchange[None]:
        """Fix the ends of the range to the entries that exist now, so that the replay never reads its own requests."""
        selection = self.progress.selection
        ends = yield from read_ends(next(iter(self._routes.values())), selection.stream)
        first = FIRST_ID if ends.first is None else ends.first.decode()
        self.progress.selection = msgspec.structs.replace(
            selection,
            first=max(selection.first, first, key=order),
            last=min(selection.last, ends.last_given.decode(), key=order),
        )

    def resume(self) -> Exchange[bool]:
        """Continue the interrupted replay of this stream. Returns False if there is none."""
        raw = yield "GET", self.record
        if raw is None:
            return False
        self.progress = msgspec.json.decode(raw, type=ReplayRecord)
        self._raw = raw
        return True

    def forget(self) -> Exchange[bool]:
        """Delete the record of an interrupted replay. Returns False if there is none."""
        return bool((yield "DEL", self.record))

    # -- the entries

    def next_page(self) -> Exchange[list[ReplayCandidate] | None]:
        """Read the next selected entries and decide what happens to each; None at the end. Sends nothing."""
        selection = self.progress.selection
        if not self._earlier and not self._reads_dead_letters:
            yield from self._count_earlier()
        entries: list[Any]
        if selection.ids:
            entries = yield from self._read_ids()
        else:
            start = after(max(self.progress.done, before(selection.first), key=order))
            if start is None or order(start) > order(selection.last):
                return None
            entries = yield from self._pages.read(selection.stream, start, selection.last)
        if not entries:
            return None
        self.progress.done = entries[-1][0].decode()
        found = [self._examine(entry_id.decode(), raw) for entry_id, raw in entries]
        candidates = [candidate for candidate in found if candidate is not None and self._is_selected(candidate)]
        if self._reads_dead_letters or selection.force:
            return candidates
        return (yield from self._except_open(candidates))

    def send(self, candidates: Sequence[ReplayCandidate]) -> Exchange[list[ResentRequest]]:
        """Send the candidates of a page that are to be sent, and store how far the replay has come.

        Raises:
            CheckFailed: another command continued this replay, or forgot it.
            Unavailable: thrown in by the caller. Perhaps they were sent; after ``resume``, the record tells.
        """
        reached = self.progress.done
        chosen = [candidate for candidate in candidates if candidate.decision == "send"]
        resent: list[ResentRequest] = []
        for _, group in groupby(chosen, key=lambda candidate: candidate.route.requests):
            waiting = list(group)
            has_ids = False
            while waiting:  # one at a time, until a new id shows that the ids of the stream are not nearly used up
                part, waiting = (waiting, []) if has_ids else (waiting[:1], waiting[1:])
                self.progress.done = part[-1].entry
                added = yield from self._send(part)
                resent += added
                has_ids = any(order(request.entry)[0] < MOST for request in added)
        self.progress.done = reached
        return resent

    def end(self) -> Exchange[None]:
        """Delete the record: the replay is complete."""
        yield "DEL", self.record

    def _send(self, chosen: Sequence[ReplayCandidate]) -> Exchange[list[ResentRequest]]:
        selection = self.progress.selection
        self.progress.sent += len(chosen)
        raw = msgspec.json.encode(self.progress)
        is_moved = self._reads_dead_letters and not selection.keep
        args: list[Any] = [self._raw, raw, RECORD_SECONDS, int(is_moved)]
        for candidate in chosen:
            fields = candidate.fields
            args += (candidate.entry, candidate.payload)
            args += (fields.get(b"traceparent", b""), fields.get(b"tracestate", b""))
        new_ids = yield RunScript(_RESEND, (chosen[0].route.requests, self.record, selection.stream), args)
        if new_ids is None:
            raise CheckFailed(f"{selection.stream}: another command has continued this replay, or forgot it")
        self._raw = raw
        return [_resent(candidate, new.decode()) for candidate, new in zip(chosen, new_ids, strict=True) if new]

    def _read_ids(self) -> Exchange[list[Any]]:
        """Read the next entries of the selected ``ids``, and note those that do not exist."""
        selection, done = self.progress.selection, order(self.progress.done)
        entries: list[Any] = []
        for entry_id in sorted((entry_id for entry_id in selection.ids if order(entry_id) > done), key=order):
            found = yield "XRANGE", selection.stream, entry_id, entry_id
            if not found:
                self.missing.add(entry_id)
            entries += found
            if len(entries) == PAGE_ENTRIES or size_of(entries) >= BATCH_BYTES:
                break
        return entries

    def _count_earlier(self) -> Exchange[None]:
        """Count how often each request was replayed before, by the replays that are still in the stream."""
        self._earlier[""] = 0
        start: str | None = self.progress.selection.first
        while start and (page := (yield from self._pages.read(self.progress.selection.stream, start))):
            for _, raw in page:
                payload = fields_of(raw).get(b"payload", b"")
                if b"replay_of" in payload:
                    message = read_message(payload) or {}
                    original = replay_origin(message)
                    self._earlier[original] = max(self._earlier.get(original, 0), replay_count(message))
            start = after(page[-1][0])

    def _examine(self, entry_id: str, raw: list[bytes]) -> ReplayCandidate | None:
        """Make a candidate of an entry. None for a dead letter of a route that other workers serve."""
        fields = fields_of(raw)
        selection = self.progress.selection
        requests, original = selection.stream, entry_id
        if self._reads_dead_letters:
            requests = fields.get(b"dead_stream", b"").decode(errors="replace")
            original = fields.get(b"dead_entry", b"").decode(errors="replace")
        route = self._routes.get(requests)
        if route is None:
            return None
        message = read_message(fields.get(b"payload", b""))
        if message is None or not is_id(original):
            return ReplayCandidate(route, entry_id, original, "", "", "", None, "unreadable", b"", fields)
        is_replay = bool(replay_origin(message))
        original = replay_origin(message) or original
        count = max(replay_count(message), self._earlier.get(original, 0)) + 1
        is_skipped = is_replay and not self._reads_dead_letters and not selection.ids
        changed = {name: member for name, member in message.items() if name != "expires_at"}
        try:
            payload = encode_like(fields[b"payload"], {**changed, "replay": count, "replay_of": original})
        except OverflowError:  # an integer that is too large for any value: no worker accepts it either
            return ReplayCandidate(route, entry_id, original, message["id"], "", "", None, "unreadable", b"", fields)
        return ReplayCandidate(
            route,
            entry_id,
            original,
            message["id"],
            text_member(message, "op"),
            text_member(message, "client_id") or route.client_id or "",
            text_member(message, "reply_to") or None,
            "replay" if is_skipped else "send",
            payload,
            fields,
        )

    def _is_selected(self, candidate: ReplayCandidate) -> bool:
        selection = self.progress.selection
        return (
            selection.client in (None, candidate.client_id)
            and selection.op in (None, candidate.op)
            and (not selection.origins or candidate.route.requests in selection.origins)
            and selection.reason in (None, candidate.fields.get(b"dead_reason", b"").decode(errors="replace"))
        )

    def _except_open(self, candidates: list[ReplayCandidate]) -> Exchange[list[ReplayCandidate]]:
        """Change the decision for candidates that a worker will answer anyway: undelivered or pending.

        The last delivered id is read before the pending entries. So an entry that is delivered in between counts as
        undelivered.
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
        decided: list[ReplayCandidate] = []
        for candidate in candidates:
            decision = candidate.decision
            if reached is None or order(candidate.entry) > order(reached):
                decision = "undelivered"
            elif candidate.entry in pending:
                decision = "pending"
            decided.append(candidate._replace(decision=decision))
        return decided

    def _last_delivered(self, stream: str) -> Exchange[str | None]:
        """The last id that was delivered to the group; None if the group does not exist."""
        for raw in (yield "XINFO", "GROUPS", stream):
            group = fields_of(raw)
            if group[b"name"] == self._group.encode():
                return str(group[b"last-delivered-id"].decode())
        return None


def _resent(candidate: ReplayCandidate, entry: str) -> ResentRequest:
    named = () if candidate.reply_to is None else (candidate.reply_to,)
    return ResentRequest(
        candidate.entry,
        candidate.original,
        entry,
        candidate.request_id,
        (candidate.route.responses, *named),
        was_answered=b"dead_entry" not in candidate.fields,
    )
