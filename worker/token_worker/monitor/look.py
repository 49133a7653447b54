"""All that the monitor knows at one time: what its sources have seen, and an hour of each route."""

from typing import NamedTuple

from token_worker.admin.check import Check
from token_worker.monitor.history import Hour, Rates
from token_worker.monitor.key_names import KeyAges
from token_worker.monitor.servers import ServerFacts
from token_worker.monitor.source import Seen
from token_worker.monitor.streams import StreamFacts
from token_worker.streams.routes import Route


class RouteHour(NamedTuple):
    """The last hour of a route, and its rates now."""

    hour: Hour
    rates: Rates


class Look(NamedTuple):
    """The facts that the page is made from.

    Attributes:
        at: this machine's clock, in Unix seconds.
        routes: the routes of the settings.
        group: the workers' group.
        streams: what the streams hold.
        hours: the hour of each route, by request stream.
        servers: the servers, by their uses.
        keys: ages of keys; None if the keys are in Vault, which the monitor does not use.
        checks: what ``doctor`` finds.
    """

    at: float
    routes: tuple[Route, ...]
    group: str
    streams: Seen[StreamFacts]
    hours: dict[str, RouteHour]
    servers: dict[str, Seen[list[ServerFacts]]]
    keys: Seen[KeyAges | None] | None
    checks: Seen[list[Check]]
