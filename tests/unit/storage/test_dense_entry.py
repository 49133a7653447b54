"""The bytes of the dense layout: against vectors, against a second implementation, and damaged in every way."""

import itertools
from pathlib import Path
from random import Random
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.second_dense import SecondDense, SecondEntry, UnreadableError
from token_worker.acra.owner import Owner
from token_worker.acra.value_types import TYPES
from token_worker.errors import CorruptData
from token_worker.keys.keyring import DataKeyCache, Keyring
from token_worker.storage.dense import entry
from token_worker.storage.dense.entry import ALONE, DISABLED, FOREIGN, REMOVED, EntryNames, SealKey
from token_worker.storage.dense.layout import (
    DenseLayout,
    alone_plaintext,
    foreign_plaintext,
    token_plaintext,
    value_plaintext,
)
from token_worker.storage.layout import Notes, Opened

VECTORS: dict[str, list[dict[str, Any]]] = msgspec.json.decode(
    (Path(__file__).parents[2] / "vectors" / "dense.json").read_bytes()
)
Vector = dict[str, Any]
Side = Literal["value", "token"]
RANDOM_ENTRIES = 10_000
FLAGS: dict[Side, list[int]] = {
    "value": [0, DISABLED, REMOVED],
    "token": [base | state for base in (0, ALONE, ALONE | FOREIGN) for state in (0, DISABLED, REMOVED)],
}
LAYOUT = DenseLayout()


def ring_of(kind: Literal["client", "zone"], owner_id: str, keys: list[bytes], index_key: bytes) -> Keyring:
    ring = Keyring(Owner(kind, owner_id), keys[0], DataKeyCache(), index_key, "present")
    for key in keys[1:]:
        ring.add(key)
    LAYOUT.prepare(ring)
    return ring


def both_of(vector: Vector) -> tuple[Keyring, SecondDense]:
    """The owner of a vector in both implementations."""
    keys, index_key = [bytes.fromhex(key) for key in vector["keys"]], bytes.fromhex(vector["index_key"])
    ring = ring_of(vector["kind"], vector["id"], keys, index_key)
    return ring, SecondDense(vector["kind"], vector["id"], keys, index_key)


def opened(ring: Keyring, name: bytes, number: int, raw: bytes) -> Opened:
    """Open an entry as the engine does."""
    open_it = LAYOUT.open_value if name[:1] == b"v" else LAYOUT.open_token
    return open_it(ring, name, number, raw, None)


def expected(side: Side, content: bytes, counter: int | None, flags: int) -> Opened:
    """The answer of the layout for an entry."""
    if not flags:
        return content, None
    if flags & REMOVED:
        content = b""
    is_tombstone = side == "value" and flags & REMOVED
    notes = Notes(bool(flags & DISABLED), bool(flags & REMOVED), bool(flags & ALONE))
    return content, notes._replace(next_counter=counter or 0) if is_tombstone else notes


def of_token_entry(names: EntryNames, number: int, token: bytes, value: bytes, flags: int) -> tuple[bytes, bytes]:
    """Name and plaintext of a token entry; the value is empty if the entry is removed."""
    name = names.of_foreign(token, number) if flags & FOREIGN else names.of_token(token, number)
    if not flags & ALONE:
        return name, token_plaintext(number, value)
    if flags & (FOREIGN | REMOVED):
        return name, foreign_plaintext(number, names.data_id(token, number), value)
    return name, alone_plaintext(number, token, value)


def second_of(
    second: SecondDense, side: Side, number: int, value: bytes, token: bytes, counter: int | None, day: int, flags: int
) -> tuple[bytes, SecondEntry]:
    """Name and content of an entry by the second implementation."""
    content = b"" if flags & REMOVED else token if side == "value" else value
    data_id = second.data_id(number, token)
    held = (data_id if flags & (FOREIGN | REMOVED) else token) if flags & ALONE else b""
    written = SecondEntry(number, content, counter if side == "value" else None, day, flags, held)
    if side == "value":
        return second.value_name(number, value), written
    return second.foreign_name(data_id) if flags & FOREIGN else second.token_name(number, token), written


# Vectors


