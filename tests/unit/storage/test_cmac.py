"""The CMAC of a message, alone or among others, has the bytes of the standard and of the library."""

from random import Random

import pytest
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC

from token_worker.storage.dense.blocks import COLUMN_MAX, LENGTH_MAX
from token_worker.storage.dense.cmac import Cmac

KEY = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
TEXT = bytes.fromhex(
    "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
    "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
)
LENGTHS = [1, 2, 10, 15, 16, 17, 18, 31, 32, 33, 48, 49, LENGTH_MAX, LENGTH_MAX + 1, 300]


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (16, "28a7023f452e8f82bd4bf28d8c37c35c"),
        (40, "aaf3d8f1de5640c232f5b169b9c911e6"),
        (64, "e1992190549f6ed5696a2c056c315410"),
    ],
)
def test_examples_of_the_standard_hold(length: int, expected: str) -> None:
    """The examples of NIST SP 800-38B for AES-256 come out, alone and twice at once."""
    cmac, message = Cmac(KEY), TEXT[:length]
    assert cmac.of(message).hex() == expected
    assert [mac.hex() for mac in cmac.of_all([message, message], 16)] == [expected, expected]


@pytest.mark.parametrize("length", [*range(1, LENGTH_MAX + 2), 200])
def test_every_length_has_the_bytes_of_the_library(length: int) -> None:
    """Messages of each length, alone, few and many at once, have the CMAC that the library computes."""
    rng = Random(length)
    cmac = Cmac(KEY)
    for count in (0, 1, 2, 33, COLUMN_MAX + 1):
        messages = [rng.randbytes(length) for _ in range(count)]
        expected = [_by_library(message) for message in messages]
        assert [cmac.of(message) for message in messages] == expected
        assert cmac.of_all(messages, 16) == expected
        assert cmac.of_all(messages, 11) == [mac[:11] for mac in expected]


def test_messages_of_all_lengths_at_once_keep_their_places() -> None:
    """Each message among some of other lengths gets its own CMAC."""
    rng = Random(4493)
    cmac = Cmac(KEY)
    for count in (2, 3, 20, 3 * COLUMN_MAX):
        messages = [rng.randbytes(rng.choice(LENGTHS)) for _ in range(count)]
        assert cmac.of_all(messages, 11) == [_by_library(message)[:11] for message in messages]


def _by_library(message: bytes) -> bytes:
    cmac = CMAC(AES(KEY))
    cmac.update(message)
    return cmac.finalize()
