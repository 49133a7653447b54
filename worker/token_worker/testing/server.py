"""fakeredis behind a TCP port of the loopback, for producers with whatever Redis client they have."""

import logging
import select
import socket
import threading
from contextlib import suppress
from typing import Any, Final
from weakref import WeakSet

from fakeredis import TcpFakeServer

_HOST: Final = "127.0.0.1"

_POLL_SECONDS: Final = 0.01
"""Time between two looks whether the server is to stop."""

_LOG: Final = logging.getLogger("fakeredis")


class FakeRedisServer:
    """A Redis of its own for each instance, until ``close``.

    Attributes:
        url: its address.
        data: what ``fakeredis.FakeRedis(server=…)`` takes, to reach the same data without a connection.
    """

    def __init__(self) -> None:
        self._no_replies = _NoReplies()
        _LOG.addFilter(self._no_replies)
        self._server = _Server((_HOST, 0))
        self.url = f"redis://{_HOST}:{self._server.server_address[1]}"
        self.data = self._server.fake_server
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_SECONDS,), name="token-worker testing server", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop, and close the connections."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._server.hang_up()
        _LOG.removeFilter(self._no_replies)


class _Server(TcpFakeServer):
    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(address)
        self.daemon_threads = True  # one whose producer waits for entries without a time-out never ends
        self._connections: WeakSet[socket.socket] = WeakSet()

    def get_request(self) -> tuple[socket.socket, Any]:
        accepted, address = super().get_request()
        connection = _Connection(fileno=accepted.detach())
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connections.add(connection)
        return connection, address

    def hang_up(self) -> None:
        """Close the connections, also for producers that wait."""
        for connection in [*self._connections]:
            with suppress(OSError):  # it is closed already
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: a producer that closes its connection is no error."""


class _Connection(socket.socket):
    """fakeredis makes the socket non-blocking, and then gives up a reply that is larger than the socket's buffer."""

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        left = memoryview(data)
        while left:
            try:
                left = left[self.send(left, flags) :]
            except BlockingIOError:
                select.select([], [self], [])


class _NoReplies(logging.Filter):
    """Leaves out the lines in which a server has every reply, in the clear. Each server has a filter of its own."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno > logging.DEBUG
