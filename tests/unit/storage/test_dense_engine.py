"""The token engine in the dense layout alone: tombstones, entries alone or in a wrong place, operators at work."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from harness.engine_memory import (
    BILLING,
    KEY,
    NOW,
    OLD_KEY,
    ORIGIN,
    SHOP,
    DenseMemory,
    candidate,
    code,
    detokenize,
    drive,
    new_ring,
    run,
    tokenize,
)
from token_worker.acra.owner import Owner
from token_worker.acra.value_types import BYTES, STR
from token_worker.errors import Code, Unavailable
from token_worker.keys.cache import KeySearch
from token_worker.keys.keyring import Keyring
from token_worker.storage.dense.entry import ALONE, DISABLED, REMOVED, SealKey
from token_worker.storage.dense.layout import alone_plaintext, read_next, token_plaintext, value_plaintext
from token_worker.storage.dense.siv_columns import COLUMN_MIN
from token_worker.storage.engine import Engine
from token_worker.storage.item_group import ItemGroup
from token_worker.storage.steps import Adopt, Lookup, Step, Store
from token_worker.storage.token_item import TokenItem, prepared
from token_worker.tokens.derivation import LETTERS

VALUE = b"a value"
DAY = 86400

pytestmark = pytest.mark.usefixtures("guess_after")


@pytest.fixture
def memory() -> DenseMemory:
    return DenseMemory()


def next_counter(memory: DenseMemory, value: bytes) -> int:
    """The counter in the value entry of a value."""
    return read_next(memory.opened(memory.value_key(value))[0])[0]


# Bytes


def test_same_day_same_bytes(ring: Keyring) -> None:
    """Workers that write the same entries on one day write the same bytes; on another day, other ones."""
    stored = []
    for now in (NOW - NOW % DAY, NOW - NOW % DAY + DAY - 1, NOW - NOW % DAY + DAY):
        memory = DenseMemory()
        run(memory, [tokenize(new_ring(), VALUE), tokenize(new_ring(), VALUE, origin=ORIGIN)], now=now)
        stored.append(memory.entries)

    assert stored[0] == stored[1]
    assert stored[0].keys() == stored[2].keys()
    assert not set(stored[0].values()) & set(stored[2].values())


def test_day_of_a_worker_that_runs_over_midnight(memory: DenseMemory, ring: Keyring) -> None:
    """Entries have the day on which they were made, also if the keyring served the day before."""
    engine = Engine(memory.layout)
    for now in (NOW, NOW + DAY, NOW + 3 * DAY):
        drive(engine.run([tokenize(ring, b"value %d" % now)], now), memory)
        drive(engine.run([tokenize(ring, b"value %d" % now, origin=ORIGIN)], now), memory)

    days = [int.from_bytes(raw[1:3], "big") - NOW // DAY for raw in memory.entries.values()]
    assert days == [0] * 3 + [1] * 3 + [3] * 3


def test_rotation_changes_no_name_and_no_token(memory: DenseMemory, ring: Keyring) -> None:
    """After a rotation entries keep their names and bytes, values their tokens. New values have the new key's token."""
    (token,) = run(memory, [tokenize(new_ring(OLD_KEY), VALUE)])
    before = dict(memory.entries)
    rotated = new_ring(KEY, OLD_KEY)

    assert isinstance(token, bytes)
    assert run(memory, [tokenize(rotated, VALUE), detokenize(rotated, token)]) == [token, VALUE]
    assert memory.entries == before
    assert set(before) == {memory.value_key(VALUE), memory.token_key(token)}
    assert run(memory, [tokenize(rotated, b"new value")]) == [candidate(b"new value")]


def same_id() -> tuple[bytes, bytes]:
    """Two keys of the shop that have the same key id."""
    seen: dict[bytes, bytes] = {}
    for number in itertools.count():
        key = number.to_bytes(32, "big")
        key_id = SealKey(key, SHOP).id
        if key_id in seen:
            return seen[key_id], key
        seen[key_id] = key
    raise AssertionError


