"""Where sealed keys are kept: Acra's key storage in Redis, or KV secrets in Vault. Workers only read.

Redis: string ``<folder>/<name>``, its value base64(Secure Cell(master key, key, context)); the history of a key under
``<folder>/<name>.old/<UTC timestamp>``. Vault: the same names as KV secrets of one mount, the same text in field
``key``.
"""

import base64
import binascii
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from token_worker.acra import secure_cell
from token_worker.acra.key_name import HISTORY_INFIX
from token_worker.acra.owner import SYMMETRIC_KEYS, Owner
from token_worker.errors import CorruptData, MasterKeyError, Unavailable
from token_worker.keys.keyring import KEY_BYTES
from token_worker.redis.link import RedisLink
from token_worker.redis.scan import SCAN_COUNT, escape_pattern, scan

if TYPE_CHECKING:
    from token_worker.keys.vault_kv import VaultKv

VAULT_FIELD = "key"
MOVED_FIELD = "moved_to"
"""Stands in a KV secret in place of the key while that is on its way to another name, or to its end."""

KEYS_PER_COMMAND = 1000
"""Keys one MGET asks for."""

SCAN_PAUSE_SECONDS = 0.01
"""Longest pause of a worker between two steps of a scan: as long as the step took, so that others get their turn."""

SCAN_REST_FACTOR = 20
"""A scan is followed by a rest of this many times its length (at least a second): it serves all owners."""


def unwrap(sealed: bytes, master_key: bytes, owner: Owner) -> bytes:
    """The key in a stored text.

    Raises:
        CorruptData: not base64, not opened by this master key, or not 32 bytes.
    """
    try:
        cell = binascii.a2b_base64(sealed.strip(), strict_mode=True)
    except (ValueError, binascii.Error):
        raise CorruptData("key: not base64") from None
    key = secure_cell.open_cell(master_key, cell, owner.context)
    if len(key) != KEY_BYTES:
        raise CorruptData("key: wrong length")
    return key


def wrap(key: bytes, master_key: bytes, owner: Owner) -> bytes:
    """The text to store for a key."""
    return base64.b64encode(secure_cell.seal(master_key, key, owner.context))


def new_key() -> bytes:
    """A random symmetric key."""
    return os.urandom(KEY_BYTES)


class KeyStore(Protocol):
    """What the key cache and ``keys generate`` need of a key storage. All methods raise ``Unavailable``.

    What is about the history (``history_names``, ``refresh_history``, ``read``) may be called in one thread while
    ``current`` is in another.
    """

    def current(self, owners: Sequence[Owner]) -> list[bytes | None]:
        """The sealed current key of each owner, None where there is none."""
        ...

    def history_names(self, owner: Owner, since: float) -> tuple[list[str], bool]:
        """Names of the history of an owner's key, newest first, and whether they were looked up after ``since``.

        Names found before ``since`` (monotonic seconds) are given first, with False: they cost nothing.
        """
        ...

    def refresh_history(self) -> None:
        """Look the history up anew; ``Unavailable`` if that is too soon."""
        ...

    def read(self, names: Sequence[str]) -> list[bytes | None]:
        """The sealed keys of these names."""
        ...

    def create(self, owner: Owner, sealed: bytes) -> bool:
        """Store the first key of an owner; False, and nothing changed, where there is one."""
        ...


class RedisKeyStore:
    """Acra's key storage, version 1.

    Args:
        link: for keys in use.
        folder: prefix of all keys.
        history: another connection, for the history; without one that is asked in the same thread.
        progress: for commands: is told how many names were looked at. A scan then is as fast as can be, and another
            one may follow at once; for a worker it takes half of the time at most, and a long rest follows.
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
        self._rest_until = float("-inf")

    def current(self, owners: Sequence[Owner]) -> list[bytes | None]:
        return self._read(self._link, [owner.key_name for owner in owners])

    def read(self, names: Sequence[str]) -> list[bytes | None]:
        return self._read(self._history, names)

    def _read(self, link: RedisLink, names: Sequence[str]) -> list[bytes | None]:
        found: list[bytes | None] = []
        for start in range(0, len(names), KEYS_PER_COMMAND):
            part = names[start : start + KEYS_PER_COMMAND]
            found += link.call("MGET", *(f"{self._folder}/{name}" for name in part))
        return found

    def create(self, owner: Owner, sealed: bytes) -> bool:
        return self._link.call("SET", f"{self._folder}/{owner.key_name}", sealed, "NX") is not None

    def history_names(self, owner: Owner, since: float) -> tuple[list[str], bool]:
        return self._names.get(owner.key_name, []), self._names_since > since

    def refresh_history(self) -> None:
        """One SCAN for all owners: names in the history cannot be guessed, and KEYS would stop the server."""
        begin = time.monotonic()
        if self._progress is None and begin < self._rest_until:
            raise Unavailable("keys", "the history of keys was looked up a moment ago")
        found: dict[str, list[str]] = defaultdict(list)
        page_at, looked_at = begin, 0
        for names in scan(self._history, f"{escape_pattern(self._folder)}/*{HISTORY_INFIX}*"):
            self._collect(names, found)
            looked_at += SCAN_COUNT
            if self._progress is None:
                time.sleep(min(time.monotonic() - page_at, SCAN_PAUSE_SECONDS))
                page_at = time.monotonic()
            else:
                self._progress(looked_at)
        spent = time.monotonic() - begin
        self._names = {name: sorted(set(old), reverse=True) for name, old in found.items()}
        self._names_since = begin
        self._rest_until = time.monotonic() + max(1.0, SCAN_REST_FACTOR * spent)

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

    def read(self, names: Sequence[str]) -> list[bytes | None]:
        with _refusal_is_unavailable():
            secrets = self._vault.read_secrets(self._mount, [f"{self._folder}/{name}" for name in names])
        return [_text_of(secret) for secret in secrets]

    def create(self, owner: Owner, sealed: bytes) -> bool:
        path = f"{self._folder}/{owner.key_name}"
        return self._vault.create_secret(self._mount, path, {VAULT_FIELD: sealed.decode()})

    def history_names(self, owner: Owner, since: float) -> tuple[list[str], bool]:  # noqa: ARG002 - always looked up anew
        base = owner.key_name + HISTORY_INFIX
        with _refusal_is_unavailable():
            stamps = self._vault.list_secrets(self._mount, f"{self._folder}/{base.rstrip('/')}")
        return [base + stamp for stamp in sorted(stamps, reverse=True)], True

    def refresh_history(self) -> None:
        """Nothing to do: Vault lists one owner's history at once."""


def _text_of(secret: dict[str, object] | None) -> bytes | None:
    if secret is None or (MOVED_FIELD in secret and VAULT_FIELD not in secret):
        return None
    return str(secret.get(VAULT_FIELD, "")).encode()


@contextmanager
def _refusal_is_unavailable() -> Iterator[None]:
    """A right or token that Vault takes away while workers run is an outage: entries wait, cached keys go on."""
    try:
        yield
    except MasterKeyError as error:
        raise Unavailable("vault", str(error)) from None
