"""``token-worker file`` on a CSV file of two columns: with one worker, and with a null worker that only echoes.

The null worker has servers of its own, so that the command is the same in both cases. The detokenized file is compared
with the input, byte for byte.
"""

import filecmp
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import click

from bench.cpu import DETOKENIZE, KNOWN, NEW, NULL
from bench.figures import Row, row
from bench.sizes import Sizes
from bench.subject import CLIENT, Subject, subject
from harness.ending import uninterrupted

RATE_LEAST = {NEW: 0.25, KNOWN: 0.7, DETOKENIZE: 0.4}
MEMORY_MOST = 100


class Done(NamedTuple):
    """One run of the command: rows a second, CPU microseconds a row, MiB resident at most."""

    rate: float
    cpu_us: float
    peak_mib: float


def measure(sizes: Sizes, tell: Callable[[str], None]) -> list[Row]:
    """Measure new values in each round, the same values again, and the way back."""
    rounds: dict[str, list[Done]] = defaultdict(list)
    with subject(sizes.layout) as system, subject() as other, TemporaryDirectory() as name:
        folder = Path(name)
        worker = system.start_worker()
        system.warm_up("tokenize", "detokenize")
        other.start_null("client", route="tokenize")
        for number in range(sizes.few_rounds):
            tell(f"files, round {number + 1} of {sizes.few_rounds}")
            source, tokens, back = (folder / f"{number}-{step}.csv" for step in ("in", "tokens", "back"))
            write(system, source, sizes.rows)
            rounds[NULL].append(run(other, "tokenize", source, back, sizes.rows))
            compare(source, back)
            rounds[NEW].append(run(system, "tokenize", source, tokens, sizes.rows))
            rounds[KNOWN].append(run(system, "tokenize", source, back, sizes.rows))
            compare(tokens, back)
            rounds[DETOKENIZE].append(run(system, "detokenize", tokens, back, sizes.rows))
            compare(source, back)
            for path in (source, tokens, back):
                path.unlink()
        worker.kill()
    section = f"token-worker file, {sizes.rows:,} rows of two columns"
    null = [done.rate for done in rounds[NULL]]
    made = []
    for kind, dones in rounds.items():
        rates = [done.rate for done in dones]
        made.append(row(section, kind, "rows/s", rates, to=null, least=RATE_LEAST.get(kind)))
    for kind, dones in rounds.items():
        made.append(row(section, f"{kind}, CPU of the command", "µs a row", [done.cpu_us for done in dones]))
    peaks = [max(dones[at].peak_mib for dones in rounds.values()) for at in range(sizes.few_rounds)]
    made.append(row(section, "resident peak of the command", "MiB", peaks, most=MEMORY_MOST))
    return made


def write(system: Subject, path: Path, rows: int) -> None:
    """Write a file of new values."""
    with path.open("w") as file:
        file.write("id,email,name,card\n")
        for number in range(rows):
            at = system.rng.randrange(10**12)
            file.write(f'{number},u{at}@navy.example,"Hopper, Grace",{system.rng.randrange(10**16):016}\n')


def run(system: Subject, op: str, source: Path, out: Path, rows: int) -> Done:
    """Run the command on a file."""
    columns = ("--column", "email=email", "--column", "card=str")
    command = ("file", op, str(source), str(out), *columns, "--client", CLIENT, "--force", "--wait", "60")
    started = time.monotonic()
    with uninterrupted():
        process = subprocess.Popen(
            [sys.executable, "-m", "token_worker", *command],
            env=system.stack.environment(), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        process.kill()
        process.wait()
        raise
    seconds = time.monotonic() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise click.ClickException(f"token-worker file {op} ended with {process.returncode}")
    return Done(rows / seconds, (usage.ru_utime + usage.ru_stime) / rows * 1e6, usage.ru_maxrss / 1024)


def compare(expected: Path, got: Path) -> None:
    """Raise an error if two files differ."""
    if not filecmp.cmp(expected, got, shallow=False):
        raise click.ClickException("what token-worker file wrote is not what there should be")
