"""``token-worker schemas``: the contract, for producers in any language."""

from pathlib import Path

import click

from token_worker.contract.schemas import write


@click.command(epilog="Example: token-worker schemas schemas")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), default="schemas")
def schemas(folder: Path) -> None:
    """Write the contract of requests and replies to FOLDER: JSON Schema, AsyncAPI, codes and a page to read."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        written = write(folder)
    except OSError as error:
        raise click.BadParameter(f"cannot write there ({error.strerror})", param_hint="FOLDER") from None
    for path in written:
        click.echo(path)
