"""The interface between the commands on tokens and a layout: the stored tokens of one client or zone.

A token has a *token entry*, which holds its value, and mostly a *value entry*, which holds the token of this value. An
inconsistent token has a token entry alone. ``admin.tokens`` finds entries page by page and changes them by
compare-and-set; the layout says what they are, and what they have to become.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, Protocol

from token_worker.acra.value_types import TYPES, TokenType
from token_worker.admin.entry_store import EntryChange
from token_worker.keys.layout_record import LayoutName

KINDS = {kind.number: kind for kind in TYPES.values()}
"""The types, by their numbers."""

TokenState = Literal["enabled", "disabled"]

Side = Literal["token", "value"]
"""Token entries, or value entries."""


class StoredEntry(NamedTuple):
    """An entry that was opened.

    Attributes:
        key: its name.
        raw: the entry, as it is stored.
        created: Unix seconds; the begin of the day in a layout that keeps the day alone.
        accessed: Unix seconds of the last use; None in a layout that does not keep it.
    """

    key: bytes
    raw: bytes
    disabled: bool
    created: int
    accessed: int | None = None


class Token(NamedTuple):
    """A token and its entries, as they were read.

    Attributes:
        kind: type of the token.
        value: encoded value.
        token: encoded token; None if there is only a token entry that does not hold the token.
        t: the token entry.
        h: the value entry, if it exists and names this token.
        h_key: name of the value entry.
        h_raw: the bytes under that name, also if they name another token; empty if there are none.
        is_alone: the token was drawn inconsistently, and has no value entry. Acra's layout does not tell it.
        is_half_gone: the token entry is a tombstone, and only the value entry is left: a removal was interrupted. Only
            ``of_value`` finds such a token.
    """

    kind: TokenType
    value: bytes
    token: bytes | None
    t: StoredEntry
    h: StoredEntry | None
    h_key: bytes
    h_raw: bytes
    is_alone: bool = False
    is_half_gone: bool = False

    @property
    def is_text(self) -> bool:
        """False if the type is text, but the value is not UTF-8. AcraServer stores text in other encodings, too."""
        return reads(self.kind, self.value)

    @property
    def entries(self) -> list[StoredEntry]:
        """The entries that exist."""
        return [self.t] if self.h is None else [self.t, self.h]

    @property
    def state(self) -> TokenState:
        """Disabled if either entry is disabled."""
        return "disabled" if any(entry.disabled for entry in self.entries) else "enabled"

    @property
    def is_whole(self) -> bool:
        """False if one entry is disabled and the other is not."""
        return len({entry.disabled for entry in self.entries}) == 1

    @property
    def accessed(self) -> int | None:
        """Unix seconds of the last use: tokenizing updates the value entry, detokenizing the token entry."""
        times = [entry.accessed for entry in self.entries if entry.accessed is not None]
        return max(times) if times else None


class Unreadable(NamedTuple):
    """An entry that cannot be read: it is damaged, or no key opens it."""

    key: bytes


FindingKind = Literal["value_alone", "disabled_alone", "mismatch", "removed_alone", "not_given"]
"""The kind of a finding.

``value_alone``: a value entry whose token entry does not exist. ``disabled_alone``: one entry is disabled, the other is
not. ``mismatch``: a value entry whose token entry holds another value. ``removed_alone``: one entry is a tombstone, the
other is not. ``not_given``: a token entry whose value has no token, or another one; a writer that lost a race left it.
"""


class Finding(NamedTuple):
    """Entries that do not fit each other.

    Attributes:
        used_at: Unix seconds of the last use of the entry that ``repair`` changes; None if its age does not matter.
        repair: steps that put it right; empty if only a person can.
    """

    what: FindingKind
    key: bytes
    used_at: int | None = None
    repair: Sequence[EntryChange] = ()


class StoredTokens(Protocol):
    """The tokens of one owner in one layout. Errors are those of the two storages, unless a method says more.

    Attributes:
        layout: its name.
    """

    layout: LayoutName

    def pattern(self, side: Side) -> bytes:
        """Return the glob pattern of the names of one side."""
        ...

    def includes(self, key: bytes) -> bool:
        """Return False for a name that matches the pattern by chance, and is not the name of an entry."""
        ...

    def name_of_value(self, value: bytes, kind: TokenType) -> bytes:
        """Return the name of the value entry of an encoded value."""
        ...

    def names_of_token(self, token: bytes, kind: TokenType) -> list[bytes]:
        """Return the names that the token entry of an encoded token may have."""
        ...

    def open_tokens(self, page: Sequence[tuple[bytes, bytes]]) -> list[Token | Unreadable]:
        """Open token entries, and add their value entries. Leaves out tombstones, and entries of another owner."""
        ...

    def of_value(self, value: bytes, kind: TokenType) -> Token | Unreadable | None:
        """Return the token of an encoded value; None if there is none, or if it was removed."""
        ...

    def check_token(self, token: Token) -> Finding | None:
        """Return what is wrong with a token that ``open_tokens`` found, and that ``check_values`` does not find."""
        ...

    def check_values(self, page: Sequence[tuple[bytes, bytes]]) -> Iterator[Finding | Unreadable]:
        """Check value entries: yields those that cannot be read, or do not fit their token entries."""
        ...

    def steps_to_set(self, token: Token, *, disabled: bool) -> list[EntryChange]:
        """Return the steps that disable or enable a token."""
        ...

    def steps_to_remove(self, token: Token) -> list[EntryChange]:
        """Return the steps that remove a token."""
        ...

    def reseal(self, key: bytes, raw: bytes) -> bytes | None:
        """Seal an entry with the newest key. Returns None if it is, or if the entry belongs to another owner.

        Raises:
            CorruptData: no key opens it.
        """
        ...


def entry_label(key: bytes) -> str:
    """Return the name of an entry for people: without the owner's folder, or in hexadecimal digits."""
    return key.hex() if len(key) == _BINARY_NAME_BYTES else key.decode(errors="replace").rpartition("/")[2]


_BINARY_NAME_BYTES = 16


def reads(kind: TokenType, value: bytes) -> bool:
    """Return True if an encoded value is one of its type."""
    try:
        kind.read(value)
    except ValueError:
        return False
    return True


def is_possible(kind: TokenType, value: bytes) -> bool:
    """Return False if no value is encoded so: it is empty, or a number of another length."""
    return bool(value) and (not kind.is_number or reads(kind, value))
