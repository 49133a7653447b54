"""The audit file: no line of an answered request is lost to a write that was cut short."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from token_worker.errors import Unavailable
from token_worker.telemetry.audit import Audit

WRITER = """
import resource, signal, sys
from token_worker.errors import Unavailable
from token_worker.telemetry.audit import Audit

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
audit = Audit("worker-1", sys.argv[1])
audit.reveal("token", entry="first")
end = {end}
resource.setrlimit(resource.RLIMIT_FSIZE, (end, resource.RLIM_INFINITY))
try:
    audit.reveal("token", entry="second")
except Unavailable:
    print("cut")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
audit.reveal("token", entry="third")
"""


def readable(path: Path) -> list[str]:
    """The entries of the lines that can be read, in their order."""
    entries = []
    for line in path.read_bytes().split(b"\n"):
        try:
            entries.append(json.loads(line)["entry"])
        except ValueError:
            continue
    return entries


def write_with_a_cut(path: Path, end: str) -> None:
    """A process that writes three lines, and is cut short in the second at a size of its file."""
    done = subprocess.run(
        [sys.executable, "-c", WRITER.format(end=end), str(path)], capture_output=True, text=True, check=False
    )
    assert done.stdout == "cut\n", done.stderr


@pytest.mark.parametrize("bytes_of_the_line", [1, 40])
def test_line_after_a_short_write_is_readable(tmp_path: Path, bytes_of_the_line: int) -> None:
    """A line that follows one that a full disk cut short stands on a line of its own."""
    path = tmp_path / "audit.log"
    write_with_a_cut(path, f"__import__('os').stat(sys.argv[1]).st_size + {bytes_of_the_line}")
    assert readable(path) == ["first", "third"]


def test_line_after_a_cut_of_another_process_is_readable(tmp_path: Path) -> None:
    """A line that follows one in which another process was killed stands on a line of its own, and is told once."""
    path = tmp_path / "audit.log"
    path.write_bytes(b'{"event":"detokenize","stream":"detoken')
    audit = Audit("worker-2", str(path))
    audit.reveal("token", entry="first")
    audit.reveal("token", entry="second")
    assert readable(path) == ["first", "second"]
    assert path.read_bytes().endswith(b"\n")


def test_cut_of_another_process_between_two_lines_is_seen(tmp_path: Path) -> None:
    """A cut that comes while this process has the file open costs the next line nothing."""
    path = tmp_path / "audit.log"
    audit = Audit("worker-2", str(path))
    audit.reveal("token", entry="first")
    with path.open("ab") as other:
        other.write(b'{"event":"deto')
    audit.reveal("token", entry="second")
    assert readable(path) == ["first", "second"]


def test_pipe_takes_lines_as_they_are(tmp_path: Path) -> None:
    """A named pipe as audit file is written to, and never read by the worker itself."""
    path = tmp_path / "audit.pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        Audit("worker-3", str(path)).reveal("token", entry="first")
        assert json.loads(os.read(reader, 1 << 16))["entry"] == "first"
    finally:
        os.close(reader)


def test_file_that_may_not_be_read_is_written(tmp_path: Path) -> None:
    """Without a right to read the file, lines are appended all the same, and a cut of this process is made good."""
    path = tmp_path / "audit.log"
    audit = Audit("worker-4", str(path))
    audit._is_shared = False
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    audit.reveal("token", entry="first")
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 5, hard))
    try:
        with pytest.raises(Unavailable):
            audit.reveal("token", entry="second")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    audit.reveal("token", entry="third")
    assert readable(path) == ["first", "third"]
