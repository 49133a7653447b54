"""``scripts/bench``: that it measures, not how fast anything is."""

import subprocess
import sys
from pathlib import Path

import bench
import msgspec


def test_bench_measures_every_row() -> None:
    """A small run gives every figure of every kind of work, and ratios to the null worker."""
    done = subprocess.run(
        [sys.executable, str(Path(bench.__file__)), "--requests", "600", "--rounds", "1", "--json"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = msgspec.json.decode(done.stdout)
    assert set(rows) == {"null", "new value", "known value", "detokenize"}
    assert all({*bench.Measured._fields, "rate_ratio", "worker_ratio"} == set(row) for row in rows.values())
    assert all(row["rate"] > 0 for row in rows.values())
    assert rows["null"]["rate_ratio"] == 1
