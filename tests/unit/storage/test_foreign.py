"""The token engine in the dense layout, with tokens that were moved from Acra's layout without their text."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.engine_memory import (
    KEY,
    OLD_KEY,
    ORIGIN,
    DenseMemory,
    ForeignMemory,
    candidate,
    code,
    detokenize,
    new_ring,
    run,
    tokenize,
)
from token_worker.acra.value_types import STR
from token_worker.errors import Code, Unavailable
from token_worker.keys.cache import KeySearch
from token_worker.keys.keyring import Keyring
from token_worker.storage.dense.entry import ALONE, DISABLED, FOREIGN, REMOVED
from token_worker.storage.dense.layout import DenseLayout
from token_worker.storage.steps import Lookup
from token_worker.tokens.derivation import LETTERS, Origin

VALUE, TOKEN = b"a value", b"its token"

pytestmark = pytest.mark.usefixtures("guess_after")


@pytest.fixture
def memory() -> ForeignMemory:
    return ForeignMemory()


def put(memory: DenseMemory, token: bytes, value: bytes = VALUE, state: int = 0, ring: Keyring | None = None) -> bytes:
    """Put a foreign entry; its name."""
    content = b"" if state & REMOVED else value
    return memory.put_t(ring or new_ring(), STR, token, content, flags=ALONE | FOREIGN | state)


# Detokenizing


def test_token_is_found_by_a_second_look_up(memory: ForeignMemory, ring: Keyring) -> None:
    """A token that is not found is looked up under its second name. Without such a token there is one look-up."""
    (known,) = run(memory, [tokenize(ring, b"known")])
    assert isinstance(known, bytes)
    put(memory, TOKEN)
    memory.steps.clear()

    found = run(memory, [detokenize(ring, token) for token in (TOKEN, known, b"unknown", TOKEN)])

    assert found[:2] == [VALUE, b"known"]
    assert (code(found[2]), found[3]) == (Code.TOKEN_NOT_FOUND, VALUE)
    assert [len(step.keys) for step in memory.steps] == [4, 2]
    memory.steps.clear()
    assert run(memory, [detokenize(ring, known)]) == [b"known"]
    assert memory.step_names == ["Lookup"]


def test_without_the_record_nothing_more_is_looked_up(ring: Keyring, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the record tells of no such tokens, their names are not even computed, and no step is added."""
    memory = DenseMemory()
    put(memory, TOKEN)
    monkeypatch.setattr(DenseLayout, "_foreign_name", None)

    (found,) = run(memory, [detokenize(ring, TOKEN)])
    assert code(found) is Code.TOKEN_NOT_FOUND
    assert memory.step_names == ["Lookup"]
    memory.steps.clear()
    assert run(memory, [tokenize(ring, VALUE)]) == [candidate(VALUE)]
    assert memory.step_names in (["Lookup", "Store"], ["Store"])


@pytest.mark.parametrize(
    ("state", "expected"), [(DISABLED, Code.TOKEN_DISABLED), (REMOVED, Code.TOKEN_NOT_FOUND), (0, VALUE)]
)
def test_states_of_a_token(memory: ForeignMemory, ring: Keyring, state: int, expected: object) -> None:
    """A token is disabled or removed as any other; a tombstone under its first name does not hide it."""
    put(memory, TOKEN, state=state)
    memory.put_t(ring, STR, TOKEN, b"", flags=REMOVED)

    (found,) = run(memory, [detokenize(ring, TOKEN)])

    assert (found if isinstance(found, bytes) else code(found)) == expected


def test_entry_of_an_older_key_and_a_damaged_one(memory: ForeignMemory) -> None:
    """An entry of an older key is opened when that key is found; one that is damaged is unreadable."""
    put(memory, TOKEN, ring=new_ring(OLD_KEY))
    name = put(memory, b"other")
    memory.entries[name] = memory.damaged(memory.entries[name])
    found_keys: list[Keyring] = []

    def more(ring: Keyring) -> KeySearch:
        if found_keys:
            return KeySearch.EXHAUSTED
        ring.add(OLD_KEY)
        found_keys.append(ring)
        return KeySearch.ADDED

    ring = new_ring(KEY)
    first, second = run(memory, [detokenize(ring, TOKEN), detokenize(ring, b"other")], more=more)

    assert first == VALUE
    assert code(second) is Code.ENTRY_UNREADABLE


# Tokenizing


@pytest.mark.parametrize("value", [VALUE, b"another"])
@pytest.mark.parametrize("state", [0, DISABLED, REMOVED])
def test_candidate_that_is_such_a_token_is_passed_over(
    memory: ForeignMemory, ring: Keyring, value: bytes, state: int
) -> None:
    """A consistent token never equals one that somebody was given in Acra's layout, also of this very value."""
    put(memory, candidate(VALUE), value, state)
    put(memory, candidate(VALUE, 1), value, state)
    before = dict(memory.entries)

    assert run(memory, [tokenize(ring, VALUE), tokenize(ring, b"free")]) == [candidate(VALUE, 2), candidate(b"free")]
    assert run(memory, [tokenize(ring, VALUE)]) == [candidate(VALUE, 2)]
    assert memory.entries.items() >= before.items()


