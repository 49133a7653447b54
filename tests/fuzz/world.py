"""The world of hostile input: clients with keys and tokens, and requests whose right answers are known.

Every value holds a mark that must not come out anywhere but where the contract says.
"""

import base64
import itertools
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest import mock

import msgspec

from token_worker.acra.key_name import HISTORY_INFIX
from token_worker.acra.owner import Owner
from token_worker.acra.token_entry import EntryNames
from token_worker.acra.value_types import TYPES
from token_worker.contract.messages import Format, Op, Reply
from token_worker.errors import TokenWorkerError
from token_worker.keys.cache import KeyCache
from token_worker.keys.index_key import seal_index_key
from token_worker.keys.layout_record import LayoutName
from token_worker.keys.store import new_key, unwrap, wrap
from token_worker.service.handler import Handler
from token_worker.settings import load
from token_worker.storage.dense import entry
from token_worker.storage.dense.layout import foreign_plaintext
from token_worker.storage.make_layout import make_layout
from token_worker.storage.token_item import Names
from token_worker.streams.entry import Answer, Entry
from token_worker.streams.routes import Route
from token_worker.testing.memory import MemoryKeys, MemoryTokens

MARK = "qZ9mark"
"""The mark in every text and, as base64 in JSON, in every binary value."""

MARK_DIGITS = "77191"
"""The mark in every number."""

NOW = 1_800_000_000
ROUTE = Route("requests", "responses", frozenset(Op))
SHOP, BILLING, ZONE = Owner("client", "shop-frontend"), Owner("client", "billing_service"), Owner("zone", "DDDDzoneone")
OWNERS = (SHOP, BILLING, ZONE)
BROKEN = Owner("client", "broken-client")
"""A client whose key does not open."""

ROTATED = BILLING
UNROTATED = (SHOP, ZONE)
"""Owners whose tokens, were they made again, would be the same."""

A_KIND = 3
"""Values of each type that each owner has."""

REPLY = {
    Format.JSON: msgspec.json.Decoder(Reply, strict=True).decode,
    Format.MSGPACK: msgspec.msgpack.Decoder(Reply, strict=True).decode,
}
ENCODE = {Format.JSON: msgspec.json.encode, Format.MSGPACK: msgspec.msgpack.encode}

Value = int | str | bytes


class Fault(TokenWorkerError):  # noqa: N818 - reads as what it says
    """A failed check; ``case`` is the number in the batch, or None if the failing case is unknown."""

    def __init__(self, what: str, case: int | None = None) -> None:
        super().__init__(what)
        self.case = case


class _Token(NamedTuple):
    """A stored token: whose, its type, value and token, the names of its entries, and whether it is inconsistent."""

    owner: Owner
    kind: str
    value: Value
    token: Value
    h_key: bytes
    t_key: bytes
    is_lone: bool


class Good(NamedTuple):
    """A request whose right answer is known.

    Attributes:
        payload: the request.
        reply: all of the reply but ``request_entry``.
        h_key, t_key: names of the two entries of its value, empty in a request of several.
    """

    format: Format
    owner: Owner
    payload: bytes
    message: dict[str, Any]
    reply: dict[str, Any]
    h_key: bytes = b""
    t_key: bytes = b""

    @property
    def needed(self) -> bytes:
        """Name of the entry that is looked up."""
        return self.h_key if self.op == "tokenize" else self.t_key

    @property
    def op(self) -> str:
        return str(self.message["op"])


@contextmanager
def no_chance(rng: random.Random) -> Iterator[None]:
    """Replace the operating system's random bytes by those of ``rng``, so that a run can be repeated."""
    with mock.patch("os.urandom", rng.randbytes):
        yield


