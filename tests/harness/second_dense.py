"""A second implementation of the dense layout's bytes, from its specification alone; shares no code with the product.

The specification is the docstring of ``token_worker.storage.dense.entry``, version 1. AES of single blocks is all that
comes from a library: CMAC, S2V and CTR of RFC 5297 are written out here.
"""

import hashlib
import hmac
from typing import NamedTuple

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

DISABLED, REMOVED, ALONE, FOREIGN = 1, 2, 4, 8
ZERO = bytes(16)


class UnreadableError(Exception):
    """An entry is not what the specification says, or not sealed by a key of the owner."""


class SecondEntry(NamedTuple):
    """An entry, as the specification has it.

    ``content`` is the token or value, ``next`` is of value entries. ``token`` is of entries that are alone: the token,
    or its data id.
    """

    number: int
    content: bytes
    next: int | None
    day: int
    flags: int
    token: bytes = b""


def be(number: int, size: int) -> bytes:
    return bytes(number >> 8 * place & 255 for place in reversed(range(size)))


def lp(data: bytes) -> bytes:
    return be(len(data), 4) + data


def hkdf(secret: bytes, info: bytes, size: int) -> bytes:
    """RFC 5869 with SHA-256 and without salt."""
    extracted = hmac.digest(bytes(32), secret, "sha256")
    found = block = b""
    while len(found) < size:
        block = hmac.digest(extracted, block + info + be(len(found) // 32 + 1, 1), "sha256")
        found += block
    return found[:size]


def xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


def doubled(block: bytes) -> bytes:
    """Multiply by x in GF(2^128), as CMAC and S2V do."""
    shifted = int.from_bytes(block, "big") << 1
    return ((shifted & (1 << 128) - 1) ^ (0x87 if shifted >> 128 else 0)).to_bytes(16, "big")


class Blocks:
    """AES of single blocks, with CMAC (RFC 4493)."""

    def __init__(self, key: bytes) -> None:
        self.encrypt = Cipher(algorithms.AES(key), modes.ECB()).encryptor().update  # noqa: S305 - of single blocks

    def cmac(self, data: bytes) -> bytes:
        whole = doubled(self.encrypt(ZERO))
        blocks = [data[at : at + 16] for at in range(0, len(data), 16)] or [b""]
        last = blocks.pop()
        last = xor(last, whole) if len(last) == 16 else xor(last + b"\x80" + bytes(15 - len(last)), doubled(whole))
        state = ZERO
        for block in [*blocks, last]:
            state = self.encrypt(xor(state, block))
        return state

    def s2v(self, component: bytes, plaintext: bytes) -> bytes:
        """The synthetic IV of RFC 5297, with one component of associated data."""
        state = xor(doubled(self.cmac(ZERO)), self.cmac(component))
        if len(plaintext) >= 16:
            return self.cmac(plaintext[:-16] + xor(plaintext[-16:], state))
        return self.cmac(xor(doubled(state), plaintext + b"\x80" + bytes(15 - len(plaintext))))

    def ctr(self, siv: bytes, data: bytes) -> bytes:
        """CTR of RFC 5297: two bits of the first counter are cleared."""
        counter = int.from_bytes(siv, "big") & ~(1 << 63 | 1 << 31)
        needed = (len(data) + 15) // 16
        stream = self.encrypt(b"".join(be((counter + place) % (1 << 128), 16) for place in range(needed)))
        return xor(data, stream[: len(data)])


def siv_seal(key: bytes, plaintext: bytes, component: bytes) -> bytes:
    siv = Blocks(key[:32]).s2v(component, plaintext)
    return siv + Blocks(key[32:]).ctr(siv, plaintext)


def siv_open(key: bytes, sealed: bytes, component: bytes) -> bytes | None:
    """Open what ``siv_seal`` sealed; None if it is not authentic."""
    plaintext = Blocks(key[32:]).ctr(sealed[:16], sealed[16:])
    return plaintext if Blocks(key[:32]).s2v(component, plaintext) == sealed[:16] else None


class SecondDense:
    """Names and entries of one owner. The first of the keys seals."""

    def __init__(self, kind: str, owner_id: str, keys: list[bytes], index_key: bytes) -> None:
        self.who = lp(kind.encode("ascii")) + lp(owner_id.encode("utf-8"))
        self.index_key = hkdf(index_key, b"token-worker dense storage v1 names " + self.who, 32)
        self.seals = [self.seal_of(key) for key in keys]
        self.tag = self.mac(b"owner")[:4]
        self.identity = kind.encode("ascii") + owner_id.encode("utf-8")

    def seal_of(self, key: bytes) -> tuple[bytes, bytes]:
        """Derive the key that seals, and its id."""
        found = hkdf(key, b"token-worker dense storage v1 seal " + self.who, 66)
        return found[:64], found[64:]

    def mac(self, data: bytes) -> bytes:
        return Blocks(self.index_key).cmac(data)

    def value_name(self, number: int, value: bytes) -> bytes:
        return b"v" + self.tag + self.mac(b"v" + be(number, 1) + value)[:11]

    def token_name(self, number: int, token: bytes) -> bytes:
        return b"t" + self.tag + self.mac(b"t" + be(number, 1) + token)[:11]

    def data_id(self, number: int, token: bytes) -> bytes:
        delimiter = b"tokenizator hash delimiter"
        return hashlib.sha256(delimiter + token + self.identity + delimiter + b"%d" % number).digest()

    def foreign_name(self, data_id: bytes) -> bytes:
        return b"t" + self.tag + self.mac(b"a" + data_id)[:11]

    def check(self) -> tuple[bytes, bytes]:
        """Name and check value."""
        name = hashlib.sha256(b"token-worker dense storage v1 check " + self.who).digest()[:15]
        return b"c" + name, self.mac(b"check")[:16]

    def seal(self, name: bytes, entry: SecondEntry) -> bytes:
        """Seal an entry for its name, whose first letter says which of the two it is."""
        seal, key_id = self.seals[0]
        head = be(1 << 4 | entry.flags, 1) + be(entry.day, 2) + key_id
        plaintext = be(entry.number, 1)
        if entry.next is not None:
            plaintext += counter_of(entry.next)
        if entry.flags & ALONE:
            plaintext += b"" if entry.flags & (FOREIGN | REMOVED) else counter_of(len(entry.token))
            plaintext += entry.token
        return head + siv_seal(seal, plaintext + entry.content, name + head)

    def open(self, name: bytes, raw: bytes, number: int | None = None) -> SecondEntry:
        """Open an entry that was found under a name, and if ``number`` is given, under that type.

        Raises:
            UnreadableError: the entry is not what the specification says, or no key opens it.
        """
        head, sealed = raw[:5], raw[5:]
        if len(sealed) < 16 or head[0] >> 4 != 1:
            raise UnreadableError
        flags = head[0] & 15
        if (flags & DISABLED and flags & REMOVED) or (flags & ALONE and name[:1] == b"v"):
            raise UnreadableError
        if flags & FOREIGN and not flags & ALONE:
            raise UnreadableError
        opened = (siv_open(seal, sealed, name + head) for seal, key_id in self.seals if key_id == head[3:])
        plaintext = next((found for found in opened if found is not None), None)
        if plaintext is None:
            raise UnreadableError
        found = self._parsed(name, flags, int.from_bytes(head[1:3], "big"), plaintext)
        if number not in (None, found.number):
            raise UnreadableError
        return found

    def _parsed(self, name: bytes, flags: int, day: int, plaintext: bytes) -> SecondEntry:
        if flags & ALONE:
            return self._parsed_alone(name, flags, day, plaintext)
        counter, size = None, 1
        if name[:1] == b"v":
            counter, size = counter_in(plaintext)
        content = plaintext[size:]
        if len(plaintext) < size or bool(content) == bool(flags & REMOVED):
            raise UnreadableError
        return SecondEntry(plaintext[0], content, counter, day, flags)

    def _parsed_alone(self, name: bytes, flags: int, day: int, plaintext: bytes) -> SecondEntry:
        number, size, begin = plaintext[0] if plaintext else 0, 32, 1
        if not flags & (FOREIGN | REMOVED):
            size, begin = counter_in(plaintext)
        token, content = plaintext[begin : begin + size], plaintext[begin + size :]
        if not 1 <= number <= 5 or not token or len(token) < size or bool(content) == bool(flags & REMOVED):
            raise UnreadableError
        if flags & FOREIGN:
            expected = self.foreign_name(token)
        else:
            expected = name if flags & REMOVED else self.token_name(number, token)
        if expected != name:
            raise UnreadableError
        return SecondEntry(number, content, None, day, flags, token)


def counter_of(number: int) -> bytes:
    return be(number, 1) if number < 255 else b"\xff" + be(number, 4)


def counter_in(plaintext: bytes) -> tuple[int, int]:
    """The counter after the first byte, and the place of what follows it."""
    size = 6 if plaintext[1:2] == b"\xff" else 2
    return int.from_bytes(plaintext[2:6] if size == 6 else plaintext[1:2], "big"), size
