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

from collections.abc import Generator, Iterable, Sequence
from itertools import chain, islice
from operator import attrgetter
from typing import Any, NamedTuple

from msgspec import Struct

from token_worker.errors import Code, CorruptData, Refused, Unavailable
from token_worker.keys.cache import KeySearch
from token_worker.keys.keyring import Keyring, NoMatchingKey
from token_worker.storage.item_group import ItemGroup, group_alike
from token_worker.storage.layout import Layout, Opened, SecondName
from token_worker.storage.steps import WRITTEN, Adopt, Lookup, Outcome, Step, Store, Touch
from token_worker.storage.token_item import Candidate, TokenItem, candidates_left, draw_first, token_key
from token_worker.storage.unseen import store_unseen

WRITE_ROUNDS_MAX = 32
"""Conditional writes for one value before the item is postponed. Only constant interference needs so many."""

GUESS_AFTER = 8
"""Batches in a row of nothing but new values, after which the next one is taken to be such a batch, too."""

_names_of = attrgetter("names")

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


class _Batch(Struct):
    """Keeps what is found out about the items of a batch.

    Attributes:
        now: in Unix seconds.
        mark: see ``Layout.mark``.
        absent: the items that get a token.
        stale: rows of ``Touch``.
        duplicates: items, each with the first item of the batch that wants the same.
    """

    now: int
    mark: Any
    absent: list[TokenItem] = []
    stale: list[tuple[bytes, bytes, bytes]] = []
    duplicates: list[tuple[TokenItem, TokenItem]] = []


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

    def run(self, items: Sequence[TokenItem], now: int, groups: Sequence[ItemGroup] = ()) -> Steps:
        """Set ``result`` of every item, and ``results`` of every group; ``now`` is in Unix seconds.

        If a value is in a group and is an item, too, it counts as one that is first in the group.
        """
        batch = _Batch(now, self._layout.mark(now))
        asked = [*groups, *self._sort(items, batch)] if items else groups
        for group in asked:
            names = self._layout.prepare(group.ring).names
            group.names = (names.of_values if group.tokenize else names.of_tokens)(group.data, group.kind.number)
            for item, name in zip(group.items, group.names, strict=False):  # mostly there are no items
                item.key = name
        if self._new_in_a_row >= GUESS_AFTER and self._guesses and all(group.tokenize for group in asked):
            row, self._new_in_a_row = self._new_in_a_row, 0  # a full storage refuses the write, and not a look-up
            asked = yield from store_unseen(asked, self._layout, batch.now, batch.duplicates)
            self._new_in_a_row = row
        if asked:
            new_before = len(batch.absent) + len(batch.duplicates)
            missed = yield from self._look_up(asked, batch)
            if missed and self._second_name is not None:
                for item in missed:
                    item.result, item.key = None, self._second_name(item.ring, item.data, item.kind.number)
                yield from self._look_up(group_alike(missed), batch)
            if asked[0].tokenize:
                new = len(batch.absent) + len(batch.duplicates) - new_before
                are_new = new and new == sum(len(group.data) for group in asked)
                self._new_in_a_row = self._new_in_a_row + 1 if are_new else 0
        if batch.absent:
            yield from self._make(batch.absent, batch)
        if batch.stale:
            yield Touch(batch.stale)
        if batch.duplicates:
            yield from self._answer_duplicates(batch)
        for group in groups:
            if group.left:
                group.settle()

    def _sort(self, items: Iterable[TokenItem], batch: _Batch) -> list[ItemGroup]:
        """Group the items to look up. Inconsistent ones are not: their token is made."""
        consistent: list[TokenItem] = []
        for item in items:
            item.result = None
            if item.origin is None:
                consistent.append(item)
            else:
                self._layout.prepare(item.ring)
                batch.absent.append(item)
        return group_alike(consistent)

    def _look_up(self, groups: Sequence[ItemGroup], batch: _Batch) -> Generator[Step | FindKeys, Any, list[TokenItem]]:
        """Look up the entries of groups, and take their contents. Return the tokens that are not found."""
        left: list[tuple[TokenItem, Any]] = []
        raws: list[Any] = yield Lookup(groups[0].names if len(groups) == 1 else [*chain(*map(_names_of, groups))])
        start = 0
        for group in groups:
            its_raws = raws if len(groups) == 1 else raws[start : start + len(group.names)]
            start += len(its_raws)
            left += group.take(self._layout.open_many(group, its_raws, batch.mark), its_raws)
        if not left:
            return []
        locked = self._read(left, batch)
        if locked:
            contents = yield from self._unlock(locked, batch.mark)
            for (item, _, _, raw), opened in zip(locked, contents, strict=True):
                _take(item, raw, opened, batch)
        return [item for item, _ in left if item.result is _NOT_FOUND]

    def _read(self, left: list[tuple[TokenItem, Any]], batch: _Batch) -> list[_Stored]:
        """Read entries one by one. Return those that no key in their ring opens."""
        open_value, open_token, mark = self._layout.open_value, self._layout.open_token, batch.mark
        firsts: dict[bytes, TokenItem] = {}
        locked: list[_Stored] = []
        for item, raw in left:
            first = firsts.setdefault(item.key, item)  # the first of equal items decides
            if first is not item:
                batch.duplicates.append((item, first))
            elif raw is None:
                if item.tokenize:
                    batch.absent.append(item)
                else:
                    item.result = _NOT_FOUND
            elif raw.__class__ is not bytes:  # a node of the cluster is away
                item.result = raw
            else:
                open_it = open_value if item.tokenize else open_token
                try:
                    opened = open_it(item.ring, item.key, item.kind.number, raw, mark)
                except NoMatchingKey:
                    locked.append(_Stored(item, item.key, item.tokenize, raw))
                except CorruptData:
                    item.result = _UNREADABLE
                else:
                    _take(item, raw, opened, batch)
        return locked

    def _answer_duplicates(self, batch: _Batch) -> Steps:
        """Give duplicates the result of the first of them. If its form had no token, theirs may have one."""
        duplicates = batch.duplicates
        for item, first in duplicates:
            item.result = first.result
        again = [item for item, first in duplicates if isinstance(item.result, Refused) and item.format != first.format]
        if again:
            yield from self.run(again, batch.now)

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

    def _make(self, items: list[TokenItem], batch: _Batch) -> Steps:
        """Make a token for each value that has no token."""
        now, mark = batch.now, batch.mark
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


def _take(item: TokenItem, raw: bytes, opened: _Content, batch: _Batch) -> None:
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
            batch.absent.append(item)
        else:
            item.result = _NOT_FOUND
    else:
        item.result = content or _UNREADABLE
        if notes.touched:
            batch.stale.append((item.key, raw, notes.touched))


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
