"""Scans the token storage for entries that are sealed with one key of an owner, in both layouts. Changes nothing.

Both layouts are looked at, whatever the record says: while tokens move from one to the other, there are entries of
both.
"""

from collections.abc import Iterator
from typing import NamedTuple

from token_worker.acra import acra_block, token_entry
from token_worker.acra.acra_block import open_data_key
from token_worker.acra.owner import Owner
from token_worker.admin.entry_store import EntryStore
from token_worker.admin.key_store import AdminStore
from token_worker.admin.keys import open_key
from token_worker.errors import CorruptData
from token_worker.keys.index_key import index_name, index_path
from token_worker.keys.master import MasterKeys
from token_worker.redis.scan import SCAN_KEYS, escape_bytes, escape_pattern
from token_worker.storage.dense import entry as dense

_ANY_TAG = b"?" * 4
_REST = b"?" * (dense.NAME_BYTES - 5)


class EntryScan(NamedTuple):
    """The result of a scan of the owner's token entries.

    Attributes:
        entries: entries that were read; an entry may count twice while the storage grows or shrinks. Without the index
            key, nobody can tell whose an entry of the dense layout is: then it counts if its key id is that of the key.
        opened: entries that are sealed with the key.
        damaged: entries that are corrupt: no key opens them.
    """

    entries: int
    opened: int
    damaged: int


def read_index_key(store: AdminStore, master_keys: MasterKeys, owner: Owner) -> bytes | None:
    """Read an owner's index key; None if there is none, or the master key does not open it."""
    [stored] = store.read([index_path(store.folder, owner)])
    try:
        return None if stored is None else open_key(index_name(owner), stored.text, master_keys)[0]
    except CorruptData:
        return None


def scan_entries(entries: EntryStore, owner: Owner, key: bytes, index_key: bytes | None = None) -> EntryScan:
    """Try the key on all token entries of its owner."""
    return EntryScan(
        *map(sum, zip(_scan_acra(entries, owner, key), _scan_dense(entries, owner, key, index_key), strict=True))
    )


def count_entries(entries: EntryStore, owner: Owner, index_key: bytes | None) -> int:
    """Count the token entries of an owner, by their names. Without the index key, only those of Acra's layout.

    An entry may count twice while the storage grows or shrinks.
    """
    patterns = [_acra_pattern(owner)]
    if index_key is not None:
        patterns.append(_dense_pattern(dense.EntryNames(index_key, owner).tag))
    return sum(len(names) for pattern in patterns for names in entries.names(pattern, SCAN_KEYS))


def _scan_acra(entries: EntryStore, owner: Owner, key: bytes) -> EntryScan:
    context = owner.context
    key_id = acra_block.key_id(key, context)
    seen = opened = damaged = 0
    for _, raw in _read(entries, _acra_pattern(owner)):
        seen += 1
        try:
            block = acra_block.parse(token_entry.decode_entry(raw or b"").block)
        except CorruptData:
            damaged += raw is not None
            continue
        if block.key_id == key_id:
            opened += _opens(key, block.sealed_data_key, context)
    return EntryScan(seen, opened, damaged)


def _scan_dense(entries: EntryStore, owner: Owner, key: bytes, index_key: bytes | None) -> EntryScan:
    seal_key = dense.SealKey(key, owner)
    tag = None if index_key is None else dense.EntryNames(index_key, owner).tag
    seen = opened = damaged = 0
    for name, raw in _read(entries, _dense_pattern(tag)):
        try:
            is_of_key = dense.read_head(name, raw or b"").key_id == seal_key.id
        except CorruptData:
            is_of_key = False
            damaged += raw is not None and tag is not None
        seen += is_of_key or tag is not None
        opened += is_of_key and seal_key.open(name, raw or b"") is not None
    return EntryScan(seen, opened, damaged)


def _read(entries: EntryStore, pattern: bytes) -> Iterator[tuple[bytes, bytes | None]]:
    for names in entries.names(pattern, SCAN_KEYS):
        yield from zip(names, entries.read(names), strict=True)


def _acra_pattern(owner: Owner) -> bytes:
    folder = token_entry.EntryNames(owner).of_token(b"", 0).decode().rpartition("/")[0]
    return f"{escape_pattern(folder)}/*".encode()


def _dense_pattern(tag: bytes | None) -> bytes:
    return b"[vt]" + (_ANY_TAG if tag is None else escape_bytes(tag)) + _REST


def _opens(key: bytes, sealed_data_key: bytes, context: bytes) -> bool:
    try:
        open_data_key(key, sealed_data_key, context)
    except CorruptData:
        return False
    return True
