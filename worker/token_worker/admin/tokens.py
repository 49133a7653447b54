"""The tokens of one client or zone for operators, who count, disable, remove, verify and encrypt them again.

A token is a ``t.`` entry, and the ``h.`` entry of its value if that names this token. An inconsistent token has no
``h.`` entry. Entries are found by SCAN, page by page, at a given rate. Every change is one script, ``change.lua``. It
first compares all its entries with what was read. So it undoes nothing that Acra or a worker did meanwhile, and no
reader meets a token of which only one entry is disabled or removed.

Touches ``tokens/<digest of the owner>/*``. Values and tokens are shown only to a person who asks for a single one.
"""

import time
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

from token_worker.acra.owner import Owner
from token_worker.acra.token_entry import EntryNames, TokenEntry, decode_entry, decode_token_value, encode_entry
from token_worker.acra.value_types import TYPES, TokenType
from token_worker.errors import CheckFailed, CorruptData, Refused, Unavailable
from token_worker.keys.cache import KeyCache, KeySearch
from token_worker.keys.keyring import DataKeyCache, Keyring, NoMatchingKey
from token_worker.redis.link import RedisLink
from token_worker.redis.scan import escape_pattern, scan
from token_worker.redis.script import Script

_CHANGE = Script(__package__, "change.lua")

PAGE_ENTRIES = 200
"""COUNT of a SCAN, and entries that are processed together."""

CHANGE_ATTEMPTS_MAX = 5
"""Attempts to change a token that others keep changing."""

_KINDS = {kind.number: kind for kind in TYPES.values()}

TokenState = Literal["enabled", "disabled"]


class Token(NamedTuple):
    """A token and its entries, as they were read.

    Attributes:
        kind: type of the token.
        value: encoded value.
        token: encoded token; None if there is only a ``t.`` entry, which does not hold the token.
        t_key, t_raw, t_entry: the ``t.`` entry.
        h_key, h_raw, h_entry: the ``h.`` entry. ``h_entry`` is None if it does not exist, or names another token.
    """

    kind: TokenType
    value: bytes
    token: bytes | None
    t_key: bytes
    t_raw: bytes
    t_entry: TokenEntry
    h_key: bytes
    h_raw: bytes
    h_entry: TokenEntry | None

    @property
    def is_text(self) -> bool:
        """False if the type is text, but the value is not UTF-8. AcraServer stores text in other encodings, too."""
        return _reads(self.kind, self.value)

    @property
    def state(self) -> TokenState:
        """Disabled if either entry is disabled."""
        return "disabled" if any(entry.disabled for entry in self.entries) else "enabled"

    @property
    def entries(self) -> list[TokenEntry]:
        """The entries that exist."""
        return [self.t_entry] if self.h_entry is None else [self.t_entry, self.h_entry]

    @property
    def accessed(self) -> int:
        """Unix seconds of the last use: tokenizing updates the ``h.`` entry, detokenizing the ``t.`` entry."""
        return max(entry.accessed for entry in self.entries)


class TokenFilter(NamedTuple):
    """Selects tokens. A token is selected if all conditions that are set hold.

    Attributes:
        kind: the token has this type.
        state: the token is in this state.
        unused_since: the token was last used before this time (Unix seconds).
    """

    kind: TokenType | None = None
    state: TokenState | None = None
    unused_since: float | None = None

    def takes(self, token: Token) -> bool:
        """Return True if the filter selects the token."""
        return (
            self.kind in (None, token.kind)
            and self.state in (None, token.state)
            and (self.unused_since is None or token.accessed < self.unused_since)
        )


class Unreadable(NamedTuple):
    """An entry that cannot be read: it is damaged, or no key of the owner opens it."""

    key: bytes


class BrokenPair(NamedTuple):
    """An ``h.`` entry that does not fit its ``t.`` entry; ``verify`` reports it.

    Attributes:
        what: ``value_alone``: the ``t.`` entry does not exist. ``disabled_alone``: one entry is disabled, the other is
            not. ``mismatch``: the ``t.`` entry of this token holds another value.
        key, raw, entry: the ``h.`` entry.
        t_keys: possible keys of its ``t.`` entry, one for each type, because the type is unknown.
    """

    what: Literal["value_alone", "disabled_alone", "mismatch"]
    key: bytes
    raw: bytes
    entry: TokenEntry
    t_keys: tuple[bytes, ...]


