"""One node of a cluster whose commands are sent before the replies of other nodes are received."""

import time
from collections.abc import Sequence
from typing import Any, Protocol

import redis

from token_worker.errors import ServerError, Unavailable
from token_worker.redis.address import Node, RedisSettings
from token_worker.redis.cluster import NodeLink
from token_worker.redis.errors import is_from_primary

WRONG_TYPE = "WRONGTYPE"
"""Code of the only error that does not become ``Unavailable``: a key holds something else than a string."""

PLAIN = frozenset({bytes, int, list, type(None)})
"""Types of replies that are no errors."""


class PipelinedNode(NodeLink):
    """One node of a cluster. Every error but WRONGTYPE is ``Unavailable``."""

    def __init__(self, name: str, settings: RedisSettings, node: Node, seconds: float) -> None:
        super().__init__(name, settings, node, raise_server_errors=True, seconds=seconds)

    def _typed(self, error: redis.RedisError) -> Unavailable | ServerError:
        made = super()._typed(error)
        if type(made) is ServerError and made.code != WRONG_TYPE:
            return Unavailable(self.name, made.code, self.address)
        return made

    @property
    def is_connected(self) -> bool:
        """True if the last exchange left an open connection."""
        return self._used_at >= 0

    def send_many(self, packed: bytes) -> Unavailable | ServerError | None:
        """Send packed commands. Return the error because of which they were not sent."""
        try:
            self._ensure_connected()
            self._wire.send_long(packed)
        except redis.RedisError as error:
            self.close()
            return self._typed(error)
        except (Unavailable, ServerError) as error:  # the node rests
            self.close()
            return error
        except BaseException:
            self.close()
            raise
        return None

    def receive_many(self, count: int, deadline: float) -> list[Any]:
        """Return so many replies, each a reply or its error. Give up if nothing has come by ``deadline``."""
        replies: list[Any] = []
        try:
            if count and not self._wire.wait(deadline - time.monotonic()):
                raise redis.TimeoutError  # noqa: TRY301 - one way to end
            self._wire.receive_many(replies, count)
        except redis.RedisError as error:
            self.close()
            replies += [self._typed(error)] * (count - len(replies))
        except BaseException:
            self.close()
            raise
        else:
            self._used_at = time.monotonic()
        return replies if PLAIN.issuperset(map(type, replies)) else self._with_typed_errors(replies)

    def _with_typed_errors(self, replies: list[Any]) -> list[Any]:
        """Make errors of this package. Replies after an error of a server that is no primary are not trusted."""
        for at, reply in enumerate(replies):
            if isinstance(reply, redis.RedisError):
                replies[at] = self._typed(reply)
                if not is_from_primary(reply):
                    self.close()
                    return replies[:at] + [replies[at]] * (len(replies) - at)
        return replies


class Closing(Protocol):
    """Commands that follow those of each node, and decide whether the replies before them count."""

    def commands(self, link: PipelinedNode, /) -> Sequence[tuple[Any, ...]]:
        """Return the commands for a node."""
        ...

    def problem(self, link: PipelinedNode, replies: Sequence[Any], /) -> Unavailable | None:
        """Return the reason for which no command of the node counts as done; None if they do."""
        ...
