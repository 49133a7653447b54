"""Turns a batch of items into tokens or values. Pure: it yields the steps it wants done, and is sent their answers.

Steps are those of ``storage.steps`` and ``MoreKeys``. A batch takes one look-up, one conditional write for what is new,
and seldom more: where a token is taken by another value, where another worker was faster, or where a key is missing.

What it promises, whatever others do to the same entries between two steps:

- the same value gives the same token, also several times in one batch; two values never share one;
- ``h.`` is only written for a ``t.`` that holds this very value, is enabled, and was written with it or read before;
- who loses a race answers with the winner's token;
- an entry that is disabled, unreadable or of another value is a named error or passed over, never overwritten.
"""

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from token_worker.errors import Code, Damaged, Refused, Unavailable
from token_worker.keys.cache import More
from token_worker.keys.keyring import Keyring, Locked
from token_worker.storage.layout import (
    Entry,
    Names,
    decode_entry,
    decode_token_value,
    encode_entry,
    encode_token_value,
)
from token_worker.storage.steps import Adopt, Lookup, Outcome, Row, Step, Store, Touch
from token_worker.tokens.derivation import Deriver, Origin, tries
from token_worker.tokens.types import BYTES, LETTERS, STR, TokenType

TOUCH_SECONDS = 24 * 3600
"""A read moves an entry's time of last use when it is older than this, as Acra does."""

ROUNDS = 32
"""Conditional writes a value may need before it is given back for later: only constant interference needs more."""

_PROBES = 64
"""Candidates of one value looked up at once, after its first one was taken."""

_TOKENS_OF_ONE_BYTE = {STR: len(LETTERS), BYTES: 256}
"""How many tokens there are; looking for the one that is free ends when all have come."""

_NOT_FOUND = Refused(Code.TOKEN_NOT_FOUND, "there is no such token of this type for this client or zone")
_DISABLED = Refused(Code.TOKEN_DISABLED, "the token is disabled")
_EXHAUSTED = Refused(Code.TOKEN_SPACE_EXHAUSTED, "no free token of this type and length was found")
_UNREADABLE = Refused(Code.ENTRY_UNREADABLE, "the stored entry cannot be read")
_KEY_UNREADABLE = Refused(Code.KEY_UNREADABLE, "a key in the history of this client or zone cannot be read")

Result = bytes | Refused | Unavailable
"""Encoded token or value; why there is none; or that it cannot be known now."""


class MoreKeys(NamedTuple):
    """Look for further keys of these rings. Answer: for each a ``More``, or ``Unavailable``."""

    rings: list[Keyring]


class Item:
    """One value to tokenize, or one token to turn back.

    Attributes:
        ring: keys of the zone where one is given, else of the client.
        data: the encoded value or token, at least one byte.
        origin: only for an inconsistent token.
        result: None until the engine is done.
    """

    __slots__ = ("data", "kind", "origin", "result", "ring", "tokenize")

    def __init__(
        self, ring: Keyring, kind: TokenType, data: bytes, *, tokenize: bool, origin: Origin | None = None
    ) -> None:
        self.ring = ring
        self.kind = kind
        self.data = data
        self.tokenize = tokenize
        self.origin = origin
        self.result: Result | None = None


class _Holder:
    """What is computed once for a ring."""

    __slots__ = ("deriver", "names")

    def __init__(self, ring: Keyring) -> None:
        self.names = Names(ring.owner)
        self.deriver = Deriver(ring.current, ring.owner)


@dataclass(slots=True, eq=False)
class _Task:
    """One entry to find, or one token to make, for all items of the batch that want the same."""

    ring: Keyring
    holder: _Holder
    kind: TokenType
    data: bytes
    key: bytes
    tokenize: bool
    origin: Origin | None
    items: list[Item] = field(default_factory=list)
    result: Result | None = None
    candidates: Iterator[bytes] = field(default_factory=lambda: iter(()))
    token: bytes = b""
    seen: bytes = b""


class _Opened(NamedTuple):
    entry: Entry
    inside: bytes


Steps = Generator[Step | MoreKeys, Any, None]