def test_two_keys_with_the_same_id(memory: DenseMemory) -> None:
    """An entry opens if two keys of the owner have its key id, whichever sealed it, and if one is yet to be found."""
    first, second = same_id()
    (token,) = run(memory, [tokenize(new_ring(first), VALUE)])

    def more(ring: Keyring) -> KeySearch:
        return KeySearch.ADDED if ring.add(first) else KeySearch.EXHAUSTED

    for ring in (new_ring(first, second), new_ring(second, first), new_ring(KEY, second, first)):
        assert run(memory, [tokenize(ring, VALUE)]) == [token]
    assert run(memory, [tokenize(new_ring(second), VALUE)], more=more) == [token]
    (refused,) = run(memory, [tokenize(new_ring(second), VALUE)])
    assert code(refused) is Code.ENTRY_UNREADABLE


# Tombstones


def test_removed_token_never_comes_back(memory: DenseMemory, ring: Keyring) -> None:
    """The next token of a value whose token was removed is the following candidate. The removed one is not found."""
    for number in range(5):
        assert run(memory, [tokenize(ring, VALUE)]) == [candidate(VALUE, number)]
        assert next_counter(memory, VALUE) == number + 1
        memory.remove_token(VALUE, candidate(VALUE, number))
        (gone,) = run(memory, [detokenize(ring, candidate(VALUE, number))])
        assert code(gone) is Code.TOKEN_NOT_FOUND

    assert run(memory, [tokenize(ring, VALUE), tokenize(ring, VALUE)]) == [candidate(VALUE, 5)] * 2
    assert run(memory, [detokenize(ring, candidate(VALUE, 5))]) == [VALUE]
    assert len(memory.entries) == 1 + 6


def test_entries_that_are_put_back_are_believed(memory: DenseMemory, ring: Keyring) -> None:
    """The bytes alone cannot show that they are old: who writes to the storage can bring a removed token back."""
    (token,) = run(memory, [tokenize(ring, VALUE)])
    before = dict(memory.entries)
    memory.remove_token(VALUE, candidate(VALUE))
    memory.entries.update(before)

    assert run(memory, [tokenize(ring, VALUE), detokenize(ring, candidate(VALUE))]) == [token, VALUE]


@pytest.mark.parametrize("counter", [0, 1, 7, 254, 255, 1000])
def test_next_token_begins_at_the_counter_of_the_tombstone(memory: DenseMemory, ring: Keyring, counter: int) -> None:
    """The first candidate of a value with a tombstone has the counter that the tombstone keeps."""
    memory.put_h(ring, STR, VALUE, b"", next_counter=counter, flags=REMOVED)

    assert run(memory, [tokenize(ring, VALUE)]) == [candidate(VALUE, counter)]
    assert next_counter(memory, VALUE) == counter + 1


def test_tombstone_is_replaced_by_compare(memory: DenseMemory, ring: Keyring, guess_after: int) -> None:
    """A new token is written only where the tombstone is the very one that was read. That takes one write."""
    key = memory.put_h(ring, STR, VALUE, b"", next_counter=3, flags=REMOVED)
    tombstone = memory.entries[key]

    run(memory, [tokenize(ring, VALUE)])

    written = [row for step in memory.steps if isinstance(step, Store) for row in step.rows]
    assert written[-1].h_old == tombstone
    assert memory.step_names == ([] if guess_after else ["Store"]) + ["Lookup", "Store"]


@pytest.mark.parametrize("has_value_entry", [True, False])
def test_tombstone_of_a_token_is_passed_over(memory: DenseMemory, ring: Keyring, *, has_value_entry: bool) -> None:
    """A removed token is not given out again, neither for its value nor for another; its tombstone keeps its bytes."""
    if has_value_entry:  # as an operator makes it where there was none
        memory.put_h(ring, STR, VALUE, b"", flags=REMOVED)
    keys = [
        memory.put_t(ring, STR, candidate(VALUE, number), b"", flags=REMOVED | (ALONE if number == 1 else 0))
        for number in range(3)
    ]
    tombstones = [memory.entries[key] for key in keys]

    assert run(memory, [tokenize(ring, VALUE)]) == [candidate(VALUE, 3)]
    assert [memory.entries[key] for key in keys] == tombstones
    assert next_counter(memory, VALUE) == 4


