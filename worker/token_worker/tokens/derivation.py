"""Derivation of tokens. This text is the specification, version 2. A changed vector is a breaking release.

Notation: ``||`` is concatenation, ``BE32(x)`` is x as 4 bytes big-endian, ``LP(x)`` is ``BE32(length of x in bytes)
|| x``; text is UTF-8.

**Derivation key.** For each owner, a client or a zone, two keys of 32 bytes come from the owner's symmetric key by
HKDF-SHA256 (RFC 5869) with no salt (32 zero bytes) and ::

    info = "token-worker token derivation v2 " || purpose || LP(kind) || LP(id)

where ``purpose`` is ``consistent`` or ``inconsistent``, ``kind`` is ``client`` or ``zone``, and ``id`` is the owner's
id. The symmetric key is the one that *seals*: the newest, or while that settles (``TOKEN_WORKER_KEY_SETTLING_SECONDS``)
the one that was in use so long ago; of the zone where the request names one, else of the client. (Themis derives from
the same key with inputs that begin with ``00 00 00 01``; ours never do.)

**Digest.** D = HMAC-SHA-512 (RFC 2104) with the derivation key for the purpose, over ::

    consistent:    LP(form) || LP(value) || BE32(counter)
    inconsistent:  LP(form) || LP(value) || LP(stream) || LP(entry) || BE32(item) || BE32(counter)

``form`` says how the token is drawn. Without a format it is the contract's name of the type (``int32``, ``int64``,
``str``, ``bytes``, ``email``). With a format it is the definition of the format: a JSON object in the canonical form of
RFC 8785. Its members are ``type`` (``str`` or ``email``), ``kind`` (the name of the kind), ``version`` (of the drawing
of this kind: the number 1, in every kind up to now) and every parameter of the kind that changes a token, also where it
has its default. The docstring of each kind in ``tokens/formats`` lists these parameters under *Definition*. A count is
a JSON number, a switch is ``true`` or ``false``, a day is the string ``YYYY-MM-DD``, and anything else is the string in
the settings. The name of a format does not enter.

``value`` is the value as encoded for storage: 4 or 8 bytes little-endian two's complement, UTF-8, or the bytes.
``stream`` is the name of the request stream, ``entry`` the id of the request's entry in it (for a replayed request: of
the original), ``item`` the item's place in the request from 0 (0 without ``items``): so a redelivery derives the same
token again.

**Counter.** Starts at 0 and moves on by one when the candidate equals the value, or is the token of another value.
There are 256 candidates (counters 0 to 255), or if the *space* of the value is at most 256, 16 times its space. If all
of them are passed over, and the token has no format, the value itself may become the token, if it is among the
candidates and not the token of another value.

In the dense layout of the token storage, a token that was removed leaves its counter behind. The value's next token
then begins at the counter after it, with as many candidates from there.

**Space.** The number of tokens that a value can have. With a format, the docstring of the kind says it under *Space*.
Without a format, it is 62 for a ``str`` of one byte, 256 for ``bytes`` of one byte, and above 256 for longer values.
(An empty value has no candidate but itself.)

**Bytes.** A token is drawn from a stream of bytes. The first 64 are D. Let E be the 64 bytes of HMAC-SHA-512 over D,
with the derivation key that made D. All further bytes are the output of SHAKE-256 over E, from its first byte. (Not
over D: a long token of type ``bytes`` shows D, and its rest would follow from its beginning.) Bytes are taken in order.
Each draw below goes on where the one before stopped.

- *n characters of an alphabet* of m <= 256 characters, numbered from 0. For each: take a byte b; where b >= 256 - (256
  mod m), drop it and take the next; else the character is number b mod m. (So there is no bias.)
- *a number below m*: take the fewest bytes that can hold m - 1, as a big-endian number b of k bytes; where b >= 256^k
  - (256^k mod m), drop these and take the next k; else the number is b mod m. At least one byte is taken, for m = 1,
  too.

A token without a format is drawn by its type. The value has n bytes.

- ``int32``, ``int64``: 4 or 8 bytes, little-endian two's complement. ``bytes``: n bytes.
- ``str``: n characters of ``a-z A-Z 0-9``, in that order.
- ``email``, n from 6 to 254. First the ending. For n >= 8 it is one of ``.com .net .org .edu .info .au .br .de .jp .et
  .us``, in that order, else one of the last six: a number below 11 or 6 chooses it. Then r = n - length of the ending -
  1 is the room beside ``@``. The local part has L = min(64, r div 2) characters. The other d = r - L bytes are k =
  ceil((d + 1) / 64) labels with dots between them, so d - k + 1 characters, spread evenly, the first labels longer by
  one where it does not come out even. All characters, first those of the local part, then of the labels in order, are
  drawn from ``a-z 0-9``. The address is the local part, ``@``, the labels joined by ``.``, the ending.

How a format draws its tokens is told by the docstring of its kind. "n characters of ``0-9``", "a number below 49" and
the like are the two draws above.

**Rotation.** The key that seals alone enters. A token that exists is found by look-up, not derived: so a rotation
changes none that exists, and a token made after the new key has settled owes nothing to the old one.
"""

