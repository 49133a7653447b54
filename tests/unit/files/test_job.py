"""A run of ``token-worker file`` in one process opens only its files, and can be ended between any two steps."""

import fcntl
import io
import json
import sys
import threading
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from harness import file_kills
from token_worker.client import Answer, OtherFormat
from token_worker.contract.messages import Op
from token_worker.errors import CheckFailed, OperatorError
from token_worker.files import job, progress, rows
from token_worker.files.columns import Column, SentItem
from token_worker.files.inputs import open_input
from token_worker.files.job import Job
from token_worker.files.output_paths import OutputPaths
from token_worker.files.progress import JobOptions, OtherTokens
from token_worker.files.sending import Client

COLUMN = Column("a", "str")


def run(
    source: Path,
    places: OutputPaths,
    *,
    column: Column = COLUMN,
    client: Client | None = None,
    resume: bool = False,
    force: bool = False,
    **more: Any,
) -> None:
    """Take the file through, chunk by chunk."""
    options = JobOptions(op=Op.TOKENIZE, columns=(column,), format="csv", errors=str(places.errors))
    task = Job(options, client or file_kills.Client(), stopping=threading.Event(), wait_seconds=1, **more)
    task.run(source, places, resume=resume, force=force)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(rows, "CHUNK_ITEMS", 10)
    monkeypatch.setattr(job, "SAVE_SECONDS", 0)
    return file_kills.make_input(tmp_path, "csv")


@pytest.fixture
def places(tmp_path: Path) -> OutputPaths:
    return OutputPaths(tmp_path / "out", tmp_path / "errors")


