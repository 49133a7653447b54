"""Requests of the simulation and their handling, which goes by the kind that each has in its payload."""

from collections.abc import Sequence
from typing import cast

from simulation.handling import RunItems
from simulation.precautions import CODES, INSTEAD, INTERNAL, REFUSED, REPLY
from simulation.promises import NO_ID, Request
from simulation.puppets import Crash
from token_worker.acra.value_types import TYPES
from token_worker.contract.messages import Op
from token_worker.errors import Unavailable
from token_worker.keys.keyring import Keyring
from token_worker.service.replies import DeadLettered, Postponed, Result
from token_worker.storage.token_item import TokenItem
from token_worker.streams.entry import Answer, Entry
from token_worker.streams.reply_facts import ReplyFacts
from token_worker.tokens.derivation import Origin

KINDS = {
    "plain": 60,
    "inconsistent": 10,
    "elsewhere": 10,
    "later": 20,
    "refused": 4,
    "no_id": 4,
    "defect": 3,
    "killer": 3,
    "last_killer": 2,
}
"""Kinds with their weights: answered on the route's own stream, by a token of its own where it asks for one, or on a
stream that it names; has to wait for a key; is refused; has no readable id; makes the handler fail; kills whoever
handles it; and even the worker that would make it a dead letter."""

ELSEWHERE = frozenset({"elsewhere", "defect"})
"""Kinds that name a stream for their reply."""

POISON = frozenset({"defect", "killer", "last_killer"})
"""Kinds that make every try fail."""


LARGE_BYTES = 300
"""Bytes that make a request a large one."""


def payload_of(kind: str, target: str, *, is_large: bool = False) -> str:
    """The payload of a request whose reply goes to ``target``; the word ``value`` is what the loop counts."""
    return f"{kind} {target} value{'.' * LARGE_BYTES if is_large else ''}"


def request_of(key: bytes, entry: tuple[int, int], kind: str, target: str) -> Request:
    """A sent request as the ledger of promises knows it."""
    return Request(key, entry, target.encode(), is_answerable=kind != "no_id", is_poison=kind in POISON)


def handle(entries: Sequence[Entry], run: RunItems, *, has_keys: bool) -> list[Result]:
    """Stand in for ``Handler.handle``; ``run`` raises where the token storage is away, or has not confirmed.

    Raises:
        Crash: one of the entries kills its worker.
        RuntimeError: one makes the handler fail.
        Unavailable: as ``run`` does.
    """
    read = [_read(entry) for entry in entries]
    kinds = {kind for kind, _ in read}
    if kinds & {"killer", "last_killer"}:
        raise Crash
    if "defect" in kinds:
        raise RuntimeError("a defect")
    results: list[Result] = []
    items: list[TokenItem] = []
    for entry, (kind, target) in zip(entries, read, strict=True):
        if kind == "no_id":
            results.append(DeadLettered(entry, NO_ID))
        elif kind == "later" and not has_keys:
            results.append(Postponed(entry, Unavailable("vault", "ConnectionError")))
        elif kind == "refused":
            results.append(_answer(REFUSED, entry, target))
        else:
            items.append(_item(entry, kind, target))
    if items:
        run(items)
    return results + [_answer(REPLY, *item.form) for item in items]


def internal(entry: Entry) -> Answer:
    """Stand in for ``Handler.internal``.

    Raises:
        Crash: the entry kills even who gives it up.
    """
    kind, target = _read(entry)
    if kind == "last_killer":
        raise Crash
    if kind == "no_id":
        return Answer(entry, b"")
    return _answer(INTERNAL, entry, target)


def _item(entry: Entry, kind: str, target: str) -> TokenItem:
    origin = Origin(entry.route.requests.encode(), entry.id, 0) if kind == "inconsistent" else None
    tokenize = _op(entry) is Op.TOKENIZE
    return TokenItem(cast(Keyring, None), TYPES["str"], b"value", tokenize, origin, form=(entry, target))


def _op(entry: Entry) -> Op:
    [op] = entry.route.ops
    return op


def _answer(how: bytes, entry: Entry, target: str) -> Answer:
    facts = ReplyFacts(_op(entry).value, "", None, None, (("", CODES[how]),))
    payload = _payload(how, entry)
    if target == entry.route.responses:
        return Answer(entry, payload, facts=facts)
    instead = payload if how == INTERNAL else _payload(INSTEAD, entry)
    return Answer(entry, payload, target, instead, facts)


def _read(entry: Entry) -> tuple[str, str]:
    kind, target, _ = (entry.payload or b"").decode().split(" ")
    return kind, target


def _payload(how: bytes, entry: Entry) -> bytes:
    return b" ".join([how, entry.route.requests.encode(), entry.id])
