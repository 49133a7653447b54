"""Lua scripts as package data. Each file begins with the keys that the script touches and with what it returns."""

import hashlib
from importlib.resources import files


class Script:
    """A script, and the hash by which a server knows it.

    Args:
        package: package that holds the file.
        name: name of the file.
        before: file with functions that the script uses, if any. Its text comes first.
        before_package: package that holds that file, if it is another one.
        is_read_only: whether the script changes nothing, so that users without the right to write may run it.
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
        """Ending of the commands that run the script."""
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
