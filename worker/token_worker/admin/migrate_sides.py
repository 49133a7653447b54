"""The two layouts, as ``tokens migrate`` needs them: which entries there are, whose they are, and what they say.

Both layouts keep a token in two entries. The token entry holds the value, the value entry holds the token. Acra's
value entry does not hold the type; its token entry is looked for under each of the five. A token that was drawn
inconsistently has a token entry alone. Both layouts tell its data id: Acra's in the name of the entry, the dense one in
the entry.

Pure.
"""

import hashlib
import re
from binascii import unhexlify
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple, Protocol

from token_worker.acra.owner import Owner
from token_worker.acra.token_entry import (
    EntryNames,
    TokenEntry,
    data_id_in,
    decode_entry,
    decode_times,
    decode_token_value,
    encode_entry,
    encode_token_value,
)
from token_worker.acra.value_types import TYPES
from token_worker.errors import CorruptData
from token_worker.keys.keyring import Keyring
from token_worker.storage.acra.sealing import Sealing
from token_worker.storage.dense import entry as dense_entry
from token_worker.storage.dense.layout import (
    DenseOwner,
    foreign_plaintext,
    open_entry,
    read_alone,
    read_next,
    token_plaintext,
    value_plaintext,
)
from token_worker.storage.token_item import Names

Half = Literal["token", "value"]

_KINDS = {kind.number: kind for kind in TYPES.values()}
_NUMBERS = tuple(_KINDS)
_NEVER_STALE = (0, 0, 0)
"""The mark of Acra's layout by which no entry is stale: nobody uses the entries here."""

_TIMES_DIGITS = 24
_ENABLED = 1 << 4
"""First byte of an entry of the dense layout without flags."""

_ACRA_NAME = re.compile(rb"tokens/([0-9a-f]{64})/(742e|682e)[0-9a-f]{64}")
_ACRA_HALVES: dict[bytes, Half] = {b"742e": "token", b"682e": "value"}
_DENSE_HALVES: dict[int, Half] = {ord("t"): "token", ord("v"): "value"}


class Opened(NamedTuple):
    """An entry that was opened.

    Attributes:
        numbers: possible numbers of the type: one, or in a value entry of Acra's all five.
        data: the value in a token entry, the token in a value entry; empty if the token was removed.
        day: day of creation, in days since 1970-01-01.
        disabled: the token is disabled.
        removed: the entry is a tombstone.
        alone: the token entry belongs to no value entry. Acra's layout does not tell it.
        data_id: of the token, in a token entry of Acra's, or one that is alone; else empty.
    """

    numbers: tuple[int, ...]
    data: bytes
    day: int
    disabled: bool = False
    removed: bool = False
    alone: bool = False
    data_id: bytes = b""


class Sealed(NamedTuple):
    """The two entries of a token, as they are stored."""

    token: bytes
    value: bytes


class Content(NamedTuple):
    """A token, whatever its layout.

    Attributes:
        number: of the type.
        value, token: both encoded.
        disabled: in both entries.
        token_day, value_day: days on which the entries were created.
    """

    number: int
    value: bytes
    token: bytes
    disabled: bool
    token_day: int
    value_day: int


class Lone(NamedTuple):
    """A token that has a token entry alone, whatever its layout.

    Attributes:
        number: of the type.
        value: encoded.
        data_id: of the token.
        disabled: in its entry.
        day: on which the entry was created.
    """

    number: int
    value: bytes
    data_id: bytes
    disabled: bool
    day: int


class Side(Protocol):
    """One of the two layouts."""

    keeps_unpaired: bool
    """True if a token entry that no value entry names may be a token of somebody."""
    pattern: str
    """Pattern of the names, for SCAN. Names of other programs may fit it, too."""

    def half(self, name: bytes) -> Half | None:
        """Tell which entry has this name. None if no entry has such a name."""
        ...

    def owners(self, name: bytes) -> Sequence[Owner]:
        """The owners whose entry may have this name, of those that have a key."""
        ...

    def names(self, ring: Keyring) -> Names:
        """The names of an owner's entries."""
        ...

    def open(self, ring: Keyring, half: Half, name: bytes, raw: bytes) -> Opened:
        """Open an entry.

        Raises:
            NoMatchingKey: no key of the ring opens it.
            CorruptData: the bytes are not an entry.
        """
        ...

    def seal(self, ring: Keyring, content: Content, names: tuple[bytes, bytes], now: int) -> Sealed:
        """Make the two entries of a token; ``names`` are those of the token entry and of the value entry."""
        ...

    def lone_name(self, ring: Keyring, data_id: bytes) -> bytes:
        """Return the name that the entry of a token has if only its data id is known."""
        ...

    def seal_lone(self, ring: Keyring, lone: Lone, name: bytes, now: int) -> bytes:
        """Make the entry of a token that has no other."""
        ...


