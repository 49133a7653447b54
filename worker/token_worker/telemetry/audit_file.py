"""The file of an audit log: it has one writer, and other programs may move, delete or cut it.

- *Moved*, as logrotate does: appends look at the path, at most every ``LOOK_SECONDS``. If another file is there, it is
  opened, and takes the lines. If none is there, the moved file takes lines for ``CREATE_AFTER_SECONDS`` more, because
  logrotate is about to create the new file, and would move a file that stands in its way. Then the file is created.
- *Deleted*: lines that went into a deleted file are written again, into a new one.
- *Cut* by another program, as with logrotate's ``copytruncate``: this is logged, because earlier lines may be lost.
  Lines of the append under way are written again.
- *A second writer* is refused. The file is locked (``flock``) for as long as it is open, also after it was moved. The
  system releases the lock when the process ends, however it ends.
- *A write that is cut short*, because the disk is full or the process is killed: the rest of a cut line is never joined
  to the next line. A writer looks at the last byte of a file that it opens or that another program has written to.
"""

import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from token_worker.errors import SettingsError, Unavailable

log = structlog.get_logger("audit file")

CREATE_AFTER_SECONDS = 5.0
"""Time for another program to create the file that it has moved."""

LOOK_SECONDS = 0.1
"""Time between two looks at the path, while lines are appended all the time."""

APPENDS_MAX = 5
"""Attempts to append lines while other programs delete or cut the file."""

LOCK_INTERVAL_SECONDS = 0.02

_IN_USE = "another process writes to it"


class AuditStream:
    """Standard error, a pipe or a device. It takes lines as they are.

    Args:
        descriptor: where the lines go.
        is_own: whether ``close`` closes the descriptor. Standard error belongs to the process.
    """

    def __init__(self, descriptor: int, *, is_own: bool = False) -> None:
        self._descriptor = descriptor
        self._is_own = is_own
        self._is_cut = False

    def append(self, lines: bytes) -> None:
        """Write whole lines.

        Raises:
            Unavailable: they cannot be written now; some may have been.
        """
        try:
            self._write(lines)
        except OSError as error:
            raise Unavailable("audit", in_words(error)) from None

    def reopen(self) -> None:
        """Do nothing: only a file can be moved."""

    def sync(self) -> None:
        """Do nothing: only a file is kept on a disk."""

    def close(self) -> None:
        """Close the stream, unless it belongs to the process. A file releases its lock."""
        if self._is_own:
            os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _write(self, lines: bytes) -> int:
        """Write lines, and return the number of bytes. After a line that was cut, it is written again as a whole."""
        total = 0
        while lines:
            if self._is_cut:
                lines = b"\n" + lines
            written = os.write(self._descriptor, lines)
            if written == len(lines):
                self._is_cut = False
                return total + written
            total += written
            whole = lines.rfind(b"\n", 0, written) + 1
            self._is_cut = whole < written
            lines = lines[whole:]
        return total


