"""Makes links. The kind of address decides which: one server, Sentinels or a cluster."""

from token_worker.redis.address import RedisSettings
from token_worker.redis.cluster import ClusterLink
from token_worker.redis.link import RedisLink
from token_worker.redis.sentinel import SentinelLink

AnyLink = ClusterLink | RedisLink
"""A link of any kind."""


def make_link(name: str, settings: RedisSettings, *, raise_server_errors: bool = False) -> AnyLink:
    """Make a link that is not connected yet; arguments as for ``RedisLink``."""
    if settings.kind == "cluster":
        return ClusterLink(name, settings, raise_server_errors=raise_server_errors)
    return make_primary_link(name, settings, raise_server_errors=raise_server_errors)


def make_primary_link(name: str, settings: RedisSettings, *, raise_server_errors: bool = False) -> RedisLink:
    """Make a link for keys or tokens, which are on one primary and never in a cluster."""
    kind = SentinelLink if settings.kind == "sentinel" else RedisLink
    return kind(name, settings, raise_server_errors=raise_server_errors)
