"""Token entries are sealed and opened the short way, and compared with reading them part by part."""

import random
import secrets
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from token_worker.acra.acra_block import DataKey, key_id
from token_worker.acra.owner import Owner
from token_worker.acra.token_entry import (
    Times,
    TokenEntry,
    accessed_number,
    decode_entry,
    decode_times,
    encode_entry,
    encode_times,
    encode_token_value,
    used_since,
)
from token_worker.acra.value_types import BYTES, STR
from token_worker.errors import CorruptData
from token_worker.keys.keyring import DataKeyCache, Keyring, NoMatchingKey
from token_worker.storage.acra.sealing import Sealing
from token_worker.storage.item_group import ItemGroup
from token_worker.storage.layout import Notes, Opened

NOW = 1_800_000_000
LATER = NOW + 1000
MARK = (LATER, NOW, accessed_number(NOW))
KEY = bytes(range(32))
SHOP = Owner("client", "shop-frontend")
IN_USE = Times(NOW, NOW)
TIMES = encode_times(IN_USE)


def ring_of(owner: Owner = SHOP, *keys: bytes) -> Keyring:
    current, *older = keys or (KEY,)
    ring = Keyring(owner, current, DataKeyCache())
    for key in older:
        ring.add(key)
    return ring


def part_by_part(ring: Keyring, raw: bytes) -> Opened:
    """The long way, which all tests of the formats are about."""
    entry = decode_entry(raw)
    inside, times = ring.open(entry.block), Times(*entry[1:])
    if times.disabled:
        return inside, Notes(disabled=True)
    return inside, Notes(touched=encode_entry(entry._replace(accessed=LATER))) if times.accessed < NOW else None


def read(sealing: Sealing, ring: Keyring, raw: bytes) -> Opened:
    return sealing.open(ring, b"", 0, raw, MARK)


def read_many(sealing: Sealing, given: list[tuple[Keyring, Any]], *, tokenize: bool = True) -> list[bytes]:
    """Open entries, all of one owner at once. The content of each; empty for those that are left."""
    contents = [b""] * len(given)
    for ring in dict.fromkeys(ring for ring, _ in given):
        places = [place for place, (its_ring, _) in enumerate(given) if its_ring is ring]
        group = ItemGroup(ring, STR, tokenize, [b"any"] * len(places))
        opened = sealing.open_many(group, [given[place][1] for place in places], MARK)
        for place, content in zip(places, opened, strict=True):
            contents[place] = content
    return contents


def outcome(call: Any) -> Any:
    try:
        return call()
    except CorruptData as error:
        return type(error)


def entry_with(data_key: DataKey, inside: bytes, times: Times = IN_USE) -> bytes:
    return encode_entry(TokenEntry(data_key.seal(inside), *times))


@pytest.mark.parametrize("length", [1, 2, 16, 127, 128, 1000, 16_200, 16_240, 16_300, 70_000])
def test_sealed_entries_are_those_of_the_formats(length: int) -> None:
    """An entry that was sealed the short way can be read part by part, and opened by everyone, whatever its length."""
    ring, sealing, inside = ring_of(), Sealing(), secrets.token_bytes(length)

    raws = sealing.seal(ring.sealing_key(3), [inside] * 3, TIMES)

    assert len(set(raws)) == 3
    for raw in raws:
        assert part_by_part(ring, raw) == (inside, None)
        for opener in (sealing, Sealing(), sealing):
            assert read(opener, ring, raw) == (inside, None)


OWNERS = [SHOP, Owner("zone", SHOP.id), Owner("client", "billing_service")]
RINGS = [ring_of(SHOP, KEY, b"o" * 32), *map(ring_of, OWNERS[1:]), ring_of(SHOP, b"n" * 32)]
LENGTHS = [1, 2, 8, 16, 40, 128]


def pool() -> list[bytes]:
    """Entries of all owners, of shared and of their own data keys, of all sorts of times."""
    chance = random.Random(5)
    made = []
    for owner, ring in zip(
        [*OWNERS, SHOP, SHOP], [*RINGS, ring_of(SHOP, b"lost key of the history, of shop")], strict=True
    ):
        shared = DataKey.generate(ring.current, owner.context)
        for number in range(40):
            own = DataKey.generate(chance.choice(ring.keys), owner.context)
            accessed = chance.choice([NOW, NOW - 1, NOW + 9, 1, 0, 1 << 28, 1 << 36])
            times = Times(chance.choice([NOW, 0]), accessed, chance.random() < 0.2)
            inside = chance.randbytes(chance.choice(LENGTHS))
            made.append(entry_with(shared if number % 2 else own, inside, times))
    return made


