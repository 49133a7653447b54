"""The storage of sealed keys: Acra's key storage in Redis, or KV secrets in Vault. Workers only read it.

Redis: string ``<folder>/<name>``, its value base64(Secure Cell(master key, key, context)); the history of a key under
``<folder>/<name>.old/<UTC timestamp>``. Vault: the same names as KV secrets of one mount, the same text in field
``key``. Index keys: see ``index_key``.
"""

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from token_worker.acra.key_name import HISTORY_INFIX
from token_worker.acra.owner import SYMMETRIC_KEYS, Owner
from token_worker.errors import MasterKeyError, Unavailable
from token_worker.keys.index_key import KeyTexts, index_path
from token_worker.keys.keyring import KEY_BYTES
from token_worker.keys.layout_record import LayoutRecord, decode_keys_record, layout_path
from token_worker.keys.sealed_text import open_text, seal_text
from token_worker.redis.link import RedisLink
from token_worker.redis.scan import SCAN_KEYS, escape_pattern, scan

if TYPE_CHECKING:
    from token_worker.keys.vault_kv import VaultKv

VAULT_FIELD = "key"
MOVED_FIELD = "moved_to"
"""Field of a KV secret that replaces the key while the key is moved to another name, or deleted."""

KEYS_PER_COMMAND = 1000
"""Most keys of one MGET; an even number, so that the two keys of an owner come by one."""

LOOK_PAGES_MAX = 30
"""Most pages of a look for any key among tokens: a hundredth of a second of the server."""

SCAN_PAUSE_SECONDS = 0.01
"""Longest pause of a worker between two steps of a scan.

The pause is as long as the step took, so that other clients of the server get their turn.
"""

SCAN_REST_FACTOR = 20
"""After a scan, a worker does not scan again for this many times the length of the scan (at least a second).

One scan serves all owners.
"""


def unwrap(sealed: bytes, master_key: bytes, owner: Owner) -> bytes:
    """Open the stored text of a key.

    Raises:
        CorruptData: the text is not base64, this master key does not open it, or the key has not 32 bytes.
    """
    return open_text(sealed, master_key, owner.context)


def wrap(key: bytes, master_key: bytes, owner: Owner) -> bytes:
    """Seal a key with the master key. Returns the text to store."""
    return seal_text(key, master_key, owner.context)


def new_key() -> bytes:
    """Make a random symmetric key, or index key."""
    return os.urandom(KEY_BYTES)


class KeyStore(Protocol):
    """A key storage, as the key cache and ``keys generate`` use it. All methods raise ``Unavailable``.

    The methods for the history (``history_names``, ``refresh_history``, ``read``) may be called in one thread while
    ``current`` is called in another.
    """

    def current(self, owners: Sequence[Owner]) -> list[bytes | None]:
        """The sealed current key of each owner, or None."""
        ...

    def current_with_index(self, owners: Sequence[Owner]) -> list[KeyTexts]:
        """The sealed current key and the sealed index key of each owner. Redis reads both by one command."""
        ...

    def history_names(self, owner: Owner, since: float) -> tuple[list[str], bool]:
        """The names in the history of an owner's key, newest first, and True if they were listed after ``since``.

        If the store still has names that it listed before ``since`` (monotonic seconds), it returns those, with False,
        and asks no server.
        """
        ...

    def refresh_history(self) -> None:
        """List the history again. Raises ``Unavailable`` if the last time was a moment ago."""
        ...

    def read(self, names: Sequence[str]) -> list[bytes | None]:
        """The sealed keys with these names, each or None."""
        ...

    def create(self, owner: Owner, sealed: bytes) -> bool:
        """Store the first key of an owner. Returns False, and changes nothing, if the owner has a key."""
        ...


class ListedKeyStore(KeyStore, Protocol):
    """A key storage whose names can be looked at."""

    def some_names(self) -> tuple[list[str], bool]:
        """Some names in the folder, of keys or of anything else: those that a short look at the listing shows.

        True after them means that there are no others.
        """
        ...

    def layout_record(self) -> LayoutRecord | None:
        """The record of the tokens' layout; None if there is none.

        Raises:
            CorruptData, SettingsError: as by ``decode_record``.
            VaultRefused: Vault does not permit reading it. In Redis a missing right is ``Unavailable``, too.
        """
        ...


