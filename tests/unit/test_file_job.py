"""A run of ``token-worker file`` in one process: what it does when it ends between any two of its steps."""

import threading
from pathlib import Path
from typing import Any

import pytest

import file_kills
from token_worker.contract.messages import Op
from token_worker.errors import Finding
from token_worker.files import job, progress, rows
from token_worker.files.job import Job, Places
from token_worker.files.progress import Asked


def run(source: Path, places: Places, *, resume: bool = False, force: bool = False, **more: Any) -> None:
    """Take the file through, chunk by chunk."""
    asked = Asked(op=Op.TOKENIZE, columns=(("a", "str"),), form="csv", errors=str(places.errors))
    task = Job(asked, file_kills.Client(), stopping=threading.Event(), wait_seconds=1, **more)
    task.run(source, places, resume=resume, force=force)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(rows, "CHUNK_ROWS", 10)
    monkeypatch.setattr(job, "SAVE_SECONDS", 0)
    return file_kills.make_input(tmp_path, "csv")


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path / "out", tmp_path / "errors")


def test_an_exit_between_accounts_is_gone_on_from(
    source: Path, places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ended by a second Ctrl-C while a chunk is booked, only what was booked before counts."""
    whole = Places(tmp_path / "whole", tmp_path / "whole-errors")
    run(source, whole)
    calls = 0

    def count(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise SystemExit(130)
        truthful(*arguments)

    truthful = job._count
    monkeypatch.setattr(job, "_count", count)
    with pytest.raises(SystemExit):
        run(source, places)
    saved = progress.load(places.progress)
    assert saved is not None
    assert saved.counts.rows == 20
    run(source, places, resume=True)
    assert places.out.read_bytes() == whole.out.read_bytes()
    assert places.errors is not None
    assert whole.errors is not None
    assert places.errors.read_bytes() == whole.errors.read_bytes()


def test_an_output_that_came_meanwhile_is_kept(source: Path, places: Places) -> None:
    """What another program wrote at the output's place is not replaced; told to, the run ends there."""

    def watch(*_: Any) -> None:
        places.out.write_text("another's")

    with pytest.raises(Finding, match="exists; --force replaces it"):
        run(source, places, watch=watch)
    assert places.out.read_text() == "another's"
    run(source, places, resume=True, force=True)
    assert places.out.read_text().count("\n") == file_kills.ROWS + 1 - 4  # those that end with a 7


def test_progress_holds_no_value(source: Path, places: Places) -> None:
    """What is saved beside the output says how far it is, and nothing of what is in the file."""

    def watch(*_: Any) -> None:
        raise Finding("far enough")

    with pytest.raises(Finding, match="far enough"):
        run(source, places, watch=watch)
    assert places.progress.stat().st_mode & 0o077 == 0
    assert "value " not in places.progress.read_text()
