"""Both targets led by atheris, which chooses payloads and stored entries by the code that they reach."""

import random
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["token_worker"]):
    from fuzz.entries import Entries
    from fuzz.stored import Case, Stored
    from fuzz.world import World, no_chance

LONGEST = 4096
"""Bytes of an input: libFuzzer is slow with long ones, which the mutator makes."""

CASES = 2000
"""Cases between two starts of a round, so that what rounds gather stays small."""

STORED = 0x80
"""First byte of inputs that are stored entries, and how many of the good ones are replaced."""


def run(seed: str, seconds: float, save: Path | None) -> None:
    """Run until a check fails or the time is over; ends the process.

    The first byte of an input chooses the target. The rest is a payload, or the entry that replaces a stored one.
    """
    world = World(seed)
    singles = world.singles[:STORED]
    entries, stored = Entries(seed), Stored(seed)
    done = 0

    def check(data: bytes) -> None:
        nonlocal done
        rng = random.Random(data)
        with no_chance(rng):
            if done % CASES == 0:
                entries.begin(rng)
                stored.begin(rng)
            done += 1
            if data[:1] < bytes((STORED,)):
                entries.check([{b"payload": data[1:]}])
            else:
                good = singles[data[0] - STORED]
                stored.check([Case(good, good.needed, data[1:])])

    with tempfile.TemporaryDirectory() as folder:
        for number, good in enumerate(world.good):
            Path(folder, f"request-{number}").write_bytes(b"\x00" + good.payload)
        for number, good in enumerate(singles):
            Path(folder, f"stored-{number}").write_bytes(bytes((STORED + number,)) + world.entries[good.needed])
        flags = [f"-max_len={LONGEST}", f"-artifact_prefix={save or folder}/", "-print_final_stats=1", "-verbosity=1"]
        if seconds != float("inf"):
            flags.append(f"-max_total_time={int(seconds)}")
        atheris.Setup([sys.argv[0], *flags, f"-seed={int.from_bytes(seed.encode()[-4:])}", folder], check)
        atheris.Fuzz()
