"""The records of the layout of the token storage, for commands: reads them, and writes them in an order that is safe.

A change writes the record of the token storage first, then that of the key storage. Each write is a compare-and-set. If
the command is killed in between, the records differ: no worker starts, and the same command completes the change.

Touches ``token-worker:layout`` in the token storage and ``<folder>.layout`` in the key storage. ``find_tokens`` looks
at the names of all strings of the token storage.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from token_worker.admin.key_store import AdminStore, StoredText
from token_worker.admin.workers import read_workers
from token_worker.errors import CheckFailed
from token_worker.keys.layout_record import (
    TOKENS_RECORD,
    LayoutName,
    LayoutProblem,
    LayoutRecord,
    decode_keys_record,
    decode_record,
    encode_record,
    find_problem,
    layout_of,
    layout_path,
    new_record,
)
from token_worker.redis.cluster import ClusterLink
from token_worker.redis.connect import AnyLink
from token_worker.redis.exchange import drive
from token_worker.redis.link import Link
from token_worker.redis.scan import SCAN_KEYS, scan
from token_worker.redis.script import Script
from token_worker.storage.dense.entry import NAME_BYTES
from token_worker.streams.routes import Route

_REPLACE = Script(__package__, "replace.lua")

_ACRA_PREFIX = b"tokens/"
_DENSE_FIRST = (b"v", b"t")
_PRINTABLE = frozenset(range(0x20, 0x7F))

_CHANGED = "the layout record was changed meanwhile; look at it with `token-worker tokens layout`"


class Records(NamedTuple):
    """Both records, as they were read.

    Attributes:
        in_keys: the record of the key storage; None if there is none.
        in_tokens: the record of the token storage; None if there is none.
        keys_text: the stored text of ``in_keys``.
        tokens_text: the stored text of ``in_tokens``.
    """

    in_keys: LayoutRecord | None
    in_tokens: LayoutRecord | None
    keys_text: StoredText | None
    tokens_text: bytes | None

    @property
    def layout(self) -> LayoutName:
        """The layout, by the record of the key storage."""
        return layout_of(self.in_keys)

    def problem(self, asked: LayoutName | None = None) -> LayoutProblem | None:
        """Compare the records with each other and with ``TOKEN_WORKER_LAYOUT``."""
        return find_problem(self.in_keys, self.in_tokens, asked)


class Change(NamedTuple):
    """A change of the layout.

    Attributes:
        record: the record that both storages hold afterwards.
        writes: the storages that do not hold it yet, in the order in which they are written.
    """

    record: LayoutRecord
    writes: tuple[str, ...]


def read_records(store: AdminStore, link: Link) -> Records:
    """Read both records.

    Raises:
        CorruptData, SettingsError: as by ``decode_record``.
        Unavailable, ServerError, MasterKeyError: as by the storages.
    """
    [keys_text] = store.read([layout_path(store.folder)])
    tokens_text: bytes | None = link.call("GET", TOKENS_RECORD)
    return Records(
        decode_keys_record(None if keys_text is None else keys_text.text),
        None if tokens_text is None else decode_record(tokens_text, "token storage"),
        keys_text,
        tokens_text,
    )


def write_records(store: AdminStore, link: Link, found: Records, record: LayoutRecord) -> None:
    """Write a record into both storages: first into the token storage. A storage that holds it already is left alone.

    Args:
        store: the key storage.
        link: the token storage.
        found: the records as they were read.
        record: the record to write.

    Raises:
        CheckFailed: a record is not what was read any more. The record of the token storage may have been written.
        Unavailable, ServerError, MasterKeyError: as by the storages.
    """
    _write_in_tokens(link, found, record)
    _write_in_keys(store, found, record)


def end_move(store: AdminStore, link: Link, found: Records, record: LayoutRecord) -> None:
    """Write the record of a move that is complete: first into the key storage.

    The record of the token storage is ``unfinished`` until then. If this is killed in between, no worker starts, and
    the records tell that all but the second write is done.

    Args and errors as by ``write_records``. The record of the key storage may have been written.
    """
    _write_in_keys(store, found, record)
    _write_in_tokens(link, found, record)


def _write_in_tokens(link: Link, found: Records, record: LayoutRecord) -> None:
    text = encode_record(record)
    if found.in_tokens != record:
        if found.tokens_text is None:
            is_written = link.call("SET", TOKENS_RECORD, text, "NX") is not None
        else:
            is_written = bool(link.run(_REPLACE, [TOKENS_RECORD], [found.tokens_text, text]))
        if not is_written:
            raise CheckFailed(_CHANGED)


def _write_in_keys(store: AdminStore, found: Records, record: LayoutRecord) -> None:
    if found.in_keys != record:
        path, text = layout_path(store.folder), encode_record(record)
        old = found.keys_text
        if not (store.create(path, text) if old is None else store.replace(path, old, text)):
            raise CheckFailed(_CHANGED)


def plan_change(found: Records, layout: LayoutName) -> Change | None:
    """Plan a change to a layout, or the end of one that was interrupted. Returns None if there is nothing to do. Pure.

    Raises:
        CheckFailed: there is another record, of another storage or layout.
    """
    in_keys, in_tokens = found.in_keys, found.in_tokens
    problem = found.problem()
    if problem is None:
        if found.layout == layout:
            return None
        record = new_record(layout, time.time(), None if in_tokens is None else in_tokens.storage)
        return Change(record, ("token storage", "key storage"))
    if in_tokens is not None and (in_keys is None or in_keys.storage == in_tokens.storage):
        if in_tokens.layout == layout:  # a change that was interrupted
            record = in_tokens.finished
            held = {"token storage": in_tokens, "key storage": in_keys}
            return Change(record, tuple(name for name, other in held.items() if other != record))
        if in_keys is not None and in_keys.layout == layout:
            return Change(in_keys, ("token storage",))  # the same, taken back
    raise CheckFailed(f"there is another record: {problem}")


def find_tokens(link: AnyLink, progress: Callable[[int], object] = lambda _: None) -> set[LayoutName]:
    """Find out which layouts have tokens in the token storage. The database may hold other keys, too.

    Ends as soon as tokens of one layout were found.

    Args:
        link: the token storage.
        progress: is called with the number of names scanned so far.
    """
    scanned = 0
    for names in strings(link):
        found = {layout for name in names if (layout := layout_of_name(name)) is not None}
        if found:
            return found
        scanned += SCAN_KEYS
        progress(scanned)
    return set()


def layout_of_name(name: bytes) -> LayoutName | None:
    """Tell the layout of which a string with this name is an entry; None for something else.

    Names of the dense layout are random after the first byte. A name that can be printed is somebody else's: a random
    one is so once in three million times.
    """
    if name.startswith(_ACRA_PREFIX):
        return "acra"
    is_dense = len(name) == NAME_BYTES and name.startswith(_DENSE_FIRST) and not _PRINTABLE.issuperset(name)
    return "dense" if is_dense else None


def check_no_workers(routes: Sequence[Route], group: str, streams: Link) -> None:
    """Check that no worker serves the routes.

    Raises:
        CheckFailed: a worker does, or this user may not look.
        Unavailable: the streams' server is away.
    """
    found = drive(read_workers(routes, group), streams)
    alive = sorted({worker.consumer for route in found for worker in route.workers if worker.is_alive})
    if alive:
        raise CheckFailed(f"workers are running, or did a minute ago: stop them first ({', '.join(alive[:5])})")
    unknown = [f"{route.stream}: {reason}" for route in found if (reason := route.unknown or route.notes_unknown)]
    if unknown:
        raise CheckFailed(f"cannot see whether workers are running ({unknown[0]}); see `token-worker acl`")


def check_empty(link: AnyLink, layout: LayoutName, progress: Callable[[int], object] = lambda _: None) -> None:
    """Check that the token storage has no tokens. ``layout`` is the one that is asked for.

    Raises:
        CheckFailed: it has.
    """
    found = find_tokens(link, progress)
    if found == {layout}:
        raise CheckFailed(
            f"the token storage has tokens of layout {layout} already: restore the key storage that belongs to it, or"
            " copy its record (docs/layouts.md); or take an empty token storage"
        )
    if found:
        raise CheckFailed(
            f"the token storage has tokens (layout {' and '.join(sorted(found))}): `token-worker tokens migrate --to"
            f" {layout}` moves them"
        )


def strings(link: AnyLink) -> Iterator[list[bytes]]:
    """Names of all strings, page by page; in a cluster those of every primary. Streams may have names like entries."""
    for node in link.primaries() if isinstance(link, ClusterLink) else [link]:
        yield from scan(node, "*", kind="string")
