"""Rows of entries whose names are on chosen primaries of a cluster, and what the servers of a cluster have answered."""

import random

from harness.servers import Cluster
from token_worker.redis.address import parse
from token_worker.redis.cluster_pipeline import ClusterPipeline, slot_of
from token_worker.storage.steps import Outcome, Row

WRITTEN = Outcome("written")
PLACES = 3
"""Primaries of a cluster, each with a third of the slots."""


def all_stored(outcomes: list[Outcome]) -> bool:
    """Tell whether all rows are stored, now or by an earlier try."""
    return all(outcome.what in {"written", "value"} for outcome in outcomes)


def name(kind: bytes, number: int, place: int | None = None) -> bytes:
    """A name of 16 bytes; with ``place``, one that the primary of that number has."""
    chance = random.Random(f"{kind!r}{number}{place}")
    while True:
        made = kind + chance.randbytes(15)
        if b"{" not in made and (place is None or slot_of(made) * PLACES // 16384 == place):
            return made


def row(number: int, h_place: int | None = None, t_place: int | None = None, *, old: bytes = b"") -> Row:
    h_key, t_key = name(b"v", number, h_place), name(b"t", number, t_place)
    return Row(h_key, t_key, b"h value %d" % number, b"t value %d" % number, old)


def pipeline_of(cluster: Cluster) -> ClusterPipeline:
    return ClusterPipeline("tokens", parse(cluster.url))


def redirects(cluster: Cluster) -> int:
    """The number of times that a node has named another one."""
    found = [
        server.info("errorstats").get(f"errorstat_{code}") for server in cluster.members for code in ("MOVED", "ASK")
    ]
    return sum(one["count"] for one in found if one)
