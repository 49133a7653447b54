"""The engine takes values to be new after batches of new ones, and writes them without a look-up."""

from unittest import mock

import pytest

from harness.engine_memory import (
    NOW,
    AcraMemory,
    EngineMemory,
    candidate,
    code,
    detokenize,
    drive,
    run,
    tokenize,
)
from token_worker.acra.value_types import BYTES, EMAIL, STR
from token_worker.errors import Code, Refused, Unavailable
from token_worker.keys.keyring import Keyring
from token_worker.storage.engine import GUESS_AFTER, Engine
from token_worker.storage.item_group import ItemGroup

pytestmark = pytest.mark.usefixtures("guess_after")


def test_batches_of_new_values_in_a_row(memory: EngineMemory, ring: Keyring, guess_after: int) -> None:
    """After batches of nothing but new values, the next one is written without a look-up; until a value is known."""
    engine = Engine(memory.layout)

    def steps_of(*values: bytes) -> list[str]:
        memory.steps.clear()
        drive(engine.run([tokenize(ring, value) for value in values], NOW), memory)
        return memory.step_names

    for batch in range(guess_after):
        assert steps_of(b"value %d" % batch, b"other %d" % batch) == ["Lookup", "Store"]
    assert steps_of(b"value 100", b"other 100") == ["Store"]
    drive(engine.run([detokenize(ring, candidate(b"value 100"))], NOW), memory)  # says nothing about values
    assert steps_of(b"value 101", b"other 101") == ["Store"]
    assert steps_of(b"value 101", b"other 102") == ["Store", "Lookup"]
    assert steps_of(b"value 103") == (["Lookup", "Store"] if guess_after else ["Store"])


def test_storage_that_may_write_half_a_token_is_looked_up_first(memory: EngineMemory, ring: Keyring) -> None:
    """No batch is guessed to be new where a wrong guess would leave a token entry behind."""
    engine = Engine(memory.layout, guesses=False)
    for batch in range(GUESS_AFTER + 1):
        memory.steps.clear()
        drive(engine.run([tokenize(ring, b"value %d" % batch)], NOW), memory)
        assert memory.step_names == ["Lookup", "Store"]


def test_wrong_guess_answers_as_a_look_up_does(memory: EngineMemory, ring: Keyring) -> None:
    """Values known before, refused, disabled and last used long ago get what a look-up gives them, beside new ones."""
    week = 7 * 24 * 3600
    (known, old) = run(memory, [tokenize(ring, b"known"), tokenize(ring, b"old")], now=NOW - week)
    run(memory, [tokenize(ring, b"disabled")])
    memory.disable(memory.value_key(b"disabled"))

    items = [tokenize(ring, value) for value in (b"known", b"old", b"disabled", b"new")]
    items.append(tokenize(ring, b"no address", EMAIL))
    results = run(memory, items)

    assert results[:2] == [known, old]
    assert [code(result) for result in (results[2], results[4])] == [Code.TOKEN_DISABLED, Code.INVALID_EMAIL]
    assert results[3] == candidate(b"new")
    assert ("Touch" in memory.step_names) is isinstance(memory, AcraMemory)


def test_values_of_all_kinds_are_guessed_by_one_step(memory: EngineMemory, ring: Keyring) -> None:
    """Values that need an item of their own leave the others of the batch in their group, and all go in one write."""
    texts, emails = [b"new", b"known"], [b"off@example.org", b"someone@example.org", b"no address"]
    octets = [b"off", b"on"]
    known, *_ = run(
        memory, [tokenize(ring, texts[1]), tokenize(ring, emails[0], EMAIL), tokenize(ring, octets[0], BYTES)]
    )
    for value, kind in ((emails[0], EMAIL), (octets[0], BYTES)):
        memory.disable(memory.value_key(value, kind))
    memory.steps.clear()
    plain, apart = ItemGroup(ring, STR, True, texts), ItemGroup(ring, EMAIL, True, emails)
    other = ItemGroup(ring, BYTES, True, octets)
    with mock.patch("token_worker.storage.engine.GUESS_AFTER", 0):
        drive(Engine(memory.layout).run([], NOW, [plain, apart, other]), memory)
    assert memory.step_names == ["Store", "Lookup"]
    assert plain.results == [candidate(texts[0]), known]
    assert [place for place, _ in plain.left] == [1]
    off, fresh = other.results
    assert fresh == candidate(octets[1], kind=BYTES)
    disabled, address, refused = apart.results
    assert address == candidate(emails[1], kind=EMAIL)
    assert [code(result) for result in (off, disabled, refused) if isinstance(result, Refused)] == [
        Code.TOKEN_DISABLED,
        Code.TOKEN_DISABLED,
        Code.INVALID_EMAIL,
    ]


def test_no_token_is_made_while_the_key_to_seal_is_not_known(memory: EngineMemory, ring: Keyring) -> None:
    """Until it is known which key seals, a known value gets its token, and a new one has to wait."""
    (known,) = run(memory, [tokenize(ring, b"known")])
    ring.unsettled = Unavailable("keys", "away")
    assert run(memory, [tokenize(ring, b"known"), tokenize(ring, b"new")]) == [known, ring.unsettled]
    assert run(memory, [tokenize(ring, b"new")]) == [ring.unsettled]
    ring.unsettled = None
    assert run(memory, [tokenize(ring, b"new")]) == [candidate(b"new")]
