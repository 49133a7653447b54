"""``scripts/moves``: tokens are moved both ways under load, with the command killed."""

import click
import msgspec
from rich.console import Console

from harness.ending import end_by_signals
from moves.run import run


@click.command(context_settings={"show_default": True})
@click.option("--tokens", type=click.IntRange(100), default=100_000, help="Tokens to move.")
@click.option("--kills", type=click.IntRange(0), default=3, help="How often the command is killed on each way.")
@click.option("--rate", type=click.FloatRange(1), default=1e9, help="Most tokens that the copy reads in a second.")
def main(tokens: int, kills: int, rate: float) -> None:
    """Move tokens into the dense layout and back, while requests are sent, and compare every token on each side.

    The exit status is 0 only if no request failed and no token differs.
    """
    with Console(stderr=True).status("") as status:
        report = run(tokens, kills=kills, rate=rate, progress=status.update)
    click.echo(msgspec.json.format(msgspec.json.encode(report)).decode())
    raise SystemExit(not report.is_whole)


if __name__ == "__main__":
    end_by_signals()
    main(prog_name="scripts/moves")
