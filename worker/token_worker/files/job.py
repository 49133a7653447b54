"""Run a whole file: read rows, write the output beside its final path, and rename it at the end.

``OUT.partial`` grows by whole chunks. About once a second it is synced to disk, and then ``OUT.progress`` says how many
of its bytes count. A killed run leaves both files. A resumed run first cuts the output back to the bytes that count.
Because the output of a row depends on this row alone, the result is the same as that of an undisturbed run, byte for
byte. At the end the output is renamed and the progress removed. A run that has done no row leaves no file.
"""

import os
import stat
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO, Final, TextIO

import msgspec

from token_worker.contract.messages import Op
from token_worker.errors import CheckFailed, OperatorError, TokenWorkerError
from token_worker.files import progress as progress_module
from token_worker.files.compressed import compress
from token_worker.files.inputs import Input, open_input
from token_worker.files.output_paths import OutputPaths, open_at, require_new
from token_worker.files.progress import Counts, JobOptions, JobProgress, source_of, sync_folder
from token_worker.files.rows import Finished
from token_worker.files.sending import Client, Sender

SAVE_SECONDS = 1.0
"""Time between two saves of the progress. A killed run repeats at most the rows of this time."""

OTHER_FORMAT: Final = "format_other"
"""Note on a row in the output: a token in it was made before in another format."""


class Job:
    """One run over one file.

    Args:
        options: options of the job.
        client: sends items to the workers.
        stopping: set when the run shall stop after the current chunk.
        wait_seconds: how long the workers may not answer at all.
        tell: takes a line for the user while the job runs.
        away: returns the reason why the Redis of the streams cannot be used now, or None.
        watch: called before the first chunk and after each chunk, with the progress, the position and its end.
    """

    def __init__(
        self,
        options: JobOptions,
        client: Client,
        *,
        stopping: threading.Event,
        wait_seconds: float,
        tell: Callable[[str], object] = lambda _: None,
        away: Callable[[], str | None] = lambda: None,
        watch: Callable[[JobProgress, int, int | None], object] = lambda _progress, _position, _total: None,
    ) -> None:
        self._options = options
        self._columns = options.columns
        self._sender = Sender(client, options.op, wait_seconds, stopping, tell, away)
        self._stopping = stopping
        self._watch = watch
        self._tell = tell

    def pipe(self, source: Path | None, errors: Path | None, *, force: bool) -> Counts:
        """Write the output to standard output.

        Args:
            source: the input. None: standard input.
            errors: file for the rows that cannot be done.
            force: replace the file of errors if it exists.

        Raises: the same errors as ``run``.
        """
        out = _standard(sys.stdout)
        with ExitStack() as stack:
            file = _standard(sys.stdin) if source is None else stack.enter_context(source.open("rb"))
            status = os.fstat(file.fileno())
            others = [os.fstat(out.fileno())] + ([] if errors is None or not errors.exists() else [errors.stat()])
            if stat.S_ISREG(status.st_mode) and any(os.path.samestat(status, other) for other in others):
                raise OperatorError("input, output and errors must be different files")
            require_new(errors, force=force)
            input_ = open_input(self._options, file, again=source is not None and source.is_file(), tell=self._tell)
            progress = self._new_progress(None)
            errors_file = None if errors is None else stack.enter_context(open_at(errors, 0))
            self._process(input_, progress, out, errors_file, out.flush)
        return progress.counts

    def _new_progress(self, file: BinaryIO | None) -> JobProgress:
        """Return the progress of a new run. The run can be resumed if its input is a file."""
        source = progress_module.Source(0, 0, "") if file is None else source_of(file)
        return JobProgress(options=self._options, source=source, counts=Counts())

    def run(self, source: Path | None, paths: OutputPaths, *, resume: bool, force: bool) -> Counts:
        """Write the output to a file.

        Args:
            source: the input. None: standard input. A run can be resumed only if its input is a regular file.
            paths: paths of the output.
            resume: continue an interrupted run.
            force: replace files that exist.

        Raises:
            OperatorError: the options do not fit the input.
            CheckFailed: the run cannot start, or not continue.
            Unavailable: the workers did not answer for too long.
            Stopped: ``stopping`` is set.
        """
        paths.check(source)
        resumable = source is not None and source.is_file()
        with ExitStack() as stack:
            file = _standard(sys.stdin) if source is None else stack.enter_context(source.open("rb"))
            progress = self._new_progress(file if resumable else None)
            saved = None if force and not resume else progress_module.load(paths.progress)
            if resume:
                progress = _require_same_job(saved, progress, paths)
            elif saved is not None:
                raise CheckFailed(
                    f"a run was interrupted: --resume continues it, --force starts again ({paths.progress})"
                )
            if progress.is_over and paths.out.exists() and not self._final_source(paths).exists():
                paths.clear()  # the run was killed between its last two steps
                return progress.counts
            require_new(paths.out, force=force)
            if not resume:
                require_new(paths.errors, force=force)
            input_ = open_input(self._options, file, again=resumable, tell=self._tell)
            out = stack.enter_context(open_at(paths.partial, progress.output, os.O_NOFOLLOW))
            errors = None
            try:
                if paths.errors is not None:
                    errors = stack.enter_context(open_at(paths.errors, progress.errors))
                self._to_file(input_, progress, paths, out, errors, resumable=resumable, force=force)
            except BaseException:
                if not resumable or not progress.counts.rows:
                    paths.clear()
                if paths.errors is not None and errors is not None and not progress.counts.rows:
                    paths.errors.unlink(missing_ok=True)
                raise
        return progress.counts

    def _final_source(self, paths: OutputPaths) -> Path:
        """Return the file that is renamed to the output at the end."""
        is_assembled = self._options.format == "parquet" or paths.compression is not None
        return paths.assembled if is_assembled else paths.partial

    def _to_file(
        self,
        input_: Input,
        progress: JobProgress,
        paths: OutputPaths,
        out: BinaryIO,
        errors: BinaryIO | None,
        *,
        resumable: bool,
        force: bool,
    ) -> None:
        def save() -> None:
            for file in (out, errors):
                if file is not None:
                    os.fsync(file.fileno())
            if resumable:
                progress_module.save(paths.progress, progress)

        self._process(input_, progress, out, errors, save)
        input_.complete(paths.partial, paths.assembled, self._stopping)
        if paths.compression is not None:
            compress(paths.partial, paths.assembled, paths.compression, self._stopping)
        require_new(paths.out, force=force)  # the file may have been created meanwhile
        progress.is_over = True
        save()
        self._final_source(paths).replace(paths.out)
        sync_folder(paths.out)
        paths.clear()

    def _process(
        self,
        input_: Input,
        progress: JobProgress,
        out: BinaryIO,
        errors: BinaryIO | None,
        save: Callable[[], object],
    ) -> None:
        """Process all remaining rows. Save the progress now and then, and at the end, also if the run fails."""
        is_new = not progress.offset
        if is_new:
            progress.offset, progress.row = input_.head.offset, input_.head.rows
        chunks = input_.chunks(self._columns, progress.offset, progress.row, dedupe=self._dedupe)
        if is_new:
            progress.output = _write(out, input_.head.data)
        save()
        saved_at = time.monotonic()
        self._watch(progress, input_.position(progress.offset), input_.total)
        try:
            for chunk, answers in self._sender.answered(chunks):
                finished = chunk.finish(answers)
                _write(out, finished.output)
                if errors is not None:
                    progress.errors += _write(errors, _lines(finished))
                _count(progress, chunk.rows - chunk.blank, finished)
                progress.output += len(finished.output)
                progress.offset += chunk.input_size
                progress.row += chunk.rows
                self._watch(progress, input_.position(progress.offset), input_.total)
                if time.monotonic() - saved_at >= SAVE_SECONDS:
                    save()
                    saved_at = time.monotonic()
        except (TokenWorkerError, OSError):  # after other errors, the progress may be half updated
            with suppress(OSError):  # then the previous save counts
                save()
            raise
        save()

    @property
    def _dedupe(self) -> bool:
        return self._options.consistent or self._options.op == Op.DETOKENIZE


def _require_same_job(saved: JobProgress | None, new: JobProgress, paths: OutputPaths) -> JobProgress:
    """Return the saved progress, if the options and the input are the same now."""
    if saved is None:
        raise CheckFailed(f"there is no run to resume: no {paths.progress}")
    if (saved.options, saved.source) != (new.options, new.source):
        difference = "other options" if saved.options != new.options else "another input"
        raise CheckFailed(f"the interrupted run had {difference}; --force without --resume starts again")
    return saved


def _standard(stream: TextIO | None) -> BinaryIO:
    """Return the binary form of standard input or output. The process may have been started without them."""
    if stream is None:
        raise CheckFailed("standard input or output is closed")
    return stream.buffer


def _write(file: BinaryIO, data: bytes) -> int:
    """Write all data, and return its length. One write to an unbuffered file may take only a part."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]
    return len(data)


def _lines(finished: Finished) -> bytes:
    """Return the lines for the file of errors, by row: a code for rows that are left out, a note for other rows."""
    lines: list[dict[str, Any]] = [problem._asdict() for problem in finished.problems]
    for column, rows in finished.other_format.items():
        lines += [{"row": row, "column": column, "note": OTHER_FORMAT} for row in dict.fromkeys(rows)]
    lines.sort(key=itemgetter("row"))
    return b"".join(msgspec.json.encode(line) + b"\n" for line in lines)


def _count(progress: JobProgress, rows: int, finished: Finished) -> None:
    counts = progress.counts
    counts.rows += rows
    counts.empty += finished.empty
    counts.lost += finished.lost
    for column, rows_of_cells in finished.other_format.items():
        counts.add_other(column, rows_of_cells)
    for problem in finished.problems:
        counts.add(*problem)
