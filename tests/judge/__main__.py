"""The command behind ``scripts/judge``: it prints a table, and never a value or token."""

import secrets
import sys

import click

from judge.cases import all_cases
from judge.run import check, shares
from token_worker.tokens.formats import KINDS

COLUMNS = ("tokens", "accepted", "shared", "same", "broken", "unfit", "other", "again", "lost", "seconds")


@click.command(context_settings={"max_content_width": 110})
@click.option("--kind", "names", type=click.Choice(sorted(KINDS)), multiple=True, help="[default: all]")
@click.option("--count", type=click.IntRange(100), default=20_000, show_default=True, help="Tokens of each kind.")
@click.option("--seed", help="Decides every value. [default: at random]")
def main(names: tuple[str, ...], count: int, seed: str | None) -> None:
    """Tokenize many values of each kind of format, detokenize all, and let independent judges look at the tokens.

    Columns: tokens that the judge accepts; tokens that two values share; tokens equal to their value; tokens that do
    not keep what they have to keep; values without a token; tokens that the format says it could not have drawn; tokens
    that are taken as values against the format's word; tokens that are not detokenized to their value. If one is not as
    it has to be, the exit status is 1. Memory: about 2 GiB for a million tokens.
    """
    seed = seed or secrets.token_hex(4)
    cases = all_cases()
    width = max(len(case.name) for case in cases)
    click.echo(f"seed {seed}")
    click.echo("  ".join([f"{'format':{width}}", *(f"{column:>9}" for column in COLUMNS)]))
    failed = False
    for kind in names or tuple(KINDS):
        for case, share in shares([case for case in cases if case.kind == kind], count):
            report = check(case, share, seed)
            seen = [getattr(report, column) for column in COLUMNS]
            cells = ["-" if value is None else f"{value:,.0f}" for value in seen]
            click.echo("  ".join([f"{case.name:{width}}", *(f"{cell:>9}" for cell in cells)]))
            if report.failures:
                failed = True
                click.echo(f"wrong: {', '.join(f'{name} {value:,}' for name, value in report.failures.items())}")
    sys.exit(failed)


if __name__ == "__main__":
    main(prog_name="scripts/judge")