class AuditFile(AuditStream):
    """A regular file. It is created if it does not exist, with mode 0600.

    Args:
        path: where it is, and where it is looked for again after it was moved.
        lock_seconds: longest wait for another writer that has it.
        now: seconds of a clock that never goes back.

    Raises:
        OSError: it cannot be opened, or another process writes to it.
    """

    def __init__(self, path: Path, *, lock_seconds: float = 0, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__(-1, is_own=True)
        self._path = path
        self._lock_seconds = lock_seconds
        self._now = now
        self._identity = (0, 0)
        self._size = 0
        self._is_readable = False
        self._is_busy = False
        self._is_reopened = False
        self._look_at = 0.0
        self._missing_since: float | None = None
        self._open()

    def append(self, lines: bytes) -> None:
        self._is_busy = True
        try:
            for _ in range(APPENDS_MAX):
                if self._is_reopened or self._now() >= self._look_at:
                    self._follow()
                if self._is_kept(self._write(lines)):
                    return
        except OSError as error:
            with suppress(OSError):
                self._size = os.fstat(self._descriptor).st_size  # a part may have been written
            raise Unavailable("audit", in_words(error)) from None
        finally:
            self._is_busy = False
        raise Unavailable("audit", "other programs keep deleting or cutting the file")

    def reopen(self) -> None:
        """Open the file again if it was moved or deleted; a signal handler may call this. The next append tells errors.

        The file is created at once if it does not exist.
        """
        self._is_reopened = True
        if self._is_busy:
            return
        self._is_busy = True
        try:
            with suppress(OSError):
                self._follow()
        finally:
            self._is_busy = False

    def sync(self) -> None:
        """Wait until the lines are on the disk.

        Raises:
            Unavailable: they may not be.
        """
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise Unavailable("audit", in_words(error)) from None

    def _open(self) -> None:
        descriptor, self._is_readable = _open_to_append(self._path)
        try:
            self._lock(descriptor)
            found = os.fstat(descriptor)
        except OSError:
            os.close(descriptor)
            raise
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self._identity, self._size = descriptor, (found.st_dev, found.st_ino), found.st_size
        self._is_cut = self._continues_a_cut(self._size)
        self._missing_since = None
        self._is_reopened = False

    def _lock(self, descriptor: int) -> None:
        deadline = self._now() + self._lock_seconds
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if self._now() >= deadline:
                    raise BlockingIOError(errno.EAGAIN, _IN_USE) from None
                time.sleep(LOCK_INTERVAL_SECONDS)
            else:
                return

    def _follow(self) -> None:
        """Open the file that is at the path, if that is not the open one."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            if self._is_to_be_created():
                self._open()
        else:
            if (found.st_dev, found.st_ino) != self._identity:
                self._open()
            self._missing_since = None
            self._is_reopened = False
        self._look_at = self._now() + LOOK_SECONDS

    def _is_to_be_created(self) -> bool:
        now = self._now()
        if self._missing_since is None:
            self._missing_since = now
        is_late = now - self._missing_since >= CREATE_AFTER_SECONDS
        return self._is_reopened or is_late or not os.fstat(self._descriptor).st_nlink

    def _is_kept(self, written: int) -> bool:
        """Return True if the bytes that were just written are in a file that has a name, and lines of their own."""
        found, expected = os.fstat(self._descriptor), self._size + written
        self._size = found.st_size
        if not found.st_nlink:
            self._look_at = self._now()
            return False
        if found.st_size == expected:
            return True
        if found.st_size < expected:
            log.error("audit file was cut by another program: lines may be lost", file=self._path)
            start = found.st_size - written
        else:  # another program has written to it
            start = os.lseek(self._descriptor, 0, os.SEEK_CUR) - written
        self._is_cut = self._continues_a_cut(start)
        return start >= 0 and not self._is_cut

    def _continues_a_cut(self, start: int) -> bool:
        """Return True if what is at this place continues a line that another writer has not ended."""
        return self._is_readable and start > 0 and os.pread(self._descriptor, 1, start - 1) != b"\n"


def open_audit(path: Path, *, lock_seconds: float = 0) -> AuditStream:
    """Open what is at a path: a file, or a pipe or device, which has no lock and is never opened again.

    Raises:
        SettingsError: it cannot be written, or another process writes to it.
    """
    try:
        if is_file(path):
            return AuditFile(path, lock_seconds=lock_seconds)
        return AuditStream(os.open(path, os.O_WRONLY | os.O_APPEND), is_own=True)
    except BlockingIOError:
        remedy = "give each worker a file of its own, as in audit-{consumer}.log"
        raise SettingsError(f"TOKEN_WORKER_AUDIT_FILE: {path}: {_IN_USE}; {remedy}") from None
    except OSError as error:
        raise SettingsError(f"TOKEN_WORKER_AUDIT_FILE: {path}: cannot be written ({error.strerror})") from None


def is_file(path: Path) -> bool:
    """Return True if there is a regular file, or nothing yet. ``/dev/stderr`` is none, whatever it leads to."""
    if path.is_relative_to("/dev") or path.is_relative_to("/proc"):
        return False
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        return True
    except OSError:
        return False  # opening it tells the reason


def in_words(error: OSError) -> str:
    """Describe why lines cannot be written: ``No space left on device``."""
    return error.strerror or type(error).__name__


def _open_to_append(path: Path) -> tuple[int, bool]:
    """Open or create a file. Returns its descriptor, and whether it may be read."""
    flags = os.O_CREAT | os.O_APPEND
    try:
        return os.open(path, os.O_RDWR | flags, 0o600), True
    except PermissionError:  # perhaps there is no right to read: then cuts by other processes stay unknown
        return os.open(path, os.O_WRONLY | flags, 0o600), False