class AcraSide:
    """Acra's layout. See ``acra.token_entry``."""

    keeps_unpaired = True
    pattern = "tokens/*"

    def __init__(self, owners: Iterable[Owner]) -> None:
        self._by_digest = {
            hashlib.sha256((owner.kind + owner.id).encode()).hexdigest().encode(): (owner,) for owner in owners
        }
        self._names: dict[Owner, EntryNames] = {}
        self._sealing = Sealing()

    def half(self, name: bytes) -> Half | None:
        match = _ACRA_NAME.fullmatch(name)
        return None if match is None else _ACRA_HALVES[match[2]]

    def owners(self, name: bytes) -> Sequence[Owner]:
        return self._by_digest.get(name[7:71], ())

    def names(self, ring: Keyring) -> EntryNames:
        names = self._names.get(ring.owner)
        if names is None:
            names = self._names[ring.owner] = EntryNames(ring.owner)
        return names

    def open(self, ring: Keyring, half: Half, name: bytes, raw: bytes) -> Opened:
        inside, _ = self._sealing.open(ring, name, 0, raw, _NEVER_STALE)
        day, disabled = _day_and_state(raw)
        if half == "value":
            if not inside:
                raise CorruptData("entry: no token")
            return Opened(_NUMBERS, inside, day, disabled)
        value, number = decode_token_value(inside)
        _check_value(number, value)
        return Opened((number,), value, day, disabled, data_id=data_id_in(name))

    def seal(self, ring: Keyring, content: Content, names: tuple[bytes, bytes], now: int) -> Sealed:  # noqa: ARG002
        number, value, token, disabled, token_day, value_day = content
        inside = encode_token_value(value, number)
        return Sealed(
            _acra_entry(ring, inside, token_day, now, disabled=disabled),
            _acra_entry(ring, token, value_day, now, disabled=disabled),
        )

    def lone_name(self, ring: Keyring, data_id: bytes) -> bytes:
        return self.names(ring).of_data_id(data_id)

    def seal_lone(self, ring: Keyring, lone: Lone, name: bytes, now: int) -> bytes:  # noqa: ARG002 - not sealed with it
        inside = encode_token_value(lone.value, lone.number)
        return _acra_entry(ring, inside, lone.day, now, disabled=lone.disabled)