def test_vectors_of_owners() -> None:
    """Tag, check value and key ids of an owner do not change, and both implementations agree."""
    for vector in VECTORS["owners"]:
        ring, second = both_of(vector)
        names = EntryNames(bytes.fromhex(vector["index_key"]), ring.owner)
        check = entry.check_name(ring.owner).hex(), names.check.hex()
        assert (vector["check_name"], vector["check_value"]) == check
        assert tuple(part.hex() for part in second.check()) == check
        assert vector["tag"] == names.tag.hex() == second.tag.hex()
        assert vector["key_ids"] == [SealKey(key, ring.owner).id.hex() for key in ring.keys]
        assert vector["key_ids"] == [key_id.hex() for _, key_id in second.seals]


def test_vectors_of_entries() -> None:
    """Entries keep their bytes: a changed vector is a breaking release. Both implementations write and open them."""
    for vector in VECTORS["entries"]:
        check_entry(vector)


def check_entry(vector: Vector) -> None:
    ring, second = both_of(vector)
    side, number, flags, day, counter = (vector[member] for member in ("entry", "number", "flags", "day", "next"))
    value, token, key, name, raw = (bytes.fromhex(vector[m]) for m in ("value", "token", "key", "name", "raw"))
    names, seal_key = EntryNames(bytes.fromhex(vector["index_key"]), ring.owner), SealKey(key, ring.owner)
    content = token if side == "value" else value
    held = b"" if flags & REMOVED else content

    if side == "value":
        made = names.of_value(value, number), value_plaintext(number, counter, held)
    else:
        made = of_token_entry(names, number, token, held, flags)
    their_name, written = second_of(second, side, number, value, token, counter, day, flags)
    assert made[0] == their_name == name
    assert TYPES[vector["type"]].number == number
    assert seal_key.seal(name, seal_key.head(flags, day), made[1]) == raw
    assert sealed_by(second, key, name, written) == raw
    assert second.open(name, raw) == written
    assert opened(ring, name, number, raw) == expected(side, content, counter, flags)
    assert entry.read_head(name, raw) == (flags, day, seal_key.id)


def sealed_by(second: SecondDense, key: bytes, name: bytes, written: SecondEntry) -> bytes:
    """Seal by the second implementation, under a given key."""
    second.seals.sort(key=lambda seal: seal != second.seal_of(key))
    return second.seal(name, written)


def test_vectors_are_complete() -> None:
    """There are vectors of all types and both entries, of all flags, of short and long counters, of clients, zones."""
    entries = VECTORS["entries"]
    seen = {(v["entry"], v["type"], v["kind"]) for v in entries}
    assert seen == {(side, name, kind) for side in FLAGS for name in TYPES for kind in ("client", "zone")}
    assert {(v["entry"], v["flags"]) for v in entries} == {(side, flag) for side in FLAGS for flag in FLAGS[side]}
    for flags in FLAGS["value"]:
        counters = {v["next"] for v in entries if v["entry"] == "value" and v["flags"] == flags}
        assert counters >= {0, 1, 254, 255, 256, 2**32 - 1}
    assert any(v["key"] != v["keys"][0] for v in entries)
    assert {v["day"] for v in entries} >= {0, 65535}


# Both implementations


