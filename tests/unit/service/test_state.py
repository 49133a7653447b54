"""The state of a worker as metrics: what is away, how often connections were made, and what is not there yet."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

from prometheus_client import CollectorRegistry

from token_worker.errors import Unavailable
from token_worker.keys.cache import KeyCache
from token_worker.service.outage import BackOff, Drain, Outage
from token_worker.service.runtime import Runtime
from token_worker.service.state import WorkerState
from token_worker.telemetry.health import Health

SERVERS = ("streams", "tokens", "keys", "vault", "audit")


class Scraped:
    """A state that is scraped."""

    def __init__(self, trouble: Callable[[], str | None] = lambda: None) -> None:
        self.health = Health(30, trouble)
        self.state = WorkerState(SERVERS, self.health)
        self.registry = CollectorRegistry()
        self.registry.register(self.state)

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"token_worker_{name}", labels)

    def away(self) -> set[str]:
        return {server for server in SERVERS if self.value("server_available", server=server) == 0}

    def has_keys(self, **members: Any) -> None:
        self.state.keys = cast(KeyCache, SimpleNamespace(**members))


def test_everything_is_there_before_the_worker_has_its_parts() -> None:
    """A worker that starts is not ready, has made no connection, waits for nothing and has looked up no key."""
    scraped = Scraped()
    assert scraped.value("ready") == 0
    assert [scraped.value("connections_total", server=server) for server in SERVERS] == [0, 0, 0, None, None]
    assert scraped.away() == set()
    assert scraped.value("key_cache_hits_total") == scraped.value("key_cache_misses_total") == 0
    assert scraped.value("vault_token_seconds") is None
    scraped.health.ready()
    assert scraped.value("ready") == 1


def test_server_that_the_loop_waits_for_is_away_until_it_answers() -> None:
    """While the worker waits for a server, this server is away and the worker is not ready; then neither."""
    scraped = Scraped()
    seen: list[set[str]] = []
    runtime = Runtime(monotonic=lambda: 0.0, sleep=lambda _seconds: seen.append(scraped.away()))
    outage = Outage(Drain(0, runtime), scraped.health, runtime)
    back_off = BackOff(lambda: bool(seen), outage.away, {}, scraped.health, runtime)
    back_off.wait(Unavailable("tokens", "ConnectionRefusedError"))
    assert seen == [{"tokens"}]
    assert scraped.value("ready") == 0
    outage.answered("tokens")
    assert scraped.away() == set()
    assert scraped.value("ready") == 1


def test_key_storage_that_is_away_behind_cached_keys_is_told() -> None:
    """Keys that are served from the cache do not hide that their storage, or Vault, is away."""
    scraped = Scraped()
    scraped.has_keys(away=Unavailable("vault", "ConnectionError"), hits=7, misses=2)
    assert scraped.away() == {"vault"}
    assert (scraped.value("key_cache_hits_total"), scraped.value("key_cache_misses_total")) == (7, 2)


def test_node_of_a_cluster_that_is_away_is_told() -> None:
    """If the servers of some routes are away, the streams are not all available."""
    scraped = Scraped()
    scraped.state.has_routes_away = lambda: True
    assert scraped.away() == {"streams"}


def test_connections_are_counted_by_their_servers() -> None:
    """The number of connections to a server is the one of its link at the scrape."""
    scraped = Scraped()
    made = [1]
    scraped.state.count_connections("tokens", lambda: made[0])
    made[0] = 4
    assert scraped.value("connections_total", server="tokens") == 4
    assert scraped.value("connections_total", server="streams") == 0


def test_time_of_a_vault_token_that_does_not_end_is_no_number() -> None:
    """A token that never ends has no seconds left, and raises no alert."""
    seconds: list[float | None] = [None]
    registry = CollectorRegistry()
    registry.register(WorkerState(SERVERS, Health(30), lambda: seconds[0]))
    value = registry.get_sample_value("token_worker_vault_token_seconds")
    assert value != value  # noqa: PLR0124 - only NaN differs from itself
    seconds[0] = 0.0
    assert registry.get_sample_value("token_worker_vault_token_seconds") == 0
