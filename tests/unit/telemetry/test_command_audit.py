"""The audit lines of commands: a change is noted before it is made, with who made it."""

import json
import os
import pwd
import socket
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from token_worker.errors import CheckFailed, SettingsError
from token_worker.telemetry import command_audit
from token_worker.telemetry.audit_file import AuditFile
from token_worker.telemetry.command_audit import CommandAudit

USER = pwd.getpwuid(os.getuid()).pw_name


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file of this user's commands beside ``audit.log``."""
    return tmp_path / f"audit-commands-{USER}.log"


@pytest.fixture
def audit(tmp_path: Path) -> CommandAudit:
    return CommandAudit("keys rotate", str(tmp_path / "audit.log"))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text().splitlines()]


def test_change_has_a_line_before_and_a_line_after_it(audit: CommandAudit, path: Path) -> None:
    """The first line is on the disk before the change is made; both name command, operator and what was asked for."""
    facts = {"client_id": "shop", "zone_id": None, "force": False, "ids": ()}
    with audit.change(facts) as outcome:
        [begin] = lines(path)
        outcome["history"] = "old"
    begin, end = lines(path)
    assert begin["event"] == "change begins"
    assert end["event"] == "change ended"
    assert begin["change"] == end["change"]
    assert (begin["command"], begin["operator"], begin["logger"]) == (
        "keys rotate",
        f"{USER}@{socket.gethostname()}",
        "audit",
    )
    assert begin["client_id"] == "shop"
    assert not begin.keys() & {"zone_id", "force", "ids"}
    assert (end["outcome"], end["history"], end["operator"]) == ("done", "old", begin["operator"])
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("error", "noted"),
    [
        (CheckFailed("there is a key already"), ("failed", "there is a key already")),
        (ValueError("a value"), ("failed", "ValueError")),
        (KeyboardInterrupt(), ("stopped", None)),
        (SystemExit(143), ("stopped", None)),
    ],
)
def test_change_that_fails_has_its_reason(
    audit: CommandAudit, path: Path, error: BaseException, noted: tuple[str, str | None]
) -> None:
    """The line after a change that failed says how far it came and why, and never quotes an error that is not ours."""

    def send() -> None:
        with audit.change() as outcome:
            outcome["sent"] = 3
            raise error

    with pytest.raises(type(error)):
        send()
    end = lines(path)[1]
    assert (end["outcome"], end.get("reason")) == noted
    assert end["sent"] == 3


def test_dry_run_leaves_no_line(audit: CommandAudit, path: Path) -> None:
    """A dry run changes nothing, so it needs no audit file."""
    with audit.change(dry_run=True):
        pass
    assert not path.exists()


def test_change_without_its_first_line_is_not_made(tmp_path: Path) -> None:
    """If the audit file cannot be written, the command ends before it changes anything, and names the file."""
    missing = tmp_path / "none" / "audit.log"
    changed = []
    with (
        pytest.raises(SettingsError, match=r"none/audit-commands-.*\.log: cannot be written \(No such file"),
        CommandAudit("keys rotate", str(missing)).change(),
    ):
        changed.append(1)
    assert not changed


def test_result_is_shown_although_the_outcome_cannot_be_noted(audit: CommandAudit, path: Path) -> None:
    """A disk that is full after the change does not hide what was done; the log names the change without an outcome."""
    with capture_logs() as logs, audit.change():
        path.unlink()
        path.mkdir()
    [event] = logs
    assert event["event"] == "outcome of a command is not in the audit log"
    assert "Is a directory" in event["reason"]


def test_file_of_commands_is_not_that_of_a_worker(tmp_path: Path, path: Path) -> None:
    """Commands write beside the file that a worker has locked, also where its name is part of the path."""
    with closing(AuditFile(tmp_path / "audit.log")):
        for setting in (tmp_path / "audit.log", tmp_path / "audit-{consumer}.log"):
            CommandAudit("tokens show", str(setting)).reveal("token", entry="abc")
    assert [line["entry"] for line in lines(path)] == ["abc", "abc"]


def test_commands_of_one_operator_share_a_file(audit: CommandAudit, path: Path) -> None:
    """A command that waits for its servers or for a person does not keep others from writing."""
    with audit.change(), CommandAudit("replay", str(path.with_name("audit.log"))).change():
        pass
    assert [line["command"] for line in lines(path)] == ["keys rotate", "replay", "replay", "keys rotate"]


def test_account_that_logged_in_is_named(tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line names the account before sudo, too, if sudo has changed it."""
    monkeypatch.setattr(command_audit, "_login", lambda: "alice")
    CommandAudit("tokens show", str(tmp_path / "audit.log")).reveal("token")
    monkeypatch.setattr(command_audit, "_login", lambda: USER)
    CommandAudit("tokens show", str(tmp_path / "audit.log")).reveal("token")
    assert [line.get("login") for line in lines(path)] == ["alice", None]


def test_lines_go_to_standard_error_without_a_file(capfd: pytest.CaptureFixture[str]) -> None:
    """Without a file, a change is noted on standard error."""
    with CommandAudit("keys rotate", None).change():
        pass
    assert [json.loads(text)["event"] for text in capfd.readouterr().err.splitlines()] == [
        "change begins",
        "change ended",
    ]


@pytest.mark.parametrize("setting", [None, "/dev/null", "/dev/stderr"])
def test_values_are_shown_only_with_a_file(setting: str | None) -> None:
    """To reveal a value takes an audit file: standard error and devices keep nothing."""
    with pytest.raises(SettingsError, match="--reveal needs an audit file"):
        CommandAudit("tokens show", setting).require_file()


def test_values_are_shown_only_if_the_file_can_be_written(tmp_path: Path) -> None:
    """To reveal a value takes a file that can be written."""
    with pytest.raises(SettingsError, match="No such file or directory"):
        CommandAudit("tokens show", str(tmp_path / "none" / "audit.log")).require_file()
    CommandAudit("tokens show", str(tmp_path / "audit.log")).require_file()


def test_lines_for_a_pipe_leave_no_descriptor_open(tmp_path: Path) -> None:
    """Each line to a named pipe opens and closes it, however many values are shown."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        audit = CommandAudit("tokens show", str(pipe))
        before = len([*Path("/proc/self/fd").iterdir()])
        for _ in range(3):
            audit.reveal("token")
        assert len([*Path("/proc/self/fd").iterdir()]) == before
        assert os.read(reader, 1 << 16).count(b"\n") == 3
    finally:
        os.close(reader)
