"""The history of an owner's key: keys that were replaced. Read in a background thread, because a SCAN takes seconds.

A search first uses the names that are known already, if they include a key that was not tried yet. Only then it scans
the key storage again.
"""

from collections.abc import Set as AbstractSet
from typing import NamedTuple

from token_worker.acra.key_name import HISTORY_INFIX, seconds_of
from token_worker.acra.owner import Owner
from token_worker.errors import Unavailable
from token_worker.keys.store import KeyStore


class HistoryPage(NamedTuple):
    """The result of one search in an owner's history.

    Attributes:
        keys: names and sealed keys that were not tried yet, newest first. A sealed key is None if it was deleted
            meanwhile.
        is_complete: True if there are no other keys.
    """

    keys: list[tuple[str, bytes | None]]
    is_complete: bool


def search_history(
    store: KeyStore, owner: Owner, tried: AbstractSet[str], since: float, changed_at: float
) -> HistoryPage:
    """Search the history of an owner for keys.

    Args:
        store: the key storage.
        owner: client or zone.
        tried: names whose keys are known already.
        since: names that were listed after this time count as new (monotonic seconds).
        changed_at: when the owner's key was seen to change. Names that were listed before this time may lack the key
            that was replaced then.

    Raises:
        Unavailable: the key storage is away, or was scanned a moment ago.
    """
    names, is_new = store.history_names(owner, since)
    untried = [name for name in names if name not in tried]
    if not untried and not is_new:
        store.refresh_history()
        names, is_new = store.history_names(owner, changed_at)
        untried = [name for name in names if name not in tried]
    if not is_new and not untried:  # the scan began before the rotation: it may have missed the key that was replaced
        raise Unavailable("keys", "the history of keys is being looked up")
    return HistoryPage(list(zip(untried, store.read(untried), strict=True)), is_new)


def replaced_at(name: str) -> float | None:
    """Unix seconds at which the key of a name in the history was replaced. None if the name has no time."""
    return seconds_of(name.partition(HISTORY_INFIX)[2])
