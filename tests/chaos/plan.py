"""The plan of a run: it chooses the next fault, and counts how often each has happened."""

import random
import threading
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple


class Fault(NamedTuple):
    """A kind of fault.

    Attributes:
        theme: title of a table in the report.
        place: row of that table.
        moment: column of that table.
    """

    theme: str
    place: str
    moment: str = "times"

    def __str__(self) -> str:
        return f"{self.theme}: {self.place}" + ("" if self.moment == "times" else f", {self.moment}")


DUE_REST = 0.1
"""While some faults have not happened, the pause between two faults is shortened to this part."""


class Plan:
    """Chooses each fault once, in random order, then faults by weight; threads may share one plan.

    Args:
        weights: of every fault that has to happen.
    """

    def __init__(self, weights: dict[Fault, float], rng: random.Random) -> None:
        self._weights = weights
        self._rng = rng
        self._lock = threading.Lock()
        self._due = list(weights)
        rng.shuffle(self._due)
        self.counts: Counter[Fault] = Counter(dict.fromkeys(weights, 0))

    def take(self, can: Callable[[Fault], bool]) -> Fault:
        """The next fault, of those that the caller can bring about."""
        with self._lock:
            due = next((fault for fault in self._due if can(fault)), None)
            if due is not None:
                self._due.remove(due)
                return due
            possible = [fault for fault in self._weights if can(fault)]
            [chosen] = self._rng.choices(possible, [self._weights[fault] for fault in possible])
            return chosen

    def happened(self, fault: Fault) -> None:
        """Count a fault."""
        with self._lock:
            self.counts[fault] += 1
            if fault in self._due:  # another one had it in mind, too
                self._due.remove(fault)

    def failed(self, fault: Fault) -> None:
        """Note that a chosen fault did not happen: if it never has, it is due again after the others."""
        with self._lock:
            if not self.counts[fault] and fault not in self._due:
                self._due.append(fault)

    def rest(self, theme: str, seconds: tuple[float, float]) -> float:
        """Seconds to wait between two faults of a theme; few while some have not happened."""
        with self._lock:
            some_due = any(fault.theme == theme for fault in self._due)
            return self._rng.uniform(*seconds) * (DUE_REST if some_due else 1)

    @property
    def missing(self) -> list[Fault]:
        """Faults that have not happened yet."""
        with self._lock:
            return sorted(fault for fault, number in self.counts.items() if not number)
