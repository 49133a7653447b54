"""Damage to stored entries: changed bits, cuts, splices of two good values, and wrong lengths and fields."""

import base64
import binascii
import random
import struct
from collections.abc import Sequence
from contextlib import suppress

from token_worker.acra import acra_block, secure_cell

_LENGTHS = (0, 1, 31, 32, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
_VARINTS = (
    b"\x00",
    b"\x01",
    b"\x7f",
    b"\x80\x00",
    b"\x80\x80\x80\x80\x00",
    b"\xff" * 9 + b"\x01",
    b"\xff" * 12,
    b"\x80",
)
_FIELDS = (
    b"\x10\x01",
    b"\x20\x01",
    b"\x20\x02",
    b"\x28\x01",
    b"\x0a\x00",
    b"\x0a\xff\xff\xff\xff\x0f",
    b"\x0b",
    b"\x00\x00",
)


def of_entry(rng: random.Random, raw: bytes, others: Sequence[bytes]) -> bytes:
    """A token entry (hex of a protobuf), damaged somehow; ``others`` are good ones to splice with."""
    chance = rng.random()
    if chance < 0.25:
        return of_text(rng, raw, others)
    message = bytearray(binascii.unhexlify(raw))
    if chance < 0.4:
        _lie(rng, message)
    elif chance < 0.55:
        _change_fields(rng, message)
    elif chance < 0.7:
        message = bytearray(_splice(rng, bytes(message), binascii.unhexlify(rng.choice(others))))
    else:
        _change_bytes(rng, message)
    return binascii.hexlify(message)


def of_key(rng: random.Random, sealed: bytes, others: Sequence[bytes]) -> bytes:
    """A sealed key (base64 of a cell), damaged somehow."""
    chance = rng.random()
    if chance < 0.4:
        return of_text(rng, sealed, others)
    cell = bytearray(base64.b64decode(sealed))
    if chance < 0.6:
        at = 4 * rng.randrange(4)
        cell[at : at + 4] = (rng.choice(_LENGTHS) & 0xFFFFFFFF).to_bytes(4, "little")
    elif chance < 0.75:
        cell = bytearray(_splice(rng, bytes(cell), base64.b64decode(rng.choice(others))))
    else:
        _change_bytes(rng, cell)
    return base64.b64encode(cell)


def of_text(rng: random.Random, raw: bytes, others: Sequence[bytes]) -> bytes:
    """Any stored text, damaged as text."""
    text = bytearray(raw)
    chance = rng.random()
    if chance < 0.5:
        _change_bytes(rng, text)
    elif chance < 0.7:
        return _splice(rng, raw, rng.choice(others))
    elif chance < 0.8:
        return raw[: int(rng.random() * len(raw))]
    elif chance < 0.9:
        return rng.choice(
            (b"", b" ", b"\n", b"0", b"\x00", b"\xff\xfe", raw + b"\n", raw + b"=", raw * 2, raw.swapcase())
        )
    else:
        return rng.randbytes(int(rng.random() * 200))
    return bytes(text)


def _change_bytes(rng: random.Random, data: bytearray) -> None:
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        at = int(rng.random() * len(data)) if data else 0
        chance = rng.random()
        if chance < 0.6 and data:
            data[at] ^= 1 << int(rng.random() * 8)
        elif chance < 0.75:
            del data[at : at + rng.choice((1, 2, 16))]
        elif chance < 0.9:
            data[at:at] = rng.randbytes(rng.choice((1, 2, 16)))
        else:
            del data[at:]


def _splice(rng: random.Random, one: bytes, other: bytes) -> bytes:
    at = int(rng.random() * len(one))
    return one[:at] + other[at:] if rng.random() < 0.7 else one[:at] + other[int(rng.random() * len(other)) :]


def _lie(rng: random.Random, message: bytearray) -> None:
    """Change a length in the block or in one of its two cells; now and then all of them, as if a byte were lacking."""
    start = message.find(b'""""')
    if start < 0:
        return
    block = message[start:]
    cells = [acra_block.HEADER_BYTES]
    with suppress(struct.error):
        cells.append(acra_block.HEADER_BYTES + int.from_bytes(block[16:18], "little"))
    chance = rng.random()
    length = rng.choice(_LENGTHS) if rng.random() < 0.5 else rng.randrange(300)
    if chance < 0.3:
        message[start + 4 : start + 12] = length.to_bytes(8, "little")
    elif chance < 0.5:
        message[start + 16 : start + 18] = (length & 0xFFFF).to_bytes(2, "little")
    elif chance < 0.8:
        at = start + rng.choice(cells) + 4 * rng.randrange(4)
        message[at : at + 4] = (length & 0xFFFFFFFF).to_bytes(4, "little")
    else:
        cell = start + cells[-1]
        count = int.from_bytes(message[cell + 12 : cell + 16], "little")
        whole = int.from_bytes(message[start + 4 : start + 12], "little")
        if count < 2 or whole > len(message):
            return
        del message[cell + secure_cell.OVERHEAD_BYTES]
        message[cell + 12 : cell + 16] = (count - 1).to_bytes(4, "little")
        message[start + 4 : start + 12] = (whole - 1).to_bytes(8, "little")
        message[start - 1] = message[start - 1] - 1 & 0xFF


def _change_fields(rng: random.Random, message: bytearray) -> None:
    """Change tags, numbers and lengths of the protobuf, leaving the block whole."""
    start = message.find(b'""""')
    if start < 0:
        return
    end = start + 4 + int.from_bytes(message[start + 4 : start + 12], "little")
    chance = rng.random()
    if chance < 0.3:
        message[1:start] = rng.choice(_VARINTS)
    elif chance < 0.5:
        message[end:] = rng.choice(_FIELDS)
    elif chance < 0.7:
        message += rng.choice(_FIELDS)
    elif chance < 0.8:
        message[0] = rng.randrange(256)
    elif chance < 0.9:
        message[:] = message[end:] + message[:end]
    else:
        message[end + 1 :] = rng.choice(_VARINTS)
