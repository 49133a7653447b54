"""Kills workers, cuts connections, restarts servers and loses data, and keeps a ledger of every request meanwhile.

First come acts in which every server keeps its data: nothing may go wrong. Then comes one act for each way in which a
server loses data. Of these the report counts, entry by entry, the troubles that the loss explains.

It runs the package that its Python has installed, on servers of its own on the loopback.
"""

import random
import sys
import time
from typing import get_args

import click
import msgspec
from rich.console import Console

from chaos import losses, strict, troubles
from chaos.report import report, show
from harness.ending import end_by_signals
from token_worker.keys.layout_record import LayoutName


@click.command(context_settings={"show_default": True})
@click.option(
    "--seconds",
    type=click.FloatRange(1, 3600),
    default=120,
    help="How long faults are brought about while nothing may be lost; the other acts take a minute or two more.",
)
@click.option("--seed", type=int, help="Repeats the order of faults and requests, not their timing. [default: random]")
@click.option("--layout", type=click.Choice(get_args(LayoutName)), default="acra", help="Layout of the tokens.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def main(seconds: float, seed: int | None, layout: LayoutName, *, as_json: bool) -> None:
    """Bring about every fault at least once, and show that what is promised holds.

    The exit status is 0 only if every kind of fault has happened, no request was lost, answered twice or answered
    wrongly, no value got two tokens, and every token could be detokenized. Lost data excuses what it explains.
    """
    seed = random.randrange(1 << 32) if seed is None else seed
    rng = random.Random(seed)
    begin = time.monotonic()
    progress = Console(stderr=True)
    progress.print(f"seed {seed}", highlight=False)
    with progress.status("") as status:
        outcome, counts = strict.play(seconds, rng, status.update, layout)
        troubled, of_troubles = troubles.play(rng, status.update, layout)
        lost, of_losses = losses.play(rng, status.update, layout)
    counts.update(of_troubles)
    counts.update(of_losses)
    made = report(seed, time.monotonic() - begin, counts, [outcome, *troubled, *lost])
    if as_json:
        click.echo(msgspec.json.encode(made).decode())
    else:
        show(made, counts, Console(width=None if sys.stdout.isatty() else 160))
    raise SystemExit(bool(made.problems))


if __name__ == "__main__":
    end_by_signals()
    main(prog_name="scripts/chaos")
