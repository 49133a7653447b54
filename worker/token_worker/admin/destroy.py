"""Destroys a key of the history: it is shown to be unused, moved aside, kept for a while, and then deleted for good.

Each call does one step, so that a person has time to check:

1. *scanned*: no token entry is sealed with the key. The time of the scan is kept in a record.
2. *retired*: a second scan, ``SETTLED_SECONDS`` later, found none either. The key moves to ``<folder>.retired/<name>``.
3. *deleted*: a third scan, ``KEPT_SECONDS`` later, found none. Until then, ``restore`` brings the key back.

Before the first scan, the key must have been in the history for ``SETTLED_SECONDS`` and the settling time. For so long
a worker may still use a key that it has cached.

A scan sees only the token storage. It does not see data in databases that Acra encrypted with the key, nor keys that
AcraServer and AcraTranslator have cached. Only a person knows about those.
"""

import time
from collections.abc import Callable
from typing import Literal, NamedTuple

from token_worker.acra.key_name import KeyName
from token_worker.admin.entry_scan import EntryScan, read_index_key, scan_entries
from token_worker.admin.entry_store import EntryStore
from token_worker.admin.key_store import AdminStore
from token_worker.admin.set_aside import KEPT_SECONDS, DestroyRecord, SetAside, changed, not_before
from token_worker.errors import CheckFailed
from token_worker.keys.cache import AGE_SECONDS, GRACE_SECONDS
from token_worker.keys.keyring import DATA_KEY_SECONDS
from token_worker.keys.master import MasterKeys

MARGIN_SECONDS = 1800.0
"""Margin for clocks that differ, and for workers that were suspended."""

SETTLED_SECONDS = AGE_SECONDS + GRACE_SECONDS + DATA_KEY_SECONDS + MARGIN_SECONDS
"""Time after which no running worker seals with a replaced key any more, if keys have no settling time."""


class DestroyStep(NamedTuple):
    """A step that was done, or with a dry run would be done.

    Attributes:
        due_at: when the next step is due (Unix seconds); None if there is none.
    """

    what: Literal["scanned", "retired", "deleted", "restored"]
    due_at: float | None = None
    scan: EntryScan | None = None


class Destruction:
    """Destroys keys of the history, step by step.

    Args:
        store: the key storage.
        master_keys: open the keys.
        entries: the token storage.
        now: the clock, in Unix seconds.
        settling_seconds: time for which workers still seal with a replaced key.
    """

    def __init__(
        self,
        store: AdminStore,
        master_keys: MasterKeys,
        entries: EntryStore,
        now: Callable[[], float] = time.time,
        *,
        settling_seconds: float = 0,
    ) -> None:
        self._store = store
        self._master_keys = master_keys
        self._aside = SetAside(store, master_keys)
        self._entries = entries
        self._now = now
        self._settled_seconds = SETTLED_SECONDS + settling_seconds

    def next_step(self, name: KeyName) -> Literal["scanned", "retired", "deleted"]:
        """The step that is due for a key.

        Raises:
            CheckFailed: no step is due yet (the text says when), or there is no such key.
        """
        live, retired, record, _ = self._aside.read(name)
        now = self._now()
        if live is not None:
            not_before(
                (name.replaced_at or now) + self._settled_seconds,
                now,
                f"{name.name}: was replaced not long ago",
            )
            if record is None or record.retired_at is not None:
                return "scanned"
            not_before(record.scanned_at + self._settled_seconds, now, f"{name.name}: the first scan found no entry")
            return "retired"
        if retired is None:
            raise CheckFailed(f"{name.name}: there is no such key")
        if record is not None and record.retired_at is None:
            return "retired"  # a move in Vault was interrupted
        since = now if record is None or record.retired_at is None else record.retired_at
        not_before(since + KEPT_SECONDS, now, f"{name.name}: moved aside, --restore brings it back")
        return "deleted"

    def step(self, name: KeyName, *, dry_run: bool = False) -> DestroyStep:
        """Do the step that is due.

        Raises:
            CheckFailed: no step is due yet, entries are sealed with the key, or it was changed meanwhile.
            Unavailable: a server is away. The step may be repeated.
        """
        if not dry_run:
            self._aside.tidy([name])
        due = self.next_step(name)
        found = self._aside.read(name)
        live, retired, record, record_stored = found
        stored = live or retired
        if stored is None or name.owner is None:
            raise changed(name)
        key = self._aside.open(name, found)
        index_key = read_index_key(self._store, self._master_keys, name.owner)
        scan = scan_entries(self._entries, name.owner, key, index_key)
        if scan.opened:
            if record_stored is not None and live is not None and not dry_run:
                self._aside.forget_record(name, record_stored)
            remedy = (
                "encrypt them again first (`token-worker tokens reencrypt`)" if live else "bring it back with --restore"
            )
            raise CheckFailed(
                f"{name.name}: {scan.opened} of {scan.entries} token entries are sealed with it; {remedy}"
            )
        now = self._now()
        if due == "scanned":
            if not dry_run:
                self._aside.write_record(name, record_stored, DestroyRecord(scanned_at=now))
            return DestroyStep("scanned", now + self._settled_seconds, scan)
        if due == "retired":
            if not dry_run:
                self._aside.retire(
                    name, live, DestroyRecord(scanned_at=record.scanned_at if record else now, retired_at=now)
                )
            return DestroyStep("retired", now + KEPT_SECONDS, scan)
        if not dry_run:
            self._aside.delete(name, stored)
        return DestroyStep("deleted", None, scan)

    def restore(self, name: KeyName, *, dry_run: bool = False) -> DestroyStep:
        """Bring a key back that was moved aside.

        Raises:
            CheckFailed: no such key was moved aside, or there is another key with this name.
        """
        if not dry_run:
            self._aside.tidy([name])
        self._aside.restore(name, dry_run=dry_run)
        return DestroyStep("restored")
