"""Tokenizes and detokenizes a batch of items. Pure: it yields the steps that it needs, and is sent their answers.

Steps are those of ``storage.steps``, and ``FindKeys``. A batch takes one look-up, and one conditional write for new
values. It seldom takes more: if a token is taken by another value, if another worker was faster, or if a key is
missing.

The engine promises, whatever others do to the same entries between two steps:

- The same value gets the same token, also several times in one batch, where the first item decides how the token is
  drawn. If its form has no token for the value, the next form is tried. Two values never share a token.
- An ``h.`` entry is written only if its ``t.`` entry holds this very value and is enabled. The ``t.`` entry is written
  together with it, or was read before and has not changed.
- If two workers race for a value, the loser answers with the winner's token.
- An entry that is disabled, unreadable, or of another value is never overwritten. It is a named error, or the next
  candidate is tried.
"""

from collections.abc import Generator, Iterable
from functools import lru_cache
from itertools import chain, islice
from typing import Any, NamedTuple

from token_worker.acra import secure_cell
from token_worker.acra.token_entry import (
    Times,
    accessed_number,
    decode_entry,
    decode_token_value,
    encode_entry,
    encode_times,
    encode_token_value,
)
from token_worker.errors import Code, CorruptData, Refused, Unavailable
from token_worker.keys.cache import KeySearch
from token_worker.keys.keyring import Keyring, NoMatchingKey
from token_worker.storage.sealing import Opened, Sealing
from token_worker.storage.steps import Adopt, Lookup, Outcome, Row, Step, Store, Touch
from token_worker.storage.token_item import (
    ItemResult,
    NamesAndDeriver,
    TokenItem,
    candidates_left,
    draw_first,
    names_and_deriver,
    token_key,
)

TOUCH_SECONDS = 24 * 3600
"""A read updates an entry's time of last use if that is older than this, as Acra does."""

WRITE_ROUNDS_MAX = 32
"""Conditional writes for one value before the item is postponed. Only constant interference needs so many."""

GUESS_AFTER = 8
"""Batches in a row of nothing but new values, after which the next one is taken to be such a batch, too."""

_PROBE_CANDIDATES = 64
"""Candidates of one value that are looked up at once, after its first one was taken."""

_NOT_FOUND = Refused(Code.TOKEN_NOT_FOUND, "there is no such token of this type for this client or zone")
_DISABLED = Refused(Code.TOKEN_DISABLED, "the token is disabled")
_EXHAUSTED = Refused(Code.TOKEN_SPACE_EXHAUSTED, "no free token of this type and form was found")
_UNREADABLE = Refused(Code.ENTRY_UNREADABLE, "the stored entry cannot be read")
_KEY_UNREADABLE = Refused(Code.KEY_UNREADABLE, "a key in the history of this client or zone cannot be read")


class FindKeys(NamedTuple):
    """Search more keys for these rings. Answer: for each a ``KeySearch``, or ``Unavailable``."""

    rings: list[Keyring]


_Content = Opened | Refused | Unavailable

_Duplicates = list[tuple[TokenItem, TokenItem]]
"""Items, each with the first item of the batch that wants the same."""

_RawEntries = list[tuple[TokenItem, bytes]]
"""Items, each with an entry as it is stored."""

Steps = Generator[Step | FindKeys, Any, None]


