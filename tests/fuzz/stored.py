"""Target *stored*: token entries and keys that are damaged, and requests that need them.

Each damaged value is asked for beside good neighbours. Two results are right: the right answer, if the damage does
not matter, or an error that names the damage. Another answer is wrong, and so is ``token_not_found``. A damaged
value is not overwritten, except for the time of last use of an entry that still opens. If whole entries of one client
change places, the format cannot show it (see docs/security.md): then just nothing may break.
"""

import binascii
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import structlog

from fuzz import damage
from fuzz.mutations import Fields
from fuzz.world import MARK, MARK_DIGITS, UNROTATED, Fault, Good, World, answer_is
from token_worker.acra.key_name import HISTORY_INFIX
from token_worker.acra.owner import Owner
from token_worker.acra.token_entry import decode_entry
from token_worker.contract.messages import Format
from token_worker.errors import Code, CorruptData
from token_worker.service.handler import Handler
from token_worker.service.replies import Result
from token_worker.streams.entry import Answer
from token_worker.testing.memory import MemoryKeys

A_BATCH = 16
NEIGHBOURS = 3
KEYS_ONE_IN = 4
"""Of this many batches one has a damaged key instead of damaged entries."""

DAMAGED = frozenset({Code.ENTRY_UNREADABLE.value, Code.KEY_UNREADABLE.value, Code.TOKEN_DISABLED.value})
"""Errors that name damage. A changed bit can disable an entry, since its times are not sealed."""


class Case(NamedTuple):
    """A stored value that was damaged, and the request that needs it.

    Attributes:
        name: of the stored value.
        raw: the damaged value.
        absent: name of the value's entry if the case removes it, so that the token is derived again, and found.
    """

    good: Good
    name: bytes
    raw: bytes
    absent: bytes = b""
    key_of: Owner | None = None

    def saved(self) -> Fields:
        """The damaged value and the request, to be kept in a file."""
        return {b"name": self.name, b"raw": self.raw, b"request": self.good.payload}


