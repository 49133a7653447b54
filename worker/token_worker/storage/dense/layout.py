"""The dense layout: small entries with keyed names, sealed by AES-SIV; see ``storage.dense.entry``. Pure."""

from collections.abc import Callable, Generator, Iterable, Sequence
from hmac import compare_digest
from itertools import groupby
from typing import Any, NamedTuple

import structlog
from cryptography.exceptions import InvalidTag

from token_worker.acra.owner import Owner
from token_worker.acra.value_types import TYPES
from token_worker.errors import Code, CorruptData, Refused, Unavailable
from token_worker.keys.keyring import Keyring, NoMatchingKey
from token_worker.storage.dense import entry
from token_worker.storage.dense.blocks import COLUMN_MAX
from token_worker.storage.dense.entry import (
    ALONE,
    ENTRY_MAX,
    ENTRY_MIN,
    FOREIGN,
    HEAD_BYTES,
    REMOVED,
    EntryNames,
    SealKey,
)
from token_worker.storage.dense.siv_columns import COLUMN_MIN
from token_worker.storage.item_group import ItemGroup
from token_worker.storage.layout import Notes, Opened, SecondName
from token_worker.storage.steps import Claim, Lookup, Row, Step
from token_worker.storage.token_item import NamesAndDeriver, TokenItem

_LONG_NEXT = 255
"""First byte of a ``next`` that takes five bytes."""

_LONG_NEXT_BYTE = bytes((_LONG_NEXT,))

_TOKEN_STARTS, _VALUE_STARTS = ([bytes((number, *more)) for number in range(6)] for more in ((), (1,)))
"""By the number of the type: what stands before the value in a token entry, and before a first token in a value entry.
"""

_TYPE_NUMBERS = frozenset(kind.number for kind in TYPES.values())

_DATA_ID_BYTES = 32

_HEADS_MAX = 1000
"""Heads that are kept for each owner: one for each day and key."""

_UNUSUAL = KeyError, IndexError, ValueError, InvalidTag
"""Errors of the short way: the head is new, the entry is damaged, or another key has the same id."""

_OWNERS_TOLD_MAX = 1000
"""Owners whose trouble was logged already. With more of them, some are logged again."""

log = structlog.get_logger("tokens")


class DenseOwner(NamesAndDeriver):
    """Names, derivation, and the keys that open and seal: computed by the layout for a keyring.

    Attributes:
        names: names of the owner's entries.
        seal_key: seals new entries.
        check: the owner's check value.
        checked_on: the connection to the token storage on which the check value was found right; -1 for none.
        openers: by the head of entries without flags: the key that opened the last one.
    """

    __slots__ = ("_day", "_heads", "_seal_keys", "check", "checked_on", "openers", "seal_key")

    names: EntryNames

    def __init__(self, ring: Keyring, index_key: bytes) -> None:
        names = EntryNames(index_key, ring.owner)
        super().__init__(ring, names)
        self.check = names.check
        self.checked_on = -1  # 0 is the number before the first connection
        self.seal_key = SealKey(ring.current, ring.owner)
        self.openers: dict[bytes, SealKey] = {}
        self._seal_keys = [self.seal_key]  # of the keys of the ring so far, of which the current one is the first
        self._day = -1
        self._heads = (b"", b"")

    def heads(self, day: int) -> tuple[bytes, bytes]:
        """Return the head of a new entry, and that of a new entry that is alone."""
        if day != self._day:
            self._heads = self.seal_key.head(0, day), self.seal_key.head(ALONE, day)
            self._day = day
        return self._heads

    def keep(self, head: bytes, key: SealKey) -> None:
        """Keep the key that opened an entry with this head and no flags: the next one mostly begins alike."""
        if len(self.openers) >= _HEADS_MAX:
            self.openers.clear()
        self.openers[head] = key

    def keys_with(self, ring: Keyring, key_id: bytes) -> list[SealKey]:
        """Return the keys of the ring with this id."""
        for key in ring.keys[len(self._seal_keys) :]:
            self._seal_keys.append(SealKey(key, ring.owner))
        return [key for key in self._seal_keys if key.id == key_id]