class Engine:
    """Tokenizes and detokenizes batches.

    Keeps AES ciphers from batch to batch. Names and derivation keys are kept in each keyring.
    """

    def __init__(self) -> None:
        self._sealing = Sealing()
        self._new_in_a_row = 0  # batches

    def run(self, items: Iterable[TokenItem], now: int) -> Steps:
        """Set ``result`` of every item; ``now`` is in Unix seconds."""
        accessed = _touched_since(now)
        known, absent, duplicates = self._classify(items)
        inconsistent = len(absent)
        if self._new_in_a_row >= GUESS_AFTER and all(item.tokenize for item in known.values()):
            row, self._new_in_a_row = self._new_in_a_row, 0  # a full storage refuses the write, and not a look-up
            known = yield from self._store_unseen(known, now)
            self._new_in_a_row = row
        raws = (yield Lookup(list(known))) if known else []
        open_entry = self._sealing.open
        locked: _RawEntries = []
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
        if known and next(iter(known.values())).tokenize:
            self._new_in_a_row = self._new_in_a_row + 1 if len(absent) - inconsistent == len(known) else 0
        if absent:
            yield from self._make(absent, now, accessed)
        if touched:
            yield Touch(touched)
        if duplicates:
            yield from self._answer_duplicates(duplicates, now)

    def _answer_duplicates(self, duplicates: _Duplicates, now: int) -> Steps:
        """Give duplicates the result of the first of them. If its form had no token, theirs may have one."""
        for item, first in duplicates:
            item.result = first.result
        again = [item for item, first in duplicates if isinstance(item.result, Refused) and item.format != first.format]
        if again:
            yield from self.run(again, now)

    def _classify(self, items: Iterable[TokenItem]) -> tuple[dict[bytes, TokenItem], list[TokenItem], _Duplicates]:
        """Split the items: those to look up (by key), inconsistent ones to make, and duplicates of another item."""
        by_key: dict[bytes, TokenItem] = {}
        inconsistent: list[TokenItem] = []
        duplicates: _Duplicates = []
        ring: Keyring | None = None
        cache: NamesAndDeriver
        for item in items:
            item.result = None
            if item.origin is not None:
                inconsistent.append(item)
                continue
            if item.ring is not ring:
                ring, cache = item.ring, names_and_deriver(item.ring)
            name = cache.of_value if item.tokenize else cache.of_token
            item.key = key = name(item.data, item.kind.number)
            first = by_key.setdefault(key, item)  # the first of equal items decides
            if first is not item:
                duplicates.append((item, first))
        return by_key, inconsistent, duplicates

    def _open(self, entries: _RawEntries, accessed: int) -> Generator[FindKeys, Any, list[_Content]]:
        """Open stored entries. If a ring lacks the key, search more keys."""
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

    def _unlock(self, entries: _RawEntries, accessed: int) -> Generator[FindKeys, Any, list[_Content]]:
        """Open entries that no key in their ring opens: search more keys, and try again after each that is found."""
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

    def _store_unseen(self, items: dict[bytes, TokenItem], now: int) -> Generator[Step, Any, dict[bytes, TokenItem]]:
        """Write values as new ones without a look-up. Return the items that were not written: they take the usual way.

        A value that is known after all costs what its token took to draw and to seal. Batches of new values mostly come
        in a row, and each saves a round trip.
        """
        for item in items.values():
            draw_first(item)
        fresh = [item for item in items.values() if item.result is None and item.token]
        outcomes: list[Outcome] = (yield Store(self._rows(fresh, now))) if fresh else []
        for item, (what, _) in zip(fresh, outcomes, strict=True):
            if what == "written":
                item.result = item.token
        left = {key: item for key, item in items.items() if not isinstance(item.result, bytes)}
        for item in left.values():
            item.result = None  # a value that cannot get a token may have one
        return left

    def _make(self, items: list[TokenItem], now: int, accessed: int) -> Steps:
        """Make a token for each value that has no token."""
        for item in items:
            draw_first(item)
        for _ in range(WRITE_ROUNDS_MAX):
            waiting = [item for item in items if item.result is None]
            if not waiting:
                return
            if fresh := [item for item in waiting if item.token and not item.existing]:
                yield from self._write(fresh, now, accessed, adopt=False)
            if adoptable := [item for item in waiting if item.existing and item.result is None]:
                yield from self._write(adoptable, now, accessed, adopt=True)
            if taken := [item for item in waiting if item.result is None and not item.token]:
                yield from self._probe(taken, accessed)
        for item in items:
            if item.result is None:
                item.result = Unavailable("tokens", "entries keep changing")

    def _write(self, items: list[TokenItem], now: int, accessed: int, *, adopt: bool) -> Steps:
        """Write the entries of each item's candidate. If entries exist already, they decide how the item goes on."""
        rows = self._rows(items, now)
        outcomes: list[Outcome] = yield Adopt(rows) if adopt else Store(rows)
        found = [(item, raw) for item, (what, raw) in zip(items, outcomes, strict=True) if what in {"value", "token"}]
        opened = iter((yield from self._open(found, accessed)) if found else ())
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

    def _rows(self, items: list[TokenItem], now: int) -> list[Row]:
        """The two entries of each item. Each is encrypted with a new IV: an IV is never used twice."""
        blocks: dict[Keyring, int] = {}
        for item in items:
            blocks[item.ring] = blocks.get(item.ring, 0) + 2
        data_keys = {ring: ring.sealing_key(count) for ring, count in blocks.items()}
        times = _new_times(now)
        ivs = secure_cell.random_ivs(2 * len(items))
        seal = self._sealing.seal
        rows: list[Row] = []
        for item in items:
            data_key = data_keys[item.ring]
            number = item.kind.number
            h_value = seal(data_key, item.token, next(ivs), times) if item.origin is None else b""
            t_value = item.existing or seal(data_key, encode_token_value(item.data, number), next(ivs), times)
            rows.append(Row(item.key, token_key(item, item.token), h_value, t_value))
        return rows

    def _probe(self, items: list[TokenItem], accessed: int) -> Steps:
        """Choose the next candidate of each item: the first that is free, or holds the same value."""
        groups = [(item, list(islice(candidates_left(item), _PROBE_CANDIDATES))) for item in items]
        wanted = {token_key(item, token): item for item, group in groups for token in group}
        raws: list[bytes | None] = yield Lookup(list(wanted))
        taken = {key: raw for key, raw in zip(wanted, raws, strict=True) if raw is not None}
        opened = yield from self._open([(wanted[key], raw) for key, raw in taken.items()], accessed)
        contents = dict(zip(taken, opened, strict=True))
        for item, group in groups:
            if not group:
                item.result = _EXHAUSTED
            for number, token in enumerate(group, 1):
                key = token_key(item, token)
                if key in taken:
                    _check_candidate(item, token, taken[key], contents[key])
                else:
                    item.token = token
                if item.token or item.result is not None:
                    item.candidates = chain(
                        group[number:], candidates_left(item)
                    )  # in case this one is taken meanwhile
                    break


