"""The audit log of workers and commands: files that are opened again, and a line for each change."""

import gc
import json
import os
import pty
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from harness.stack import PROGRAM, Stack, wait_until
from token_worker.cli import app
from token_worker.errors import CheckFailed

CLIENT = "shop-frontend"
REQUEST = {"client_id": CLIENT, "type": "str"}

CHANGING = {
    "dead-letters drop",
    "dead-letters replay",
    "keys destroy",
    "keys generate",
    "keys index",
    "keys rewrap",
    "keys rotate",
    "replay",
    "tokens disable",
    "tokens enable",
    "tokens reencrypt",
    "tokens remove",
    "tokens verify",
}
"""Commands that change keys, tokens or streams."""

CHANGING_ELSEWHERE = {"keys drop-previous", "tokens layout", "tokens migrate"}
"""Commands that change Vault alone, or an empty token storage; their lines are tested where they are."""

LOOKING = {
    "acl",
    "dead-letters list",
    "dead-letters show",
    "deploy-files",
    "doctor",
    "keys list",
    "keys show",
    "keys verify",
    "lag",
    "monitor",
    "schemas",
    "tokens show",
    "tokens status",
}

ASKING = {"file", "request", "run"}
"""Commands whose requests are noted by workers, and the worker itself."""


class Audited:
    """Commands of one operator, run in this process, and the lines that they leave."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self._folder = folder
        self._env = {**stack.settings, "TOKEN_WORKER_AUDIT_FILE": str(folder / "{consumer}.log")}
        self._seen = 0
        self.commands: set[str] = set()

    def run(self, *arguments: str, status: int = 0) -> Result:
        """Run a command to its end, which must have this exit status."""
        result = CliRunner().invoke(app, arguments, env=self._env)
        with warnings.catch_warnings():  # a command leaves its connections to the end of its process
            warnings.simplefilter("ignore", ResourceWarning)
            result.exc_info = None
            if result.exception is not None:
                result.exception.__traceback__ = None
            gc.collect()
        assert (1 if isinstance(result.exception, CheckFailed) else result.exit_code) == status, result.output
        return result

    def new_lines(self) -> list[dict[str, Any]]:
        """The lines since the last call."""
        texts = [text for file in self._folder.glob("commands-*.log") for text in file.read_text().splitlines()]
        new, self._seen = texts[self._seen :], len(texts)
        return [json.loads(text) for text in new]

    def change(self, *arguments: str, status: int = 0) -> dict[str, Any]:
        """Run a command that changes something, and return the facts of its two lines."""
        self.run(*arguments, status=status)
        begin, end = self.new_lines()
        assert (begin["event"], end["event"], begin["change"]) == ("change begins", "change ended", end["change"])
        assert begin["command"] == end["command"] == " ".join(arguments)[: len(begin["command"])]
        assert end["outcome"] == ("failed" if status else "done")
        self.commands.add(begin["command"])
        return begin | end


def detokenize(stack: Stack, name: str) -> None:
    stack.ask([{**REQUEST, "op": "detokenize", "id": name, "value": "none"}], "detokenize")


def names(file: Path) -> list[str]:
    """The ids of the requests in an audit file."""
    return [json.loads(line)["request_id"] for line in file.read_text().splitlines()]


def test_every_change_is_noted(served: Stack, tmp_path: Path) -> None:
    """Each command that changes something leaves lines with what it was asked for and what came of it."""
    audited = Audited(served, tmp_path)
    client = "another-client"
    key = f"{client}_storage_sym"
    assert audited.change("keys", "generate", client)["client_id"] == client
    assert "there is a key already" in audited.change("keys", "generate", client, status=1)["reason"]
    assert audited.change("keys", "index", client)["made"] == 1
    history = audited.change("keys", "rotate", client, "--yes")["history"]
    assert history.startswith(f"{key}.old/")
    old = f"{key}.old/2020-01-01T00:00:00.000000001"
    served.storage.rename(f".acrakeys/{history}", f".acrakeys/{old}")
    destroyed = audited.change("keys", "destroy", old)
    assert (destroyed["key"], destroyed["step"]) == (old, "scanned")
    assert audited.change("keys", "destroy", old, "--restore", status=1)["restore"]
    assert audited.change("keys", "rewrap")["sealed"] == 0

    served.ask([{**REQUEST, "op": "tokenize", "id": str(number), "value": f"v{number}"} for number in range(2)])
    disabled = audited.change("tokens", "disable", CLIENT, "--type", "str", "--yes")
    assert (disabled["client_id"], disabled["type"], disabled["changed"]) == (CLIENT, "str", 2)
    assert len(disabled["entries"]) == 2
    assert audited.change("tokens", "enable", CLIENT, "--state", "disabled", "--yes")["state"] == "disabled"
    assert audited.change("tokens", "reencrypt", CLIENT, "--yes")["sealed"] == 0
    assert audited.change("tokens", "verify", CLIENT, "--repair")["repaired"] == 0
    assert audited.change("tokens", "remove", CLIENT, "--older-than", "1", "--yes")["older_than_days"] == 1

    assert audited.change("replay", "--from", "0-0", "--no-wait")["sent"] == 2
    assert audited.change("replay", "--forget", status=1)["forget"]
    served.streams.xadd("tokenize:requests", {"no": "payload"})
    wait_until(served.dead_letters, "the dead letter")
    assert audited.change("dead-letters", "replay", "--all", "--no-wait", status=1)["sent"] == 0
    dropped = audited.change("dead-letters", "drop", "--reason", "payload_missing", "--yes")
    assert (dropped["dropped"], dropped["reason"]) == (1, "payload_missing")
    assert audited.commands == CHANGING


def test_what_changes_nothing_leaves_no_line(served: Stack, tmp_path: Path) -> None:
    """A dry run and a command that only looks leave no line in the audit log."""
    served.ask([{**REQUEST, "op": "tokenize", "id": "1", "value": "v"}])
    audited = Audited(served, tmp_path)
    for command in (
        ("keys", "verify"),
        ("keys", "rewrap", "--dry-run"),
        ("tokens", "verify", CLIENT),
        ("tokens", "verify", CLIENT, "--repair", "--dry-run"),
        ("tokens", "disable", CLIENT, "--dry-run"),
        ("tokens", "reencrypt", CLIENT, "--dry-run"),
        ("tokens", "show", CLIENT),
        ("replay", "--from", "0-0", "--dry-run"),
        ("dead-letters", "drop", "--all", "--dry-run"),
    ):
        audited.run(*command)
    assert audited.new_lines() == []


def test_every_command_is_known_to_change_or_not() -> None:
    """A new command is put into one of the lists above, so that its audit lines are not forgotten."""
    context = click.Context(app)
    found = set()
    for name in app.list_commands(context):
        command = app.get_command(context, name)
        found |= {f"{name} {part}" for part in command.commands} if isinstance(command, click.Group) else {name}
    assert found <= CHANGING | CHANGING_ELSEWHERE | LOOKING | ASKING


def test_no_more_values_are_revealed_than_the_limit(served: Stack, tmp_path: Path) -> None:
    """``tokens show --reveal`` ends at its limit, and says so; each value that was shown has its line."""
    served.ask([{**REQUEST, "op": "tokenize", "id": str(number), "value": f"v{number}"} for number in range(3)])
    audited = Audited(served, tmp_path)
    result = audited.run("tokens", "show", CLIENT, "--reveal", "--limit", "2", "--yes", status=1)
    assert "2 tokens were shown, and there are more" in str(result.exception)
    shown = [json.loads(line)["entry"] for line in result.stdout.splitlines()]
    assert [line["entry"] for line in audited.new_lines()] == shown
    assert len(shown) == 2
    assert len(audited.run("tokens", "show", CLIENT, "--reveal", "--yes").stdout.splitlines()) == 3
    assert "--limit is only for --reveal" in audited.run("tokens", "show", CLIENT, "--limit", "2", status=2).output


def test_worker_opens_its_file_at_sighup(stack: Stack, tmp_path: Path) -> None:
    """SIGHUP does not end a worker: an idle one creates its file anew, and writes its next lines there."""
    file, moved = tmp_path / "a.log", tmp_path / "a.log.1"
    worker = stack.start_worker(TOKEN_WORKER_AUDIT_FILE=str(tmp_path / "{consumer}.log"), TOKEN_WORKER_CONSUMER="a")
    detokenize(stack, "first")
    file.rename(moved)
    worker.signal(signal.SIGHUP)
    wait_until(file.exists, "the new file")
    detokenize(stack, "second")
    assert (names(moved), names(file)) == (["first"], ["second"])
    # A second worker of the same name has no part in the file, also after its rotation.
    refused = stack.run("run", TOKEN_WORKER_AUDIT_FILE=str(tmp_path / "{consumer}.log"), TOKEN_WORKER_CONSUMER="a")
    assert refused.returncode == 2
    assert "a.log: another process writes to it" in refused.stderr
    assert worker.is_alive


@pytest.mark.parametrize("nohup", [[], ["nohup"]])
def test_worker_in_a_terminal_ends_with_it(stack: Stack, tmp_path: Path, nohup: list[str]) -> None:
    """A worker drains when its terminal is closed. Under ``nohup`` it goes on, and SIGHUP opens its file again."""
    file = tmp_path / "audit.log"
    ours, theirs = pty.openpty()
    command = ["setsid", "--ctty", *nohup, sys.executable, *PROGRAM, "run"]
    log = (tmp_path / "log").open("wb")
    with (
        log,
        subprocess.Popen(
            command, env=stack.environment(TOKEN_WORKER_AUDIT_FILE=str(file)), stdin=theirs, stdout=log, stderr=log
        ) as process,
    ):
        try:
            os.close(theirs)
            detokenize(stack, "first")
            os.close(ours)
            if nohup:
                file.rename(tmp_path / "audit.log.1")
                process.send_signal(signal.SIGHUP)
                wait_until(file.exists, "the new file")
                process.terminate()
            assert process.wait(60) == 0
        finally:
            process.kill()
    assert "drained" in (tmp_path / "log").read_text()
