"""``token-worker schemas``: the contract, for producers in any language."""

from pathlib import Path

import click

from token_worker.contract.schemas import write


@click.command(epilog="Example: token-worker schemas schemas")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), default="schemas")
def schemas(folder: Path) -> None:
    """Write JSON Schema and AsyncAPI documents of requests and replies to FOLDER."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in write(folder):
        click.echo(path)
