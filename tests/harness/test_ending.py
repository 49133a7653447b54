"""A test run that is ended by a signal stops the servers and workers that its tests have started."""

import signal
from pathlib import Path

import pytest

from harness.processes import Run

ROOT = Path(__file__).parents[2]

SERVING = """
import os
import signal
from pathlib import Path

import pytest

@pytest.mark.parametrize("number", range(2))
def test_serves(number, served):
    Path(os.environ["TMPDIR"], f"serves-{number}").touch()
    signal.pause()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("processes", [0, 2])
def test_ended_run_leaves_no_process_behind(tmp_path: Path, processes: int, number: int) -> None:
    """SIGTERM to pytest alone ends it like Ctrl-C, and xdist's processes with it: no server or worker goes on."""
    (tmp_path / "test_serving.py").write_text(SERVING)
    pytest_command = ("-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path), "-p", "conftest")
    with Run(tmp_path, *pytest_command, "-n", str(processes), str(tmp_path / "test_serving.py")) as run:
        run.wait_for(lambda: len([*tmp_path.glob("serves-*")]) == max(processes, 1), "tests with a worker each")
        run.process.send_signal(number)
        assert run.process.wait(60) == pytest.ExitCode.INTERRUPTED, run.output.read_text()
        assert run.left_behind() == []
