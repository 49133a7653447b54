"""Figures with their goals: they are made of samples, shown, saved, and compared with a saved run."""

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

NOT_MEASURED = "-"


class Row(msgspec.Struct, kw_only=True):
    """One figure.

    Attributes:
        section: heading of its table; together with ``name`` it identifies the row.
        median, low, high: of the samples of all rounds; None where it cannot be measured here.
        ratio: median of the rounds' ratios to the sample ``ratio_to`` of the same round.
        goal: in words; empty for a figure without a goal.
        met: True if the goal is met; None without a goal or a figure.
        note: reason why there is no figure.
    """

    section: str
    name: str
    unit: str
    median: float | None = None
    low: float | None = None
    high: float | None = None
    ratio: float | None = None
    ratio_to: str = ""
    goal: str = ""
    met: bool | None = None
    note: str = ""

    @property
    def title(self) -> str:
        """Heading and name."""
        return f"{self.section}: {self.name}"


class Run(msgspec.Struct):
    """All figures of a run, with its versions and options."""

    conditions: dict[str, Any]
    rows: list[Row]


def row(
    section: str,
    name: str,
    unit: str,
    samples: Sequence[float],
    *,
    to: Sequence[float] = (),
    of: str = "null",
    most: float | None = None,
    least: float | None = None,
    of_median: bool = False,
) -> Row:
    """A figure from one sample a round.

    Args:
        section: see ``Row``.
        name: see ``Row``.
        unit: of the samples.
        samples: one a round.
        to: samples of the same rounds that the ratios are made with.
        of: name of ``to``.
        most: goal: at most this.
        least: goal: at least this.
        of_median: the goal holds for the median, although there is a ratio.
    """
    made = Row(section=section, name=name, unit=unit)
    made.median, made.low, made.high = statistics.median(samples), min(samples), max(samples)
    if to:
        made.ratio = statistics.median(one / max(other, 1e-9) for one, other in zip(samples, to, strict=True))
        made.ratio_to = of
    judged, measure = (made.median, unit) if made.ratio is None or of_median else (made.ratio, f"x {of}")
    if most is not None:
        made.goal, made.met = f"≤ {most:g} {measure}", judged <= most
    elif least is not None:
        made.goal, made.met = f"≥ {least:g} {measure}", judged >= least
    return made


def text(number: float | None) -> str:
    """A number with three significant digits, or more if it is large."""
    if number is None:
        return NOT_MEASURED
    digits = next((digits for digits, least in enumerate((100, 10, 1, 0.1)) if abs(number) >= least), 4)
    return f"{number:,.{digits}f}"


def show(run: Run, console: Console) -> None:
    """A table for each heading."""
    console.print(", ".join(f"{name} {value}" for name, value in run.conditions.items()), highlight=False)
    for section in dict.fromkeys(made.section for made in run.rows):
        table = _table(section, "", "unit", "median", "min - max", "ratio", "goal", "")
        for made in run.rows:
            if made.section == section:
                spread = "" if made.low is None else f"{text(made.low)} - {text(made.high)}"
                ratio = "" if made.ratio is None else f"{text(made.ratio)} x {made.ratio_to}"
                table.add_row(
                    made.name, made.unit, text(made.median), spread, ratio, made.goal, made.note or _verdict(made.met)
                )
        console.print(table)
    goals = [made.met for made in run.rows if made.met is not None]
    console.print(f"{sum(goals)} of {len(goals)} goals met")


def _verdict(met: bool | None) -> str:
    return "" if met is None else "met" if met else "missed"


class Compared(msgspec.Struct):
    """A figure beside that of a saved run; None where a run does not have it."""

    section: str
    name: str
    unit: str
    old: float | None
    new: float | None
    new_to_old: float | None
    old_ratio: float | None
    new_ratio: float | None
    goal: str
    met: bool | None


def compare(old: Run, new: Run) -> list[Compared]:
    """Every row of either run."""
    before = {made.title: made for made in old.rows}
    after = {made.title: made for made in new.rows}
    compared = []
    for title in {**after, **before}:
        was, now = before.get(title), after.get(title)
        one = now or was
        if one is None:
            continue
        first, second = (made.median if made else None for made in (was, now))
        compared.append(
            Compared(
                one.section,
                one.name,
                one.unit,
                first,
                second,
                second / first if first and second is not None else None,
                was.ratio if was else None,
                now.ratio if now else None,
                one.goal,
                now.met if now else None,
            )
        )
    return compared


def show_comparison(old: Run, new: Run, console: Console) -> None:
    """Show old figures beside new ones. If machines differ or are noisy, compare the ratios rather than the medians."""
    compared = compare(old, new)
    for section in dict.fromkeys(one.section for one in compared):
        headings = ("old", "new", "new / old", "old ratio", "new ratio")
        table = _table(f"against the saved run: {section}", "", "unit", *headings, "goal", "")
        for one in compared:
            if one.section == section:
                numbers = (one.old, one.new, one.new_to_old, one.old_ratio, one.new_ratio)
                table.add_row(one.name, one.unit, *map(text, numbers), one.goal, _verdict(one.met))
        console.print(table)
    for name, value in _differences(old.conditions, new.conditions):
        console.print(f"not the same in both runs: {name} ({value})", markup=False, highlight=False)


def _differences(old: dict[str, Any], new: dict[str, Any]) -> Iterable[tuple[str, str]]:
    for name in {**old, **new}:
        if old.get(name) != new.get(name):
            yield name, f"{old.get(name)}, now {new.get(name)}"


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left")
    for number, heading in enumerate(headings):
        left = number < 2 or number >= len(headings) - 2
        table.add_column(heading, justify="left" if left else "right", no_wrap=number != 0)
    return table
