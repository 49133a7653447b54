"""Tokenizes and detokenizes a batch of items. Pure: it yields the steps that it needs, and is sent their answers.

Steps are those of ``storage.steps``, and ``FindKeys``. A batch takes one look-up, and one conditional write for new
values. It seldom takes more: if a token is taken by another value, if another worker was faster, or if a key is
missing.

The engine promises, whatever others do to the same entries between two steps:

- The same value gets the same token, also several times in one batch, where the first item decides how the token is
  drawn. If its form has no token for the value, the next form is tried. Two values never share a token.
- A value entry is written only if its token entry holds this very value and is enabled. The token entry is written
  together with it, or was read before and has not changed.
- If two workers race for a value, the loser answers with the winner's token.
- An entry that is disabled, unreadable, or of another value is never overwritten. It is a named error, or the next
  candidate is tried.
- A token that was removed, and left a tombstone, is never given out again. A tombstone of the value is replaced by the
  value's next token; a tombstone of the token is passed over.

If the layout has second names, a token that is not found is looked up once more, under its second name; and the second
names of new tokens are looked up before they are written, as such a token is another's, or a redelivered item's own.

The layout of the storage decides how entries are named and what their bytes are; see ``storage.layout``.
"""

from collections.abc import Generator, Iterable
from itertools import chain, islice
from typing import Any, NamedTuple

from token_worker.acra.value_types import TokenType
from token_worker.errors import Code, CorruptData, Refused, Unavailable
from token_worker.keys.cache import KeySearch
from token_worker.keys.keyring import Keyring, NoMatchingKey
from token_worker.storage.layout import Layout, Opened, SecondName
from token_worker.storage.steps import WRITTEN, Adopt, Lookup, Outcome, Step, Store, Touch
from token_worker.storage.token_item import (
    Candidate,
    TokenItem,
    candidates_left,
    draw_first,
    token_key,
)

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


_Touches = list[tuple[bytes, bytes, bytes]]
"""Rows of ``Touch``."""


class _Stored(NamedTuple):
    """An entry as it is stored, and the item for which it was read. ``is_value`` tells which entry it is."""

    item: TokenItem
    name: bytes
    is_value: bool
    raw: bytes


Steps = Generator[Step | FindKeys, Any, None]


