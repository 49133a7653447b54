"""Output of ``token-worker file``: the progress bar, lines for the user, and the summary at the end."""

import time
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from token_worker.cli.terminal import number
from token_worker.files.columns import format_names
from token_worker.files.progress import Counts, JobProgress

REASONS_SHOWN = 20
"""Most reasons that the summary lists."""

WAY_OUT = (
    "  if the old tokens are stored nowhere, `token-worker tokens remove` deletes them, and a new run makes new ones:\n"
    "  nobody can detokenize a token that was removed;\n"
    '  a route with on_other = "refuse" leaves such rows out, as errors'
)
"""What the user can do about tokens of another format."""


class View:
    """Progress bar on a terminal, and lines for the user."""

    def __init__(self, console: Console) -> None:
        self._console = console
        columns = (
            BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[speed]}"), TimeRemainingColumn(),
        )  # fmt: skip
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
        self._task = self._bar.add_task("", total=None, speed="")
        self._started = time.monotonic()
        self._rows_before: int | None = None
        self._rows = 0

    def show(self, progress: JobProgress, position: int, total: int | None) -> None:
        """Show the position in the input, at the start and after each chunk."""
        if self._rows_before is None:
            self._rows_before = progress.counts.rows
            self._bar.reset(self._task, total=total, completed=position, speed="")
        self._rows = progress.counts.rows - self._rows_before  # the speed is the speed of this run
        others = sum(found.count for found in progress.counts.other_format.values())
        speed = self._speed(progress.counts.rows) + (f"; {number(others, 'token')} of another format" if others else "")
        self._bar.update(self._task, completed=position, speed=speed)

    def _speed(self, rows: int) -> str:
        return f"{number(rows, 'row')}, {self._rows / max(time.monotonic() - self._started, 1e-9):,.0f}/s"

    def say(self, line: str) -> None:
        """Print a line while the job runs."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def end(self, counts: Counts, errors: Path | None) -> None:
        """Print the numbers of rows, and of tokens that have another format than the one of their column.

        Args:
            counts: the numbers.
            errors: the file that lists the rows with such tokens.
        """
        self.say(
            f"{self._speed(counts.rows)}; {number(counts.empty, 'empty cell')} kept;"
            f" {number(counts.lost, 'row')} left out"
        )
        for column, found in counts.other_format.items():
            first = "the first rows are" if found.count > len(found.rows) else "rows" if found.count > 1 else "row"
            values = number(found.count, "value has a token", "values have tokens")
            self.say(
                f"column {format_names([column])}: {values} of another format, made before"
                f" ({first} {', '.join(map(str, found.rows))})"
            )
        if counts.other_format:
            self.say(WAY_OUT)
            self.say(_all_rows(errors))

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._bar.stop()


def summary(counts: Counts, errors: Path | None) -> str:
    """Describe the rows that could not be done, and the reasons."""
    codes = ", ".join(f"{code} {count:,}" for code, count in sorted(counts.problems.items()))
    are = "is" if counts.lost == 1 else "are"
    lines = [f"{number(counts.lost, 'row')} could not be done and {are} left out: {codes}"]
    for reason in sorted(counts.reasons, key=lambda reason: -reason.count)[:REASONS_SHOWN]:
        where = "the row" if reason.column is None else f"column {format_names([reason.column])}"
        first = ", ".join(map(str, reason.rows))
        which = f"row {first}" if reason.count == 1 else f"{reason.count:,} rows"
        which += f", {first}" if 1 < reason.count <= len(reason.rows) else ""
        which += f", the first are {first}" if reason.count > len(reason.rows) else ""
        lines.append(f"  {where}: {reason.code} ({which}): {reason.message}")
    if len(counts.reasons) > REASONS_SHOWN:
        lines.append(f"  and {len(counts.reasons) - REASONS_SHOWN} more reasons")
    lines.append(_all_rows(errors))
    return "\n".join(lines)


def _all_rows(errors: Path | None) -> str:
    return "  all these rows: use --errors FILE" if errors is None else f"  all these rows: {errors}"
