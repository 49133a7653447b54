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

import msgspec

from token_worker.acra import acra_block
from token_worker.acra.acra_block import open_data_key
from token_worker.acra.key_name import KeyName
from token_worker.acra.owner import Owner
from token_worker.acra.token_entry import EntryNames, decode_entry
from token_worker.admin.key_store import AdminStore, StoredText, record_path, retired_folder
from token_worker.admin.keys import open_key, seal_key
from token_worker.errors import CheckFailed, CorruptData
from token_worker.keys.cache import AGE_SECONDS, GRACE_SECONDS
from token_worker.keys.keyring import DATA_KEY_SECONDS
from token_worker.keys.master import MasterKeys
from token_worker.redis.link import RedisLink
from token_worker.redis.scan import escape_pattern, scan

MARGIN_SECONDS = 1800.0
"""Margin for clocks that differ, and for workers that were suspended."""

SETTLED_SECONDS = AGE_SECONDS + GRACE_SECONDS + DATA_KEY_SECONDS + MARGIN_SECONDS
"""Time after which no running worker seals with a replaced key any more, if keys have no settling time."""

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


def read_record(store: AdminStore, name: KeyName) -> DestroyRecord | None:
    """Read the record of a key; None if there is no record, or it is damaged."""
    [stored] = store.read([record_path(store.folder, name.name)])
    return _decode(stored)


class EntryScan(NamedTuple):
    """The result of a scan of the owner's token entries.

    Attributes:
        entries: entries that were read; an entry may count twice while the storage grows or shrinks.
        opened: entries that are sealed with the key.
        damaged: entries that are corrupt: no key opens them.
    """

    entries: int
    opened: int
    damaged: int


class DestroyStep(NamedTuple):
    """A step that was done, or with a dry run would be done.

    Attributes:
        due_at: when the next step is due (Unix seconds); None if there is none.
    """

    what: Literal["scanned", "retired", "deleted", "restored"]
    due_at: float | None = None
    scan: EntryScan | None = None


def scan_entries(link: RedisLink, owner: Owner, key: bytes) -> EntryScan:
    """Try the key on all token entries of its owner."""
    context = owner.context
    key_id = acra_block.key_id(key, context)
    folder = EntryNames(owner).of_token(b"", 0).decode().rpartition("/")[0]
    entries = opened = damaged = 0
    for names in scan(link, f"{escape_pattern(folder)}/*"):
        entries += len(names)
        for raw in link.call("MGET", *names) if names else ():
            try:
                block = acra_block.parse(decode_entry(raw or b"").block)
            except CorruptData:
                damaged += raw is not None
                continue
            if block.key_id == key_id:
                opened += _opens(key, block.sealed_data_key, context)
    return EntryScan(entries, opened, damaged)


class _Found(NamedTuple):
    """Everything that is stored of a key that is being destroyed.

    Attributes:
        live: the key in the history.
        retired: the key that was moved aside.
        record: the record, None if it is absent or damaged.
        stored_record: the record as it is stored.
    """

    live: StoredText | None
    retired: StoredText | None
    record: DestroyRecord | None
    stored_record: StoredText | None


