"""Fills the storage before a measurement, as fast as the server takes it."""

import random
import string
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from bench.subject import CLIENT, Subject
from token_worker.acra.acra_block import DataKey
from token_worker.acra.owner import Owner
from token_worker.acra.token_entry import EntryNames, TokenEntry, encode_entry, encode_token_value
from token_worker.keys.store import new_key, unwrap, wrap

STR = 3
"""Number of the type ``str`` in Acra's storage."""

PAIRS_A_COMMAND = 1000

Token = tuple[str, str]
"""A value and its token."""


def acras(subject: Subject, count: int) -> list[Token]:
    """Tokens as Acra writes them: drawn at random, and each of the two blocks with a data key of its own."""
    owner = Owner("client", CLIENT)
    key = _key(subject, owner)
    made = [(value, _random_token(subject.rng)) for value in subject.values(count)]
    names = EntryNames(owner)

    def seal(data: bytes) -> bytes:
        return DataKey.generate(key, owner.context).seal(data)

    _write(subject, (entry for value, token in made for entry in _entries(names, seal, value, token)))
    return made


def stored(subject: Subject, count: int, wanted: int) -> list[Token]:
    """Store tokens of one client that share a data key; return the ``wanted`` ones that are asked for later."""
    owner = Owner("client", CLIENT)
    names = EntryNames(owner)
    seal = DataKey.generate(_key(subject, owner), owner.context).seal
    chosen = set(subject.rng.sample(range(count), wanted))
    made: list[Token] = []

    def entries() -> Iterator[tuple[bytes, bytes]]:
        for number in range(count):
            value, token = f"stored {number:09}", _random_token(subject.rng)
            if number in chosen:
                made.append((value, token))
            yield from _entries(names, seal, value, token)

    _write(subject, entries())
    subject.rng.shuffle(made)
    return made


def clients(subject: Subject, count: int) -> list[tuple[str, Token]]:
    """Store clients in random order, each with a key and a token of its own."""
    made: list[tuple[str, Token]] = []

    def entries() -> Iterator[tuple[bytes, bytes]]:
        for number in range(count):
            owner = Owner("client", f"client-{number:07}")
            key = new_key()
            yield f".acrakeys/{owner.key_name}".encode(), wrap(key, subject.stack.master_key, owner)
            value, token = f"{number:016}", _random_token(subject.rng)
            made.append((owner.id, (value, token)))
            yield from _entries(EntryNames(owner), DataKey.generate(key, owner.context).seal, value, token)

    _write(subject, entries())
    subject.rng.shuffle(made)
    return made


def _key(subject: Subject, owner: Owner) -> bytes:
    return unwrap(subject.stack.storage.get(f".acrakeys/{owner.key_name}"), subject.stack.master_key, owner)


def _random_token(rng: random.Random) -> str:
    return "".join(rng.choices(string.ascii_letters + string.digits, k=16))


def _entries(names: EntryNames, seal: Any, value: str, token: str) -> Iterator[tuple[bytes, bytes]]:
    now = int(time.time())
    plain, drawn = value.encode(), token.encode()
    yield names.of_value(plain, STR), encode_entry(TokenEntry(seal(drawn), now, now))
    yield names.of_token(drawn, STR), encode_entry(TokenEntry(seal(encode_token_value(plain, STR)), now, now))


def _write(subject: Subject, pairs: Iterable[tuple[bytes, bytes]]) -> None:
    left = iter(pairs)
    while part := list(islice(left, PAIRS_A_COMMAND)):
        subject.stack.storage.execute_command("MSET", *(one for pair in part for one in pair))
