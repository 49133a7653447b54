"""``token-worker`` as a process of its own, by a fork of a process that has imported it already.

Imports are half a second of CPU: most of what a short command costs, or a worker that soon is killed. The tests start
thousands of those. So one process, the nursery, imports everything once, and forks. A fork is what Python would have
started: a child of ours, with arguments, variables, folder, files and signals as given, that begins in ``main``.

A process starts in the usual way where its environment differs from the nursery's in a variable that an import may
have read. Tests of memory, of limits and of the start itself use ``subprocess``.
"""

import atexit
import ctypes
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.ending import uninterrupted

_PROGRAM = (sys.executable, "-m", "token_worker")
_CODE = (sys.executable, "-c")
_READ_LATER = ("TOKEN_WORKER_", "VAULT_", "ACRA_", "PYTEST_")
"""Beginnings of variables that no import reads."""

_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


def _read_by_imports(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if not name.startswith(_READ_LATER)}


def _take_orphans(*, yes: bool) -> None:
    """Choose whether orphans among our descendants become children of ours, or of process 1 as usual."""
    if _libc.prctl(_PR_SET_CHILD_SUBREAPER, int(yes), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


class _Nursery:
    """The process that forks. It begins with the first request, and ends with us."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket
        self._environment: dict[str, str] = {}
        atexit.register(self.stop)

    def has(self, environment: Mapping[str, str]) -> bool:
        """Tell whether its imports were those that a process with this environment would do."""
        with self._lock:
            if self._process is None:
                self._start()
            return _read_by_imports(environment) == self._environment

    def fork(self, request: dict[str, Any], files: Sequence[int]) -> int:
        """Start a process whose first files are these; returns its id. It is a child of this process."""
        with tempfile.TemporaryFile("w+") as text, self._lock, uninterrupted():
            json.dump(request, text)
            text.seek(0)
            try:
                _take_orphans(yes=True)
                socket.send_fds(self._channel, [b"?"], [text.fileno(), *files])
                number = int.from_bytes(self._receive(4), "big")
                self._receive(1)
            except BaseException:
                self.stop()  # its next answer might be to this request
                raise
            finally:
                _take_orphans(yes=False)
        return number

    def _receive(self, count: int) -> bytes:
        data = self._channel.recv(count, socket.MSG_WAITALL)
        if len(data) != count:
            raise RuntimeError("the nursery has ended; its error stands above")
        return data

    @uninterrupted()
    def _start(self) -> None:
        self._environment = _read_by_imports(os.environ)
        self._channel, other = socket.socketpair()
        with other:
            self._process = subprocess.Popen(
                [sys.executable, "-P", Path(__file__).with_name("nursery.py"), str(other.fileno())],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[other.fileno()],
                start_new_session=True,  # Ctrl-C at the terminal is for us
            )

    @uninterrupted()
    def stop(self) -> None:
        """End it. Its forks go on."""
        with self._lock:
            if self._process is not None:
                self._channel.close()
                self._process.kill()
                self._process.wait()
                self._process = None


_nursery = _Nursery()


class Popen(subprocess.Popen[Any]):
    """As ``subprocess.Popen``, but for a faster start of ``python -m token_worker`` and ``python -c``.

    Code is to import no more than ``token_worker``. Only that step of Python's is replaced that makes a process, given
    the open files: everything else stays as it is.
    """

    def _execute_child(self, args: Any, *rest: Any) -> None:
        _, preexec, _, pass_fds, folder, environment, _, _, shell, *pipes = rest[:15]
        environment = dict(os.environ if environment is None else environment)
        words = [os.fspath(word) for word in args]
        kind = next((kind for kind in (_PROGRAM, _CODE) if tuple(words[: len(kind)]) == kind), ())
        if preexec or pass_fds or shell or not kind or not _nursery.has(environment):
            super()._execute_child(args, *rest)  # type: ignore[misc]  # not in the types
            return
        files = [file if file >= 0 else number for number, file in enumerate((pipes[0], pipes[3], pipes[5]))]
        request = {
            "code": words.pop(2) if kind is _CODE else None,
            "arguments": words[2:] if kind is _CODE else words[3:],
            "environment": environment,
            "folder": os.fspath(folder or Path.cwd()),
            "new_session": rest[20],
        }
        self.pid = _nursery.fork(request, files)
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]  # as above


def run(
    command: Sequence[str | Path],
    *,
    input: str | bytes | None = None,  # noqa: A002 - its name in subprocess
    capture_output: bool = False,
    timeout: float | None = None,
    check: bool,
    **options: Any,
) -> "subprocess.CompletedProcess[Any]":
    """As ``subprocess.run``, by the ``Popen`` of this module."""
    if input is not None:
        options["stdin"] = subprocess.PIPE
    if capture_output:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Popen(command, **options) as process:
        try:
            stdout, stderr = process.communicate(input, timeout=timeout)
        except BaseException:
            process.kill()
            raise
        done = subprocess.CompletedProcess(command, process.returncode, stdout, stderr)
    if check:
        done.check_returncode()
    return done
