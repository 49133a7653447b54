"""Rotates the symmetric key of a client or zone as Acra does: the old key moves to the history, a new one is made.

Entries stay readable with the keys of the history. The same value keeps its token, because entries are looked up first.
Running workers see the new key within the age of their cache. Two rotations at once are done one after the other.
"""

import time
from collections.abc import Callable

from token_worker.acra.key_name import HISTORY_INFIX, parse_name, stamp_of
from token_worker.acra.owner import Owner
from token_worker.admin.index_keys import check_not_retired
from token_worker.admin.key_store import AdminStore
from token_worker.admin.keys import open_key, seal_key
from token_worker.errors import CheckFailed, CorruptData
from token_worker.keys.master import MasterKeys
from token_worker.keys.store import new_key

ROTATE_ATTEMPTS_MAX = 100
"""Attempts to rotate a key that others keep changing."""


def rotate(store: AdminStore, master_keys: MasterKeys, owner: Owner, clock: Callable[[], int] = time.time_ns) -> str:
    """Rotate the key of an owner once. Returns the name of the old key in the history.

    Args:
        store: the key storage.
        master_keys: the current one seals the new key.
        owner: a client or zone with a valid id.
        clock: the clock, in Unix nanoseconds.

    Raises:
        CheckFailed: there is no key, or the master key does not open it. Nothing was changed.
        Unavailable: the key storage is away. The key may have been rotated.
    """
    name = parse_name(owner.key_name)
    path = f"{store.folder}/{name.name}"
    for _ in range(ROTATE_ATTEMPTS_MAX):
        [old] = store.read([path])
        if old is None:
            check_not_retired(store, owner)
            raise CheckFailed(f"{name.name}: there is no such key; make one with `token-worker keys generate`")
        try:
            key, is_current = open_key(name, old.text, master_keys)
        except CorruptData:
            raise CheckFailed(f"{name.name}: the master key does not open it; nothing was changed") from None
        history_text = old.text if is_current else seal_key(name, key, master_keys)
        history = name.name + HISTORY_INFIX + stamp_of(clock())
        text = seal_key(name, new_key(), master_keys)
        if store.rotate(path, old, f"{store.folder}/{history}", history_text, text):
            return history
    raise CheckFailed(f"{name.name}: others keep changing it; nothing was changed")
