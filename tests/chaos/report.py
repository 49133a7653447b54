"""The result of a run: how often each fault has happened, and the ledger of every act."""

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec
from rich.console import Console
from rich.table import Table

from chaos.judge import Count, Outcome
from chaos.plan import Fault
from harness.ledger import Kind


class Report(msgspec.Struct):
    """The report that ``--json`` prints.

    Attributes:
        faults: how often each happened, by theme, place and moment.
        never: faults that should have happened and never did.
        totals: the faults of each theme together.
        ledger: troubles of all acts, counted by kind.
        problems: reasons why the run fails; empty if it passes.
    """

    seed: int
    seconds: float
    faults: dict[str, int]
    never: list[str]
    totals: dict[str, int]
    ledger: dict[str, Count]
    acts: list[Outcome]
    problems: list[str]


def report(seed: int, seconds: float, counts: Counter[Fault], acts: Sequence[Outcome]) -> Report:
    """Put a run together, and judge it."""
    never = sorted(str(fault) for fault, number in counts.items() if not number)
    ledger = {str(kind): Count() for kind in Kind}
    for act in acts:
        for kind, count in act.counts.items():
            ledger[kind].promised += count.promised
            ledger[kind].permitted += count.permitted
            ledger[kind].unexplained += count.unexplained
    problems = [f"never happened: {fault}" for fault in never]
    for kind, count in ledger.items():
        problems += [f"promised, and broken {count.promised} times: {kind}"] if count.promised else []
        problems += [f"unexplained {count.unexplained} times: {kind}"] if count.unexplained else []
    return Report(
        seed=seed,
        seconds=round(seconds, 1),
        faults={str(fault): number for fault, number in sorted(counts.items())},
        never=never,
        totals=dict(_totals(counts)),
        ledger=ledger,
        acts=list(acts),
        problems=problems + [entry for act in acts for entry in act.entries],
    )


def _totals(counts: Counter[Fault]) -> Counter[str]:
    totals: Counter[str] = Counter()
    for fault, number in counts.items():
        totals[fault.theme] += number
    return totals


def show(made: Report, counts: Counter[Fault], console: Console) -> None:
    """Print a run for people."""
    for theme in dict.fromkeys(fault.theme for fault in counts):
        console.print(_faults(theme, counts, made.totals[theme]))
    console.print(_acts(made.acts))
    console.print(_ledger(made.ledger))
    for problem in made.problems:
        console.print(f"[red]✗[/] {problem}", highlight=False)
    if not made.problems:
        console.print(f"[green]✓[/] seed {made.seed}: every fault happened, and what is promised held", highlight=False)


def _faults(theme: str, counts: Counter[Fault], total: int) -> Table:
    mine = [fault for fault in counts if fault.theme == theme]
    moments = list(dict.fromkeys(fault.moment for fault in mine))
    table = _table(f"{theme}: {total:,}", "", moments)
    for place in dict.fromkeys(fault.place for fault in mine):
        numbers = [counts.get(Fault(theme, place, moment)) for moment in moments]
        table.add_row(place, *("" if number is None else f"{number:,}" for number in numbers))
    return table


def _acts(acts: Iterable[Outcome]) -> Table:
    table = _table("acts", "", ["requests", "replies", "detokenized", "refused", "later than 60 s", "slowest, s"])
    for act in acts:
        numbers = (act.requests, act.replies, act.tokens_detokenized, act.refused, act.late)
        table.add_row(act.act, *(f"{number:,}" for number in numbers), f"{act.slowest_seconds:g}")
    return table


def _ledger(ledger: dict[str, Count]) -> Table:
    table = _table("ledger", "", ["promised: 0", "permitted by data lost", "unexplained: 0"])
    for kind, count in ledger.items():
        table.add_row(kind, *(f"{number:,}" for number in (count.promised, count.permitted, count.unexplained)))
    return table


def _table(title: str, first: str, headings: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first)
    for heading in headings:
        table.add_column(heading, justify="right")
    return table
