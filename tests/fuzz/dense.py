"""Target *dense*: entries, check values and keys of the dense layout that are damaged, and requests that need them.

It is the target *stored* with stricter rules. An entry that is not bit by bit what it was is ``entry_unreadable``:
changed, cut, extended, or a good entry from another place. Nothing in the token storage is written over or removed.
"""

import random
from collections import Counter
from collections.abc import Sequence

from fuzz import damage
from fuzz.stored import KEYS_ONE_IN, Case, Stored, _code, _is_right
from fuzz.world import UNROTATED, Fault, World
from token_worker.errors import Code
from token_worker.service.handler import Handler
from token_worker.service.replies import Result
from token_worker.storage.dense.entry import HEAD_BYTES, check_name
from token_worker.testing.memory import MemoryKeys

OF_KEYS = frozenset({Code.KEY_UNREADABLE.value, Code.ENTRY_UNREADABLE.value})
"""Errors that name a damaged symmetric key."""

INDEX = b".index/"
"""Begins the names of damaged index keys in cases."""


class Dense(Stored):
    """Damaged entries, check values and keys of the dense layout."""

    name = "dense"

    def __init__(self, seed: str) -> None:
        self.world = World(seed, "dense")
        self.outcomes: Counter[str] = Counter()

    def draw(self) -> list[Case]:
        """The cases of the next batch, each with another value."""
        rng = self._rng
        if rng.random() * KEYS_ONE_IN < 1:
            return rng.choice((self._draw_key, self._draw_index_key, self._draw_check))()
        raws = [raw for name, raw in self.world.entries.items() if name[:1] in {b"v", b"t"}]
        cases: list[Case] = []
        taken: set[bytes] = set()
        for good in rng.sample(self.world.singles, 2 * self.a_batch):
            if good.h_key in taken or len(cases) == self.a_batch:
                continue
            taken.add(good.h_key)
            is_alone = good.op == "tokenize" and good.owner in UNROTATED and rng.random() < 0.3
            name = good.t_key if is_alone else good.needed
            raw = of_entry(rng, self.world.entries[name], raws)
            if raw != self.world.entries[name]:
                cases.append(Case(good, name, raw, good.h_key if is_alone else b""))
        return cases

    def _draw_index_key(self) -> list[Case]:
        good = self._rng.choice(self.world.singles)
        texts = self.world.keys.index
        raw = damage.of_key(self._rng, texts[good.owner.key_name], [*texts.values(), *self.world.keys.sealed.values()])
        return [Case(good, INDEX + good.owner.key_name.encode(), raw, key_of=good.owner)]

    def _draw_check(self) -> list[Case]:
        good = self._rng.choice(self.world.singles)
        name = check_name(good.owner)
        raws = list(self.world.entries.values())
        while (raw := of_entry(self._rng, self.world.entries[name], raws)) == self.world.entries[name]:
            pass
        return [Case(good, name, raw, key_of=good.owner)]

    def _put(self, cases: Sequence[Case]) -> Handler:
        case = cases[0]
        if case.key_of is None:
            return super()._put(cases)
        keys = MemoryKeys()
        keys.sealed, keys.index = self.world.keys.sealed.copy(), self.world.keys.index.copy()
        if case.name.startswith(INDEX):
            keys.index[case.key_of.key_name] = case.raw
        elif case.name == check_name(case.key_of):
            self._tokens.entries[case.name] = case.raw
        else:
            keys.sealed[case.name.decode()] = case.raw
        tokens = self.world.tokens()
        tokens.entries = self._tokens.entries
        return self.world.handler(tokens, keys)

    def _judge(self, case: Case, result: Result, number: int) -> None:
        outcome = "right" if _is_right(case.good, result) else _code(case.good, result)
        if case.key_of is None:
            expected = {Code.ENTRY_UNREADABLE.value}
        elif case.name == check_name(case.key_of):
            expected = {Code.KEY_UNREADABLE.value}
        elif case.name.startswith(INDEX):
            expected = {Code.KEY_UNREADABLE.value, "right"}  # a text may be damaged, and hold the key all the same
        else:
            expected = {*OF_KEYS, "right"}
        if outcome not in expected:
            raise Fault(f"damage led to {outcome}", number)
        self.outcomes[outcome] += 1

    def _compare(self, _cases: Sequence[Case], before: dict[bytes, bytes]) -> None:
        if self._tokens.entries != before:
            raise Fault("the token storage was written to")


def of_entry(rng: random.Random, raw: bytes, others: Sequence[bytes]) -> bytes:
    """An entry, damaged somehow; ``others`` are good ones from other places."""
    chance = rng.random()
    if chance < 0.25:
        return rng.choice(others)
    if chance < 0.4:
        at = rng.randrange(HEAD_BYTES * 8)
        return raw[: at // 8] + bytes([raw[at // 8] ^ 1 << at % 8]) + raw[at // 8 + 1 :]
    if chance < 0.5:
        other = rng.choice(others)  # the head of one entry before the rest of another one
        return rng.choice((raw[:HEAD_BYTES] + other[HEAD_BYTES:], other[:HEAD_BYTES] + raw[HEAD_BYTES:]))
    if chance < 0.6:
        return bytes([rng.randrange(256)]) + raw[1:]
    return damage.of_text(rng, raw, others)
