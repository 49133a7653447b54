"""The keys of the key storage as an operator sees them: what there is, and whether the master key opens it.

Never gives out a key. Reads ``<folder>/*`` and ``<folder>.retired/*``.
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
from token_worker.keys.keyring import KEY_BYTES
from token_worker.keys.master import MasterKeys

KEYS_PER_READ = 500
"""Keys read together."""

_PRIVATE_KEY = b"REC2"
"""How Themis' private keys (of elliptic curves) begin."""

_PUBLIC_KEY = b"UEC2"

KeyStatus = Literal["current", "previous", "public", "version_2", "unknown", "unreadable"]
"""What a key is sealed with: the current or the previous master key, or nothing since it is public.

``version_2``: it is of Acra's keystore version 2. ``unknown``: its name is none of Acra's. ``unreadable``: no master
key at hand opens it, or it is damaged.
"""

BAD_STATUSES: tuple[KeyStatus, ...] = ("previous", "version_2", "unknown", "unreadable")
"""Verdicts that somebody has to do something about."""


class ListedKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key as ``keys list`` shows it.

    Attributes:
        key_id: as Acra lists it.
        purpose: as Acra calls it; None where the name is none of Acra's.
        state: in use, in the history, or on its way to be destroyed.
        creation_time: as Acra lists it, of a key in the history: when it got there, as its name has it. None for
            others.
        name: in the key storage, without the folder.
    """

    key_id: str
    purpose: str | None
    client_id: str | None
    zone_id: str | None
    state: KeyState
    creation_time: str | None
    name: str


class LocatedKey(NamedTuple):
    """A name and where in the key storage it is."""

    name: KeyName
    path: str
    state: KeyState


def locate_keys(store: AdminStore) -> list[LocatedKey]:
    """All keys there are, in order of their names: Acra's folder first, then what was moved aside."""
    found = [
        LocatedKey(name, f"{store.folder}/{name.name}", "current" if name.stamp is None else "rotated")
        for name in _names(store, store.folder)
    ]
    retired = retired_folder(store.folder)
    return found + [LocatedKey(name, f"{retired}/{name.name}", "retired") for name in _names(store, retired)]


def read_keys(store: AdminStore, keys: Sequence[LocatedKey]) -> Iterator[tuple[LocatedKey, StoredText]]:
    """What is stored for these keys; without those that have gone meanwhile."""
    for start in range(0, len(keys), KEYS_PER_READ):
        part = keys[start : start + KEYS_PER_READ]
        for key, stored in zip(part, store.read([key.path for key in part]), strict=True):
            if stored is not None:
                yield key, stored


def describe(key: LocatedKey) -> ListedKey:
    """What there is to say of a key without opening it."""
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


def classify(name: KeyName, text: bytes, master_keys: MasterKeys) -> KeyStatus:
    """What a stored key is sealed with."""
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
    """A sealed key, and whether it is the current master key that opens it.

    Raises:
        CorruptData: no master key at hand opens it, or it does not look like a key of its kind.
    """
    key, is_current = master_keys.open(_cell_of(text), name.context)
    form = name.kind.form if name.kind is not None else None
    if (form == "symmetric" and len(key) != KEY_BYTES) or (form == "private" and not key.startswith(_PRIVATE_KEY)):
        raise CorruptData("key: not of its kind")
    return key, is_current


def seal_key(name: KeyName, key: bytes, master_keys: MasterKeys) -> bytes:
    """The text to store for a key, sealed with the current master key."""
    return base64.b64encode(secure_cell.seal(master_keys.current, key, name.context))


def _cell_of(text: bytes) -> bytes:
    try:
        return binascii.a2b_base64(text.strip(), strict_mode=True)
    except (ValueError, binascii.Error):
        raise CorruptData("key: not base64") from None


def _names(store: AdminStore, folder: str) -> list[KeyName]:
    return [parse_name(name) for name in sorted(set(store.names(folder)))]