def test_redelivered_item_gets_the_token_that_it_got_before_the_move(memory: ForeignMemory, ring: Keyring) -> None:
    """An inconsistent token that was drawn in Acra's layout is given again when its request is redelivered."""
    token = candidate(VALUE, origin=ORIGIN)
    name = put(memory, token)
    before = dict(memory.entries)

    assert run(memory, [tokenize(ring, VALUE, origin=ORIGIN)]) == [token]
    assert memory.entries == before
    memory.disable(name)
    (refused,) = run(memory, [tokenize(ring, VALUE, origin=ORIGIN)])
    assert code(refused) is Code.TOKEN_DISABLED
    memory.enable(name)
    memory.remove(name)
    assert run(memory, [tokenize(ring, VALUE, origin=ORIGIN)]) == [candidate(VALUE, 1, origin=ORIGIN)]


def test_inconsistent_candidate_of_another_value_is_passed_over(memory: ForeignMemory, ring: Keyring) -> None:
    """An inconsistent token is never one that another value has."""
    put(memory, candidate(VALUE, origin=ORIGIN), b"another")
    assert run(memory, [tokenize(ring, VALUE, origin=ORIGIN)]) == [candidate(VALUE, 1, origin=ORIGIN)]


def test_nearly_all_tokens_are_taken(memory: ForeignMemory, ring: Keyring) -> None:
    """The one token that is free is found among many that are not; without it, the space is exhausted."""
    free = list(dict.fromkeys(candidate(b"x", counter) for counter in range(500)))[-1]
    for letter in LETTERS:
        if bytes([letter]) not in (free, b"x"):
            put(memory, bytes([letter]), b"another")

    assert run(memory, [tokenize(ring, b"x")]) == [free]
    put(memory, b"x", b"another")
    (none,) = run(memory, [tokenize(ring, b"y")])
    assert code(none) is Code.TOKEN_SPACE_EXHAUSTED


# In a cluster


class OneNodeAway(ForeignMemory):
    """A storage that cannot read entries under these names."""

    away: frozenset[bytes] = frozenset()

    def execute(self, step: Any) -> Any:
        found = super().execute(step)
        if isinstance(step, Lookup):
            return [
                Unavailable("tokens", "away") if key in self.away else raw
                for key, raw in zip(step.keys, found, strict=True)
            ]
        return found


def test_node_of_the_second_name_is_away(ring: Keyring) -> None:
    """An item whose second name cannot be read is put off, and nothing is written for it; others are answered."""
    memory = OneNodeAway()
    names = memory.layout.prepare(ring).names
    lone = candidate(VALUE, origin=ORIGIN)
    memory.away = frozenset(names.of_foreign(token, STR.number) for token in (TOKEN, candidate(VALUE), lone))

    items = [detokenize(ring, TOKEN), detokenize(ring, b"unknown")]
    first, second = run(memory, items)
    assert isinstance(first, Unavailable)
    assert code(second) is Code.TOKEN_NOT_FOUND
    results = run(memory, [tokenize(ring, VALUE), tokenize(ring, b"free"), tokenize(ring, VALUE, origin=ORIGIN)])
    assert [isinstance(result, Unavailable) for result in results] == [True, False, True]
    assert set(memory.entries) == {memory.value_key(b"free"), memory.token_key(candidate(b"free"))}


def test_node_of_a_further_candidate_is_away(ring: Keyring) -> None:
    """The same holds for a candidate that is tried after the first was taken."""
    memory = OneNodeAway()
    put(memory, candidate(VALUE))
    memory.away = frozenset({memory.layout.prepare(ring).names.of_foreign(candidate(VALUE, 1), STR.number)})

    (result,) = run(memory, [tokenize(ring, VALUE)])

    assert isinstance(result, Unavailable)
    assert len(memory.entries) == 1


# Any mixture

SHORT = st.sampled_from([b"a", b"b", b"ab", b"cd", b"long value"])
ORIGINS = st.one_of(st.none(), st.integers(0, 2).map(lambda place: Origin(b"requests", b"1-1", place)))


@given(
    moved=st.lists(st.tuples(SHORT, st.integers(0, 3), SHORT, st.sampled_from([0, DISABLED, REMOVED])), max_size=8),
    asked=st.lists(st.lists(st.tuples(SHORT, ORIGINS), max_size=4), max_size=3),
)
def test_no_token_belongs_to_two_values(
    moved: list[tuple[bytes, int, bytes, int]], asked: list[list[tuple[bytes, Origin | None]]]
) -> None:
    """Whatever was moved, every token gives back the one value that it was given for."""
    memory, ring = ForeignMemory(), new_ring()
    owners: dict[bytes, tuple[bytes, int]] = {}
    for value, counter, owner, state in moved:
        owners[candidate(value, counter)] = owner, state
    for moved_token, (owner, state) in owners.items():
        put(memory, moved_token, owner, state)
    given_out: dict[bytes, bytes] = {}
    for batch in asked:
        results = run(memory, [tokenize(ring, value, origin=origin) for value, origin in batch])
        for (value, _), token in zip(batch, results, strict=True):
            assert isinstance(token, bytes)
            assert token not in owners
            assert given_out.setdefault(token, value) == value
    for given_token, value in given_out.items():
        assert run(memory, [detokenize(ring, given_token)]) == [value]
    for moved_token, (owner, state) in owners.items():
        (back,) = run(memory, [detokenize(ring, moved_token)])
        assert isinstance(back, bytes) == (not state)
        assert state or back == owner
