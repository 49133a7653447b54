"""The package, the command and the changelog tell the same version."""

from pathlib import Path

from click.testing import CliRunner

import token_worker
from token_worker.cli import app

CHANGELOG = Path(__file__).parents[2] / "CHANGELOG.md"


def test_command_tells_the_version_of_the_package() -> None:
    """``token-worker --version`` prints the version of the code that runs."""
    printed = CliRunner().invoke(app, ["--version"]).output
    assert printed == f"token-worker, version {token_worker.__version__}\n"


def test_changelog_begins_with_the_version_of_the_package() -> None:
    """The newest section of the changelog is that of the version in the tree."""
    newest = next(line for line in CHANGELOG.read_text().splitlines() if line.startswith("## "))
    assert newest.split()[1] == token_worker.__version__
