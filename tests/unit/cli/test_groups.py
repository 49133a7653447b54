"""Commands that do not exist are answered with the nearest one that does."""

import pytest
from click.testing import CliRunner

from token_worker.cli.app import app


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["tokns"], "there is no command 'tokns'; the nearest is 'tokens'"),
        (["RUN"], "there is no command 'RUN'; the nearest is 'run'"),
        (["keys", "gnrate", "shop-frontend"], "the nearest is 'generate'"),
        (["tokens", "stats"], "the nearest is 'status'"),
        (["dead-letters", "ls"], "the nearest is 'list'"),
        (["run", "--config", "worker.toml"], "--config stands before the command"),
    ],
)
def test_misspelt_command_names_the_nearest(arguments: list[str], text: str) -> None:
    """Exit status 2, and the command that was meant."""
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert text in done.output


def test_every_command_is_found() -> None:
    """A command that exists is never taken for a misspelt one, and options before it go on working."""
    for name in app.list_commands(None):  # type: ignore[arg-type]
        assert CliRunner().invoke(app, [name, "--help"]).exit_code == 0
    assert CliRunner().invoke(app, ["--version"]).exit_code == 0
