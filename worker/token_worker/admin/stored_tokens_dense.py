"""The tokens of one owner in the dense layout: ``t`` entries, and the ``v`` entries of their values.

A token is removed by making both entries tombstones. The token's tombstone keeps the token from being drawn again; the
value's keeps the number of the next candidate.

**Order.** On several nodes each step is done by itself, and workers write between any two of them: a token entry first,
then the value entry. Nobody may meet an enabled value entry whose token is disabled or removed. So the value entry is
disabled before the token entry is touched, and no worker writes it then. To enable, it is the other way round, and the
token entry is compared once more.

A removal that was interrupted has left a disabled value entry that names the token: the token is found by its value,
and the same command completes it.

A token entry without a value entry may be half of a token that a worker is writing. Then a disabled value entry is put
there, or in place of the value's tombstone. It names the token, if that is known, or else the value itself with a
counter that no candidate has. At the end it becomes a tombstone that differs from what the worker has read, so the
worker fails to write its value entry, and looks again. It differs by its counter, which is one higher. The entry in the
way keeps that counter, as ``BLOCKED`` less it, for the command that makes the tombstone if the first is interrupted.

**Alone.** A token entry that is alone is changed by one step. If it is foreign, it is named by the token's data id.

**Owners with the same tag.** Names begin with a tag of four bytes, which two owners may share. An entry that does not
open is tried with the keys of the others before it is called unreadable.

Touches the owner's entries. Reads the owner's check value: if the index key is not the one that made the names, nothing
would be found.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from hmac import compare_digest
from typing import NamedTuple, TypeGuard

from token_worker.acra.owner import Owner
from token_worker.acra.value_types import TokenType
from token_worker.admin.entry_store import EntryChange, EntryStore
from token_worker.admin.owner_keys import OwnerKeys
from token_worker.admin.stored_tokens import (
    KINDS,
    Finding,
    FindingKind,
    Side,
    StoredEntry,
    Token,
    Unreadable,
    is_possible,
)
from token_worker.admin.tag_sharers import TagSharers
from token_worker.errors import CheckFailed, CorruptData
from token_worker.keys.keyring import Keyring, NoMatchingKey
from token_worker.keys.layout_record import LayoutName
from token_worker.redis.scan import escape_bytes
from token_worker.storage.dense import entry
from token_worker.storage.dense.entry import (
    ALONE,
    DISABLED,
    FOREIGN,
    NAME_BYTES,
    REMOVED,
    SECONDS_OF_DAY,
    EntryNames,
)
from token_worker.storage.dense.layout import (
    Alone,
    DenseLayout,
    DenseOwner,
    foreign_plaintext,
    open_entry,
    read_alone,
    read_next,
    token_plaintext,
    value_plaintext,
)

BLOCKED = 0xFFFFFFFF
"""Highest counter of a value entry that only keeps workers from writing there. No token is drawn with it."""


class _Entry(NamedTuple):
    """An entry that was opened.

    Attributes:
        content: the token in a value entry, the value in a token entry; empty in a tombstone.
        next_counter: of a value entry.
        alone: the whole content of a token entry that is alone.
    """

    key: bytes
    raw: bytes
    plaintext: bytes
    flags: int
    day: int
    kind: TokenType
    content: bytes
    next_counter: int = 0
    alone: Alone | None = None

    @property
    def is_removed(self) -> bool:
        return bool(self.flags & REMOVED)

    @property
    def is_blocked(self) -> bool:
        """True if a command that was interrupted has put this value entry in the way of workers."""
        return bool(self.flags & DISABLED) and self.next_counter > BLOCKED // 2

    @property
    def next_of_tombstone(self) -> int:
        """The counter of the tombstone that this value entry becomes."""
        return BLOCKED - self.next_counter if self.is_blocked else self.next_counter

    @property
    def stored(self) -> StoredEntry:
        return StoredEntry(self.key, self.raw, bool(self.flags & DISABLED), self.day * SECONDS_OF_DAY)


class DenseTokens:
    """Tokens in the dense layout; see ``StoredTokens``.

    Args:
        entries: the token storage.
        keys: the keys of the owner, from a cache that looks up index keys, too.
        list_owners: returns all owners that have an index key; see ``TagSharers``.

    Raises:
        CheckFailed: the index key is absent or unreadable, or another one made the names in the storage.
    """

    layout: LayoutName = "dense"

    def __init__(self, entries: EntryStore, keys: OwnerKeys, list_owners: Callable[[], Iterable[Owner]]) -> None:
        self._entries = entries
        self._keys = keys
        self._layout = DenseLayout()
        self._index_key = index_key_of(keys.ring())
        self._names = names = EntryNames(self._index_key, keys.owner)
        check_index_key(entries, keys.owner, names)
        self._sharers = TagSharers(keys.cache, keys.owner, names.tag, list_owners)

    def pattern(self, side: Side) -> bytes:
        return pattern_of(self._names, side)

    def includes(self, key: bytes) -> bool:
        return len(key) == NAME_BYTES

    def name_of_value(self, value: bytes, kind: TokenType) -> bytes:
        return self._names.of_value(value, kind.number)

    def names_of_token(self, token: bytes, kind: TokenType) -> list[bytes]:
        return [self._names.of_token(token, kind.number), self._names.of_foreign(token, kind.number)]

    # -- reading

    def open_tokens(self, page: Sequence[tuple[bytes, bytes]]) -> list[Token | Unreadable]:
        found: list[Token | Unreadable] = []
        for key, raw in page:
            opened = self._try(key, raw)
            if isinstance(opened, Unreadable):
                found.append(opened)
            elif opened is not None and not opened.is_removed:
                found.append(self._token(opened))
        raws = iter(self._entries.read([token.h_key for token in found if _is_paired(token)]))
        return [self._with_value(token, next(raws)) if _is_paired(token) else token for token in found]

    def of_value(self, value: bytes, kind: TokenType) -> Token | Unreadable | None:
        h_key = self.name_of_value(value, kind)
        [raw] = self._entries.read([h_key])
        h = None if raw is None else self._try(h_key, raw)
        if not isinstance(h, _Entry):
            return h
        if h.is_removed or h.is_blocked:
            return None
        t_key = self._names.of_token(h.content, kind.number)
        [t_raw] = self._entries.read([t_key])
        if t_raw is None:
            return None
        t = self._try(t_key, t_raw)
        if not isinstance(t, _Entry):
            return t
        if t.is_removed:
            return Token(kind, value, h.content, t.stored, h.stored, h_key, h.raw, is_half_gone=True)
        if t.content != value or t.flags & ALONE:
            return Unreadable(h_key)
        return Token(kind, value, h.content, t.stored, h.stored, h_key, h.raw)

    def check_token(self, token: Token) -> Finding | None:
        if token.h is not None or token.is_alone:
            return None
        h = self._value_of(token)
        if h is None and token.h_raw:
            return None  # ``check_values`` reports it
        if h is not None and h.is_removed:
            return Finding("removed_alone", token.t.key, None, self.steps_to_remove(token))
        return Finding("not_given", token.t.key)

    def check_values(self, page: Sequence[tuple[bytes, bytes]]) -> Iterator[Finding | Unreadable]:
        opened: list[_Entry] = []
        for key, raw in page:
            found = self._try(key, raw)
            if isinstance(found, Unreadable):
                yield found
            elif found is not None and not found.is_removed:
                opened.append(found)
        t_keys = [self._names.of_token(h.content, h.kind.number) for h in opened]
        for h, t_key, t_raw in zip(opened, t_keys, self._entries.read(t_keys), strict=True):
            finding = self._check_pair(h, t_key, t_raw)
            if finding is not None:
                yield finding

    def _check_pair(self, h: _Entry, t_key: bytes, t_raw: bytes | None) -> Finding | None:
        if h.is_blocked:
            return Finding("removed_alone", h.key, None, [EntryChange(h.key, h.raw, self._tombstone(h))])
        if t_raw is None:
            gone = [EntryChange(t_key, b"", b""), EntryChange(h.key, h.raw, b"")]
            return Finding("value_alone", h.key, None, gone)
        t = self._try(t_key, t_raw)
        if not isinstance(t, _Entry):
            return None  # ``open_tokens`` reports it
        if t.is_removed:
            removed = [EntryChange(t_key, t_raw, t_raw), EntryChange(h.key, h.raw, self._tombstone(h))]
            return Finding("removed_alone", h.key, None, removed)
        what: FindingKind | None = None
        if t.flags & ALONE or self._names.of_value(t.content, t.kind.number) != h.key:
            what = "mismatch"
        elif (t.flags ^ h.flags) & DISABLED:
            what = "disabled_alone"
        return None if what is None else Finding(what, h.key)

    # -- changing

    def steps_to_set(self, token: Token, *, disabled: bool) -> list[EntryChange]:
        t = self._reopen(token.t.key, token.t.raw)
        if not disabled:
            t_new = self._flagged(t, t.flags & ~DISABLED)
            again = EntryChange(t.key, t_new, t_new)
            return [EntryChange(t.key, t.raw, t_new), *self._enabled_value(token), again]
        before, after = self._guard(token, removes=False)
        return [*before, EntryChange(t.key, t.raw, self._flagged(t, t.flags | DISABLED)), *after]

    def steps_to_remove(self, token: Token) -> list[EntryChange]:
        t = self._reopen(token.t.key, token.t.raw)
        before, after = self._guard(token, removes=True)
        return [*before, EntryChange(t.key, t.raw, self._removed(t)), *after]

    def _enabled_value(self, token: Token) -> list[EntryChange]:
        """Return the step on the value entry of a token that is enabled."""
        if token.is_alone:
            return []
        new = token.h_raw
        h = self._value_of(token)
        if token.h is not None and h is not None:
            new = self._flagged(h, h.flags & ~DISABLED)
        elif h is not None and h.is_blocked:
            new = self._tombstone(h)
        return [EntryChange(token.h_key, token.h_raw, new)]

    def _guard(self, token: Token, *, removes: bool) -> tuple[list[EntryChange], list[EntryChange]]:
        """Return the steps on the value entry before and after the token entry is disabled or removed."""
        if token.is_alone:
            return [], []
        key, raw, number = token.h_key, token.h_raw, token.kind.number
        h = self._value_of(token)
        if token.h is not None and h is not None:
            disabled = self._flagged(h, h.flags | DISABLED)
            after = [EntryChange(key, disabled, self._tombstone(h))] if removes else []
            return [EntryChange(key, raw, disabled)], after
        if raw and (h is None or not (h.is_removed or h.is_blocked)):  # it does not open, or names another token
            is_left = EntryChange(key, raw, raw)
            return [is_left], [is_left]
        next_counter = 0 if h is None else h.next_of_tombstone + h.is_removed
        counter, names = (BLOCKED - next_counter, token.value) if token.token is None else (next_counter, token.token)
        day = entry.day_of(token.t.created) if h is None else h.day
        disabled = self._seal(key, value_plaintext(number, counter, names), DISABLED, day)
        if not removes and not raw and token.token is not None:
            return [EntryChange(key, b"", disabled)], []
        tombstone = self._seal(key, value_plaintext(number, next_counter, b""), REMOVED, day)
        return [EntryChange(key, raw, disabled)], [EntryChange(key, disabled, tombstone)]

    def reseal(self, key: bytes, raw: bytes) -> bytes | None:
        owner = self._owner()
        head = entry.read_head(key, raw)
        if head.key_id == owner.seal_key.id and owner.seal_key.open(key, raw) is not None:
            return None
        opened = self._open(key, raw)
        return None if opened is None else self._seal(key, opened.plaintext, opened.flags, opened.day)

    # -- entries

    def _token(self, t: _Entry) -> Token:
        h_key = self._names.of_value(t.content, t.kind.number)
        token = (t.alone.token or None) if t.alone else None
        return Token(t.kind, t.content, token, t.stored, None, h_key, b"", is_alone=t.alone is not None)

    def _with_value(self, token: Token, raw: bytes | None) -> Token:
        """Add the value entry, if it names this token."""
        if raw is None:
            return token
        whole = token._replace(h_raw=raw)
        h = self._value_of(whole)
        if h is None or h.is_removed or self._names.of_token(h.content, h.kind.number) != token.t.key:
            return whole
        return whole._replace(token=h.content, h=h.stored)

    def _value_of(self, token: Token) -> _Entry | None:
        """Open what stands under the name of a token's value entry. None if there is nothing, or it does not open."""
        h = self._try(token.h_key, token.h_raw) if token.h_raw else None
        return h if isinstance(h, _Entry) else None

    def _try(self, key: bytes, raw: bytes) -> _Entry | Unreadable | None:
        try:
            return self._open(key, raw)
        except CorruptData:
            return Unreadable(key)

    def _reopen(self, key: bytes, raw: bytes) -> _Entry:
        """Open an entry that was opened before."""
        opened = self._open(key, raw)
        if opened is None:
            raise CorruptData("entry: of another owner")
        return opened

    def _open(self, key: bytes, raw: bytes) -> _Entry | None:
        """Open an entry. Returns None if it belongs to another owner with this tag.

        Raises:
            CorruptData: no key opens it.
        """
        try:
            plaintext, flags = self._keys.open(lambda ring: open_entry(self._prepare(ring), ring, key, raw))
        except NoMatchingKey:
            if self._sharers.open(key, raw):
                return None
            raise
        kind = KINDS.get(plaintext[0])
        if kind is None:
            raise CorruptData("entry: wrong content")
        counter, content, alone = 0, plaintext[1:], None
        if flags & ALONE:
            alone = read_alone(self._names, key, plaintext, flags)
            content = alone.value
        elif key[:1] == b"v":
            if len(plaintext) < 2:
                raise CorruptData("entry: wrong content")
            counter, content = read_next(plaintext)
        if not (is_possible(kind, content) if content else flags & REMOVED) or (content and flags & REMOVED):
            raise CorruptData("entry: wrong content")
        return _Entry(key, raw, plaintext, flags, entry.read_head(key, raw).day, kind, content, counter, alone)

    def _flagged(self, opened: _Entry, flags: int) -> bytes:
        """Seal an entry with other flags; its very bytes if they are the same."""
        if flags == opened.flags:
            return opened.raw
        return self._seal(opened.key, opened.plaintext, flags, opened.day)

    def _removed(self, t: _Entry) -> bytes:
        """Return the tombstone of a token entry."""
        if t.is_removed:
            return t.raw
        number = t.kind.number
        plaintext = foreign_plaintext(number, t.alone.data_id, b"") if t.alone else token_plaintext(number, b"")
        return self._seal(t.key, plaintext, t.flags & (ALONE | FOREIGN) | REMOVED, t.day)

    def _tombstone(self, h: _Entry) -> bytes:
        """Return the tombstone of a value entry."""
        return self._seal(h.key, value_plaintext(h.kind.number, h.next_of_tombstone, b""), REMOVED, h.day)

    def _seal(self, key: bytes, plaintext: bytes, flags: int, day: int) -> bytes:
        seal_key = self._owner().seal_key
        return seal_key.seal(key, seal_key.head(flags, day), plaintext)

    def _owner(self) -> DenseOwner:
        return self._prepare(self._keys.ring())

    def _prepare(self, ring: Keyring) -> DenseOwner:
        if ring.index != self._index_key:
            raise CheckFailed("the index key was changed meanwhile; run the command again")
        return self._layout.prepare(ring)


