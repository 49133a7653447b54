"""Tries that must not count, until the server has uncounted them. Sans-IO.

A try must not count if a server was unavailable. The server that has to uncount it may be the same one. So each such
try is remembered, and uncounted before the next claim. A claim whose reply was lost is one of them: the server may have
counted a try that never began.

Redis counts a delivery for each entry of a batch. An entry that was put off out of a batch has a count of 0 afterwards.
This tells every worker that nothing speaks against it: such entries are claimed many at once.

Touches: the request streams and their group.
"""

from collections.abc import Mapping
from typing import Any

from token_worker.errors import ServerError
from token_worker.redis.exchange import Command, Exchange, RunScript
from token_worker.redis.script import Script
from token_worker.streams.routes import Route

UNCOUNT = Script(__package__, "uncount.lua")

UNCOUNT_ENTRIES = 500
"""Most entries of one script: it takes a few milliseconds of the server."""


class UncountedTries:
    """Tries of one worker that must not count and that the server still counts.

    Attributes:
        open: delivery counts by route and entry id. A route without such tries is left out.
    """

    def __init__(self, group: str, consumer: str) -> None:
        self._group = group
        self._consumer = consumer
        self.open: dict[Route, dict[bytes, int]] = {}

    def add(self, route: Route, deliveries: Mapping[bytes, int]) -> None:
        """Remember tries by entry id, each with the delivery count that it made."""
        if deliveries:
            self.open.setdefault(route, {}).update(deliveries)

    def claim(self, route: Route, deliveries: Mapping[bytes, int], command: Command) -> Exchange[list[Any]]:
        """Send a claim that counts a try. The try is remembered here until the reply arrives."""
        self.add(route, deliveries)
        reply = yield command
        for entry_id in deliveries:
            self.forget(route, entry_id)
        return list(reply)

    def forget(self, route: Route, entry_id: bytes) -> None:
        """Let a try count after all."""
        tries = self.open.get(route, {})
        tries.pop(entry_id, None)
        if not tries:
            self.open.pop(route, None)

    def uncount_tries(self) -> Exchange[None]:
        """Uncount all remembered tries, except of entries that another worker has by now.

        Raises:
            Unavailable: thrown in. The rest stays remembered.
        """
        for route, tries in list(self.open.items()):
            while tries:
                part = list(tries.items())[:UNCOUNT_ENTRIES]
                args = [argument for entry in part for argument in entry]
                try:
                    yield RunScript(UNCOUNT, (route.requests,), (self._group, self._consumer, *args))
                except ServerError:  # there is no such group or stream any more, and no count
                    tries.clear()
                    break
                for entry_id, _ in part:
                    del tries[entry_id]
            del self.open[route]
