"""The token engine in both layouts, driven against a dictionary."""

import gc
import secrets
from collections.abc import Callable

import pytest

from harness.engine_memory import (
    BILLING,
    NOW,
    OLD_KEY,
    ORIGIN,
    SHOP,
    EngineMemory,
    candidate,
    code,
    detokenize,
    new_ring,
    run,
    tokenize,
)
from token_worker.acra.owner import Owner
from token_worker.acra.value_types import BYTES, EMAIL, INT32, INT64, STR, TokenType
from token_worker.errors import Code, Unavailable
from token_worker.keys.cache import KeySearch
from token_worker.keys.keyring import Keyring
from token_worker.storage.acra.layout import STALE_SECONDS
from token_worker.storage.steps import Lookup, Store
from token_worker.storage.token_item import ItemResult, TokenItem
from token_worker.tokens.derivation import LETTERS, Origin

pytestmark = pytest.mark.usefixtures("guess_after")


# What a batch gives and costs


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (INT32, b"\x00" * 4),
        (INT64, b"\xff" * 8),
        (STR, "żółć".encode()),
        (BYTES, b"\x07"),
        (BYTES, b"\xff" * 70000),
        (EMAIL, b"ada@example.com"),
    ],
)
def test_value_gets_the_derived_token_and_comes_back(
    memory: EngineMemory, ring: Keyring, kind: TokenType, value: bytes
) -> None:
    """A value's token is the derived one and as long as the value. Detokenizing gives the value."""
    (token,) = run(memory, [tokenize(ring, value, kind)])

    assert token == candidate(value, kind=kind)
    assert run(memory, [detokenize(ring, token, kind)]) == [value]
    assert run(memory, [tokenize(new_ring(), value, kind)]) == [token]
    assert len(memory.entries) == 2


def test_same_value_several_times(memory: EngineMemory, ring: Keyring) -> None:
    """A value that stands several times in a batch gets one token and one pair of entries."""
    values = [b"one value", b"another", b"one value", b"one value"]

    tokens = run(memory, [tokenize(ring, value) for value in values])

    assert tokens[0] == tokens[2] == tokens[3] != tokens[1]
    assert len(memory.entries) == 4
    assert [len(step.rows) for step in memory.steps if isinstance(step, Store)] == [2]


def test_one_value_of_two_types_and_owners(memory: EngineMemory, ring: Keyring) -> None:
    """A value of another type, or of a zone that bears the client's id and key, is another value."""
    zone = new_ring(owner=Owner("zone", SHOP.id))

    tokens = run(memory, [tokenize(ring, b"abcdefgh", kind) for kind in (STR, BYTES)] + [tokenize(zone, b"abcdefgh")])

    assert len(set(tokens)) == 3
    assert len(memory.entries) == 6


def test_cost_of_a_batch(memory: EngineMemory, ring: Keyring, guess_after: int) -> None:
    """500 new values take one look-up and one write. Known values, and tokens to detokenize, take one look-up."""
    values = [b"value %d" % number for number in range(500)]

    tokens = run(memory, [tokenize(ring, value) for value in values])
    assert memory.step_names == (["Lookup", "Store"] if guess_after else ["Store"])
    memory.steps.clear()
    if not guess_after:
        return
    assert run(memory, [tokenize(ring, value) for value in values]) == tokens
    back = run(memory, [detokenize(ring, token) for token in tokens if isinstance(token, bytes)])

    assert back == values
    assert memory.step_names == ["Lookup", "Lookup"]


def test_empty_batch(memory: EngineMemory) -> None:
    """A batch of nothing changes nothing."""
    assert run(memory, []) == []
    assert not memory.entries


def test_refused_value_keeps_nothing(memory: EngineMemory, ring: Keyring) -> None:
    """An answer that is a refusal holds no other value of its batch: all go as soon as nobody needs them."""
    gc.collect()
    gc.disable()
    try:
        before = sum(isinstance(thing, TokenItem) for thing in gc.get_objects())
        (refused, *_) = run(
            memory, [tokenize(ring, b"no address", EMAIL), *(tokenize(ring, b"%d" % n) for n in range(9))]
        )
        left = sum(isinstance(thing, TokenItem) for thing in gc.get_objects()) - before
    finally:
        gc.enable()

    assert code(refused) is Code.INVALID_EMAIL
    assert left == 0


# Tokens that are taken


