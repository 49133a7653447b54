"""Bytes of the dense layout. This text is the specification, version 1. A changed vector is a breaking release.

Notation: ``||`` is concatenation; ``BE16(x)`` and ``BE32(x)`` are x as 2 and 4 bytes big-endian; ``LP(x)`` is
``BE32(length of x in bytes) || x``; ``x[:n]`` is the first n bytes of x; text in quotes is ASCII.

**Owner.** An entry belongs to a client or a zone. ``kind`` is ``client`` or ``zone``; ``id`` is the owner's id in
UTF-8. An owner has symmetric keys K of 32 bytes, of which one seals new entries and every one opens entries. It has one
index key I of 32 random bytes. ::

    K_seal || key id = HKDF-SHA256(K, info = "token-worker dense storage v1 seal "  || LP(kind) || LP(id)): 64 + 2 bytes
    K_name           = HKDF-SHA256(I, info = "token-worker dense storage v1 names " || LP(kind) || LP(id)): 32 bytes
    MAC(x)           = AES-CMAC(K_name, x): 16 bytes

HKDF is RFC 5869, with no salt (32 zero bytes). AES-CMAC is NIST SP 800-38B, with AES-256.

**Names.** A token has two entries, a *value entry* and a *token entry*. Each is a Redis string whose name has 16
bytes. A token that was drawn inconsistently has a token entry alone. If it was moved from Acra's layout, where such a
token is stored nowhere, its entry is *foreign*, and named by the token's data id. ::

    tag                   = MAC("owner")[:4]
    name of value entry   = "v" || tag || MAC("v" || number || value)[:11]
    name of token entry   = "t" || tag || MAC("t" || number || token)[:11]
    name of foreign entry = "t" || tag || MAC("a" || data id)[:11]
    data id               = SHA-256(D || token || kind || id || D || number in decimal digits), as in Acra's names
    D                     = "tokenizator hash delimiter"

``number`` is the type in one byte: 1 int32, 2 int64, 3 str, 4 bytes, 5 email. Values and tokens are encoded as in
Acra's layout: 4 or 8 bytes little-endian two's complement, UTF-8, or the bytes.

All names of one owner's value entries begin alike, so SCAN finds them. Two owners may have the same tag. Two values of
one owner may have the same name: with 10^10 values of one owner the chance of one such pair is 2 in 10^7.

**Entry.** ::

    entry   = head || AES-SIV(K_seal, plaintext)
    head    = 16 * version + flags (1 byte) || BE16(day) || key id
    plaintext of a value entry:   number || next || token
    plaintext of a token entry:   number || value
    of one that is alone:         number || length || token || value
    of one that is foreign:       number || data id || value
    of a removed value entry:     number || next
    of a removed token entry:     number
    of one that is alone:         number || data id

AES-SIV is RFC 5297 with a key of 64 bytes (AEAD_AES_SIV_CMAC_512): 16 bytes of synthetic IV, then the ciphertext. The
associated data are one component: ``name || head``. So an entry opens only under its own name, with its own head, and
for its own owner.

The key id is that of the key K that sealed the entry. Two keys of an owner may have the same id; a reader tries each
key that has it. ``day`` is the day of creation (UTC), counted from 1970-01-01, which is day 0.

``version`` is 1. ``flags`` is a sum of:

- 1, *disabled*: the token is neither given out nor detokenized.
- 2, *removed*: the entry is a tombstone, and holds neither token nor value.
- 4, *alone*: a token entry of an inconsistent token, which no value entry names.
- 8, *foreign*: the entry is named by the data id of its token, which is unknown. It is *alone*, too.

*Disabled* and *removed* exclude each other. *Alone* goes with either of them. A value entry is never *alone*. A foreign
entry has its name when it is removed, too.

``next`` is a counter of candidates (see ``tokens.derivation``). It takes one byte if it is below 255, else the five
bytes ``255 || BE32(next)``. It is 0 if the token was not drawn by the derivation, else the counter after the token's
own. If the token is removed, the tombstone of its value keeps ``next``, and the value's next token is drawn with the
counters from ``next`` on. The token of a tombstone is passed over in any case, so it never comes back.

``length`` is the number of bytes of the token, coded like ``next``. The token and the data id serve to move an entry
into Acra's layout, whose names come from data ids, and to delete what was moved of a token that is removed later.

A token is looked up under the name of its token entry. If nothing is there, or a tombstone, it may have a foreign
entry. A new token must have neither. Foreign entries are made while no worker runs. The record of the layout tells
workers whether there may be any; see ``keys.layout_record``.

A command that removes or disables a token may put a disabled value entry in the way of workers while it is at work. If
it does not know the token, the entry holds the value in place of the token, and ``next`` is 2^32 - 1 less the ``next``
of the tombstone that follows.

An entry is unreadable if its version is not 1, if its flags do not fit, if no key of the owner with its key id opens
it, if its ``number`` is another one than in its name, or if its plaintext is not as above. If its plaintext holds the
token, or it is foreign, its name has to follow from the plaintext. Token and value have at least one byte.

**Check value.** The token storage holds one string for each owner, from which a worker learns that its index key is
the one with which the names were made. ::

    name  = "c" || SHA-256("token-worker dense storage v1 check " || LP(kind) || LP(id))[:15]
    value = MAC("check")[:16]

**What the bytes promise.** Without the index key nobody can tell whether a value is stored, whatever he guesses. An
entry that was moved, swapped, cut, or changed by somebody without the keys does not open. The same entry written twice
on one day has the same bytes. Older bytes of the same entry do open, and a deletion leaves no trace: the bytes alone
cannot show either. The length of a value, the day, the key id and the flags can be read by everybody.

Pure.
"""