class Engine:
    """Tokenizes and detokenizes batches.

    Args:
        layout: of the token storage.
        guesses: True if new values in a row are written without a look-up. A storage that may write one entry of a
            token without the other would keep the token entry of each wrong guess.
    """

    def __init__(self, layout: Layout, *, guesses: bool = True) -> None:
        self._layout = layout
        self._second_name = layout.second_name
        self._guesses = guesses and layout.second_name is None
        self._new_in_a_row = 0  # batches

    def run(self, items: Iterable[TokenItem], now: int) -> Steps:
        """Set ``result`` of every item; ``now`` is in Unix seconds."""
        mark = self._layout.mark(now)
        known, absent, duplicates = self._classify(items)
        inconsistent = len(absent)
        if self._guesses and self._new_in_a_row >= GUESS_AFTER and all(item.tokenize for item in known.values()):
            row, self._new_in_a_row = self._new_in_a_row, 0  # a full storage refuses the write, and not a look-up
            known = yield from self._store_unseen(known, now)
            self._new_in_a_row = row
        stale: _Touches = []
        if known:
            yield from self._look_up(known, mark, absent, stale)
        if self._second_name is not None:
            missed = _by_second_name(known.values(), self._second_name)
            if missed:
                yield from self._look_up(missed, mark, absent, stale)
        if known and next(iter(known.values())).tokenize:
            self._new_in_a_row = self._new_in_a_row + 1 if len(absent) - inconsistent == len(known) else 0
        if absent:
            yield from self._make(absent, now, mark)
        if stale:
            yield Touch(stale)
        if duplicates:
            yield from self._answer_duplicates(duplicates, now)

    def _look_up(
        self, known: dict[bytes, TokenItem], mark: Any, absent: list[TokenItem], stale: _Touches
    ) -> Generator[Step | FindKeys, Any, None]:
        """Look up entries, and take their contents."""
        raws = yield Lookup(list(known))
        locked = self._read(known, raws, mark, absent, stale)
        if locked:
            contents = yield from self._unlock(locked, mark)
            for (item, _, _, raw), opened in zip(locked, contents, strict=True):
                _take(item, raw, opened, absent, stale)

    def _read(
        self,
        known: dict[bytes, TokenItem],
        raws: list[Any],
        mark: Any,
        absent: list[TokenItem],
        stale: _Touches,
    ) -> list[_Stored]:
        """Read the entries that were looked up. Return those that no key in their ring opens."""
        open_value, open_token = self._layout.open_value, self._layout.open_token
        locked: list[_Stored] = []
        kind: TokenType | None = None
        contents = self._layout.open_many(known.values(), raws, mark)
        for item, raw, opened in zip(known.values(), raws, contents, strict=True):
            if opened:
                item.result = opened
                continue
            if raw.__class__ is not bytes:
                if raw is not None:  # a node of the cluster is away
                    item.result = raw
                elif item.tokenize:
                    absent.append(item)
                else:
                    item.result = _NOT_FOUND
                continue
            if item.kind is not kind:
                kind = item.kind
                number = kind.number
            try:
                if item.tokenize:
                    content, notes = open_value(item.ring, item.key, number, raw, mark)
                else:
                    content, notes = open_token(item.ring, item.key, number, raw, mark)
            except NoMatchingKey:
                locked.append(_Stored(item, item.key, item.tokenize, raw))
            except CorruptData:
                item.result = _UNREADABLE
            else:
                if notes is None:
                    item.result = content or _UNREADABLE
                else:
                    _take(item, raw, (content, notes), absent, stale)
        return locked

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
        alike: dict[tuple[Keyring, int, bool], list[TokenItem]] = {}
        for item in items:
            item.result = None
            if item.origin is None:
                alike.setdefault((item.ring, item.kind.number, item.tokenize), []).append(item)
            else:
                self._layout.prepare(item.ring)
                inconsistent.append(item)
        for (ring, number, tokenize), group in alike.items():
            names = self._layout.prepare(ring).names
            keys = (names.of_values if tokenize else names.of_tokens)([item.data for item in group], number)
            for item, key in zip(group, keys, strict=True):
                item.key = key
                first = by_key.setdefault(key, item)  # the first of equal items decides
                if first is not item:
                    duplicates.append((item, first))
        return by_key, inconsistent, duplicates

    def _open_one(self, stored: _Stored, mark: Any) -> Opened:
        item, name, is_value, raw = stored
        open_it = self._layout.open_value if is_value else self._layout.open_token
        return open_it(item.ring, name, item.kind.number, raw, mark)

    def _open(self, entries: list[_Stored], mark: Any) -> Generator[FindKeys, Any, list[_Content]]:
        """Open stored entries. If a ring lacks the key, search more keys."""
        opened: list[_Content] = []
        locked: list[int] = []
        for stored in entries:
            try:
                opened.append(self._open_one(stored, mark))
            except NoMatchingKey:
                locked.append(len(opened))
                opened.append(_UNREADABLE)
            except CorruptData:
                opened.append(_UNREADABLE)
        if locked:
            unlocked = yield from self._unlock([entries[number] for number in locked], mark)
            for number, content in zip(locked, unlocked, strict=True):
                opened[number] = content
        return opened

    def _unlock(self, entries: list[_Stored], mark: Any) -> Generator[FindKeys, Any, list[_Content]]:
        """Open entries that no key in their ring opens: search more keys, and try again after each that is found."""
        opened: list[_Content] = [_UNREADABLE] * len(entries)
        locked = list(range(len(entries)))
        while locked:
            rings = list({entries[number].item.ring for number in locked})
            answers = dict(zip(rings, (yield FindKeys(rings)), strict=True))
            still: list[int] = []
            for number in locked:
                ring = entries[number].item.ring
                answer = answers[ring]
                if isinstance(answer, Unavailable):
                    opened[number] = answer
                elif answer is KeySearch.EXHAUSTED:
                    opened[number] = _KEY_UNREADABLE if ring.some_unreadable else _UNREADABLE
                else:
                    try:
                        opened[number] = self._open_one(entries[number], mark)
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
        draw_first(items.values())
        fresh = [item for item in items.values() if item.result is None and item.token]
        outcomes: list[Outcome] = (yield Store(self._layout.rows(fresh, now))) if fresh else []
        for item, (what, *_) in zip(fresh, outcomes, strict=True):
            if what == "written":
                item.result = item.token
        left = {key: item for key, item in items.items() if not isinstance(item.result, bytes)}
        for item in left.values():
            item.result = None  # a value that cannot get a token may have one
        return left

    def _make(self, items: list[TokenItem], now: int, mark: Any) -> Steps:
        """Make a token for each value that has no token."""
        draw_first(items)
        waiting = items
        for _ in range(WRITE_ROUNDS_MAX):
            fresh = [item for item in waiting if item.result is None and item.token and not item.existing]
            if self._second_name is not None and fresh:
                fresh = yield from self._pass_over(fresh, self._second_name, mark)
            if fresh:
                yield from self._write(fresh, now, mark, adopt=False)
            waiting = [item for item in waiting if item.result is None]
            if not waiting:
                return
            if adoptable := [item for item in waiting if item.existing]:
                yield from self._write(adoptable, now, mark, adopt=True)
            if taken := [item for item in waiting if item.result is None and not item.token]:
                yield from self._probe(taken, mark)
        for item in items:
            if item.result is None:
                item.result = Unavailable("tokens", "entries keep changing")

    def _pass_over(
        self, items: list[TokenItem], second_name: SecondName, mark: Any
    ) -> Generator[Step | FindKeys, Any, list[TokenItem]]:
        """Look up the second names of candidates. Return the items whose candidate is no token yet."""
        keys = [second_name(item.ring, item.token, item.kind.number) for item in items]
        raws: list[Any] = yield Lookup(keys)
        met: list[_Stored] = []
        for item, key, raw in zip(items, keys, raws, strict=True):
            if isinstance(raw, Unavailable):
                item.result = raw
            elif raw is not None:
                met.append(_Stored(item, key, False, raw))
        if met:
            contents = yield from self._open(met, mark)
            for (item, _, _, raw), content in zip(met, contents, strict=True):
                _check_candidate(item, (item.token, item.counter), raw, content)
        return [item for item in items if item.result is None and item.token]

    def _write(self, items: list[TokenItem], now: int, mark: Any, *, adopt: bool) -> Steps:
        """Write the entries of each item's candidate. If entries exist already, they decide how the item goes on."""
        rows = self._layout.rows(items, now)
        outcomes: list[Outcome] = yield Adopt(rows) if adopt else Store(rows)
        if outcomes.count(WRITTEN) == len(items):  # the usual case
            for item in items:
                item.result, item.existing = item.token, b""
            return
        found = [
            _Stored(item, row.h_key if what == "value" else row.t_key, what == "value", raw)
            for item, row, (what, raw, _) in zip(items, rows, outcomes, strict=True)
            if what in {"value", "token"}
        ]
        opened = iter((yield from self._open(found, mark)) if found else ())
        for item, (what, raw, error) in zip(items, outcomes, strict=True):
            item.existing = b""
            if what == "written":
                item.result = item.token
            elif what == "value":
                _take_winner(item, raw, next(opened))
            elif what == "token":
                _check_candidate(item, (item.token, item.counter), raw, next(opened))
            elif what == "broken":
                item.result = _UNREADABLE
            elif what == "away":
                item.result = error

    def _probe(self, items: list[TokenItem], mark: Any) -> Steps:
        """Choose the next candidate of each item: the first that is free, or holds the same value."""
        groups = [(item, list(islice(candidates_left(item), _PROBE_CANDIDATES))) for item in items]
        wanted = {key: item for item, group in groups for token, _ in group for key in self._token_keys(item, token)}
        raws: list[bytes | Unavailable | None] = yield Lookup(list(wanted))
        taken = {key: raw for key, raw in zip(wanted, raws, strict=True) if raw is not None}
        stored = [_Stored(wanted[key], key, False, raw) for key, raw in taken.items() if isinstance(raw, bytes)]
        opened = yield from self._open(stored, mark)
        contents = {entry.name: content for entry, content in zip(stored, opened, strict=True)}
        for item, group in groups:
            if not group:
                item.result = _EXHAUSTED
            for number, (token, counter) in enumerate(group, 1):
                key = next((key for key in self._token_keys(item, token) if key in taken), None)
                if key is None:
                    item.token, item.counter = token, counter
                elif isinstance(raw := taken[key], Unavailable):
                    item.result = raw
                else:
                    _check_candidate(item, (token, counter), raw, contents[key])
                if item.token or item.result is not None:
                    item.candidates = chain(
                        group[number:], candidates_left(item)
                    )  # in case this one is taken meanwhile
                    break

    def _token_keys(self, item: TokenItem, token: bytes) -> list[bytes]:
        """Return the names that the token entry of a candidate may have."""
        keys = [token_key(item, token)]
        if self._second_name is not None:
            keys.append(self._second_name(item.ring, token, item.kind.number))
        return keys