def test_candidate_of_another_value_is_passed_over(memory: EngineMemory, ring: Keyring) -> None:
    """A candidate that is another value's token is passed over, by every engine in the same way."""
    for counter in range(3):
        memory.put_t(ring, STR, candidate(b"a value", counter), b"v%d" % counter)
    before = dict(memory.entries)
    other = type(memory)()
    other.entries |= before

    assert run(memory, [tokenize(ring, b"a value")]) == [candidate(b"a value", 3)]
    assert run(other, [tokenize(new_ring(), b"a value")]) == [candidate(b"a value", 3)]
    assert memory.entries.items() >= before.items()
    assert len(memory.entries) == len(before) + 2


def test_collision_of_more_than_a_round(memory: EngineMemory, ring: Keyring) -> None:
    """The search goes on past the candidates that are looked up at once, still without a write for each."""
    for counter in range(200):
        memory.put_t(ring, STR, candidate(b"a value", counter), b"v%d" % counter)

    assert run(memory, [tokenize(ring, b"a value")]) == [candidate(b"a value", 200)]
    assert len(memory.steps) < 10


@pytest.mark.parametrize("origin", [None, ORIGIN], ids=["consistent", "inconsistent"])
def test_256_taken_candidates_are_a_named_error(memory: EngineMemory, ring: Keyring, origin: Origin | None) -> None:
    """After 256 candidates that are all taken there is a named error, and nothing is written."""
    for counter in range(256):
        memory.put_t(ring, STR, candidate(b"a value", counter, origin=origin), b"v%d" % counter)
    before = dict(memory.entries)

    (result,) = run(memory, [tokenize(ring, b"a value", origin=origin)])

    assert code(result) is Code.TOKEN_SPACE_EXHAUSTED
    assert memory.entries == before
    assert sum(len(step.keys) for step in memory.steps if isinstance(step, Lookup)) <= 257


def test_collision_in_one_batch(memory: EngineMemory, ring: Keyring) -> None:
    """Values of a batch that want the same tokens get different ones, whatever their number."""
    values = [bytes([byte]) for byte in range(256)]

    tokens = run(memory, [tokenize(ring, value, BYTES) for value in values])

    assert len(set(tokens)) == 256
    assert run(memory, [detokenize(ring, token, BYTES) for token in tokens if isinstance(token, bytes)]) == values


@pytest.mark.parametrize("batch", [1, 7, 100])
def test_one_character_until_exhaustion(memory: EngineMemory, ring: Keyring, batch: int) -> None:
    """62 values of one character get the 62 tokens there are; each further one gets a named error."""
    values = [bytes([byte]) for byte in range(32, 127)]
    results: list[ItemResult] = []
    for start in range(0, len(values), batch):
        results += run(memory, [tokenize(ring, value) for value in values[start : start + batch]])

    tokens = [result for result in results if isinstance(result, bytes)]
    assert sorted(tokens) == sorted(bytes([letter]) for letter in LETTERS)
    assert {code(result) for result in results if not isinstance(result, bytes)} == {Code.TOKEN_SPACE_EXHAUSTED}
    assert len(results) - len(tokens) == 95 - 62
    assert run(memory, [tokenize(new_ring(), value) for value in values])[:62] == results[:62]


@pytest.mark.parametrize("value", [b"a", b"Z", b"5"])
def test_token_is_not_the_value(memory: EngineMemory, ring: Keyring, value: bytes) -> None:
    """A token equals its value only where it is the only one left."""
    others = [bytes([letter]) for letter in LETTERS if bytes([letter]) != value]
    for other in others[1:]:
        memory.put_t(ring, STR, other, b"taken")
    assert run(memory, [tokenize(ring, value)]) == [others[0]]

    memory.entries = {}
    for other in others:
        memory.put_t(ring, STR, other, b"taken")
    assert run(memory, [tokenize(ring, value)]) == [value]
    assert run(memory, [detokenize(ring, value)]) == [value]


def test_first_candidate_is_the_value(memory: EngineMemory) -> None:
    """A value that would be its own token gets the next candidate, and there are such values of one byte."""
    values = [bytes([byte]) for byte in range(256)]
    own = [value for value in values if candidate(value, kind=BYTES) == value]

    assert own
    for value in own:
        (token,) = run(type(memory)(), [tokenize(new_ring(), value, BYTES)])
        assert token == next(found for n in range(256) if (found := candidate(value, n, BYTES)) != value)


# Entries that are already there


def test_value_keeps_the_token_that_it_has(memory: EngineMemory, ring: Keyring) -> None:
    """A value that has a token, whatever it is, keeps it."""
    memory.put_t(ring, STR, b"random of them", b"value of a man")
    memory.put_h(ring, STR, b"value of a man", b"random of them")
    before = dict(memory.entries)

    assert run(memory, [tokenize(ring, b"value of a man")]) == [b"random of them"]
    assert run(memory, [detokenize(ring, b"random of them")]) == [b"value of a man"]
    assert memory.entries == before


