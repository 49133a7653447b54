"""The command behind ``scripts/simulate``."""

import random
import sys

import click

from simulation.runs import simulate
from simulation.world import Failure

SECONDS = 10.0
"""Length of a run without --seconds and --steps."""


@click.command()
@click.option("--steps", type=click.IntRange(1), help="End after so many steps, and at the end of a world.")
@click.option(
    "--seconds", type=click.FloatRange(0, min_open=True), help=f"End after so many seconds. [default: {SECONDS:g}]"
)
@click.option("--seed", type=click.IntRange(0), help="Seed of the first world. [default: a random one]")
def main(steps: int | None, seconds: float | None, seed: int | None) -> None:
    """Run workers, as they are in production, on a model of a server, with faults and in virtual time.

    Each world has a seed, and its successor the next one. The same seed gives the same steps: run a failed world again
    by --seed SEED --steps 1.
    """
    if steps is None and seconds is None:
        seconds = SECONDS
    try:
        run = simulate(random.randrange(1 << 32) if seed is None else seed, steps=steps, seconds=seconds)
    except Failure as failure:
        click.echo(str(failure), err=True)
        sys.exit(1)
    click.echo("\n".join(run.lines()))
    click.echo(f"{run.seconds:,.1f} s, {run.steps / run.seconds:,.0f} steps/s", err=True)


if __name__ == "__main__":
    main(prog_name="scripts/simulate")
