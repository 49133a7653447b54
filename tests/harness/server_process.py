"""A server as a process of its own, on ports that no other process uses."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from harness import ports
from harness.ending import uninterrupted

START_SECONDS = 90
"""Longest time until a server answers, on a machine with much else to do."""

STARTS = 5
"""Starts of a server, each with other ports than those that somebody else took."""


class _PortTakenError(RuntimeError):
    """Another process listens on the server's port."""


class ServerProcess:
    """A server process with a folder of its own; ``kill``, ``start`` again and ``stop``.

    Attributes:
        port: where it listens. The first start may choose another one; from then on it stays.
    """

    def __init__(self, name: str) -> None:
        self._ports: list[int] = []
        self._has_run = False
        self.choose_ports()
        self.folder = Path(tempfile.mkdtemp(prefix=f"token-worker-{name}-"))
        self._process: subprocess.Popen[bytes] | None = None

    def choose_ports(self) -> None:
        """Choose where to listen; again, if somebody else took one of the ports before."""
        self.release_ports()
        self.port = self.a_port()

    def a_port(self) -> int:
        """A port of this server's."""
        self._ports.append(ports.reserve())
        return self._ports[-1]

    def release_ports(self) -> None:
        """Release the ports."""
        while self._ports:
            ports.release(self._ports.pop())

    def command(self) -> list[str]:
        raise NotImplementedError

    def answers(self) -> bool:
        raise NotImplementedError

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError("not started")
        return self._process.pid

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def start(self) -> Self:
        """Start, and wait until it answers; the first time with other ports where somebody else has taken one."""
        for left in reversed(range(STARTS)):
            try:
                self._start()
                break
            except _PortTakenError:
                if self._has_run or not left:
                    self.stop()
                    raise
                self.kill()
                self.choose_ports()
        self._has_run = True
        return self

    def _start(self) -> None:
        try:
            with self.log.open("ab") as log, uninterrupted():
                said_before = log.tell()
                self._process = subprocess.Popen(
                    self.command(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.folder,
                    env=self.environment(),
                    start_new_session=True,  # Ctrl-C at the terminal stops the workers first, then we stop the servers
                )
            self._wait_for_answer(self._process, said_before)
        except _PortTakenError:
            raise
        except BaseException:  # Ctrl-C, too: no "with" knows of this server yet
            self.stop()
            raise

    def _wait_for_answer(self, process: subprocess.Popen[bytes], said_before: int) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not (ports.listens(process.pid, self.port) and self.answers()):
            if process.poll() is not None or time.monotonic() > deadline:
                text = self.log.read_bytes()[said_before:].decode(errors="replace")[-2000:]
                error = _PortTakenError if "address already in use" in text.lower() else RuntimeError
                raise error(f"{self.command()[0]} did not start:\n{text}")
            time.sleep(0.02)

    def environment(self) -> dict[str, str]:
        return {"PATH": os.environ.get("PATH", ""), "HOME": str(self.folder)}

    def signal(self, number: int) -> None:
        """Send a signal to this server's process."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End it as a crash would (SIGKILL); data on disk stays, ``start`` brings it back."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @uninterrupted()
    def stop(self) -> None:
        """End it and remove its folder."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        self.release_ports()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()
