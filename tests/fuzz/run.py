"""Runs cases of a target in rounds, and watches memory and time. Seed and number identify a case."""

import itertools
import os
import random
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec

from fuzz.dense import Dense
from fuzz.entries import Entries
from fuzz.stored import Stored
from fuzz.world import Fault, no_chance
from harness.processes import peak_mib

ROUND_BATCHES = 50
"""Batches that share a handler and its caches. Rounds know nothing of each other: a case is repeated by its round."""

STALL_SECONDS = 10.0
"""CPU time of one batch that is a stall; the largest take a fraction of it."""

WARM_UP_ROUNDS = 20
"""Number of rounds, after the largest cases, before memory is measured."""

GROWTH_MIB = 24
"""Growth of the resident peak that is permitted after that, for any number of cases."""


class Target(Protocol):
    """A target: it draws cases and checks them."""

    name: str
    a_batch: int
    outcomes: Counter[str]

    def __init__(self, seed: str) -> None: ...
    def begin(self, rng: random.Random) -> None:
        """Start a round."""
        ...

    def largest(self) -> list[Any]:
        """Batches of the largest cases."""
        ...

    def draw(self) -> list[Any]:
        """The next batch."""
        ...

    def check(self, cases: Sequence[Any]) -> None:
        """Raises ``Fault``."""
        ...


TARGETS: dict[str, type[Target]] = {target.name: target for target in (Entries, Stored, Dense)}


class Failure(NamedTuple):
    """A case that went wrong.

    Attributes:
        case: its number, which gives round and batch; the first of its batch if the failing one is unknown; negative
            for one of the largest.
        what: the failed check, without anything of the input.
        cases: the input of the case, or of its batch.
    """

    case: int
    what: str
    cases: list[Any]


class Report(NamedTuple):
    """A run.

    Attributes:
        slowest: CPU seconds of the slowest batch.
        peaks: resident peak in MiB after the warm-up and at the end.
        outcomes: number of cases with each outcome.
    """

    cases: int
    seconds: float
    slowest: float
    peaks: tuple[float, float]
    outcomes: Counter[str]
    failure: Failure | None


def run(
    name: str,
    seed: str,
    *,
    cases: int,
    seconds: float = float("inf"),
    only: int | None = None,
    tell: Callable[[int], object] = lambda _: None,
) -> Report:
    """Run a number of cases, or for a time, or until one fails; or ``only`` the round of one case."""
    target = TARGETS[name](seed)
    a_round = ROUND_BATCHES * target.a_batch
    started = time.monotonic()
    slowest, done = 0.0, 0
    first = 0 if only is None else max(only, 0) // a_round
    warm = peak_mib(os.getpid())
    failure = None
    for number in itertools.count(first):
        rng = random.Random(f"{seed} {name} {number}")
        with no_chance(rng):
            target.begin(rng)
            largest = target.largest() if number == 0 else []
            for at in range(-len(largest), ROUND_BATCHES):
                batch = largest[at] if at < 0 else target.draw()
                begun = time.process_time()
                failure = _checked(target, batch, at if at < 0 else number * a_round + at * target.a_batch)
                spent = time.process_time() - begun
                slowest = max(slowest, spent)
                if failure is None and spent > STALL_SECONDS:
                    failure = Failure(number * a_round, f"a batch took {spent:.1f} seconds of CPU", batch)
                if failure is not None:
                    break
                done += len(batch)
        if number < WARM_UP_ROUNDS:
            warm = peak_mib(os.getpid())
        elif failure is None and only is None and peak_mib(os.getpid()) > warm + GROWTH_MIB:
            failure = Failure(number * a_round, f"memory has grown by more than {GROWTH_MIB} MiB", [])
        tell(done)
        if failure is not None or only is not None or done >= cases or time.monotonic() - started >= seconds:
            break
    peaks = warm, peak_mib(os.getpid())
    return Report(done, time.monotonic() - started, slowest, peaks, target.outcomes, failure)


def _checked(target: Target, batch: list[Any], first: int) -> Failure | None:
    try:
        target.check(batch)
    except Fault as fault:
        case = fault.case
        return Failure(first + (case or 0), str(fault), batch if case is None else [batch[case]])
    except Exception as error:  # noqa: BLE001 - any that leaves the handler is what is looked for
        where = "".join(traceback.format_tb(error.__traceback__))
        return Failure(first, f"{type(error).__name__} left the handler\n{where}", batch)
    return None


def save(failure: Failure, folder: Path, name: str, seed: str) -> list[Path]:
    """Write the input of the failed cases, each as a map in MessagePack. The input holds made-up values only."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number, case in enumerate(failure.cases):
        files.append(folder / f"{name}-{seed}-{failure.case}-{number}.msgpack")
        files[-1].write_bytes(msgspec.msgpack.encode(case if isinstance(case, dict) else case.saved()))
    return files
