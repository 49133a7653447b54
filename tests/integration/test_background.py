"""Ctrl-C does not end commands in the background of a script, where the shell ignores SIGINT."""

import signal
import subprocess
import sys
from pathlib import Path

from harness.clients import CLIENT
from harness.stack import PROGRAM, Stack, wait_until

BACKGROUND = ("/bin/sh", "-c", """trap '' INT; exec "$@" """, "sh", sys.executable, *PROGRAM)


def start(stack: Stack, *arguments: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [*BACKGROUND, *arguments], env=stack.environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip


def test_file_is_not_stopped_by_ctrl_c_for_others(stack: Stack, tmp_path: Path) -> None:
    """A long run in the background goes on to its end; SIGTERM would stop it as ever."""
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text("name\n" + "".join(f"name {number}\n" for number in range(2000)))
    arguments = ("file", "tokenize", str(source), str(out), "--client", CLIENT, "--column", "name=str")
    with start(stack, *arguments) as process:
        try:
            wait_until(lambda: stack.streams.xlen("tokenize:requests"), "the first request")
            for _ in range(2):
                process.send_signal(signal.SIGINT)
            stack.start_worker()
            _, errors = process.communicate(timeout=90)
        finally:
            process.kill()
    assert process.returncode == 0, errors
    assert len(out.read_text().splitlines()) == 2001


def test_replay_is_not_stopped_by_ctrl_c_for_others(stack: Stack) -> None:
    """The same for a command that takes no signals over."""
    stack.start_worker()
    one = {"op": "tokenize", "client_id": CLIENT, "type": "str", "value": "x"}
    stack.ask([{**one, "id": f"r{number}"} for number in range(40)])
    with start(stack, "replay", "--from", "0-0", "--no-wait", "--rate", "20") as process:
        try:
            wait_until(lambda: stack.streams.xlen("tokenize:requests") > 42, "some replayed requests")
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=90)
        finally:
            process.kill()
    assert process.returncode == 0, errors
    assert stack.streams.xlen("tokenize:requests") == 80


def test_worker_drains_on_sigint_wherever_it_was_started(stack: Stack, tmp_path: Path) -> None:
    """A worker says that it serves until SIGTERM or SIGINT: whoever sends one means it."""
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen([*BACKGROUND, "run"], env=stack.environment(), stdout=output, stderr=output)
    try:
        wait_until(lambda: b"worker is ready" in log.read_bytes(), "the worker")
        process.send_signal(signal.SIGINT)
        assert process.wait(90) == 0
    finally:
        process.kill()
        process.wait()
    assert b"drained" in log.read_bytes()
