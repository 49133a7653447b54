"""An in-memory model of one Redis server: the commands that workers and their producers send, in virtual time.

Replies are those of RESP2, raw. Errors are those that ``RedisLink`` raises. It leaves out, on purpose:
``XREADGROUP`` never blocks (the caller may try again) and reads no history; ``XINFO`` answers only the fields that
scripts read; and nothing is bounded in bytes.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

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
from token_worker.errors import ServerError, Unavailable

ZERO: Id = (0, 0)
START_MS = 1_700_000_000_000
"""The time of a new server."""

LARGEST: Id = (2**64 - 1, 2**64 - 1)


@dataclass
class Pending:
    """A pending entry of a group."""

    owner: bytes
    delivered_ms: int
    count: int


@dataclass
class Group:
    """A consumer group; consumers by name with the time they were last seen."""

    last: Id
    pending: dict[Id, Pending] = field(default_factory=dict)
    consumers: dict[bytes, int] = field(default_factory=dict)


@dataclass
class Stream:
    """A stream; ``ids`` are those of the entries, in order."""

    entries: dict[Id, list[bytes]] = field(default_factory=dict)
    ids: list[Id] = field(default_factory=list)
    last: Id = ZERO
    groups: dict[bytes, Group] = field(default_factory=dict)


def parse_id(raw: bytes) -> Id:
    """An id as two numbers."""
    first, _, second = raw.partition(b"-")
    return int(first), int(second or 0)


def format_id(parsed: Id) -> bytes:
    """An id as servers write it."""
    return b"%d-%d" % parsed


def after(entry: Id) -> Id:
    """The id that follows; the largest there is has none, and gives one that no entry has."""
    return (entry[0], entry[1] + 1) if entry[1] < LARGEST[1] or entry == LARGEST else (entry[0] + 1, 0)


def before(entry: Id) -> Id | None:
    """The id that precedes, None where there is none."""
    if entry[1] > 0:
        return entry[0], entry[1] - 1
    return (entry[0] - 1, 2**64 - 1) if entry[0] > 0 else None


def to_bytes(argument: Any) -> bytes:
    """An argument as it is sent."""
    return argument if isinstance(argument, bytes) else str(argument).encode()


def error(code: str) -> ServerError:
    """An error that no later try mends."""
    return ServerError("streams", code)


class Commands:
    """One server.

    Attributes:
        now_ms: its clock, which may be set to any time.
        is_full: its memory limit is reached; what needs memory is refused.
        events: what changed; the observer takes them away.
    """

    def __init__(self) -> None:
        self.now_ms = START_MS
        self.is_full = False
        self.events: list[Event] = []
        self._keys: dict[bytes, Stream | bytes] = {}
        self._expires: dict[bytes, int] = {}
        self._commands: dict[str, Callable[..., Any]] = {
            "DEL": self._del,
            "FLUSHALL": self._flush_all,
            "GET": self._get,
            "SET": self._set,
            "TIME": self._time,
            "TTL": self._ttl,
            "XACK": self._xack,
            "XADD": self._xadd,
            "XAUTOCLAIM": self._xautoclaim,
            "XCLAIM": self._xclaim,
            "XDEL": self._xdel,
            "XGROUP": self._xgroup,
            "XINFO": self._xinfo,
            "XLEN": self._xlen,
            "XPENDING": self._xpending,
            "XRANGE": self._xrange,
            "XREADGROUP": self._xreadgroup,
            "XTRIM": self._xtrim,
        }

    def call(self, name: str, *arguments: Any) -> Any:
        """Do a command; its raw reply.

        Raises:
            Unavailable: the memory limit is reached (OOM).
            ServerError: any other error that a server answers with.
        """
        return self._commands[name](*map(to_bytes, arguments))

    def stream(self, name: bytes) -> Stream | None:
        """The stream of that name, None where there is none.

        Raises:
            ServerError: the key is of another type.
        """
        found = self.peek(name)
        if isinstance(found, bytes):
            raise error("WRONGTYPE")
        return found

    def count(self) -> int:
        """Entries of all streams."""
        return sum(len(found.ids) for key in list(self._keys) if isinstance(found := self.peek(key), Stream))

    def group(self, name: bytes, group: bytes) -> Group | None:
        """A group, None where there is none."""
        found = self.peek(name)
        return found.groups.get(group) if isinstance(found, Stream) else None

    # -- keys

    def peek(self, key: bytes) -> Stream | bytes | None:
        """The value of a key; None if the key does not exist."""
        if self._expires.get(key, self.now_ms + 1) <= self.now_ms:
            self._remove(key)
        return self._keys.get(key)

    def _remove(self, key: bytes) -> int:
        self._expires.pop(key, None)
        if self._keys.pop(key, None) is None:
            return 0
        self.events.append(Gone(key))
        return 1

    def _need_memory(self) -> None:
        if self.is_full:
            raise Unavailable("streams", "OOM")

    def _del(self, *keys: bytes) -> int:
        return sum(self._remove(key) for key in keys if self.peek(key) is not None)

    def _flush_all(self) -> bytes:
        for key in list(self._keys):
            self._remove(key)
        return b"OK"

    def _get(self, key: bytes) -> bytes | None:
        found = self.peek(key)
        if isinstance(found, Stream):
            raise error("WRONGTYPE")
        return found

    def _set(self, key: bytes, value: bytes, *options: bytes) -> bytes | None:
        self._need_memory()
        if b"NX" in options and self.peek(key) is not None:
            return None
        self._write(key, value)
        if b"PX" in options:
            self._expires[key] = self.now_ms + int(options[options.index(b"PX") + 1])
        return b"OK"

    def _write(self, key: bytes, value: bytes) -> None:
        if isinstance(self._keys.get(key), Stream):
            self._remove(key)
        self._keys[key] = value
        self._expires.pop(key, None)
        self.events.append(Written(key, value))

    def _time(self) -> list[bytes]:
        return [b"%d" % (self.now_ms // 1000), b"%d" % (self.now_ms % 1000 * 1000)]

    def _ttl(self, key: bytes) -> int:
        if self.peek(key) is None:
            return -2
        return (self._expires[key] - self.now_ms + 500) // 1000 if key in self._expires else -1

    # -- streams

    def _make(self, key: bytes) -> Stream:
        found = self.stream(key)
        if found is None:
            found = self._keys[key] = Stream()
        return found

    def _xadd(self, key: bytes, at: bytes, *fields: bytes) -> bytes:
        self._need_memory()
        return format_id(self._add(key, list(fields), None if at == b"*" else parse_id(at)))

    def _add(self, key: bytes, fields: list[bytes], entry: Id | None = None) -> Id:
        if not self.has_ids(key):
            raise error("ERR")
        found = self.stream(key)
        last = found.last if found else ZERO
        if entry is None:
            entry = (self.now_ms, 0) if self.now_ms > last[0] else after(last)
        elif entry <= last:
            raise error("ERR")
        stream = self._make(key)
        stream.last = entry
        stream.ids.append(entry)
        stream.entries[entry] = fields
        self.events.append(Added(key, entry, fields))
        return entry

    def has_ids(self, key: bytes) -> bool:
        """Tell whether a stream has ids left."""
        found = self.stream(key)
        return found is None or found.last < LARGEST

    def _xlen(self, key: bytes) -> int:
        found = self.stream(key)
        return len(found.ids) if found else 0

    def _xrange(self, key: bytes, start: bytes, end: bytes) -> list[Any]:
        found = self.stream(key)
        if found is None:
            return []
        first, last = _bounds(start, end)
        return [[format_id(entry), found.entries[entry]] for entry in found.ids if first <= entry <= last]

    def _xdel(self, key: bytes, *entries: bytes) -> int:
        found = self.stream(key)
        return self._delete(key, found, map(parse_id, entries), by_trim=False) if found else 0

    def _xtrim(self, key: bytes, strategy: bytes, bound: bytes) -> int:
        found = self.stream(key)
        return self._trim_to(key, found, parse_id(bound)) if found and strategy == b"MINID" else 0

    def _trim_to(self, key: bytes, stream: Stream, bound: Id) -> int:
        return self._delete(key, stream, stream.ids[: bisect_left(stream.ids, bound)], by_trim=True)

    def _delete(self, key: bytes, stream: Stream, entries: Any, *, by_trim: bool) -> int:
        deleted = 0
        for entry in entries:
            if stream.entries.pop(entry, None) is not None:
                stream.ids.pop(bisect_left(stream.ids, entry))
                self.events.append(Deleted(key, entry, by_trim))
                deleted += 1
        return deleted

    # -- groups

    def _group(self, key: bytes, name: bytes) -> tuple[Stream, Group]:
        stream = self.stream(key)
        if stream is None or name not in stream.groups:
            raise error("NOGROUP")
        return stream, stream.groups[name]

    def _xgroup(self, action: bytes, key: bytes, name: bytes, *rest: bytes) -> Any:
        if action == b"CREATE":
            return self._create(key, name, *rest)
        stream = self.stream(key)
        if stream is None:
            raise error("ERR")
        if action == b"DESTROY":
            if stream.groups.pop(name, None) is None:
                return 0
            self.events.append(GroupGone(key))
            return 1
        return self._remove_consumer(key, self._group(key, name)[1], rest[0])

    def _create(self, key: bytes, name: bytes, start: bytes, *options: bytes) -> bytes:
        self._need_memory()
        if self.stream(key) is None and b"MKSTREAM" not in options:
            raise error("ERR")
        stream = self._make(key)
        if name in stream.groups:
            raise error("BUSYGROUP")
        self._make_group(key, stream, name, stream.last if start == b"$" else parse_id(start))
        return b"OK"

    def _make_group(self, key: bytes, stream: Stream, name: bytes, at: Id) -> None:
        stream.groups[name] = Group(at)
        self.events.append(GroupMade(key, at))

    def _remove_consumer(self, key: bytes, group: Group, consumer: bytes) -> int:
        held = [entry for entry, pending in group.pending.items() if pending.owner == consumer]
        for entry in held:
            self._drop(key, group, entry)
        group.consumers.pop(consumer, None)
        return len(held)

    def _drop(self, key: bytes, group: Group, entry: Id) -> None:
        del group.pending[entry]
        self.events.append(Dropped(key, entry))

    def _xreadgroup(self, _group: bytes, name: bytes, consumer: bytes, *options: bytes) -> list[Any] | None:
        count = int(options[options.index(b"COUNT") + 1])
        rest = options[options.index(b"STREAMS") + 1 :]
        reply = []
        groups = [(key, *self._group(key, name)) for key in rest[: len(rest) // 2]]
        for key, stream, group in groups:
            group.consumers[consumer] = self.now_ms
            first = bisect_right(stream.ids, group.last)
            found = stream.ids[first : first + count]
            for entry in found:
                group.pending[entry] = Pending(consumer, self.now_ms, 1)
                self.events.append(Delivered(key, entry))
            if found:
                group.last = found[-1]
                reply.append([key, [[format_id(entry), stream.entries[entry]] for entry in found]])
        return reply or None

    def _xpending(self, key: bytes, name: bytes, *options: bytes) -> list[Any]:
        _, group = self._group(key, name)
        if not options:
            return self._summary(group)
        least_ms = 0
        if options[0] == b"IDLE":
            least_ms, options = int(options[1]), options[2:]
        first, last = _bounds(options[0], options[1])
        found = []
        for entry in sorted(group.pending):
            pending = group.pending[entry]
            is_meant = len(options) < 4 or pending.owner == options[3]
            if is_meant and first <= entry <= last and (not least_ms or self._idle(pending) >= least_ms):
                found.append([format_id(entry), pending.owner, max(self._idle(pending), 0), pending.count])
        return found[: int(options[2])]

    @staticmethod
    def _summary(group: Group) -> list[Any]:
        if not group.pending:
            return [0, None, None, None]
        owners = [pending.owner for pending in group.pending.values()]
        held = [[owner, b"%d" % owners.count(owner)] for owner in sorted(set(owners))]
        return [len(owners), format_id(min(group.pending)), format_id(max(group.pending)), held]

    def _idle(self, pending: Pending) -> int:
        return self.now_ms - pending.delivered_ms

    def _xclaim(self, key: bytes, name: bytes, consumer: bytes, least: bytes, *rest: bytes) -> list[Any]:
        stream, group = self._group(key, name)
        entries = [argument for argument in rest if argument[:1].isdigit() and b"-" in argument]
        options = rest[len(entries) :]
        just_id = b"JUSTID" in options
        count = int(options[options.index(b"RETRYCOUNT") + 1]) if b"RETRYCOUNT" in options else None
        idle_ms = int(options[options.index(b"IDLE") + 1]) if b"IDLE" in options else 0
        group.consumers[consumer] = self.now_ms
        reply: list[Any] = []
        for entry in map(parse_id, entries):
            pending = group.pending.get(entry)
            if pending is None:
                continue
            if entry not in stream.entries:
                self._drop(key, group, entry)
                continue
            if int(least) and self._idle(pending) < int(least):
                continue
            self._claim(key, group, consumer, entry, self.now_ms - idle_ms, _raised(pending, count, just_id=just_id))
            reply.append(format_id(entry) if just_id else [format_id(entry), stream.entries[entry]])
        return reply

    def _claim(self, key: bytes, group: Group, consumer: bytes, entry: Id, delivered_ms: int, count: int) -> None:
        pending = group.pending[entry]
        self.events.append(Claimed(key, entry, consumer, pending.owner, self._idle(pending), count, pending.count))
        group.pending[entry] = Pending(consumer, delivered_ms, count)

    def _xautoclaim(self, key: bytes, name: bytes, consumer: bytes, least: bytes, start: bytes) -> list[Any]:
        stream, group = self._group(key, name)
        group.consumers[consumer] = self.now_ms
        claimed: list[Any] = []
        for entry in sorted(entry for entry in group.pending if entry >= parse_id(start)):
            pending = group.pending[entry]
            if entry not in stream.entries:
                self._drop(key, group, entry)
            elif self._idle(pending) >= int(least):
                self._claim(key, group, consumer, entry, self.now_ms, pending.count + 1)
                claimed.append([format_id(entry), stream.entries[entry]])
        return [b"0-0", claimed, []]

    def _xinfo(self, what: bytes, key: bytes, *name: bytes) -> list[Any]:
        stream = self.stream(key)
        if stream is None:
            raise error("ERR")
        if what == b"STREAM":
            return [b"length", len(stream.ids), b"last-generated-id", format_id(stream.last)]
        if what == b"GROUPS":
            return [_told(name, group) for name, group in sorted(stream.groups.items())]
        return [
            [b"name", consumer, b"pending", held, b"idle", idle_ms]
            for consumer, held, idle_ms in self._consumers(self._group(key, name[0])[1])
        ]

    def _consumers(self, group: Group) -> list[tuple[bytes, int, int]]:
        """Name, entries held and idle time of each consumer."""
        owners = [pending.owner for pending in group.pending.values()]
        return [
            (consumer, owners.count(consumer), max(self.now_ms - group.consumers[consumer], 0))
            for consumer in sorted(group.consumers)
        ]

    def _xack(self, key: bytes, name: bytes, *entries: bytes) -> int:
        stream = self.stream(key)
        group = stream.groups.get(name) if stream else None
        return sum(self._acknowledge(key, group, parse_id(entry)) for entry in entries)

    def _acknowledge(self, key: bytes, group: Group | None, entry: Id) -> int:
        if group is None or group.pending.pop(entry, None) is None:
            return 0
        self.events.append(Acknowledged(key, entry))
        return 1


def _told(name: bytes, group: Group) -> list[Any]:
    numbers = [b"consumers", len(group.consumers), b"pending", len(group.pending)]
    return [b"name", name, *numbers, b"last-delivered-id", format_id(group.last)]


def _raised(pending: Pending, count: int | None, *, just_id: bool) -> int:
    if count is not None:
        return max(count, 0)
    return pending.count if just_id else pending.count + 1


def _bounds(start: bytes, end: bytes) -> tuple[Id, Id]:
    if start.startswith(b"("):
        return after(parse_id(start[1:])), LARGEST if end == b"+" else parse_id(end)
    return ZERO if start == b"-" else parse_id(start), LARGEST if end == b"+" else parse_id(end)
