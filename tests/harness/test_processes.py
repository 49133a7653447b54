"""A script that a test runs is watched and cleaned up after, and no other process is touched."""

from pathlib import Path

import pytest

from harness.processes import Run
from harness.stack import wait_until

WAITS = "import signal; signal.pause()"

LEAVES_ONE = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {WAITS!r}], start_new_session=True)"


def test_what_a_script_leaves_behind_is_found_and_killed(tmp_path: Path) -> None:
    """A process that outlives its script is listed, and gone when the test is over."""
    with Run(tmp_path, "-c", LEAVES_ONE) as run:
        assert run.process.wait(60) == 0
        assert len(run.left_behind()) == 1
    wait_until(lambda: run.left_behind() == [], "the process to be gone")


def test_folder_whose_name_only_begins_alike_is_another(tmp_path: Path) -> None:
    """The processes of a run in ``leav10`` are not those of a run in ``leav1``: they are not listed, nor killed."""
    one, other = tmp_path / "leav1", tmp_path / "leav10"
    one.mkdir()
    other.mkdir()
    with Run(other, "-c", WAITS) as neighbour:
        with Run(one, "-c", "pass") as run:
            assert run.process.wait(60) == 0
            assert run.left_behind() == []
        assert neighbour.process.poll() is None


def test_a_script_that_ends_early_is_not_waited_for(tmp_path: Path) -> None:
    """A test that waits for something of a script fails with the script's output as soon as the script has ended."""
    with Run(tmp_path, "-c", "raise SystemExit('no server')") as run, pytest.raises(RuntimeError, match="no server"):
        run.wait_for(run.children, "a server")