@lru_cache(maxsize=1)  # many batches share a second
def _touched_since(now: int) -> int:
    return accessed_number(now - TOUCH_SECONDS)


@lru_cache(maxsize=1)  # as above
def _new_times(now: int) -> bytes:
    return encode_times(Times(now, now)).hex().encode()


def _check_candidate(item: TokenItem, token: bytes, raw: bytes, content: _Content) -> None:
    """Decide how an item goes on whose candidate has a ``t.`` entry already.

    The entry can hold this value; then it is adopted. It can be disabled or unreadable; that is an error. If it holds
    another value, ``token`` is emptied, so that another candidate is tried.
    """
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
    """The token in an opened ``h.`` entry, or the error."""
    if not isinstance(content, tuple):
        return content
    inside, times = content
    return _DISABLED if times is not None and times.disabled else inside


def _value_from(item: TokenItem, content: _Content) -> ItemResult:
    """The value in an opened ``t.`` entry, or the error."""
    if not isinstance(content, tuple):
        return content
    inside, times = content
    return _DISABLED if times is not None and times.disabled else _decode_value(item, inside)


def _decode_value(item: TokenItem, inside: bytes) -> ItemResult:
    try:
        value, number = decode_token_value(inside)
    except CorruptData:
        return _UNREADABLE
    return value if number == item.kind.number and value else _UNREADABLE


def _touch(key: bytes, raw: bytes, times: Times, now: int) -> list[tuple[bytes, bytes, bytes]]:
    if times.disabled or now - times.accessed <= TOUCH_SECONDS:
        return []
    return [(key, raw, encode_entry(decode_entry(raw)._replace(accessed=now)))]