from collections.abc import Callable
from hashlib import sha512, shake_256
from typing import Final, NamedTuple, Protocol

from token_worker.acra.owner import Owner

_LABEL = b"token-worker token derivation v2 "

LETTERS = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
"""Characters of a ``str`` token."""

EMAIL_LETTERS = b"abcdefghijklmnopqrstuvwxyz0123456789"
"""Characters of both parts of an ``email`` token.

There are no capital letters: mail systems may change the case, and the token must still be known then.
"""

TWO_LETTER_DOMAINS = (b".au", b".br", b".de", b".jp", b".et", b".us")
DOMAINS = (b".com", b".net", b".org", b".edu", b".info", *TWO_LETTER_DOMAINS)
"""Top-level domains of ``email`` tokens, in Acra's order. Below 8 bytes only those of two letters fit."""

_LOCAL_PART_LIMIT = 64
_LABEL_LIMIT = 63

SMALL_SPACE: Final = 256
"""Most tokens of a space of which every token is a candidate, but for one in ten millions. Beyond it, a value for which
no token is free would take too long: a space that is full is asked for again and again."""

LARGE_SPACE: Final = 2**64
"""Stands for any number of tokens that is too large to matter."""

_INNER_PAD = bytes(byte ^ 0x36 for byte in range(256))
_OUTER_PAD = bytes(byte ^ 0x5C for byte in range(256))
"""Tables of ``bytes.translate`` that make the two blocks of an HMAC from its key."""

_Mac = Callable[[bytes], bytes]


class Origin(NamedTuple):
    """The place of an item in the requests.

    It makes inconsistent tokens of one value differ, while a redelivered request gets the same token again.
    """

    stream: bytes
    entry: bytes
    item: int


def tries(space: int) -> int:
    """Return the number of candidates of a value that can have ``space`` tokens."""
    return 16 * space if space <= SMALL_SPACE else 256


def lp(data: bytes) -> bytes:
    """Return the data after its length, as 4 bytes big-endian."""
    return len(data).to_bytes(4, "big") + data


class Alphabet(NamedTuple):
    """Characters to draw from, as arguments of ``bytes.translate``.

    Attributes:
        table: a character for each byte.
        rejected: the bytes to drop against bias.
    """

    table: bytes
    rejected: bytes


def alphabet(characters: bytes) -> Alphabet:
    """Make the alphabet of these characters, 256 at most, numbered in their order."""
    limit = 256 - 256 % len(characters)
    return Alphabet(bytes(characters[byte % len(characters)] for byte in range(256)), bytes(range(limit, 256)))


class ByteStream:
    """The bytes that one token is drawn from. The specification is above, under *Bytes*.

    Args:
        digest: the first 64 bytes.
        mac: the HMAC with the key of the digest.
    """

    __slots__ = ("_at", "_data", "_mac")

    def __init__(self, digest: bytes, mac: Callable[[bytes], bytes]) -> None:
        self._data = digest
        self._at = 0
        self._mac = mac

    def take(self, count: int) -> bytes:
        """Take the next bytes."""
        at = self._at
        self._at = end = at + count
        if end > len(self._data):
            digest = self._data[:64]
            self._data = digest + shake_256(self._mac(digest)).digest(2 * end)  # more bytes begin with the same
        return self._data[at:end]

    def characters(self, alphabet: Alphabet, count: int) -> bytes:
        """Draw so many characters of an alphabet."""
        table, rejected = alphabet
        chosen = self.take(count).translate(table, rejected)
        while len(chosen) < count:
            chosen += self.take(count - len(chosen)).translate(table, rejected)
        return chosen

    def below(self, limit: int) -> int:
        """Draw a number from 0 to ``limit - 1``."""
        size = ((limit - 1).bit_length() + 7) // 8 or 1
        rejected_from = 256**size - 256**size % limit
        while (number := int.from_bytes(self.take(size), "big")) >= rejected_from:
            pass
        return number % limit


class Form(Protocol):
    """A way to draw tokens: by their type alone, or by a format."""

    @property
    def field(self) -> bytes:
        """``LP(form)``."""

    def draw(self, stream: ByteStream, value: bytes, /) -> bytes:
        """Draw a token for an encoded value."""

    def space(self, value: bytes, /) -> int:
        """Return the number of tokens that the value can have, or a higher number if there are very many."""