from hashlib import sha256
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from token_worker.acra import token_entry
from token_worker.acra.owner import Owner
from token_worker.acra.value_types import TYPES
from token_worker.errors import CorruptData
from token_worker.storage.dense.blocks import COLUMN_MAX, LENGTH_MAX
from token_worker.storage.dense.cmac import Cmac
from token_worker.storage.dense.siv_columns import COLUMN_MIN, SivColumns
from token_worker.tokens.derivation import lp

NAME_BYTES: Final = 16
"""Length of every name of an entry, and of the name of a check value."""

HEAD_BYTES: Final = 5
KEY_ID_AT: Final = 3
"""Position of the key id in an entry. It ends with the head."""

DISABLED: Final = 1
REMOVED: Final = 2
ALONE: Final = 4
FOREIGN: Final = 8

SECONDS_OF_DAY: Final = 86400

_LABEL = b"token-worker dense storage v1 "
_SEAL_KEY_BYTES = 64
_KEY_ID_BYTES = HEAD_BYTES - KEY_ID_AT
_VERSION = 1 << 4
_SIV_BYTES = 16

ENTRY_MIN: Final = HEAD_BYTES + _SIV_BYTES + 1
ENTRY_MAX: Final = HEAD_BYTES + _SIV_BYTES + LENGTH_MAX
"""Lengths of entries that can be opened many at once."""

_VALUE_FLAGS = frozenset((0, DISABLED, REMOVED))
_FOREIGN_FLAGS = frozenset(FOREIGN | ALONE | flags for flags in _VALUE_FLAGS)
_TOKEN_FLAGS = frozenset((*_VALUE_FLAGS, *(ALONE | flags for flags in _VALUE_FLAGS), *_FOREIGN_FLAGS))
_FIRST_BYTES = {
    ord("v"): frozenset(_VERSION | flags for flags in _VALUE_FLAGS),
    ord("t"): frozenset(_VERSION | flags for flags in _TOKEN_FLAGS),
}
"""Valid first bytes of an entry, by the first byte of its name."""
_FOREIGN_STARTS = frozenset(bytes((_VERSION | flags,)) for flags in _FOREIGN_FLAGS)
_NUMBERS = range(1 + max(kind.number for kind in TYPES.values()))
_V_STARTS, _T_STARTS = ([b"%b%c" % (side, number) for number in _NUMBERS] for side in (b"v", b"t"))
"""By the number of the type: the beginning of what the MAC in a name is made of."""
_MAC_BYTES = 11
"""Bytes of the MAC in a name."""


