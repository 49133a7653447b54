"""Turns a batch of items into tokens or values. Pure: it yields the steps it wants done, and is sent their answers.

Steps are those of ``storage.steps`` and ``FindKeys``. A batch takes one look-up, one conditional write for what is new,
and seldom more: where a token is taken by another value, where another worker was faster, or where a key is missing.

What it promises, whatever others do to the same entries between two steps:

- the same value gives the same token, also several times in one batch; two values never share one;
- ``h.`` is only written for a ``t.`` that holds this very value, is enabled, and was written with it or read before;
- who loses a race answers with the winner's token;
- an entry that is disabled, unreadable or of another value is a named error or passed over, never overwritten.
"""

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import chain, islice
from typing import Any, NamedTuple

import msgspec

from token_worker.acra import secure_cell
from token_worker.acra.token_entry import (
    EntryNames,
    Times,
    accessed_number,
    decode_entry,
    decode_token_value,
    encode_entry,
    encode_times,
    encode_token_value,
)
from token_worker.acra.value_types import BYTES, STR, TokenType
from token_worker.errors import Code, CorruptData, Refused, Unavailable
from token_worker.keys.cache import KeySearch
from token_worker.keys.keyring import Keyring, NoMatchingKey
from token_worker.storage.sealing import Opened, Sealing
from token_worker.storage.steps import Adopt, Lookup, Outcome, Row, Step, Store, Touch
from token_worker.tokens.derivation import LETTERS, Deriver, Origin, tries

TOUCH_SECONDS = 24 * 3600
"""A read moves an entry's time of last use when it is older than this, as Acra does."""

WRITE_ROUNDS_MAX = 32
"""Conditional writes a value may need before it is given back for later: only constant interference needs more."""

_PROBE_CANDIDATES = 64
"""Candidates of one value looked up at once, after its first one was taken."""

_TOKENS_OF_ONE_BYTE = {STR: len(LETTERS), BYTES: 256}
"""How many tokens there are; looking for the one that is free ends when all have come."""

_NOT_FOUND = Refused(Code.TOKEN_NOT_FOUND, "there is no such token of this type for this client or zone")
_DISABLED = Refused(Code.TOKEN_DISABLED, "the token is disabled")
_EXHAUSTED = Refused(Code.TOKEN_SPACE_EXHAUSTED, "no free token of this type and length was found")
_UNREADABLE = Refused(Code.ENTRY_UNREADABLE, "the stored entry cannot be read")
_KEY_UNREADABLE = Refused(Code.KEY_UNREADABLE, "a key in the history of this client or zone cannot be read")

ItemResult = bytes | Refused | Unavailable
"""Encoded token or value; why there is none; or that it cannot be known now."""


class FindKeys(NamedTuple):
    """Look for further keys of these rings. Answer: for each a ``KeySearch``, or ``Unavailable``."""

    rings: list[Keyring]


class Item(msgspec.Struct, eq=False):
    """One value to tokenize, or one token to turn back.

    Attributes:
        ring: keys of the zone where one is given, else of the client.
        data: the encoded value or token, at least one byte.
        origin: only for an inconsistent token.
        result: None until the engine is done.
        form: the caller's own, for the result; the engine does not look at it.
    """

    ring: Keyring
    kind: TokenType
    data: bytes
    tokenize: bool
    origin: Origin | None = None
    result: ItemResult | None = None
    form: Any = None

    # The engine's own: the name of the entry to find; ...
    key: bytes = b""
    # ... while a token is made: further candidates, the one to try now, and its t. entry if that was read.
    candidates: Iterator[bytes] | None = None
    token: bytes = b""
    existing: bytes = b""


