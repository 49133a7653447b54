"""A container that a test imitates leaves no process behind, however the test ends."""

import sys
from pathlib import Path
from subprocess import TimeoutExpired

import pytest

from harness.container import Container
from harness.stack import wait_until

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"


@pytest.mark.usefixtures("namespaces")
def test_command_that_does_not_stop_is_killed(tmp_path: Path) -> None:
    """A command that ignores SIGTERM fails the test that stops it, and does not outlive the test."""
    with Container(tmp_path, [sys.executable, "-c", DEAF], {}) as container:
        wait_until(lambda: "up" in container.log.read_text(), "the command")
        process = Path(f"/proc/{container.first_process}")
        with pytest.raises(TimeoutExpired):
            container.stop(0.1)
    wait_until(lambda: not process.exists(), "the process to be gone", 5)
