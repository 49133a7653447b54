"""Lua scripts as package data: each in a file of its own that opens with the keys it touches and what it returns."""

import hashlib
from importlib.resources import files


class Script:
    """A script and the hash by which a server knows it.

    Args:
        package: where it is.
        name: its file.
        before: a file of functions that it uses, if any; their text comes first.
        is_read_only: it changes nothing, and may be run by who may change nothing.
    """

    def __init__(self, package: str, name: str, before: str | None = None, *, is_read_only: bool = False) -> None:
        self.name = name
        self.suffix = "_RO" if is_read_only else ""
        """Of the commands that run it."""
        names = [name] if before is None else [before, name]
        self.source = b"".join(files(package).joinpath(it).read_bytes() for it in names)
        self.sha = hashlib.sha1(self.source, usedforsecurity=False).hexdigest()

    def __repr__(self) -> str:
        return f"Script({self.name})"
