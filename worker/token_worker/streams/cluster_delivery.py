"""Delivery from several slots of a Redis Cluster: a ``Delivery`` for the routes of each slot, in turn. Sans-IO.

One command reads several streams only if they are in one slot. So every slot is asked for new entries without waiting.
If none has any, a read waits shortly for one of them, and all are asked again. A batch comes from one slot.

The slot that is waited for first is the one whose batch followed, when the slot of the last batch had one before. That
is right for producers that wait for a reply before they send the next request, to one slot or to several in turn. Waits
of a millisecond for one slot after the other would not do: an idle server ends a wait only ten times a second.

A slot whose node is unavailable rests, and its routes are paused; the other slots go on. The rest gets longer each time
that the node lets a read run into its time-out, because all slots wait for that read. Answers that cannot be committed
within ``patience_seconds`` are left: their entries stay pending, and are isolated when the node is back.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from token_worker.backoff import BackOffSeconds
from token_worker.errors import Unavailable
from token_worker.redis.exchange import Exchange
from token_worker.streams.delivery import Delivery
from token_worker.streams.delivery_protocol import DeliveryProtocol
from token_worker.streams.entry import Answer, Batch, Committed, Entry
from token_worker.streams.routes import Route

ROUND_MS = 100
"""Longest wait of a read for one slot before all slots are asked again. A request in another slot waits at most this
long, and an idle worker asks each slot ten times a second."""

REST_SECONDS = BackOffSeconds(1.0, 30.0)
"""Rest of a slot that could not be read. The rest doubles as long as the node does not answer in time."""


@dataclass
class _Rest:
    """Rest of a slot that could not be read. It ends when the slot is read.

    Attributes:
        error: why the slot could not be read.
        failures: number of failures in a row that count for the length of the rest.
        until: time at which it is asked again. The next ``fetch`` sets it, because the failure took time that the
            ``now`` of its own ``fetch`` cannot tell.
    """

    error: Unavailable
    failures: int
    until: float = math.inf


class ClusterDelivery(DeliveryProtocol):
    """Delivery from several slots.

    Args:
        groups: the routes of each slot.
        make: makes the delivery of one such group.
    """

    patience_seconds = 2.0
    """Other slots wait meanwhile. A slot that moves to another node mostly takes less."""

    def __init__(self, groups: Iterable[Sequence[Route]], make: Callable[[Sequence[Route]], Delivery]) -> None:
        self._routes = {make(routes): routes for routes in groups}
        self._of = {route: delivery for delivery, routes in self._routes.items() for route in routes}
        self._turns = [*self._routes]  # that of the last batch is the last
        self._rests: dict[Delivery, _Rest] = {}
        self._followers: dict[Delivery, Delivery] = {}
        """The slot of the batch that followed the last batch of each slot."""

    def has_older(self, now: float) -> bool:
        return any(delivery.has_older(now) for delivery in self._turns if not self._is_resting(delivery, now))

    def fetch(self, now: float, block_ms: int, *, with_commit: bool = False) -> Exchange[Batch]:  # noqa: ARG002 - see reads_at_once
        for rest in self._rests.values():
            rest.until = min(rest.until, now + REST_SECONDS.after(rest.failures))
        for number in range(max(1, block_ms // ROUND_MS)):
            for delivery in [*self._turns]:
                batch = yield from self._fetch(delivery, now, 0)
                if batch.entries:
                    return batch
            awake = [delivery for delivery in self._turns if not self._is_resting(delivery, now)]
            if not awake:
                raise self._rests[self._turns[0]].error.with_traceback(None)
            if not block_ms or self.has_older(now):
                continue
            expected = self._followers.get(self._turns[-1])
            if number or expected not in awake:
                expected = awake[number % len(awake)]
            batch = yield from self._fetch(expected, now, min(ROUND_MS, block_ms))
            if batch.entries:
                return batch
        return Batch([], isolated=False)

    def _fetch(self, delivery: Delivery, now: float, wait_ms: int) -> Exchange[Batch]:
        if self._is_resting(delivery, now):
            return Batch([], isolated=False)
        try:
            batch = yield from delivery.fetch(now, wait_ms)
        except Unavailable as error:
            failures = 1
            if delivery in self._rests and error.reason.endswith("TimeoutError"):
                failures += self._rests[delivery].failures
            self._rests[delivery] = _Rest(error.with_traceback(None), failures)  # its frames hold commands
            return Batch([], isolated=False)
        self._rests.pop(delivery, None)
        if batch.entries:
            self._followers[self._turns[-1]] = delivery
            self._turns.remove(delivery)  # the other slots are asked first the next time
            self._turns.append(delivery)
        return batch

    def _is_resting(self, delivery: Delivery, now: float) -> bool:
        return delivery in self._rests and now < self._rests[delivery].until

    def renew(self, entries: Sequence[Entry]) -> Exchange[list[Entry]]:
        return self._of[entries[0].route].renew(entries)

    def suspect(self, entries: Sequence[Entry], now: float) -> None:
        self._of[entries[0].route].suspect(entries, now)

    @property
    def paused(self) -> list[Route]:
        return [*dict.fromkeys([*self.away, *(route for delivery in self._turns for route in delivery.paused)])]

    @property
    def away(self) -> dict[Route, str]:
        rests = self._rests.items()
        return {route: str(rest.error) for delivery, rest in rests for route in self._routes[delivery]}

    @property
    def groups_made_again(self) -> int:
        return sum(delivery.groups_made_again for delivery in self._turns)

    def commit(self, parts: Sequence[Sequence[Answer]], now: float) -> Exchange[Committed]:
        return self._of[parts[0][0].entry.route].commit(parts, now)

    def parts(self, answers: Sequence[Answer]) -> list[list[Answer]]:
        return self._of[answers[0].entry.route].parts(answers)

    def dead_letter(self, entry: Entry, reason: str, reply: Answer | None, now: float) -> Exchange[Committed]:
        return self._of[entry.route].dead_letter(entry, reason, reply, now)

    def put_off(self, entries: Sequence[Entry], now: float) -> Exchange[None]:
        return self._of[entries[0].route].put_off(entries, now)

    def uncount_tries(self) -> Exchange[None]:
        """Uncount deliveries as ``Delivery`` does, in slots whose node is available."""
        for delivery in self._turns:
            if delivery not in self._rests:
                yield from delivery.uncount_tries()
