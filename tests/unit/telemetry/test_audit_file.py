"""The audit file: no line is lost to a write that was cut short, or to a program that moves or deletes the file."""

import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from harness.fake_keys import Clock
from token_worker.errors import SettingsError, Unavailable
from token_worker.telemetry.audit_file import CREATE_AFTER_SECONDS, LOOK_SECONDS, AuditFile, open_audit

WRITER = """
import resource, signal, sys
from pathlib import Path
from token_worker.errors import Unavailable
from token_worker.telemetry.audit_file import open_audit

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
audit = open_audit(Path(sys.argv[1]))
audit.append(b'{"entry":"first"}\\n')
end = audit._size + int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (end, resource.RLIM_INFINITY))
try:
    audit.append(b'{"entry":"second", "filler":"' + 50 * b"." + b'"}\\n')
except Unavailable as error:
    print(error.reason)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
audit.append(b'{"entry":"third"}\\n')
"""

KEEPER = """
import sys
from pathlib import Path
from token_worker.telemetry.audit_file import open_audit

audit = open_audit(Path(sys.argv[1]))
print("open", flush=True)
sys.stdin.read()
"""


def line(entry: str) -> bytes:
    return json.dumps({"entry": entry}).encode() + b"\n"


def readable(path: Path) -> list[str]:
    """The entries of the lines that can be read, in their order."""
    entries = []
    for text in path.read_bytes().split(b"\n"):
        try:
            entries.append(json.loads(text)["entry"])
        except ValueError:
            continue
    return entries


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.log"


@pytest.fixture
def file(path: Path) -> Iterator[AuditFile]:
    with closing(AuditFile(path)) as file:
        yield file


