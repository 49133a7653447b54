"""The faults of a world and their rates. Each world draws its own: some bugs show only if other faults are rare."""

import random

COMMAND_FAULTS = {
    "crash before": 3.0,
    "crash after": 3.0,
    "refused": 3.0,
    "reply lost": 4.0,
    "too much": 4.0,
    "stall": 4.0,
    "all away": 3.0,
}
"""Faults of a command, with weights: the worker dies, its connection breaks, or a read brings too much; or the command
is done, and then the one server of streams, keys and tokens is away."""

SLOW_BATCH = "slow batch"
"""A worker takes as long for a batch as others wait before they take it over, or longer, and may then have failed."""

CONFIRM_FAULTS = {"too few replicas": 2.0, "storage made anew": 1.0}
"""Faults while tokens are confirmed, with weights; with the second one, their look-up had another connection."""

MEMORY_LIMIT = "memory limit"
"""The server holds as much as it may, until something is trimmed."""

EVENTS = {
    "send": 90.0,
    "time passes": 25.0,
    "long time passes": 1.5,
    "hours pass": 0.3,
    "clock jumps ahead": 0.6,
    "clock jumps back": 0.6,
    "id ahead": 0.6,
    "storage away": 5.0,
    "key away": 6.0,
    "audit away": 4.0,
    "server full": 3.0,
    "drain": 2.0,
    "flush": 0.6,
    "group destroyed": 2.0,
    "stream deleted": 1.6,
    "entry deleted": 2.0,
    "key of another type": 1.5,
    "ids used up": 1.5,
}
"""Other events instead of a worker's next command, with weights."""

WORK = "work"
WORK_WEIGHT = 700.0
"""Faults of the worker's next command."""

ALWAYS = frozenset({"send", "time passes", "long time passes", "hours pass"})
"""No faults."""

NAMES = [*COMMAND_FAULTS, SLOW_BATCH, *CONFIRM_FAULTS, MEMORY_LIMIT, *(name for name in EVENTS if name not in ALWAYS)]
"""All faults."""


class Climate:
    """The faults of one world."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._kept = rng.choice([0.2, 0.5, 0.9])
        self._share = rng.choice([0.0, 0.02, 0.06, 0.15])
        self._slow = rng.choice([0.0, 0.0, 0.3])
        self._unconfirmed = rng.choice([0.0, 0.05, 0.2])
        self._large = rng.choice([0.0, 0.1, 0.5, 0.95])
        self.most_entries = rng.choice([10**9, 10**9, 40, 100])
        """Number of entries of all streams together at which the server is at its memory limit."""
        self._faults = self._some(COMMAND_FAULTS)
        self._events = {WORK: WORK_WEIGHT, **self._some(EVENTS)}

    def _some(self, weights: dict[str, float]) -> dict[str, float]:
        return {name: weight for name, weight in weights.items() if name in ALWAYS or self._rng.random() < self._kept}

    def event(self) -> str:
        """Draw the next event."""
        return self._rng.choices(list(self._events), list(self._events.values()))[0]

    def fault(self) -> str:
        """Draw the fault of a command; empty for no fault."""
        if not self._faults or self._rng.random() >= self._share:
            return ""
        return self._rng.choices(list(self._faults), list(self._faults.values()))[0]

    def is_slow(self) -> bool:
        """Draw whether a batch takes too long."""
        return self._rng.random() < self._slow

    def is_large(self) -> bool:
        """Draw whether a request is large."""
        return self._rng.random() < self._large

    def confirm_fault(self) -> str:
        """Draw the fault while tokens are confirmed; empty for no fault."""
        if self._rng.random() >= self._unconfirmed:
            return ""
        return self._rng.choices(list(CONFIRM_FAULTS), list(CONFIRM_FAULTS.values()))[0]
