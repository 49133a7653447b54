"""Makes links. The kind of address decides which: one server, Sentinels or a cluster."""

from token_worker.errors import SettingsError
from token_worker.redis.address import RedisSettings
from token_worker.redis.cluster import NODE_SECONDS, ClusterLink
from token_worker.redis.cluster_pipeline import ClusterPipeline
from token_worker.redis.link import SOCKET_SECONDS, RedisLink
from token_worker.redis.sentinel import SentinelLink

AnyLink = ClusterLink | RedisLink
"""A link of any kind."""


def make_link(name: str, settings: RedisSettings, *, raise_server_errors: bool = False) -> AnyLink:
    """Make a link that is not connected yet; arguments as for ``RedisLink``."""
    if settings.kind == "cluster":
        return ClusterLink(name, settings, raise_server_errors=raise_server_errors)
    return make_primary_link(name, settings, raise_server_errors=raise_server_errors)


def make_primary_link(name: str, settings: RedisSettings, *, raise_server_errors: bool = False) -> RedisLink:
    """Make a link for keys, or for tokens on one primary.

    Raises:
        SettingsError: the address is that of a cluster.
    """
    if settings.kind == "cluster":
        variable = f"TOKEN_WORKER_{name.upper()}_URL"
        raise SettingsError(f"{variable}: is that of a cluster; this needs the address of a server or of Sentinels")
    kind = SentinelLink if settings.kind == "sentinel" else RedisLink
    return kind(name, settings, raise_server_errors=raise_server_errors)


def make_tokens_link(
    settings: RedisSettings, *, waits_for_disk: bool, raise_server_errors: bool = False
) -> RedisLink | ClusterPipeline:
    """Make a link for tokens. In a cluster, a wait for a disk needs a longer time-out than others do."""
    if settings.kind == "cluster":
        return ClusterPipeline("tokens", settings, SOCKET_SECONDS if waits_for_disk else NODE_SECONDS)
    return make_primary_link("tokens", settings, raise_server_errors=raise_server_errors)
