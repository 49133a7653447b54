"""A process started by a fork is what Python would have started."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import quick
from harness.processes import children_of
from harness.servers import Valkey
from harness.stack import Stack, wait_until

FACTS = """
import json, os, signal, sys
print("to standard error", file=sys.stderr)
print(json.dumps({
    "arguments": sys.argv,
    "input": sys.stdin.read(),
    "variables": {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
    "folder": os.getcwd(),
    "files": sorted(os.listdir("/proc/self/fd"))[:-1],
    "parent": os.getppid(),
    "leads": os.getpid() == os.getsid(0),
    "encodings": [(file.encoding, file.errors, file.line_buffering) for file in (sys.stdin, sys.stdout, sys.stderr)],
    "signals": [str(signal.getsignal(number)) for number in sorted(signal.valid_signals())],
    "main": __name__,
    "is_imported": "token_worker.cli.run" in sys.modules,
}))
sys.exit(7)
"""


@pytest.mark.parametrize("new_session", [False, True])
def test_fork_has_what_a_new_process_has(tmp_path: Path, new_session: bool) -> None:
    """Arguments, input, variables, folder, open files, parent, encodings, signals and status are the same."""

    def facts(run: Callable[..., "subprocess.CompletedProcess[str]"]) -> dict[str, Any]:
        done = run(
            [sys.executable, "-c", FACTS, "one", "two"],
            env={**os.environ, "TOKEN_WORKER_X": "y"},
            cwd=tmp_path,
            input="ü",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            start_new_session=new_session,
        )
        assert (done.returncode, done.stderr) == (7, "to standard error\n")
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    forked, usual = facts(quick.run), facts(subprocess.run)
    assert forked.pop("is_imported")
    assert not usual.pop("is_imported")
    assert usual["leads"] is new_session
    assert forked == usual | {"leads": new_session}
    assert forked["parent"] == os.getpid()


def test_variable_that_an_import_may_read_makes_a_new_process() -> None:
    """With another environment than ours, nothing was imported before."""
    command = [sys.executable, "-c", "import sys; sys.exit('token_worker' in sys.modules)"]
    assert quick.run(command, check=False).returncode == 1
    assert quick.run(command, env={**os.environ, "LC_ALL": "C"}, check=False).returncode == 0


def test_fork_that_is_killed_is_seen(streams_server: Valkey) -> None:
    """Workers are our children: alive, killed with a status, and then gone."""
    with Stack(streams_server, streams_server) as stack:
        worker = stack.start_worker()
        wait_until(lambda: stack.streams.exists("tokenize:requests"), "the group")
        assert worker.is_alive
        assert worker.pid in children_of(os.getpid())
        worker.kill()
        assert worker.wait() == -signal.SIGKILL
        assert worker.pid not in children_of(os.getpid())


def test_commands_differ_in_nothing(streams_server: Valkey) -> None:
    """Output, errors and status of a command are those of a new process."""
    usual, forking = (Stack(streams_server, streams_server, fresh=fresh) for fresh in (True, False))
    with usual, forking:
        for words in ("keys list --json", "keys list --wrong", "--version", "lag --max-lag -1", "run --no-such-option"):
            one, other = (stack.run(*words.split()) for stack in (usual, forking))
            assert (other.returncode, other.stdout, other.stderr) == (one.returncode, one.stdout, one.stderr)


def test_random_numbers_differ() -> None:
    """Two forks do not draw the same numbers."""
    command = [
        sys.executable,
        "-c",
        "import random, secrets, uuid; print(random.random(), secrets.token_hex(), uuid.uuid4())",
    ]
    drawn = [quick.run(command, check=True, capture_output=True, text=True).stdout.split() for _ in range(2)]
    assert not {*drawn[0]} & {*drawn[1]}
