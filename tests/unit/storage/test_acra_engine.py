"""The token engine in Acra's layout alone: data keys, times of last use, and AcraServer as another writer."""

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.engine_memory import (
    NOW,
    AcraMemory,
    SteppedRun,
    acra_entry,
    candidate,
    code,
    detokenize,
    new_ring,
    run,
    tokenize,
)
from token_worker.acra.acra_block import parse
from token_worker.acra.token_entry import decode_entry, decode_token_value, encode_token_value
from token_worker.acra.value_types import BYTES, STR
from token_worker.errors import Code
from token_worker.keys.keyring import Keyring
from token_worker.storage.acra.layout import STALE_SECONDS
from token_worker.storage.steps import Adopt, Store, Touch
from token_worker.storage.token_item import ItemResult
from token_worker.tokens.derivation import LETTERS

pytestmark = pytest.mark.usefixtures("guess_after")


@pytest.fixture
def memory() -> AcraMemory:
    return AcraMemory()


def test_no_iv_twice(memory: AcraMemory, ring: Keyring) -> None:
    """No initialization vector serves twice, also where collisions and lost races make values be sealed again."""
    cells: list[bytes] = []

    def meddle(step: Any) -> None:
        if isinstance(step, Store | Adopt):
            raws = [raw for row in step.rows for raw in (row.h_value, row.t_value) if raw]
            cells.extend(parse(decode_entry(raw).block).sealed_data for raw in raws)

    memory.meddle = meddle
    values = [bytes([letter]) for letter in LETTERS[:40]]  # one character: most candidates collide with a neighbour's
    run(memory, [tokenize(ring, value) for value in values])

    distinct = set(cells)  # an adopted t. entry is sent as it was read
    assert len(distinct) > 90
    assert len({cell[16:28] for cell in distinct}) == len(distinct)