_STR, _EMAIL = alphabet(LETTERS), alphabet(EMAIL_LETTERS)


def _draw_bytes(stream: ByteStream, value: bytes) -> bytes:
    return stream.take(len(value))


def _draw_str(stream: ByteStream, value: bytes) -> bytes:
    return stream.characters(_STR, len(value))


def _draw_email(stream: ByteStream, value: bytes) -> bytes:
    domains = DOMAINS if len(value) >= 8 else TWO_LETTER_DOMAINS
    ending = domains[stream.below(len(domains))]
    room = len(value) - len(ending) - 1
    local = min(_LOCAL_PART_LIMIT, room // 2)
    labels = label_lengths(room - local)
    letters = stream.characters(_EMAIL, local + sum(labels))
    parts = []
    at = local
    for label in labels:
        parts.append(letters[at : at + label])
        at += label
    return letters[:local] + b"@" + b".".join(parts) + ending


def label_lengths(room: int) -> list[int]:
    """Lengths of the fewest labels that fill ``room`` bytes with dots between them, the longer ones first."""
    count = -(-(room + 1) // (_LABEL_LIMIT + 1))
    each, longer = divmod(room - (count - 1), count)
    return [each + 1] * longer + [each] * (count - longer)


class _Plain:
    """The way to draw tokens of a type without a format.

    Args:
        name: the name of the type.
        draw: draws a token.
        of_one_byte: number of tokens of one byte. Of longer values there are many.
    """

    __slots__ = ("_of_one_byte", "draw", "field")

    def __init__(self, name: str, draw: Callable[[ByteStream, bytes], bytes], of_one_byte: int = 256) -> None:
        self.field = lp(name.encode())
        self.draw = draw
        self._of_one_byte = of_one_byte

    def space(self, value: bytes) -> int:
        return self._of_one_byte if len(value) == 1 else LARGE_SPACE


PLAIN: Final[dict[str, Form]] = {
    "int32": _Plain("int32", _draw_bytes),
    "int64": _Plain("int64", _draw_bytes),
    "str": _Plain("str", _draw_str, 62),
    "bytes": _Plain("bytes", _draw_bytes),
    "email": _Plain("email", _draw_email),
}
"""By type: how tokens without a format are drawn."""


_PLAIN_STR = PLAIN["str"]
_STR_TABLE, _STR_REJECTED = _STR
_COUNTER_0 = bytes(4)


class Deriver:
    """Derives the tokens of one owner from the symmetric key that seals."""

    __slots__ = ("_consistent", "_inconsistent", "_key", "_owner")

    def __init__(self, key: bytes, owner: Owner) -> None:
        self._key, self._owner = key, owner
        self._consistent = self._mac(b"consistent")
        self._inconsistent: _Mac | None = None  # few owners need it, and there may be many owners

    def _mac(self, purpose: bytes) -> _Mac:
        owner = self._owner
        return _hmac_sha512(_derivation_key(self._key, purpose + lp(owner.kind.encode()) + lp(owner.context)))

    def token(self, form: Form, value: bytes, counter: int, origin: Origin | None = None) -> bytes:
        """Derive the candidate with this counter for an encoded value. With ``origin`` the token is inconsistent."""
        length = len(value)
        message = form.field + length.to_bytes(4, "big") + value
        mac = self._consistent
        if origin is not None:
            message += lp(origin.stream) + lp(origin.entry) + origin.item.to_bytes(4, "big")
            if self._inconsistent is None:
                self._inconsistent = self._mac(b"inconsistent")
            mac = self._inconsistent
        digest = mac(message + (counter.to_bytes(4, "big") if counter else _COUNTER_0))
        if form is _PLAIN_STR:  # without a stream: the first 64 bytes are enough, unless the token is long
            token = digest.translate(_STR_TABLE, _STR_REJECTED)[:length]
            if len(token) == length:
                return token
        return form.draw(ByteStream(digest, mac), value)


def _hmac_sha512(key: bytes) -> _Mac:
    """Make the function that returns the HMAC of a message.

    The states after the two blocks of the key are kept and copied. That takes two thirds of the time of the libraries.
    """
    block = key.ljust(sha512().block_size, b"\0")
    inner = sha512(block.translate(_INNER_PAD)).copy
    outer = sha512(block.translate(_OUTER_PAD)).copy

    def mac(message: bytes) -> bytes:
        first = inner()
        first.update(message)
        second = outer()
        second.update(first.digest())
        return second.digest()

    return mac


def _derivation_key(key: bytes, purpose_and_identity: bytes) -> bytes:
    # Clients import this module with the formats, and have no ciphers.
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF  # noqa: PLC0415

    return HKDF(SHA256(), 32, salt=None, info=_LABEL + purpose_and_identity).derive(key)