def test_all_tokens_removed(memory: DenseMemory, ring: Keyring) -> None:
    """A value is refused as exhausted if all tokens of its form were removed. It never becomes its own token."""
    values = [bytes([letter]) for letter in LETTERS]
    tokens = run(memory, [tokenize(ring, value) for value in values])
    assert set(tokens) == set(values)
    for value, token in zip(values, tokens, strict=True):
        assert isinstance(token, bytes)
        memory.remove_token(value, token)
    before = dict(memory.entries)

    results = run(memory, [tokenize(ring, value) for value in values])

    assert {code(result) for result in results} == {Code.TOKEN_SPACE_EXHAUSTED}
    assert memory.entries == before


def test_tombstones_beside_other_values(memory: DenseMemory, ring: Keyring) -> None:
    """Values with a tombstone, a token, a disabled one and without any get in one batch what each alone gets."""
    run(memory, [tokenize(ring, value) for value in (b"removed", b"known", b"disabled")])
    memory.remove_token(b"removed", candidate(b"removed"))
    memory.disable(memory.value_key(b"disabled"))

    results = run(memory, [tokenize(ring, value) for value in (b"new", b"disabled", b"removed", b"known", b"removed")])

    assert code(results.pop(1)) is Code.TOKEN_DISABLED
    again = candidate(b"removed", 1)
    assert results == [candidate(b"new"), again, candidate(b"known"), again]


# Others at work between two steps


def test_removed_and_stored_by_another_worker(memory: DenseMemory, ring: Keyring) -> None:
    """If another worker replaces the tombstone first, its token is the answer, and nothing else is written."""
    memory.put_h(ring, STR, VALUE, b"", next_counter=1, flags=REMOVED)

    def other() -> None:
        memory.put_t(ring, STR, b"other10", VALUE)
        memory.put_h(ring, STR, VALUE, b"other10", next_counter=0)

    memory.once(Store, other)

    assert run(memory, [tokenize(ring, VALUE)]) == [b"other10"]
    assert len(memory.entries) == 2


def test_stored_and_removed_between_look_up_and_write(memory: DenseMemory, ring: Keyring) -> None:
    """If a value gets a token and loses it between look-up and write, its next token is the following candidate."""

    def other() -> None:
        drive(Engine(memory.layout).run([tokenize(new_ring(), VALUE)], NOW), memory)
        memory.remove_token(VALUE, candidate(VALUE))

    memory.once(Store, other)

    assert run(memory, [tokenize(ring, VALUE)]) == [candidate(VALUE, 1)]
    assert run(memory, [detokenize(ring, candidate(VALUE, 1))]) == [VALUE]


def test_counter_of_a_token_that_came_and_went_is_kept(memory: DenseMemory, ring: Keyring) -> None:
    """The tombstone that a worker meets as it writes says where the candidates begin, whichever key drew before."""
    memory.once(Store, lambda: memory.put_h(ring, STR, VALUE, b"", flags=REMOVED, next_counter=3))

    assert run(memory, [tokenize(ring, VALUE)]) == [candidate(VALUE, 3)]
    assert next_counter(memory, VALUE) == 4


