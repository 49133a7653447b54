"""Moves keys aside, out of the sight of Acra and workers, brings them back, or deletes them for good.

A key that is being destroyed is at ``<folder>.retired/<name>``, and its record at ``<folder>.scans/<name>``. An index
key has the name ``.index/<key name>`` there. Every change is a compare-and-set, and can be done again if it was
interrupted.
"""

import time
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from token_worker.acra.key_name import KeyName
from token_worker.admin.key_store import AdminStore, StoredText, record_path, retired_folder
from token_worker.admin.keys import live_path, open_key, seal_key
from token_worker.errors import CheckFailed, CorruptData
from token_worker.keys.master import MasterKeys

KEPT_SECONDS = 7 * 86400.0
"""Time for which ``restore`` can bring a key back."""


class DestroyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The record of a key that is being destroyed. Its members are stored as JSON.

    Attributes:
        scanned_at: when the first scan found no entry (Unix seconds).
        retired_at: when the key was moved aside (Unix seconds).
    """

    scanned_at: float
    retired_at: float | None = None


class Found(NamedTuple):
    """Everything that is stored of a key that is being destroyed.

    Attributes:
        live: the key where workers and Acra see it.
        retired: the key that was moved aside.
        record: the record, None if it is absent or damaged.
        stored_record: the record as it is stored.
    """

    live: StoredText | None
    retired: StoredText | None
    record: DestroyRecord | None
    stored_record: StoredText | None


def read_record(store: AdminStore, name: KeyName) -> DestroyRecord | None:
    """Read the record of a key; None if there is no record, or it is damaged."""
    [stored] = store.read([record_path(store.folder, name.name)])
    return _decode(stored)


class SetAside:
    """Moves keys aside and back.

    Args:
        store: the key storage.
        master_keys: open the keys; the current one seals them where they go.
    """

    def __init__(self, store: AdminStore, master_keys: MasterKeys) -> None:
        self._store = store
        self._master_keys = master_keys

    def tidy(self, names: Iterable[KeyName]) -> None:
        """Clean up after an interrupted change of these keys. Never deletes a key."""
        self._store.tidy([path for name in names for path in (self._path(name), self._retired_path(name))])

    def read(self, name: KeyName) -> Found:
        """Read what is stored of a key."""
        live, retired, stored = self._store.read([self._path(name), self._retired_path(name), self._record_path(name)])
        return Found(live, retired, _decode(stored), stored)

    def open(self, name: KeyName, found: Found) -> bytes:
        """Open a key, which is at one of its places at least.

        Raises:
            CheckFailed: the master key does not open it, or there are two different keys.
        """
        try:
            keys = {open_key(name, text.text, self._master_keys)[0] for text in found[:2] if text is not None}
        except CorruptData:
            raise CheckFailed(f"{name.name}: the master key does not open it; nothing was changed") from None
        if len(keys) > 1:
            raise CheckFailed(
                f"{name.name}: another key with this name was moved aside; find out which one is right, and delete the"
                " other; nothing was changed"
            )
        return keys.pop()

    def retire(self, name: KeyName, live: StoredText | None, record: DestroyRecord) -> None:
        """Move a key aside, and write its record. Only the record, if an earlier move was interrupted before that.

        Raises:
            CheckFailed: the key was changed meanwhile, or another key with its name was moved aside.
        """
        found = self.read(name)
        if live is None:
            self.write_record(name, found.stored_record, record)
            return
        text, record_text = self._copy(name, found._replace(live=live), found.retired), msgspec.json.encode(record)
        if not self._store.move(
            self._path(name), live, self._retired_path(name), text, self._record_path(name), record_text
        ):
            raise changed(name)

    def write_record(self, name: KeyName, old: StoredText | None, record: DestroyRecord) -> None:
        """Write a record over ``old``, which was read. Raises ``CheckFailed`` if it was changed meanwhile."""
        path, text = self._record_path(name), msgspec.json.encode(record)
        written = self._store.create(path, text) if old is None else self._store.replace(path, old, text)
        if not written:
            raise changed(name)

    def forget_record(self, name: KeyName, old: StoredText) -> None:
        """Delete a record that still is what was read."""
        path = self._record_path(name)
        self._store.remove(path, old, path)

    def delete(self, name: KeyName, retired: StoredText) -> None:
        """Delete a key that was moved aside, and its record, for good.

        Raises:
            CheckFailed: the key was changed meanwhile.
        """
        if not self._store.remove(self._retired_path(name), retired, self._record_path(name)):
            raise changed(name)

    def restore(self, name: KeyName, *, dry_run: bool = False) -> None:
        """Bring a key back that was moved aside.

        Raises:
            CheckFailed: no such key was moved aside, or there is another key with its name.
        """
        found = self.read(name)
        if found.retired is None:
            raise CheckFailed(f"{name.name}: no such key was moved aside")
        text = self._copy(name, found, found.live)
        if not dry_run and not self._store.move(
            self._retired_path(name), found.retired, self._path(name), text, self._record_path(name), b""
        ):
            raise changed(name)

    def _copy(self, name: KeyName, found: Found, there: StoredText | None) -> bytes:
        """Return a key's text for the place to which it moves. A move that was interrupted left it there already."""
        key = self.open(name, found)
        return seal_key(name, key, self._master_keys) if there is None else there.text

    def _path(self, name: KeyName) -> str:
        return live_path(self._store.folder, name)

    def _retired_path(self, name: KeyName) -> str:
        return f"{retired_folder(self._store.folder)}/{name.name}"

    def _record_path(self, name: KeyName) -> str:
        return record_path(self._store.folder, name.name)


def not_before(moment: float, now: float, text: str) -> None:
    """Refuse a step before its time (Unix seconds). Raises ``CheckFailed``, which says when it is due."""
    if now < moment:
        when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(moment))
        raise CheckFailed(f"{text}; the next step is due at {when}")


def changed(name: KeyName) -> CheckFailed:
    """The error for a key that somebody else changed meanwhile."""
    return CheckFailed(f"{name.name}: was changed meanwhile; run the command again")


def _decode(stored: StoredText | None) -> DestroyRecord | None:
    try:
        return None if stored is None else msgspec.json.decode(stored.text, type=DestroyRecord)
    except msgspec.MsgspecError:
        return None  # then scans begin again
