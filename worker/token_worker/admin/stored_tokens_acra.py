"""The tokens of one owner in Acra's layout: ``t.`` entries, and the ``h.`` entries of their values. One server only.

Touches ``tokens/<digest of the owner>/*``. A token is removed by deleting its entries.
"""

from collections.abc import Iterator, Sequence

from token_worker.acra.token_entry import (
    EntryNames,
    TokenEntry,
    decode_entry,
    decode_token_value,
    encode_entry,
)
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
from token_worker.errors import CorruptData
from token_worker.keys.keyring import DataKeyCache, Keyring, NoMatchingKey
from token_worker.keys.layout_record import LayoutName
from token_worker.redis.scan import escape_pattern


class AcraTokens:
    """Tokens in Acra's layout; see ``StoredTokens``.

    Args:
        entries: the token storage.
        keys: the keys of the owner.
    """

    layout: LayoutName = "acra"

    def __init__(self, entries: EntryStore, keys: OwnerKeys) -> None:
        self._entries = entries
        self._keys = keys
        self._names = EntryNames(keys.owner)
        self._data_keys = DataKeyCache(1)
        self._newest: Keyring | None = None

    def pattern(self, side: Side) -> bytes:
        folder = self._names.of_token(b"", 0).rpartition(b"/")[0].decode()
        return f"{escape_pattern(folder)}/{(b't.' if side == 'token' else b'h.').hex()}*".encode()

    def includes(self, key: bytes) -> bool:  # noqa: ARG002 - nobody else writes into the owner's folder
        return True

    def name_of_value(self, value: bytes, kind: TokenType) -> bytes:
        return self._names.of_value(value, kind.number)

    def names_of_token(self, token: bytes, kind: TokenType) -> list[bytes]:
        return [self._names.of_token(token, kind.number)]

    def open_tokens(self, page: Sequence[tuple[bytes, bytes]]) -> list[Token | Unreadable]:
        found = [self._token(key, raw) for key, raw in page]
        tokens = [token for token in found if isinstance(token, Token)]
        raws = iter(self._entries.read([token.h_key for token in tokens]))
        return [self._with_value(token, next(raws)) if isinstance(token, Token) else token for token in found]

    def of_value(self, value: bytes, kind: TokenType) -> Token | Unreadable | None:
        h_key = self.name_of_value(value, kind)
        [raw] = self._entries.read([h_key])
        if raw is None:
            return None
        try:
            token = self._open(decode_entry(raw))
        except CorruptData:
            return Unreadable(h_key)
        t_key = self._names.of_token(token, kind.number)
        [t_raw] = self._entries.read([t_key])
        if t_raw is None:
            return None
        [found] = self.open_tokens([(t_key, t_raw)])
        if isinstance(found, Token) and found.value != value:
            return Unreadable(h_key)
        return found

    def check_token(self, token: Token) -> Finding | None:  # noqa: ARG002 - halves and inconsistent tokens look alike
        return None

    def check_values(self, page: Sequence[tuple[bytes, bytes]]) -> Iterator[Finding | Unreadable]:
        opened: list[tuple[bytes, bytes, TokenEntry, list[bytes]]] = []
        for key, raw in page:
            try:
                entry = decode_entry(raw)
                token = self._open(entry)
            except CorruptData:
                yield Unreadable(key)
                continue
            opened.append((key, raw, entry, [self._names.of_token(token, number) for number in KINDS]))
        read = iter(self._entries.read([t_key for *_, t_keys in opened for t_key in t_keys]))
        for key, raw, entry, t_keys in opened:
            t_entries = [(t_key, t_raw) for t_key in t_keys if (t_raw := next(read)) is not None]
            what = self._check_pair(key, entry, t_entries)
            if what is not None:
                repair: list[EntryChange] = []
                if what == "value_alone":
                    repair = [EntryChange(key, raw, b""), *(EntryChange(t_key, b"", b"") for t_key in t_keys)]
                yield Finding(what, key, max(entry.accessed, entry.created), repair)

    def steps_to_set(self, token: Token, *, disabled: bool) -> list[EntryChange]:
        return [
            EntryChange(key, raw, encode_entry(decode_entry(raw)._replace(disabled=disabled)))
            for key, raw, *_ in token.entries
        ]

    def steps_to_remove(self, token: Token) -> list[EntryChange]:
        return [EntryChange(key, raw, b"") for key, raw, *_ in token.entries]

    def reseal(self, key: bytes, raw: bytes) -> bytes | None:  # noqa: ARG002 - any name
        entry = decode_entry(raw)
        ring = self._keys.ring()
        if self._newest is None or self._newest.current != ring.current:
            self._newest = Keyring(ring.owner, ring.current, self._data_keys)
        try:
            self._newest.open(entry.block)
        except NoMatchingKey:
            data = self._open(entry)
        else:
            return None
        return encode_entry(entry._replace(block=self._keys.ring().seal(data)))

    def _token(self, t_key: bytes, raw: bytes) -> Token | Unreadable:
        try:
            entry = decode_entry(raw)
            value, number = decode_token_value(self._open(entry))
            kind = KINDS[number]
        except (CorruptData, KeyError):
            return Unreadable(t_key)
        if not is_possible(kind, value):
            return Unreadable(t_key)
        return Token(kind, value, None, _stored(t_key, raw, entry), None, self._names.of_value(value, number), b"")

    def _with_value(self, token: Token, raw: bytes | None) -> Token:
        """Add the ``h.`` entry, if it names this token."""
        if raw is None:
            return token
        try:
            entry = decode_entry(raw)
            opened = self._open(entry)
        except CorruptData:
            return token._replace(h_raw=raw)  # ``check_values`` reports it
        if self._names.of_token(opened, token.kind.number) != token.t.key:
            return token._replace(h_raw=raw)
        return token._replace(token=opened, h_raw=raw, h=_stored(token.h_key, raw, entry))

    def _check_pair(self, h_key: bytes, entry: TokenEntry, t_entries: list[tuple[bytes, bytes]]) -> FindingKind | None:
        if not t_entries:
            return "value_alone"
        for t_key, t_raw in t_entries:
            found = self._token(t_key, t_raw)
            if isinstance(found, Unreadable):
                return None  # ``open_tokens`` reports it
            if found.h_key == h_key:
                return "disabled_alone" if found.t.disabled != entry.disabled else None
        return "mismatch"

    def _open(self, entry: TokenEntry) -> bytes:
        """Open the block of an entry. Raises ``CorruptData`` if no key of the owner does."""
        return self._keys.open(lambda ring: ring.open(entry.block))


def _stored(key: bytes, raw: bytes, entry: TokenEntry) -> StoredEntry:
    return StoredEntry(key, raw, entry.disabled, entry.created, entry.accessed)
