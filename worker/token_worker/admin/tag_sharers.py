"""The owners whose entries in the dense layout begin with the same tag."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from token_worker.acra.owner import Owner
from token_worker.admin.owner_keys import OwnerKeys
from token_worker.errors import CorruptData
from token_worker.keys.cache import KeyCache
from token_worker.keys.keyring import Keyring
from token_worker.storage.dense.entry import EntryNames
from token_worker.storage.dense.layout import DenseLayout, open_entry

OWNERS_AT_ONCE = 500
"""Owners whose index keys are looked up together."""


class TagSharers:
    """The other owners whose names begin with the same tag. They are looked for when the first entry does not open.

    Args:
        cache: the cache of all keys, which looks up index keys, too.
        owner: the owner with this tag.
        list_owners: returns all owners that have an index key.
    """

    def __init__(self, cache: KeyCache, owner: Owner, tag: bytes, list_owners: Callable[[], Iterable[Owner]]) -> None:
        self._cache = cache
        self._owner = owner
        self._tag = tag
        self._list_owners = list_owners
        self._layout = DenseLayout()
        self._found: list[OwnerKeys] | None = None

    def open(self, key: bytes, raw: bytes) -> bool:
        """Return True if the entry belongs to one of them."""
        if self._found is None:
            self._found = list(self._find())
        for keys in self._found:
            try:
                keys.open(lambda ring: open_entry(self._layout.prepare(ring), ring, key, raw))
            except CorruptData:
                continue
            return True
        return False

    def _find(self) -> Iterator[OwnerKeys]:
        owners = iter(self._list_owners())
        while part := list(islice(owners, OWNERS_AT_ONCE)):
            for owner, ring in self._cache.rings(part).items():
                if owner == self._owner or not isinstance(ring, Keyring) or ring.index is None:
                    continue
                if EntryNames(ring.index, owner).tag == self._tag:
                    yield OwnerKeys(self._cache, owner)
