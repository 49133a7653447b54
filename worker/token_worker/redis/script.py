"""Lua scripts as package data: each in a file of its own that opens with the keys it touches and what it returns."""

import hashlib
from importlib.resources import files


class Script:
    """A script and the hash by which a server knows it.

    Args:
        package: where it is.
        name: its file.
        before: a file of functions that it uses, if any; their text comes before its own.
        before_package: where that file is, if not in the same package.
        is_read_only: it changes nothing, and may be run by who may change nothing.
    """

    def __init__(
        self,
        package: str,
        name: str,
        before: str | None = None,
        *,
        before_package: str | None = None,
        is_read_only: bool = False,
    ) -> None:
        self.name = name
        self.suffix = "_RO" if is_read_only else ""
        """Of the commands that run it."""
        flags, text = _split(_read(package, name))
        functions = b"" if before is None else _read(before_package or package, before)
        self.source = flags + functions + text
        self.sha = hashlib.sha1(self.source, usedforsecurity=False).hexdigest()

    def __repr__(self) -> str:
        return f"Script({self.name})"


def _read(package: str, name: str) -> bytes:
    return files(package).joinpath(name).read_bytes()


def _split(source: bytes) -> tuple[bytes, bytes]:
    """The line with the flags of a script, which has to stay the first one, and the rest."""
    end = source.index(b"\n") + 1 if source.startswith(b"#!") else 0
    return source[:end], source[end:]
