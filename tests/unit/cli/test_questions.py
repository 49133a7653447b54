"""Questions and advice of commands that change much: they say all that will happen, before any server is asked."""

import pytest
from click.testing import CliRunner

from token_worker.cli.app import app


def say(*arguments: str) -> str:
    """Return the words of a command that nobody confirms."""
    done = CliRunner().invoke(app, [*arguments], env={"TOKEN_WORKER_STREAMS_URL": "redis://127.0.0.1:1/0"})
    assert done.exit_code == 2, done.output
    return " ".join(done.output.split())


@pytest.mark.parametrize(("command", "done"), [("remove", "removed"), ("disable", "disabled")])
def test_change_of_all_tokens_is_said(command: str, done: str) -> None:
    """Without a filter a change is about all tokens of the client, and the question says all."""
    assert f"All tokens of shop-frontend will be {done}" in say("tokens", command, "shop-frontend")
    assert f"The chosen tokens of shop-frontend will be {done}" in say(
        "tokens", command, "shop-frontend", "--created-before=2020-01-01"
    )


def test_previous_master_key_is_not_dropped_before_its_keys_are_rewrapped() -> None:
    """Whoever has the master key in a setting is told to look first: a key that it alone opens would be lost."""
    advice = say("keys", "drop-previous")
    assert advice.index("if `token-worker keys verify` finds no key") < advice.index("unset ACRA_MASTER_KEY_PREVIOUS")
