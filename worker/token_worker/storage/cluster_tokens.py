"""Executes the engine's steps on a Redis Cluster that holds the tokens. Only for the dense layout.

The two entries of a token are on different nodes, so each is written by a command of its own, in this order:

1. The token entry, where there is nothing or the same. A row whose token entry is another one goes no further.
2. The value entry, where there is nothing or the tombstone that was read.

So nobody meets a value entry whose token entry does not exist. Between the two, an operator may disable or remove the
token: see ``admin`` for the order that operators keep. A writer that loses a race for a value leaves at most a token
entry that nobody was given.

A batch costs a round trip for each of the two writes. All nodes are asked at once. If a node is away, the rows and keys
on other nodes are done all the same. Touches 16-byte names of the dense layout only.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import structlog

from token_worker.chunks import bounded_chunks
from token_worker.errors import ServerError, Unavailable
from token_worker.redis.address import Node
from token_worker.redis.cluster_pipeline import ClusterPipeline
from token_worker.redis.script import Script
from token_worker.redis.wire import pack
from token_worker.storage.cluster_durability import ClusterBarrier, ClusterMarks
from token_worker.storage.durability import DurabilityBarrier, NoBarrier
from token_worker.storage.layout import Layout
from token_worker.storage.steps import WRITTEN, Adopt, Claim, Lookup, Outcome, Row, Step, Store
from token_worker.storage.tokens import BYTES_PER_COMMAND, KEYS_PER_COMMAND

_REPLACE = Script(__package__, "replace.lua").source

log = structlog.get_logger("tokens")

_CHANGED = Outcome("changed")
_BROKEN = Outcome("broken")


class ClusterTokenStorage:
    """The token storage in the dense layout, in a cluster.

    Args:
        cluster: connections to the nodes.
        layout: the dense layout.
        barrier: holds a batch back until its tokens are safe; none by default.
    """

    writes_whole_rows = False

    def __init__(self, cluster: ClusterPipeline, layout: Layout, barrier: ClusterBarrier | None = None) -> None:
        self._cluster = cluster
        self._closing = barrier
        self._marks = ClusterMarks(cluster)
        self._away: set[Node] = set()
        self.layout = layout
        self.barrier: DurabilityBarrier = barrier or NoBarrier()

    @property
    def connections(self) -> int:
        """Number of connections made so far, to all nodes."""
        return self._cluster.connections

    def ping(self) -> None:
        """Check that a node answers; raises ``Unavailable`` if none does."""
        self._cluster.call("PING")

    def probe(self) -> None:
        """Check that a node takes and confirms writes, without a token; raises ``Unavailable`` if none does."""
        self.barrier.open()
        marks = [mark.encode() for node in self._cluster.owners() if (mark := self._marks.of(node)) is not None]
        self._call(marks, [pack(("SET", mark, "")) for mark in marks], writes=True)
        self._raise_if_all_refuse()

    def execute(self, step: Step) -> Any:
        """Execute a step of the engine, and return its answer.

        Raises:
            Unavailable: every node is away or out of memory. What was written stays, and the next try finds it.
        """
        if isinstance(step, Lookup):
            return self._look_up(step.keys)
        if isinstance(step, Store | Adopt):
            return self._write(step)
        if isinstance(step, Claim):
            return self._claim(step.rows)
        raise TypeError("entries of the dense layout have no time of last use")

    def _look_up(self, keys: Sequence[bytes]) -> list[bytes | Unavailable | None]:
        found: list[Any] = []
        for start in range(0, len(keys), KEYS_PER_COMMAND):
            part = keys[start : start + KEYS_PER_COMMAND]
            found += self._call(part, [pack(("GET", key)) for key in part])
        for at, raw in enumerate(found):
            if isinstance(raw, ServerError):
                found[at] = None  # no string, which is nothing to MGET either
        return found

    def _claim(self, rows: Sequence[tuple[bytes, bytes]]) -> list[bytes | Unavailable]:
        commands = [pack(("SET", key, value, "NX", "GET")) for key, value in rows]
        found = self._call([key for key, _ in rows], commands, writes=True)
        for at, raw in enumerate(found):
            if raw is None:
                found[at] = rows[at][1]
            elif isinstance(raw, ServerError):
                found[at] = Unavailable(raw.server, raw.code, raw.address)
        return found

    def _write(self, step: Store | Adopt) -> list[Outcome]:
        outcomes: list[Outcome] = []
        sizes = [len(row.h_value) + len(row.t_value) + len(row.h_old) for row in step.rows]
        for rows in bounded_chunks(
            step.rows, [2] * len(sizes), sizes, max_count=KEYS_PER_COMMAND, max_size=BYTES_PER_COMMAND
        ):
            outcomes += self._write_part(rows, is_new=isinstance(step, Store))
        return outcomes

    def _write_part(self, rows: Sequence[Row], *, is_new: bool) -> list[Outcome]:
        keys = [row.t_key for row in rows]
        if is_new:
            commands = [pack(("SET", row.t_key, row.t_value, "NX", "GET")) for row in rows]
        else:
            commands = [pack(("GET", key)) for key in keys]
        found = self._call(keys, commands, writes=is_new, is_closed=True)
        judge = _after_store if is_new else _after_adopt
        outcomes = [judge(row, raw) for row, raw in zip(rows, found, strict=True)]
        going_on = [at for at, outcome in enumerate(outcomes) if outcome is WRITTEN and rows[at].h_key]
        if going_on:
            kept = [rows[at] for at in going_on]
            found = self._call([row.h_key for row in kept], list(map(_value_write, kept)), writes=True, is_closed=True)
            for at, raw in zip(going_on, found, strict=True):
                outcomes[at] = _after_value_write(raw)
        return outcomes

    def _call(
        self, keys: Sequence[bytes], commands: Sequence[bytes], *, writes: bool = False, is_closed: bool = False
    ) -> list[Any]:
        """Send commands to the nodes; raises ``Unavailable`` if no node did any, and all nodes refuse."""
        closing = self._closing if is_closed else None
        found = self._cluster.call_each(keys, commands, writes=writes, closing=closing)
        if self._cluster.refusals.keys() != self._away:
            self._log_away(self._cluster.refusals)
        if any(isinstance(raw, Unavailable) for raw in found):
            self._raise_if_all_refuse()
        return found

    def _log_away(self, refusals: Mapping[Node, tuple[Unavailable, bool]]) -> None:
        for node in refusals.keys() - self._away:
            reason = str(refusals[node][0])
            log.warning("node of the cluster cannot be used: what is there is put off", server="tokens", reason=reason)
        for node in self._away - refusals.keys():
            log.info("node of the cluster can be used again", server="tokens", node=str(node))
        self._away = set(refusals)

    def _raise_if_all_refuse(self) -> None:
        refusal = self._cluster.all_refuse
        if refusal is not None:
            raise refusal


def _value_write(row: Row) -> bytes:
    if row.h_old:
        return pack(("EVAL", _REPLACE, 1, row.h_key, row.h_old, row.h_value))
    return pack(("SET", row.h_key, row.h_value, "NX", "GET"))


def _after_store(row: Row, raw: Any) -> Outcome:
    """The outcome of a new token entry. ``written`` means that the row may go on."""
    if raw is None or raw == row.t_value:
        return WRITTEN
    return Outcome("token", raw) if isinstance(raw, bytes) else _failed(raw)


def _after_adopt(row: Row, raw: Any) -> Outcome:
    """The outcome of a token entry that was read again. ``written`` means that the row may go on."""
    if raw == row.t_value:
        return WRITTEN
    return Outcome("away", error=raw) if isinstance(raw, Unavailable) else _CHANGED


def _after_value_write(raw: Any) -> Outcome:
    """The outcome of a value entry. One with the same bytes was there before: the value is not a new one."""
    if raw is None:
        return WRITTEN
    return Outcome("value", raw) if isinstance(raw, bytes) else _failed(raw)


def _failed(raw: Any) -> Outcome:
    return Outcome("away", error=raw) if isinstance(raw, Unavailable) else _BROKEN
