"""Facts about the Redis servers: version, memory, persistence, role. Needs ``INFO`` and nothing else."""

from typing import NamedTuple

from token_worker.redis.address import RedisSettings
from token_worker.redis.cluster import ClusterLink
from token_worker.redis.link import Link
from token_worker.settings.options import Settings


class ServerFacts(NamedTuple):
    """One server, as it describes itself.

    Attributes:
        node: address of the node of a cluster; empty for other servers.
        version: kind and version.
        used_bytes, limit_bytes: memory in use, and the most that it may use; 0 for no limit.
        policy: what it does at that limit.
        has_aof, is_aof_written: whether it has an append-only file, and whether the last write of that succeeded.
        is_snapshot_saved: whether the last snapshot succeeded.
        saved_at: when the last snapshot was made, in Unix seconds.
        changes: changes since that.
        role: ``master``, or ``slave``, as Redis calls them.
        replicas: connected replicas.
        evicted: keys that were evicted since the server started.
    """

    node: str
    version: str
    used_bytes: int
    limit_bytes: int
    policy: str
    has_aof: bool
    is_aof_written: bool
    is_snapshot_saved: bool
    saved_at: int
    changes: int
    role: str
    replicas: int
    evicted: int


def places(settings: Settings) -> dict[str, RedisSettings]:
    """The servers to look at, by what they are used for. A server with several uses is there once."""
    uses = {"streams": settings.streams, "keys": settings.keys, "tokens": settings.tokens}
    if settings.keys_source == "vault":
        del uses["keys"]
    by_server: dict[str, list[str]] = {}
    for use, address in uses.items():
        by_server.setdefault(address.identity, []).append(use)
    return {", ".join(names): uses[names[0]] for names in by_server.values()}


def read_servers(link: Link) -> list[ServerFacts]:
    """Read the facts of a server, or of all primaries of a cluster. Errors as by ``Link.call``."""
    if isinstance(link, ClusterLink):
        return [parse_info(node.call("INFO"), str(node.node)) for node in link.primaries()]
    return [parse_info(link.call("INFO"), "")]


def parse_info(text: bytes, node: str) -> ServerFacts:
    """Parse the reply to INFO. What a server leaves out counts as 0, or as fine."""
    lines = text.decode(errors="replace").splitlines()
    info = dict(line.split(":", 1) for line in lines if ":" in line)

    def number(name: str) -> int:
        found = info.get(name, "")
        return int(found) if found.isdecimal() else 0

    kind = "Valkey" if "valkey_version" in info else "Redis"
    return ServerFacts(
        node=node,
        version=f"{kind} {info.get(f'{kind.lower()}_version', '(unknown)')}",
        used_bytes=number("used_memory"),
        limit_bytes=number("maxmemory"),
        policy=info.get("maxmemory_policy", "unknown"),
        has_aof=info.get("aof_enabled") == "1",
        is_aof_written=info.get("aof_last_write_status", "ok") == "ok",
        is_snapshot_saved=info.get("rdb_last_bgsave_status", "ok") == "ok",
        saved_at=number("rdb_last_save_time"),
        changes=number("rdb_changes_since_last_save"),
        role=info.get("role", "unknown"),
        replicas=number("connected_slaves"),
        evicted=number("evicted_keys"),
    )
