"""The command behind ``scripts/fuzz``: it prints outcomes, and never the hostile input.

It runs the package that its Python has installed.
"""

import secrets
import sys
from pathlib import Path

import click
from rich.console import Console

TARGETS = ("requests", "stored", "dense")
CASES = 100_000


@click.command(context_settings={"max_content_width": 110})
@click.option("--target", "names", type=click.Choice(TARGETS), multiple=True, help="What is fuzzed. [default: all]")
@click.option("--cases", type=click.IntRange(1), default=CASES, show_default=True, help="Cases of each target.")
@click.option("--seconds", type=click.FloatRange(0), default=float("inf"), help="End each target after so long.")
@click.option("--seed", help="Decides every case. [default: at random]")
@click.option("--case", "only", type=int, help="Run just this case again, with what its round had before it.")
@click.option("--save", type=click.Path(file_okay=False, path_type=Path), help="Folder for the input of failed cases.")
@click.option("--coverage", is_flag=True, help="Let atheris choose payloads by the code they reach, for --seconds.")
def main(
    names: tuple[str, ...],
    cases: int,
    seconds: float,
    seed: str | None,
    only: int | None,
    save: Path | None,
    *,
    coverage: bool,
) -> None:
    """Run hostile stream entries (requests) and damaged stored values (stored, dense) through the worker's code.

    At the first case with a wrong result it prints the seed and the number of the case, and ends with exit status 1.
    """
    seed = seed or secrets.token_hex(4)
    if coverage:
        from fuzz import guided  # needs atheris, which few have

        guided.run(seed, seconds, save)
    from fuzz import run  # the coverage run must be the first to import the product

    console = Console(stderr=True)
    for name in names or TARGETS:
        with console.status("") as status:
            report = run.run(
                name,
                seed,
                cases=cases,
                seconds=seconds,
                only=only,
                tell=lambda done, name=name, status=status: status.update(f"{name}: {done:,} cases"),  # type: ignore[misc]  # defaults bind
            )
        rate = report.cases / max(report.seconds, 1e-9)
        warm, end = report.peaks
        click.echo(
            f"{name}: seed {seed}, {report.cases:,} cases in {report.seconds:.0f} s ({rate:,.0f} a second);"
            f" slowest {report.slowest * 1000:.0f} ms; peak {warm:.0f} MiB after warm-up, {end:.0f} MiB at the end"
        )
        for outcome, count in report.outcomes.most_common():
            click.echo(f"  {count:>12,} {outcome}")
        if report.failure is not None:
            failure = report.failure
            click.echo(f"{name}: case {failure.case} of seed {seed}: {failure.what}")
            click.echo(f"again: scripts/fuzz --target {name} --seed {seed} --case {failure.case}")
            if save is not None:
                for file in run.save(failure, save, name, seed):
                    click.echo(f"saved {file}")
            sys.exit(1)


if __name__ == "__main__":
    main(prog_name="scripts/fuzz")