class EntryNames:
    """Names of the entries of one owner, from its index key.

    Attributes:
        tag: the bytes after the first one, the same in each name of this owner.
        check: the owner's check value.
    """

    __slots__ = ("_cmac", "_owner", "check", "tag")

    def __init__(self, index_key: bytes, owner: Owner) -> None:
        self._cmac = Cmac(_derive(index_key, b"names ", owner, 32))
        self.tag = self._cmac.of(b"owner")[:4]
        self.check = self._cmac.of(b"check")
        self._owner = owner

    def of_value(self, value: bytes, number: int) -> bytes:
        """Return the name of the value entry of an encoded value; ``number`` is that of its type."""
        return self._name(b"v", _V_STARTS[number] + value)

    def of_token(self, token: bytes, number: int) -> bytes:
        """Return the name of the token entry of an encoded token."""
        return self._name(b"t", _T_STARTS[number] + token)

    def of_values(self, values: list[bytes], number: int) -> list[bytes]:
        """Return the names of the value entries of encoded values of one type."""
        return self._names(b"v", [_V_STARTS[number] + value for value in values])

    def of_tokens(self, tokens: list[bytes], number: int) -> list[bytes]:
        """Return the names of the token entries of encoded tokens of one type."""
        return self._names(b"t", [_T_STARTS[number] + token for token in tokens])

    def _name(self, side: bytes, message: bytes) -> bytes:
        return side + self.tag + self._cmac.of(message)[:_MAC_BYTES]

    def _names(self, side: bytes, messages: list[bytes]) -> list[bytes]:
        start = side + self.tag
        return [start + mac for mac in self._cmac.of_all(messages, _MAC_BYTES)]

    def data_id(self, token: bytes, number: int) -> bytes:
        """Return the data id of an encoded token; ``number`` is that of its type."""
        return token_entry.data_id(self._owner, token, number)

    def of_data_id(self, data_id: bytes) -> bytes:
        """Return the name of the foreign entry of a token with this data id."""
        return self._name(b"t", b"a" + data_id)

    def of_foreign(self, token: bytes, number: int) -> bytes:
        """Return the name of the foreign entry of an encoded token; ``number`` is that of its type."""
        return self.of_data_id(self.data_id(token, number))


def check_name(owner: Owner) -> bytes:
    """Return the name of an owner's check value. Nobody needs a key for it."""
    return b"c" + sha256(_LABEL + b"check " + _identity(owner)).digest()[:15]


