"""Destroys the last keys of an owner: every symmetric key, and the index key. Its tokens are lost for good then.

This is crypto-shredding: whoever has an old copy of the token storage can neither open the owner's entries, nor test a
guess of a value on the names of the dense layout. Two steps, so that a person has time to change her mind:

1. *retired*: all keys move to ``<folder>.retired/``. For workers the owner has no key then. ``restore`` brings them
   back.
2. *deleted*: ``KEPT_SECONDS`` later, the index key, all other keys, and last the owner's check value in the token
   storage are deleted. The id may get new keys after that.

The key in use moves first and is deleted last, and index keys the other way round. So a worker never sees an owner with
a key and without its index key. If the deletion is interrupted and what is left is restored, the check value still
tells that the index key is gone: then no other one is made. A step that was interrupted is completed by the same
command.
"""

import time
from collections.abc import Callable
from typing import Literal, NamedTuple

from token_worker.acra.key_name import KeyName
from token_worker.acra.owner import Owner
from token_worker.admin.entry_scan import count_entries
from token_worker.admin.entry_store import EntryChange, EntryStore
from token_worker.admin.key_store import AdminStore
from token_worker.admin.keys import locate_keys
from token_worker.admin.set_aside import KEPT_SECONDS, DestroyRecord, Found, SetAside, not_before
from token_worker.errors import CheckFailed
from token_worker.keys.index_key import INDEX_KEY
from token_worker.keys.master import MasterKeys
from token_worker.storage.dense.entry import check_name


class LastKeysStep(NamedTuple):
    """A step that was done, or with a dry run would be done.

    Attributes:
        keys: the names of the keys.
        entries: entries of the owner in the token storage; both entries of a token count. None if there are entries
            that only the index key could count, and it is gone.
        due_at: when the next step is due (Unix seconds); None if there is none.
    """

    what: Literal["retired", "deleted", "restored"]
    keys: list[str]
    entries: int | None = 0
    due_at: float | None = None


class LastKeys:
    """Destroys the last keys of an owner.

    Args:
        store: the key storage.
        master_keys: open the keys.
        entries: the token storage.
        owner: the client or zone.
        now: the clock, in Unix seconds.
    """

    def __init__(
        self,
        store: AdminStore,
        master_keys: MasterKeys,
        entries: EntryStore,
        owner: Owner,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._aside = SetAside(store, master_keys)
        self._entries = entries
        self._owner = owner
        self._now = now

    def step(self, *, dry_run: bool = False) -> LastKeysStep:
        """Do the step that is due.

        Raises:
            CheckFailed: the owner has neither a key nor a check value, no step is due yet, the master key does not open
                a key, or a key was changed meanwhile.
            Unavailable: a server is away. The step may be repeated.
        """
        found = self._find(dry_run=dry_run)
        now = self._now()
        if not found:
            return self._give_up(dry_run=dry_run)
        entries = self._count(self._index_key(found))
        names = [name.name for name in found]
        if any(one.live is not None for one in found.values()):
            for name, one in found.items():  # all of them are opened before the first one is moved
                self._aside.open(name, one)
            if not dry_run:
                for name, one in found.items():
                    if one.live is not None:
                        self._aside.retire(name, one.live, DestroyRecord(scanned_at=now, retired_at=now))
            return LastKeysStep("retired", names, entries, now + KEPT_SECONDS)
        since = 0.0
        for name, one in found.items():
            if one.record is None or one.record.retired_at is None:  # a move in Vault was interrupted before the record
                since = now
                if not dry_run:
                    record = DestroyRecord(scanned_at=now, retired_at=now)
                    self._aside.write_record(name, one.stored_record, record)
            else:
                since = max(since, one.record.retired_at)
        not_before(since + KEPT_SECONDS, now, f"{self._owner.key_name}: moved aside, --restore brings it back")
        if not dry_run:
            for name, one in reversed(found.items()):
                if one.retired is not None:
                    self._aside.delete(name, one.retired)
            self._forget_check_value()
        return LastKeysStep("deleted", names, entries)

    def restore(self, *, dry_run: bool = False) -> LastKeysStep:
        """Bring all keys of the owner back that were moved aside.

        Raises:
            CheckFailed: none was moved aside, or there is another key with the name of one.
        """
        found = self._find(dry_run=dry_run)
        aside = [name for name, one in found.items() if one.retired is not None]
        if not aside:
            raise CheckFailed(f"{self._owner.key_name}: no such key was moved aside")
        for name in aside:
            self._aside.open(name, found[name])
        for name in reversed(aside):
            self._aside.restore(name, dry_run=dry_run)
        return LastKeysStep("restored", [name.name for name in aside])

    def _find(self, *, dry_run: bool) -> dict[KeyName, Found]:
        """Find the keys of the owner: first the one in use, then those of the history, last the index key."""
        names = {key.name: None for key in locate_keys(self._store) if self._is_of_owner(key.name)}
        if not dry_run:
            self._aside.tidy(names)
        ordered = sorted(names, key=lambda name: (name.kind is INDEX_KEY, name.name))
        found = {name: self._aside.read(name) for name in ordered}
        return {name: one for name, one in found.items() if one.live is not None or one.retired is not None}

    def _give_up(self, *, dry_run: bool) -> LastKeysStep:
        """Delete the check value of an owner without keys, so that it may get new ones.

        The keys were lost, or deleted by a step that was interrupted after that. With the keys, the check value comes
        back.
        """
        if self._entries.read([check_name(self._owner)]) == [None]:
            raise CheckFailed(f"{self._owner.key_name}: there is no such key")
        if not dry_run:
            self._forget_check_value()
        return LastKeysStep("deleted", [])

    def _forget_check_value(self) -> None:
        name = check_name(self._owner)
        [check] = self._entries.read([name])
        if check is not None:
            self._entries.change([EntryChange(name, check, b"")])
            self._entries.confirm()

    def _count(self, index_key: bytes | None) -> int | None:
        if index_key is None and self._entries.read([check_name(self._owner)]) != [None]:
            return None  # the check value tells that there are tokens; nobody can tell which they are
        return count_entries(self._entries, self._owner, index_key)

    def _is_of_owner(self, name: KeyName) -> bool:
        return name.owner == self._owner and (name.seals_tokens or name.kind is INDEX_KEY)

    def _index_key(self, found: dict[KeyName, Found]) -> bytes | None:
        return next((self._aside.open(name, one) for name, one in found.items() if name.kind is INDEX_KEY), None)
