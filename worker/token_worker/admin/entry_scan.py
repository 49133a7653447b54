"""Scans the token storage for entries that are sealed with one key of an owner, in both layouts. Changes nothing.

Both layouts are looked at, whatever the record says: while tokens move from one to the other, there are entries of
both.
"""

from collections.abc import Iterator
from typing import NamedTuple

from token_worker.acra import acra_block, token_entry
from token_worker.acra.acra_block import open_data_key
from token_worker.acra.owner import Owner
from token_worker.admin.key_store import AdminStore
from token_worker.admin.keys import open_key
from token_worker.errors import CorruptData, Unavailable
from token_worker.keys.index_key import index_name, index_path
from token_worker.keys.master import MasterKeys
from token_worker.redis.cluster import ClusterLink, RedirectError
from token_worker.redis.link import Link, RedisLink
from token_worker.redis.scan import escape_bytes, escape_pattern, scan
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


def scan_entries(link: Link, owner: Owner, key: bytes, index_key: bytes | None = None) -> EntryScan:
    """Try the key on all token entries of its owner."""
    return EntryScan(
        *map(sum, zip(_scan_acra(link, owner, key), _scan_dense(link, owner, key, index_key), strict=True))
    )


def count_entries(link: Link, owner: Owner, index_key: bytes | None) -> int:
    """Count the token entries of an owner, by their names. Without the index key, only those of Acra's layout.

    An entry may count twice while the storage grows or shrinks.
    """
    patterns = [_acra_pattern(owner)]
    if index_key is not None:
        patterns.append(_dense_pattern(dense.EntryNames(index_key, owner).tag))
    return sum(len(names) for pattern in patterns for _, names in _pages(link, pattern))


def _scan_acra(link: Link, owner: Owner, key: bytes) -> EntryScan:
    context = owner.context
    key_id = acra_block.key_id(key, context)
    entries = opened = damaged = 0
    for _, raw in _entries(link, _acra_pattern(owner)):
        entries += 1
        try:
            block = acra_block.parse(token_entry.decode_entry(raw or b"").block)
        except CorruptData:
            damaged += raw is not None
            continue
        if block.key_id == key_id:
            opened += _opens(key, block.sealed_data_key, context)
    return EntryScan(entries, opened, damaged)


def _scan_dense(link: Link, owner: Owner, key: bytes, index_key: bytes | None) -> EntryScan:
    seal_key = dense.SealKey(key, owner)
    tag = None if index_key is None else dense.EntryNames(index_key, owner).tag
    entries = opened = damaged = 0
    for name, raw in _entries(link, _dense_pattern(tag)):
        try:
            is_of_key = dense.read_head(name, raw or b"").key_id == seal_key.id
        except CorruptData:
            is_of_key = False
            damaged += raw is not None and tag is not None
        entries += is_of_key or tag is not None
        opened += is_of_key and seal_key.open(name, raw or b"") is not None
    return EntryScan(entries, opened, damaged)


def _entries(link: Link, pattern: bytes) -> Iterator[tuple[bytes, bytes | None]]:
    for node, names in _pages(link, pattern):
        if not names:
            continue
        if node is link:
            yield from zip(names, node.call("MGET", *names), strict=True)
            continue
        for name, raw in zip(names, node.call_all([("GET", name) for name in names]), strict=True):
            if isinstance(raw, RedirectError):
                raise _moving(link)
            if isinstance(raw, Exception):
                raise raw
            yield name, raw


def _pages(link: Link, pattern: bytes) -> Iterator[tuple[RedisLink, list[bytes]]]:
    """Scan a server, or all primaries of a cluster.

    Raises:
        Unavailable: a node is away, or a slot has moved meanwhile, so that its entries may have been missed.
    """
    if not isinstance(link, ClusterLink):
        assert isinstance(link, RedisLink)  # noqa: S101 - there is no third kind
        for names in scan(link, pattern):
            yield link, names
        return
    nodes = link.primaries()
    before = nodes[0].call("CLUSTER", "SLOTS")
    for node in nodes:
        for names in scan(node, pattern):
            yield node, names
    if nodes[0].call("CLUSTER", "SLOTS") != before:
        raise _moving(link)


def _moving(link: Link) -> Unavailable:
    return Unavailable(link.name, "MOVED")


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
