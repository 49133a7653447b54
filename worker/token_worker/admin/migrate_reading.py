"""Reads the tokens of a layout for ``tokens migrate``, page by page: pairs of entries that fit, singles, and findings.

A pair is a token that can be moved. So is a single: the token entry of a token that was drawn inconsistently. A finding
is an entry that cannot be moved, with the reason. The two entries of a pair were
read by two commands, one after the other. A change compares them again before it writes.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from token_worker.acra.owner import Owner
from token_worker.admin.migrate_sides import Content, Half, Lone, Opened, Sealed, Side
from token_worker.errors import CorruptData, Refused, Unavailable
from token_worker.keys.cache import Found, KeyCache, KeySearch
from token_worker.keys.keyring import Keyring, NoMatchingKey
from token_worker.redis.link import RedisLink

KEYS_PER_COMMAND = 1000
"""Most keys of one MGET."""

FindingKind = Literal[
    "no_key",
    "unreadable",
    "removed",
    "orphan",
    "value_alone",
    "disabled_alone",
    "mismatch",
    "conflict",
]
"""The reason why an entry cannot be moved.

- ``no_key``: it belongs to nobody who has a key.
- ``unreadable``: it is damaged, or no key of its owner opens it.
- ``removed``: it is a tombstone.
- ``orphan``: a token entry of a token that nobody was given.
- ``value_alone``: a value entry whose token entry does not exist.
- ``disabled_alone``: one of two entries is disabled or removed, the other is not.
- ``mismatch``: a value entry that names the token of another value.
- ``conflict``: the other layout holds this token for another value.
"""


class Finding(NamedTuple):
    """An entry that cannot be moved, as it was read."""

    kind: FindingKind
    name: bytes
    raw: bytes


class Revoked(NamedTuple):
    """The tombstone of a token that was drawn inconsistently, as it was read.

    Attributes:
        ring: keys of its owner.
        data_id: of the token.
        name: of the entry.
        raw: the entry.
    """

    ring: Keyring
    data_id: bytes
    name: bytes
    raw: bytes


class Single(NamedTuple):
    """A token that was drawn inconsistently, as it was read.

    In Acra's layout it may also be half of a token that AcraServer was writing when it was killed. Nobody can tell.

    Attributes:
        ring: keys of its owner.
        lone: the token.
        name: of the entry.
        raw: the entry.
    """

    ring: Keyring
    lone: Lone
    name: bytes
    raw: bytes


class Pair(NamedTuple):
    """A token whose two entries fit, as they were read.

    Attributes:
        ring: keys of its owner.
        content: the token.
        names: of the token entry and of the value entry.
        raws: the entries.
    """

    ring: Keyring
    content: Content
    names: tuple[bytes, bytes]
    raws: Sealed


class Reader:
    """Reads entries of both layouts, and opens them with all keys of their owners.

    Args:
        link: the token storage.
        keys: keys and index keys of the owners.
    """

    def __init__(self, link: RedisLink, keys: KeyCache) -> None:
        self._link = link
        self.keys = keys
        self._rings: dict[Owner, Keyring | None] = {}
        self._likely = 0
        """Number of the type of the last value entry of Acra's: the next one mostly has the same."""

    def begin_page(self, side: Side, names: Sequence[bytes]) -> None:
        """Look up the keys of all owners of a page at once. Call it before each page.

        Raises:
            Unavailable: the key storage is away.
        """
        self._rings.clear()
        owners = {owner for name in names for owner in side.owners(name)}
        for owner, found in self.keys.rings(owners).items():
            self._rings[owner] = _usable(found)

    def ring(self, owner: Owner) -> Keyring | None:
        """Return the keys of an owner. None if the owner has none that can be used.

        Raises:
            Unavailable: the key storage is away.
        """
        if owner not in self._rings:
            self._rings[owner] = _usable(self.keys.rings([owner])[owner])
        return self._rings[owner]

    def read(self, names: Sequence[bytes]) -> list[bytes | None]:
        """Read entries, each or None."""
        found: list[bytes | None] = []
        for start in range(0, len(names), KEYS_PER_COMMAND):
            found += self._link.call("MGET", *names[start : start + KEYS_PER_COMMAND])
        return found

    def open(self, side: Side, half: Half, name: bytes, raw: bytes) -> tuple[Keyring, Opened] | None:
        """Open an entry with the keys of its owner. None if it cannot be read.

        Raises:
            Unavailable: the key storage is away.
        """
        for owner in side.owners(name):
            ring = self.ring(owner)
            if ring is not None:
                opened = self.open_with(side, ring, half, name, raw)
                if opened is not None:
                    return ring, opened
        return None

    def open_with(self, side: Side, ring: Keyring, half: Half, name: bytes, raw: bytes) -> Opened | None:
        """Open an entry with the keys of one owner; see ``open``."""
        while True:
            try:
                return side.open(ring, half, name, raw)
            except NoMatchingKey:
                found = self.keys.find_keys(ring)
                if isinstance(found, Unavailable):
                    raise found from None
                if found is KeySearch.EXHAUSTED:
                    return None
            except CorruptData:
                return None

    # -- pages

    def tokens(self, side: Side, t_names: Sequence[bytes]) -> Iterator[Pair | Single | Revoked | Finding]:
        """Read token entries, and the value entries that belong to them."""
        opened: list[tuple[bytes, bytes, Keyring, Opened, bytes]] = []
        for name, raw in zip(t_names, self.read(t_names), strict=True):
            if raw is None:
                continue
            found = self.open(side, "token", name, raw)
            if found is None:
                yield self._locked(side, name, raw)
            elif found[1].removed:
                ring, token = found
                yield Revoked(ring, token.data_id, name, raw) if token.alone else Finding("removed", name, raw)
            else:
                ring, token = found
                opened.append((name, raw, ring, token, side.names(ring).of_value(token.data, token.numbers[0])))
        v_raws = self.read([v_name for *_, v_name in opened])
        for (t_name, t_raw, ring, token, v_name), v_raw in zip(opened, v_raws, strict=True):
            found = None if v_raw is None else self.open(side, "value", v_name, v_raw)
            if v_raw is None or (found is None and token.alone):  # the value entry is another token's
                yield _unpaired(side, ring, t_name, t_raw, token)
            elif found is None:
                yield Finding("unreadable", v_name, v_raw)
            else:
                yield _pair(side, ring, (t_name, v_name), (token, found[1]), Sealed(t_raw, v_raw))

    def broken(self, side: Side, v_names: Sequence[bytes]) -> Iterator[Finding]:
        """Read value entries, and find those that fit no token entry. ``tokens`` reports all other findings."""
        left: list[tuple[bytes, bytes, Keyring, Opened, list[int]]] = []
        for name, raw in zip(v_names, self.read(v_names), strict=True):
            if raw is None:
                continue
            found = self.open(side, "value", name, raw)
            if found is None:
                yield self._locked(side, name, raw)
            elif found[1].removed:
                yield Finding("removed", name, raw)
            else:
                numbers = sorted(found[1].numbers, key=lambda number: number != self._likely)
                left.append((name, raw, *found, numbers))
        exists: set[bytes] = set()
        while left:
            still = []
            t_names = [side.names(ring).of_token(value.data, numbers.pop(0)) for _, _, ring, value, numbers in left]
            for t_name, t_raw, item in zip(t_names, self.read(t_names), left, strict=True):
                name, raw, ring, _, numbers = item
                if t_raw is not None:
                    exists.add(name)
                    if self._fits(side, ring, name, t_name, t_raw):
                        continue
                if numbers:
                    still.append(item)
                else:
                    yield Finding("mismatch" if name in exists else "value_alone", name, raw)
            left = still

    def _fits(self, side: Side, ring: Keyring, v_name: bytes, t_name: bytes, t_raw: bytes) -> bool:
        found = self.open(side, "token", t_name, t_raw)
        if found is None:
            return True  # ``tokens`` reports it
        _, token = found
        [number] = token.numbers
        if token.removed or side.names(ring).of_value(token.data, number) != v_name:
            return False
        self._likely = number
        return True

    def _locked(self, side: Side, name: bytes, raw: bytes) -> Finding:
        return Finding("unreadable" if side.owners(name) else "no_key", name, raw)


def _usable(found: Found) -> Keyring | None:
    if isinstance(found, Unavailable):
        raise found
    return None if isinstance(found, Refused) else found


def _pair(
    side: Side, ring: Keyring, names: tuple[bytes, bytes], opened: tuple[Opened, Opened], raws: Sealed
) -> Pair | Single | Finding:
    token, value = opened
    [number] = token.numbers
    if value.removed or number not in value.numbers or side.names(ring).of_token(value.data, number) != names[0]:
        return _unpaired(side, ring, names[0], raws.token, token)
    if token.alone:
        return Finding("mismatch", names[1], raws.value)
    if token.disabled != value.disabled:
        return Finding("disabled_alone", names[0], raws.token)
    content = Content(number, token.data, value.data, token.disabled, token.day, value.day)
    return Pair(ring, content, names, raws)


def _unpaired(side: Side, ring: Keyring, name: bytes, raw: bytes, token: Opened) -> Single | Finding:
    if not (side.keeps_unpaired or token.alone):
        return Finding("orphan", name, raw)
    [number] = token.numbers
    return Single(ring, Lone(number, token.data, token.data_id, token.disabled, token.day), name, raw)
