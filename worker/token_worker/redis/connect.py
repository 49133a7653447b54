"""The one place that decides what stands behind an address: a server, Sentinels or a cluster."""

from token_worker.redis.address import RedisSettings
from token_worker.redis.cluster import ClusterLink
from token_worker.redis.link import Link, RedisLink
from token_worker.redis.sentinel import SentinelLink


def make_link(name: str, settings: RedisSettings, *, refusals: bool = False) -> Link:
    """A link, not connected yet; arguments as for ``RedisLink``."""
    if settings.kind == "cluster":
        return ClusterLink(name, settings, refusals=refusals)
    return make_primary_link(name, settings, refusals=refusals)


def make_primary_link(name: str, settings: RedisSettings, *, refusals: bool = False) -> RedisLink:
    """The same for keys and tokens, which are on one primary and never in a cluster."""
    kind = SentinelLink if settings.kind == "sentinel" else RedisLink
    return kind(name, settings, refusals=refusals)
