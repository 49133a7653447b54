"""Makes the index keys that clients and zones need in the dense token storage, where there are none.

An index key is never replaced: the entries that it names would not be found any more. Redis: SET NX. Vault:
check-and-set with version 0, so KV version 1 is refused. Changes ``<folder>.index/*``, and keys of new owners. Reads
the check values of owners in the token storage.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from token_worker.acra.key_name import parse_name
from token_worker.acra.owner import Owner
from token_worker.admin.key_store import AdminStore, StoredText, retired_folder
from token_worker.admin.keys import KEYS_PER_READ, LocatedKey, open_key
from token_worker.errors import CheckFailed, CorruptData
from token_worker.keys.index_key import (
    NAME_PREFIX,
    index_folder,
    index_name,
    index_path,
    parse_index_name,
    seal_index_key,
)
from token_worker.keys.layout_record import LayoutName, decode_keys_record, layout_of, layout_path
from token_worker.keys.master import MasterKeys
from token_worker.keys.store import new_key, wrap
from token_worker.redis.link import Link
from token_worker.storage.dense.entry import check_name

IndexKeyState = Literal["made", "present", "key_unreadable", "unreadable", "set_aside", "lost"]
"""``key_unreadable``: the master key does not open the owner's key. No index key was made, because it would be sealed
with the wrong master key, or with one that was replaced meanwhile.

``unreadable``: there is an index key that the master key does not open. It was left as it is.

``set_aside``: it was moved aside to be destroyed. No other was made, because then neither could be brought back.

``lost``: there is none, but the token storage holds the check value of one. No other was made, because workers would
refuse it.
"""

PROBLEMS: dict[IndexKeyState, str] = {
    "key_unreadable": "the master key does not open the key",
    "unreadable": "the master key does not open the index key",
    "set_aside": "the index key is being destroyed; `token-worker keys destroy --last --restore` brings it back",
    "lost": (
        "the index key is gone, and there are tokens that it named: bring it back from a backup of the key storage, or"
        " give the tokens up with `token-worker keys destroy --last`"
    ),
}


class IndexKey(msgspec.Struct, frozen=True, kw_only=True):
    """An owner's index key, after the command. A dry run says ``made`` of what it would make."""

    client_id: str | None
    zone_id: str | None
    state: IndexKeyState


def read_layout(store: AdminStore) -> LayoutName:
    """Read from the key storage which layout the tokens have.

    Raises:
        CheckFailed: the record is damaged.
        SettingsError: a newer version of this program wrote the record.
    """
    [stored] = store.read([layout_path(store.folder)])
    try:
        return layout_of(decode_keys_record(None if stored is None else stored.text))
    except CorruptData as error:
        raise CheckFailed(str(error)) from None


def generate_keys(store: AdminStore, master_keys: MasterKeys, owner: Owner, tokens: Link) -> None:
    """Make the index key and the first symmetric key of an owner; one of an interrupted attempt is kept.

    The symmetric key comes last. So an owner that has a key has an index key, too, and workers never see one without
    the other.

    Raises:
        CheckFailed: the owner has a key, or had one that is being destroyed, or an index key that the master key does
            not open, or tokens named by an index key that is gone. Nothing was changed.
    """
    path = f"{store.folder}/{owner.key_name}"
    [stored] = store.read([path])
    exists = CheckFailed(f"{owner.key_name}: there is a key already; nothing was changed")
    if stored is not None:
        raise exists
    check_not_retired(store, owner)
    made = make_index_key(store, master_keys, owner, tokens)
    if made not in ("made", "present"):
        raise CheckFailed(f"{index_name(owner).name}: {PROBLEMS[made]}; nothing was changed")
    if not store.create(path, wrap(new_key(), master_keys.current, owner)):
        raise exists


def check_not_retired(store: AdminStore, owner: Owner) -> None:
    """Refuse to make a key for an owner whose last key is being destroyed.

    Raises:
        CheckFailed: the key was moved aside.
    """
    [stored] = store.read([f"{retired_folder(store.folder)}/{owner.key_name}"])
    if stored is not None:
        which = f"{owner.id} --zone" if owner.kind == "zone" else owner.id
        raise CheckFailed(
            f"{owner.key_name}: is being destroyed; bring it back with `token-worker keys destroy {which} --last"
            " --restore`, or wait until it is deleted; nothing was changed"
        )


def make_index_key(
    store: AdminStore, master_keys: MasterKeys, owner: Owner, tokens: Link, *, dry_run: bool = False
) -> IndexKeyState:
    """Make the index key of an owner, if there is none, and none has named tokens."""
    path = index_path(store.folder, owner)
    [stored] = store.read([path])
    if stored is None:
        if store.read([f"{retired_folder(store.folder)}/{index_name(owner).name}"]) != [None]:
            return "set_aside"
        if tokens.call("GET", check_name(owner)) is not None:
            return "lost"
        if dry_run or store.create(path, seal_index_key(new_key(), master_keys.current, owner)):
            return "made"
        [stored] = store.read([path])  # another command was faster
    if stored is None:
        raise CheckFailed(f"{index_name(owner).name}: was changed meanwhile; run the command again")
    try:
        open_key(index_name(owner), stored.text, master_keys)
    except CorruptData:
        return "unreadable"
    return "present"


def owners_with_keys(store: AdminStore) -> list[Owner]:
    """All clients and zones that have a symmetric key in use, sorted by its name."""
    names = map(parse_name, store.names_in([store.folder])[store.folder])
    return [name.owner for name in names if name.owner is not None and name.seals_tokens and name.stamp is None]


def owners_with_index_keys(store: AdminStore) -> list[Owner]:
    """All clients and zones that have an index key, sorted by its name."""
    folder = index_folder(store.folder)
    names = (parse_index_name(NAME_PREFIX + below) for below in store.names_in([folder])[folder])
    return [name.owner for name in names if name.owner is not None]


def lack_index_keys(keys: Sequence[LocatedKey]) -> list[Owner]:
    """Find the owners that have a symmetric key in use, but no index key, among all keys."""
    in_use = {key.name.name: key.name for key in keys if key.state == "current"}
    return [
        name.owner
        for name in in_use.values()
        if name.owner is not None and name.seals_tokens and index_name(name.owner).name not in in_use
    ]


def make_index_keys(
    store: AdminStore, master_keys: MasterKeys, owners: list[Owner], tokens: Link, *, dry_run: bool = False
) -> Iterator[IndexKey]:
    """Make the index keys of owners that have none, one after the other. May be stopped, and run again.

    Raises:
        CheckFailed: an owner has no key, or one that is being destroyed.
    """
    for start in range(0, len(owners), KEYS_PER_READ):
        part = owners[start : start + KEYS_PER_READ]
        keys = store.read([f"{store.folder}/{owner.key_name}" for owner in part])
        for owner, key in zip(part, keys, strict=True):
            if key is None:
                check_not_retired(store, owner)
                raise CheckFailed(f"{owner.key_name}: there is no such key; make one with `token-worker keys generate`")
            state: IndexKeyState = "key_unreadable"
            if _opens(key, owner, master_keys):
                state = make_index_key(store, master_keys, owner, tokens, dry_run=dry_run)
            client_id, zone_id = (owner.id, None) if owner.kind == "client" else (None, owner.id)
            yield IndexKey(client_id=client_id, zone_id=zone_id, state=state)


def _opens(key: StoredText, owner: Owner, master_keys: MasterKeys) -> bool:
    try:
        open_key(parse_name(owner.key_name), key.text, master_keys)
    except CorruptData:
        return False
    return True
