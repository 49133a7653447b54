"""A process that runs a file again and again: it is killed after ever more steps, and resumed each time.

``python file_kills.py FOLDER FORM`` prints the number of kills. It fails if an output differs from that of an
undisturbed run in a single byte. Steps are writes (the last one is done by half), syncs and renames. Answers are made
here, without a worker: the answer to a row does not depend on the time of its request.
"""

import gzip
import os
import shutil
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from token_worker.client import Answer
from token_worker.client.errors import refusal
from token_worker.contract.messages import Op
from token_worker.errors import Code
from token_worker.files import job, rows
from token_worker.files.columns import Column, SentItem
from token_worker.files.job import Job
from token_worker.files.output_paths import OutputPaths
from token_worker.files.progress import JobOptions

ROWS = 40
KILLED = 9
STRIDE = {"csv": 1, "csv.gz": 2, "jsonl": 2, "parquet": 4}
"""Steps between two kills: processes with pyarrow are slow to fork."""


class Client:
    """Answers each item by itself."""

    def submit(self, _op: Op, items: Sequence[SentItem], *, mark_other: bool) -> Future[list[Answer]]:
        future: Future[list[Answer]] = Future()
        future.set_result([self._answer(item) for item in items])
        return future

    def _answer(self, item: SentItem) -> Answer:
        text = str(item[1])
        return refusal(Code.INVALID_EMAIL, "a reason") if text.endswith("7") else text[::-1]


class Steps:
    """Counts steps, and ends the process at one of them."""

    def __init__(self, last: int) -> None:
        self._left = last
        fsync, replace, write = os.fsync, Path.replace, job._write
        os.fsync = self._stepping(fsync)
        Path.replace = self._stepping(replace)  # type: ignore[method-assign]

        def write_half(file: Any, data: bytes) -> int:
            if self._left == 1:
                write(file, data[: len(data) // 2])
            return int(self._stepping(write)(file, data))

        job._write = write_half

    def _stepping(self, do: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any) -> Any:
            self._left -= 1
            if not self._left:
                os._exit(KILLED)
            return do(*arguments)

        return step


def make_input(folder: Path, form: str) -> Path:
    """A file of some chunks, with rows that cannot be done."""
    path = folder / f"in.{form}"
    values = [f"value {number}" for number in range(ROWS)]
    if form == "csv":
        path.write_text("".join(f'"{value}",x\r\n' for value in ("a", *values)))
    elif form == "csv.gz":
        path.write_bytes(gzip.compress(make_input(folder, "csv").read_bytes()))
    elif form == "jsonl":
        path.write_text("".join(f'{{"a": "{value}"}}\n' for value in values))
    else:
        pq.write_table(pa.table({"a": values, "b": values}), path, row_group_size=15)
    return path


def run(source: Path, places: OutputPaths, last: int, *, resume: bool) -> int:
    """Run the file in a process that ends at step ``last``; returns its exit status."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    Steps(last)
    job.SAVE_SECONDS = 0
    rows.CHUNK_ITEMS = 20
    form = source.suffixes[0][1:]
    options = JobOptions(op=Op.TOKENIZE, columns=(Column("a", "str"),), format=form, errors=str(places.errors))
    task = Job(options, Client(), stopping=threading.Event(), wait_seconds=1)
    task.run(source, places, resume=resume, force=not resume)
    os._exit(0)


def main(folder: Path, form: str) -> int:
    """All kills."""
    source = make_input(folder, form)
    ending = ".gz" if form.endswith(".gz") else ""
    whole = OutputPaths(folder / f"whole{ending}", folder / "whole-errors")
    if run(source, whole, -1, resume=False):
        raise SystemExit("the undisturbed run failed")
    expected = {path.name.removeprefix("whole"): path.read_bytes() for path in folder.glob("whole*")}
    if expected.keys() != {ending, "-errors"}:
        raise SystemExit("something was left behind")
    for kills in range(1, 1000, STRIDE[form]):
        into = folder / str(kills)
        into.mkdir()
        places = OutputPaths(into / f"out{ending}", into / "out-errors")
        first = status = run(source, places, kills, resume=False)
        for last in (kills // 2 + 1, kills // 3 + 1, -1):
            if status:
                status = run(source, places, last, resume=places.progress.exists())
        found = {path.name.removeprefix("out"): path.read_bytes() for path in into.iterdir()}
        if status or found != expected:
            raise SystemExit(f"another output after a kill at step {kills}: {status}, {[*found]}")
        shutil.rmtree(into)
        if not first:
            return kills - 1
    raise SystemExit("it never ends by itself")


if __name__ == "__main__":
    sys.stdout.write(str(main(Path(sys.argv[1]), sys.argv[2])))
