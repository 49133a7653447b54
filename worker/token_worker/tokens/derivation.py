"""Derivation of tokens. This text is the specification, version 1. A changed vector is a breaking release.

Notation: ``||`` is concatenation, ``BE32(x)`` is x as 4 bytes big-endian, ``LP(x)`` is ``BE32(length of x in bytes)
|| x``; text is UTF-8.

**Derivation key.** For each owner, a client or a zone, two keys of 32 bytes come from the owner's symmetric key by
HKDF-SHA256 (RFC 5869) with no salt (32 zero bytes) and ::

    info = "token-worker token derivation v1 " || purpose || LP(kind) || LP(id)

where ``purpose`` is ``consistent`` or ``inconsistent``, ``kind`` is ``client`` or ``zone``, and ``id`` is the owner's
id. The symmetric key is the one that *seals*: the newest, or while that settles (``TOKEN_WORKER_KEY_SETTLING_SECONDS``)
the one that was in use so long ago; of the zone where the request names one, else of the client. (Themis derives from
the same key with inputs that begin with ``00 00 00 01``; ours never do.)

**Seed.** HMAC-SHA256 with the derivation key for the purpose, over ::

    consistent:    LP(type) || LP(value) || BE32(counter)
    inconsistent:  LP(type) || LP(value) || LP(stream) || LP(entry) || BE32(item) || BE32(counter)

``type`` is the contract's name (``int32``, ``int64``, ``str``, ``bytes``, ``email``), ``value`` the value as encoded
for storage: 4 or 8 bytes little-endian two's complement, UTF-8, or the bytes. ``stream`` is the name of the request
stream, ``entry`` the id of the request's entry in it (for a replayed request: of the original), ``item`` the item's
place in the request from 0 (0 without ``items``): so a redelivery derives the same token again.

**Counter.** Starts at 0 and moves on by one when the candidate equals the value, or is the token of another value. At
most ``tries`` candidates are looked at. Only when all of them are passed over, the value itself may become the token,
if it is among the candidates and not the token of another value.

**Bytes.** SHAKE-256 of the seed, as many bytes as needed, taken in order; each draw below goes on where the one
before stopped.

- ``int32``, ``int64``: 4 or 8 bytes, little-endian two's complement. ``bytes``: as many bytes as the value has.
- ``str``: as many characters as the value has bytes. For each: take a byte b; where b >= 248, drop it and take the
  next; else the character is number (b mod 62) of ``a-z A-Z 0-9``, in that order, from 0. (248 = 4 * 62: no bias.)
- ``email``, n bytes long, 6 to 254. First the ending. For n >= 8 it is one of ``.com .net .org .edu .info .au .br .de
  .jp .et .us``, in that order, else one of the last six. With m endings to choose from: take bytes until one, b, is
  less than 256 - (256 mod m); it is ending number (b mod m), from 0. Then r = n - length of the ending - 1 is the
  room beside ``@``. The local part has L = min(64, r div 2) characters. The other d = r - L bytes are k = ceil((d +
  1) / 64) labels with dots between them, so d - k + 1 characters, spread evenly, the first labels longer by one where
  it does not come out even. All characters, first those of the local part, then of the labels in order: take bytes
  until one, b, is less than 252; it is character number (b mod 36) of ``a-z 0-9``. (252 = 7 * 36.) The address is the
  local part, ``@``, the labels joined by ``.``, the ending.

**Rotation.** The key that seals alone enters. A token that exists is found by look-up, not derived: so a rotation
changes none that exists, and a token made after the new key has settled owes nothing to the old one.
"""

from collections.abc import Callable
from hashlib import shake_256
from typing import NamedTuple

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from token_worker.acra.owner import Owner
from token_worker.acra.value_types import TYPES, TokenType

_LABEL = b"token-worker token derivation v1 "

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


class Origin(NamedTuple):
    """The place of an item in the requests.

    It makes inconsistent tokens of one value differ, while a redelivered request gets the same token again.
    """

    stream: bytes
    entry: bytes
    item: int