class TokenAdmin:
    """The token entries of one owner.

    Args:
        link: the token storage; its errors are raised as they are.
        keys: the keys of the owner.
        owner: client or zone.
        rate: most entries to read in a second.
        progress: is called with the number of entries that were read so far.

    Raises:
        Refused: the owner has no key that can be read.
        Unavailable: the key storage is away.
    """

    def __init__(
        self,
        link: RedisLink,
        keys: KeyCache,
        owner: Owner,
        *,
        rate: float,
        progress: Callable[[int], object] = lambda _: None,
    ) -> None:
        self._link = link
        self._keys = keys
        self._owner = owner
        self._names = EntryNames(owner)
        self._rate = rate
        self._progress = progress
        self._ring()

    # -- reading

    def tokens(self, chosen: TokenFilter) -> Iterator[Token | Unreadable]:
        """All selected tokens, and every ``t.`` entry that cannot be read. A token may come twice."""
        for page in self._pages(b"t."):
            found = [self._token(key, raw) for key, raw in page]
            yield from self._with_values([token for token in found if isinstance(token, Token)], chosen)
            yield from (entry for entry in found if isinstance(entry, Unreadable))

    def of_value(self, value: bytes, kind: TokenType) -> Token | Unreadable | None:
        """The token of an encoded value, or None."""
        h_key = self._names.of_value(value, kind.number)
        [raw] = self._read([h_key])
        if raw is None:
            return None
        try:
            token = self._open(decode_entry(raw))
        except CorruptData:
            return Unreadable(h_key)
        return self.of_token(token, kind)

    def of_token(self, token: bytes, kind: TokenType) -> Token | Unreadable | None:
        """The token that an encoded token is, or None."""
        t_key = self._names.of_token(token, kind.number)
        [raw] = self._read([t_key])
        if raw is None:
            return None
        found = self._token(t_key, raw)
        if isinstance(found, Unreadable):
            return found
        [whole] = self._with_values([found], TokenFilter())
        return whole._replace(token=token)

    def broken_pairs(self) -> Iterator[BrokenPair | Unreadable]:
        """All ``h.`` entries that cannot be read, or do not fit their ``t.`` entry; see also ``tokens``."""
        for page in self._pages(b"h."):
            opened: list[tuple[bytes, bytes, TokenEntry, tuple[bytes, ...]]] = []
            for key, raw in page:
                try:
                    entry = decode_entry(raw)
                    token = self._open(entry)
                except CorruptData:
                    yield Unreadable(key)
                    continue
                opened.append((key, raw, entry, tuple(self._names.of_token(token, number) for number in _KINDS)))
            read = iter(self._read([t_key for *_, t_keys in opened for t_key in t_keys]))
            for key, raw, entry, t_keys in opened:
                t_entries = [(t_key, t_raw) for t_key in t_keys if (t_raw := next(read)) is not None]
                what = self._check_pair(key, entry, t_entries)
                if what is not None:
                    yield BrokenPair(what, key, raw, entry, t_keys)

    # -- changing

    def set_disabled(self, token: Token, *, disabled: bool) -> bool:
        """Disable or enable both entries at once. Returns False if others kept changing them."""
        return self._change(
            token,
            lambda entry: encode_entry(entry._replace(disabled=disabled)),
            lambda now: now.state != _state(disabled),
        )

    def remove(self, token: Token, chosen: TokenFilter) -> bool:
        """Delete both entries at once, if the filter still selects the token.

        An ``h.`` entry that names another token stays. Returns False if others kept changing the entries.
        """
        return self._change(token, lambda _: b"", chosen.takes)

    def delete_lone_value(self, pair: BrokenPair) -> bool:
        """Delete an unchanged ``h.`` entry that still has no ``t.`` entry. Never deletes a ``t.`` entry."""
        keys = [pair.key, *pair.t_keys]
        args = [pair.raw, b"", *(b"" for _ in pair.t_keys for _ in range(2))]
        return bool(self._link.run(_CHANGE, keys, args))

    def reencrypt(self, *, dry_run: bool = False) -> "Reencrypted":
        """Encrypt entries of older keys again, with the newest key. Repeats passes until one finds no such entry.

        Each entry is changed by itself, and only if it is unchanged. At every moment it is either the old or the new
        one, and both can be read.

        Raises:
            CheckFailed: workers still seal with an older key, because the newest one is settling.
        """
        seconds_left = self._keys.settling_seconds_left(self._owner)
        if seconds_left > 0:
            raise CheckFailed(
                f"{self._owner.key_name}: workers seal with the old key for {seconds_left:.0f} s more; run the command"
                " again then"
            )
        sealed = passes = 0
        unreadable: set[bytes] = set()
        data_keys = DataKeyCache(1)
        while True:
            passes += 1
            found = 0
            unreadable.clear()
            for page in self._pages(b""):
                ring = self._ring()
                newest = Keyring(self._owner, ring.current, data_keys)
                for key, raw in page:
                    try:
                        found += self._encrypt_again(key, raw, ring, newest, dry_run=dry_run)
                    except CorruptData:
                        unreadable.add(key)
            sealed += found
            if not found or dry_run:
                return Reencrypted(sealed, passes, len(unreadable))

    def _encrypt_again(self, key: bytes, raw: bytes, ring: Keyring, newest: Keyring, *, dry_run: bool) -> bool:
        entry = decode_entry(raw)
        try:
            newest.open(entry.block)
        except NoMatchingKey:
            data = self._open(entry)
        else:
            return False
        if not dry_run:  # if the entry was changed meanwhile, the next pass finds it again
            self._link.run(_CHANGE, [key], [raw, encode_entry(entry._replace(block=ring.seal(data)))])
        return True

    def _change(self, token: Token, change: Callable[[TokenEntry], bytes], is_due: Callable[[Token], bool]) -> bool:
        now: Token | Unreadable | None = token
        for _ in range(CHANGE_ATTEMPTS_MAX):
            if now is None or isinstance(now, Unreadable):
                return now is None
            if not is_due(now):
                return True
            keys, args = [now.t_key], [now.t_raw, change(now.t_entry)]
            if now.h_entry is not None:
                keys.append(now.h_key)
                args += [now.h_raw, change(now.h_entry)]
            if self._link.run(_CHANGE, keys, args):
                return True
            now = self._read_again(now)
        return False

    def _read_again(self, token: Token) -> Token | Unreadable | None:
        [raw] = self._read([token.t_key])
        if raw is None:
            return None
        found = self._token(token.t_key, raw)
        return found if isinstance(found, Unreadable) else next(self._with_values([found], TokenFilter()))

    # -- entries

    def _pages(self, side: bytes) -> Iterator[list[tuple[bytes, bytes]]]:
        """All entries that begin with ``side``: ``h.`` or ``t.``, or both if it is empty."""
        folder = self._names.of_token(b"", 0).rpartition(b"/")[0].decode()
        pattern = f"{escape_pattern(folder)}/{side.hex()}*"
        seen, due = 0, time.monotonic()
        for keys in scan(self._link, pattern, PAGE_ENTRIES):
            time.sleep(max(0.0, due - time.monotonic()))
            due = time.monotonic() + len(keys) / self._rate
            for start in range(0, len(keys), PAGE_ENTRIES):
                part = keys[start : start + PAGE_ENTRIES]
                yield [(key, raw) for key, raw in zip(part, self._read(part), strict=True) if raw is not None]
            seen += len(keys)
            self._progress(seen)

    def _read(self, keys: list[bytes]) -> list[bytes | None]:
        return [
            raw for start in range(0, len(keys), 1000) for raw in self._link.call("MGET", *keys[start : start + 1000])
        ]

    def _token(self, t_key: bytes, raw: bytes) -> Token | Unreadable:
        try:
            entry = decode_entry(raw)
            value, number = decode_token_value(self._open(entry))
            kind = _KINDS[number]
        except (CorruptData, KeyError):
            return Unreadable(t_key)
        if not value or (kind.is_number and not _reads(kind, value)):
            return Unreadable(t_key)
        return Token(kind, value, None, t_key, raw, entry, self._names.of_value(value, number), b"", None)

    def _with_values(self, tokens: list[Token], chosen: TokenFilter) -> Iterator[Token]:
        """Add the ``h.`` entries that name these tokens. Yields only the selected tokens."""
        for token, raw in zip(tokens, self._read([token.h_key for token in tokens]), strict=True):
            whole = token
            if raw is not None:
                try:
                    entry = decode_entry(raw)
                    opened = self._open(entry)
                except CorruptData:
                    pass  # ``broken_pairs`` reports it
                else:
                    if self._names.of_token(opened, token.kind.number) == token.t_key:
                        whole = token._replace(token=opened, h_raw=raw, h_entry=entry)
            if chosen.takes(whole):
                yield whole

    def _check_pair(
        self, h_key: bytes, entry: TokenEntry, t_entries: list[tuple[bytes, bytes]]
    ) -> Literal["value_alone", "disabled_alone", "mismatch"] | None:
        if not t_entries:
            return "value_alone"
        for t_key, t_raw in t_entries:
            found = self._token(t_key, t_raw)
            if isinstance(found, Unreadable):
                return None  # ``tokens`` reports it
            if found.h_key == h_key:
                return "disabled_alone" if found.t_entry.disabled != entry.disabled else None
        return "mismatch"

    def _open(self, entry: TokenEntry) -> bytes:
        """Open the block of an entry. Searches older keys if no known key opens it.

        Raises:
            CorruptData: no key of the owner opens it.
        """
        while True:
            ring = self._ring()
            try:
                return ring.open(entry.block)
            except NoMatchingKey:
                found = self._keys.find_keys(ring)
                if isinstance(found, Unavailable):
                    raise found from None
                if found is KeySearch.EXHAUSTED:
                    raise

    def _ring(self) -> Keyring:
        ring = self._keys.rings([self._owner])[self._owner]
        if isinstance(ring, Refused | Unavailable):
            raise ring
        return ring


class Reencrypted(NamedTuple):
    """The result of ``reencrypt``.

    Attributes:
        sealed: entries that were encrypted again, or with a dry run would be.
        passes: passes over all entries.
        unreadable: entries that no key opens.
    """

    sealed: int
    passes: int
    unreadable: int


def _reads(kind: TokenType, value: bytes) -> bool:
    try:
        kind.read(value)
    except ValueError:
        return False
    return True


def _state(disabled: bool) -> TokenState:
    return "disabled" if disabled else "enabled"
