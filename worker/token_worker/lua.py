"""Lua scripts as package data: each in a file of its own that opens with the keys it touches and what it returns."""

import hashlib
from importlib.resources import files


class Script:
    """A script and the hash by which a server knows it."""

    def __init__(self, package: str, name: str) -> None:
        self.name = name
        self.source = files(package).joinpath(name).read_bytes()
        self.sha = hashlib.sha1(self.source, usedforsecurity=False).hexdigest()

    def __repr__(self) -> str:
        return f"Script({self.name})"
