"""Scripts of the project as processes, with checks for leftover processes and for memory."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self


class Run:
    """A script that runs, with a folder for its output and temporary files; on the way out, all it started is ended."""

    def __init__(self, folder: Path, *command: str) -> None:
        self.output = folder / "output"
        self._folder = folder
        environment = {**os.environ, "TMPDIR": str(folder)}
        with self.output.open("wb") as out:
            self.process = subprocess.Popen([sys.executable, *command], stdout=out, stderr=out, env=environment)

    def children(self) -> list[int]:
        """The processes that it has started and not stopped yet; they are in sessions of their own."""
        return children_of(self.process.pid)

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        """Wait for a condition that the script brings about.

        Raises:
            RuntimeError: the script ended before; the message has its output.
            TimeoutError: it takes too long.
        """
        from harness.stack import wait_until  # loads much that a measurement of memory does not need

        def holds() -> bool:
            if self.process.poll() is not None:
                said = self.output.read_text(errors="replace")
                raise RuntimeError(f"exit status {self.process.returncode} before {what}:\n{said}")
            return bool(condition())

        wait_until(holds, what)

    def left_behind(self) -> list[int]:
        """The processes that have the folder in their environment, as all do that it starts, but itself.

        Valkey and Redis write another title over theirs: those work in the folder.
        """
        return [pid for pid in _pids() if pid != self.process.pid and self._is_of(pid)]

    def _is_of(self, pid: int) -> bool:
        try:
            works_in = Path(f"/proc/{pid}/cwd").readlink()
        except OSError:  # it has ended
            return False
        variables = (os.fsdecode(variable).partition("=")[2] for variable in _read(pid, "environ").split(b"\0"))
        return any(place.is_relative_to(self._folder) for place in (works_in, *map(Path, variables)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.process.terminate()
        try:
            self.process.wait(60)
        finally:
            self.process.kill()
            for pid in self.left_behind():
                with suppress(ProcessLookupError):  # it has ended meanwhile
                    os.kill(pid, signal.SIGKILL)


def children_of(parent: int) -> list[int]:
    """The processes that a process has started and that have not ended."""
    return [pid for pid in _pids() if _parent(pid) == parent]


def _pids() -> Iterator[int]:
    return (int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit())


def _parent(pid: int) -> int:
    """The process that started it, 0 where it is gone."""
    fields = _read(pid, "stat").rpartition(b")")[2].split()
    return int(fields[1]) if fields else 0


def _read(pid: int, file: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{file}").read_bytes()
    except OSError:
        return b""


def peak_mib(pid: int) -> float:
    """Peak resident memory of a process."""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError("the system does not tell the resident peak of a process")
    return int(found[1]) / 1024
