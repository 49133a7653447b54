"""A connection to the primary that Sentinels name. They are asked each time a connection is made.

Sentinels can be out of date. So the server that they name is used only if it says itself that it is a primary. If not,
the next Sentinel is asked, until all were. Failures of the Sentinels are ``Unavailable``, with ``Sentinel`` before the
kind of failure.

A server that becomes a replica may keep its connections, and its replies to reads are out of date then. So the server
is asked for its role now and then, too.
"""

import math
import time
from collections import deque
from collections.abc import Iterator

import redis

from token_worker.errors import SettingsError, Unavailable
from token_worker.redis.address import Node, RedisSettings
from token_worker.redis.errors import error_code
from token_worker.redis.link import RedisLink
from token_worker.redis.wire import pack

SENTINEL_SECONDS = 1.0
"""Time-out of a Sentinel; then the next one is asked."""

ROLE_SECONDS = 1.0
"""Age of the last answer to ROLE at which the server is asked again. A connection that is used less often asks before
each use."""


class SentinelLink(RedisLink):
    """Commands to the primary of a service.

    Args:
        name, raise_server_errors: as for ``RedisLink``.
        settings: settings of kind ``sentinel``.
    """

    _checked_seconds = -1.0  # always: a busy connection asks for the role, too

    def __init__(self, name: str, settings: RedisSettings, *, raise_server_errors: bool = False) -> None:
        address = settings.at(settings.nodes[0])  # no server: ``_connect`` finds one
        super().__init__(name, address, raise_server_errors=raise_server_errors)
        self._settings = settings
        self._sentinels = deque(settings.nodes)
        self._checked_at = -math.inf

    def _ensure_connected(self) -> None:
        super()._ensure_connected()
        if time.monotonic() - self._checked_at > ROLE_SECONDS:
            self._check_role()

    def _connect(self) -> None:
        """Connect to the first named server that is a primary. The Sentinel that named it is asked first next time."""
        connection = self._connection
        last = Unavailable(self.name, "Sentinel", self._settings.server)
        for connection.host, connection.port in self._named():
            try:
                super()._connect()
                self._check_role()
            except redis.RedisError as error:
                made = self._typed(error)
                last = made if isinstance(made, Unavailable) else Unavailable(self.name, made.code, self.address)
            except Unavailable as error:
                last = error
            else:
                return
            self.close()
        raise last.with_traceback(None)

    def _check_role(self) -> None:
        self._wire.send(pack(("ROLE",)))
        try:
            role = self._wire.receive()[0]
        except redis.ResponseError as error:
            raise Unavailable(self.name, f"ROLE {error_code(error)}", self.address) from None
        if role != b"master":
            raise Unavailable(self.name, "READONLY", self.address)
        self._checked_at = time.monotonic()

    def _named(self) -> Iterator[Node]:
        """Yield the servers that Sentinels name as the primary, each once, so that each costs at most one time-out.

        Raises:
            Unavailable: no Sentinel names a server.
            SettingsError: no address is that of a Sentinel, and there never was a connection.
        """
        named: set[Node] = set()
        kind, reason = Unavailable, ""
        wrong: list[SettingsError] = []
        for _ in range(len(self._sentinels)):
            try:
                node = self._ask(self._sentinels[0])
            except Unavailable as error:
                kind, reason = type(error), error.reason
            except SettingsError as error:
                wrong.append(error)
                reason = "InvalidResponse"
            else:
                if node not in named:
                    named.add(node)
                    yield node
            self._sentinels.rotate(-1)
        if len(wrong) == len(self._sentinels) and not self.connections:
            raise wrong[0]
        if not named:
            raise kind(self.name, f"Sentinel {reason}".rstrip(), self._settings.server)

    def _ask(self, sentinel: Node) -> Node:
        link = RedisLink(self.name, self._settings.sentinel(sentinel), seconds=SENTINEL_SECONDS)
        try:
            found = link.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._settings.service)
        finally:
            link.close()
        if found is None:
            raise Unavailable(self.name, "knows no such service", link.address)
        return Node(found[0].decode(), int(found[1]))
