"""Many worlds in a row, each of the next seed, until there were enough steps or time is up."""

import time
from collections import Counter
from dataclasses import dataclass, field

from simulation.faults import NAMES
from simulation.world import World


@dataclass
class Run:
    """The result of worlds with the seeds from ``seed`` on.

    Attributes:
        checksum: of every step; two runs of the same worlds have the same.
    """

    seed: int
    worlds: int = 0
    steps: int = 0
    settled: int = 0
    seconds: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    permitted: Counter[str] = field(default_factory=Counter)
    checksum: int = 0

    def lines(self) -> list[str]:
        """All of it but the time, for people."""
        permitted = ("deleted", "again", "given up", "hidden")
        done = f"{self.worlds:,} worlds, {self.steps:,} steps, {self.settled:,} requests settled, no promise broken"
        return [
            f"seeds {self.seed} to {self.seed + self.worlds - 1}: {done}",
            f"faults: {', '.join(f'{name} {self.faults[name]:,}' for name in NAMES)}",
            f"permitted: {', '.join(f'{name} {self.permitted[name]:,}' for name in permitted)}",
            f"checksum {self.checksum:08x}",
        ]


def simulate(seed: int, *, steps: int | None = None, seconds: float | None = None) -> Run:
    """Run worlds until there were so many steps, or so much time has passed; a world once begun is run to its end.

    Raises:
        Failure: a promise was broken; the message tells the world's own seed.
    """
    run = Run(seed)
    began = time.perf_counter()
    while (steps is None or run.steps < steps) and (seconds is None or run.seconds < seconds):
        figures = World(seed + run.worlds).run()
        run.worlds += 1
        run.steps += figures.steps
        run.settled += figures.settled
        run.faults += figures.faults
        run.permitted += figures.permitted
        run.checksum ^= figures.checksum
        run.seconds = time.perf_counter() - began
    return run