def test_candidates_on_a_node_that_is_away_are_not_free(
    memory: DenseMemory, ring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it cannot be known whether a candidate is free, its value is put off, and nothing is written."""
    memory.put_t(ring, STR, candidate(VALUE), b"another value")
    before, away, execute = dict(memory.entries), Unavailable("tokens", "ConnectionError"), memory.execute

    def partly(step: Step) -> Any:
        answer = execute(step)
        is_probe = isinstance(step, Lookup) and step.keys[0][:1] == b"t"
        return [away] * len(answer) if is_probe else answer

    monkeypatch.setattr(memory, "execute", partly)

    assert run(memory, [tokenize(ring, VALUE)]) == [away]
    assert memory.entries == before


def test_tombstone_is_replaced_and_removed_again(memory: DenseMemory, ring: Keyring) -> None:
    """A tombstone that another one has replaced is not overwritten unread: the value goes on after the second token."""
    run(memory, [tokenize(ring, VALUE)])
    memory.remove_token(VALUE, candidate(VALUE))

    def other() -> None:
        drive(Engine(memory.layout).run([tokenize(new_ring(), VALUE)], NOW), memory)
        memory.remove_token(VALUE, candidate(VALUE, 1))

    memory.once(Store, other)

    assert run(memory, [tokenize(ring, VALUE)]) == [candidate(VALUE, 2)]
    assert next_counter(memory, VALUE) == 3


def test_value_is_disabled_between_look_up_and_write(memory: DenseMemory, ring: Keyring) -> None:
    """A value entry that is disabled by the time it is met is token_disabled, and nothing is written."""

    def other() -> None:
        memory.put_t(ring, STR, candidate(VALUE), VALUE, disabled=True)
        memory.put_h(ring, STR, VALUE, candidate(VALUE), next_counter=1, disabled=True)

    memory.once(Store, other)
    (result,) = run(memory, [tokenize(ring, VALUE)])

    assert code(result) is Code.TOKEN_DISABLED
    assert len(memory.entries) == 2


def test_token_is_removed_before_its_adoption(memory: DenseMemory, ring: Keyring) -> None:
    """A token entry that becomes a tombstone between reading and adopting it is passed over."""
    key = memory.put_t(ring, STR, candidate(VALUE), VALUE)
    memory.once(Adopt, lambda: memory.remove(key))

    assert run(memory, [tokenize(ring, VALUE)]) == [candidate(VALUE, 1)]
    (gone,) = run(memory, [detokenize(ring, candidate(VALUE))])
    assert code(gone) is Code.TOKEN_NOT_FOUND


def test_token_is_removed_while_a_worker_adopts_it(memory: DenseMemory, ring: Keyring) -> None:
    """An operator who removes a token without a value entry makes one. A worker that adopts the token meets it."""
    key = memory.put_t(ring, STR, candidate(VALUE), VALUE)

    def remove() -> None:
        memory.put_h(ring, STR, VALUE, b"", flags=REMOVED)
        memory.remove(key)

    memory.once(Adopt, remove)

    assert run(memory, [tokenize(ring, VALUE)]) == [candidate(VALUE, 1)]
    assert run(memory, [detokenize(ring, candidate(VALUE, 1))]) == [VALUE]


def test_disabled_and_enabled_again(memory: DenseMemory, ring: Keyring) -> None:
    """An entry that was disabled and enabled again has its old bytes, and is adopted as if nothing had happened."""
    key = memory.put_t(ring, STR, candidate(VALUE), VALUE)
    before = memory.entries[key]

    def there_and_back() -> None:
        memory.disable(key)
        memory.enable(key)

    memory.once(Adopt, there_and_back)

    assert run(memory, [tokenize(ring, VALUE)]) == [candidate(VALUE)]
    assert memory.entries[key] == before


# Tokens that are alone


def test_inconsistent_token_is_alone(memory: DenseMemory, ring: Keyring) -> None:
    """An inconsistent token has a token entry that says it is alone. Redelivered, the request gets the same token."""
    (token,) = run(memory, [tokenize(ring, VALUE, origin=ORIGIN)])
    assert isinstance(token, bytes)
    key = memory.token_key(token)
    before = dict(memory.entries)

    assert memory.opened(key) == (alone_plaintext(STR.number, token, VALUE), ALONE)
    assert run(memory, [tokenize(ring, VALUE, origin=ORIGIN), detokenize(ring, token)]) == [token, VALUE]
    assert memory.entries == before


def test_token_that_is_alone_is_not_adopted(memory: DenseMemory, ring: Keyring) -> None:
    """An inconsistent token of the very value does not become its consistent one, disabled or not."""
    for number, flags in enumerate((ALONE, ALONE | DISABLED)):
        memory.put_t(ring, STR, candidate(VALUE, number), VALUE, flags=flags)
    before = dict(memory.entries)

    assert run(memory, [tokenize(ring, VALUE)]) == [candidate(VALUE, 2)]
    assert memory.entries.items() >= before.items()


def test_inconsistent_token_that_was_changed(memory: DenseMemory, ring: Keyring) -> None:
    """A redelivered request is refused if its inconsistent token was disabled, and gets another if it was removed."""
    (token,) = run(memory, [tokenize(ring, VALUE, origin=ORIGIN)])
    assert isinstance(token, bytes)
    memory.disable(memory.token_key(token))
    refused = run(memory, [tokenize(ring, VALUE, origin=ORIGIN), detokenize(ring, token)])
    assert [code(result) for result in refused] == [Code.TOKEN_DISABLED] * 2

    memory.enable(memory.token_key(token))
    memory.remove(memory.token_key(token))
    assert memory.opened(memory.token_key(token))[1] == ALONE | REMOVED
    assert run(memory, [tokenize(ring, VALUE, origin=ORIGIN)]) == [candidate(VALUE, 1, origin=ORIGIN)]
    (gone,) = run(memory, [detokenize(ring, token)])
    assert code(gone) is Code.TOKEN_NOT_FOUND


# Entries in a wrong place


def flipped(raw: bytes, bit: int) -> bytes:
    """An entry with one bit changed."""
    at, place = divmod(bit, 8)
    return raw[:at] + bytes([raw[at] ^ 1 << place]) + raw[at + 1 :]


def expect_unreadable(memory: DenseMemory, key: bytes, raw: bytes, items: list[TokenItem]) -> None:
    """Check that items whose entry has these bytes get entry_unreadable, and that nothing is written."""
    memory.entries[key] = raw
    before = dict(memory.entries)
    for result in run(memory, items):
        assert code(result) is Code.ENTRY_UNREADABLE
    assert memory.entries == before


def test_head_with_one_bit_changed(memory: DenseMemory, ring: Keyring) -> None:
    """An entry with another version, flag, day or key id than it was sealed with does not open."""
    run(memory, [tokenize(ring, VALUE)])
    token = candidate(VALUE)
    value_key, token_key = memory.value_key(VALUE), memory.token_key(token)
    orphan_key = memory.put_t(ring, STR, candidate(b"another"), b"another")
    for flags in (0, DISABLED, REMOVED):
        memory.entries.pop(value_key)
        memory.put_h(ring, STR, VALUE, b"" if flags == REMOVED else token, next_counter=1, flags=flags)
        memory.put_t(ring, STR, token, b"" if flags == REMOVED else VALUE, flags=flags)
        memory.put_t(ring, STR, candidate(b"another"), b"" if flags == REMOVED else b"another", flags=flags)
        for key, item in (
            (value_key, tokenize(ring, VALUE)),
            (token_key, detokenize(ring, token)),
            (orphan_key, tokenize(ring, b"another")),
        ):
            raw = memory.entries[key]
            for bit in range(5 * 8):
                expect_unreadable(memory, key, flipped(raw, bit), [item])
            memory.entries[key] = raw


Place = Callable[[DenseMemory, Keyring], tuple[bytes, bytes]]


def another_values(memory: DenseMemory, ring: Keyring) -> tuple[bytes, bytes]:
    (token, _) = run(memory, [tokenize(ring, b"another"), tokenize(ring, b"and one")])
    assert isinstance(token, bytes)
    return memory.entries[memory.value_key(b"another")], memory.entries[memory.token_key(token)]


def of_owner(owner: Owner) -> Place:
    def entries(memory: DenseMemory, _: Keyring) -> tuple[bytes, bytes]:
        theirs = new_ring(owner=owner)  # of the same keys, and the same value and token
        return (
            memory.entries[memory.put_h(theirs, STR, VALUE, candidate(VALUE), next_counter=1)],
            memory.entries[memory.put_t(theirs, STR, candidate(VALUE), VALUE)],
        )

    return entries


def of_another_type(memory: DenseMemory, ring: Keyring) -> tuple[bytes, bytes]:
    return (
        memory.entries[memory.put_h(ring, BYTES, VALUE, candidate(VALUE), next_counter=1)],
        memory.entries[memory.put_t(ring, BYTES, candidate(VALUE), VALUE)],
    )


def exchanged(memory: DenseMemory, ring: Keyring) -> tuple[bytes, bytes]:
    """The value entry in place of the token entry, and the other way round."""
    run(memory, [tokenize(ring, VALUE)])
    return memory.entries[memory.token_key(candidate(VALUE))], memory.entries[memory.value_key(VALUE)]


def resealed_for_another_name(memory: DenseMemory, ring: Keyring) -> tuple[bytes, bytes]:
    """Entries whose name in the associated data differs in one bit."""
    value_key, token_key = (flipped(key, 127) for key in (memory.value_key(VALUE), memory.token_key(candidate(VALUE))))
    value = memory.sealed(ring, value_key, b"\x03\x01" + candidate(VALUE))
    return value, memory.sealed(ring, token_key, b"\x03" + VALUE)


@pytest.mark.parametrize(
    "place",
    [
        another_values,
        of_owner(BILLING),
        of_owner(Owner("zone", SHOP.id)),
        of_another_type,
        exchanged,
        resealed_for_another_name,
    ],
    ids=["another value", "another client", "zone of that id", "another type", "exchanged", "another name"],
)
def test_entry_in_a_wrong_place(memory: DenseMemory, ring: Keyring, place: Place) -> None:
    """A valid entry that stands under a name that is not its own is entry_unreadable, whatever it is."""
    value_raw, token_raw = place(memory, ring)
    value_key, token_key = memory.value_key(VALUE), memory.token_key(candidate(VALUE))
    memory.entries.pop(value_key, None)

    expect_unreadable(memory, token_key, token_raw, [detokenize(ring, candidate(VALUE)), tokenize(ring, VALUE)])
    expect_unreadable(memory, value_key, value_raw, [tokenize(ring, VALUE)])


def test_entry_of_another_index_key(memory: DenseMemory, ring: Keyring) -> None:
    """Names come from the index key: with another one, nothing of the first is found, and nothing of it is touched."""
    (token,) = run(memory, [tokenize(ring, VALUE)])
    assert isinstance(token, bytes)
    before = dict(memory.entries)
    other = new_ring(index_key=bytes(32))

    assert code(run(memory, [detokenize(other, token)])[0]) is Code.TOKEN_NOT_FOUND
    assert run(memory, [tokenize(other, VALUE)]) == [token]
    assert memory.entries.items() > before.items()
    assert len(memory.entries) == 4


# Many at once


def test_one_bad_entry_among_many_harms_no_other(memory: DenseMemory) -> None:
    """Of many entries that are opened at once, damaged, swapped, disabled and removed ones are told as if alone."""
    shop, billing = new_ring(), new_ring(OLD_KEY, owner=BILLING)
    values = [b"value %03d" % number for number in range(3 * COLUMN_MIN)]
    count = len(values)
    given = run(memory, [tokenize(owner, value) for owner in (shop, billing) for value in values])
    names = [memory.value_key(value) for value in values]
    run(memory, [tokenize(shop, values[0])])  # the key of the head is known from now on
    raws = [memory.entries[name] for name in names]
    assert memory.layout.open_many(ItemGroup(shop, STR, True, values, names=names), raws, None) == given[:count]

    memory.entries[names[1]] = raws[1][:-1] + bytes((raws[1][-1] ^ 1,))
    memory.entries[names[2]], memory.entries[names[3]] = raws[3], raws[2]
    del memory.entries[names[4]]
    again = run(memory, [tokenize(owner, value) for owner in (shop, billing) for value in values])

    assert [code(result) for result in again[1:4]] == [Code.ENTRY_UNREADABLE] * 3
    assert [again[0], *again[4:]] == [given[0], *given[4:]]
    back = run(memory, [detokenize(shop, token) for token in again[4:count] if isinstance(token, bytes)])
    assert back == values[4:]


def test_odd_contents_among_many_are_read_as_if_alone(memory: DenseMemory, ring: Keyring) -> None:
    """Among many entries of one length, a long counter is no part of a token, and another type is never answered."""
    values = [b"value %03d" % number for number in range(COLUMN_MIN)]
    tokens = run(memory, [tokenize(ring, value) for value in values])
    run(memory, [tokenize(ring, values[0])])  # the key of the head is known from now on
    key = SealKey(KEY, SHOP)

    def put(name: bytes, plaintext: bytes) -> None:
        raw = key.seal(name, key.head(0, NOW // DAY), plaintext)
        assert len(raw) == len(memory.entries[name])
        memory.entries[name] = raw

    v_names = [memory.value_key(value) for value in values]
    put(v_names[0], value_plaintext(STR.number, 300, b"token"))
    put(v_names[1], value_plaintext(BYTES.number, 1, b"9 letters"))
    answers = run(memory, [tokenize(ring, value) for value in values])
    assert (answers[0], code(answers[1]), answers[2:]) == (b"token", Code.ENTRY_UNREADABLE, tokens[2:])

    items = [detokenize(ring, token) for token in tokens if isinstance(token, bytes)]
    put(prepared(ring).names.of_token(items[0].data, STR.number), token_plaintext(BYTES.number, b"9 letters"))
    back = run(memory, items)
    assert (code(back[0]), back[1:]) == (Code.ENTRY_UNREADABLE, values[1:])
