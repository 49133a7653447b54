"""The model that the simulation runs against: the commands, and the scripts of the package, from the catalogue of each.

``test_model`` holds it against real servers. It has no trim by bytes, and none that its own time
cuts short.
"""

from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any

from simulation.commands import (
    LARGEST,
    ZERO,
    Commands,
    Group,
    Stream,
    after,
    before,
    format_id,
    parse_id,
    to_bytes,
)
from simulation.events import Id
from token_worker.redis.script import Script

NOTES_MS = 3_600_000
"""Age below which a note stays, as in ``trim.lua``."""

Note = tuple[int, Id]
"""A time in milliseconds, and the id that was the last one then."""


def _is_ahead(note: Note) -> bool:
    return note[1][0] > note[0]


class Model(Commands):
    """One server."""

    def __init__(self) -> None:
        super().__init__()
        self._scripts: dict[str, Callable[[list[bytes], list[bytes]], Any]] = {
            "dead_letter.lua": self._dead_letter,
            "commit.lua": self._commit,
            "group.lua": self._make_ours,
            "sweep.lua": self._sweep,
            "trim.lua": self._trim,
            "turn.lua": self._turn,
            "uncount.lua": self._uncount,
        }

    def run(self, script: Script, keys: Sequence[Any], args: Sequence[Any]) -> Any:
        """Run a script; errors as by ``call``."""
        return self._scripts[script.name](list(map(to_bytes, keys)), list(map(to_bytes, args)))

    def why_unfit(self, key: bytes) -> bytes | None:
        """The reason why a key cannot take an entry; None if it can."""
        if isinstance(self.peek(key), bytes):
            return b"WRONGTYPE"
        return None if self.has_ids(key) else b"ids used up"

    def _is_pending(self, keys: list[bytes], name: bytes, raw: bytes) -> bool:
        group = self.group(keys[0], name)
        return group is not None and parse_id(raw) in group.pending

    def _commit(self, keys: list[bytes], args: list[bytes]) -> list[Any]:
        self.stream(keys[0])
        name, ttl_ms = args[0], int(args[1]) * 1000
        statuses: list[Any] = []
        refused = None
        at = 2
        while at < len(args):
            entry, payload = args[at : at + 2]
            key, instead = keys[1], b""
            trace: Sequence[bytes] = (b"", b"")
            if entry.startswith(b"+"):
                entry, key, trace, instead = entry[1:], keys[int(args[at + 2]) - 1], args[at + 3 : at + 5], args[at + 5]
                at += 4
            at += 2
            if not self._is_pending(keys, name, entry):
                statuses.append(0)
            elif key != keys[1] and not self.why_unfit(key):
                statuses.append(1)
                self._xack(keys[0], name, entry)
                self._reply_elsewhere(key, payload, trace, ttl_ms)
            elif why := self.why_unfit(keys[1]):
                refused = why
                statuses.append(3)
            else:
                statuses.append(1 if key == keys[1] else 2)
                self._xack(keys[0], name, entry)
                self._reply(keys[1], payload if key == keys[1] else instead, trace)
        return statuses if refused is None else [*statuses, refused]

    def _reply(self, key: bytes, payload: bytes, trace: Sequence[bytes]) -> None:
        fields = [b"payload", payload]
        if trace[0]:
            fields += [b"traceparent", trace[0]]
            fields += [b"tracestate", trace[1]] if trace[1] else []
        self._add(key, fields)

    def _reply_elsewhere(self, key: bytes, payload: bytes, trace: Sequence[bytes], ttl_ms: int) -> None:
        is_new = self.peek(key) is None
        self._reply(key, payload, trace)
        if is_new or self._expires.get(key, self.now_ms + ttl_ms) < self.now_ms + ttl_ms:
            self._expires[key] = self.now_ms + ttl_ms

    def _dead_letter(self, keys: list[bytes], args: list[bytes]) -> int | list[Any]:
        name, raw, reason, deliveries, ttl, reply = args[:6]
        stream, entry = self.stream(keys[0]), parse_id(raw)
        if stream is None or not self._is_pending(keys, name, raw):
            return 0
        fields = stream.entries.get(entry)
        target = keys[3] if len(keys) > 3 and not self.why_unfit(keys[3]) else keys[2]
        if why := self._why_no_dead_letter(keys, target, is_there=fields is not None, is_told=bool(reply)):
            return why
        self._xack(keys[0], name, raw)
        if fields is not None:
            why = [b"dead_reason", reason, b"dead_stream", keys[0], b"dead_entry", raw, b"dead_deliveries", deliveries]
            self._add(keys[1], why + fields)
        if reply and target == keys[2]:
            self._reply(target, reply, args[6:8])
        elif reply:
            self._reply_elsewhere(target, reply, args[6:8], int(ttl) * 1000)
        return 2 if fields is None else 1

    def _why_no_dead_letter(
        self, keys: list[bytes], target: bytes, *, is_there: bool, is_told: bool
    ) -> list[Any] | None:
        """Types are looked at first, of all streams; ids only of those that are written to."""
        for at in (1, 2) if is_told else (1,):
            if isinstance(self.peek(keys[at]), bytes):
                return [at + 1, b"WRONGTYPE"]
        if is_there and not self.has_ids(keys[1]):
            return [2, b"ids used up"]
        if is_told and not self.has_ids(target):
            if is_there:
                self._make(keys[1])  # the script has added the copy and deleted it again: the stream stays
            return [3, b"ids used up"]
        return None

    def _needed(self, stream: Stream, group: Group) -> Id:
        """The oldest entry that a group still needs."""
        return min(group.pending) if group.pending else after(group.last)

    def _done(self, group: Group) -> Id | None:
        """The id up to which a group has acknowledged everything."""
        return before(min(group.pending)) if group.pending else group.last

    def _turn(self, keys: list[bytes], args: list[bytes]) -> int:
        if self.peek(keys[0]) not in (None, args[0]):
            return 0
        self._write(keys[0], args[0])
        self._expires[keys[0]] = self.now_ms + int(args[1])
        return 1

    def _make_ours(self, keys: list[bytes], args: list[bytes]) -> int:
        if self.group(keys[0], args[0]) is not None:
            return 0
        stream = self.stream(keys[0]) or self._make(keys[0])
        mark = self.peek(keys[1]) if len(keys) > 1 else None
        acknowledged = parse_id(mark) if isinstance(mark, bytes) else None
        start = self._start(stream, acknowledged)
        if acknowledged not in (None, start):
            self._write(keys[1], b"0-0")
        self._make_group(keys[0], stream, args[0], start)
        if len(keys) > 2:
            self._write(keys[2], b"")
        return 1

    def _start(self, stream: Stream, mark: Id | None) -> Id:
        """The position at which a new group begins after the old one was lost."""
        return ZERO if mark is None or stream.last == ZERO or stream.last < mark else mark

    def _trim(self, keys: list[bytes], args: list[bytes]) -> list[int]:
        if not isinstance(stream := self.peek(keys[0]), Stream):
            return [0, 0, 0, 0]
        ours, keep_ms, hold_ms, idle_ms = args[0], int(args[1]), int(args[3]) if args[3] else None, int(args[4])
        is_served = not ours or ours in stream.groups
        notes, ahead = self._notes(keys[1]) if is_served else [], 0
        if args[5]:
            notes, ahead = self._take_note(keys[1], stream, notes, max(keep_ms, hold_ms or 0), int(args[5]))
        if not is_served:
            return [0, 0, 0, ahead]
        bound, hold = self._oldest(notes, keep_ms), None if hold_ms is None else self._oldest(notes, hold_ms)
        given_up = 0
        for name, group in sorted(stream.groups.items()):
            needed = self._needed(stream, group)
            if name == ours and (done := self._done(group)) is not None:
                self._write(keys[2], format_id(done))
            if needed >= bound:
                continue
            is_read = hold is None or name == ours or any(idle < idle_ms for _, _, idle in self._consumers(group))
            if hold is not None and not is_read and needed < hold:
                given_up += 1
                needed = hold
            bound = min(bound, needed)
        return [self._trim_to(keys[0], stream, bound), given_up, 0, ahead]

    def _notes(self, key: bytes) -> list[Note]:
        found = self.peek(key)
        words = found.split() if isinstance(found, bytes) else []
        return [(int(ms), parse_id(entry)) for ms, entry in zip(words[::2], words[1::2], strict=True)]

    def _take_note(
        self, key: bytes, stream: Stream, notes: list[Note], kept_ms: int, spacing: int
    ) -> tuple[list[Note], int]:
        now = self.now_ms
        ahead = max(0, min(stream.last[0] - now, 2**53))
        notes = [(ms, entry) for ms, entry in notes if ms <= now and entry <= stream.last]
        if notes and now - notes[-1][0] < spacing:
            return notes, ahead
        every = [*notes, (now, stream.last)]
        kept: list[Note] = []
        for note, following in zip_longest(every, every[1:]):
            if following is None:
                is_needed = True
            elif kept:
                is_needed = following[0] - kept[-1][0] > max(spacing, (now - following[0]) / 16)
            else:
                is_needed = following[0] > now - max(kept_ms, NOTES_MS) and (_is_ahead(note) or _is_ahead(following))
            if is_needed:
                kept.append(note)
        self._write(key, b" ".join(b"%d %s" % (ms, format_id(entry)) for ms, entry in kept))
        return kept, ahead

    def _oldest(self, notes: list[Note], kept_ms: int) -> Id:
        """The oldest id to keep, of entries that may be so old."""
        if kept_ms == 0:
            return LARGEST
        past = [after(entry) for ms, entry in notes if ms <= self.now_ms - kept_ms]
        return max([(max(self.now_ms - kept_ms, 0), 0), *past])

    def _sweep(self, keys: list[bytes], args: list[bytes]) -> int:
        group = self.group(keys[0], args[0])
        if group is None:
            return 0
        gone = [
            consumer
            for consumer, held, idle_ms in self._consumers(group)
            if args[2] in (b"", consumer) and held == 0 and idle_ms >= int(args[1])
        ]
        for consumer in gone:
            self._remove_consumer(keys[0], group, consumer)
        return len(gone)

    def _uncount(self, keys: list[bytes], args: list[bytes]) -> int:
        name, consumer, *entries = args
        _, group = self._group(keys[0], name)
        taken_back = 0
        for raw, deliveries in zip(entries[::2], entries[1::2], strict=True):
            pending = group.pending.get(parse_id(raw))
            if pending is not None and (pending.owner, pending.count) == (consumer, int(deliveries)):
                before = b"%d" % (pending.count - 1)
                self._xclaim(keys[0], name, consumer, b"0", raw, b"RETRYCOUNT", before, b"JUSTID")
                taken_back += 1
        return taken_back