def test_unknown_token_is_not_found(memory: EngineMemory, ring: Keyring) -> None:
    """An unknown token, one of another type and one of another owner are not found; nothing is written."""
    (token,) = run(memory, [tokenize(ring, b"abcdefgh")])
    assert isinstance(token, bytes)
    other = new_ring(owner=BILLING)
    before = dict(memory.entries)

    results = run(memory, [detokenize(ring, b"unknown"), detokenize(ring, token, INT64), detokenize(other, token)])

    assert {code(result) for result in results} == {Code.TOKEN_NOT_FOUND}
    assert memory.entries == before


@pytest.mark.parametrize("which", ["t", "h"])
def test_disabled_token_is_named_and_not_replaced(memory: EngineMemory, ring: Keyring, which: str) -> None:
    """A disabled entry is token_disabled, not absent: no second token is made, nothing changes."""
    memory.put_t(ring, STR, b"token of it", b"the value it", disabled=which == "t")
    memory.put_h(ring, STR, b"the value it", b"token of it", disabled=which == "h")
    before = dict(memory.entries)
    item = detokenize(ring, b"token of it") if which == "t" else tokenize(ring, b"the value it")

    (result,) = run(memory, [item], now=NOW + 2 * STALE_SECONDS)

    assert code(result) is Code.TOKEN_DISABLED
    assert memory.entries == before


@pytest.mark.parametrize("counter", [0, 2])
@pytest.mark.parametrize("origin", [None, ORIGIN], ids=["consistent", "inconsistent"])
def test_disabled_token_met_while_writing(
    memory: EngineMemory, ring: Keyring, counter: int, origin: Origin | None
) -> None:
    """A disabled t. of the value, without its h., is token_disabled: never adopted, never passed over."""
    for taken in range(counter):
        memory.put_t(ring, STR, candidate(b"a value", taken, origin=origin), b"v%d" % taken)
    memory.put_t(ring, STR, candidate(b"a value", counter, origin=origin), b"a value", disabled=True)
    before = dict(memory.entries)

    (result,) = run(memory, [tokenize(ring, b"a value", origin=origin)])

    assert code(result) is Code.TOKEN_DISABLED
    assert memory.entries == before


def test_disabled_token_of_another_value(memory: EngineMemory, ring: Keyring) -> None:
    """A disabled t. of another value is taken all the same: the next candidate is used."""
    memory.put_t(ring, STR, candidate(b"a value"), b"another", disabled=True)

    assert run(memory, [tokenize(ring, b"a value")]) == [candidate(b"a value", 1)]


def test_token_without_its_value_entry(memory: EngineMemory, ring: Keyring) -> None:
    """A t. of this very value, as a crash leaves it, is adopted: its bytes stay, h. is added."""
    key = memory.put_t(ring, STR, candidate(b"a value"), b"a value")
    raw = memory.entries[key]

    assert run(memory, [tokenize(ring, b"a value")]) == [candidate(b"a value")]
    assert memory.entries[key] == raw
    assert not memory.is_disabled(memory.value_key(b"a value"))
    assert memory.step_names[-3:] == ["Lookup", "Store", "Adopt"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda memory, raw: memory.damaged(raw),
        lambda _, raw: b"no hex",
        lambda _, raw: b"",
        lambda _, raw: raw[:-2],
    ],
)
def test_unreadable_entry_is_an_error_of_its_item_alone(
    memory: EngineMemory, ring: Keyring, damage: Callable[[EngineMemory, bytes], bytes]
) -> None:
    """An entry that cannot be read is an error for its item only. It is not overwritten, and not treated as absent."""
    value_key = memory.put_h(ring, STR, b"first value", b"first token")
    token_key = memory.put_t(ring, STR, b"other token", b"other value")
    candidate_key = memory.put_t(ring, STR, candidate(b"third value"), b"third value")
    for key in (value_key, token_key, candidate_key):
        memory.entries[key] = damage(memory, memory.entries[key])
    before = dict(memory.entries)
    values = (b"first value", b"third value", b"fine")

    results = run(memory, [detokenize(ring, b"other token"), *(tokenize(ring, value) for value in values)])

    assert [code(result) for result in results[:3]] == [Code.ENTRY_UNREADABLE] * 3
    assert results[3] == candidate(b"fine")
    assert memory.entries.items() >= before.items()
    assert len(memory.entries) == len(before) + 2


# Keys that are not at hand