def test_an_exit_between_accounts_is_gone_on_from(
    source: Path, places: OutputPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ended by a second Ctrl-C while a chunk is booked, only what was booked before counts."""
    whole = OutputPaths(tmp_path / "whole", tmp_path / "whole-errors")
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


def test_an_output_that_came_meanwhile_is_kept(source: Path, places: OutputPaths) -> None:
    """A file that another program wrote at the output's place is not replaced; the run ends there."""

    def watch(*_: Any) -> None:
        places.out.write_text("another's")

    with pytest.raises(CheckFailed, match="exists; --force replaces it"):
        run(source, places, watch=watch)
    assert places.out.read_text() == "another's"
    run(source, places, resume=True, force=True)
    assert places.out.read_text().count("\n") == file_kills.ROWS + 1 - 4  # those that end with a 7


@pytest.mark.parametrize("changed", [Column("a", "str"), Column("a", "str", "digits"), Column("a", "email", "pan")])
def test_a_run_is_not_continued_with_another_format(source: Path, places: OutputPaths, changed: Column) -> None:
    """The progress holds the type and the format of each column, so a change of either is told. The same goes on."""

    def watch(far: progress.JobProgress, *_: Any) -> None:
        if far.counts.rows:
            raise CheckFailed("far enough")

    with pytest.raises(CheckFailed, match="far enough"):
        run(source, places, column=Column("a", "str", "pan"), watch=watch, force=True)
    with pytest.raises(CheckFailed, match="the interrupted run had other options"):
        run(source, places, column=changed, resume=True)
    run(source, places, column=Column("a", "str", "pan"), resume=True, force=True)


def test_counts_of_another_format_are_kept_in_the_progress(source: Path, places: OutputPaths) -> None:
    """A resumed run tells the tokens of the whole run, those before the interruption included."""
    seen: list[dict[str, OtherTokens]] = []

    def watch(far: progress.JobProgress, *_: Any) -> None:
        seen.append(deepcopy(far.counts.other_format))
        if len(seen) == 2:
            raise CheckFailed("far enough")

    client = OtherClient()
    with pytest.raises(CheckFailed, match="far enough"):
        run(source, places, client=client, watch=watch)
    saved = progress.load(places.progress)
    assert saved is not None
    first = [2, 3, 4, 5, 6]
    assert saved.counts.other_format == seen[1] == {"a": OtherTokens(9, first)}
    run(source, places, client=client, watch=watch, resume=True)
    assert seen[2] == {"a": OtherTokens(9, first)}
    assert seen[-1] == {"a": OtherTokens(file_kills.ROWS - 4, first)}


def test_rows_with_tokens_of_another_format_are_listed_with_the_errors(source: Path, places: OutputPaths) -> None:
    """A row that is left out has a code. A row with such a token is in the output, and has a note instead."""
    run(source, places, client=OtherClient())
    lines = [json.loads(line) for line in places.errors.read_text().splitlines()] if places.errors else []
    assert [line["row"] for line in lines] == sorted(line["row"] for line in lines)
    notes = [line for line in lines if "code" not in line]
    assert notes[0] == {"row": 2, "column": "a", "note": "format_other"}
    assert len(notes) == file_kills.ROWS - 4
    assert {*lines[0]} == {"row", "column", "note"}
    assert {"row", "column", "code", "message"} in [{*line} for line in lines]


class OtherClient(file_kills.Client):
    """Answers as the other one, and says that the tokens were made before in another format."""

    def _answer(self, item: SentItem) -> Answer:
        answer = super()._answer(item)
        return OtherFormat(answer) if isinstance(answer, str) else answer


def test_progress_holds_no_value(source: Path, places: OutputPaths) -> None:
    """The progress file has positions and counts from the start, and nothing of the file's content."""
    counts: list[int] = []

    def watch(far: progress.JobProgress, *_: Any) -> None:
        counts.append(far.counts.rows)
        if far.counts.rows:
            raise CheckFailed("far enough")

    with pytest.raises(CheckFailed, match="far enough"):
        run(source, places, watch=watch)
    assert counts[0] == 0
    assert places.progress.stat().st_mode & 0o077 == 0
    assert "value " not in places.progress.read_text()


def test_progress_is_the_last_to_go(places: OutputPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ended while it tidies up, a run leaves what the next one knows of, and can remove."""
    for path in (places.partial, places.assembled, places.progress):
        path.touch()
    unlink = Path.unlink

    def end(path: Path, **more: Any) -> None:
        unlink(path, **more)
        raise SystemExit(143)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", end)
        with pytest.raises(SystemExit):
            places.clear()
    assert places.progress.exists()
    places.clear()
    assert not [*places.out.parent.iterdir()]


def test_links_in_place_of_the_partial_output_are_not_followed(
    source: Path, places: OutputPaths, tmp_path: Path
) -> None:
    """The target of a link at the output's place is not replaced."""
    other = tmp_path / "other"
    other.write_text("precious")
    places.partial.symlink_to(other)
    with pytest.raises(OSError, match="symbolic links"):
        run(source, places, force=True)
    assert other.read_text() == "precious"


def test_an_errors_file_of_another_run_is_left_to_it(source: Path, places: OutputPaths) -> None:
    """Two runs do not write one file; the one that finds it taken leaves nothing of its own."""
    assert places.errors is not None
    places.errors.write_text("of another")
    with places.errors.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(CheckFailed, match="another run writes"):
            run(source, places, force=True)
    assert places.errors.read_text() == "of another"
    assert not places.partial.exists()


@pytest.mark.parametrize("name", ["in.csv", "errors"])
def test_links_in_a_circle_are_told(source: Path, places: OutputPaths, tmp_path: Path, name: str) -> None:
    """A link that leads to itself is an error like any file that cannot be opened."""
    path = tmp_path / name
    path.unlink(missing_ok=True)
    path.symlink_to(path)
    with pytest.raises(OSError, match="symbolic links"):
        run(source, places)


@pytest.mark.parametrize("same", ["out", "errors"])
def test_a_pipe_does_not_end_in_its_own_input(
    source: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, same: str
) -> None:
    """An input that standard output is appended to would have no end; it is refused, and stays as it was."""
    before = source.read_bytes()
    options = JobOptions(op=Op.TOKENIZE, columns=(Column("a", "str"),), format="csv")
    task = Job(options, file_kills.Client(), stopping=threading.Event(), wait_seconds=1)
    with (source if same == "out" else tmp_path / "out").open("a") as out:
        monkeypatch.setattr(sys, "stdout", out)
        with pytest.raises(OperatorError, match="different files"):
            task.pipe(source, source if same == "errors" else None, force=True)
    assert source.read_bytes() == before


class Trickle(io.RawIOBase):
    """A pipe whose writer gives a byte at a time."""

    def __init__(self, data: bytes) -> None:
        self._left = iter(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """One more byte, if there is one."""
        given = bytes(byte for _, byte in zip(range(1), self._left, strict=False))
        buffer[: len(given)] = given
        return len(given)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_byte_order_marks_come_through_pipes_in_parts(encoding: str) -> None:
    """A writer that has given one byte so far has still a mark to give."""
    data = "a\nx\n".encode(encoding)
    options = JobOptions(op=Op.TOKENIZE, columns=(), format="csv")
    source = open_input(options, io.BufferedReader(Trickle(data)), again=False)
    assert source.head.data == "a\n".encode(encoding)
    rest = source.chunks([], source.head.offset, source.head.rows, dedupe=True)
    assert source.head.offset + sum(chunk.input_size for chunk in rest) == len(data)
