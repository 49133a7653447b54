"""The walk of an operator: from nothing to a monitored worker, by the commands that stand in the documentation.

Two servers and a Vault are there, and nothing is set up on them. The walk runs the examples of the pages block after
block, as they are printed, and compares what they print with what the pages show. It shows all of it.
"""

import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import click

from harness.doc_pages import page
from harness.doc_runner import Reader
from harness.ending import end_by_signals
from harness.servers import OpenBao, Valkey
from token_worker.settings.options import variable_name

SET_UP = "docs/start.md"

AS_OPERATOR = {
    "docs/keys.md": ("Look at keys", "Rotate the key of a client"),
    "docs/troubleshooting.md": ("What is wrong at all?", "A request gets an error"),
}
"""Sections for the day after, as somebody with the settings of ``operator.toml``. They need no other rights."""

Tell = Callable[[str], object]


def places(streams_url: str, storage_url: str) -> dict[str, str]:
    """Servers on the pages, and those that are there."""
    return {f"{name}:6379": urlsplit(url).netloc for name, url in (("streams", streams_url), ("keys", storage_url))}


@contextmanager
def new_servers(folder: Path) -> Iterator[dict[str, str]]:
    """New servers, where nothing has been set up: what stands for them on the pages."""
    for name in ("streams", "keys"):
        (folder / f"{name}.acl").touch()
    with (
        Valkey(f"aclfile {folder}/streams.acl", "appendonly yes") as streams,
        Valkey(f"aclfile {folder}/keys.acl", "appendonly yes", "maxmemory-policy noeviction") as keys,
    ):
        yield places(streams.url, keys.url)


def walk(folder: Path, tell: Tell) -> None:
    """Take the walk in an empty folder.

    Raises:
        AssertionError: a command failed, or printed something else than the page shows.
    """
    with new_servers(folder) as servers, OpenBao() as bao:
        variables = {"VAULT_ADDR": bao.url, "VAULT_TOKEN": bao.root_token}
        with Reader(folder, variables, {**servers, "https://vault:8200": bao.url}, tell=tell) as reader:
            tell(f"# {SET_UP}")
            reader.follow(page(SET_UP))
            reader.export(settings_of(folder / "operator.toml"))
            for name, sections in AS_OPERATOR.items():
                missing = set(sections) - {block.section for block in page(name).blocks("console")}
                assert not missing, f"{name} has no examples below {missing}"
                tell(f"# {name}: {', '.join(sections)}")
                reader.follow(page(name), sections.__contains__)


def settings_of(file: Path) -> Mapping[str, str]:
    """The settings of a file as environment variables."""
    return {variable_name(option): str(value) for option, value in tomllib.loads(file.read_text()).items()}


@click.command()
def main() -> None:
    """Set up workers on new servers by the examples of docs/start.md, watch them, and do what comes the day after.

    Exit status 1: a command failed, or printed something else than the page shows.
    """
    with TemporaryDirectory(prefix="token-worker-walk-") as folder:
        try:
            walk(Path(folder), click.echo)
        except AssertionError as error:
            raise click.ClickException(str(error)) from None
    click.echo("All commands did what the pages show.")


if __name__ == "__main__":
    end_by_signals()
    main(prog_name="scripts/walk")
