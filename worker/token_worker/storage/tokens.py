"""Executes the engine's steps on the Redis that holds the tokens, in few round trips and short scripts.

Touches the entries of its layout, and nothing else. New entries are written by MSETNX. It writes all of them, or none
if one of them exists; then a script writes them row by row. The invariants are described in ``store.lua``,
``adopt.lua`` and ``touch.lua``.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from token_worker.chunks import bounded_chunks
from token_worker.errors import ServerError, Unavailable
from token_worker.redis.link import RedisLink
from token_worker.redis.script import Script
from token_worker.storage.acra.layout import AcraLayout
from token_worker.storage.durability import DurabilityBarrier, NoBarrier
from token_worker.storage.layout import Layout
from token_worker.storage.steps import WRITTEN, Adopt, Claim, Lookup, Outcome, Row, Step, Store

KEYS_PER_COMMAND = 1000
"""Most keys of one command or script, so that other clients of the server wait for a few milliseconds at most."""

BYTES_PER_COMMAND = 4 << 20
"""Most bytes of values that one script is sent."""

_STORE = Script(__package__, "store.lua")
_ADOPT = Script(__package__, "adopt.lua")
_TOUCH = Script(__package__, "touch.lua")

_OUTCOMES: dict[bytes, Any] = {b"h": "value", b"t": "token", b"c": "changed", b"x": "broken"}


class TokenStorage:
    """The token storage on one server.

    Attributes:
        barrier: holds a batch back until its tokens are safe.
        layout: of the entries; Acra's if left out.
    """

    writes_whole_rows = True

    def __init__(self, link: RedisLink, barrier: DurabilityBarrier | None = None, layout: Layout | None = None) -> None:
        self._link = link
        self.barrier = barrier or NoBarrier()
        self.layout: Layout = layout or AcraLayout()

    @property
    def connections(self) -> int:
        """Number of connections made so far. What was seen on an earlier one may have been another server."""
        return self._link.connections

    def ping(self) -> None:
        """Check that the storage answers; raises ``Unavailable`` if not."""
        self._link.call("PING")

    def probe(self) -> None:
        """Check that the storage takes and confirms writes, without a token; raises ``Unavailable`` if not."""
        self.barrier.open()
        self._link.call("SET", self.layout.unused_name, "", "XX")  # only if it exists, which it never does
        self.barrier.wait()

    def execute(self, step: Step) -> Any:
        """Execute a step of the engine, and return its answer.

        Raises:
            Unavailable: the storage is away or out of memory. Rows that were written are complete, and the next try
                finds them.
        """
        if isinstance(step, Lookup):  # a match statement would unpack each step
            return self._look_up(step.keys)
        if isinstance(step, Store):
            return [outcome for part in _parts(step.rows) for outcome in self._store(part)]
        if isinstance(step, Adopt):
            return [outcome for part in _parts(step.rows) for outcome in self._write(_ADOPT, part)]
        if isinstance(step, Claim):
            return self._claim(step.rows)
        return self._touch(step.rows)

    def _look_up(self, keys: list[bytes]) -> list[bytes | None]:
        found: list[bytes | None] = self._link.call("MGET", *keys[:KEYS_PER_COMMAND]) if keys else []
        for start in range(KEYS_PER_COMMAND, len(keys), KEYS_PER_COMMAND):
            found += self._link.call("MGET", *keys[start : start + KEYS_PER_COMMAND])
        return found

    def _store(self, rows: list[Row]) -> Iterable[Outcome]:
        """Write all rows by one MSETNX, which costs half of the script. If one of their keys exists, use the script."""
        entries: list[bytes] = []
        for row in rows:
            if row.h_old:
                return self._write(_STORE, rows)
            if row.h_value:
                entries += (row.h_key, row.h_value)
            entries += (row.t_key, row.t_value)
        keys = entries[::2]
        if len(set(keys)) == len(keys) and self._link.call("MSETNX", *entries) == 1:
            return [WRITTEN] * len(rows)
        return self._write(_STORE, rows)

    def _write(self, script: Script, rows: Sequence[Row]) -> Iterator[Outcome]:
        keys: list[bytes] = []
        args: list[bytes] = []
        for row in rows:
            keys += (row.h_key or row.t_key, row.t_key)
            args += (row.h_value, row.t_value, row.h_old)
        for raw in self._link.run(script, keys, args):
            yield Outcome(_OUTCOMES[raw[:1]], raw[1:]) if raw else WRITTEN

    def _claim(self, rows: list[tuple[bytes, bytes]]) -> list[bytes]:
        held: list[bytes] = []
        answers = self._link.call_all([("SET", key, value, "NX", "GET") for key, value in rows])
        for (_, value), answer in zip(rows, answers, strict=True):
            if isinstance(answer, (Unavailable, ServerError)):
                raise answer
            held.append(value if answer is None else answer)
        return held

    def _touch(self, rows: list[tuple[bytes, bytes, bytes]]) -> None:
        for start in range(0, len(rows), KEYS_PER_COMMAND):
            part = rows[start : start + KEYS_PER_COMMAND]
            try:
                self._link.run(
                    _TOUCH, [key for key, _, _ in part], [value for _, old, new in part for value in (old, new)]
                )
            except Unavailable as error:
                if error.reason not in {"OOM", "NOPERM", "READONLY", "MISCONF"}:
                    raise
                return  # reading works without this write; the time of last use is moved another day


def _parts(rows: list[Row]) -> Iterable[list[Row]]:
    counts, sizes = [2] * len(rows), [len(row.h_value) + len(row.t_value) + len(row.h_old) for row in rows]
    return bounded_chunks(rows, counts, sizes, max_count=KEYS_PER_COMMAND, max_size=BYTES_PER_COMMAND)
