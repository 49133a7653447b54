"""``scripts/bench``: that it measures, not how fast anything is."""

import subprocess
import sys
from pathlib import Path

import bench
import click
import msgspec
import pytest
from servers import Valkey
from stack import Stack


def test_bench_measures_every_row() -> None:
    """A small run gives every figure of every kind of work, and ratios to the null worker."""
    done = subprocess.run(
        [sys.executable, str(Path(bench.__file__)), "--requests", "200", "--rounds", "1", "--json"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = msgspec.json.decode(done.stdout)
    assert set(rows) == {"null", "new value", "known value", "detokenize"}
    assert all({*bench.Measured._fields, "rate_ratio", "worker_ratio"} == set(row) for row in rows.values())
    assert all(row["rate"] > 0 and row["worker_us"] > 0 for row in rows.values())
    assert rows["null"]["rate_ratio"] == 1


def test_bench_does_not_time_refusals(stack: Stack, streams_server: Valkey, storage_server: Valkey) -> None:
    """Replies that are errors end the run: they are quicker than the work that a row stands for."""
    subject = bench.Bench(streams_server, storage_server, stack, 2)
    stack.send([{"id": "0", "status": "ok", "value": "a token"}], "tokenize:responses")
    stack.send([{"id": "1", "status": "error"}], "tokenize:responses")
    with pytest.raises(click.ClickException, match="1 of 2 requests to tokenize were refused"):
        subject.answers("tokenize")