def _by_second_name(items: Iterable[TokenItem], second_name: SecondName) -> dict[bytes, TokenItem]:
    """Return the tokens that were not found, by their second names."""
    missed = [item for item in items if item.result is _NOT_FOUND]
    for item in missed:
        item.key = second_name(item.ring, item.data, item.kind.number)
    return {item.key: item for item in missed}


def _take(item: TokenItem, raw: bytes, opened: _Content, absent: list[TokenItem], stale: _Touches) -> None:
    """Set the result of an item from its entry, or add the item to those that get a new token."""
    if not isinstance(opened, tuple):
        item.result = opened
        return
    content, notes = opened
    if notes is None:
        item.result = content or _UNREADABLE
    elif notes.disabled:
        item.result = _DISABLED
    elif notes.removed:
        if item.tokenize:
            item.tombstone, item.first_counter = raw, notes.next_counter
            absent.append(item)
        else:
            item.result = _NOT_FOUND
    else:
        item.result = content or _UNREADABLE
        if notes.touched:
            stale.append((item.key, raw, notes.touched))


def _take_winner(item: TokenItem, raw: bytes, opened: _Content) -> None:
    """Take the token that another worker was faster to write. If it was removed since, begin again after it."""
    if not isinstance(opened, tuple):
        item.result = opened
        return
    token, notes = opened
    if notes is None or not (notes.disabled or notes.removed):
        item.result = token
    elif notes.disabled:
        item.result = _DISABLED
    else:
        item.tombstone, item.first_counter = raw, notes.next_counter
        draw_first([item])


def _check_candidate(item: TokenItem, candidate: Candidate, raw: bytes, content: _Content) -> None:
    """Decide how an item goes on whose candidate has a token entry already.

    The entry can hold this value; then it is adopted. It can be disabled or unreadable; that is an error. If it holds
    another value, or was removed, ``token`` is emptied, so that another candidate is tried.
    """
    item.token = b""
    if not isinstance(content, tuple):
        item.result = content
        return
    value, notes = content
    if value != item.data or (notes is not None and notes.alone and item.origin is None):
        return
    if notes is not None and notes.disabled:
        item.result = _DISABLED
    elif item.origin is not None:
        item.result = candidate[0]
    else:
        (item.token, item.counter), item.existing = candidate, raw
