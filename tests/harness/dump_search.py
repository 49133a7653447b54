"""Searches a dump for values that must not be in it: in the clear, in any usual encoding, and as plain hashes."""

import base64
import hashlib
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from token_worker.acra.owner import Owner

WINDOW = 11
"""Shortest text that is searched for, in bytes: as long as the part of a hash in a name of the dense layout."""

_ACRA = b"tokenizator hash delimiter"


class Secret(NamedTuple):
    """A value or token, encoded, with its owner and the number of its type."""

    data: bytes
    owner: Owner
    number: int


class Search:
    """Texts to look for. Add secrets, then count what of them a dump holds.

    Attributes:
        secrets: number of secrets added.
    """

    def __init__(self) -> None:
        self.secrets = 0
        self._needles: dict[bytes, list[tuple[bytes, str]]] = {}

    def add(self, secret: Secret) -> None:
        """Look for a secret of at least 12 bytes."""
        if len(secret.data) <= WINDOW:
            raise ValueError("too short to be told from chance")
        self.secrets += 1
        for text in encodings(secret.data):
            self._add(text, "clear")
        for digest in hashes(secret):
            for text in encodings(digest[:WINDOW]):
                self._add(text, "hash")

    def _add(self, needle: bytes, what: str) -> None:
        self._needles.setdefault(needle[:WINDOW], []).append((needle, what))

    def count(self, dump: bytes) -> Counter[str]:
        """Count what is found: ``clear`` for values and tokens in any encoding, ``hash`` for their hashes."""
        found: Counter[str] = Counter()
        needles = self._needles
        for at in range(len(dump) - WINDOW + 1):
            here = needles.get(dump[at : at + WINDOW])
            if here is not None:
                found.update(what for needle, what in here if dump.startswith(needle, at))
        return found


def encodings(data: bytes) -> Iterator[bytes]:
    """Yield the data as it is, in hex, and in base64 wherever it begins in a longer text."""
    yield data
    yield data.hex().encode()
    yield data.hex().upper().encode()
    for before in range(3):
        inside = data[-before % 3 :]  # whole groups of three bytes
        text = base64.b64encode(inside[: len(inside) // 3 * 3])
        yield text
        if text != (safe := text.translate(bytes.maketrans(b"+/", b"-_"))):
            yield safe


def hashes(secret: Secret) -> Iterator[bytes]:
    """Yield plain hashes of a secret: alone, with its type, and with its owner, also as Acra makes them."""
    data, owner, number = secret
    identity = owner.kind.encode() + owner.id.encode()
    types = (b"", bytes([number]), b"%d" % number)
    for who in (b"", identity, owner.id.encode()):
        for type_ in types:
            yield hashlib.sha256(data + who + type_).digest()
            if who or type_:
                yield hashlib.sha256(type_ + who + data).digest()
    for letter in (b"v", b"t"):
        yield hashlib.sha256(letter + bytes([number]) + data).digest()
    for who in (b"", identity):
        for type_ in (b"", b"%d" % number):
            yield hashlib.sha256(_ACRA + data + who + _ACRA + type_).digest()
    for algorithm in ("md5", "sha1", "sha512"):
        yield hashlib.new(algorithm, data, usedforsecurity=False).digest()
