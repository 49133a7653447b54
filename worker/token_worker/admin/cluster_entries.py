"""Access of operators to the entries of the token storage in a Redis Cluster; see ``entry_store``.

Every step of a change is a compare-and-set of its own on the node of its entry, in the order given. With
``replicas:N``, a step is on so many replicas before the next one begins: a failover undoes no step whose successor was
done. With ``fsync`` the steps do not wait, because a disk may take a second for each: ``tokens verify`` finds what a
node left half done that lost its power. Touches the marks of ``cluster_durability``, too.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from token_worker.admin.entry_store import CHANGE, KEYS_PER_COMMAND, EntryChange, EntryStore, ServerEntries
from token_worker.errors import ServerError, Unavailable
from token_worker.redis.cluster import NodeLink
from token_worker.redis.cluster_pipeline import ClusterPipeline
from token_worker.redis.link import RedisLink
from token_worker.redis.scan import scan
from token_worker.redis.wire import pack
from token_worker.storage.cluster_durability import ClusterBarrier
from token_worker.storage.durability import CONFIRM_MS, Durability, DurabilityBarrier

_WRONG_TYPE = "WRONGTYPE"


class ClusterEntries:
    """The entries in a cluster.

    Args:
        cluster: connections to the nodes.
        durability: how safe changes are to be.
    """

    def __init__(self, cluster: ClusterPipeline, durability: Durability) -> None:
        self._cluster = cluster
        self._barrier = ClusterBarrier(cluster, durability, CONFIRM_MS) if any(durability) else None
        self._closing = self._barrier if durability.replicas else None

    def names(self, pattern: bytes, count: int) -> Iterator[list[bytes]]:
        """Find names on one node after the other.

        Raises:
            Unavailable: a node is away, or a slot has moved meanwhile, so that its names may have been missed.
        """
        nodes = self._cluster.primaries()
        before = _primaries_of_slots(nodes[0])
        for node in nodes:
            yield from scan(node, pattern, count)
        if _primaries_of_slots(nodes[0]) != before:
            raise Unavailable(self._cluster.name, "MOVED")

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        found: list[bytes | None] = []
        for start in range(0, len(keys), KEYS_PER_COMMAND):
            part = keys[start : start + KEYS_PER_COMMAND]
            found += map(_entry, self._cluster.call_each(part, [pack(("GET", key)) for key in part]))
        return found

    def change(self, steps: Sequence[EntryChange]) -> int:
        if self._barrier is not None:
            self._barrier.check_server()
        for done, (key, old, new) in enumerate(steps):
            command = pack(("EVAL", CHANGE.source, 1, key, old, new))
            [is_done] = self._cluster.call_each([key], [command], writes=True, closing=self._closing)
            if isinstance(is_done, Unavailable | ServerError):
                raise is_done
            if not is_done:
                return done
        return len(steps)

    def confirm(self) -> None:
        cluster, barrier = self._cluster, self._barrier
        if barrier is None:
            return
        barrier.check_server()
        cluster.close_on([*cluster.unclosed], barrier)
        for node in cluster.unclosed:
            raise cluster.refusals[node][0]


def entries_on(link: RedisLink | ClusterPipeline, durability: Durability) -> EntryStore:
    """Return the entries on one server or in a cluster."""
    if isinstance(link, ClusterPipeline):
        return ClusterEntries(link, durability)
    return ServerEntries(link, DurabilityBarrier(link, durability, CONFIRM_MS) if any(durability) else None)


def _primaries_of_slots(node: NodeLink) -> list[Any]:
    """Return each range of slots with its primary. Replicas may come and go."""
    return [row[:3] for row in node.call("CLUSTER", "SLOTS")]


def _entry(raw: Any) -> bytes | None:
    """Return what was read. An entry that is no string counts as absent, as by MGET on one server."""
    if isinstance(raw, ServerError) and raw.code == _WRONG_TYPE:
        return None
    if isinstance(raw, Unavailable | ServerError):
        raise raw
    found: bytes | None = raw
    return found
