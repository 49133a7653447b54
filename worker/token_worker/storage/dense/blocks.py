"""Blocks of AES, one or many at once.

The library takes longer to begin a call than to encrypt a block. So many short messages go in *columns*: column i holds
block i of each. A column is one integer, with a lane of 128 bits for each message. One call of AES encrypts a column.

Pure.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from struct import Struct
from typing import Any, Final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

BLOCK: Final = 16
"""Bytes of a block."""

COLUMN_MAX: Final = 256
"""Most messages at once."""

LENGTH_MAX: Final = 64
"""Longest message for which this is faster than the library."""


def aes(key: bytes) -> Callable[[bytes], bytes]:
    """Make the function that encrypts whole blocks, each by itself: CMAC and SIV are made of that."""
    return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update  # noqa: S305


def doubled(block: bytes) -> bytes:
    """Multiply by x in GF(2^128), as RFC 4493 does."""
    number = int.from_bytes(block) << 1
    return (number ^ (1 << 128 | 0x87 if number >> 128 else 0)).to_bytes(BLOCK)


def blocks_of(length: int) -> tuple[int, int]:
    """Return the number of blocks before the last one, and the number of bytes in the last one, 1 to 16."""
    whole, rest = divmod(length - 1, BLOCK)
    return whole, rest + 1


def padding_after(rest: int) -> bytes:
    """Return the padding of CMAC after so many bytes of a block, 1 to 16."""
    return b"\x80".ljust(BLOCK - rest, b"\0") if rest < BLOCK else b""


def columns_of(pieces: Sequence[bytes], first: int, step: int, filling: bytes) -> list[int]:
    """Make columns of pieces: of each ``step`` of them those from ``first`` on. The last ones are filled to a block."""
    made = [int.from_bytes(b"".join(pieces[place::step])) for place in range(first, step - 1)]
    made.append(int.from_bytes(filling.join(pieces[step - 1 :: step]) + filling))
    return made


@lru_cache(maxsize=64)
def cutter(piece: str, count: int) -> Callable[[bytes], tuple[Any, ...]]:
    """Make the function that cuts bytes into ``count`` pieces of the format ``piece``."""
    return Struct(piece * count).unpack
