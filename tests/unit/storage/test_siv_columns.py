"""Entries that are sealed many at once have the bytes of the library."""

from itertools import pairwise
from random import Random

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from token_worker.acra.owner import Owner
from token_worker.storage.dense.entry import SealKey
from token_worker.storage.dense.siv_columns import COLUMN_MAX, COLUMN_MIN, LENGTH_MAX, ColumnSealer

OWNER = Owner("client", "shop")


def test_every_length_has_the_bytes_of_the_library() -> None:
    """Plaintexts of each length, few and many at once, with heads of each length, are sealed as the library does."""
    rng = Random(5297)
    key = rng.randbytes(64)
    one, many = AESSIV(key), ColumnSealer(key)
    for length in range(1, LENGTH_MAX + 1):
        for count in (1, 2, 33, COLUMN_MAX):
            head = rng.randbytes(1 + length % 15)
            names = [rng.randbytes(16) for _ in range(count)]
            plaintexts = [rng.randbytes(length) for _ in range(count)]
            expected = [head + one.encrypt(text, [name + head]) for name, text in zip(names, plaintexts, strict=True)]
            assert many.seal(head, names, plaintexts) == expected


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
    assert ColumnSealer(key).seal(head, names, plaintexts) == expected


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
