"""Reads the password of a server from its file. That is done for each connection, so passwords can change any time."""

from pathlib import Path


def read_password(path: str) -> str | None:
    """The text of the file without the newline at its end; None if it cannot be read, or is empty."""
    try:
        return Path(path).read_text(encoding="utf-8").rstrip("\r\n") or None
    except (OSError, ValueError):
        return None