def test_entry_of_a_rotated_key(memory: EngineMemory, ring: Keyring) -> None:
    """An entry of an older key opens once that key is found, and keeps its token; new ones owe nothing to it."""
    before = new_ring(OLD_KEY)
    (old_token,) = run(memory, [tokenize(before, b"old value")])

    def more(ring: Keyring) -> KeySearch:
        return KeySearch.ADDED if ring.add(OLD_KEY) else KeySearch.EXHAUSTED

    memory.steps.clear()
    results = run(memory, [tokenize(ring, b"old value"), tokenize(ring, b"new value")], more=more)

    assert results == [old_token, candidate(b"new value")]
    assert sorted(memory.step_names) == ["FindKeys", "Lookup", "Store"]


def test_several_keys_one_after_the_other(memory: EngineMemory, ring: Keyring) -> None:
    """Keys are looked for until the entry opens or there are no more."""
    history = [secrets.token_bytes(32) for _ in range(3)]
    (token,) = run(memory, [tokenize(new_ring(history[2]), b"old value")])
    found = iter(history)

    def more(ring: Keyring) -> KeySearch:
        key = next(found, None)
        return KeySearch.ADDED if key is not None and ring.add(key) else KeySearch.EXHAUSTED

    assert run(memory, [tokenize(ring, b"old value")], more=more) == [token]
    assert memory.step_names.count("FindKeys") == 3


@pytest.mark.parametrize(("some_unreadable", "expected"), [(False, Code.ENTRY_UNREADABLE), (True, Code.KEY_UNREADABLE)])
def test_entry_of_a_lost_key(memory: EngineMemory, ring: Keyring, *, some_unreadable: bool, expected: Code) -> None:
    """An entry whose key nobody has is an error of the entry; of the key, where one in the history does not open."""
    lost = new_ring(OLD_KEY)
    memory.put_h(lost, STR, b"old value", b"old token")
    memory.put_t(lost, STR, b"old token", b"old value")
    memory.put_t(lost, STR, candidate(b"new value"), b"new value")
    before = dict(memory.entries)
    ring.some_unreadable = some_unreadable

    results = run(
        memory,
        [tokenize(ring, b"old value"), detokenize(ring, b"old token"), tokenize(ring, b"new value")],
    )

    assert {code(result) for result in results} == {expected}
    assert memory.entries == before


def test_more_keys_out_of_reach(memory: EngineMemory, ring: Keyring) -> None:
    """While further keys cannot be looked for, items that may need one wait; the others get their answer."""
    away = Unavailable("keys", "ConnectionError")
    other = new_ring(owner=BILLING)
    memory.put_h(new_ring(OLD_KEY), STR, b"old value", b"old token")
    memory.put_t(ring, STR, b"some token", b"some value")
    items = [
        tokenize(ring, b"old value"),
        detokenize(ring, b"some token"),
        tokenize(ring, b"new value"),
        tokenize(other, b"new value"),
    ]

    results = run(memory, items, more=lambda _: away)

    assert results[0] is away
    assert results[1] == b"some value"
    assert all(isinstance(result, bytes) for result in results[2:])


# Inconsistent tokens


def test_inconsistent_token_differs_by_entry_and_item(memory: EngineMemory, ring: Keyring) -> None:
    """An inconsistent token has only a t. entry, and differs by stream, entry and item."""
    origins = [ORIGIN, ORIGIN._replace(item=1), ORIGIN._replace(entry=b"1-2"), ORIGIN._replace(stream=b"other")]

    tokens = run(memory, [tokenize(ring, b"a value", origin=origin) for origin in origins])

    assert len({*tokens, candidate(b"a value")}) == 5
    assert len(memory.entries) == 4
    back = run(memory, [detokenize(ring, token) for token in tokens if isinstance(token, bytes)])
    assert back == [b"a value"] * 4


def test_redelivered_inconsistent_request_gets_the_same_token(memory: EngineMemory, ring: Keyring) -> None:
    """A request that is delivered again, even twice in one batch, gets the same token, after a collision too."""
    memory.put_t(ring, STR, candidate(b"a value", 0, origin=ORIGIN), b"another")
    (token,) = run(memory, [tokenize(ring, b"a value", origin=ORIGIN)])
    entries = dict(memory.entries)

    assert token == candidate(b"a value", 1, origin=ORIGIN)
    assert run(memory, [tokenize(new_ring(), b"a value", origin=ORIGIN)] * 2) == [token] * 2
    assert memory.entries == entries


def test_consistent_beside_inconsistent(memory: EngineMemory, ring: Keyring) -> None:
    """Inconsistent tokens neither use nor make the value's consistent one."""
    results = run(memory, [tokenize(ring, b"a value", origin=ORIGIN), tokenize(ring, b"a value")])

    assert results == [candidate(b"a value", origin=ORIGIN), candidate(b"a value")]
    assert len(memory.entries) == 3
