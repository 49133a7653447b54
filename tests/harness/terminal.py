"""A program in a real pseudo-terminal, whose screen a test reads as a person would; ``pyte`` is the terminal."""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

import pyte

from harness.ending import uninterrupted
from harness.stack import wait_until

READ_BYTES = 1 << 16


class Terminal:
    """A program on a terminal of its own; a context manager.

    Args:
        arguments: the program, and its arguments.
        environment: its environment.
        columns, lines: size of the terminal.

    Attributes:
        said: all bytes that the program wrote.
    """

    def __init__(
        self, arguments: Sequence[str], environment: Mapping[str, str], columns: int = 80, lines: int = 40
    ) -> None:
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self.said = b""
        with uninterrupted():
            self._ours, theirs = pty.openpty()
            fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
            self._process = subprocess.Popen(
                arguments, stdin=theirs, stdout=theirs, stderr=theirs, env={**environment, "TERM": "xterm-256color"}
            )
            os.close(theirs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        os.close(self._ours)

    @property
    def text(self) -> str:
        """The text on the screen now."""
        while select.select([self._ours], [], [], 0)[0]:
            try:
                read = os.read(self._ours, READ_BYTES)
            except OSError:  # the program has ended
                break
            self.said += read
            self._stream.feed(read)
        return "\n".join(line.rstrip() for line in self._screen.display)

    def wait_for(self, *words: str) -> str:
        """Wait until all of these stand on the screen at once, and return its text."""
        wait_until(lambda: all(word in self.text for word in words), f"the screen to show {words}")
        return self.text

    def interrupt(self) -> None:
        """Send what Ctrl-C sends."""
        self._process.send_signal(signal.SIGINT)

    def wait(self) -> int:
        """Wait until the program has ended, and return its exit status."""

        def has_ended() -> bool:
            return bool(self.text) and self._process.poll() is not None  # it may wait until what it wrote is read

        wait_until(has_ended, "the program to end")
        return self._process.wait()