class World:
    """Keys, entries and good requests, all made from a seed; it is never changed, handlers get copies."""

    def __init__(self, seed: str, layout: LayoutName = "acra") -> None:
        self.layout = layout
        rng = random.Random(f"world {seed}")
        with no_chance(rng):
            loaded = load({"TOKEN_WORKER_STREAMS_URL": "redis://nowhere", "TOKEN_WORKER_MASTER_KEY_SOURCE": "env"})
            self.settings = msgspec.structs.replace(loaded, routes=(ROUTE,))
            self.master_key = new_key()
            self.keys = MemoryKeys()
            self.keys.sealed = {owner.key_name: wrap(new_key(), self.master_key, owner) for owner in OWNERS}
            self.keys.sealed[BROKEN.key_name] = wrap(new_key(), new_key(), BROKEN)
            self._index_keys = {owner: new_key() for owner in OWNERS}
            self.keys.index = {
                owner.key_name: seal_index_key(key, self.master_key, owner) for owner, key in self._index_keys.items()
            }
            self.entries: dict[bytes, bytes] = {}
            self._numbers = itertools.count(1)
            self._tokens = self._store(rng)
            self._rotate(ROTATED)
        self.singles = list(self._singles())
        self.good = [*self.singles, *self._several(rng)]

    def tokens(self) -> MemoryTokens:
        """A token storage with all entries; entries of streams are numbered anew."""
        self._numbers = itertools.count(1)
        made = MemoryTokens(make_layout(self.layout, has_foreign=True))
        made.entries = self.entries.copy()
        return made

    def handler(self, tokens: MemoryTokens, keys: MemoryKeys | None = None, now: float = NOW) -> Handler:
        """A handler with empty caches."""
        clock = itertools.count(1.0, 1e-6)
        has_index = self.layout == "dense"
        cache = KeyCache(keys or self.keys, self.master_key, clock=lambda: next(clock), with_index=has_index)
        return Handler(self.settings, cache, tokens, lambda: now)

    def names(self, owner: Owner) -> Names:
        """Names of an owner's entries."""
        return self._dense_names(owner) if self.layout == "dense" else EntryNames(owner)

    def _dense_names(self, owner: Owner) -> entry.EntryNames:
        return entry.EntryNames(self._index_keys[owner], owner)

    def next_entry(self, fields: dict[bytes, bytes]) -> Entry:
        """An entry as it would be read from the stream."""
        return Entry.of(ROUTE, b"%d-0" % next(self._numbers), fields)

    def _store(self, rng: random.Random) -> list[_Token]:
        """All that is stored. Half of it was used long ago. In the dense layout some tokens are inconsistent."""
        wanted = [(owner, kind, value) for owner in OWNERS for kind in TYPES for value in _values(rng, kind, A_KIND)]
        made = []
        for number, (owner, kind, value) in enumerate(wanted):
            tokens = self.tokens()
            handler = self.handler(tokens, now=NOW - number % 2 * 7 * 86_400)
            message = _message("tokenize", owner, [(kind, value)])
            is_lone = self.layout == "dense" and number % 4 == 3
            if is_lone:
                message["consistent"] = False
            [answer] = handler.handle([self.next_entry({b"payload": msgspec.msgpack.encode(message)})])
            if not isinstance(answer, Answer):
                raise Fault("a good request has no answer")
            token = msgspec.msgpack.decode(answer.payload)["value"]
            self.entries = tokens.entries
            type_ = TYPES[kind]
            h_key, t_key = (
                self.names(owner).of_value(type_.encode(value), type_.number),
                self.names(owner).of_token(type_.encode(token), type_.number),
            )
            if is_lone and number % 8 == 7:
                t_key = self._make_foreign(owner, t_key, type_.encode(value), type_.encode(token), type_.number)
            made.append(_Token(owner, kind, value, token, h_key, t_key, is_lone))
        return made

    def _make_foreign(self, owner: Owner, t_key: bytes, value: bytes, token: bytes, number: int) -> bytes:
        """Store a lone token as one that was moved. Returns the new name of its entry."""
        names = self._dense_names(owner)
        seal_key = entry.SealKey(unwrap(self.keys.sealed[owner.key_name], self.master_key, owner), owner)
        data_id = names.data_id(token, number)
        name, head = names.of_data_id(data_id), seal_key.head(entry.ALONE | entry.FOREIGN, entry.day_of(NOW))
        self.entries[name] = seal_key.seal(name, head, foreign_plaintext(number, data_id, value))
        del self.entries[t_key]
        return name

    def _rotate(self, owner: Owner) -> None:
        name = owner.key_name
        self.keys.sealed[f"{name}{HISTORY_INFIX}2026-01-01T00:00:00"] = self.keys.sealed[name]
        self.keys.sealed[name] = wrap(new_key(), self.master_key, owner)

    def _singles(self) -> Iterator[Good]:
        for format_, (owner, kind, value, token, h_key, t_key, is_lone) in itertools.product(Format, self._tokens):
            for op, given, wanted in (("tokenize", value, token), ("detokenize", token, value)):
                if op == "tokenize" and is_lone:
                    continue
                message = _message(op, owner, [(kind, _wire(kind, given, format_))])
                reply = {"id": message["id"], "op": op, "status": "ok", "value": _wire(kind, wanted, format_)}
                yield Good(format_, owner, ENCODE[format_](message), message, reply, h_key, t_key)

    def _several(self, rng: random.Random) -> Iterator[Good]:
        for format_, op, owner in itertools.product(Format, Op, OWNERS):
            own = [row for row in self._tokens if row.owner == owner and not (row.is_lone and op is Op.TOKENIZE)]
            rows = rng.sample(own, 6)
            pairs = [
                (row.kind, row.value, row.token) if op is Op.TOKENIZE else (row.kind, row.token, row.value)
                for row in rows
            ]
            message = _message(op.value, owner, [(kind, _wire(kind, given, format_)) for kind, given, _ in pairs])
            items = [
                {"ref": item["ref"], "value": _wire(kind, wanted, format_)}
                for item, (kind, _, wanted) in zip(message["items"], pairs, strict=True)
            ]
            reply = {"id": message["id"], "op": op.value, "status": "ok", "items": items}
            yield Good(format_, owner, ENCODE[format_](message), message, reply)