class Destruction:
    """Destroys keys of the history, step by step.

    Args:
        store: the key storage.
        master_keys: open the keys.
        tokens: the token storage.
        now: the clock, in Unix seconds.
        settling_seconds: time for which workers still seal with a replaced key.
    """

    def __init__(
        self,
        store: AdminStore,
        master_keys: MasterKeys,
        tokens: RedisLink,
        now: Callable[[], float] = time.time,
        *,
        settling_seconds: float = 0,
    ) -> None:
        self._store = store
        self._master_keys = master_keys
        self._tokens = tokens
        self._now = now
        self._settled_seconds = SETTLED_SECONDS + settling_seconds

    def next_step(self, name: KeyName) -> Literal["scanned", "retired", "deleted"]:
        """The step that is due for a key.

        Raises:
            CheckFailed: no step is due yet (the text says when), or there is no such key.
        """
        live, retired, record, _ = self._read(name)
        now = self._now()
        if live is not None:
            _not_before(
                (name.replaced_at or now) + self._settled_seconds,
                now,
                f"{name.name}: was replaced not long ago",
            )
            if record is None or record.retired_at is not None:
                return "scanned"
            _not_before(record.scanned_at + self._settled_seconds, now, f"{name.name}: the first scan found no entry")
            return "retired"
        if retired is None:
            raise CheckFailed(f"{name.name}: there is no such key")
        if record is not None and record.retired_at is None:
            return "retired"  # a move in Vault was interrupted
        since = now if record is None or record.retired_at is None else record.retired_at
        _not_before(since + KEPT_SECONDS, now, f"{name.name}: moved aside, --restore brings it back")
        return "deleted"

    def step(self, name: KeyName, *, dry_run: bool = False) -> DestroyStep:
        """Do the step that is due.

        Raises:
            CheckFailed: no step is due yet, entries are sealed with the key, or it was changed meanwhile.
            Unavailable: a server is away. The step may be repeated.
        """
        if not dry_run:
            self._store.tidy([self._path(name), self._retired_path(name)])
        due = self.next_step(name)
        live, retired, record, record_stored = self._read(name)
        stored = live or retired
        if stored is None or name.owner is None:
            raise _changed(name)
        key = self._open(name, stored.text)
        scan = scan_entries(self._tokens, name.owner, key)
        if scan.opened:
            if record_stored is not None and live is not None and not dry_run:
                self._store.remove(self._record_path(name), record_stored, self._record_path(name))
            remedy = (
                "encrypt them again first (`token-worker tokens reencrypt`)" if live else "bring it back with --restore"
            )
            raise CheckFailed(
                f"{name.name}: {scan.opened} of {scan.entries} token entries are sealed with it; {remedy}"
            )
        now = self._now()
        if due == "scanned":
            if not dry_run:
                self._write_record(name, record_stored, DestroyRecord(scanned_at=now))
            return DestroyStep("scanned", now + self._settled_seconds, scan)
        if due == "retired":
            if not dry_run:
                self._retire(
                    name, live, key, DestroyRecord(scanned_at=record.scanned_at if record else now, retired_at=now)
                )
            return DestroyStep("retired", now + KEPT_SECONDS, scan)
        if not dry_run and not self._store.remove(self._retired_path(name), stored, self._record_path(name)):
            raise _changed(name)
        return DestroyStep("deleted", None, scan)

    def restore(self, name: KeyName, *, dry_run: bool = False) -> DestroyStep:
        """Bring a key back that was moved aside.

        Raises:
            CheckFailed: no such key was moved aside, or there is another key with this name.
        """
        if not dry_run:
            self._store.tidy([self._path(name), self._retired_path(name)])
        live, retired, record, record_stored = self._read(name)
        if retired is None:
            if live is not None and record is not None and record.retired_at is not None and record_stored is not None:
                if not dry_run:  # an earlier restore was interrupted: only the record is left
                    self._store.remove(self._record_path(name), record_stored, self._record_path(name))
                return DestroyStep("restored")
            raise CheckFailed(f"{name.name}: no such key was moved aside")
        text = self._sealed_again(name, retired.text)
        if live is not None:
            if self._open(name, live.text) != self._open(name, retired.text):
                raise CheckFailed(f"{name.name}: there is another key with this name; nothing was changed")
            if not dry_run and not self._store.remove(self._retired_path(name), retired, self._record_path(name)):
                raise _changed(name)
        elif not dry_run and not self._store.move(
            self._retired_path(name), retired, self._path(name), text, self._record_path(name), b""
        ):
            raise _changed(name)
        return DestroyStep("restored")

    def _retire(self, name: KeyName, live: StoredText | None, key: bytes, record: DestroyRecord) -> None:
        path, record_text = self._record_path(name), msgspec.json.encode(record)
        if live is None:  # an earlier move was interrupted: only the record is missing
            [old] = self._store.read([path])
            self._write_record(name, old, record)
            return
        text = seal_key(name, key, self._master_keys)
        if not self._store.move(self._path(name), live, self._retired_path(name), text, path, record_text):
            raise _changed(name)

    def _write_record(self, name: KeyName, old: StoredText | None, record: DestroyRecord) -> None:
        path, text = self._record_path(name), msgspec.json.encode(record)
        written = self._store.create(path, text) if old is None else self._store.replace(path, old, text)
        if not written:
            raise _changed(name)

    def _read(self, name: KeyName) -> _Found:
        live, retired, stored = self._store.read([self._path(name), self._retired_path(name), self._record_path(name)])
        return _Found(live, retired, _decode(stored), stored)

    def _open(self, name: KeyName, text: bytes) -> bytes:
        try:
            return open_key(name, text, self._master_keys)[0]
        except CorruptData:
            raise CheckFailed(f"{name.name}: the master key does not open it; nothing was changed") from None

    def _sealed_again(self, name: KeyName, text: bytes) -> bytes:
        return seal_key(name, self._open(name, text), self._master_keys)

    def _path(self, name: KeyName) -> str:
        return f"{self._store.folder}/{name.name}"

    def _retired_path(self, name: KeyName) -> str:
        return f"{retired_folder(self._store.folder)}/{name.name}"

    def _record_path(self, name: KeyName) -> str:
        return record_path(self._store.folder, name.name)


def _decode(stored: StoredText | None) -> DestroyRecord | None:
    try:
        return None if stored is None else msgspec.json.decode(stored.text, type=DestroyRecord)
    except msgspec.MsgspecError:
        return None  # then scans begin again


def _opens(key: bytes, sealed_data_key: bytes, context: bytes) -> bool:
    try:
        open_data_key(key, sealed_data_key, context)
    except CorruptData:
        return False
    return True


def _not_before(moment: float, now: float, text: str) -> None:
    if now < moment:
        when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(moment))
        raise CheckFailed(f"{text}; the next step is due at {when}")


def _changed(name: KeyName) -> CheckFailed:
    return CheckFailed(f"{name.name}: was changed meanwhile; run the command again")
