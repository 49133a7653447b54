"""Ctrl-C before a command runs ends it without a traceback."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from token_worker import interrupts

STOPS = """
import builtins, signal, sys

def stopping(name, *rest, imported=builtins.__import__, **more):
    if name == {name!r} and sys.stdout:
        print("here", flush=True)
        while True:
            signal.pause()
    return imported(name, *rest, **more)

builtins.__import__ = stopping
"""
"""Python runs this when it starts: a certain import stops, until there is a signal."""


@pytest.fixture
def _as_usual() -> Iterator[None]:
    """Ctrl-C has Python's own effect before and afterwards."""
    before = signal.getsignal(signal.SIGINT)
    assert before is signal.default_int_handler
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("name", ["click", "token_worker.cli.terminal"])
def test_ctrl_c_while_a_command_is_imported_is_no_traceback(tmp_path: Path, name: str) -> None:
    """The process ends with 130 and says nothing."""
    (tmp_path / "sitecustomize.py").write_text(STOPS.format(name=name))
    command = [sys.executable, "-m", "token_worker", "file", "--help"]
    with subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": str(tmp_path)}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"here\n"
            process.send_signal(signal.SIGINT)
            assert (process.wait(60), process.communicate()[1]) == (130, b"")
        finally:
            process.kill()


@pytest.mark.usefixtures("_as_usual")
def test_ctrl_c_is_an_exception_again_when_a_command_runs() -> None:
    """Commands tidy up on their way out."""
    interrupts.exit_quietly()
    assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    interrupts.restore()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("_as_usual")
def test_ctrl_c_stays_ignored_where_it_is() -> None:
    """A process that a script starts in the background is none of the terminal's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    interrupts.exit_quietly()
    interrupts.restore()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_ctrl_c_is_tested_in_the_background_of_a_script() -> None:
    """Tests run from a shell without job control, where SIGINT is ignored, are none the worse for it."""
    test = f"{Path(__file__)}::{test_ctrl_c_while_a_command_is_imported_is_no_traceback.__name__}"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test]
    background = ["/bin/sh", "-c", """trap '' INT; exec "$@" """, "sh", *command]
    root = Path(__file__).parents[2]
    done = subprocess.run(background, cwd=root, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout
