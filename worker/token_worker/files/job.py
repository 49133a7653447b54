"""Takes a whole file through: rows in, output beside its place, and its name at the end.

``OUT.partial`` grows by whole chunks; every now and then it is put on disk, and then ``OUT.progress`` says how much of
it counts. A run that was killed leaves both, and one that goes on cuts the output back to what counts: as each row's
output depends on the row alone, the result is what an undisturbed run gives, byte for byte. At the end the output gets
its name and the progress is removed. A run that did no row leaves nothing.
"""

import fcntl
import os
import stat
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import BinaryIO, TextIO

import msgspec

from token_worker.contract.messages import Op
from token_worker.errors import CheckFailed, OperatorError, TokenWorkerError
from token_worker.files import progress as progress_module
from token_worker.files.columns import Column
from token_worker.files.compressed import compress, compression_of
from token_worker.files.inputs import Input, open_input
from token_worker.files.progress import Counts, JobOptions, JobProgress, source_of, sync_folder
from token_worker.files.rows import Problem
from token_worker.files.sending import Client, Sender

SAVE_SECONDS = 1.0
"""How often progress is saved, and so how much a killed run does again."""


class OutputPaths:
    """The files of a run whose output is a file.

    Attributes:
        out: the output when it is complete.
        partial: what there is of it; of Parquet the new columns, of a compressed file the text.
        assembled: the complete Parquet or compressed file before it gets its name.
        progress: what a run that was cut short goes on from.
        errors: rows that cannot be done, if they are wanted.
        compression: of the output.
    """

    def __init__(self, out: Path, errors: Path | None) -> None:
        self.out = out
        self.partial = out.with_name(out.name + ".partial")
        self.assembled = out.with_name(out.name + ".assembled")
        self.progress = out.with_name(out.name + ".progress")
        self.errors = errors
        self.compression = compression_of(out)

    def check(self, source: Path | None) -> None:
        """See that no file is two of these.

        Raises:
            OperatorError: one is, or the output is no file.
        """
        own = [self.out, self.partial, self.assembled, self.progress]
        others = [path for path in (source, self.errors) if path is not None]
        paths = [resolved(path) for path in [*own, *others]]
        same = len(set(paths)) < len(paths)
        for path in others:
            same = same or any(path.exists() and other.exists() and path.samefile(other) for other in own)
        if source is not None and self.errors is not None and self.errors.exists() and source.exists():
            same = same or source.samefile(self.errors)
        if same:
            raise OperatorError(
                "input, output and errors are to be different files, also from OUT.partial and OUT.progress"
            )
        for place in (self.out, self.errors):
            if place is not None and place.exists() and not place.is_file():
                raise OperatorError(f"{place} is no regular file; - is standard output")

    def clear(self) -> None:
        """Remove what only an unfinished run needs."""
        for path in (self.partial, self.assembled, self.progress):  # that last: by it the others are known to be left
            path.unlink(missing_ok=True)


