"""A connection to the primary that Sentinels name; they are asked each time it is made.

Sentinels can be behind: what they name is taken only if it says itself that it is a primary. Their own failures are
``Unavailable``, with ``Sentinel`` before the kind of failure.
"""

from collections import deque

import redis

from token_worker.errors import Unavailable
from token_worker.redis_link import RedisLink, code_of
from token_worker.redis_settings import Node, RedisSettings

SENTINEL_SECONDS = 1.0
"""How long to wait for a Sentinel before the next one is asked."""


class SentinelLink(RedisLink):
    """Commands to the primary of a service.

    Args:
        name, refusals: as for ``RedisLink``.
        settings: of kind ``sentinel``.
    """

    def __init__(self, name: str, settings: RedisSettings, *, refusals: bool = False) -> None:
        super().__init__(name, settings.at(settings.nodes[0]), refusals=refusals)  # no server: ``_connect`` finds it
        self._settings = settings
        self._sentinels = deque(settings.nodes)

    def _connect(self) -> None:
        connection = self._connection
        connection.host, connection.port = self._find_primary()
        super()._connect()
        connection.send_command("ROLE")
        try:
            role = connection.read_response()[0]
        except redis.ResponseError as error:
            raise Unavailable(self.name, f"ROLE {code_of(error)}") from None
        if role != b"master":
            raise Unavailable(self.name, "READONLY")

    def _find_primary(self) -> Node:
        """What the first Sentinel that knows the service says; the one that did is asked first the next time."""
        reason = ""
        for _ in range(len(self._sentinels)):
            link = RedisLink(self.name, self._settings.sentinel(self._sentinels[0]), seconds=SENTINEL_SECONDS)
            try:
                found = link.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._settings.service)
            except Unavailable as error:
                reason = error.reason
            else:
                if found is not None:
                    return Node(found[0].decode(), int(found[1]))
                reason = "knows no such service"
            finally:
                link.close()
            self._sentinels.rotate(-1)
        raise Unavailable(self.name, f"Sentinel {reason}")
