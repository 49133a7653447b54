"""The short form of ``scripts/rotation``, with the real logrotate."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.servers import DEPLOY_FILES
from rotation.run import LOGROTATE, run

SECONDS = 60.0 if os.environ.get("LONG_TESTS") == "1" else 3.0


@pytest.mark.skipif(LOGROTATE is None, reason="needs logrotate")
def test_no_line_is_lost_or_doubled_while_files_are_rotated(tmp_path: Path, say: Callable[[str], None]) -> None:
    """Under load, with a rotation every half second, each answered request has its line once in one of the files."""
    report = run(tmp_path, seconds=SECONDS, every=0.5, rate=500)
    say(f"{report.answered} requests, {report.rotations} rotations, {report.lines} lines in {report.files} files")
    assert (report.missing, report.repeated, report.unanswered) == (0, 0, 0)
    assert report.is_whole
    assert report.rotations >= 3
    assert report.compressed > 0


@pytest.mark.skipif(LOGROTATE is None, reason="needs logrotate")
def test_lines_that_copytruncate_loses_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rotation that loses lines is found out by the count, and named in the log of the worker."""
    text = (DEPLOY_FILES / "token-worker.logrotate").read_text()
    changed = tmp_path / "token-worker.logrotate"
    # The copy takes a while; what is written meanwhile is cut off.
    changed.write_text(text.replace("    create\n", "    copytruncate\n"))
    monkeypatch.setattr("rotation.run.DEPLOY_FILES", tmp_path)
    run(tmp_path, seconds=1.5, every=0.5, rate=500)
    logs = "".join((tmp_path / f"worker-{number}.log").read_text() for number in range(2))
    assert "audit file was cut by another program: lines may be lost" in logs
