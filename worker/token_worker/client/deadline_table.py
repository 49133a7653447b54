"""The open calls, sorted by deadline. The thread that takes a call out of the table is the one that ends the call."""

import math
import threading
from collections.abc import Iterable
from typing import Final, TypeVar

from token_worker.client.calls import Call

Outcome = TypeVar("Outcome")

_TICK_SECONDS: Final = 0.01
"""Deadlines are rounded up to a multiple of this time."""


class DeadlineTable:
    """All open calls of a client. Safe for many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._by_tick: dict[int, set[Call]] = {}
        self._next = math.inf
        self._is_woken = False
        self._is_closed = False

    def add(self, call: Call) -> bool:
        """Add a call. Return False if the table is closed."""
        tick = math.ceil(call.deadline / _TICK_SECONDS)
        with self._lock:
            if self._is_closed:
                return False
            self._by_tick.setdefault(tick, set()).add(call)
            if tick < self._next:
                self._changed.notify()
        return True

    def take(self, call: Call) -> bool:
        """Take a call out. Return True if the call was in the table: then the caller has to end it."""
        return bool(self.take_each([(call, None)]))

    def take_each(self, outcomes: Iterable[tuple[Call, Outcome]]) -> list[tuple[Call, Outcome]]:
        """Take calls out. Return those that were in the table, with their outcomes: the caller has to end them."""
        taken: list[tuple[Call, Outcome]] = []
        with self._lock:
            for outcome in outcomes:
                call = outcome[0]
                tick = math.ceil(call.deadline / _TICK_SECONDS)
                calls = self._by_tick.get(tick)
                if calls is None or call not in calls:
                    continue
                calls.remove(call)
                if not calls:
                    del self._by_tick[tick]
                taken.append(outcome)
        return taken

    def wake(self) -> None:
        """Make ``wait_for_overdue`` return, because its thread has something else to do."""
        with self._lock:
            self._is_woken = True
            self._changed.notify()

    def wait_for_overdue(self, now: float) -> list[Call]:
        """Wait until a call may be overdue, or until ``wake``; then take out all calls whose deadline has passed.

        Args:
            now: seconds of the monotonic clock.
        """
        with self._lock:
            self._next = min(self._by_tick, default=math.inf)
            if not (self._is_woken or self._is_closed) and self._next * _TICK_SECONDS > now:
                self._changed.wait(None if self._next == math.inf else self._next * _TICK_SECONDS - now)
            self._is_woken = False
            due = [tick for tick in self._by_tick if tick * _TICK_SECONDS <= now]
            return [call for tick in due for call in self._by_tick.pop(tick)]

    def close(self) -> list[Call]:
        """Take all calls out. No call can be added any more."""
        with self._lock:
            self._is_closed = True
            left = [call for calls in self._by_tick.values() for call in calls]
            self._by_tick.clear()
            self._changed.notify()
            return left

    @property
    def is_closed(self) -> bool:
        """True after ``close``."""
        return self._is_closed
