"""Durability of token entries in a Redis Cluster, node by node: ``TOKEN_WORKER_DURABILITY``; see ``durability``.

Each node confirms what it did itself. So a batch writes a mark to every node that it has used, and waits for all of
them at once. The mark of a node is a key in one of its own slots.

- A token entry is confirmed before its value entry is written: the two are on different nodes, and a failover could
  lose the first and keep the second. So whoever finds a value entry may rely on its token entry.
- A node confirms nothing if its connection was replaced during the batch: another server may answer there now. The same
  holds if the slot of the mark has moved.
- Only the values on nodes that do not confirm have to be done again. The others are answered. A node that did not
  confirm rests for a moment: meanwhile nobody waits for it.

Touches ``token-worker:mark:{<number>}``.
"""

import math
import time
from collections.abc import Iterable, Sequence
from typing import Any

from token_worker.errors import ServerError, SettingsError, Unavailable
from token_worker.redis.address import Node
from token_worker.redis.cluster import RedirectError
from token_worker.redis.cluster_pipeline import ClusterPipeline, slot_of
from token_worker.redis.pipelined_node import PipelinedNode
from token_worker.storage.durability import CONFIRM_MS, MARK, Durability, DurabilityBarrier, check_rights
from token_worker.storage.item_group import ItemGroup
from token_worker.storage.token_item import TokenItem

_TRIES_MAX = 300_000
"""Most names that are tried for a mark: a node with a single slot gets one, but for one time in 10 million."""

REST_SECONDS = 1.0
"""Time for which a node is not asked to confirm after it did not. Its values are put off at once meanwhile."""

_NO_REST = (-math.inf, None)

_MOVED = "MOVED"


class ClusterMarks:
    """The names of the marks: for each node a key in a slot that it has."""

    def __init__(self, cluster: ClusterPipeline) -> None:
        self._cluster = cluster
        self._marks: dict[Node, str] = {}
        self._map_number = -1

    def of(self, node: Node) -> str | None:
        """The mark of a node; None if it has no slot."""
        cluster = self._cluster
        if self._map_number != cluster.map_number:
            self._map_number = cluster.map_number
            self._marks = self._choose(cluster.owners())
        return self._marks.get(node)

    def _choose(self, nodes: Sequence[Node]) -> dict[Node, str]:
        """Keep the marks whose slots have not moved, and find one for each other node."""
        owner = self._cluster.owner
        marks = {node: mark for node, mark in self._marks.items() if owner(mark.encode()) == node}
        missing = set(nodes) - marks.keys()
        for number in range(_TRIES_MAX):
            if not missing:
                break
            mark = f"{MARK}:{{{number}}}"
            node = owner(mark.encode())
            if node in missing:
                marks[node] = mark
                missing.remove(node)
        return marks


class ClusterBarrier(DurabilityBarrier):
    """Holds a batch back until its tokens are as safe as the settings ask for; also a ``Closing`` for each write.

    Args:
        cluster: connections to the nodes of the token storage.
        durability: the setting.
        most_ms: longest wait for the confirmation of one batch.
    """

    def __init__(self, cluster: ClusterPipeline, durability: Durability, most_ms: int) -> None:
        self._cluster = cluster
        self._durability = durability
        self.wait_ms = max(1, min(CONFIRM_MS, most_ms, int(cluster.seconds * 750)))
        self._marks = ClusterMarks(cluster)
        self._checked: dict[Node, int] = {}
        self._resting: dict[Node, tuple[float, Unavailable]] = {}

    def check_server(self) -> None:
        """Check that each node can confirm writes as the setting needs it. A node that is away is left out.

        Raises:
            SettingsError: a node cannot, or the user may not ask for it.
            Unavailable: no node is available.
        """
        error: Unavailable | None = None
        is_any_there = False
        for node in self._cluster.owners():
            try:
                self._check(self._cluster.link_to(node))
            except Unavailable as raised:
                error = raised
            except RedirectError:
                is_any_there = True  # its marks are elsewhere now: its next closing commands tell
            else:
                is_any_there = True
        if error is not None and not is_any_there:
            raise error

    def _check(self, link: PipelinedNode) -> None:
        connection = link.connect()
        mark = self._marks.of(link.node)
        if mark is not None and connection != self._checked.get(link.node):
            check_rights(link, self._durability, mark)
            self._checked[link.node] = connection

    def open(self) -> None:
        """Begin a batch.

        Raises:
            Unavailable: no node is available, or a node can no longer confirm writes.
        """
        self._cluster.begin()
        try:
            self.check_server()
        except SettingsError as error:
            raise Unavailable(self._cluster.name, str(error)) from None

    def wait(self, items: Iterable[TokenItem] = (), groups: Iterable[ItemGroup] = ()) -> None:
        """Wait until everything that the batch has read or written is confirmed.

        A token whose node does not confirm is replaced by ``Unavailable``.

        Raises:
            Unavailable: no node confirms.
        """
        cluster = self._cluster
        if cluster.unclosed:
            cluster.close_on([*cluster.unclosed], self)
        if not cluster.unclosed:
            return
        refusal = cluster.all_refuse
        if refusal is not None:
            raise refusal
        error = Unavailable(cluster.name, "a node has not confirmed its tokens")
        for item in items:
            if item.tokenize and item.origin is None and isinstance(item.result, bytes) and self._is_open(item.key):
                item.result = error
        for group in groups:
            if group.tokenize:
                group.results = [
                    error if isinstance(result, bytes) and self._is_open(name) else result
                    for name, result in zip(group.names, group.results, strict=True)
                ]

    def _is_open(self, name: bytes) -> bool:
        """Tell whether the node of an entry has not confirmed what it did."""
        cluster = self._cluster
        node = cluster.owner(name)
        return node in cluster.unclosed or node not in cluster.used or slot_of(name) in cluster.redirected

    def commands(self, link: PipelinedNode) -> Sequence[tuple[Any, ...]]:
        """The mark of a node, and the wait for its confirmation; nothing for a node without slots."""
        mark = self._marks.of(link.node)
        if mark is None or time.monotonic() < self._resting.get(link.node, _NO_REST)[0]:
            return ()
        fsync, replicas = self._durability
        wait = ("WAITAOF", 1, 0, self.wait_ms) if fsync else ("WAIT", replicas, self.wait_ms)
        return ("SET", mark, ""), wait

    def problem(self, link: PipelinedNode, replies: Sequence[Any]) -> Unavailable | None:
        """Return the reason for which a node has not confirmed what it did before; None if it has."""
        name, address = link.name, link.address
        for reply in replies:
            if isinstance(reply, Unavailable):
                self._checked.pop(link.node, None)  # the append-only file was switched off, or a right taken
                return reply
        if not replies and link.node in self._resting:
            return self._resting[link.node][1]
        if not replies or isinstance(replies[0], ServerError):
            return Unavailable(name, _MOVED, address)
        fsync, replicas = self._durability
        confirmed = replies[1][0] if fsync else replies[1]
        if confirmed < (1 if fsync else replicas):
            why = "not on disk yet" if fsync else f"{confirmed} of {replicas} replicas confirmed"
            problem = Unavailable(name, why, address)
            self._resting[link.node] = time.monotonic() + REST_SECONDS, problem
            return problem
        self._resting.pop(link.node, None)
        if link.node in self._cluster.replaced:
            return Unavailable(name, "connection was replaced", address)
        return None
