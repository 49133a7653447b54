"""Workers keep their promises on a simulated server under any faults, and the simulation finds every planted bug."""

import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from simulation.faults import NAMES
from simulation.mutants import FOUND_BY, MUTANTS, Mutant
from simulation.runs import simulate
from simulation.world import Failure, World

Say = Callable[[str], None]
TESTS = Path(__file__).parent.parent

IS_CI = bool(os.environ.get("CI"))

SECONDS = 10.0
"""Time for worlds of random seeds. With CI set the seeds are fixed, so that a commit always passes or always fails."""

STEPS = 150_000
"""Steps of the worlds with fixed seeds: enough that each fault happens several times."""


def test_promises_hold_in_many_worlds(say: Say) -> None:
    """With any seed, no promise is broken; a failure names the seed, with which it happens again."""
    run = simulate(20_000_000 if IS_CI else random.SystemRandom().randrange(1 << 32), seconds=SECONDS)
    for line in run.lines():
        say(line)
    assert run.settled > run.worlds


def test_promises_hold_in_the_same_worlds() -> None:
    """In the worlds with fixed seeds no promise is broken, and every kind of fault happens."""
    run = simulate(0, steps=STEPS)
    assert [name for name in NAMES if run.faults[name] < 5] == []
    assert set(run.permitted) >= {"deleted", "again"}


@pytest.mark.parametrize("name", MUTANTS)
def test_planted_bug_is_found(name: str, say: Say) -> None:
    """A bug is found within so many seeds, by a promise that it breaks; without it, the same world keeps them all."""
    mutant = MUTANTS[name]
    seed, failure = _first_failure(mutant, FOUND_BY.get(name, 0))
    say(f"found by seed {seed} of {mutant.seeds}: {failure.partition(': ')[2].partition(chr(10))[0]}")
    assert f"seed {seed}, step " in failure
    assert ": Broken: " in failure
    World(seed).run()


def _first_failure(mutant: Mutant, begin_with: int = 0) -> tuple[int, str]:
    for seed in (begin_with, *range(mutant.seeds)):
        try:
            World(seed, mutant.delivery, mutant.server, mutant.worker, mutant.handler, mutant.committer).run()
        except Failure as failure:
            return seed, str(failure)
    pytest.fail(f"not found by {mutant.seeds} seeds")


def test_failure_happens_again_and_tells_what_came_before() -> None:
    """The same seed fails at the same step, after the same commands, and the failure shows the last of them."""
    mutant = MUTANTS["reply before acknowledgement"]
    (seed, failure), (again, same) = _first_failure(mutant), _first_failure(mutant)
    assert (seed, failure) == (again, same)
    assert re.search(r"^ +\d+ +\d+\.\d{3} w\d+ +does +XADD \S+ \* payload reply", failure, re.MULTILINE)


def test_seed_means_the_same_in_every_process() -> None:
    """Neither the process nor its hashes change a world: the command prints the same checksum of all steps."""
    outputs = []
    for hashes in ("1", "2"):
        command = [sys.executable, "-m", "simulation", "--seed", "3", "--steps", "3000"]
        environment = {**os.environ, "PYTHONHASHSEED": hashes, "PYTHONPATH": str(TESTS)}
        outputs.append(subprocess.run(command, env=environment, capture_output=True, check=True, text=True).stdout)
    assert outputs[0] == outputs[1]
    assert re.search(r"seeds 3 to \d+: .* 0*[1-9][\d,]* steps", outputs[0])