class Engine:
    """Keeps what is worth keeping from batch to batch: prepared names and derivation keys of each keyring."""

    def __init__(self) -> None:
        self._holders: WeakKeyDictionary[Keyring, _Holder] = WeakKeyDictionary()

    def run(self, items: Iterable[Item], now: int) -> Steps:
        """Set ``result`` of every item; ``now`` is in Unix seconds."""
        tasks = self._tasks(items)
        known = [task for task in tasks if task.origin is None]
        raws = yield Lookup([task.key for task in known])
        found = [(task, raw) for task, raw in zip(known, raws, strict=True) if raw is not None]
        touched: list[tuple[bytes, bytes, bytes]] = []
        opened = yield from self._open(found)
        for (task, raw), content in zip(found, opened, strict=True):
            if isinstance(content, _Opened):
                touched += _touch(task.key, raw, content.entry, now)
            task.result = _found(content) if task.tokenize else _turned_back(task, content)
        absent = [task for task in tasks if task.result is None]
        for task in absent:
            if not task.tokenize:
                task.result = _NOT_FOUND
        yield from self._make([task for task in absent if task.tokenize], now)
        if touched:
            yield Touch(touched)
        for task in tasks:
            for item in task.items:
                item.result = task.result

    def _tasks(self, items: Iterable[Item]) -> list[_Task]:
        tasks: dict[bytes | int, _Task] = {}
        for number, item in enumerate(items):
            holder = self._holders.get(item.ring)
            if holder is None:
                holder = self._holders[item.ring] = _Holder(item.ring)
            key = b""
            if item.origin is None:
                name = holder.names.of_value if item.tokenize else holder.names.of_token
                key = name(item.data, item.kind.number)
            task = tasks.get(key or number)
            if task is None:
                task = _Task(item.ring, holder, item.kind, item.data, key, item.tokenize, item.origin)
                tasks[key or number] = task
            task.items.append(item)
        return list(tasks.values())

    def _open(
        self, entries: list[tuple[_Task, bytes]]
    ) -> Generator[Step | MoreKeys, Any, list[_Opened | Refused | Unavailable]]:
        """Open stored entries; those that no key at hand opens once more with each key that is found."""
        opened: list[_Opened | Refused | Unavailable] = []
        locked: list[int] = []
        for number, (task, raw) in enumerate(entries):
            content = _open(task.ring, raw)
            if content is None:
                locked.append(number)
            opened.append(_UNREADABLE if content is None else content)
        while locked:
            rings = list({entries[number][0].ring for number in locked})
            answers = dict(zip(rings, (yield MoreKeys(rings)), strict=True))
            still: list[int] = []
            for number in locked:
                task, raw = entries[number]
                answer = answers[task.ring]
                content = _open(task.ring, raw) if answer is More.ADDED else None
                if content is not None:
                    opened[number] = content
                elif isinstance(answer, Unavailable):
                    opened[number] = answer
                elif answer is More.NONE:
                    opened[number] = _KEY_UNREADABLE if task.ring.some_unreadable else _UNREADABLE
                else:
                    still.append(number)
            locked = still
        return opened

    def _make(self, tasks: list[_Task], now: int) -> Steps:
        """Make a token for each value that has none."""
        for task in tasks:
            try:
                task.kind.check_new(task.data)
            except Refused as refused:
                task.result = refused
            else:
                task.candidates = _candidates(task)
                task.token = next(task.candidates)
        for _ in range(ROUNDS):
            waiting = [task for task in tasks if task.result is None]
            if not waiting:
                return
            yield from self._write([task for task in waiting if task.token and not task.seen], now, adopt=False)
            yield from self._write([task for task in waiting if task.seen and task.result is None], now, adopt=True)
            yield from self._probe([task for task in waiting if task.result is None and not task.token])
        for task in tasks:
            if task.result is None:
                task.result = Unavailable("tokens", "entries keep changing")

    def _write(self, tasks: list[_Task], now: int, *, adopt: bool) -> Steps:
        """Write the entries of each task's candidate; what was there already decides how the task goes on."""
        if not tasks:
            return
        rows = [_row(task, now) for task in tasks]
        outcomes: list[Outcome] = yield Adopt(rows) if adopt else Store(rows)
        existing = [
            (task, raw) for task, (what, raw) in zip(tasks, outcomes, strict=True) if what in {"value", "token"}
        ]
        opened = iter((yield from self._open(existing)))
        for task, (what, raw) in zip(tasks, outcomes, strict=True):
            task.seen = b""
            if what == "written":
                task.result = task.token
            elif what == "value":
                task.result = _found(next(opened))
            elif what == "token":
                _consider(task, task.token, raw, next(opened))
            elif what == "broken":
                task.result = _UNREADABLE

    def _probe(self, tasks: list[_Task]) -> Steps:
        """For tasks whose candidate was taken: choose the first of the next ones that is free or holds the value."""
        if not tasks:
            return
        groups = [(task, list(islice(task.candidates, _PROBES))) for task in tasks]
        wanted = {_token_key(task, token): task for task, group in groups for token in group}
        raws: list[bytes | None] = yield Lookup(list(wanted))
        taken = {key: raw for key, raw in zip(wanted, raws, strict=True) if raw is not None}
        opened = yield from self._open([(wanted[key], raw) for key, raw in taken.items()])
        contents = dict(zip(taken, opened, strict=True))
        for task, group in groups:
            if not group:
                task.result = _EXHAUSTED
            for number, token in enumerate(group, 1):
                key = _token_key(task, token)
                if key in taken:
                    _consider(task, token, taken[key], contents[key])
                else:
                    task.token = token
                if task.token or task.result is not None:
                    task.candidates = chain(group[number:], task.candidates)  # should this one be taken meanwhile
                    break