class DenseLayout:
    """The dense layout of the token storage; see ``storage.layout.Layout``.

    Args:
        has_foreign: whether there may be foreign entries.
    """

    has_index_keys = True
    unused_name = b"t" + bytes(15)

    def __init__(self, *, has_foreign: bool = False) -> None:
        self.second_name: SecondName | None = self._foreign_name if has_foreign else None
        self._told: dict[Owner, str] = {}

    def prepare(self, ring: Keyring) -> DenseOwner:
        cache = ring.owner_cache
        if type(cache) is not DenseOwner:
            if ring.index is None:
                raise TypeError("the keyring has no index key")
            cache = ring.owner_cache = DenseOwner(ring, ring.index)
        return cache

    def check(
        self, rings: list[Keyring], connections: Callable[[], int]
    ) -> Generator[Step, Any, dict[Keyring, Refused | Unavailable]]:
        current = connections()
        asked = [ring for ring in rings if ring.index is None or self.prepare(ring).checked_on != current]
        if not asked:
            return {}
        found = yield Lookup([entry.check_name(ring.owner) for ring in asked])
        checks: dict[Keyring, Any] = dict(zip(asked, found, strict=True))
        current = connections()  # the look-up may have made a new one
        new = [ring for ring in asked if ring.index is not None and checks[ring] is None]
        if new:  # written only then: a full storage refuses a write, and tokens are still found there
            claims = [(entry.check_name(ring.owner), self.prepare(ring).check) for ring in new]
            checks |= zip(new, (yield Claim(claims)), strict=True)
        refused: dict[Keyring, Refused | Unavailable] = {}
        for ring, check in checks.items():
            if isinstance(check, Unavailable):
                refused[ring] = check
            elif ring.index is None:
                refused[ring] = self._without_index(ring, check)
            elif compare_digest(check, self.prepare(ring).check):
                self.prepare(ring).checked_on = current
                self._told.pop(ring.owner, None)
            else:
                refused[ring] = self._tell(ring.owner, "another index key made the names of the stored tokens")
        return refused

    def _without_index(self, ring: Keyring, check: bytes | None) -> Refused:
        """Return the reason why a keyring without an index key cannot be used."""
        owner = ring.owner
        if ring.index_state == "unreadable":
            return self._tell(owner, "the master key does not open the index key")
        if check is not None:
            return self._tell(owner, "the index key is gone, and there are tokens")
        self._log(owner, "no index key: token-worker keys index makes it")
        code = Code.UNKNOWN_CLIENT if owner.kind == "client" else Code.UNKNOWN_ZONE
        return Refused(code, f"there is no index key of this {owner.kind}: `token-worker keys index` makes one")

    def _tell(self, owner: Owner, problem: str) -> Refused:
        self._log(owner, problem)
        return Refused(Code.KEY_UNREADABLE, f"the index key of this {owner.kind} cannot be used")

    def _log(self, owner: Owner, problem: str) -> None:
        """Log the trouble with an owner's index key, once until it is over."""
        if self._told.get(owner) == problem:
            return
        if len(self._told) >= _OWNERS_TOLD_MAX:
            self._told.clear()
        self._told[owner] = problem
        log.error("index key cannot be used", key=owner.key_name, reason=problem)

    def _foreign_name(self, ring: Keyring, token: bytes, number: int) -> bytes:
        return self.prepare(ring).names.of_foreign(token, number)

    def mark(self, now: int) -> None:  # noqa: ARG002 - entries have no time of last use
        return None

    def open_many(self, group: ItemGroup, raws: Sequence[Any], _mark: Any) -> list[bytes]:
        contents = [b""] * len(raws)
        if len(raws) < COLUMN_MIN:
            return contents
        alike: dict[tuple[bytes, int], list[int]] = {}  # places of entries with one head and length
        for place, raw in enumerate(raws):
            if raw.__class__ is bytes:
                alike.setdefault((raw[:HEAD_BYTES], len(raw)), []).append(place)
        openers = self.prepare(group.ring).openers
        number = group.kind.number
        for (head, length), places in alike.items():
            key = openers.get(head)
            if key is None or not ENTRY_MIN <= length <= ENTRY_MAX:
                continue
            for start in range(0, len(places), COLUMN_MAX):
                part = places[start : start + COLUMN_MAX]
                if len(part) < COLUMN_MIN:
                    break
                plaintexts = key.open_all([group.names[place] for place in part], [raws[place] for place in part])
                for place, plaintext in zip(part, plaintexts or (), strict=False):
                    if plaintext[0] != number:
                        continue
                    if not group.tokenize:
                        contents[place] = plaintext[1:]
                    elif plaintext[1:2] != _LONG_NEXT_BYTE:
                        contents[place] = plaintext[2:]
        return contents

    def open_value(self, ring: Keyring, name: bytes, number: int, raw: bytes, _mark: Any) -> Opened:
        owner: Any = ring.owner_cache
        head = raw[:HEAD_BYTES]
        try:  # the usual entry, with as few calls as possible
            plaintext = owner.openers[head].decrypt(raw[HEAD_BYTES:], [name + head])
            token = plaintext[2:]
            if token and plaintext[0] == number and plaintext[1] != _LONG_NEXT:
                return token, None
        except _UNUSUAL:
            pass
        plaintext, flags = open_entry(owner, ring, name, raw)
        if len(plaintext) < 2 or plaintext[0] != number:
            raise CorruptData("entry: wrong content")
        counter, token = read_next(plaintext)
        is_removed = bool(flags & entry.REMOVED)
        if is_removed == bool(token):
            raise CorruptData("entry: wrong content")
        if is_removed:
            return b"", Notes(removed=True, next_counter=counter)
        return token, Notes(disabled=True) if flags else None

    def open_token(self, ring: Keyring, name: bytes, number: int, raw: bytes, _mark: Any) -> Opened:
        owner: Any = ring.owner_cache
        head = raw[:HEAD_BYTES]
        try:  # as above
            plaintext = owner.openers[head].decrypt(raw[HEAD_BYTES:], [name + head])
            value = plaintext[1:]
            if value and plaintext[0] == number:
                return value, None
        except _UNUSUAL:
            pass
        plaintext, flags = open_entry(owner, ring, name, raw)
        if not plaintext or plaintext[0] != number:
            raise CorruptData("entry: wrong content")
        value = read_alone(owner.names, name, plaintext, flags).value if flags & ALONE else plaintext[1:]
        is_removed = bool(flags & entry.REMOVED)
        if is_removed == bool(value):
            raise CorruptData("entry: wrong content")
        if not flags:
            return value, None
        is_disabled, is_alone = bool(flags & entry.DISABLED), bool(flags & entry.ALONE)
        return value, Notes(disabled=is_disabled, removed=is_removed, alone=is_alone)

    def rows(self, items: list[TokenItem], now: int) -> list[Row]:
        day = entry.day_of(now)
        rows: list[Row] = []
        for (ring, number, is_alone), group in groupby(items, _likeness):
            owner = self.prepare(ring)
            rows += (_alone_rows if is_alone else _rows)(owner, number, list(group), day)
        return rows

    def new_rows(self, group: ItemGroup, tokens: list[bytes], now: int) -> Iterable[Row]:
        owner, number = self.prepare(group.ring), group.kind.number
        head, _ = owner.heads(entry.day_of(now))
        names, seal_all = owner.names.of_tokens(tokens, number), owner.seal_key.seal_all
        h_start, t_start = _VALUE_STARTS[number], _TOKEN_STARTS[number]
        h_values = seal_all(head, group.names, [h_start + token for token in tokens])
        t_values = seal_all(head, names, [t_start + value for value in group.data])
        return map(Row, group.names, names, h_values, t_values)


