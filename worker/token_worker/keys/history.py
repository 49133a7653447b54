"""Looks for keys that were replaced: done beside the loop, since a SCAN of a large storage takes seconds.

A look takes what is known of the history already, if that brings a key that was not tried yet; only then the storage is
looked through anew.
"""

from collections.abc import Set as AbstractSet
from typing import NamedTuple

from token_worker.acra.key_name import HISTORY_INFIX, seconds_of
from token_worker.acra.owner import Owner
from token_worker.errors import Unavailable
from token_worker.keys.store import KeyStore


class Look(NamedTuple):
    """What a look at an owner's history has brought.

    Attributes:
        keys: names and sealed keys that were not tried yet, newest first; None where one has gone meanwhile.
        is_complete: there are no others, as of the time in question.
    """

    keys: list[tuple[str, bytes | None]]
    is_complete: bool


def look(store: KeyStore, owner: Owner, tried: AbstractSet[str], since: float, changed_at: float) -> Look:
    """Look for keys in the history of an owner.

    Args:
        store: the key storage.
        owner: client or zone.
        tried: names whose keys are known.
        since: a history that was looked up after this counts as new (monotonic seconds).
        changed_at: one that was looked up before this may lack the key that was replaced then.

    Raises:
        Unavailable: the key storage is away, or was looked through a moment ago.
    """
    names, is_new = store.history_names(owner, since)
    untried = [name for name in names if name not in tried]
    if not untried and not is_new:
        store.refresh_history()
        names, is_new = store.history_names(owner, changed_at)
        untried = [name for name in names if name not in tried]
    if not is_new and not untried:  # begun before the rotation, it may have missed the key before it
        raise Unavailable("keys", "the history of keys is being looked up")
    return Look(list(zip(untried, store.read(untried), strict=True)), is_new)


def replaced_at(name: str) -> float | None:
    """When the key of a name in the history was replaced, in Unix seconds; None where the name has no time."""
    return seconds_of(name.partition(HISTORY_INFIX)[2])
