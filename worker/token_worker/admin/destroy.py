"""The end of a key in the history: shown to be unused, moved aside, kept for a while, then deleted for good.

One step each time it is asked for, so that whoever does it has time to look:

1. *scanned*: no token entry is sealed with it. The time of the scan is kept in a record.
2. *retired*: a second scan, ``SETTLED_SECONDS`` later, found none either. The key goes to ``<folder>.retired/<name>``.
3. *deleted*: a third scan, ``KEPT_SECONDS`` later, found none. Until then ``restore`` brings it back.

The key must have been in the history for ``SETTLED_SECONDS`` and the settling time before the first scan: so long a
worker may go on with a key that it has cached. Scans see the token storage alone. Data in databases that Acra encrypted
with the key, and what AcraServer and AcraTranslator have cached, only a person can know of.
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
"""For clocks that differ, and workers that stood still."""

SETTLED_SECONDS = AGE_SECONDS + GRACE_SECONDS + DATA_KEY_SECONDS + MARGIN_SECONDS
"""After this long no running worker seals with a replaced key any more, where keys have no settling time."""

KEPT_SECONDS = 7 * 86400.0
"""How long a key stays where ``restore`` finds it."""


class DestroyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a key on its way: when a scan found nothing, and when the key was moved aside (Unix seconds)."""

    scanned_at: float
    retired_at: float | None = None


def read_record(store: AdminStore, name: KeyName) -> DestroyRecord | None:
    """How far a key is on its way."""
    [stored] = store.read([record_path(store.folder, name.name)])
    return _decode(stored)


class EntryScan(NamedTuple):
    """What a scan of the owner's token entries found.

    Attributes:
        entries: how many were looked at; one may be counted twice while the storage grows or shrinks.
        opened: how many the key opens.
        damaged: how many are none: no key opens those.
    """

    entries: int
    opened: int
    damaged: int


class DestroyStep(NamedTuple):
    """A step that was done, or with a dry run would be, and from when on there is another."""

    what: Literal["scanned", "retired", "deleted", "restored"]
    due_at: float | None = None
    scan: EntryScan | None = None


def scan_entries(link: RedisLink, owner: Owner, key: bytes) -> EntryScan:
    """Try the key on every token entry of its owner."""
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
    """What is stored of a key that is being destroyed.

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
    """Takes keys of the history step by step to their end.

    Args:
        store: the key storage.
        master_keys: to open the key.
        tokens: the token storage.
        now: Unix seconds.
        settling_seconds: how long workers seal with a replaced key besides.
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
        """What is due for a key.

        Raises:
            CheckFailed: nothing yet (says when), or there is no such key.
        """
        live, retired, record, _ = self._read(name)
        now = self._now()
        if live is not None:
            _not_before(
                (name.replaced_at or now) + self._settled_seconds, now, f"{name.name}: too short in the history"
            )
            if record is None or record.retired_at is not None:
                return "scanned"
            _not_before(
                record.scanned_at + self._settled_seconds, now, f"{name.name}: scanned a while ago, nothing found"
            )
            return "retired"
        if retired is None:
            raise CheckFailed(f"{name.name}: there is no such key")
        if record is not None and record.retired_at is None:
            return "retired"  # a move in Vault that was cut short
        since = now if record is None or record.retired_at is None else record.retired_at
        _not_before(since + KEPT_SECONDS, now, f"{name.name}: moved aside, --restore brings it back")
        return "deleted"

    def step(self, name: KeyName, *, dry_run: bool = False) -> DestroyStep:
        """Do what is due.

        Raises:
            CheckFailed: nothing is due yet, entries are sealed with the key, or somebody changed it meanwhile.
            Unavailable: a server is away; the same may be asked for again.
        """
        if not dry_run:
            self._store.tidy([self._path(name), self._retired_path(name)])
        due = self.next_step(name)
        live, retired, record, record_stored = self._read(name)
        stored = live or retired
        if stored is None or name.owner is None:
            raise _changed(name)
        try:
            key, _ = open_key(name, stored.text, self._master_keys)
        except CorruptData:
            raise CheckFailed(f"{name.name}: the master key does not open it; nothing was changed") from None
        scan = scan_entries(self._tokens, name.owner, key)
        if scan.opened:
            if record_stored is not None and live is not None and not dry_run:
                self._store.remove(self._record_path(name), record_stored, self._record_path(name))
            remedy = (
                "seal them anew first (`token-worker tokens reencrypt`)" if live else "bring it back with --restore"
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
            CheckFailed: it is not there, or there is another key of this name.
        """
        if not dry_run:
            self._store.tidy([self._path(name), self._retired_path(name)])
        live, retired, record, record_stored = self._read(name)
        if retired is None:
            if live is not None and record is not None and record.retired_at is not None and record_stored is not None:
                if not dry_run:  # it was cut short when only the record was left
                    self._store.remove(self._record_path(name), record_stored, self._record_path(name))
                return DestroyStep("restored")
            raise CheckFailed(f"{name.name}: is not among the keys that were moved aside")
        text = self._fresh(name, retired.text)
        if live is not None:
            if self._open(name, live.text) != self._open(name, retired.text):
                raise CheckFailed(f"{name.name}: there is another key of this name; nothing was changed")
            if not dry_run and not self._store.remove(self._retired_path(name), retired, self._record_path(name)):
                raise _changed(name)
        elif not dry_run and not self._store.move(
            self._retired_path(name), retired, self._path(name), text, self._record_path(name), b""
        ):
            raise _changed(name)
        return DestroyStep("restored")

    def _retire(self, name: KeyName, live: StoredText | None, key: bytes, record: DestroyRecord) -> None:
        path, record_text = self._record_path(name), msgspec.json.encode(record)
        if live is None:  # the key is moved already; what is left of it goes, too
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

    def _fresh(self, name: KeyName, text: bytes) -> bytes:
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
        return None  # then scans begin anew


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
    return CheckFailed(f"{name.name}: was changed by somebody else meanwhile; look again")