class Stored:
    """Damaged token entries and keys."""

    name = "stored"
    a_batch = A_BATCH

    def __init__(self, seed: str) -> None:
        self.world = World(seed)
        self._blocks = {raw: decode_entry(raw).block for raw in self.world.entries.values()}
        self.outcomes: Counter[str] = Counter()

    def begin(self, rng: random.Random) -> None:
        """Start a round without anything of the rounds before."""
        self._rng = rng
        self._tokens = self.world.tokens()
        self._handler = self.world.handler(self._tokens)

    def largest(self) -> list[list[Case]]:
        """Batches of the largest cases: stored values of 10 MB."""
        good = self.world.singles[0]
        return [[Case(good, good.h_key, filler * 10_000_000)] for filler in (b"2", b"0a", b"\xff")]

    def draw(self) -> list[Case]:
        """The cases of the next batch, each with another value."""
        rng = self._rng
        if rng.random() * KEYS_ONE_IN < 1:
            return self._draw_key()
        raws = list(self.world.entries.values())
        cases: list[Case] = []
        taken: set[bytes] = set()
        for good in rng.sample(self.world.singles, 2 * A_BATCH):
            if good.h_key in taken or len(cases) == A_BATCH:
                continue
            taken.add(good.h_key)
            is_alone = good.op == "tokenize" and good.owner in UNROTATED and rng.random() < 0.3
            name = good.t_key if is_alone else good.needed
            raw = damage.of_entry(rng, self.world.entries[name], raws)
            cases.append(Case(good, name, raw, good.h_key if is_alone else b""))
        return cases

    def _draw_key(self) -> list[Case]:
        rng = self._rng
        good = rng.choice(self.world.singles)
        sealed = self.world.keys.sealed
        names = [name for name in sealed if name == good.owner.key_name or name.startswith(good.owner.key_name + ".")]
        name = rng.choice(names)
        raw = damage.of_key(rng, sealed[name], list(sealed.values()))
        return [Case(good, name.encode(), raw, key_of=good.owner)]

    def check(self, cases: Sequence[Case]) -> None:
        """Put the damaged values in place, ask for them, and put things right again.

        Raises:
            Fault: a check failed.
        """
        key_of = next((case.key_of for case in cases if case.key_of is not None), None)
        self._tokens.entries = self.world.entries.copy()
        handler = self._put(cases)
        before = self._tokens.entries.copy()
        asked = [case.good for case in cases]
        needed = {name for case in cases for name in (case.good.h_key, case.good.t_key)}
        pool = [one for one in self._rng.sample(self.world.singles, 4 * NEIGHBOURS) if one.h_key not in needed]
        asked += [one for one in pool if key_of is None or key_of.id not in one.message.values()][:NEIGHBOURS]
        asks = [self.world.next_entry({b"payload": one.payload}) for one in asked]
        with structlog.testing.capture_logs() as lines:
            results = {result.entry.id: result for result in handler.handle(asks)}
        if len(results) != len(asks):
            raise Fault(f"{len(results)} results for {len(asks)} entries")
        if any(MARK in str(line) or MARK_DIGITS in str(line) for line in lines):
            raise Fault("a log line tells something of a value")
        for number, (entry, good) in enumerate(zip(asks, asked, strict=True)):
            if number < len(cases):
                self._judge(cases[number], results[entry.id], number)
            elif not _is_right(good, results[entry.id]):
                raise Fault("a good neighbour has not got its right answer")
        self._compare(cases, before)

    def _put(self, cases: Sequence[Case]) -> Handler:
        """Put the damaged values in place. Return the handler that meets them."""
        if cases[0].key_of is not None:
            keys = MemoryKeys()
            keys.sealed = {**self.world.keys.sealed, cases[0].name.decode(): cases[0].raw}
            return self.world.handler(self._tokens, keys)
        entries = self._tokens.entries
        for case in cases:
            entries[case.name] = case.raw
            entries.pop(case.absent, None)
        return self._handler

    def _judge(self, case: Case, result: Result, number: int) -> None:
        if _is_right(case.good, result):
            self.outcomes["right"] += 1
            return
        outcome = _code(case.good, result)
        if self._is_swapped(case):
            self.outcomes["swapped"] += 1
        elif outcome not in DAMAGED:
            raise Fault(f"a damaged {'entry' if case.key_of is None else 'key'} led to {outcome}", number)
        else:
            self.outcomes[outcome] += 1

    def _is_swapped(self, case: Case) -> bool:
        """Tell whether the damaged value is, or contains, another good value of the same owner."""
        if case.key_of is not None:
            sealed = self.world.keys.sealed
            own = [text for name, text in sealed.items() if name.split(HISTORY_INFIX)[0] == case.key_of.key_name]
            return case.raw.strip() in [text for text in own if text != sealed[case.name.decode()]]
        try:
            message = binascii.unhexlify(case.raw)
        except ValueError:
            return False
        own_block = self._blocks[self.world.entries[case.name]]
        return any(block in message for block in self._blocks.values() if block != own_block)

    def _compare(self, cases: Sequence[Case], before: dict[bytes, bytes]) -> None:
        """Check that only entries that open were written, and that only their time of last use changed."""
        absent = {case.absent for case in cases if case.absent}
        swapped = any(self._is_swapped(case) for case in cases)
        for name, raw in self._tokens.entries.items():
            if name not in before:
                if name in absent or swapped:
                    continue
                raise Fault("an entry was written that nobody needs")
            old = before[name]
            if raw is not old and not _is_same_but_used(raw, old):
                raise Fault("a stored entry was overwritten")
        if len(self._tokens.entries) < len(before):
            raise Fault("a stored entry was removed")


def _is_right(good: Good, result: Result) -> bool:
    return isinstance(result, Answer) and answer_is(good, result)


def _code(good: Good, result: Result) -> str:
    """The code of an error of the contract; for other answers a word that describes them."""
    if not isinstance(result, Answer):
        return type(result).__name__
    reply: dict[str, Any] = (msgspec.json if good.format is Format.JSON else msgspec.msgpack).decode(result.payload)
    return str(reply["error"]["code"]) if reply["status"] == "error" else "another answer"


def _is_same_but_used(raw: bytes, old: bytes) -> bool:
    try:
        return decode_entry(raw)._replace(accessed=0) == decode_entry(old)._replace(accessed=0)
    except CorruptData:
        return False
