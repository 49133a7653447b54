"""A connection to the primary that Sentinels name; they are asked each time it is made.

Sentinels can be behind: what they name is taken only if it says itself that it is a primary; else the next Sentinel is
asked, until each was. Sentinels' own failures are ``Unavailable``, with ``Sentinel`` before the kind of failure.

A server that is made a replica may keep its connections, and its answers to reads are out of date by then: so it is
asked for its role now and then, too.
"""

import math
import time
from collections import deque
from collections.abc import Iterator

import redis

from token_worker.errors import Unavailable
from token_worker.redis.address import Node, RedisSettings
from token_worker.redis.link import RedisLink, code_of

SENTINEL_SECONDS = 1.0
"""How long to wait for a Sentinel before the next one is asked."""


ROLE_SECONDS = 1.0
"""How long a connection is used before its server is asked again whether it is the primary; for one that is used less
often: before each use."""


class SentinelLink(RedisLink):
    """Commands to the primary of a service.

    Args:
        name, refusals: as for ``RedisLink``.
        settings: of kind ``sentinel``.
    """

    def __init__(self, name: str, settings: RedisSettings, *, refusals: bool = False) -> None:
        super().__init__(name, settings.at(settings.nodes[0]), refusals=refusals)  # no server: ``_connect`` finds one
        self._settings = settings
        self._sentinels = deque(settings.nodes)
        self._checked_at = -math.inf

    def _look(self) -> None:
        super()._look()
        if time.monotonic() - self._checked_at > ROLE_SECONDS:
            self._check_role()

    def _connect(self) -> None:
        """Connect to the first server that is named and is a primary; who named it is asked first the next time."""
        connection = self._connection
        reason = ""
        for connection.host, connection.port in self._named():
            try:
                super()._connect()
                self._check_role()
            except redis.RedisError as error:
                reason = code_of(error)
            except Unavailable as error:
                reason = error.reason
            else:
                return
            connection.disconnect()
        raise Unavailable(self.name, reason)

    def _check_role(self) -> None:
        self._connection.send_command("ROLE")
        try:
            role = self._connection.read_response()[0]
        except redis.ResponseError as error:
            raise Unavailable(self.name, f"ROLE {code_of(error)}") from None
        if role != b"master":
            raise Unavailable(self.name, "READONLY")
        self._checked_at = time.monotonic()

    def _named(self) -> Iterator[Node]:
        """The servers that Sentinels name as the primary, each once: one that is away costs its time-out once.

        Raises:
            Unavailable: none is named.
        """
        named: set[Node] = set()
        reason = ""
        for _ in range(len(self._sentinels)):
            try:
                node = self._ask(self._sentinels[0])
            except Unavailable as error:
                reason = error.reason
            else:
                if node not in named:
                    named.add(node)
                    yield node
            self._sentinels.rotate(-1)
        if not named:
            raise Unavailable(self.name, f"Sentinel {reason}")

    def _ask(self, sentinel: Node) -> Node:
        link = RedisLink(self.name, self._settings.sentinel(sentinel), seconds=SENTINEL_SECONDS)
        try:
            found = link.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._settings.service)
        finally:
            link.close()
        if found is None:
            raise Unavailable(self.name, "knows no such service")
        return Node(found[0].decode(), int(found[1]))