@contextmanager
def keeper(path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that has the file open."""
    command = [sys.executable, "-c", KEEPER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "open\n"
            yield process
        finally:
            process.kill()


def before_the_write(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object], times: int = 1) -> None:
    """Let another program act between the look at the path and the write."""
    write, left = os.write, [act] * times

    def late(descriptor: int, data: bytes) -> int:
        if left:
            left.pop()()
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", late)


def after_the_write(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Let another program act right after the first write."""
    write, left = os.write, [act]

    def early(descriptor: int, data: bytes) -> int:
        written = write(descriptor, data)
        if left:
            left.pop()()
        return written

    monkeypatch.setattr(os, "write", early)


# -- lines that were cut


@pytest.mark.parametrize("bytes_of_the_line", [1, 40])
def test_line_after_a_short_write_is_readable(path: Path, bytes_of_the_line: int) -> None:
    """A line that follows one that was cut at a limit stands on a line of its own, and the limit is named in words."""
    done = subprocess.run(
        [sys.executable, "-c", WRITER, str(path), str(bytes_of_the_line)], capture_output=True, text=True, check=False
    )
    assert done.stdout == "File too large\n", done.stderr
    assert readable(path) == ["first", "third"]


def test_line_after_a_cut_of_another_process_is_readable(path: Path) -> None:
    """A line that follows one in which another process was killed stands on a line of its own, and is told once."""
    path.write_bytes(b'{"event":"detokenize","stream":"detoken')
    with closing(AuditFile(path)) as file:
        file.append(line("first"))
        file.append(line("second"))
    assert readable(path) == ["first", "second"]
    assert path.read_bytes().endswith(b"\n")


def test_cut_of_another_process_between_two_lines_is_seen(file: AuditFile, path: Path) -> None:
    """A program that appends half a line, without regard to the lock, costs the next line nothing."""
    file.append(line("first"))
    with path.open("ab") as other:
        other.write(b'{"event":"deto')
    file.append(line("second"))
    assert readable(path) == ["first", "second"]


def test_pipe_takes_lines_as_they_are(tmp_path: Path) -> None:
    """A named pipe as audit file is written to, and never read, locked or opened again by the worker itself."""
    path = tmp_path / "audit.pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        pipe, other = open_audit(path), open_audit(path)
        pipe.append(line("first"))
        pipe.reopen()
        other.append(line("second"))
        assert os.read(reader, 1 << 16) == line("first") + line("second")
    finally:
        os.close(reader)


def test_file_that_may_not_be_read_is_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a right to read the file, lines are appended all the same, and a cut of this process is made good."""
    opened = os.open

    def unreadable(name: Path, flags: int, mode: int) -> int:
        if flags & os.O_RDWR:
            raise PermissionError
        return opened(name, flags, mode)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", unreadable)
        file = AuditFile(path)
    with closing(file):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        file.append(line("first"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 5, hard))
        try:
            with pytest.raises(Unavailable):
                file.append(line("second"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        file.append(line("third"))
    assert readable(path) == ["first", "third"]


# -- files that are moved, deleted or cut


def test_moved_file_is_opened_again(path: Path, tmp_path: Path) -> None:
    """Soon after another file is at the path, as logrotate's ``create`` puts it there, lines go into that one."""
    clock = Clock()
    with closing(AuditFile(path, now=clock)) as file:
        file.append(line("first"))
        path.rename(tmp_path / "audit.log.1")
        path.touch(0o640)
        file.append(line("second"))
        clock.advance(LOOK_SECONDS)
        file.append(line("third"))
    assert readable(tmp_path / "audit.log.1") == ["first", "second"]
    assert readable(path) == ["third"]
    assert path.stat().st_mode & 0o777 == 0o640


def test_file_is_not_created_in_the_way_of_another_program(path: Path, tmp_path: Path) -> None:
    """A moved file takes lines until the new one is there; if nobody creates that for a while, the worker does."""
    clock = Clock()
    moved = tmp_path / "audit.log.1"
    with closing(AuditFile(path, now=clock)) as file:
        path.rename(moved)
        file.append(line("first"))
        clock.advance(CREATE_AFTER_SECONDS - 0.1)
        file.append(line("second"))
        assert not path.exists()
        clock.advance(0.2)
        file.append(line("third"))
        assert (readable(moved), readable(path)) == (["first", "second"], ["third"])
        # The time begins anew with the next move.
        path.rename(moved)
        file.append(line("fourth"))
        assert not path.exists()


def test_moved_file_is_opened_again_at_once_when_asked(file: AuditFile, path: Path, tmp_path: Path) -> None:
    """A request to open the file again, SIGHUP, creates a file that is missing; one that is there stays open."""
    file.append(line("first"))
    file.reopen()
    file.append(line("second"))
    path.rename(tmp_path / "audit.log.1")
    file.reopen()
    assert path.exists()
    file.append(line("third"))
    assert readable(tmp_path / "audit.log.1") == ["first", "second"]
    assert readable(path) == ["third"]


def test_request_to_reopen_within_an_append_is_done_with_the_next(
    file: AuditFile, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGHUP in the middle of an append loses nothing: the file is opened again before the next line."""

    def rotate() -> None:
        path.rename(tmp_path / "audit.log.1")
        file.reopen()

    after_the_write(monkeypatch, rotate)
    file.append(line("first"))
    assert not path.exists()
    file.append(line("second"))
    assert readable(tmp_path / "audit.log.1") == ["first"]
    assert readable(path) == ["second"]


def test_failed_request_to_reopen_is_told_by_the_next_append(file: AuditFile, path: Path, tmp_path: Path) -> None:
    """If the new file cannot be opened, the lines are not written anywhere else, and the reason is told in words."""
    path.rename(tmp_path / "audit.log.1")
    path.mkdir()
    file.reopen()
    with pytest.raises(Unavailable) as caught:
        file.append(line("first"))
    assert caught.value.reason == "Is a directory"
    path.rmdir()
    file.append(line("second"))
    assert readable(path) == ["second"]


def test_lines_of_a_deleted_file_are_written_again(
    file: AuditFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is deleted just before the write does not take the line with it."""
    file.append(line("lost with the file"))
    before_the_write(monkeypatch, path.unlink)
    file.append(line("first"))
    path.unlink()
    file.append(line("second"))
    assert readable(path) == ["second"]


def test_file_that_is_deleted_again_and_again_is_unavailable(
    file: AuditFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An append does not go on for ever while another program deletes the file."""
    before_the_write(monkeypatch, path.unlink, times=100)
    with pytest.raises(Unavailable) as caught:
        file.append(line("first"))
    assert "keep deleting" in caught.value.reason


def test_copytruncate_is_named(file: AuditFile, path: Path) -> None:
    """A file that has become shorter is logged: lines may be lost. Later lines are whole."""
    file.append(line("first"))
    with capture_logs() as logs:
        os.truncate(path, 0)
        file.append(line("second"))
        file.append(line("third"))
    [event] = logs
    assert (event["log_level"], event["file"]) == ("error", path)
    assert event["event"] == "audit file was cut by another program: lines may be lost"
    assert readable(path) == ["second", "third"]


def test_line_that_is_cut_off_at_once_is_written_again(
    file: AuditFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the file is truncated right after a write, the line is written once more."""
    after_the_write(monkeypatch, lambda: os.truncate(path, 0))
    with capture_logs() as logs:
        file.append(line("first"))
    assert len(logs) == 1
    assert readable(path) == ["first"]


# -- one writer


def test_second_writer_is_refused(path: Path) -> None:
    """Two workers cannot have one file; the error says what to do. A writer that is killed leaves no lock behind."""
    with keeper(path) as other:
        with pytest.raises(SettingsError) as caught:
            open_audit(path)
        assert "another process writes to it; give each worker a file of its own" in str(caught.value)
        other.send_signal(signal.SIGKILL)
        other.wait()
        open_audit(path).close()


def test_second_writer_is_refused_after_a_rotation(path: Path, tmp_path: Path) -> None:
    """A file that was opened again is locked again, and a worker whose new file another one has writes no line."""
    with closing(AuditFile(path)) as file:
        path.rename(tmp_path / "audit.log.1")
        file.reopen()
        with pytest.raises(SettingsError):
            open_audit(path)
        path.rename(tmp_path / "audit.log.2")
        with keeper(path) as other:
            with pytest.raises(Unavailable) as caught:
                file.append(line("first"))
            assert caught.value.reason == "another process writes to it"
            other.kill()
            other.wait()
        file.append(line("second"))
    assert readable(path) == ["second"]


def test_programs_that_the_worker_starts_do_not_keep_the_lock(path: Path) -> None:
    """A child that runs another program has no part in the lock."""
    with ExitStack() as exits:
        file = AuditFile(path)
        child = exits.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", "import sys; print(1, flush=True); sys.stdin.read()"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        )
        exits.callback(child.kill)
        assert child.stdout is not None
        child.stdout.readline()
        file.close()
        open_audit(path).close()


def test_writer_waits_for_another_that_is_soon_done(path: Path) -> None:
    """Commands share a file: one waits until the other has written its line."""
    holder = AuditFile(path)
    readings: list[int] = []

    def now() -> float:
        readings.append(len(readings))
        if len(readings) == 3:
            holder.close()
        return readings[-1]

    AuditFile(path, lock_seconds=10, now=now).close()
    assert len(readings) == 3


def test_writer_waits_no_longer_than_allowed(path: Path) -> None:
    """A file that another process keeps is refused when the time is over."""
    clock = Clock()

    def now() -> float:
        clock.advance(1)
        return clock.now

    with closing(AuditFile(path)), pytest.raises(BlockingIOError):
        AuditFile(path, lock_seconds=3, now=now)


def test_file_system_without_locks_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker does not start where files cannot be locked, as on some network file systems."""

    def no_locks(*_: Any) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(SettingsError, match="No locks available"):
        open_audit(path)


# -- full disks


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_device_is_named() -> None:
    """The reason of a full disk is said in words."""
    with pytest.raises(Unavailable) as caught:
        open_audit(Path("/dev/full")).append(line("first"))
    assert caught.value.reason == "No space left on device"


def test_full_disk_is_named_and_costs_no_line(tmp_path: Path) -> None:
    """On a disk that is full, appends fail with the reason in words. Once there is room, lines are whole again."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("a file system cannot be mounted here")
    try:
        filler = disk / "filler"
        with closing(AuditFile(disk / "audit.log")) as file:
            file.append(line("first"))
            filler.write_bytes(bytes(12 * 1024 - 4096))
            with pytest.raises(Unavailable) as caught:
                file.append(b"".join(line(f"{number} ") for number in range(1000)))
            assert caught.value.reason == "No space left on device"
            filler.unlink()
            file.append(line("last"))
        entries = readable(disk / "audit.log")
        assert (entries[0], entries[-1]) == ("first", "last")
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)