class _OwnerCache:
    """What is computed once for a keyring, and kept with it; it does not hold the keyring, so that both go at once."""

    __slots__ = ("_deriver", "_key", "_owner", "of_token", "of_value")

    def __init__(self, ring: Keyring) -> None:
        names = EntryNames(ring.owner)
        self.of_value = names.of_value
        self.of_token = names.of_token
        self._key, self._owner = ring.current, ring.owner
        self._deriver: Deriver | None = None

    @property
    def deriver(self) -> Deriver:
        if self._deriver is None:
            self._deriver = Deriver(self._key, self._owner)
        return self._deriver


def _prepared(ring: Keyring) -> _OwnerCache:
    made: _OwnerCache | None = ring.prepared
    if made is None:
        made = ring.prepared = _OwnerCache(ring)
    return made


_Content = Opened | Refused | Unavailable

Steps = Generator[Step | FindKeys, Any, None]


class Engine:
    """Keeps what is worth keeping from batch to batch: AES keys, and with each keyring names and derivation keys."""

    def __init__(self) -> None:
        self._sealing = Sealing()

    def run(self, items: Iterable[Item], now: int) -> Steps:
        """Set ``result`` of every item; ``now`` is in Unix seconds."""
        accessed = accessed_number(now - TOUCH_SECONDS)
        known, absent, duplicates = self._classify(items)
        raws = yield Lookup(list(known))
        open_entry = self._sealing.open
        locked: list[tuple[Item, bytes]] = []
        touched: list[tuple[bytes, bytes, bytes]] = []
        for item, raw in zip(known.values(), raws, strict=True):
            if raw is None:
                if item.tokenize:
                    absent.append(item)
                else:
                    item.result = _NOT_FOUND
                continue
            try:
                inside, times = open_entry(item.ring, raw, accessed)
            except NoMatchingKey:
                locked.append((item, raw))
                continue
            except CorruptData:
                item.result = _UNREADABLE
                continue
            if times is not None:
                if times.disabled:
                    item.result = _DISABLED
                    continue
                touched += _touch(item.key, raw, times, now)
            item.result = inside if item.tokenize else _decode_value(item, inside)
        if locked:
            contents = yield from self._unlock(locked, accessed)
            for (item, raw), content in zip(locked, contents, strict=True):
                item.result = _token_from(content) if item.tokenize else _value_from(item, content)
                if isinstance(content, tuple) and content[1] is not None:
                    touched += _touch(item.key, raw, content[1], now)
        if absent:
            yield from self._make(absent, now, accessed)
        if touched:
            yield Touch(touched)
        for item, first in duplicates:
            item.result = first.result

    def _classify(self, items: Iterable[Item]) -> tuple[dict[bytes, Item], list[Item], list[tuple[Item, Item]]]:
        """Items to look up, by key; inconsistent ones, to be made; and those that want the same as another item."""
        consistent: list[Item] = []
        inconsistent: list[Item] = []
        for item in items:
            item.result = None
            if item.origin is not None:
                inconsistent.append(item)
                continue
            prepared = item.ring.prepared or _prepared(item.ring)
            name = prepared.of_value if item.tokenize else prepared.of_token
            item.key = name(item.data, item.kind.number)
            consistent.append(item)
        by_key = {item.key: item for item in consistent}
        duplicates: list[tuple[Item, Item]] = []
        if len(by_key) < len(consistent):
            duplicates = [(item, by_key[item.key]) for item in consistent if by_key[item.key] is not item]
        return by_key, inconsistent, duplicates

    def _open(self, entries: list[tuple[Item, bytes]], accessed: int) -> Generator[FindKeys, Any, list[_Content]]:
        """Open stored entries, with keys that are not at hand, too."""
        opened: list[_Content] = []
        locked: list[int] = []
        for item, raw in entries:
            try:
                opened.append(self._sealing.open(item.ring, raw, accessed))
            except NoMatchingKey:
                locked.append(len(opened))
                opened.append(_UNREADABLE)
            except CorruptData:
                opened.append(_UNREADABLE)
        if locked:
            unlocked = yield from self._unlock([entries[number] for number in locked], accessed)
            for number, content in zip(locked, unlocked, strict=True):
                opened[number] = content
        return opened

    def _unlock(self, entries: list[tuple[Item, bytes]], accessed: int) -> Generator[FindKeys, Any, list[_Content]]:
        """Open entries that no key at hand opens, once more with each key that is found."""
        opened: list[_Content] = [_UNREADABLE] * len(entries)
        locked = list(range(len(entries)))
        while locked:
            rings = list({entries[number][0].ring for number in locked})
            answers = dict(zip(rings, (yield FindKeys(rings)), strict=True))
            still: list[int] = []
            for number in locked:
                item, raw = entries[number]
                answer = answers[item.ring]
                if isinstance(answer, Unavailable):
                    opened[number] = answer
                elif answer is KeySearch.EXHAUSTED:
                    opened[number] = _KEY_UNREADABLE if item.ring.some_unreadable else _UNREADABLE
                else:
                    try:
                        opened[number] = self._sealing.open(item.ring, raw, accessed)
                    except NoMatchingKey:
                        still.append(number)
                    except CorruptData:
                        opened[number] = _UNREADABLE
            locked = still
        return opened

    def _make(self, items: list[Item], now: int, accessed: int) -> Steps:
        """Make a token for each value that has none."""
        for item in items:
            item.candidates, item.existing = None, b""
            if item.ring.unsettled is not None:
                item.result = item.ring.unsettled
                continue
            try:
                item.kind.check_new(item.data)
            except Refused as refused:
                item.result = refused.with_traceback(None)  # its frames hold the values of the whole batch
            else:
                item.token = _prepared(item.ring).deriver.token(item.kind, item.data, 0, item.origin)
                if item.token == item.data:
                    item.candidates = _derived(_prepared(item.ring).deriver.token, item.kind, item.data, item.origin)
                    item.token = next(item.candidates)
        for _ in range(WRITE_ROUNDS_MAX):
            waiting = [item for item in items if item.result is None]
            if not waiting:
                return
            fresh = [item for item in waiting if item.token and not item.existing]
            yield from self._write(fresh, now, accessed, adopt=False)
            adoptable = [item for item in waiting if item.existing and item.result is None]
            yield from self._write(adoptable, now, accessed, adopt=True)
            yield from self._probe([item for item in waiting if item.result is None and not item.token], accessed)
        for item in items:
            if item.result is None:
                item.result = Unavailable("tokens", "entries keep changing")

    def _write(self, items: list[Item], now: int, accessed: int, *, adopt: bool) -> Steps:
        """Write the entries of each item's candidate; what was there already decides how the item goes on."""
        if not items:
            return
        rows = self._rows(items, now)
        outcomes: list[Outcome] = yield Adopt(rows) if adopt else Store(rows)
        found = [(item, raw) for item, (what, raw) in zip(items, outcomes, strict=True) if what in {"value", "token"}]
        opened = iter((yield from self._open(found, accessed)))
        for item, (what, raw) in zip(items, outcomes, strict=True):
            item.existing = b""
            if what == "written":
                item.result = item.token
            elif what == "value":
                item.result = _token_from(next(opened))
            elif what == "token":
                _check_candidate(item, item.token, raw, next(opened))
            elif what == "broken":
                item.result = _UNREADABLE

    def _rows(self, items: list[Item], now: int) -> list[Row]:
        """The two entries of each item, each encrypted anew: an IV is never used twice."""
        blocks = Counter([item.ring for item in items])
        data_keys = {ring: ring.sealing_key(2 * count) for ring, count in blocks.items()}
        times = encode_times(Times(now, now)).hex().encode()
        ivs = secure_cell.random_ivs(2 * len(items))
        seal = self._sealing.seal
        rows: list[Row] = []
        for item in items:
            data_key = data_keys[item.ring]
            number = item.kind.number
            h_value = seal(data_key, item.token, next(ivs), times) if item.origin is None else b""
            t_value = item.existing or seal(data_key, encode_token_value(item.data, number), next(ivs), times)
            rows.append(Row(item.key, _token_key(item, item.token), h_value, t_value))
        return rows

    def _probe(self, items: list[Item], accessed: int) -> Steps:
        """For items whose candidate was taken: choose the first of the next ones that is free or holds the value."""
        if not items:
            return
        groups = [(item, list(islice(_candidates(item), _PROBE_CANDIDATES))) for item in items]
        wanted = {_token_key(item, token): item for item, group in groups for token in group}
        raws: list[bytes | None] = yield Lookup(list(wanted))
        taken = {key: raw for key, raw in zip(wanted, raws, strict=True) if raw is not None}
        opened = yield from self._open([(wanted[key], raw) for key, raw in taken.items()], accessed)
        contents = dict(zip(taken, opened, strict=True))
        for item, group in groups:
            if not group:
                item.result = _EXHAUSTED
            for number, token in enumerate(group, 1):
                key = _token_key(item, token)
                if key in taken:
                    _check_candidate(item, token, taken[key], contents[key])
                else:
                    item.token = token
                if item.token or item.result is not None:
                    item.candidates = chain(group[number:], _candidates(item))  # should this one be taken meanwhile
                    break