def _likeness(item: TokenItem) -> tuple[Keyring, int, bool]:
    return item.ring, item.kind.number, item.origin is not None


def _rows(owner: DenseOwner, number: int, items: list[TokenItem], day: int) -> list[Row]:
    """Make the rows of consistent tokens of one type."""
    head, _ = owner.heads(day)
    keys = [item.key for item in items]
    t_names = owner.names.of_tokens([item.token for item in items], number)
    h_start, t_start = _VALUE_STARTS[number], _TOKEN_STARTS[number]
    h_plaintexts = [
        value_plaintext(number, item.counter + 1, item.token) if item.counter else h_start + item.token
        for item in items
    ]
    t_plaintexts = [t_start + item.data for item in items]
    seal_all = owner.seal_key.seal_all
    h_values, t_values = seal_all(head, keys, h_plaintexts), seal_all(head, t_names, t_plaintexts)
    return [
        Row(key, t_name, h_value, item.existing or t_value, item.tombstone)
        for item, key, t_name, h_value, t_value in zip(items, keys, t_names, h_values, t_values, strict=True)
    ]


def _alone_rows(owner: DenseOwner, number: int, items: list[TokenItem], day: int) -> list[Row]:
    """Make the rows of inconsistent tokens of one type."""
    _, head = owner.heads(day)
    names = owner.names.of_tokens([item.token for item in items], number)
    plaintexts = [alone_plaintext(number, item.token, item.data) for item in items]
    entries = owner.seal_key.seal_all(head, names, plaintexts)
    return [Row(b"", name, b"", entry) for name, entry in zip(names, entries, strict=True)]


