"""Writes rare kinds of entries into the token storage, so that workers need their rarer scripts."""

from typing import Any

from token_worker.acra.owner import Owner
from token_worker.acra.token_entry import EntryNames, TokenEntry, encode_entry, encode_token_value
from token_worker.acra.value_types import STR
from token_worker.keys.keyring import DataKeyCache, Keyring
from token_worker.storage.dense import entry as dense
from token_worker.storage.dense.layout import token_plaintext, value_plaintext
from token_worker.tokens.derivation import PLAIN, Deriver

LONG_AGO = 1_790_000_000
"""Time of last use of these entries, more than a day ago."""


class Planter:
    """Writes entries of texts of one client.

    Args:
        storage: client of the token storage.
        key: the client's key.
    """

    def __init__(self, storage: Any, client_id: str, key: bytes) -> None:
        owner = Owner("client", client_id)
        self._storage = storage
        self._names = EntryNames(owner)
        self._ring = Keyring(owner, key, DataKeyCache())
        self._deriver = Deriver(key, owner)

    def take_candidate(self, value: str) -> None:
        """Make the first candidate of a value another's token, so that a batch with it is written by the script."""
        self._storage.set(*self._token_entry(value, b"of another"))

    def leave_half(self, value: str) -> None:
        """Write just the entry of the value's token, as AcraServer may leave it: it is adopted."""
        self._storage.set(*self._token_entry(value, value.encode()))

    def leave_rare(self, value: str) -> None:
        """Write both entries, used last so long ago that the next use is noted."""
        token = self._token(value)
        name, entry = self._token_entry(value, value.encode())
        self._storage.mset({self._names.of_value(value.encode(), STR.number): self._entry(token), name: entry})

    def _token(self, value: str) -> bytes:
        return self._deriver.token(PLAIN["str"], value.encode(), 0)

    def _token_entry(self, value: str, content: bytes) -> tuple[bytes, bytes]:
        name = self._names.of_token(self._token(value), STR.number)
        return name, self._entry(encode_token_value(content, STR.number))

    def _entry(self, inside: bytes) -> bytes:
        return encode_entry(TokenEntry(self._ring.seal(inside), LONG_AGO, LONG_AGO))


class DensePlanter:
    """Writes entries of texts of one client in the dense layout.

    Args:
        storage: client of the token storage.
        key: the client's key.
        index_key: the client's index key.
    """

    def __init__(self, storage: Any, client_id: str, key: bytes, index_key: bytes) -> None:
        owner = Owner("client", client_id)
        self._storage = storage
        self._names = dense.EntryNames(index_key, owner)
        self._seal_key = dense.SealKey(key, owner)
        self._deriver = Deriver(key, owner)

    def take_candidate(self, value: str) -> None:
        """Make the first candidate of a value another's token, so that a batch with it is written by the script."""
        self._put_token(value, b"of another")

    def leave_half(self, value: str) -> None:
        """Write just the entry of the value's token, as a worker of a cluster may leave it: it is adopted."""
        self._put_token(value, value.encode())

    def leave_rare(self, value: str) -> None:
        """Write the two tombstones of a removed token: the value gets the next one."""
        self._put_token(value, b"", dense.REMOVED)
        name = self._names.of_value(value.encode(), STR.number)
        self._put(name, value_plaintext(STR.number, 1, b""), dense.REMOVED)

    def _put_token(self, value: str, content: bytes, flags: int = 0) -> None:
        token = self._deriver.token(PLAIN["str"], value.encode(), 0)
        self._put(self._names.of_token(token, STR.number), token_plaintext(STR.number, content), flags)

    def _put(self, name: bytes, plaintext: bytes, flags: int) -> None:
        head = self._seal_key.head(flags, dense.day_of(LONG_AGO))
        self._storage.set(name, self._seal_key.seal(name, head, plaintext))
