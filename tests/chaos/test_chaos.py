"""The short form of ``scripts/chaos`` brings about every fault, and leaves no process behind."""

import signal
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from chaos.report import Report
from harness.processes import Run

KINDS_OF_FAULTS = 123
CHILDREN = 9
"""Two Valkeys, one OpenBao, and six workers."""


@pytest.mark.timeout(500)
def test_every_fault_happens_and_what_is_promised_holds(tmp_path: Path, say: Callable[[str], None]) -> None:
    """Through every kind of fault, no request is lost or answered twice or wrongly, but for what lost data explains."""
    with Run(tmp_path, "-m", "chaos", "--seconds", "20", "--json") as run:
        status = run.process.wait(480)
        output = run.output.read_text()
        assert run.left_behind() == []
    assert output.splitlines()[-1].startswith("{"), output
    made = msgspec.json.decode(output.splitlines()[-1], type=Report)
    say(f"seed {made.seed}: {made.totals}, {made.seconds:.0f} s")
    assert (made.problems, status) == ([], 0), output
    assert len(made.faults) == KINDS_OF_FAULTS
    assert all(made.faults.values())
    kept, lossy = made.acts[:-6], made.acts[-6:]
    assert len(kept) == 4
    assert all(act.requests == act.replies > 0 for act in kept)
    assert all(act.requests > 0 and act.tokens_detokenized > 0 for act in made.acts)
    # The acts with losses do lose something, except where none is permitted.
    permitted = {act.act: {kind for kind, count in act.counts.items() if count.permitted} for act in lossy}
    assert "request lost" in permitted["FLUSHALL of the streams"]
    assert "request lost" in permitted["streams deleted"]
    assert permitted["groups destroyed"] == {"request answered twice"}
    assert "request lost" in permitted["replica of the streams promoted"]
    assert permitted["replica of the tokens promoted"] >= {"token that cannot be detokenized"}
    assert permitted["replica of the tokens promoted, replicas:1"] == set()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_in_the_middle_leaves_no_process_behind(tmp_path: Path, number: int) -> None:
    """Stopped while workers and servers are killed and started again, it ends all of them."""
    with Run(tmp_path, "-m", "chaos", "--seconds", "60") as run:
        run.wait_for(lambda: len(run.children()) >= CHILDREN, "servers and workers")
        run.process.send_signal(number)
        assert run.process.wait(60) == 128 + number
        assert run.left_behind() == []