def value_plaintext(number: int, next_counter: int, token: bytes) -> bytes:
    """Return the plaintext of a value entry; of a removed one if the token is empty."""
    if next_counter < _LONG_NEXT:
        return b"%c%c%b" % (number, next_counter, token)
    return b"%c%c%b%b" % (number, _LONG_NEXT, next_counter.to_bytes(4, "big"), token)


def token_plaintext(number: int, value: bytes) -> bytes:
    """Return the plaintext of a token entry that is not alone; of a removed one if the value is empty."""
    return b"%c%b" % (number, value)


def alone_plaintext(number: int, token: bytes, value: bytes) -> bytes:
    """Return the plaintext of a token entry that is alone, and not foreign. The length is coded like a counter."""
    return value_plaintext(number, len(token), token + value)


def foreign_plaintext(number: int, data_id: bytes, value: bytes) -> bytes:
    """Return the plaintext of a foreign token entry; with no value: of a removed one that is alone."""
    return b"%c%b%b" % (number, data_id, value)


class Alone(NamedTuple):
    """The content of a token entry that is alone.

    Attributes:
        token: empty if the entry is foreign or removed.
        data_id: of the token.
        value: empty if the entry is removed.
    """

    token: bytes
    data_id: bytes
    value: bytes


def read_alone(names: EntryNames, name: bytes, plaintext: bytes, flags: int) -> Alone:
    """Read the plaintext of a token entry that is alone.

    Raises:
        CorruptData: it is not of the specification, or belongs to another name.
    """
    if len(plaintext) < 2 or plaintext[0] not in _TYPE_NUMBERS:
        raise CorruptData("entry: wrong content")
    if flags & (FOREIGN | REMOVED):
        end = 1 + _DATA_ID_BYTES
        token, data_id, value = b"", plaintext[1:end], plaintext[end:]
        its_name = names.of_data_id(data_id) if flags & FOREIGN else name
    else:
        length, rest = read_next(plaintext)
        token, value = rest[:length], rest[length:]
        if not token:
            raise CorruptData("entry: wrong content")
        data_id, its_name = names.data_id(token, plaintext[0]), names.of_token(token, plaintext[0])
    if its_name != name or len(data_id) != _DATA_ID_BYTES or bool(value) == bool(flags & REMOVED):
        raise CorruptData("entry: wrong content")
    return Alone(token, data_id, value)


def read_next(plaintext: bytes) -> tuple[int, bytes]:
    """Split the plaintext of a value entry after its number into the counter and the token.

    Raises:
        CorruptData: the plaintext ends in the counter.
    """
    if plaintext[1] != _LONG_NEXT:
        return plaintext[1], plaintext[2:]
    if len(plaintext) < 6:
        raise CorruptData("entry: wrong content")
    return int.from_bytes(plaintext[2:6], "big"), plaintext[6:]


def open_entry(owner: DenseOwner, ring: Keyring, name: bytes, raw: bytes) -> tuple[bytes, int]:
    """Open an entry of the ring's owner. Return its plaintext and its flags.

    If it has no flags, the next entry with the same head is opened by the same key.

    Raises:
        NoMatchingKey: none of the ring's keys opens it.
        CorruptData: the bytes are not an entry of this version.
    """
    head = entry.read_head(name, raw)
    for key in owner.keys_with(ring, head.key_id):
        plaintext = key.open(name, raw)
        if plaintext is not None:
            if not head.flags:
                owner.keep(raw[:HEAD_BYTES], key)
            return plaintext, head.flags
    raise NoMatchingKey("entry: no key of the ring opens it")
