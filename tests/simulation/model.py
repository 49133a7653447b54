"""The model that the simulation runs against: the commands, and the scripts of the package, from the catalogue of each.

``test_model`` holds it against real servers. It has no trim by bytes, and none that its own limit cuts short.
"""

from collections.abc import Callable, Sequence
from typing import Any

from simulation.commands import Commands, Group, Stream, after, before, error, format_id, parse_id, to_bytes
from simulation.events import Id
from token_worker.lua import Script


class Model(Commands):
    """One server."""

    def __init__(self) -> None:
        super().__init__()
        self._scripts: dict[str, Callable[[list[bytes], list[bytes]], Any]] = {
            "bury.lua": self._bury,
            "commit.lua": self._commit,
            "sweep.lua": self._sweep,
            "trim.lua": self._trim,
            "uncount.lua": self._uncount,
        }

    def run(self, script: Script, keys: Sequence[Any], args: Sequence[Any]) -> Any:
        """Run a script; errors as by ``call``."""
        return self._scripts[script.name](list(map(to_bytes, keys)), list(map(to_bytes, args)))

    def _is_fit(self, key: bytes) -> bool:
        return not isinstance(self.peek(key), bytes)

    def _commit(self, keys: list[bytes], args: list[bytes]) -> list[int]:
        if not self._is_fit(keys[1]):
            raise error("UNFIT")
        name, ttl_ms = args[0], int(args[1]) * 1000
        statuses = []
        at = 2
        while at < len(args):
            entry, payload = args[at : at + 2]
            key, instead = keys[1], b""
            trace: Sequence[bytes] = (b"", b"")
            if entry.startswith(b"+"):
                entry, key, trace, instead = entry[1:], keys[int(args[at + 2]) - 1], args[at + 3 : at + 5], args[at + 5]
                at += 4
            at += 2
            status = self._xack(keys[0], name, entry)
            if status and key == keys[1]:
                self._reply(key, payload, trace)
            elif status:
                status = self._reply_elsewhere(key, payload, trace, ttl_ms)
                if status == 2:
                    self._reply(keys[1], instead, trace)
            statuses.append(status)
        return statuses

    def _reply(self, key: bytes, payload: bytes, trace: Sequence[bytes]) -> None:
        fields = [b"payload", payload]
        if trace[0]:
            fields += [b"traceparent", trace[0]]
            fields += [b"tracestate", trace[1]] if trace[1] else []
        self._add(key, fields)

    def _reply_elsewhere(self, key: bytes, payload: bytes, trace: Sequence[bytes], ttl_ms: int) -> int:
        if not self._is_fit(key):
            return 2
        is_new = self.peek(key) is None
        self._reply(key, payload, trace)
        if is_new or self._expires.get(key, self.now_ms + ttl_ms) < self.now_ms + ttl_ms:
            self._expires[key] = self.now_ms + ttl_ms
        return 1

    def _bury(self, keys: list[bytes], args: list[bytes]) -> int:
        name, raw, reason, deliveries, reply = args[:5]
        if not self._is_fit(keys[1]) or (reply and not self._is_fit(keys[2])):
            raise error("UNFIT")
        stream, entry = self.stream(keys[0]), parse_id(raw)
        fields = stream.entries.get(entry) if stream else None
        if not self._xack(keys[0], name, raw):
            return 0
        if fields is not None:
            why = [b"dead_reason", reason, b"dead_stream", keys[0], b"dead_entry", raw, b"dead_deliveries", deliveries]
            self._add(keys[1], why + fields)
        if reply:
            self._reply_to_buried(keys[2], reply, args[5:7])
        return 2 if fields is None else 1

    def _reply_to_buried(self, key: bytes, reply: bytes, trace: Sequence[bytes]) -> None:
        fields = [b"payload", reply]
        for name, value in zip((b"traceparent", b"tracestate"), trace, strict=True):
            fields += [name, value] if value else []
        self._add(key, fields)

    def _needed(self, stream: Stream, group: Group) -> Id:
        """The oldest entry that a group still needs."""
        return min(group.pending) if group.pending else after(group.last)

    def _done(self, group: Group) -> Id | None:
        """Up to where a group has acknowledged everything."""
        return before(min(group.pending)) if group.pending else group.last

    def _trim(self, keys: list[bytes], args: list[bytes]) -> list[int]:
        if not isinstance(stream := self.peek(keys[0]), Stream):
            return [-1, 0]
        ours, bound, hold_from, idle_ms = args[0], parse_id(args[1]), args[3], int(args[4])
        given_up = 0
        for name, group in sorted(stream.groups.items()):
            needed = self._needed(stream, group)
            if name == ours and (done := self._done(group)) is not None:
                self._set(keys[1], format_id(done))
            if needed >= bound:
                continue
            is_read = not hold_from or name == ours or any(idle < idle_ms for _, _, idle in self._consumers(group))
            if is_read or needed >= parse_id(hold_from):
                bound = needed
            else:
                given_up += 1
                bound = min(bound, parse_id(hold_from))
        if ours and ours not in stream.groups:
            return [0, 0]
        return [self._trim_to(keys[0], stream, bound), given_up]

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
        name, consumer, raw = args
        _, group = self._group(keys[0], name)
        pending = group.pending.get(parse_id(raw))
        if pending is None or pending.owner != consumer:
            return 0
        self._xclaim(keys[0], name, consumer, b"0", raw, b"RETRYCOUNT", b"%d" % (pending.count - 1), b"JUSTID")
        return 1
