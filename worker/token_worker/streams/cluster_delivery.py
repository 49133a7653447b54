"""Delivery from several slots of a Redis Cluster: a ``Delivery`` for the routes of each, in turn. Sans-IO like that.

One command reads several streams only if they are in one slot. So every slot is asked for new entries without waiting;
if none has any, one of them is waited for shortly, and all are asked again. A batch is of one slot.

A slot whose node is away rests, as the routes of ``paused`` tell, and the others go on; the longer, the more often the
node let a read wait for its time-out, which all wait for. Answers that cannot be committed are left after
``patience_seconds``: their entries stay pending, and are tried alone when the node is back.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from token_worker.errors import Unavailable
from token_worker.redis.exchange import Exchange
from token_worker.streams.delivery import Answer, Batch, Committed, Delivery, Entry
from token_worker.streams.routes import Route

ROUND_MS = 100
"""How long one slot is waited for before all are asked again: at most so long a request on another one is not seen,
and ten times a second an idle worker asks each."""

REST_SECONDS = 1.0
"""How long a slot rests that could not be read."""

LONGEST_REST_SECONDS = 30.0
"""The rest is doubled up to this as long as the node does not answer in time."""


@dataclass
class _Rest:
    """That of a slot since it could not be read, until it can.

    Attributes:
        error: why it could not.
        seconds: how long it is not asked again.
        until: when it is. Set by the next ``fetch``: the failure took time that the ``now`` of its own cannot tell.
    """

    error: Unavailable
    seconds: float
    until: float = math.inf


class Deliveries:
    """What ``Delivery`` is to one slot, for several: the same methods, with the same promises.

    Args:
        groups: the routes of each slot.
        make: makes the delivery of such a group.
    """

    patience_seconds = 2.0
    """How long to try a commit or a burial again: other slots wait meanwhile. A slot on its way mostly takes less."""

    def __init__(self, groups: Iterable[Sequence[Route]], make: Callable[[Sequence[Route]], Delivery]) -> None:
        self._routes = {make(routes): routes for routes in groups}
        self._of = {route: delivery for delivery, routes in self._routes.items() for route in routes}
        self._turns = deque(self._routes)
        self._rests: dict[Delivery, _Rest] = {}

    def has_older(self, now: float) -> bool:
        """Whether ``fetch`` may claim an entry that was delivered before, which counts as a try."""
        return any(delivery.has_older(now) for delivery in self._turns if not self._is_resting(delivery, now))

    def fetch(self, now: float, block_ms: int) -> Exchange[Batch]:
        """The next entries of a slot to handle, perhaps none after ``block_ms``.

        Raises:
            Unavailable: no slot can be read.
        """
        for rest in self._rests.values():
            rest.until = min(rest.until, now + rest.seconds)
        for _ in range(max(1, block_ms // ROUND_MS)):
            for is_last in [*[False] * len(self._turns), True]:
                wait_ms = min(ROUND_MS, block_ms) if is_last and not self.has_older(now) else 0
                batch = yield from self._fetch(self._turns[0], now, wait_ms)
                self._turns.rotate(-1)
                if batch.entries:
                    return batch
            if all(self._is_resting(delivery, now) for delivery in self._turns):
                raise self._rests[self._turns[0]].error.with_traceback(None)
        return Batch([], alone=False)

    def _fetch(self, delivery: Delivery, now: float, wait_ms: int) -> Exchange[Batch]:
        if self._is_resting(delivery, now):
            return Batch([], alone=False)
        try:
            batch = yield from delivery.fetch(now, wait_ms)
        except Unavailable as error:
            seconds = REST_SECONDS
            if delivery in self._rests and error.reason.endswith("TimeoutError"):
                seconds = min(self._rests[delivery].seconds * 2, LONGEST_REST_SECONDS)
            self._rests[delivery] = _Rest(error.with_traceback(None), seconds)  # its frames hold commands
            return Batch([], alone=False)
        self._rests.pop(delivery, None)
        return batch

    def _is_resting(self, delivery: Delivery, now: float) -> bool:
        return delivery in self._rests and now < self._rests[delivery].until

    def suspect(self, entries: Sequence[Entry], now: float) -> None:
        """As that of ``Delivery``, for entries of one batch."""
        self._of[entries[0].route].suspect(entries, now)

    @property
    def paused(self) -> list[Route]:
        """Routes that rest: a stream of theirs is none, or refused by ACL, or their slot cannot be read."""
        return [*dict.fromkeys([*self.away, *(route for delivery in self._turns for route in delivery.paused)])]

    @property
    def away(self) -> dict[Route, str]:
        """Routes whose slot could not be read when that was tried last, with the reason."""
        rests = self._rests.items()
        return {route: rest.error.reason for delivery, rest in rests for route in self._routes[delivery]}

    @property
    def groups_made_again(self) -> int:
        """How often groups were found gone."""
        return sum(delivery.groups_made_again for delivery in self._turns)

    def put_off(self, entries: Sequence[Entry], now: float) -> Exchange[None]:
        """As that of ``Delivery``, for entries of one batch."""
        return self._of[entries[0].route].put_off(entries, now)

    def settle(self) -> Exchange[None]:
        """As that of ``Delivery``, for slots whose node is there."""
        for delivery in self._turns:
            if delivery not in self._rests:
                yield from delivery.settle()

    def renew(self, entries: Sequence[Entry]) -> Exchange[list[Entry]]:
        """As that of ``Delivery``, for entries of one batch."""
        return self._of[entries[0].route].renew(entries)

    def commit(self, answers: Sequence[Answer], now: float) -> Exchange[Committed]:
        """As that of ``Delivery``, for entries of one batch."""
        return self._of[answers[0].entry.route].commit(answers, now)

    def parts(self, answers: Sequence[Answer]) -> list[list[Answer]]:
        """As that of ``Delivery``, for entries of one batch."""
        return self._of[answers[0].entry.route].parts(answers)

    def bury(self, entry: Entry, reason: str, reply: Answer | None, now: float) -> Exchange[Committed]:
        """As that of ``Delivery``."""
        return self._of[entry.route].bury(entry, reason, reply, now)
