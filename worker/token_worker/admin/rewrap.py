"""Replaces the master key under all keys: each is opened with the previous one and sealed with the current one.

Every change is a compare-and-set, so a rotation at the same time loses nothing; what a rotation left behind is found by
the next pass, and it ends with a pass that found nothing to do. It may be stopped at any time and started again.
Nothing begins while a key is of unknown kind, or is opened by neither master key.
"""

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from token_worker.admin.key_store import AdminStore
from token_worker.admin.keys import BAD_STATUSES, KeyStatus, classify, locate_keys, open_key, read_keys, seal_key
from token_worker.errors import CheckFailed
from token_worker.keys.master import MasterKeys

ReportProgress = Callable[[int, int], object]
"""Is called with the number of keys seen in this pass, and of all."""

KEYS_NAMED_MAX = 10
"""How many keys an error names."""


class Rewrapped(NamedTuple):
    """What was done: keys sealed anew, and passes over all keys."""

    sealed: int
    passes: int


def survey(store: AdminStore, master_keys: MasterKeys) -> Counter[KeyStatus]:
    """How many keys are sealed with which master key.

    Raises:
        CheckFailed: a key is of unknown kind, or opened by no master key at hand; names them.
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
    "version_2": "of Acra's keystore version 2; move it to a folder of its own",
    "unknown": "no kind of key that Acra 0.96 makes; move it out of the folder",
    "unreadable": "opened by no master key at hand, or damaged",
}


def rewrap(store: AdminStore, master_keys: MasterKeys, progress: ReportProgress) -> Rewrapped:
    """Seal every key with the current master key, in passes until one finds nothing to do.

    Args:
        store: the key storage.
        master_keys: both, or the current one where the work is done already.
        progress: is told of each key.

    Raises:
        CheckFailed: as by ``survey``, before anything is changed; or such a key came up meanwhile.
        Unavailable: a server is away; what was done stays.
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
    """How many keys needed sealing, whether it was we or another who changed them."""
    keys = locate_keys(store)
    found = 0
    for number, (key, stored) in enumerate(read_keys(store, keys), 1):
        verdict = classify(key.name, stored.text, master_keys)
        if verdict in _WHY:
            raise CheckFailed(f"{key.name.name}: {_WHY[verdict]}; stopped, start again when that is mended")
        if verdict == "previous":
            opened, _ = open_key(key.name, stored.text, master_keys)
            store.replace(key.path, stored, seal_key(key.name, opened, master_keys))
            found += 1
        progress(number, len(keys))
    return found
