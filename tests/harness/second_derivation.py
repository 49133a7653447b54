"""A second implementation of the token derivation, from its specification alone; shares no code with the product.

The specification is the docstring of ``token_worker.tokens.derivation``.
"""

import hashlib
import hmac
import string
from collections.abc import Iterator
from typing import NamedTuple

ENDINGS = [".com", ".net", ".org", ".edu", ".info", ".au", ".br", ".de", ".jp", ".et", ".us"]
STR_CHARACTERS = string.ascii_lowercase + string.ascii_uppercase + string.digits
EMAIL_CHARACTERS = string.ascii_lowercase + string.digits


class Origin(NamedTuple):
    """Stream, entry and item of an inconsistent token."""

    stream: str
    entry: str
    item: int


def be32(number: int) -> bytes:
    return bytes(number >> shift & 255 for shift in (24, 16, 8, 0))


def lp(data: bytes) -> bytes:
    return be32(len(data)) + data


def derivation_key(key: bytes, purpose: str, kind: str, owner_id: str) -> bytes:
    """HKDF-SHA256 by RFC 5869: extract, then one block of expand."""
    info = b"token-worker token derivation v1 " + purpose.encode() + lp(kind.encode()) + lp(owner_id.encode())
    extracted = hmac.new(bytes(32), key, hashlib.sha256).digest()
    return hmac.new(extracted, info + b"\x01", hashlib.sha256).digest()


def byte_stream(seed: bytes) -> Iterator[int]:
    """SHAKE-256 of the seed, byte by byte."""
    length = 64
    at = 0
    while True:
        output = hashlib.shake_256(seed).digest(length)
        while at < length:
            yield output[at]
            at += 1
        length *= 2


def number_below(source: Iterator[int], limit: int, modulus: int) -> int:
    """The next byte below ``limit``, modulo ``modulus``."""
    while True:
        byte = next(source)
        if byte < limit:
            return byte % modulus


def email(source: Iterator[int], length: int) -> str:
    endings = ENDINGS if length >= 8 else ENDINGS[-6:]
    ending = endings[number_below(source, 256 - 256 % len(endings), len(endings))]
    room = length - len(ending) - 1
    local = min(64, room // 2)
    rest = room - local
    count = 0
    while 64 * count < rest + 1:
        count += 1
    letters = rest - count + 1
    sizes = [letters // count + (1 if number < letters % count else 0) for number in range(count)]
    words = ["".join(EMAIL_CHARACTERS[number_below(source, 252, 36)] for _ in range(size)) for size in [local, *sizes]]
    return words[0] + "@" + ".".join(words[1:]) + ending


def derive(
    type_name: str, value: bytes, key: bytes, kind: str, owner_id: str, counter: int, origin: Origin | None = None
) -> bytes:
    """The candidate with this counter, encoded as for storage."""
    message = lp(type_name.encode()) + lp(value)
    purpose = "consistent"
    if origin is not None:
        purpose = "inconsistent"
        message += lp(origin.stream.encode()) + lp(origin.entry.encode()) + be32(origin.item)
    seed_key = derivation_key(key, purpose, kind, owner_id)
    source = byte_stream(hmac.new(seed_key, message + be32(counter), hashlib.sha256).digest())
    if type_name == "str":
        return "".join(STR_CHARACTERS[number_below(source, 248, 62)] for _ in value).encode()
    if type_name == "email":
        return email(source, len(value)).encode()
    return bytes(next(source) for _ in value)
