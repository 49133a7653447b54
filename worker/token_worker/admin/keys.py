"""The keys of the key storage for operators: lists them, and checks that the master key opens them.

Never prints a key. Reads ``<folder>/*``, ``<folder>.index/*`` and ``<folder>.retired/*``.
"""

import base64
import binascii
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import msgspec

from token_worker.acra import secure_cell
from token_worker.acra.key_name import KeyName, KeyState, parse_name
from token_worker.admin.key_store import AdminStore, StoredText, retired_folder
from token_worker.errors import CorruptData
from token_worker.keys.index_key import INDEX_KEY, NAME_PREFIX, index_folder, parse_index_name
from token_worker.keys.keyring import KEY_BYTES
from token_worker.keys.master import MasterKeys

KEYS_PER_READ = 500
"""Keys that are read at once."""

_PRIVATE_KEY = b"REC2"
"""The beginning of private keys of Themis (elliptic curves)."""

_PUBLIC_KEY = b"UEC2"

KeyStatus = Literal["current", "previous", "public", "version_2", "unknown", "unreadable"]
"""The state of a stored key.

``current``, ``previous``: it is sealed with the current, or the previous master key. ``public``: it is a public key,
which is not sealed. ``version_2``: it belongs to Acra's keystore version 2. ``unknown``: nobody makes such a name.
``unreadable``: no master key opens it, or it is damaged.
"""

BAD_STATUSES: tuple[KeyStatus, ...] = ("previous", "version_2", "unknown", "unreadable")
"""States that an operator has to do something about."""


class ListedKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key as ``keys list`` shows it.

    Attributes:
        key_id: the id in Acra's listing.
        purpose: the purpose in Acra's listing, or ``index_key``; None if neither Acra nor we make such a name.
        state: in use, in the history, or being destroyed.
        creation_time: of a key in the history, as in Acra's listing: the time in its name, when it was replaced. None
            for others.
        name: the name in the key storage, without the folder.
    """

    key_id: str
    purpose: str | None
    client_id: str | None
    zone_id: str | None
    state: KeyState
    creation_time: str | None
    name: str


class LocatedKey(NamedTuple):
    """A key's name, and its place in the key storage."""

    name: KeyName
    path: str
    state: KeyState


def locate_keys(store: AdminStore) -> list[LocatedKey]:
    """All keys, sorted by name: first those in Acra's folder, then index keys, then those that were moved aside."""
    index, retired = index_folder(store.folder), retired_folder(store.folder)
    names = store.names_in([store.folder, index, retired])
    found = [
        LocatedKey(name, f"{store.folder}/{name.name}", "current" if name.stamp is None else "rotated")
        for name in map(parse_name, names[store.folder])
    ]
    for below in names[index]:
        name = parse_index_name(NAME_PREFIX + below)
        found.append(LocatedKey(name, f"{index}/{below}", "current"))
    for below in names[retired]:
        name = parse_index_name(below) if below.startswith(NAME_PREFIX) else parse_name(below)
        found.append(LocatedKey(name, f"{retired}/{below}", "retired"))
    return found


def read_keys(store: AdminStore, keys: Sequence[LocatedKey]) -> Iterator[tuple[LocatedKey, StoredText]]:
    """Read these keys. Keys that were deleted meanwhile are skipped."""
    for start in range(0, len(keys), KEYS_PER_READ):
        part = keys[start : start + KEYS_PER_READ]
        for key, stored in zip(part, store.read([key.path for key in part]), strict=True):
            if stored is not None:
                yield key, stored


def describe(key: LocatedKey) -> ListedKey:
    """Describe a key without opening it."""
    name, owner = key.name, key.name.owner
    return ListedKey(
        key_id=name.key_id,
        purpose=name.kind.purpose if name.kind is not None else None,
        client_id=owner.id if owner is not None and owner.kind == "client" else None,
        zone_id=owner.id if owner is not None and owner.kind == "zone" else None,
        state=key.state,
        creation_time=None if name.stamp is None else f"{name.stamp}Z",
        name=name.name,
    )


def live_path(folder: str, name: KeyName) -> str:
    """The path at which workers look for a key; ``folder`` is that of Acra's keys."""
    return f"{folder}{name.name}" if name.kind is INDEX_KEY else f"{folder}/{name.name}"


def classify(name: KeyName, text: bytes, master_keys: MasterKeys) -> KeyStatus:
    """Find the state of a stored key."""
    if name.kind is None:
        return "version_2" if name.is_of_version_2 else "unknown"
    try:
        if name.kind.form == "public":
            if not _cell_of(text).startswith(_PUBLIC_KEY):
                return "unreadable"
            return "public"
        return "current" if open_key(name, text, master_keys)[1] else "previous"
    except CorruptData:
        return "unreadable"


def open_key(name: KeyName, text: bytes, master_keys: MasterKeys) -> tuple[bytes, bool]:
    """Open a sealed key. Returns the key, and True if the current master key opened it.

    Raises:
        CorruptData: no master key opens it, or it does not look like a key of its kind.
    """
    key, is_current = master_keys.open(_cell_of(text), name.context)
    form = name.kind.form if name.kind is not None else None
    if (form == "symmetric" and len(key) != KEY_BYTES) or (form == "private" and not key.startswith(_PRIVATE_KEY)):
        raise CorruptData("key: wrong length or header for its kind")
    return key, is_current


def seal_key(name: KeyName, key: bytes, master_keys: MasterKeys) -> bytes:
    """Seal a key with the current master key. Returns the text to store."""
    return base64.b64encode(secure_cell.seal(master_keys.current, key, name.context))


def _cell_of(text: bytes) -> bytes:
    try:
        return binascii.a2b_base64(text.strip(), strict_mode=True)
    except (ValueError, binascii.Error):
        raise CorruptData("key: not base64") from None
