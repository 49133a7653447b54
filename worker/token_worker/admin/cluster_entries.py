"""Access of operators to the entries of the token storage in a Redis Cluster; see ``entry_store``.

Every step of a change is a compare-and-set of its own on the node of its entry, in the order given.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from token_worker.admin.entry_store import CHANGE, KEYS_PER_COMMAND, EntryChange
from token_worker.errors import ServerError, Unavailable
from token_worker.redis.cluster_pipeline import ClusterPipeline
from token_worker.redis.scan import scan
from token_worker.redis.wire import pack

_WRONG_TYPE = "WRONGTYPE"


class ClusterEntries:
    """The entries in a cluster.

    Args:
        cluster: connections to the nodes.
    """

    def __init__(self, cluster: ClusterPipeline) -> None:
        self._cluster = cluster

    def names(self, pattern: bytes, count: int) -> Iterator[list[bytes]]:
        """Find names on one node after the other.

        Raises:
            Unavailable: a node is away, or a slot has moved meanwhile, so that its names may have been missed.
        """
        nodes = self._cluster.primaries()
        before = nodes[0].call("CLUSTER", "SLOTS")
        for node in nodes:
            yield from scan(node, pattern, count)
        if nodes[0].call("CLUSTER", "SLOTS") != before:
            raise Unavailable(self._cluster.name, "MOVED")

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        found: list[bytes | None] = []
        for start in range(0, len(keys), KEYS_PER_COMMAND):
            part = keys[start : start + KEYS_PER_COMMAND]
            found += map(_entry, self._cluster.call_each(part, [pack(("GET", key)) for key in part]))
        return found

    def change(self, steps: Sequence[EntryChange]) -> int:
        for done, (key, old, new) in enumerate(steps):
            if not self._cluster.run(CHANGE, [key], [old, new]):
                return done
        return len(steps)


def _entry(raw: Any) -> bytes | None:
    """Return what was read. An entry that is no string counts as absent, as by MGET on one server."""
    if isinstance(raw, ServerError) and raw.code == _WRONG_TYPE:
        return None
    if isinstance(raw, Unavailable | ServerError):
        raise raw
    found: bytes | None = raw
    return found