class Job:
    """One run.

    Args:
        options: what to do.
        client: sends to the workers.
        stopping: set when the run is to stop after the rows in hand.
        wait_seconds: how long there may be no answer at all.
        tell: takes a line for the user while it runs.
        away: says why the server of the streams cannot be used just now, if so.
        watch: takes the progress before the first chunk and after each, how far it is, and where that ends.
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
        watch: Callable[[JobProgress, int, int | None], object] = lambda _progress, _far, _total: None,
    ) -> None:
        self._options = options
        self._columns = [Column(*column) for column in options.columns]
        self._sender = Sender(client, options.op, wait_seconds, stopping, tell, away)
        self._stopping = stopping
        self._watch = watch
        self._tell = tell

    def pipe(self, source: Path | None, errors: Path | None, *, force: bool) -> Counts:
        """Take the input to standard output.

        Args:
            source: the input; None: standard input.
            errors: file for rows that cannot be done.
            force: replace that if it is there.

        Raises: as ``run``.
        """
        out = _standard(sys.stdout)
        with ExitStack() as stack:
            file = _standard(sys.stdin) if source is None else stack.enter_context(source.open("rb"))
            about = os.fstat(file.fileno())
            others = [os.fstat(out.fileno())] + ([] if errors is None or not errors.exists() else [errors.stat()])
            if stat.S_ISREG(about.st_mode) and any(os.path.samestat(about, other) for other in others):
                raise OperatorError("input, output and errors are to be different files")
            _check_new(errors, force=force)
            input_ = open_input(self._options, file, again=source is not None and source.is_file(), tell=self._tell)
            progress = self._begin(None)
            errors_file = None if errors is None else stack.enter_context(_open(errors, 0))
            self._process(input_, progress, out, errors_file, out.flush)
        return progress.counts

    def _begin(self, file: BinaryIO | None) -> JobProgress:
        """The progress of a new run, which can be resumed if it is about a file."""
        source = progress_module.Source(0, 0, "") if file is None else source_of(file)
        return JobProgress(options=self._options, source=source, counts=Counts())

    def run(self, source: Path | None, places: OutputPaths, *, resume: bool, force: bool) -> Counts:
        """Take the input to a file.

        Args:
            source: the input; None: standard input, which like any other that is no regular file cannot be resumed.
            places: of the output.
            resume: go on with a run that was cut short.
            force: replace what is there already.

        Raises:
            OperatorError: the input or the columns are not what was asked for.
            CheckFailed: the run cannot be begun, or not go on.
            Unavailable: no answer came for too long.
            Stopped: it was asked for.
        """
        places.check(source)
        resumable = source is not None and source.is_file()
        with ExitStack() as stack:
            file = _standard(sys.stdin) if source is None else stack.enter_context(source.open("rb"))
            progress = self._begin(file if resumable else None)
            saved = None if force and not resume else progress_module.load(places.progress)
            if resume:
                progress = _require_same_job(saved, progress, places)
            elif saved is not None:
                raise CheckFailed(f"a run was interrupted: --resume continues, --force starts anew ({places.progress})")
            if progress.is_over and places.out.exists() and not self._last(places).exists():
                places.clear()  # it was killed between its last two steps
                return progress.counts
            _check_new(places.out, force=force)
            if not resume:
                _check_new(places.errors, force=force)
            input_ = open_input(self._options, file, again=resumable, tell=self._tell)
            out = stack.enter_context(_open(places.partial, progress.output, os.O_NOFOLLOW))
            errors = None
            try:
                if places.errors is not None:
                    errors = stack.enter_context(_open(places.errors, progress.errors))
                self._to_file(input_, progress, places, out, errors, resumable=resumable, force=force)
            except BaseException:
                if not resumable or not progress.counts.rows:
                    places.clear()
                if places.errors is not None and errors is not None and not progress.counts.rows:
                    places.errors.unlink(missing_ok=True)
                raise
        return progress.counts

    def _last(self, places: OutputPaths) -> Path:
        """What gets the output's name."""
        is_made_at_the_end = self._options.format == "parquet" or places.compression is not None
        return places.assembled if is_made_at_the_end else places.partial

    def _to_file(
        self,
        input_: Input,
        progress: JobProgress,
        places: OutputPaths,
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
                progress_module.save(places.progress, progress)

        self._process(input_, progress, out, errors, save)
        input_.complete(places.partial, places.assembled, self._stopping)
        if places.compression is not None:
            compress(places.partial, places.assembled, places.compression, self._stopping)
        _check_new(places.out, force=force)  # it may have come meanwhile
        progress.is_over = True
        save()
        self._last(places).replace(places.out)
        sync_folder(places.out)
        places.clear()

    def _process(
        self, input_: Input, progress: JobProgress, out: BinaryIO, errors: BinaryIO | None, save: Callable[[], object]
    ) -> None:
        """All rows that are left, with their progress saved now and then, and at the end, whatever that is."""
        if not progress.offset:
            progress.offset, progress.row = input_.head.offset, input_.head.rows
            chunks = input_.chunks(self._columns, progress.offset, progress.row, dedupe=self._dedupe)
            _write(out, input_.head.data)
            progress.output = len(input_.head.data)
        else:
            chunks = input_.chunks(self._columns, progress.offset, progress.row, dedupe=self._dedupe)
        save()
        saved_at = time.monotonic()
        self._watch(progress, input_.far(progress.offset), input_.total)
        try:
            for chunk, answers in self._sender.answered(chunks):
                finished = chunk.finish(answers)
                _write(out, finished.output)
                if errors is not None:
                    progress.errors += _write(errors, b"".join(map(_line, finished.problems)))
                _count(progress, chunk.rows - chunk.blank, finished.empty, finished.lost, finished.problems)
                progress.output += len(finished.output)
                progress.offset += chunk.size
                progress.row += chunk.rows
                self._watch(progress, input_.far(progress.offset), input_.total)
                if time.monotonic() - saved_at >= SAVE_SECONDS:
                    save()
                    saved_at = time.monotonic()
        except (TokenWorkerError, OSError):  # no other leaves the progress whole for sure
            with suppress(OSError):  # what was saved before holds
                save()
            raise
        save()

    @property
    def _dedupe(self) -> bool:
        return self._options.consistent or self._options.op == Op.DETOKENIZE


def _require_same_job(saved: JobProgress | None, new: JobProgress, places: OutputPaths) -> JobProgress:
    """The saved progress, if it is about what is asked for now."""
    if saved is None:
        raise CheckFailed(f"there is nothing to resume: no {places.progress}")
    if (saved.options, saved.source) != (new.options, new.source):
        what = "other options" if saved.options != new.options else "another input"
        raise CheckFailed(f"the interrupted run had {what}; --force without --resume starts anew")
    return saved


def _check_new(path: Path | None, *, force: bool) -> None:
    if path is not None and path.exists() and not force:
        raise CheckFailed(f"{path} exists; --force replaces it")


def resolved(path: Path) -> Path:
    """Where a path leads; links in a circle lead nowhere, which is told when it is opened."""
    try:
        return path.resolve()
    except RuntimeError:
        return path.absolute()


def _standard(stream: TextIO | None) -> BinaryIO:
    """The bytes of standard input or output, if the process was started with input_."""
    if stream is None:
        raise CheckFailed("standard input or output is closed")
    return stream.buffer


def _open(path: Path, size: int, flags: int = 0) -> BinaryIO:
    """A file of which so many bytes count, at its end, for this run alone."""
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | flags, 0o666), "r+b", buffering=0)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise CheckFailed(f"another run writes {path}") from None
    if os.fstat(file.fileno()).st_size < size:
        file.close()
        raise CheckFailed(f"{path} is shorter than it was; --force without --resume starts anew")
    file.truncate(size)
    file.seek(size)
    return file


def _write(file: BinaryIO, data: bytes) -> int:
    """Write all of it; how much that is. A file without a buffer may take less at once."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]
    return len(data)


def _line(problem: Problem) -> bytes:
    return msgspec.json.encode(problem._asdict()) + b"\n"


def _count(progress: JobProgress, rows: int, empty: int, lost: int, problems: Sequence[Problem]) -> None:
    counts = progress.counts
    counts.rows += rows
    counts.empty += empty
    counts.lost += lost
    for problem in problems:
        counts.add(*problem)