POOL = pool()
WARM = Sealing()
"""A sealing that has met every entry of the pool with every keyring, twice."""
for _ in range(2):
    for _raw in POOL:
        for _ring in RINGS:
            outcome(lambda _ring=_ring, _raw=_raw: read(WARM, _ring, _raw))


@given(
    raw=st.sampled_from(POOL),
    ring=st.sampled_from(RINGS),
    changes=st.lists(st.tuples(st.integers(0, 900), st.sampled_from(b"0123456789abcdefABCDEF\x00g")), max_size=3),
    cut=st.none() | st.integers(0, 900),
    tail=st.sampled_from([b"", b"", b"2001", b"2000", b"1001", b"0", b"00", b"180a"]),
)
def test_short_and_long_way_agree(
    raw: bytes, ring: Keyring, changes: list[tuple[int, int]], cut: int | None, tail: bytes
) -> None:
    """The short way of opening gives the same answer as the long way, for any change of an entry and any owner."""
    changed = bytearray(raw)
    for at, byte in changes:
        changed[at % len(changed)] = byte
    raw = bytes(changed[:cut]) + tail

    expected = outcome(lambda: part_by_part(ring, raw))
    got = outcome(lambda: read(WARM, ring, raw))

    assert expected == got


@pytest.mark.parametrize("is_met", [True, False], ids=["data key met before", "data key not met"])
def test_every_change_of_a_digit(is_met: bool) -> None:
    """Any changed digit gives the same result as the long way: a cached head never stands for other bytes."""
    ring, data_key = ring_of(), DataKey.generate(KEY, SHOP.context)
    raw = entry_with(data_key, b"some value of it")
    sealing = Sealing()
    met = data_key if is_met else DataKey.generate(KEY, SHOP.context)
    for _ in range(2):
        assert read(sealing, ring, entry_with(met, b"other value also"))[0] == b"other value also"
    for at in range(len(raw)):
        for digit in b"0f" if raw[at : at + 1] not in b"0f" else b"17":
            changed = raw[:at] + bytes((digit,)) + raw[at + 1 :]
            expected = outcome(lambda changed=changed: part_by_part(ring, changed))
            got = outcome(lambda changed=changed: read(sealing, ring, changed))
            assert expected == got, at


@given(
    raw=st.sampled_from(POOL),
    ring=st.sampled_from(RINGS),
    at=st.integers(-40, -1),
    byte=st.sampled_from(b"0123456789abcdef"),
)
def test_short_and_long_way_agree_on_times(raw: bytes, ring: Keyring, at: int, byte: int) -> None:
    """The bytes after the block are not authenticated: the short and the long way read each change alike."""
    changed = bytearray(raw)
    changed[at] = byte
    raw = bytes(changed)

    assert outcome(lambda: part_by_part(ring, raw)) == outcome(lambda: read(WARM, ring, raw))


CHANGES = st.none() | st.tuples(st.integers(-900, -1), st.sampled_from(b"0123456789abcdefABCDEF\x00g"))


@given(st.lists(st.tuples(st.sampled_from(POOL), st.sampled_from(RINGS), CHANGES), min_size=1, max_size=12))
def test_many_at_once_are_opened_as_alone(batch: list[tuple[bytes, Keyring, tuple[int, int] | None]]) -> None:
    """Entries that are opened at once have the contents of the long way; those with remarks are left out."""
    given: list[tuple[Keyring, bytes]] = []
    for raw, ring, change in batch:
        changed = bytearray(raw)
        if change is not None:
            changed[change[0] % len(raw)] = change[1]
        given.append((ring, bytes(changed)))

    for (ring, raw), content in zip(given, read_many(WARM, given), strict=True):
        if content:
            assert part_by_part(ring, raw) == (content, None)


def test_all_of_a_batch_are_opened_at_once() -> None:
    """Of entries with known heads, all that are sound and have no remarks are opened: also of two owners in turn."""
    shop, billing, sealing = ring_of(), ring_of(OWNERS[2], b"b" * 32), Sealing()
    values = [b"value %d" % number for number in range(3)]
    given: list[tuple[Keyring, Any]] = []
    for value in values:
        for ring in (shop, billing):
            [raw] = sealing.seal(ring.sealing_key(1), [encode_token_value(value, STR.number)], TIMES)
            read(sealing, ring, raw)
            given.append((ring, raw))
    sound = [value for value in values for _ in range(2)]
    assert read_many(sealing, given, tokenize=False) == sound
    assert read_many(sealing, given) == [encode_token_value(value, STR.number) for value in sound]

    data_key = shop.sealing_key(1)
    stale, disabled = encode_times(Times(NOW - 9, NOW - 1)), encode_times(Times(NOW, NOW, disabled=True))
    of_bytes = encode_token_value(b"value 0", BYTES.number)
    odd = [
        *(
            sealing.seal(data_key, [encode_token_value(b"value 0", STR.number)], times)[0]
            for times in (stale, disabled)
        ),
        sealing.seal(data_key, [of_bytes], TIMES)[0],
        given[0][1][:-30] + b"00" + given[0][1][-28:],
    ]
    [without_times] = sealing.seal(data_key, [encode_token_value(b"value 0", STR.number)], b"")
    assert read(sealing, shop, without_times)[1] is not None
    assert read_many(sealing, [(shop, without_times)], tokenize=False) == [b""]
    between = [(shop, raw) for raw in odd] + [(billing, given[0][1]), (shop, None)]
    mixed = [pair for other in between for pair in (given[0], other)]
    assert read_many(sealing, mixed, tokenize=False) == [b"value 0", b""] * len(between)


