"""The token engine in both layouts while others change entries between two of its steps."""

import itertools
from typing import Any
from unittest import mock

import pytest

from harness.engine_memory import (
    NOW,
    EngineMemory,
    candidate,
    code,
    detokenize,
    drive,
    new_ring,
    run,
    tokenize,
)
from token_worker.acra.value_types import STR
from token_worker.errors import Code, Unavailable
from token_worker.keys.keyring import Keyring
from token_worker.storage.engine import Engine
from token_worker.storage.steps import Adopt, Store

pytestmark = pytest.mark.usefixtures("guess_after")


def test_lost_race_answers_with_the_winners_token(memory: EngineMemory, ring: Keyring) -> None:
    """A worker that loses the race for a value answers with the winner's token, and leaves no entry."""

    def other() -> None:
        memory.put_t(ring, STR, b"Random0", b"a value")
        memory.put_h(ring, STR, b"a value", b"Random0")

    memory.once(Store, other)

    assert run(memory, [tokenize(ring, b"a value")]) == [b"Random0"]
    assert len(memory.entries) == 2


def test_another_worker_is_faster(memory: EngineMemory, ring: Keyring) -> None:
    """Two workers that race write the same entries once."""
    memory.once(Store, lambda: drive(Engine(memory.layout).run([tokenize(new_ring(), b"a value")], NOW), memory))

    assert run(memory, [tokenize(ring, b"a value")]) == [candidate(b"a value")]
    assert len(memory.entries) == 2


def test_another_token_is_faster_than_an_adoption(memory: EngineMemory, ring: Keyring) -> None:
    """If h. appears with another token between reading t. and adopting it, that token is the answer."""
    key = memory.put_t(ring, STR, candidate(b"a value"), b"a value")
    raw = memory.entries[key]
    memory.once(Adopt, lambda: memory.put_h(ring, STR, b"a value", b"Random0"))

    assert run(memory, [tokenize(ring, b"a value")]) == [b"Random0"]
    assert memory.entries[key] == raw


def test_token_is_disabled_before_its_adoption(memory: EngineMemory, ring: Keyring) -> None:
    """A t. that is disabled between reading and adopting it gets no h.: the answer is token_disabled."""
    key = memory.put_t(ring, STR, candidate(b"a value"), b"a value")
    memory.once(Adopt, lambda: memory.disable(key))

    (result,) = run(memory, [tokenize(ring, b"a value")])

    assert code(result) is Code.TOKEN_DISABLED
    assert list(memory.entries) == [key]


def test_token_is_removed_before_its_adoption(memory: EngineMemory, ring: Keyring) -> None:
    """A t. entry that is removed between reading and adopting it is written again, together with h."""
    key = memory.put_t(ring, STR, candidate(b"a value"), b"a value")
    memory.once(Adopt, lambda: memory.entries.pop(key))

    assert run(memory, [tokenize(ring, b"a value")]) == [candidate(b"a value")]
    assert run(memory, [detokenize(ring, candidate(b"a value"))]) == [b"a value"]
    assert len(memory.entries) == 2


def test_token_is_replaced_before_its_adoption(memory: EngineMemory, ring: Keyring) -> None:
    """A t. that holds another value by the time it is adopted is passed over."""
    memory.put_t(ring, STR, candidate(b"a value"), b"a value")
    memory.once(Adopt, lambda: memory.put_t(ring, STR, candidate(b"a value"), b"another"))

    assert run(memory, [tokenize(ring, b"a value")]) == [candidate(b"a value", 1)]


def test_candidate_is_taken_after_it_was_seen_free(memory: EngineMemory, ring: Keyring) -> None:
    """A candidate that was free when looked up and taken when written is passed over."""
    memory.put_t(ring, STR, candidate(b"a value"), b"another")
    stores = itertools.count()

    def meddle(step: Any) -> None:
        if isinstance(step, Store) and next(stores) == 1:
            memory.put_t(ring, STR, candidate(b"a value", 1), b"yet another")

    memory.meddle = meddle

    (token,) = run(memory, [tokenize(ring, b"a value")])

    assert isinstance(token, bytes)
    assert token not in (candidate(b"a value"), candidate(b"a value", 1))
    assert run(memory, [detokenize(ring, token)]) == [b"a value"]


def test_entries_that_never_come_to_rest(memory: EngineMemory, ring: Keyring) -> None:
    """A value whose entry changes before every write is given back for later; its neighbours are answered."""
    memory.put_t(ring, STR, candidate(b"a value"), b"a value")
    ages = itertools.count(1)

    def meddle(step: Any) -> None:
        if isinstance(step, Adopt):
            memory.put_t(ring, STR, candidate(b"a value"), b"a value", age=next(ages) * 86400)

    memory.meddle = meddle

    result, other = run(memory, [tokenize(ring, b"a value"), tokenize(ring, b"other")])

    assert isinstance(result, Unavailable)
    assert result.server == "tokens"
    assert other == candidate(b"other")
    assert len(memory.steps) < 100


def test_known_value_is_answered_by_a_full_storage_after_a_wrong_guess(memory: EngineMemory, ring: Keyring) -> None:
    """A storage that refuses writes stops a guess once. The next try looks up, and finds the token."""
    (token,) = run(memory, [tokenize(ring, b"a known value")])
    engine = Engine(memory.layout)

    def refuse_writes(step: Any) -> None:
        if isinstance(step, Store):
            raise Unavailable("tokens", "OOM")

    item = tokenize(ring, b"a known value")
    with mock.patch("token_worker.storage.engine.GUESS_AFTER", 2):
        for number in range(2):
            drive(engine.run([tokenize(ring, b"new value %d" % number)], NOW), memory)
        memory.meddle = refuse_writes
        with pytest.raises(Unavailable):
            drive(engine.run([item], NOW), memory)
        drive(engine.run([item], NOW), memory)

    assert item.result == token
