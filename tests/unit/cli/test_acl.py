"""The users that ``token-worker acl`` prints: their passwords, and the command that makes them."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from token_worker.cli.app import app
from token_worker.errors import CheckFailed


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe"])
def test_file_without_a_password_makes_no_user(tmp_path: Path, content: bytes) -> None:
    """A password file that is empty is refused: a user with an empty password would let everybody in.

    A run that was ended, or a full disk, leaves such a file.
    """
    (tmp_path / "streams-token-worker").write_bytes(content)
    done = CliRunner().invoke(app, ["acl", "--server", "streams", "--passwords", str(tmp_path)])
    assert isinstance(done.exception, CheckFailed)
    assert "streams-token-worker: is empty" in str(done.exception)
    assert "token-worker reset" not in done.output


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://127.0.0.1:7001/0", "-u redis://127.0.0.1:7001"),
        ("redis://localhost", "-u redis://localhost:6379"),
        ("rediss://[::1]:7001", "-u rediss://[::1]:7001"),
        ("unix:///run/redis.sock", "-s /run/redis.sock"),
    ],
)
def test_users_are_made_at_the_address_of_the_settings(url: str, address: str) -> None:
    """The command that makes the users names the server as the settings do: another name need not lead to it."""
    done = CliRunner().invoke(app, ["acl", "--server", "streams"], env={"TOKEN_WORKER_STREAMS_URL": url})
    assert f"FILE | redis-cli {address} && redis-cli {address} ACL SAVE\n" in done.output


def test_users_that_are_off_are_said_to_be_off(tmp_path: Path) -> None:
    """Without passwords the lines would switch off users at work: the command says so, and how to get the others."""
    off = CliRunner().invoke(app, ["acl", "--server", "streams"])
    on = CliRunner().invoke(app, ["acl", "--server", "streams", "--passwords", str(tmp_path)])
    assert ("--passwords FOLDER" in off.stderr, "--passwords FOLDER" in on.stderr) == (True, False)