def test_entry_of_another_owner_stays_locked() -> None:
    """An entry that was opened for one owner is not opened for another, though it begins as one that was met."""
    ring, zone, sealing = ring_of(), ring_of(OWNERS[1], b"z" * 32), Sealing()
    [raw] = sealing.seal(ring.sealing_key(1), [b"a value"], TIMES)
    for _ in range(3):
        assert read(sealing, ring, raw)[0] == b"a value"
        with pytest.raises(NoMatchingKey):
            read(sealing, zone, raw)


def test_entry_stays_locked_until_its_key_is_there() -> None:
    """After a rotation an entry of the old key is opened by the keyring that has it, and by no other."""
    before, after, sealing = ring_of(), ring_of(SHOP, b"n" * 32), Sealing()
    [raw] = sealing.seal(before.sealing_key(1), [b"a value"], TIMES)
    assert read(sealing, before, raw)[0] == b"a value"
    with pytest.raises(NoMatchingKey):
        read(sealing, after, raw)
    after.add(KEY)
    for ring in (after, before, after):
        assert read(sealing, ring, raw)[0] == b"a value"


def test_two_keys_of_one_id() -> None:
    """If two keys of an owner have the same id, entries of both open, also if they begin alike."""
    by_id: dict[bytes, bytes] = {}
    while (name := key_id(key := secrets.token_bytes(32), SHOP.context)) not in by_id:
        by_id[name] = key
    sealing, ring = Sealing(), ring_of(SHOP, by_id[name], key)
    raws = [entry_with(DataKey.generate(one, SHOP.context), b"a value") for one in (key, by_id[name]) * 3]

    assert [read(sealing, ring, raw)[0] for raw in raws * 2] == [b"a value"] * 12


def test_what_is_kept_is_bounded() -> None:
    """With any number of data keys and lengths, a bounded number is kept, and every entry opens."""
    ring, sealing = ring_of(), Sealing(size=3)
    raws = [entry_with(DataKey.generate(KEY, SHOP.context), bytes(1 + number % 7)) for number in range(30)]
    for length in range(1, 30):
        sealing.seal(ring.sealing_key(1), [bytes(length)], TIMES)

    assert [len(read(sealing, ring, raw)[0]) for raw in raws * 2] == [1 + number % 7 for number in range(30)] * 2
    for raw in [entry_with(DataKey.generate(KEY, SHOP.context), b"of one length") for _ in range(9)]:
        assert read(sealing, ring, raw)[0] == b"of one length"
    assert (len(sealing._to_open), len(sealing._to_seal), len(sealing._frames)) == (3, 3, 3)


SECONDS = st.integers(0, 1 << 40) | st.integers(NOW - 2, NOW + 2) | st.sampled_from([(1 << 28) - 1, 1 << 28, 1 << 35])


@given(created=SECONDS, accessed=SECONDS, disabled=st.booleans(), since=SECONDS)
def test_used_since_says_yes_only_where_it_is_so(created: int, accessed: int, disabled: bool, since: int) -> None:
    """Only entries that are enabled and used since then count as such, and all of them from the years that matter."""
    times = encode_times(Times(created, accessed, disabled))
    said = used_since(times, accessed_number(since))
    is_so = not disabled and accessed >= since
    usual = range(1 << 28, 1 << 35)

    assert not said or is_so
    if created in usual and accessed in usual and since in usual:
        assert said is is_so


@given(st.binary(max_size=16) | st.binary(min_size=12, max_size=12), SECONDS)
def test_used_since_of_any_bytes(times: bytes, since: int) -> None:
    """Bytes that are no times, or not such as say so, are never taken for an entry in use."""
    if used_since(times, accessed_number(since)):
        read = decode_times(times)
        assert not read.disabled
        assert read.accessed >= since
