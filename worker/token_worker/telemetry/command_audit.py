"""The audit lines of commands: who changed something, and who was shown a value.

A command that changes something writes two lines with the same ``change``: ``change begins`` before the first change,
and ``change ended`` with its outcome. If the first line cannot be written, nothing is changed. A command that is killed
in between leaves the first line alone. A dry run changes nothing and leaves no line. A command that shows values writes
a line before each.

Lines go to standard error, or to a file beside the file of the workers, which each operator has for herself. Several
commands may use it: each locks it for a line at a time.
"""

import datetime as dt
import os
import pwd
import secrets
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec
import structlog

from token_worker.errors import SettingsError, TokenWorkerError, Unavailable
from token_worker.settings.options import CONSUMER
from token_worker.telemetry.audit_file import AuditStream, is_file, open_audit

log = structlog.get_logger("audit file")

Facts = dict[str, object]

LOCK_SECONDS = 10.0
"""Longest wait for another command that writes a line."""

_UNSET_LOGIN = "4294967295"


class CommandAudit:
    """The audit log of one command.

    Args:
        command: its name, such as ``keys rotate``.
        file: the setting ``TOKEN_WORKER_AUDIT_FILE``; None for standard error.
    """

    def __init__(self, command: str, file: str | None) -> None:
        user = _name(os.getuid())
        self._command = command
        self._path = None if file is None else _path(file, user)
        self._operator: Facts = {"operator": f"{user}@{socket.gethostname()}"}
        login = _login()
        if login not in (None, user):
            self._operator["login"] = login

    def require_file(self) -> None:
        """Check that lines are kept, before values are shown.

        Raises:
            SettingsError: lines go to standard error or to a device, or the file cannot be written.
        """
        if self._path is None:
            raise SettingsError("--reveal needs an audit file; set TOKEN_WORKER_AUDIT_FILE")
        if not is_file(self._path) and not self._path.is_fifo() and not self._path.is_dir():
            raise SettingsError(f"--reveal needs an audit file; TOKEN_WORKER_AUDIT_FILE is {self._path}, which is none")
        with self._open():
            pass

    def reveal(self, what: str, **facts: str | None) -> None:
        """Write a line for a value that is about to be shown. ``facts`` name the value without holding it.

        Raises:
            SettingsError: the file cannot be opened. Do not show the value.
            Unavailable: the line cannot be written now. Do not show the value.
        """
        self._write({"event": "reveal", "what": what, **facts})

    @contextmanager
    def change(self, facts: Mapping[str, object] | None = None, *, dry_run: bool = False) -> Iterator[Facts]:
        """Write a line before the block, which changes something, and a line after it.

        Args:
            facts: what is to be changed: ids, and options of the command, of which those that are set are noted. Never
                a value.
            dry_run: nothing will be changed, so no line is written.

        Yields:
            Facts about the outcome, for the block to fill in.

        Raises:
            SettingsError: the file cannot be opened. Nothing was changed.
            Unavailable: the first line cannot be written now. Nothing was changed.
        """
        outcome: Facts = {}
        if dry_run:
            yield outcome
            return
        number = secrets.token_hex(8)
        self._write({"event": "change begins", "change": number, **_given(facts or {})})
        try:
            yield outcome
        except TokenWorkerError as error:
            self._end(number, {"outcome": "failed", "reason": str(error), **outcome})
            raise
        except Exception as error:
            self._end(number, {"outcome": "failed", "reason": type(error).__name__, **outcome})
            raise
        except BaseException:
            self._end(number, {"outcome": "stopped", **outcome})
            raise
        self._end(number, {"outcome": "done", **outcome})

    def _end(self, number: str, outcome: Facts) -> None:
        try:
            self._write({"event": "change ended", "change": number, **outcome})
        except (SettingsError, Unavailable) as error:  # the change is made: its result must still be shown
            log.error("outcome of a command is not in the audit log", change=number, reason=str(error))

    def _write(self, line: Facts) -> None:
        whole = {
            **line,
            "command": self._command,
            **self._operator,
            "logger": "audit",
            "level": "info",
            "timestamp": dt.datetime.now(dt.UTC).isoformat(),
        }
        with self._open() as file:
            file.append(msgspec.json.encode(whole) + b"\n")
            file.sync()

    def _open(self) -> AuditStream:
        if self._path is None:
            return AuditStream(sys.stderr.fileno())
        return open_audit(self._path, lock_seconds=LOCK_SECONDS)


def _given(facts: Mapping[str, object]) -> Facts:
    """Leave out what the operator did not ask for."""
    return {
        name: fact for name, fact in facts.items() if fact is not None and fact is not False and fact not in ((), [])
    }


def _path(template: str, user: str) -> Path:
    """Return the path of an operator's file: ``audit.log`` of a worker is ``audit-commands-alice.log`` for her."""
    name = f"commands-{user}".replace("/", "_")
    if CONSUMER in template:
        return Path(template.replace(CONSUMER, name))
    path = Path(template)
    return path.with_name(f"{path.stem}-{name}{path.suffix}") if is_file(path) else path


def _login() -> str | None:
    """Return the account that logged in, before sudo or su; None if that is unknown."""
    try:
        number = Path("/proc/self/loginuid").read_text(encoding="ascii").strip()
    except OSError:
        number = _UNSET_LOGIN
    return os.environ.get("SUDO_USER") if number in (_UNSET_LOGIN, "") else _name(int(number))


def _name(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:  # in a container, the user often has no name
        return f"uid-{number}"
