"""Passwords of the users that ``token-worker acl`` prints."""

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