def _candidates(item: Item) -> Iterator[bytes]:
    """Candidates that the item has not tried yet."""
    if item.candidates is None:
        item.candidates = _derived(_prepared(item.ring).deriver.token, item.kind, item.data, item.origin)
        next(item.candidates)  # was derived by itself, since most items need no other
    return item.candidates


def _derived(
    derive: Callable[[TokenType, bytes, int, Origin | None], bytes], kind: TokenType, data: bytes, origin: Origin | None
) -> Iterator[bytes]:
    """Candidates in the order of their counters, each once; the value itself last, if it is one at all."""
    derived: set[bytes] = set()
    token_count = _TOKENS_OF_ONE_BYTE.get(kind) if len(data) == 1 else None
    for counter in range(tries(len(data))):
        if len(derived) == token_count:
            break  # all that follow came before
        token = derive(kind, data, counter, origin)
        if token not in derived:
            derived.add(token)
            if token != data:
                yield token
    if data in derived:
        yield data


def _token_key(item: Item, token: bytes) -> bytes:
    return _prepared(item.ring).of_token(token, item.kind.number)


def _check_candidate(item: Item, token: bytes, raw: bytes, content: _Content) -> None:
    """The candidate's ``t.`` exists: ours to adopt, disabled, unreadable, or (``token`` emptied) of another value."""
    item.token = b""
    if not isinstance(content, tuple):
        item.result = content
        return
    inside, times = content
    try:
        value, number = decode_token_value(inside)
    except CorruptData:
        item.result = _UNREADABLE
        return
    if (value, number) != (item.data, item.kind.number):
        return
    if times is not None and times.disabled:
        item.result = _DISABLED
    elif item.origin is not None:
        item.result = token
    else:
        item.token, item.existing = token, raw


def _token_from(content: _Content) -> ItemResult:
    """The token in an ``h.`` entry."""
    if not isinstance(content, tuple):
        return content
    inside, times = content
    return _DISABLED if times is not None and times.disabled else inside


def _value_from(item: Item, content: _Content) -> ItemResult:
    """The value in a ``t.`` entry."""
    if not isinstance(content, tuple):
        return content
    inside, times = content
    return _DISABLED if times is not None and times.disabled else _decode_value(item, inside)


def _decode_value(item: Item, inside: bytes) -> ItemResult:
    try:
        value, number = decode_token_value(inside)
    except CorruptData:
        return _UNREADABLE
    return value if number == item.kind.number and value else _UNREADABLE


def _touch(key: bytes, raw: bytes, times: Times, now: int) -> list[tuple[bytes, bytes, bytes]]:
    if times.disabled or now - times.accessed <= TOUCH_SECONDS:
        return []
    return [(key, raw, encode_entry(decode_entry(raw)._replace(accessed=now)))]