def _candidates(task: _Task) -> Iterator[bytes]:
    """Candidates in the order of their counters, each once; the value itself last, if it is one at all."""
    seen: set[bytes] = set()
    there_are = _TOKENS_OF_ONE_BYTE.get(task.kind) if len(task.data) == 1 else None
    for counter in range(tries(len(task.data))):
        if len(seen) == there_are:
            break  # all that follow came before
        token = task.holder.deriver.token(task.kind, task.data, counter, task.origin)
        if token not in seen:
            seen.add(token)
            if token != task.data:
                yield token
    if task.data in seen:
        yield task.data


def _token_key(task: _Task, token: bytes) -> bytes:
    return task.holder.names.of_token(token, task.kind.number)


def _row(task: _Task, now: int) -> Row:
    """The two entries, each encrypted anew: an IV is never used twice."""
    seal = task.ring.seal
    h_value = b""
    if task.origin is None:
        h_value = encode_entry(Entry(seal(task.token), now, now))
    t_value = task.seen or encode_entry(Entry(seal(encode_token_value(task.data, task.kind.number)), now, now))
    return Row(task.key, _token_key(task, task.token), h_value, t_value)


def _consider(task: _Task, token: bytes, raw: bytes, content: _Opened | Refused | Unavailable) -> None:
    """The candidate's ``t.`` exists: ours to adopt, disabled, unreadable, or (``token`` emptied) of another value."""
    task.token = b""
    if not isinstance(content, _Opened):
        task.result = content
        return
    try:
        value, number = decode_token_value(content.inside)
    except Damaged:
        task.result = _UNREADABLE
        return
    if (value, number) != (task.data, task.kind.number):
        return
    if content.entry.disabled:
        task.result = _DISABLED
    elif task.origin is not None:
        task.result = token
    else:
        task.token, task.seen = token, raw


def _found(content: _Opened | Refused | Unavailable) -> Result:
    """The token in an ``h.`` entry."""
    if not isinstance(content, _Opened):
        return content
    if content.entry.disabled:
        return _DISABLED
    return content.inside


def _turned_back(task: _Task, content: _Opened | Refused | Unavailable) -> Result:
    """The value in a ``t.`` entry."""
    if not isinstance(content, _Opened):
        return content
    if content.entry.disabled:
        return _DISABLED
    try:
        value, number = decode_token_value(content.inside)
    except Damaged:
        return _UNREADABLE
    return value if number == task.kind.number and value else _UNREADABLE


def _open(ring: Keyring, raw: bytes) -> _Opened | Refused | None:
    """The entry and what its block holds; None where another key may be needed."""
    try:
        entry = decode_entry(raw)
        return _Opened(entry, ring.open(entry.block))
    except Locked:
        return None
    except Damaged:
        return _UNREADABLE


def _touch(key: bytes, raw: bytes, entry: Entry, now: int) -> list[tuple[bytes, bytes, bytes]]:
    if entry.disabled or now - entry.accessed <= TOUCH_SECONDS:
        return []
    return [(key, raw, encode_entry(entry._replace(accessed=now)))]