class SealKey:
    """Seals and opens entries under one symmetric key of an owner.

    Attributes:
        id: the key id in the head of an entry.
    """

    __slots__ = ("_columns", "_key", "decrypt", "encrypt", "id")

    def __init__(self, key: bytes, owner: Owner) -> None:
        derived = _derive(key, b"seal ", owner, _SEAL_KEY_BYTES + _KEY_ID_BYTES)
        self._key = derived[:_SEAL_KEY_BYTES]
        self._columns: SivColumns | None = None  # few owners have many entries at once
        siv = AESSIV(self._key)
        self.encrypt, self.decrypt = siv.encrypt, siv.decrypt
        self.id = derived[_SEAL_KEY_BYTES:]

    def head(self, flags: int, day: int) -> bytes:
        """Return the head of an entry.

        Args:
            flags: sum of ``DISABLED``, ``REMOVED``, ``ALONE`` and ``FOREIGN``.
            day: days since 1970-01-01, below 65536.
        """
        return bytes((_VERSION | flags,)) + day.to_bytes(2, "big") + self.id

    def seal(self, name: bytes, head: bytes, plaintext: bytes) -> bytes:
        """Make an entry."""
        return head + self.encrypt(plaintext, [name + head])

    def seal_all(self, head: bytes, names: list[bytes], plaintexts: list[bytes]) -> list[bytes]:
        """Make an entry of each plaintext, for the name in the same place."""
        if len(names) >= COLUMN_MIN:
            lengths = set(map(len, plaintexts))
            if len(lengths) > 1:
                return self._seal_by_length(head, names, plaintexts)
            if len(names) > COLUMN_MAX:
                return self.seal_all(head, names[:COLUMN_MAX], plaintexts[:COLUMN_MAX]) + self.seal_all(
                    head, names[COLUMN_MAX:], plaintexts[COLUMN_MAX:]
                )
            if lengths.pop() <= LENGTH_MAX:
                return self._in_columns().seal(head, names, plaintexts)
        encrypt = self.encrypt
        return [head + encrypt(text, [name + head]) for name, text in zip(names, plaintexts, strict=True)]

    def open_all(self, names: list[bytes], entries: list[bytes]) -> list[bytes] | None:
        """Return the plaintexts of entries of one length that begin with the same head.

        Args:
            names: one for each entry.
            entries: ``COLUMN_MIN`` to ``COLUMN_MAX``, of at most ``ENTRY_MAX`` bytes.

        Returns:
            None if this key does not open all of them.
        """
        return self._in_columns().open(entries[0][:HEAD_BYTES], names, entries)

    def _in_columns(self) -> SivColumns:
        if self._columns is None:
            self._columns = SivColumns(self._key)
        return self._columns

    def _seal_by_length(self, head: bytes, names: list[bytes], plaintexts: list[bytes]) -> list[bytes]:
        by_length: dict[int, list[int]] = {}
        for place, text in enumerate(plaintexts):
            by_length.setdefault(len(text), []).append(place)
        entries = [b""] * len(names)
        for places in by_length.values():
            sealed = self.seal_all(head, [names[at] for at in places], [plaintexts[at] for at in places])
            for place, entry in zip(places, sealed, strict=True):
                entries[place] = entry
        return entries

    def open(self, name: bytes, entry: bytes) -> bytes | None:
        """Return the plaintext of an entry, or None if this key does not open it."""
        head = entry[:HEAD_BYTES]
        try:
            return self.decrypt(entry[HEAD_BYTES:], [name + head])
        except InvalidTag:
            return None


class Head(NamedTuple):
    """The head of an entry."""

    flags: int
    day: int
    key_id: bytes


def read_head(name: bytes, entry: bytes) -> Head:
    """Read the head of an entry. Only an entry that opens shows that its head is true.

    Raises:
        CorruptData: the bytes are not an entry of this version, or too short.
    """
    if len(entry) < HEAD_BYTES + _SIV_BYTES + 1 or entry[0] not in _FIRST_BYTES[name[0]]:
        raise CorruptData("entry: not of this version of the dense layout")
    return Head(entry[0] & 15, int.from_bytes(entry[1:3], "big"), entry[KEY_ID_AT:HEAD_BYTES])


def is_foreign(raw: bytes) -> bool:
    """Tell whether stored bytes have the head of a foreign entry. Nobody needs a key for it."""
    return raw[:1] in _FOREIGN_STARTS


def day_of(now: float) -> int:
    """Return the day of a time in Unix seconds, as a head has it."""
    return min(max(int(now) // SECONDS_OF_DAY, 0), 0xFFFF)


def _identity(owner: Owner) -> bytes:
    return lp(owner.kind.encode()) + lp(owner.context)


def _derive(key: bytes, purpose: bytes, owner: Owner, length: int) -> bytes:
    return HKDF(SHA256(), length, salt=None, info=_LABEL + purpose + _identity(owner)).derive(key)
