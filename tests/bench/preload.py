"""Fills the storage before a measurement, in its layout, as fast as the server takes it."""

import random
import string
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from bench.subject import CLIENT, Subject
from token_worker.acra.acra_block import DataKey
from token_worker.acra.owner import Owner
from token_worker.acra.token_entry import EntryNames, TokenEntry, encode_entry, encode_token_value
from token_worker.acra.value_types import STR
from token_worker.keys.index_key import index_path, open_index_key, seal_index_key
from token_worker.keys.keyring import DataKeyCache, Keyring
from token_worker.keys.store import new_key, unwrap, wrap
from token_worker.storage.make_layout import make_layout
from token_worker.storage.token_item import TokenItem

PAIRS_A_COMMAND = 1000

Token = tuple[str, str]
"""A value and its token."""


def acras(subject: Subject, count: int) -> list[Token]:
    """Tokens as Acra writes them: drawn at random, and each of the two blocks with a data key of its own."""
    owner = Owner("client", CLIENT)
    key = _key(subject, owner)
    made = [(value, _random_token(subject.rng)) for value in subject.values(count)]
    names, now = EntryNames(owner), int(time.time())

    def entry(data: bytes) -> bytes:
        return encode_entry(TokenEntry(DataKey.generate(key, owner.context).seal(data), now, now))

    def entries() -> Iterator[tuple[bytes, bytes]]:
        for value, token in made:
            plain, drawn = value.encode(), token.encode()
            yield names.of_value(plain, STR.number), entry(drawn)
            yield names.of_token(drawn, STR.number), entry(encode_token_value(plain, STR.number))

    _write(subject, entries())
    return made


def stored(subject: Subject, count: int, wanted: int) -> list[Token]:
    """Store tokens of one client as workers do; return the ``wanted`` ones that are asked for later."""
    chosen = set(subject.rng.sample(range(count), wanted))
    made: list[Token] = []
    seal = _sealer(subject, _ring(subject, Owner("client", CLIENT)))

    def entries() -> Iterator[tuple[bytes, bytes]]:
        for number in range(count):
            value, token = f"stored {number:09}", _random_token(subject.rng)
            if number in chosen:
                made.append((value, token))
            yield from seal(value, token)

    _write(subject, entries())
    subject.rng.shuffle(made)
    return made


def clients(subject: Subject, count: int) -> list[tuple[str, Token]]:
    """Store clients in random order, each with a key and a token of its own."""
    made: list[tuple[str, Token]] = []

    def entries() -> Iterator[tuple[bytes, bytes]]:
        for number in range(count):
            owner = Owner("client", f"client-{number:07}")
            key, index_key = new_key(), new_key()
            yield f".acrakeys/{owner.key_name}".encode(), wrap(key, subject.stack.master_key, owner)
            if subject.stack.layout == "dense":
                sealed = seal_index_key(index_key, subject.stack.master_key, owner)
                yield index_path(".acrakeys", owner).encode(), sealed
            value, token = f"{number:016}", _random_token(subject.rng)
            made.append((owner.id, (value, token)))
            yield from _sealer(subject, Keyring(owner, key, DataKeyCache(), index_key))(value, token)

    _write(subject, entries())
    subject.rng.shuffle(made)
    return made


def _key(subject: Subject, owner: Owner) -> bytes:
    return unwrap(subject.stack.storage.get(f".acrakeys/{owner.key_name}"), subject.stack.master_key, owner)


def _ring(subject: Subject, owner: Owner) -> Keyring:
    index_key = None
    if subject.stack.layout == "dense":
        sealed = subject.stack.storage.get(index_path(".acrakeys", owner))
        index_key = open_index_key(sealed, subject.stack.master_key, owner)
    return Keyring(owner, _key(subject, owner), DataKeyCache(), index_key)


def _sealer(subject: Subject, ring: Keyring) -> Callable[[str, str], Iterator[tuple[bytes, bytes]]]:
    """Return the function that makes both entries of a value and its token, as a worker does."""
    layout, now = make_layout(subject.stack.layout), int(time.time())
    of_value = layout.prepare(ring).names.of_value

    def seal(value: str, token: str) -> Iterator[tuple[bytes, bytes]]:
        data = value.encode()
        item = TokenItem(ring, STR, data, tokenize=True, key=of_value(data, STR.number), token=token.encode())
        [row] = layout.rows([item], now)
        yield row.h_key, row.h_value
        yield row.t_key, row.t_value

    return seal


def _random_token(rng: random.Random) -> str:
    return "".join(rng.choices(string.ascii_letters + string.digits, k=16))


def _write(subject: Subject, pairs: Iterable[tuple[bytes, bytes]]) -> None:
    left = iter(pairs)
    while part := list(islice(left, PAIRS_A_COMMAND)):
        subject.stack.storage.execute_command("MSET", *(one for pair in part for one in pair))
