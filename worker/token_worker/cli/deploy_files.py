"""``token-worker deploy-files``: files to start from when workers are deployed."""

from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import click

from token_worker.errors import CheckFailed


@click.command(epilog="Example: token-worker deploy-files deploy")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), required=False)
@click.option("--force", is_flag=True, help="Replace files that were changed.")
def deploy_files(folder: Path | None, *, force: bool) -> None:
    """Write manifests, units, a Dockerfile, log rotation, policies, alert rules, a dashboard and a scaler to FOLDER.

    Without FOLDER, the names of the files are printed and nothing is written. A file that was changed since it was
    written is kept: then nothing is written, and the exit status is 1.
    """
    found = dict(_files(files("token_worker") / "deploy"))
    if folder is None:
        if force:
            raise click.UsageError("--force needs FOLDER")
        click.echo("\n".join(found))
        return
    try:
        changed = [name for name, content in found.items() if _differs(folder / name, content)]
        if changed and not force:
            raise CheckFailed(f"changed since they were written, --force replaces them: {', '.join(changed)}")
        for name, content in found.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
            click.echo(folder / name)
    except OSError as error:
        raise click.BadParameter(f"cannot write there ({error.strerror})", param_hint="FOLDER") from None


def _files(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, bytes]]:
    """Yield the name and content of each file below a folder of the package."""
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from _files(entry, f"{prefix}{entry.name}/")
        else:
            yield prefix + entry.name, entry.read_bytes()


def _differs(file: Path, content: bytes) -> bool:
    return file.exists() and file.read_bytes() != content