class RedisKeyStore:
    """Acra's key storage, version 1.

    Args:
        link: connection for keys in use.
        folder: prefix of all keys.
        history: another connection, for the history, if that is asked in another thread.
        progress: for commands: is called with the number of names scanned so far. Then a scan is as fast as possible,
            and another may follow at once. Without it, as in workers, a scan uses at most half of the time, and the
            next one has to wait.
    """

    def __init__(
        self,
        link: RedisLink,
        folder: str,
        *,
        history: RedisLink | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> None:
        self._link = link
        self._history = history or link
        self._folder = folder
        self._progress = progress
        self._names: dict[str, list[str]] = {}
        self._names_since = float("-inf")
        self._next_scan_at = float("-inf")

    def current(self, owners: Sequence[Owner]) -> list[bytes | None]:
        return self._read(self._link, [owner.key_name for owner in owners])

    def read(self, names: Sequence[str]) -> list[bytes | None]:
        return self._read(self._history, names)

    def current_with_index(self, owners: Sequence[Owner]) -> list[KeyTexts]:
        return _in_pairs(_mget(self._link, _both_paths(self._folder, owners)))

    def _read(self, link: RedisLink, names: Sequence[str]) -> list[bytes | None]:
        return _mget(link, [f"{self._folder}/{name}" for name in names])

    @property
    def connections(self) -> int:
        """Number of connections to Redis made so far. Any thread may ask."""
        return sum(link.connections for link in {self._link, self._history})

    def create(self, owner: Owner, sealed: bytes) -> bool:
        return self._link.call("SET", f"{self._folder}/{owner.key_name}", sealed, "NX") is not None

    def some_names(self) -> tuple[list[str], bool]:
        pattern, cursor, found = f"{escape_pattern(self._folder)}/*", b"0", []
        for _ in range(LOOK_PAGES_MAX):
            cursor, found = self._history.call("SCAN", cursor, "MATCH", pattern, "COUNT", SCAN_KEYS)
            if found or cursor == b"0":
                break
        return [raw.decode(errors="replace").removeprefix(f"{self._folder}/") for raw in found], cursor == b"0"

    def layout_record(self) -> LayoutRecord | None:
        [text] = self._link.call("MGET", layout_path(self._folder))
        return decode_keys_record(text)

    def history_names(self, owner: Owner, since: float) -> tuple[list[str], bool]:
        return self._names.get(owner.key_name, []), self._names_since > since

    def refresh_history(self) -> None:
        """Scan once for all owners. Names in the history cannot be guessed, and KEYS would block the server."""
        begin = time.monotonic()
        if self._progress is None and begin < self._next_scan_at:
            raise Unavailable("keys", "the history of keys was looked up a moment ago")
        found: dict[str, list[str]] = defaultdict(list)
        page_at, looked_at = begin, 0
        for names in scan(self._history, f"{escape_pattern(self._folder)}/*{HISTORY_INFIX}*"):
            self._collect(names, found)
            looked_at += SCAN_KEYS
            if self._progress is None:
                time.sleep(min(time.monotonic() - page_at, SCAN_PAUSE_SECONDS))
                page_at = time.monotonic()
            else:
                self._progress(looked_at)
        spent = time.monotonic() - begin
        self._names = {name: sorted(set(old), reverse=True) for name, old in found.items()}
        self._names_since = begin
        self._next_scan_at = time.monotonic() + max(1.0, SCAN_REST_FACTOR * spent)

    def _collect(self, names: Iterable[bytes], found: dict[str, list[str]]) -> None:
        for raw in names:
            name = raw.decode(errors="replace").removeprefix(f"{self._folder}/")
            key_name = name.partition(HISTORY_INFIX)[0]
            if key_name.endswith(SYMMETRIC_KEYS):
                found[key_name].append(name)


class VaultKeyStore:
    """Keys as KV secrets of one mount: ``<folder>/<name>``, field ``key``."""

    def __init__(self, vault: "VaultKv", mount: str, folder: str) -> None:
        self._vault = vault
        self._mount = mount
        self._folder = folder

    def current(self, owners: Sequence[Owner]) -> list[bytes | None]:
        return self.read([owner.key_name for owner in owners])

    def current_with_index(self, owners: Sequence[Owner]) -> list[KeyTexts]:
        return _in_pairs(self._read(_both_paths(self._folder, owners)))

    def read(self, names: Sequence[str]) -> list[bytes | None]:
        return self._read([f"{self._folder}/{name}" for name in names])

    def _read(self, paths: Sequence[str]) -> list[bytes | None]:
        with _refusal_is_unavailable():
            secrets = self._vault.read_secrets(self._mount, paths)
        return [_text_of(secret) for secret in secrets]

    def create(self, owner: Owner, sealed: bytes) -> bool:
        path = f"{self._folder}/{owner.key_name}"
        return self._vault.create_secret(self._mount, path, {VAULT_FIELD: sealed.decode()})

    def some_names(self) -> tuple[list[str], bool]:
        with _refusal_is_unavailable():
            return self._vault.list_secrets(self._mount, self._folder), True

    def layout_record(self) -> LayoutRecord | None:
        return decode_keys_record(_text_of(self._vault.read_secret(self._mount, layout_path(self._folder))))

    def history_names(self, owner: Owner, since: float) -> tuple[list[str], bool]:  # noqa: ARG002 - always listed again
        base = owner.key_name + HISTORY_INFIX
        with _refusal_is_unavailable():
            stamps = self._vault.list_secrets(self._mount, f"{self._folder}/{base.rstrip('/')}")
        return [base + stamp for stamp in sorted(stamps, reverse=True)], True

    def refresh_history(self) -> None:
        """Do nothing: ``history_names`` always asks Vault, which lists the history of one owner at once."""


def _both_paths(folder: str, owners: Sequence[Owner]) -> list[str]:
    """The places of each owner's key and index key, in pairs: so both come by the same command."""
    return [path for owner in owners for path in (f"{folder}/{owner.key_name}", index_path(folder, owner))]


def _in_pairs(texts: Sequence[bytes | None]) -> list[KeyTexts]:
    return [KeyTexts(key, index) for key, index in zip(texts[::2], texts[1::2], strict=True)]


def _mget(link: RedisLink, paths: Sequence[str]) -> list[bytes | None]:
    found: list[bytes | None] = []
    for start in range(0, len(paths), KEYS_PER_COMMAND):
        found += link.call("MGET", *paths[start : start + KEYS_PER_COMMAND])
    return found


def _text_of(secret: dict[str, object] | None) -> bytes | None:
    if secret is None or (MOVED_FIELD in secret and VAULT_FIELD not in secret):
        return None
    return str(secret.get(VAULT_FIELD, "")).encode()


@contextmanager
def _refusal_is_unavailable() -> Iterator[None]:
    """Treat a refusal by Vault as an outage: while workers run, entries wait, and cached keys are used."""
    try:
        yield
    except MasterKeyError as error:
        raise Unavailable("vault", str(error)) from None
