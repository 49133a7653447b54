"""Whether this worker lives, and whether it can work: ``/healthz``, ``/readyz`` and ``/metrics`` over HTTP.

``/healthz`` answers 200 while the loop turns: within three times its longest wait, or, in a batch, within the time in
which its entries would be taken over. ``/readyz`` answers 200 while streams, token storage and keys are there and the
worker is not draining, else 503 with a line that says why. The server is a thread of its own, and touches no Redis.
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
"""The longest the loop waits for anything: an answer of a server, or the next try."""


class Health:
    """Written by the loop, read by the HTTP thread.

    Args:
        batch_seconds: how long a batch may take before its entries are taken over.
        trouble: why the worker cannot work for another reason than those told here, or None.
    """

    def __init__(self, batch_seconds: float, trouble: Callable[[], str | None] = lambda: None) -> None:
        self._batch_seconds = batch_seconds
        self._trouble = trouble
        self._turned_at = time.monotonic()
        self._in_batch = False
        self._not_ready: str | None = "starting"

    def turn(self, *, in_batch: bool = False) -> None:
        """The loop is at work; ``in_batch``: it may be for a while."""
        self._turned_at = time.monotonic()
        self._in_batch = in_batch

    def ready(self) -> None:
        """Streams and token storage answered."""
        self._not_ready = None

    def not_ready(self, why: str) -> None:
        """Something is away, or the worker drains."""
        self._not_ready = why

    @property
    def is_alive(self) -> bool:
        """Whether the loop turns."""
        limit = 3 * LONGEST_WAIT_SECONDS
        if self._in_batch:
            limit = max(limit, self._batch_seconds)
        return time.monotonic() - self._turned_at < limit

    @property
    def why_not_ready(self) -> str | None:
        """None where the worker can work."""
        return self._not_ready or self._trouble()


def serve(address: str, health: Health, registry: CollectorRegistry) -> None:
    """Listen on ``host:port`` in a daemon thread.

    Raises:
        SettingsError: the address is taken, or is none.
    """

    class Handler(BaseHTTPRequestHandler):
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
            """Scrapes are not logged."""

    host, _, port = address.rpartition(":")
    try:
        server = ThreadingHTTPServer((host.strip("[]"), int(port)), Handler)
    except (OSError, OverflowError) as error:
        problem = f"TOKEN_WORKER_HTTP_ADDRESS: cannot listen there ({type(error).__name__}); set a free host:port"
        raise SettingsError(problem) from None
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