def _values(rng: random.Random, kind: str, count: int) -> list[Value]:
    made: list[Value] = []
    for number in range(count):
        match kind:
            case "int32":
                made.append(int(f"{MARK_DIGITS}{number:03}"))
            case "int64":
                made.append(-int(f"{MARK_DIGITS}{rng.randrange(10**9):09}{number:02}"))
            case "email":
                made.append(f"{MARK}.{number}@navy.example")
            case "bytes":
                made.append(base64.b64decode(f"{MARK}{number:05}".encode()) + rng.randbytes(8 * number))
            case _:
                made.append(f"{MARK} {number} żółć"[: 8 + 4 * number])
    return made


def _message(op: str, owner: Owner, items: Sequence[tuple[str, Value]]) -> dict[str, Any]:
    who = {"client_id": SHOP.id, "zone_id": owner.id} if owner.kind == "zone" else {"client_id": owner.id}
    head = {"id": f"{op}-{owner.id}", "op": op, **who}
    if len(items) == 1:
        [(kind, value)] = items
        return {**head, "type": kind, "value": value}
    return {
        **head,
        "items": [{"type": kind, "value": value, "ref": f"ref-{n}"} for n, (kind, value) in enumerate(items)],
    }


def _wire(kind: str, value: Value, format_: Format) -> Value:
    """The value as it is written in a message."""
    if format_ is Format.MSGPACK:
        return value
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return str(value) if kind == "int64" else value


def answer_is(good: Good, answer: Answer) -> bool:
    """Tell whether this is the right answer to a good request, to the last member."""
    decode = msgspec.json.decode if good.format is Format.JSON else msgspec.msgpack.decode
    return bool(decode(answer.payload) == {**good.reply, "request_entry": answer.entry.id.decode()})
