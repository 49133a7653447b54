"""Health of a worker over HTTP: ``/healthz``, ``/readyz`` and ``/metrics``.

``/healthz`` answers 200 while the loop sends heartbeats. A heartbeat may be as old as three times the longest wait of
the loop. In a batch it may be as old as the time after which the entries are taken over. ``/readyz`` answers 200 while
streams, token storage and keys are available and the worker is not draining; if not, it answers 503 and a line with the
reason. The server runs in a thread of its own and uses no Redis.
"""

import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from token_worker.errors import SettingsError

LONGEST_WAIT_SECONDS = 5.0
"""Longest wait of the loop: for a reply of a server, or for the next try."""

ANSWER_BYTES = 1 << 20
"""Size up to which an answer is sent at once: larger than the metrics of thousands of streams."""


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


def serve(address: str, health: Health, registry: CollectorRegistry) -> None:
    """Listen on ``host:port`` in a daemon thread.

    Raises:
        SettingsError: the address is in use or not valid.
    """

    class Handler(BaseHTTPRequestHandler):
        wbufsize = ANSWER_BYTES  # by default the head is sent before the body, and a process may end in between

        def do_GET(self) -> None:
            if self.path == "/metrics":
                self._answer(HTTPStatus.OK, generate_latest(registry), CONTENT_TYPE_LATEST)
            elif self.path == "/healthz":
                self._say(None if health.is_alive else "the loop does not turn")
            elif self.path == "/readyz":
                self._say(health.why_not_ready)
            else:
                self._answer(HTTPStatus.NOT_FOUND, b"there is /metrics, /healthz and /readyz\n")

        def _say(self, trouble: str | None) -> None:
            status = HTTPStatus.OK if trouble is None else HTTPStatus.SERVICE_UNAVAILABLE
            self._answer(status, f"{trouble or 'ok'}\n".encode())

        def _answer(self, status: HTTPStatus, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
            """Log nothing: scrapes would fill the log."""

    host, _, port = address.rpartition(":")
    try:
        server = ThreadingHTTPServer((host.strip("[]"), int(port)), Handler)
    except (OSError, OverflowError) as error:
        problem = f"TOKEN_WORKER_HTTP_ADDRESS: cannot listen there ({type(error).__name__}); set a free host:port"
        raise SettingsError(problem) from None
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
