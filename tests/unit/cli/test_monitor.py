"""``token-worker monitor`` refuses what would show the page to everybody, and drops keys that it must not have."""

import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from token_worker.cli import monitor
from token_worker.cli.app import app
from token_worker.errors import SettingsError
from token_worker.settings import load


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["monitor", *arguments], env={"TOKEN_WORKER_STREAMS_URL": "redis://127.0.0.1:1/0"})


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0"])
def test_page_is_not_shown_beyond_this_machine_without_password(address: str) -> None:
    """Without a password or open metrics, nothing could be answered there: wrong usage, with both ways out."""
    done = run("--serve", address)
    assert done.exit_code == 2, done.output
    assert "--token-file" in done.output
    assert "--metrics-open" in done.output


@pytest.mark.parametrize("address", ["9300", "localhost", "::1:9300", "127.0.0.1:99999"])
def test_address_of_another_form_is_wrong_usage(address: str) -> None:
    """The error says what is expected."""
    done = run("--serve", address)
    assert done.exit_code == 2
    assert "HOST:PORT" in done.output or "expected" in done.output


def test_short_password_is_refused(tmp_path: Path) -> None:
    """A password file with a short password ends the command."""
    (tmp_path / "token").write_text("short")
    done = run("--token-file", str(tmp_path / "token"))
    assert isinstance(done.exception, SettingsError)
    assert "16 characters" in str(done.exception)


def test_keys_and_vault_are_dropped(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A master key or Vault in the settings is dropped, and it is said who left it in the environment."""
    monkeypatch.setenv("ACRA_MASTER_KEY", "c2VjcmV0")
    monkeypatch.setenv("VAULT_ADDR", "http://127.0.0.1:1")
    monkeypatch.setenv("VAULT_TOKEN", "secret-token")
    settings = monitor._without_secrets(load(os.environ))
    assert (settings.master_key, settings.vault) == (None, None)
    assert "ACRA_MASTER_KEY" not in os.environ
    assert "VAULT_TOKEN" not in os.environ
    said = capsys.readouterr().err
    assert "ACRA_MASTER_KEY is set, and the monitor does not use it" in said
    assert "c2VjcmV0" not in said
    assert "secret-token" not in said
