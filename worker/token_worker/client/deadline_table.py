"""The calls that are open, by when their time is up. Who takes a call from here is the one that ends it."""

import math
import threading
from typing import Final

from token_worker.client.calls import Call

_TICK: Final = 0.01
"""Seconds to which deadlines are rounded up."""


class DeadlineTable:
    """All calls of a client that are not over; for many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._by_tick: dict[int, set[Call]] = {}
        self._next = math.inf
        self._is_woken = False
        self._is_closed = False

    def add(self, call: Call) -> bool:
        """A new one; whether it was taken: none is, once it is closed."""
        tick = math.ceil(call.deadline / _TICK)
        with self._lock:
            if self._is_closed:
                return False
            self._by_tick.setdefault(tick, set()).add(call)
            if tick < self._next:
                self._changed.notify()
        return True

    def take(self, call: Call) -> bool:
        """Take a call out; whether it was still there, and so is the caller's to end."""
        tick = math.ceil(call.deadline / _TICK)
        with self._lock:
            calls = self._by_tick.get(tick)
            if calls is None or call not in calls:
                return False
            calls.remove(call)
            if not calls:
                del self._by_tick[tick]
            return True

    def wake(self) -> None:
        """Have ``wait_for_overdue`` return: there is something else to do."""
        with self._lock:
            self._is_woken = True
            self._changed.notify()

    def wait_for_overdue(self, now: float) -> list[Call]:
        """Take out the calls whose time is up; waits, until there is at least a chance of one, or it is woken.

        Args:
            now: seconds of the monotonic clock.
        """
        with self._lock:
            self._next = min(self._by_tick, default=math.inf)
            if not (self._is_woken or self._is_closed) and self._next * _TICK > now:
                self._changed.wait(None if self._next == math.inf else self._next * _TICK - now)
            self._is_woken = False
            due = [tick for tick in self._by_tick if tick * _TICK <= now]
            return [call for tick in due for call in self._by_tick.pop(tick)]

    def close(self) -> list[Call]:
        """Take all out, and take no more."""
        with self._lock:
            self._is_closed = True
            left = [call for calls in self._by_tick.values() for call in calls]
            self._by_tick.clear()
            self._changed.notify()
            return left

    @property
    def is_closed(self) -> bool:
        """Whether it takes no more."""
        return self._is_closed
