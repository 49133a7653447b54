"""Time, chance and log of a worker. The simulation passes its own, so that a run depends on nothing but its seed."""

import gc
import random
import time
from collections.abc import Callable
from typing import NamedTuple

import structlog
from structlog.typing import FilteringBoundLogger


class Runtime(NamedTuple):
    """Functions of the process and its host that a worker uses.

    Attributes:
        monotonic: seconds of a clock that never goes back.
        unix_ns: Unix time in nanoseconds.
        sleep: waits for so many seconds.
        uniform: a random number between two others. It spreads the times of workers and guards nothing.
        collect_garbage: frees objects that refer to each other.
        log: takes what operators have to know.
    """

    monotonic: Callable[[], float] = time.monotonic
    unix_ns: Callable[[], int] = time.time_ns
    sleep: Callable[[float], object] = time.sleep
    uniform: Callable[[float, float], float] = random.uniform
    collect_garbage: Callable[[], object] = gc.collect
    log: FilteringBoundLogger = structlog.get_logger("worker")


REAL = Runtime()
"""The runtime of a worker in production."""
