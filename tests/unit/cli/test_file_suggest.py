"""The table of ``token-worker file --suggest``."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from token_worker.cli import file_suggest
from token_worker.cli.app import app
from token_worker.cli.terminal import table_console


def test_the_table_is_readable_in_80_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest reasons have three words or more in a line, names and formats stand whole, and nothing is cut."""
    console = table_console()
    console.width = 80
    monkeypatch.setattr(file_suggest, "table_console", lambda: console)
    source = tmp_path / "in.csv"
    rows = [f"+49 30 9018{n:02},U{n}@mail.example,x" for n in range(5)] + [
        f"030/90{n},u{n}@b.example,x" for n in range(5)
    ]
    source.write_text("\n".join(["telephone_number,email_address,y", *rows]))
    environment = {"TOKEN_WORKER_STREAMS_URL": "redis://127.0.0.1:1/0"}
    with console.capture() as capture:
        done = CliRunner().invoke(app, ["file", "tokenize", str(source), "--suggest"], env=environment)
    assert done.exit_code == 0, done.output
    lines = capture.get().splitlines()
    assert max(map(len, lines)) <= 80
    assert not [line for line in lines if "…" in line]
    reasons = " ".join(line[40:].strip() for line in lines[4:])
    assert "only 5 of 10 distinct values fit phone: expected a phone number with +" in reasons
    assert "e.g. x9@xxxx.xxxxxxx" in reasons
    for name in ("telephone_number", "email_address", "email-safe"):
        assert any(name in line for line in lines)
    assert len(lines) <= 24
