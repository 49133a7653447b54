"""Replaces the master key under all keys: each is opened with the previous one and sealed with the current one.

Every change is a compare-and-set, so a rotation at the same time loses nothing. The next pass finds keys that a
rotation left behind; the last pass finds nothing to do. The command may be stopped at any time and run again. It does
not begin if a key is of unknown kind, or if neither master key opens it.
"""

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from token_worker.admin.key_store import AdminStore
from token_worker.admin.keys import BAD_STATUSES, KeyStatus, classify, locate_keys, open_key, read_keys, seal_key
from token_worker.errors import CheckFailed
from token_worker.keys.master import MasterKeys

ReportProgress = Callable[[int, int], object]
"""A function that is called with the number of keys read in this pass, and the number of all keys."""

KEYS_NAMED_MAX = 10
"""Most keys that an error names."""


class Rewrapped(NamedTuple):
    """The result: keys that were sealed again, and passes over all keys."""

    sealed: int
    passes: int


def survey(store: AdminStore, master_keys: MasterKeys) -> Counter[KeyStatus]:
    """Count the keys by their state.

    Raises:
        CheckFailed: a key is of unknown kind, or no master key opens it. The text names such keys.
    """
    counts: Counter[KeyStatus] = Counter()
    bad: list[str] = []
    for key, stored in read_keys(store, locate_keys(store)):
        verdict = classify(key.name, stored.text, master_keys)
        counts[verdict] += 1
        if verdict in BAD_STATUSES and verdict != "previous":
            bad.append(f"{key.name.name}: {_WHY[verdict]}")
    if bad:
        more = [f"and {len(bad) - KEYS_NAMED_MAX} more"] if len(bad) > KEYS_NAMED_MAX else []
        raise CheckFailed("\n".join([*bad[:KEYS_NAMED_MAX], *more, "nothing was changed"]))
    return counts


_WHY: dict[KeyStatus, str] = {
    "version_2": "belongs to Acra's keystore version 2; move it to another folder",
    "unknown": "is not a key that Acra 0.96 or token-worker makes; move it out of the folder",
    "unreadable": "no master key opens it, or it is damaged",
}


def rewrap(store: AdminStore, master_keys: MasterKeys, progress: ReportProgress) -> Rewrapped:
    """Seal every key with the current master key. Repeats passes until one finds nothing to do.

    Args:
        store: the key storage.
        master_keys: both master keys, or the current one if all keys are sealed with it.
        progress: is called for each key.

    Raises:
        CheckFailed: as by ``survey``, before anything is changed; or such a key was added meanwhile.
        Unavailable: a server is away. Keys that were sealed again stay so.
    """
    survey(store, master_keys)
    sealed = passes = 0
    while True:
        passes += 1
        done = _pass(store, master_keys, progress)
        sealed += done
        if not done:
            return Rewrapped(sealed, passes)


def _pass(store: AdminStore, master_keys: MasterKeys, progress: ReportProgress) -> int:
    """Do one pass. Returns how many keys had to be sealed again, whoever did it."""
    keys = locate_keys(store)
    found = 0
    for number, (key, stored) in enumerate(read_keys(store, keys), 1):
        verdict = classify(key.name, stored.text, master_keys)
        if verdict in _WHY:
            raise CheckFailed(f"{key.name.name}: {_WHY[verdict]}; stopped: correct that, then run the command again")
        if verdict == "previous":
            opened, _ = open_key(key.name, stored.text, master_keys)
            store.replace(key.path, stored, seal_key(key.name, opened, master_keys))
            found += 1
        progress(number, len(keys))
    return found
