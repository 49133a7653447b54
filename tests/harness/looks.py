"""Facts for the monitor, made up: its page is tested without servers."""

from typing import Any

import msgspec

from token_worker.admin.check import Check
from token_worker.admin.lag import GroupLag, Measured
from token_worker.admin.workers import SeenWorker
from token_worker.contract.messages import Op
from token_worker.monitor.history import History, Sample
from token_worker.monitor.key_names import KeyAges, OwnerKeys
from token_worker.monitor.look import Look, RouteHour
from token_worker.monitor.reasons import Reason, Reasons
from token_worker.monitor.servers import ServerFacts, parse_info
from token_worker.monitor.source import Seen
from token_worker.monitor.streams import StreamFacts
from token_worker.streams.routes import Route

NOW = 1_800_000_000.0
GROUP = "token-workers"

INFO = b"""# Server
valkey_version:9.1.0
used_memory:1048576
maxmemory:104857600
maxmemory_policy:noeviction
aof_enabled:1
aof_last_write_status:ok
rdb_last_bgsave_status:ok
rdb_last_save_time:1799999000
rdb_changes_since_last_save:7
role:master
connected_slaves:1
evicted_keys:0
"""


def lag(stream: str, group: str = GROUP, **known: Any) -> GroupLag:
    """The lag of a group with nothing to do, but for what is given."""
    nothing = GroupLag(
        stream=stream,
        group=group,
        undelivered=0,
        exact=True,
        pending=0,
        oldest_undelivered_age_seconds=None,
        oldest_pending_age_seconds=None,
        max_deliveries=0,
        consumers=1,
        dead_consumers=0,
        dead_letters=0,
        lag_known=True,
        ids_ahead_seconds=0.0,
    )
    return msgspec.structs.replace(nothing, **known)


def worker(name: str, **known: Any) -> SeenWorker:
    """A worker that is ready, but for what is given."""
    well: dict[str, Any] = {
        "idle_seconds": 0.5,
        "pending": 0,
        "version": "0.1.0",
        "host": "host-1",
        "started": int(NOW) - 3600,
        "ready": True,
        "noted_seconds_ago": 5.0,
    }
    return SeenWorker(consumer=name, **{**well, **known})


def server(**known: Any) -> ServerFacts:
    """A server that is well, but for what is given."""
    return parse_info(INFO, "")._replace(**known)


def seen(value: Any) -> Seen[Any]:
    """Something that was read just now."""
    return Seen(value, NOW, None)


def hour(waiting: int = 0) -> RouteHour:
    """An hour of ten requests a second, while ``waiting`` requests wait."""
    history = History()
    for step in range(720):
        history.add(Sample(NOW - 3600 + 5 * step, waiting, 50 * step, 50 * step))
    return RouteHour(history.hour(), history.rates())


def routes_named(*names: str) -> tuple[Route, ...]:
    """Routes that tokenize, by their request streams."""
    return tuple(Route(name, f"{name}:out", frozenset({Op.TOKENIZE})) for name in names)


def look_of(
    routes: tuple[Route, ...],
    rows: list[GroupLag] | None = None,
    workers: tuple[SeenWorker, ...] = (worker("w-1"),),
    **known: Any,
) -> Look:
    """A look at routes where all is well, but for what is given: members of ``Look``."""
    facts = StreamFacts(
        now=NOW,
        measured=Measured(rows if rows is not None else [lag(route.requests) for route in routes], {}, {}, {}),
        workers={route.requests: workers for route in routes},
        dead={},
        refused=[],
    )
    quiet = hour()
    well = Look(
        at=NOW,
        routes=routes,
        group=GROUP,
        streams=seen(facts),
        hours={route.requests: quiet for route in routes},
        servers={"streams": seen([server()]), "keys, tokens": seen([server()])},
        keys=seen(KeyAges(1, 0, 0, [OwnerKeys("client", "shop", True, NOW - 86_400, 1)], True)),
        checks=seen([Check("streams: version", "ok", "fine")]),
    )
    return well._replace(**known)


def dead(stream: str, reason: str, age_seconds: float = 60.0, count: int = 1) -> dict[str, Reasons]:
    """Dead letters of one stream with one reason."""
    newest_ms = round((NOW - age_seconds) * 1000)
    return {stream: Reasons(f"{newest_ms}-0".encode(), count, count, {reason: Reason(count, newest_ms)})}