class DenseSide:
    """The dense layout. See ``storage.dense.entry``.

    Args:
        rings: keyrings with index keys, of all owners that have both keys. They serve to know the tags.
    """

    keeps_unpaired = False
    pattern = "[tv]" + "?" * (dense_entry.NAME_BYTES - 1)

    def __init__(self, rings: Iterable[Keyring]) -> None:
        by_tag: defaultdict[bytes, list[Owner]] = defaultdict(list)
        for ring in rings:
            if ring.index is not None:
                by_tag[dense_entry.EntryNames(ring.index, ring.owner).tag].append(ring.owner)
        self._by_tag = {tag: tuple(owners) for tag, owners in by_tag.items()}
        self._owners: dict[Owner, tuple[Keyring, DenseOwner]] = {}

    def half(self, name: bytes) -> Half | None:
        return _DENSE_HALVES.get(name[0]) if len(name) == dense_entry.NAME_BYTES else None

    def owners(self, name: bytes) -> Sequence[Owner]:
        return self._by_tag.get(name[1:5], ())

    def names(self, ring: Keyring) -> Names:
        return self.of(ring).names

    def of(self, ring: Keyring) -> DenseOwner:
        """The names and ciphers of an owner, computed once for a keyring."""
        known = self._owners.get(ring.owner)
        if known is None or known[0] is not ring:
            if ring.index is None:
                raise CorruptData("there is no index key")
            known = self._owners[ring.owner] = ring, DenseOwner(ring, ring.index)
        return known[1]

    def open(self, ring: Keyring, half: Half, name: bytes, raw: bytes) -> Opened:
        owner = self.of(ring)
        key, opened = owner.seal_key, None
        if raw[dense_entry.KEY_ID_AT : dense_entry.HEAD_BYTES] == key.id and raw[0] == _ENABLED:  # nearly all
            opened = key.open(name, raw)
        plaintext, flags = (opened, 0) if opened else open_entry(owner, ring, name, raw)
        day = int.from_bytes(raw[1 : dense_entry.KEY_ID_AT], "big")
        disabled, removed = bool(flags & dense_entry.DISABLED), bool(flags & dense_entry.REMOVED)
        if len(plaintext) < (2 if half == "value" else 1):
            raise CorruptData("entry: wrong content")
        number = plaintext[0]
        alone, data_id = bool(flags & dense_entry.ALONE), b""
        if alone:
            _, data_id, data = read_alone(owner.names, name, plaintext, flags)
        else:
            data = read_next(plaintext)[1] if half == "value" else plaintext[1:]
        if removed == bool(data):
            raise CorruptData("entry: wrong content")
        if half == "token" and not removed:
            _check_value(number, data)
        return Opened((number,), data, day, disabled, removed, alone, data_id)

    def seal(self, ring: Keyring, content: Content, names: tuple[bytes, bytes], now: int) -> Sealed:  # noqa: ARG002
        number, value, token, disabled, token_day, value_day = content
        key = self.of(ring).seal_key
        flags = dense_entry.DISABLED if disabled else 0
        return Sealed(
            key.seal(names[0], key.head(flags, token_day), token_plaintext(number, value)),
            key.seal(names[1], key.head(flags, value_day), value_plaintext(number, 0, token)),
        )

    def lone_name(self, ring: Keyring, data_id: bytes) -> bytes:
        return self.of(ring).names.of_data_id(data_id)

    def seal_lone(self, ring: Keyring, lone: Lone, name: bytes, now: int) -> bytes:  # noqa: ARG002 - for Acra's layout
        key, flags = self.of(ring).seal_key, dense_entry.ALONE | dense_entry.FOREIGN
        head = key.head(flags | dense_entry.DISABLED if lone.disabled else flags, lone.day)
        return key.seal(name, head, foreign_plaintext(lone.number, lone.data_id, lone.value))


def _acra_entry(ring: Keyring, inside: bytes, day: int, now: int, *, disabled: bool) -> bytes:
    return encode_entry(TokenEntry(ring.seal(inside), day * dense_entry.SECONDS_OF_DAY, now, disabled))


def _day_and_state(raw: bytes) -> tuple[int, bool]:
    """Return the day on which an entry of Acra's was created, and whether it is disabled."""
    times = raw[-_TIMES_DIGITS:]  # of an entry as most are
    if times[:2] == b"10" and times[12:14] == b"18" and raw[:2] == b"0a":
        length, after = _length(raw)
        if len(raw) == after + 2 * length + _TIMES_DIGITS:
            return _decoded(times)
    entry = decode_entry(raw)
    return dense_entry.day_of(entry.created), entry.disabled


def _length(raw: bytes) -> tuple[int, int]:
    """Return the length of the block in an entry of Acra's, and the position of the block in hex digits."""
    first = int(raw[2:4], 16)
    if first < 0x80:
        return first, 4
    return first & 0x7F | int(raw[4:6], 16) << 7, 6  # a block of 16 KiB or more has another length then, and is decoded


@lru_cache(maxsize=4096)  # tokens are made in groups
def _decoded(times: bytes) -> tuple[int, bool]:
    created, _, disabled = decode_times(unhexlify(times))
    return dense_entry.day_of(created), disabled


def _check_value(number: int, value: bytes) -> None:
    """Check a stored value as the other commands on tokens do.

    Raises:
        CorruptData: there is no such type, the value is empty, or a number has the wrong length.
    """
    kind = _KINDS.get(number)
    if kind is None or not value:
        raise CorruptData("entry: wrong content")
    if kind.is_number:
        kind.decode(value)