def test_both_implementations_agree() -> None:
    """Both implementations write the same bytes for 10,000 random entries, and each opens what the other wrote."""
    chance = Random(21)
    for _ in range(RANDOM_ENTRIES // 100):
        kind: Literal["client", "zone"] = chance.choice(("client", "zone"))
        owner_id = "".join(chance.choices("abc XYZ-_żд中👩", k=chance.randint(5, 30)))
        keys = [chance.randbytes(32) for _ in range(chance.randint(1, 3))]
        index_key = chance.randbytes(32)
        ring = ring_of(kind, owner_id, keys, index_key)
        second = SecondDense(kind, owner_id, keys, index_key)
        for _ in range(100):
            check_random_entry(chance, ring, second)


def check_random_entry(chance: Random, ring: Keyring, second: SecondDense) -> None:
    owner = LAYOUT.prepare(ring)
    side: Side = chance.choice(("value", "token"))
    number, flags = chance.choice(list(TYPES.values())).number, chance.choice(FLAGS[side])
    value, token = (chance.randbytes(chance.choice((1, 4, 8, 13, 14, 15, 16, 17, 29, 30, 31, 32, 200))) for _ in "vt")
    day, counter = chance.randrange(65536), chance.choice((0, chance.randrange(300), chance.randrange(2**32)))
    content = b"" if flags & REMOVED else token if side == "value" else value
    if side == "value":
        name, plaintext = owner.names.of_value(value, number), value_plaintext(number, counter, content)
    else:
        name, plaintext = of_token_entry(owner.names, number, token, content, flags)
    raw = owner.seal_key.seal(name, owner.seal_key.head(flags, day), plaintext)
    their_name, written = second_of(second, side, number, value, token, counter, day, flags)

    assert their_name == name
    assert second.seal(name, written) == raw
    assert second.open(name, raw) == written
    assert opened(ring, name, number, raw) == expected(side, content, counter, flags)


@given(st.data())
def test_both_implementations_refuse_the_same(data: st.DataObject) -> None:
    """Bytes that the second implementation refuses, the product refuses, too; and it opens the others alike."""
    vector = data.draw(st.sampled_from(VECTORS["entries"]))
    ring, second = both_of(vector)
    raw = bytearray.fromhex(vector["raw"])
    for _ in range(data.draw(st.integers(0, 2))):
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    raw = raw[: data.draw(st.one_of(st.just(len(raw)), st.integers(0, len(raw))))]
    raw += data.draw(st.one_of(st.just(b""), st.binary(max_size=20)))
    name = bytes.fromhex(vector["name"])
    name = data.draw(st.sampled_from([name, (b"t" if name[:1] == b"v" else b"v") + name[1:]]))
    try:
        theirs = second.open(name, bytes(raw))
    except UnreadableError:
        with pytest.raises(CorruptData):
            opened(ring, name, vector["number"], bytes(raw))
        return
    side: Side = "value" if name[:1] == b"v" else "token"
    assert opened(ring, name, theirs.number, bytes(raw)) == expected(side, theirs.content, theirs.next, theirs.flags)


# What is authentic, and still no entry

RING = ring_of("client", "shop-frontend", [bytes(range(32))], bytes(range(200, 232)))
SECOND = SecondDense("client", "shop-frontend", [bytes(range(32))], bytes(range(200, 232)))
STR = TYPES["str"].number


@pytest.mark.parametrize(
    ("side", "flags", "plaintext"),
    [
        ("value", 0, b""),
        ("value", 0, b"\x03"),
        ("value", 0, b"\x03\x01"),
        ("value", 0, b"\x03\xff\0\0\1"),
        ("value", 0, b"\x03\xff\0\0\1\0"),
        ("value", 0, b"\x04\x01token"),
        ("value", DISABLED, b"\x03\x01"),
        ("value", DISABLED, b"\x04\x01token"),
        ("value", REMOVED, b"\x03"),
        ("value", REMOVED, b"\x03\xff\0\0\1"),
        ("value", REMOVED, b"\x03\x01token"),
        ("value", REMOVED, b"\x04\x01"),
        ("token", 0, b""),
        ("token", 0, b"\x03"),
        ("token", 0, b"\x04value"),
        ("token", DISABLED, b"\x03"),
        ("token", ALONE, b""),
        ("token", ALONE, b"\x03"),
        ("token", ALONE, b"\x03value"),
        ("token", ALONE, b"\x03\x05token"),
        ("token", ALONE, b"\x03\x05tokem" + b"value"),
        ("token", ALONE, b"\x03\x06token"),
        ("token", ALONE, b"\x04\x05tokenvalue"),
        ("token", ALONE, b"\x03\xff\0\0\0token"),
        ("token", ALONE | FOREIGN, b"\x03"),
        ("token", ALONE | FOREIGN, b"\x03" + bytes(32) + b"value"),
        ("token", ALONE | FOREIGN | REMOVED, b"\x03" + bytes(32)),
        ("token", ALONE | REMOVED, b"\x03"),
        ("token", ALONE | REMOVED, b"\x03" + bytes(31)),
        ("token", ALONE | REMOVED, b"\x03" + bytes(33)),
        ("token", ALONE | REMOVED, b"\x04" + bytes(32)),
        ("token", REMOVED, b""),
        ("token", REMOVED, b"\x03value"),
        ("token", REMOVED, b"\x04"),
    ],
)
def test_plaintext_that_is_none(side: Side, flags: int, plaintext: bytes) -> None:
    """An authentic entry whose plaintext is not of the specification is unreadable, in both implementations."""
    name = SECOND.value_name(STR, b"value") if side == "value" else SECOND.token_name(STR, b"token")
    seal_key = LAYOUT.prepare(RING).seal_key
    raw = seal_key.seal(name, seal_key.head(flags, 1), plaintext)

    with pytest.raises(CorruptData):
        opened(RING, name, STR, raw)
    with pytest.raises(UnreadableError):
        SECOND.open(name, raw, STR)


def test_only_these_versions_and_flags() -> None:
    """An authentic entry of another version, or with flags that do not fit, is unreadable."""
    sides: list[Side] = ["value", "token"]
    for side, first_byte in itertools.product(sides, range(256)):
        check_first_byte(first_byte, side)


def check_first_byte(first_byte: int, side: Side) -> None:
    owner, flags = LAYOUT.prepare(RING), first_byte & 15
    key, held = owner.seal_key, b"" if flags & REMOVED else b"held"
    if side == "value":
        name, plaintext = owner.names.of_value(b"value", STR), value_plaintext(STR, 1, held)
    else:
        name, plaintext = of_token_entry(owner.names, STR, b"token", held, flags)
    raw = key.seal(name, bytes([first_byte]) + key.head(0, 7)[1:], plaintext)
    if first_byte >> 4 == 1 and flags in FLAGS[side]:
        assert opened(RING, name, STR, raw) == expected(side, b"held", 1, flags)
        assert SECOND.open(name, raw).flags == flags
    else:
        with pytest.raises(CorruptData):
            opened(RING, name, STR, raw)
        with pytest.raises(UnreadableError):
            SECOND.open(name, raw)


def test_every_bit_is_authenticated() -> None:
    """An entry in which any bit was changed does not open; nor with any byte less, nor one more."""
    for side in ("value", "token"):
        vector = next(v for v in VECTORS["entries"] if v["entry"] == side and v["type"] == "str" and v["flags"] == 0)
        ring, _ = both_of(vector)
        name, raw = bytes.fromhex(vector["name"]), bytes.fromhex(vector["raw"])
        assert opened(ring, name, STR, raw)[1] is None
        damaged = [raw[:at] + bytes([raw[at] ^ 1 << bit]) + raw[at + 1 :] for at in range(len(raw)) for bit in range(8)]
        damaged += [raw[:at] for at in range(len(raw))] + [raw + b"\0", b"\0" + raw, raw + raw]
        for bad in damaged:
            with pytest.raises(CorruptData):
                opened(ring, name, STR, bad)


def test_day_of_a_time() -> None:
    """The day of a time is counted from 1970 in UTC, and stays within its two bytes."""
    assert [entry.day_of(now) for now in (0, 86399.9, 86400, 1_800_000_000)] == [0, 0, 1, 20833]
    assert [entry.day_of(now) for now in (-1, 2**40)] == [0, 65535]


def test_two_keys_with_one_id() -> None:
    """Entries under two keys of an owner with the same key id and day open in any order, and again."""
    by_id: dict[bytes, bytes] = {}
    for number in range(2**16):  # one of the first few hundreds is the second with its id
        key = number.to_bytes(32, "big")
        other = by_id.setdefault(SealKey(key, RING.owner).id, key)
        if other != key:
            break
    ring = ring_of("client", "shop-frontend", [key, other], bytes(32))
    owner = LAYOUT.prepare(ring)
    v_name, t_name = owner.names.of_value(b"value", STR), owner.names.of_token(b"token", STR)
    for sealing in (key, other, key, other):
        seal_key = SealKey(sealing, ring.owner)
        head = seal_key.head(0, 20833)
        for _ in range(2):
            token = opened(ring, v_name, STR, seal_key.seal(v_name, head, value_plaintext(STR, 1, b"token")))
            assert token == (b"token", None)
            value = opened(ring, t_name, STR, seal_key.seal(t_name, head, token_plaintext(STR, b"value")))
            assert value == (b"value", None)
