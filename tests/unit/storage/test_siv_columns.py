"""Entries that are sealed or opened many at once have the bytes of the library."""

from itertools import pairwise
from random import Random

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from token_worker.acra.owner import Owner
from token_worker.storage.dense.blocks import COLUMN_MAX, LENGTH_MAX
from token_worker.storage.dense.entry import SealKey
from token_worker.storage.dense.siv_columns import COLUMN_MIN, SivColumns

OWNER = Owner("client", "shop")


def test_every_length_has_the_bytes_of_the_library() -> None:
    """Plaintexts of each length, few and many at once, with heads of each length, are sealed and opened as by it."""
    rng = Random(5297)
    key = rng.randbytes(64)
    one, many = AESSIV(key), SivColumns(key)
    for length in range(1, LENGTH_MAX + 1):
        for count in (1, 2, 33, COLUMN_MAX):
            head = rng.randbytes(1 + length % 15)
            names = [rng.randbytes(16) for _ in range(count)]
            plaintexts = [rng.randbytes(length) for _ in range(count)]
            expected = [head + one.encrypt(text, [name + head]) for name, text in zip(names, plaintexts, strict=True)]
            assert many.seal(head, names, plaintexts) == expected
            assert many.open(head, names, expected) == plaintexts


@pytest.mark.parametrize("length", [1, 15, 16, 17, 32, 33])
def test_nothing_is_opened_if_a_bit_of_an_entry_or_a_name_differs(length: int) -> None:
    """Whatever bit of an entry or its name is another, and where two entries are swapped, nothing is opened."""
    rng = Random(length)
    many = SivColumns(rng.randbytes(64))
    head = rng.randbytes(5)
    names = [rng.randbytes(16) for _ in range(3)]
    entries = many.seal(head, names, [rng.randbytes(length) for _ in range(3)])
    for place in range(3):
        for number in range(5 * 8, 8 * len(entries[place])):
            assert many.open(head, names, _changed(entries, place, number)) is None
        for number in range(8 * 16):
            assert many.open(head, _changed(names, place, number), entries) is None
    for number in range(8 * 5):
        [other] = _changed([head], 0, number)
        assert many.open(other, names, [other + entry[5:] for entry in entries]) is None
    assert many.open(head, names, [entries[1], entries[0], entries[2]]) is None
    assert many.open(head, names, entries) is not None


def _changed(texts: list[bytes], place: int, number: int) -> list[bytes]:
    """The texts with one bit changed."""
    changed = bytearray(texts[place])
    changed[number // 8] ^= 1 << number % 8
    return [*texts[:place], bytes(changed), *texts[place + 1 :]]


@pytest.mark.parametrize("length", [1, 16, 18])
@pytest.mark.parametrize("fill", [b"\x00", b"\xff", b"\x80", b"\x01"])
def test_carries_stay_in_their_lane(length: int, fill: bytes) -> None:
    """Blocks of nothing but ones or zeros, where a carry or a shift would reach the neighbour, are sealed right."""
    key = Random(1).randbytes(64)
    names, plaintexts = [fill * 16] * COLUMN_MIN, [fill * length] * COLUMN_MIN
    names[3], plaintexts[3] = bytes(16), bytes(length)
    head = fill * 5
    one = AESSIV(key)
    expected = [head + one.encrypt(text, [name + head]) for name, text in zip(names, plaintexts, strict=True)]
    assert SivColumns(key).seal(head, names, plaintexts) == expected
    assert SivColumns(key).open(head, names, expected) == plaintexts


@pytest.mark.parametrize("count", [0, 1, COLUMN_MIN - 1, COLUMN_MIN, COLUMN_MAX, COLUMN_MAX + 1, 3 * COLUMN_MAX + 7])
@pytest.mark.parametrize("lengths", [(17,), (6, 18), (1, 16, 40, LENGTH_MAX, LENGTH_MAX + 1, 70_000), range(1, 60)])
def test_a_batch_of_any_lengths_is_sealed_in_its_order(count: int, lengths: tuple[int, ...]) -> None:
    """Each plaintext of a batch, whatever its length and how many there are, is sealed for the name in its place."""
    rng = Random(count)
    key = SealKey(rng.randbytes(32), OWNER)
    names = [rng.randbytes(16) for _ in range(count)]
    texts = [bytes([place % 256]) * lengths[place % len(lengths)] for place in range(count)]
    head = key.head(0, 20_000)
    entries = key.seal_all(head, names, texts)
    assert entries == [key.seal(name, head, text) for name, text in zip(names, texts, strict=True)]
    assert [key.open(name, entry) for name, entry in zip(names, entries, strict=True)] == texts
    assert all(key.open(name, entry) is None for name, (_, entry) in zip(names, pairwise(entries), strict=False))
