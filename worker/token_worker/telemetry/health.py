"""Health of a worker over HTTP: ``/healthz``, ``/readyz`` and ``/metrics``.

``/healthz`` answers 200 while the loop sends heartbeats. A heartbeat may be as old as three times the longest wait of
the loop. In a batch it may be as old as the time after which the entries are taken over. ``/readyz`` answers 200 while
streams, token storage and keys are available and the worker is not draining; if not, it answers 503 and a line with the
reason. HEAD is answered, too, and a query string is ignored. The server runs in a thread of its own and uses no Redis.
"""

import time
from collections.abc import Callable
from http import HTTPStatus

from prometheus_client import CollectorRegistry

from token_worker.settings.listen_address import ListenAddress
from token_worker.telemetry.http_server import Page, Pages, metrics_page, serve_pages

LONGEST_WAIT_SECONDS = 5.0
"""Longest wait of the loop: for a reply of a server, or for the next try."""


class Health:
    """State of a worker, written by the loop and read by the HTTP threads.

    Args:
        batch_seconds: how long a batch may take before its entries are taken over.
        trouble: returns another reason why the worker cannot work; None if there is no such reason.
    """

    def __init__(self, batch_seconds: float, trouble: Callable[[], str | None] = lambda: None) -> None:
        self._batch_seconds = batch_seconds
        self._trouble = trouble
        self._beat_at = time.monotonic()
        self._in_batch = False
        self._not_ready: str | None = "starting"
        self._away: str | None = None

    def heartbeat(self, *, in_batch: bool = False) -> None:
        """Note that the loop is alive. With ``in_batch`` the next heartbeat may take as long as a batch."""
        self._beat_at = time.monotonic()
        self._in_batch = in_batch

    def ready(self) -> None:
        """Note that streams and token storage answered."""
        self._not_ready = self._away = None

    def not_ready(self, why: str, server: str | None = None) -> None:
        """Note that a server is unavailable, or, without ``server``, that the worker drains."""
        self._not_ready, self._away = why, server

    @property
    def server_away(self) -> str | None:
        """The server that the loop waits for, as named by ``Unavailable``; None if it waits for none."""
        return self._away

    @property
    def is_alive(self) -> bool:
        """True if the last heartbeat is recent enough."""
        limit = 3 * LONGEST_WAIT_SECONDS
        if self._in_batch:
            limit = max(limit, self._batch_seconds)
        return time.monotonic() - self._beat_at < limit

    @property
    def why_not_ready(self) -> str | None:
        """The reason why the worker cannot work; None if it can."""
        return self._not_ready or self._trouble()


def serve(address: ListenAddress, health: Health, registry: CollectorRegistry) -> ListenAddress:
    """Serve the three paths in a daemon thread, and return the address in use.

    Raises:
        SettingsError: the address is in use or not of this machine.
    """

    class Probes(Pages):
        def page(self, path: str, _query: str) -> Page:
            match path:
                case "/metrics":
                    return metrics_page(registry)
                case "/healthz":
                    return _verdict(None if health.is_alive else "the loop does not turn")
                case "/readyz":
                    return _verdict(health.why_not_ready)
                case _:
                    return Page(HTTPStatus.NOT_FOUND, b"there is /metrics, /healthz and /readyz\n")

    return serve_pages(address, Probes, "TOKEN_WORKER_HTTP_ADDRESS")


def _verdict(trouble: str | None) -> Page:
    """Return 200 and ``ok``, or 503 and the reason."""
    status = HTTPStatus.OK if trouble is None else HTTPStatus.SERVICE_UNAVAILABLE
    return Page(status, f"{trouble or 'ok'}\n".encode())
