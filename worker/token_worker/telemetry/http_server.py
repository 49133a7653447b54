"""A small HTTP server in a thread of its own, for probes, metrics and pages. IPv4 and IPv6, GET and HEAD.

A handler of a server derives from ``Pages`` and says what stands at a path. The path comes without its query string.
"""

import errno
import socket
import threading
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from token_worker.errors import SettingsError
from token_worker.settings.listen_address import ListenAddress

ANSWER_BYTES: Final = 1 << 20
"""Size up to which an answer is sent at once: larger than the metrics of thousands of streams."""

CLIENT_SECONDS: Final = 30.0
"""Longest silence of a client in the middle of its request. Then its connection is closed."""

TEXT: Final = "text/plain; charset=utf-8"

_NO_SUCH_FAMILY: Final = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}
"""Errors of a machine that has no IPv6."""


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
        page = self.page(path, query)
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

    def __init__(self, family: socket.AddressFamily, place: ListenAddress, pages: type[Pages]) -> None:
        self.address_family = family
        super().__init__(place, pages)

    def server_bind(self) -> None:
        """Bind without asking a DNS for the name of the host, as the library does."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]


def listen(address: ListenAddress, pages: type[Pages], option: str) -> ListenAddress:
    """Serve pages in a daemon thread, until the process ends.

    Args:
        address: where to listen. ``::`` is all addresses, and those of IPv4 alone on a machine without IPv6.
        pages: the handler of a request.
        option: name of the option that holds the address, for the error.

    Returns:
        The address in use; its port is the one that the system chose, if port 0 was asked for.

    Raises:
        SettingsError: the address is in use or not of this machine.
    """
    try:
        server = _bind(address, pages)
    except OSError as error:
        why = "no address of that name" if isinstance(error, socket.gaierror) else error.strerror or "refused"
        problem = f"{option}: cannot listen on {address} ({why}); set a free address of this machine"
        raise SettingsError(problem) from None
    threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
    return ListenAddress(*server.server_address[:2])  # type: ignore[arg-type]


def _bind(address: ListenAddress, pages: type[Pages]) -> _Server:
    """Bind to the first address of the host that can be had.

    A name such as ``localhost`` is an address of IPv4 rather than one of IPv6.
    """
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    families = sorted({family for family, *_ in found}, key=lambda family: family != socket.AF_INET)
    places = [(family, place[0]) for wanted in families for family, *_, place in found if family == wanted]
    if address.host == "::":
        places.append((socket.AF_INET, "0.0.0.0"))  # noqa: S104 - all addresses were asked for
    for family, host in places[:-1]:
        try:
            return _Server(family, ListenAddress(str(host), address.port), pages)
        except OSError as error:
            if error.errno not in _NO_SUCH_FAMILY:
                raise
    family, host = places[-1]
    return _Server(family, ListenAddress(str(host), address.port), pages)