def tries(length: int) -> int:
    """The number of candidates for a token of ``length`` bytes. For one byte, it is enough to meet every token."""
    return 4096 if length == 1 else 256


def _lp(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def _take_rejecting(stream: Callable[[int], bytes], skip: int, count: int, alphabet: bytes) -> bytes:
    """Draw ``count`` characters, each equally likely, from the bytes of ``stream`` after the first ``skip`` bytes."""
    table, rejected = _TABLES[alphabet]
    wanted = skip + count + count // 16 + 16
    while True:
        chosen = stream(wanted)[skip:].translate(table, rejected)
        if len(chosen) >= count:
            return chosen[:count]
        wanted *= 2


def _table(alphabet: bytes) -> tuple[bytes, bytes]:
    """Arguments of ``bytes.translate``: a character for each byte, and the bytes to drop against bias."""
    limit = 256 - 256 % len(alphabet)
    return bytes(alphabet[byte % len(alphabet)] for byte in range(256)), bytes(range(limit, 256))


_TABLES = {alphabet: _table(alphabet) for alphabet in (LETTERS, EMAIL_LETTERS)}
_LETTERS = _TABLES[LETTERS]


def _draw_bytes(stream: Callable[[int], bytes], length: int) -> bytes:
    return stream(length)


def _draw_letters(stream: Callable[[int], bytes], length: int) -> bytes:
    chosen = stream(length + length // 16 + 16).translate(*_LETTERS)  # nearly always enough
    if len(chosen) >= length:
        return chosen[:length]
    return _take_rejecting(stream, 0, length, LETTERS)


def _draw_email(stream: Callable[[int], bytes], length: int) -> bytes:
    domains = DOMAINS if length >= 8 else TWO_LETTER_DOMAINS
    limit = 256 - 256 % len(domains)
    skip = 0
    while (byte := stream(skip + 1)[skip]) >= limit:
        skip += 1
    ending = domains[byte % len(domains)]
    room = length - len(ending) - 1
    local = min(_LOCAL_PART_LIMIT, room // 2)
    labels = label_lengths(room - local)
    letters = _take_rejecting(stream, skip + 1, local + sum(labels), EMAIL_LETTERS)
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


_DRAWS: dict[str, Callable[[Callable[[int], bytes], int], bytes]] = {
    "int32": _draw_bytes,
    "int64": _draw_bytes,
    "str": _draw_letters,
    "bytes": _draw_bytes,
    "email": _draw_email,
}
"""By type: draws a token of a given length in bytes. The stream is a function that returns its first n bytes."""

_TYPES = {name: (_lp(name.encode()), _DRAWS[name]) for name in TYPES}


class Deriver:
    """Derives the tokens of one owner from the symmetric key that seals."""

    __slots__ = ("_consistent", "_inconsistent")

    def __init__(self, key: bytes, owner: Owner) -> None:
        identity = _lp(owner.kind.encode()) + _lp(owner.context)
        self._consistent = HMAC(_derivation_key(key, b"consistent" + identity), SHA256())
        self._inconsistent = HMAC(_derivation_key(key, b"inconsistent" + identity), SHA256())

    def token(self, kind: TokenType, value: bytes, counter: int, origin: Origin | None = None) -> bytes:
        """Derive the candidate with this counter for an encoded value. With ``origin`` the token is inconsistent."""
        name, draw = _TYPES[kind.name]
        message = name + len(value).to_bytes(4, "big") + value
        if origin is None:
            seed = self._consistent.copy()  # half the cost of an HMAC with a new key
        else:
            message += _lp(origin.stream) + _lp(origin.entry) + origin.item.to_bytes(4, "big")
            seed = self._inconsistent.copy()
        seed.update(message + counter.to_bytes(4, "big"))
        return draw(shake_256(seed.finalize()).digest, len(value))


def _derivation_key(key: bytes, purpose_and_identity: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt=None, info=_LABEL + purpose_and_identity).derive(key)
