"""The stream of bytes from which a token is drawn, and the draws, as the specification of the derivation says."""

import hashlib
import hmac
import string
from collections.abc import Iterator
from itertools import islice

DIGITS = string.digits
LOWER = string.ascii_lowercase
LOWER_AND_DIGITS = string.ascii_lowercase + string.digits
LETTERS_AND_DIGITS = string.ascii_lowercase + string.ascii_uppercase + string.digits


def byte_stream(key: bytes, digest: bytes) -> Iterator[int]:
    """The bytes of the digest, then those of SHAKE-256 of the HMAC over it."""
    yield from digest
    seed = hmac.digest(key, digest, "sha512")
    at, length = 0, 64
    while True:
        yield from hashlib.shake_256(seed).digest(length)[at:]
        at, length = length, 2 * length


class Source:
    """Bytes in order: each draw goes on where the one before stopped."""

    def __init__(self, stream: Iterator[int]) -> None:
        self._stream = stream

    def take(self, count: int) -> bytes:
        """The next bytes."""
        return bytes(islice(self._stream, count))

    def characters(self, alphabet: str, count: int) -> str:
        """So many characters of an alphabet of at most 256."""
        size = len(alphabet)
        limit = 256 - 256 % size
        drawn = ""
        while len(drawn) < count:
            byte = next(self._stream)
            if byte < limit:
                drawn += alphabet[byte % size]
        return drawn

    def below(self, bound: int) -> int:
        """A number below the bound."""
        width = 1
        while 256**width < bound:
            width += 1
        while True:
            number = int.from_bytes(self.take(width), "big")
            if number < 256**width - 256**width % bound:
                return number % bound
