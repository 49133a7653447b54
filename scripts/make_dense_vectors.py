"""Writes tests/vectors/dense.json from the product. A vector that changes by this is a breaking release."""

import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, Final, NamedTuple

from token_worker.acra.owner import Owner
from token_worker.acra.value_types import TYPES
from token_worker.storage.dense import entry
from token_worker.storage.dense.entry import ALONE, DISABLED, FOREIGN, REMOVED, EntryNames, SealKey
from token_worker.storage.dense.layout import (
    alone_plaintext,
    foreign_plaintext,
    token_plaintext,
    value_plaintext,
)

FILE = Path(__file__).parent.parent / "tests" / "vectors" / "dense.json"


class Keys(NamedTuple):
    """An owner, its symmetric keys, the newest first, and its index key."""

    owner: Owner
    keys: list[bytes]
    index_key: bytes

    @property
    def member(self) -> dict[str, Any]:
        """The members of a vector that say whose it is."""
        return {
            "kind": self.owner.kind,
            "id": self.owner.id,
            "keys": [key.hex() for key in self.keys],
            "index_key": self.index_key.hex(),
        }


NEW, OLD, INDEX = bytes(range(32)), bytes(range(100, 132)), bytes(range(200, 232))
OWNERS: Final = [
    Keys(Owner("client", "shop-frontend"), [NEW, OLD], INDEX),
    Keys(Owner("zone", "shop-frontend"), [NEW, OLD], INDEX),
    Keys(Owner("client", "Client With Spaces"), [NEW], INDEX),
    Keys(Owner("zone", "DDDDDDDDUXhraqEnfwpZNnam"), [OLD], bytes(range(32, 64))),
]
PAIRS: Final[dict[str, list[tuple[bytes, bytes]]]] = {
    "int32": [(bytes(4), (-1).to_bytes(4, "little", signed=True)), ((2**31 - 1).to_bytes(4, "little"), b"\x07\0\0\0")],
    "int64": [((-(2**63)).to_bytes(8, "little", signed=True), (2**31).to_bytes(8, "little"))],
    "str": [(b"a", b"b"), (b"4242424242424242", b"mX3kQv0aPfE9sLw2"), ("żółć 日本語 👩‍🚀".encode(), b"x" * 33)],
    "bytes": [(b"\0", b"\xff"), (bytes(range(256)), bytes(range(255, -1, -1)))],
    "email": [(b"ada@example.com", b"q0@w.jp"), ("用户@例子.广告".encode(), b"z" * 250 + b"@a.b")],
}
"""Values and tokens of each type. Lengths on both sides of a block of AES."""
NEXT: Final = [0, 1, 2, 254, 255, 256, 4096, 2**32 - 1]
DAYS: Final = [0, 1, 20819, 65535]
FLAGS: Final = {
    "value": [0, DISABLED, REMOVED],
    "token": [base | state for base in (0, ALONE, ALONE | FOREIGN) for state in (0, DISABLED, REMOVED)],
}


def owner_vectors() -> list[dict[str, Any]]:
    """Tag, check value and key ids of each owner."""
    return [
        {
            **keys.member,
            "tag": EntryNames(keys.index_key, keys.owner).tag.hex(),
            "check_name": entry.check_name(keys.owner).hex(),
            "check_value": EntryNames(keys.index_key, keys.owner).check.hex(),
            "key_ids": [SealKey(key, keys.owner).id.hex() for key in keys.keys],
        }
        for keys in OWNERS
    ]


def entry_vectors() -> list[dict[str, Any]]:
    """Entries of all owners: of all types, and for one type all flags, counters, days and keys."""
    return [_entry(*case) for case in _cases()]


Case = tuple[Keys, int, str, str, bytes, bytes, int, int, int]
"""Owner, place of its key, entry, type, value, token, counter, day, flags."""


def _cases() -> Iterator[Case]:
    for keys, side in product(OWNERS, FLAGS):
        for type_name, pairs in PAIRS.items():
            for value, token in pairs:
                for flags in (0, ALONE, ALONE | FOREIGN) if side == "token" else (0,):
                    yield keys, 0, side, type_name, value, token, 1, DAYS[2], flags
    for (side, all_flags), place in product(FLAGS.items(), range(2)):
        value, token = PAIRS["str"][1]
        for flags, day in product(all_flags, DAYS):
            yield OWNERS[0], place, side, "str", value, token, 1, day, flags
    for flags, counter in product(FLAGS["value"], NEXT):
        yield OWNERS[1], 1, "value", "str", *PAIRS["str"][1], counter, DAYS[1], flags


def _entry(
    keys: Keys, place: int, side: str, type_name: str, value: bytes, token: bytes, counter: int, day: int, flags: int
) -> dict[str, Any]:
    number = TYPES[type_name].number
    names, seal_key = EntryNames(keys.index_key, keys.owner), SealKey(keys.keys[place], keys.owner)
    held = b"" if flags & REMOVED else token if side == "value" else value
    if side == "value":
        name, plaintext = names.of_value(value, number), value_plaintext(number, counter, held)
    elif flags & ALONE:
        name = names.of_foreign(token, number) if flags & FOREIGN else names.of_token(token, number)
        if flags & (FOREIGN | REMOVED):
            plaintext = foreign_plaintext(number, names.data_id(token, number), held)
        else:
            plaintext = alone_plaintext(number, token, held)
    else:
        name, plaintext = names.of_token(token, number), token_plaintext(number, held)
    return {
        **keys.member,
        "key": keys.keys[place].hex(),
        "entry": side,
        "type": type_name,
        "number": number,
        "value": value.hex(),
        "token": token.hex(),
        "next": counter if side == "value" else None,
        "day": day,
        "flags": flags,
        "name": name.hex(),
        "raw": seal_key.seal(name, seal_key.head(flags, day), plaintext).hex(),
    }


if __name__ == "__main__":
    parts = []
    for part, vectors in (("owners", owner_vectors()), ("entries", entry_vectors())):
        lines = ",\n".join(json.dumps(vector) for vector in vectors)
        parts.append(f'"{part}": [\n{lines}\n]')
    FILE.write_text("{\n" + ",\n".join(parts) + "\n}\n")
