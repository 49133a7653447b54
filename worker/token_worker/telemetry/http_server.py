"""A small HTTP server in a thread of its own, for probes, metrics and pages. It answers GET and HEAD.

A handler of a server derives from ``Pages`` and says what stands at a path. The path comes without its query string.
"""

import socket
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, NamedTuple

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from structlog.typing import FilteringBoundLogger

from token_worker.settings.listen_address import ListenAddress
from token_worker.telemetry.listening import address_of, listen

_LOG: FilteringBoundLogger = structlog.get_logger("http")

ANSWER_BYTES: Final = 1 << 20
"""Size up to which an answer is sent at once: larger than the metrics of thousands of streams."""

CLIENT_SECONDS: Final = 30.0
"""Longest silence of a client in the middle of its request. Then its connection is closed."""

TEXT: Final = "text/plain; charset=utf-8"

CONNECTIONS_MAX: Final = 100
"""Most connections at once. One more is closed."""

CONNECTION_SECONDS: Final = 60.0
"""Longest life of a connection. A client that sends a byte now and then does not keep a thread."""


class Page(NamedTuple):
    """An answer.

    Attributes:
        status: the status.
        body: content, in bytes.
        kind: the value of ``Content-Type``.
        headers: further headers.
    """

    status: HTTPStatus
    body: bytes
    kind: str = TEXT
    headers: Mapping[str, str] = {}


class Pages(BaseHTTPRequestHandler):
    """Handles one request: ``page`` says what stands at a path. Nothing is logged, since scrapes would fill the log."""

    server_version = "token-worker"
    sys_version = ""
    wbufsize = ANSWER_BYTES  # by default the head is sent before the body, and a process may end in between
    timeout = CLIENT_SECONDS

    def page(self, path: str, query: str) -> Page:
        """Return the answer for a path. ``query`` is the text after the first ``?``."""
        raise NotImplementedError

    def do_GET(self) -> None:
        """Answer with the page."""
        self._answer(has_body=True)

    def do_HEAD(self) -> None:
        """Answer with the headers of the page."""
        self._answer(has_body=False)

    def _answer(self, *, has_body: bool) -> None:
        path, _, query = self.path.partition("?")
        try:
            page = self.page(path, query)
        except Exception:  # noqa: BLE001 - the client gets an answer, whatever fails
            _LOG.exception("a page could not be made", path=path)
            page = Page(HTTPStatus.INTERNAL_SERVER_ERROR, b"this page could not be made; the log says more\n")
        self.send_response(page.status)
        for name, value in {**page.headers, "Content-Type": page.kind, "Content-Length": len(page.body)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if has_body:
            self.wfile.write(page.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Log nothing."""


def metrics_page(registry: CollectorRegistry) -> Page:
    """Return the metrics of a registry."""
    return Page(HTTPStatus.OK, generate_latest(registry), CONTENT_TYPE_LATEST)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, listening: socket.socket, pages: type[Pages]) -> None:
        super().__init__(address_of(listening), pages, bind_and_activate=False)
        self.socket.close()  # the one that the library has made
        self.socket = listening
        self._open: dict[socket.socket, float] = {}

    def process_request(self, request: Any, client_address: Any) -> None:
        """Handle a connection in a thread, unless there are too many."""
        if len(self._open) >= CONNECTIONS_MAX:
            self.shutdown_request(request)
            return
        self._open[request] = time.monotonic()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that went away in the middle."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def service_actions(self) -> None:
        """Cut connections that live for too long. The server calls this twice a second, and after each connection."""
        late = time.monotonic() - CONNECTION_SECONDS
        for request, since in self._open.copy().items():
            if since < late:
                self._open.pop(request, None)
                with suppress(OSError):  # its thread has closed it
                    request.shutdown(socket.SHUT_RDWR)


def serve_pages(address: ListenAddress, pages: type[Pages], option: str) -> ListenAddress:
    """Serve pages in a daemon thread, until the process ends.

    Args:
        address: where to listen.
        pages: the handler of a request.
        option: name of the option that holds the address, for the error.

    Returns:
        The address in use, with the port that the system chose if port 0 was asked for.

    Raises:
        SettingsError: the address is in use or not of this machine.
    """
    listening = listen(address, option)
    threading.Thread(target=_Server(listening, pages).serve_forever, name="http", daemon=True).start()
    return address_of(listening)
