"""Token and key storage in dictionaries, for tests that need no server, or for which one would be too slow."""

import hashlib
from collections.abc import Sequence
from typing import Any, Final

from token_worker.acra.key_name import HISTORY_INFIX
from token_worker.acra.owner import Owner
from token_worker.keys.index_key import KeyTexts, seal_index_key
from token_worker.keys.store import wrap
from token_worker.storage.acra.layout import AcraLayout
from token_worker.storage.durability import NoBarrier
from token_worker.storage.layout import Layout
from token_worker.storage.steps import Adopt, Claim, Lookup, Outcome, Row, Step, Store, Touch
from token_worker.storage.tokens import TokenStorage

MASTER_KEY: Final = hashlib.sha256(b"token_worker.testing").digest()
"""Opens the keys of ``KeysForEverybody``. No secret, as they are none."""


class MemoryTokens(TokenStorage):
    """A token storage that does each step at once, with the outcomes that the scripts have."""

    connections = 1

    def __init__(self, layout: Layout | None = None) -> None:
        self.barrier = NoBarrier()
        self.layout: Layout = layout or AcraLayout()
        self.entries: dict[bytes, bytes] = {}

    def ping(self) -> None:
        """Do nothing: the storage is never away."""

    def probe(self) -> None:
        """Do nothing: the storage is never full."""

    def execute(self, step: Step) -> Any:
        """Do a step and give its answer."""
        match step:
            case Lookup(keys):
                return [self.entries.get(key) for key in keys]
            case Store(rows):
                return [self._put(row) for row in rows]
            case Adopt(rows):
                return [self._take_up(row) for row in rows]
            case Claim(claims):
                return [self.entries.setdefault(key, value) for key, value in claims]
            case Touch(touches):
                for key, old, new in touches:
                    if self.entries.get(key) == old:
                        self.entries[key] = new
                return None

    def _put(self, row: Row) -> Outcome:
        if row.h_value and row.h_key in self.entries and not (row.h_old and self.entries[row.h_key] == row.h_old):
            return Outcome("value", self.entries[row.h_key])
        if row.t_key in self.entries:
            return Outcome("token", self.entries[row.t_key])
        self.entries[row.t_key] = row.t_value
        if row.h_value:
            self.entries[row.h_key] = row.h_value
        return Outcome("written")

    def _take_up(self, row: Row) -> Outcome:
        if self.entries.get(row.t_key) != row.t_value:
            return Outcome("changed")
        if row.h_key in self.entries and not (row.h_old and self.entries[row.h_key] == row.h_old):
            return Outcome("value", self.entries[row.h_key])
        self.entries[row.h_key] = row.h_value
        return Outcome("written")


class MemoryKeys:
    """A key storage whose history is always known.

    Attributes:
        sealed: texts by name, without the folder.
        index: texts of index keys, by the name of the owner's key.
    """

    def __init__(self) -> None:
        self.sealed: dict[str, bytes] = {}
        self.index: dict[str, bytes] = {}

    def current(self, owners: Sequence[Owner]) -> list[bytes | None]:
        """The sealed current key of each owner."""
        return [self.sealed.get(owner.key_name) for owner in owners]

    def current_with_index(self, owners: Sequence[Owner]) -> list[KeyTexts]:
        """The sealed current key and the sealed index key of each owner."""
        keys = self.current(owners)
        return [KeyTexts(key, self.index.get(owner.key_name)) for key, owner in zip(keys, owners, strict=True)]

    def history_names(self, owner: Owner, since: float) -> tuple[list[str], bool]:  # noqa: ARG002 - of the protocol
        """Names of the history of an owner's key, newest first."""
        start = owner.key_name + HISTORY_INFIX
        return sorted((name for name in self.sealed if name.startswith(start)), reverse=True), True

    def refresh_history(self) -> None:
        """Do nothing: the history is always known."""

    def read(self, names: Sequence[str]) -> list[bytes | None]:
        """The sealed keys of these names."""
        return [self.sealed.get(name) for name in names]

    def create(self, owner: Owner, sealed: bytes) -> bool:
        """Store the first key of an owner."""
        return self.sealed.setdefault(owner.key_name, sealed) is sealed


class KeysForEverybody(MemoryKeys):
    """A key storage in which every client and zone has its keys, made from its name: the same in every run."""

    def current(self, owners: Sequence[Owner]) -> list[bytes | None]:
        """The sealed current key of each owner."""
        for owner in owners:
            name = owner.key_name
            if name not in self.sealed:
                key, index_key = (
                    hashlib.sha256(f"token_worker.testing {text}".encode()).digest() for text in (name, f"index {name}")
                )
                self.create(owner, wrap(key, MASTER_KEY, owner))
                self.index[name] = seal_index_key(index_key, MASTER_KEY, owner)
        return super().current(owners)
