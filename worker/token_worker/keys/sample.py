"""Tries a few keys with the master key, before a worker says that it is ready, or a command makes a key.

The sample: the keys of the clients that routes are pinned to, then up to 20 of the names that a short look at the
listing shows. One key that opens is enough.
"""

from collections.abc import Sequence
from typing import Literal

from token_worker.acra.key_name import KeyName, parse_name
from token_worker.acra.owner import Owner
from token_worker.errors import NoKeyOpens
from token_worker.keys.live_master_keys import LiveMasterKeys
from token_worker.keys.store import ListedKeyStore

SAMPLE_KEYS = 20
"""Most keys that are read at once, and most that are tried of those that nobody has named."""

_BESIDE = (".poison_key/", ".old/")
"""Endings of folders that Vault lists beside keys."""


def try_sample(
    store: ListedKeyStore,
    master_keys: LiveMasterKeys,
    pinned: Sequence[Owner],
    *,
    folder: str,
    where: str,
    master_key: str,
) -> Literal["opens", "unseen", "none"]:
    """Return whether a key opens, or whether none was seen, or whether there is none.

    Args:
        store: the key storage.
        master_keys: the known master keys.
        pinned: owners whose keys are tried first.
        folder: the folder of the keys.
        where: the server of the keys, for people.
        master_key: where the master key is, for people.

    Raises:
        NoKeyOpens: the master key opens none, or the folder has other things than keys in it.
        Unavailable: the key storage is away.
    """
    tried = 0
    for start in range(0, len(pinned), SAMPLE_KEYS):
        owners = pinned[start : start + SAMPLE_KEYS]
        for owner, sealed in zip(owners, store.current(owners), strict=True):
            if sealed is not None:
                tried += 1
                if master_keys.opens(sealed, owner.context):
                    return "opens"
    listed, are_all = store.some_names()
    found = [name for name in map(parse_name, listed) if name.kind is not None and name.kind.form != "public"]
    sample = sorted(found, key=_rank)[:SAMPLE_KEYS]
    for name, sealed in zip(sample, store.read([name.name for name in sample]), strict=True):
        if sealed is not None:
            tried += 1
            if master_keys.opens(sealed, name.context):
                return "opens"
    if tried:
        opens = f"opens none of the {tried} keys" if tried > 1 else "does not open the only key"
        raise NoKeyOpens(
            f"wrong master key: {master_key} {opens} that could be tried in folder {folder} of {where}; put the master"
            " key back that sealed them"
        )
    others = [parse_name(name) for name in listed if not name.endswith(_BESIDE)]
    if any(name.is_of_version_2 for name in others):
        raise NoKeyOpens(
            f"wrong folder: {folder} of {where} holds keys of Acra's keystore version 2, and workers read version 1:"
            " check TOKEN_WORKER_KEYS_FOLDER, or move the keys by acra-keys export and import"
        )
    if any(name.kind is None for name in others):
        raise NoKeyOpens(
            f"wrong folder: {folder} of {where} holds no key of Acra's, but other things: check"
            " TOKEN_WORKER_KEYS_FOLDER, and the database number in TOKEN_WORKER_KEYS_URL"
        )
    return "none" if are_all else "unseen"


def _rank(name: KeyName) -> tuple[bool, bool]:
    """Keys that seal tokens first, and those in use before those of the history."""
    return not name.seals_tokens, name.stamp is not None