def _is_paired(found: Token | Unreadable) -> TypeGuard[Token]:
    return isinstance(found, Token) and not found.is_alone


def pattern_of(names: EntryNames, side: Side) -> bytes:
    """Return the glob pattern of the names of one side, which begin with the owner's tag."""
    return (b"t" if side == "token" else b"v") + escape_bytes(names.tag) + b"*"


def index_key_of(ring: Keyring) -> bytes:
    """Return the index key of a keyring.

    Raises:
        CheckFailed: there is none that can be read.
    """
    if ring.index is not None:
        return ring.index
    name, kind = ring.owner.key_name, ring.owner.kind
    if ring.index_state == "unreadable":
        raise CheckFailed(f"{name}: the master key does not open the index key of this {kind}; nothing was done")
    raise CheckFailed(
        f"{name}: there is no index key of this {kind}; bring it back from a backup if there are tokens, or make the"
        " first one with `token-worker keys index`"
    )


def check_index_key(entries: EntryStore, owner: Owner, names: EntryNames) -> None:
    """Check that the index key made the names in the token storage. Before the first token there is no check value.

    Raises:
        CheckFailed: another index key made them.
    """
    [check] = entries.read([entry.check_name(owner)])
    if check is not None and not compare_digest(check, names.check):
        raise CheckFailed(
            f"{owner.key_name}: another index key made the names of the stored tokens; bring that one back from a"
            " backup; nothing was done"
        )