@pytest.mark.parametrize("at_once", [1, 3])
def test_data_key_seals_a_bounded_number_of_entries(
    memory: AcraMemory, ring: Keyring, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every entry that is sealed counts: batch by batch a data key comes to its bound, and another takes its place."""
    bound = 12
    monkeypatch.setattr("token_worker.keys.keyring.DATA_KEY_BLOCKS_MAX", bound)
    for batch in range(20):
        run(memory, [tokenize(ring, b"value %d of batch %d" % (number, batch)) for number in range(at_once)])

    blocks = Counter(parse(decode_entry(raw).block).sealed_data_key for raw in memory.entries.values())
    assert sum(blocks.values()) == 2 * 20 * at_once
    assert max(blocks.values()) < bound + 2 * at_once
    assert min(blocks.values()) > 1  # and no entry needs one of its own


def test_candidate_whose_entry_says_another_type_is_passed_over(memory: AcraMemory, ring: Keyring) -> None:
    """A t. entry that holds the very bytes of the value, as a value of another type, is no token of this value."""
    key = memory.token_key(candidate(b"a value"))
    memory.entries[key] = before = acra_entry(ring, encode_token_value(b"a value", BYTES.number))

    assert run(memory, [tokenize(ring, b"a value")]) == [candidate(b"a value", 1)]
    assert memory.entries[key] == before


@pytest.mark.parametrize(
    "inside",
    [encode_token_value(b"swapped value", BYTES.number), encode_token_value(b"", STR.number), b"\xff\xff"],
    ids=["another type", "empty value", "no TokenValue"],
)
def test_token_entry_that_holds_something_else(memory: AcraMemory, ring: Keyring, inside: bytes) -> None:
    """A t. entry whose block opens, but holds no value of the token's type, is entry_unreadable."""
    memory.entries[memory.token_key(b"some token")] = acra_entry(ring, inside)

    (result,) = run(memory, [detokenize(ring, b"some token")])

    assert code(result) is Code.ENTRY_UNREADABLE


@pytest.mark.parametrize(("age", "is_moved"), [(STALE_SECONDS, False), (STALE_SECONDS + 1, True)])
def test_read_moves_the_time_of_last_use_after_a_day(
    memory: AcraMemory, ring: Keyring, age: int, *, is_moved: bool
) -> None:
    """A read moves the time of last use once it is over 24 hours old, and nothing else of the entry."""
    keys = [
        memory.put_t(ring, STR, b"some token", b"some value"),
        memory.put_h(ring, STR, b"some value", b"some token"),
    ]
    before = dict(memory.entries)

    run(memory, [detokenize(ring, b"some token"), tokenize(ring, b"some value")], now=NOW + age)

    for key in keys:
        entry, old = decode_entry(memory.entries[key]), decode_entry(before[key])
        assert entry == old._replace(accessed=NOW + age if is_moved else NOW)
    assert ("Touch" in memory.step_names) is is_moved


def test_touch_and_a_concurrent_disable(memory: AcraMemory, ring: Keyring) -> None:
    """Updating the time of last use does not undo that another process disabled the entry meanwhile."""
    key = memory.put_t(ring, STR, b"some token", b"some value")
    memory.meddle = lambda step: memory.disable(key) if isinstance(step, Touch) else None

    run(memory, [detokenize(ring, b"some token")], now=NOW + 2 * STALE_SECONDS)

    assert decode_entry(memory.entries[key]) == decode_entry(memory.entries[key])._replace(disabled=True, accessed=NOW)


class _Acra:
    """Plays AcraServer step by step: a random token's t. with SET NX, then h. with SET NX; a loser reads the winner."""

    def __init__(self, ring: Keyring, memory: AcraMemory, value: bytes, chance: random.Random) -> None:
        self.result: bytes | None = None
        self._random = chance
        self._steps = self._run(ring, memory, value)

    def advance(self) -> bool:
        return next(self._steps, None) is not None

    def _run(self, ring: Keyring, memory: AcraMemory, value: bytes) -> Any:
        h_key = memory.value_key(value)
        if h_key not in memory.entries:
            yield "h. read"
            while True:
                token = bytes(self._random.choices(LETTERS, k=len(value)))
                if memory.token_key(token) not in memory.entries:
                    break
            memory.put_t(ring, STR, token, value)
            yield "t. written"
            if h_key not in memory.entries:
                memory.put_h(ring, STR, value, token)
        self.result = ring.open(decode_entry(memory.entries[h_key]).block)


@settings(max_examples=200, deadline=None)
@given(
    values=st.lists(st.sampled_from([b"a", b"b", b"ab", b"cd", b"long value"]), min_size=1, max_size=4),
    turns=st.lists(st.integers(0, 5), max_size=60),
)
def test_any_interleaving_gives_a_value_one_token(values: list[bytes], turns: list[int]) -> None:
    """For any interleaving of workers and AcraServer, a value has one token, and each of our t. entries has an h."""
    ring, memory, chance = new_ring(), AcraMemory(), random.Random(7)
    batches = [[tokenize(ring, value) for value in values] for _ in range(2)]
    acras = [_Acra(ring, memory, value, chance) for value in values]
    actors: list[SteppedRun | _Acra] = [*(SteppedRun(memory, batch) for batch in batches), *acras]
    for turn in turns:
        if actors and not actors[turn % len(actors)].advance():
            del actors[turn % len(actors)]
    while actors:
        actors = [actor for actor in actors if actor.advance()]

    def inside(t_key: bytes) -> tuple[bytes, int]:
        return decode_token_value(ring.open(decode_entry(memory.entries[t_key]).block))

    by_value: dict[bytes, set[ItemResult | None]] = {}
    for number, value in enumerate(values):
        by_value.setdefault(value, set()).update({batch[number].result for batch in batches}, {acras[number].result})
    assert [len(tokens) for tokens in by_value.values()] == [1] * len(by_value)
    assert len(set().union(*by_value.values())) == len(by_value)
    referenced = {memory.token_key(token) for (token,) in by_value.values() if isinstance(token, bytes)}
    written = [row for step in memory.steps if isinstance(step, Store) for row in step.rows]
    ours = {row.t_key for row in written if memory.entries.get(row.t_key) == row.t_value}
    assert ours <= referenced
    assert {value for (value, _) in map(inside, referenced)} == set(by_value)
