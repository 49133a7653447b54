"""Speed, memory and start-up time of a worker, as ratios to a null worker that takes turns with it.

The null worker reads a batch, decodes each request, and echoes its values with the same commit script. No worker on
Redis Streams can do with less. There is one module for each group of figures.

It measures the package that its Python has installed: ``VENV/bin/python scripts/bench.py`` one of another commit.
"""

import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import click
import msgspec
from rich.console import Console

from bench import client, closed, cpu, files, footprint, formats, growth, latency, layouts
from bench.figures import Row, Run, compare, show, show_comparison
from bench.sizes import QUICK, Sizes
from harness.ending import end_by_signals
from token_worker.keys.layout_record import LayoutName

GROUPS: dict[str, Callable[[Sizes, Callable[[str], None]], list[Row]]] = {
    "closed": closed.measure,
    "client": client.measure,
    "cpu": cpu.measure,
    "formats": formats.measure,
    "layouts": layouts.measure,
    "workers": cpu.measure_two,
    "latency": latency.measure,
    "stored": growth.measure_stored,
    "clients": growth.measure_clients,
    "memory": footprint.measure_memory,
    "start": footprint.measure_start,
    "file": files.measure,
}
"""Groups of figures, in the order they are taken."""

OPTIONS: dict[str, tuple["click.ParamType[Any]", str]] = {
    "rounds": (click.IntRange(1), "How often each figure is taken, at most 3 times in groups that prepare much."),
    "requests": (click.IntRange(100), "Single requests of a backlog, and items of one in requests of 100."),
    "acra": (click.IntRange(100), "Tokens as Acra writes them; a worker keeps 4,096 of their data keys."),
    "rate": (click.IntRange(1), "Single requests a second of the steady load."),
    "seconds": (click.FloatRange(0.1), "Seconds of each steady load."),
    "idle": (click.FloatRange(0.1), "Seconds for which the CPU of an idle worker is counted."),
    "stored": (click.IntRange(100), "Tokens of the large storage: in Acra's layout a kilobyte each."),
    "clients": (click.IntRange(10), "Clients that send in turn; a worker keeps 10,000."),
    "large": (click.IntRange(1), "Requests of 1 MiB and 1,000 items."),
    "rows": (click.IntRange(1), "Rows of a file that token-worker file takes through."),
    "loop": (click.FloatRange(0.01), "Seconds of each closed or open loop, and of each load by a client."),
    "open_rate": (click.FloatRange(0), "Requests a second that open loops take their parts of; 0: as measured."),
    "listed": (click.IntRange(1), "Values of the list that one call of the client takes."),
    "layout": (click.Choice(get_args(LayoutName)), "Layout of the tokens; the group layouts compares both."),
}
"""An option for each size."""


def chosen_groups(_context: click.Context, _option: click.Parameter, text: str | None) -> list[str]:
    """The groups that a list with commas names; all groups by default."""
    names = [name.strip() for name in text.split(",")] if text else list(GROUPS)
    for name in names:
        if name not in GROUPS:
            raise click.BadParameter(f"there is no group {name!r}; there are {', '.join(GROUPS)}")
    return [name for name in GROUPS if name in names]


def read_run(_context: click.Context, _option: click.Parameter, file: Path | None) -> Run | None:
    """A run saved with ``--json``."""
    if file is None:
        return None
    try:
        return msgspec.json.decode(file.read_bytes(), type=Run)
    except msgspec.DecodeError:
        raise click.BadParameter(f"{file} holds no figures that --json printed") from None


def with_sizes(command: Callable[..., None]) -> Callable[..., None]:
    """Add an option for each size."""
    for name, (kind, text) in reversed(OPTIONS.items()):
        default, quick = _shown(getattr(Sizes(), name)), _shown(getattr(QUICK, name))
        flag = f"--{name.replace('_', '-')}"
        command = click.option(flag, type=kind, help=f"{text} [default: {default}; quick: {quick}]")(command)
    return command


def _shown(size: object) -> str:
    return size if isinstance(size, str) else f"{size:,}"


@click.command(context_settings={"max_content_width": 110})
@click.option("--only", "groups", callback=chosen_groups, help=f"Groups of figures: {','.join(GROUPS)}.")
@click.option("--quick", is_flag=True, help="A little of everything, to see that it works; the figures mean little.")
@with_sizes
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one JSON object.")
@click.option(
    "--against",
    "saved",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    callback=read_run,
    help="Compare with what --json printed before.",
)
def main(groups: list[str], saved: Run | None, *, quick: bool, as_json: bool, **given: Any) -> None:
    """Measure a worker against a null worker in the same run, and show each figure with its goal.

    It takes about twenty minutes. A missed goal does not make it fail, but a wrong answer does.
    """
    chosen = {name: value for name, value in given.items() if value is not None}
    sizes = msgspec.structs.replace(QUICK if quick else Sizes(), **chosen)
    run = Run(conditions(sizes), [])
    progress = Console(stderr=True)
    with progress.status("") as status:
        for group in groups:
            run.rows += GROUPS[group](sizes, status.update)
    if as_json:
        figures = msgspec.to_builtins(run)
        if saved is not None:
            figures["against"] = msgspec.to_builtins(compare(saved, run))
        click.echo(msgspec.json.encode(figures).decode())
        return
    console = Console(width=None if sys.stdout.isatty() else 160)
    show(run, console)
    if saved is not None:
        show_comparison(saved, run, console)


def conditions(sizes: Sizes) -> dict[str, Any]:
    """Versions and options of a run; two runs can be compared figure by figure only if these are equal."""
    cores = len(os.sched_getaffinity(0))
    return {"cores": cores, "python": platform.python_version(), **msgspec.structs.asdict(sizes)}


if __name__ == "__main__":
    end_by_signals()
    main(prog_name="scripts/bench")
