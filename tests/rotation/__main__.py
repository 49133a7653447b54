"""``scripts/rotation``: audit files that logrotate rotates under load."""

import tempfile
from pathlib import Path

import click
import msgspec
from rich.console import Console

from harness.ending import end_by_signals
from rotation.run import LOGROTATE, run


@click.command(context_settings={"show_default": True})
@click.option("--seconds", type=click.FloatRange(1), default=3600, help="How long requests are sent.")
@click.option("--every", type=click.FloatRange(0.1), default=60, help="Seconds between two rotations.")
@click.option("--rate", type=click.FloatRange(1), default=100, help="Requests in a second.")
def main(seconds: float, every: float, rate: float) -> None:
    """Rotate the audit files of two workers under load, and count the lines of all answered requests.

    The exit status is 0 only if every answered request has one line, and every line a reply.
    """
    if LOGROTATE is None:
        raise click.UsageError("logrotate is not installed")
    with tempfile.TemporaryDirectory() as folder, Console(stderr=True).status("") as status:
        report = run(Path(folder), seconds=seconds, every=every, rate=rate, progress=status.update)
    click.echo(msgspec.json.encode(report).decode())
    raise SystemExit(not report.is_whole)


if __name__ == "__main__":
    end_by_signals()
    main(prog_name="scripts/rotation")
