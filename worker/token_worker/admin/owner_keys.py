"""The keys of one owner, as commands on tokens use them: whatever key opens an entry is searched for."""

from collections.abc import Callable
from typing import TypeVar

from token_worker.acra.owner import Owner
from token_worker.errors import Refused, Unavailable
from token_worker.keys.cache import KeyCache, KeySearch
from token_worker.keys.keyring import Keyring, NoMatchingKey

T = TypeVar("T")


class OwnerKeys:
    """The keys of a client or zone.

    Args:
        cache: the cache of all keys.
        owner: client or zone.
    """

    def __init__(self, cache: KeyCache, owner: Owner) -> None:
        self.cache = cache
        self.owner = owner

    def ring(self) -> Keyring:
        """Return the keyring, with all keys that were found so far.

        Raises:
            Refused: the owner has no key that can be read.
            Unavailable: the key storage is away.
        """
        ring = self.cache.rings([self.owner])[self.owner]
        if isinstance(ring, Refused | Unavailable):
            raise ring
        return ring

    def open(self, open_with: Callable[[Keyring], T]) -> T:
        """Call ``open_with`` with the keyring. Search older keys as long as it raises ``NoMatchingKey``.

        Raises:
            CorruptData: no key of the owner opens it.
        """
        while True:
            ring = self.ring()
            try:
                return open_with(ring)
            except NoMatchingKey:
                found = self.cache.find_keys(ring)
                if isinstance(found, Unavailable):
                    raise found from None
                if found is KeySearch.EXHAUSTED:
                    raise
