"""Requests of the simulation, and what a handler makes of them: by the kind of each, which stands in its payload."""

from collections.abc import Callable, Sequence

from simulation.promises import INSTEAD, INTERNAL, NO_ID, Request
from simulation.puppets import Crash
from token_worker.errors import Unavailable
from token_worker.service.handler import Buried, Postponed, Result
from token_worker.streams.delivery import Answer, Entry

KINDS = {"plain": 70, "elsewhere": 10, "later": 20, "no_id": 4, "defect": 3, "killer": 3, "burial_killer": 2}
"""Kinds with their weights: answered on the route's own stream, or on one that it names; has to wait for a key; has no
readable id; makes the handler fail; kills whoever handles it; and even who would bury it."""

ELSEWHERE = frozenset({"elsewhere", "defect"})
"""Kinds that name a stream for their reply."""

POISON = frozenset({"defect", "killer", "burial_killer"})
"""Kinds that make every try fail."""


def payload_of(kind: str, target: str) -> str:
    """The payload of a request whose reply goes to ``target``; the word ``value`` is what the loop counts."""
    return f"{kind} {target} value"


def request_of(key: bytes, entry: tuple[int, int], kind: str, target: str) -> Request:
    """What the books have to know of a request that was sent."""
    return Request(key, entry, target.encode(), is_answerable=kind != "no_id", is_poison=kind in POISON)


def handle(entries: Sequence[Entry], ping: Callable[[], None], *, has_keys: bool) -> list[Result]:
    """As ``Handler.handle``; ``ping`` raises where the token storage is away.

    Raises:
        Crash: one of the entries kills its worker.
        RuntimeError: one makes the handler fail.
        Unavailable: as ``ping`` does.
    """
    read = [_read(entry) for entry in entries]
    kinds = {kind for kind, _ in read}
    if kinds & {"killer", "burial_killer"}:
        raise Crash
    if "defect" in kinds:
        raise RuntimeError("a defect")
    ping()
    results = zip(entries, read, strict=True)
    return [_result(entry, kind, target, has_keys=has_keys) for entry, (kind, target) in results]


def internal(entry: Entry) -> Answer:
    """As ``Handler.internal``.

    Raises:
        Crash: the entry kills even who gives it up.
    """
    kind, target = _read(entry)
    if kind == "burial_killer":
        raise Crash
    if kind == "no_id":
        return Answer(entry, b"")
    payload = _payload(INTERNAL, entry)
    return Answer(entry, payload) if target == entry.route.responses else Answer(entry, payload, target, payload)


def _result(entry: Entry, kind: str, target: str, *, has_keys: bool) -> Result:
    if kind == "no_id":
        return Buried(entry, NO_ID)
    if kind == "later" and not has_keys:
        return Postponed(entry, Unavailable("vault", "ConnectionError"))
    if target == entry.route.responses:
        return Answer(entry, _payload(b"reply", entry))
    return Answer(entry, _payload(b"reply", entry), target, _payload(INSTEAD, entry))


def _read(entry: Entry) -> tuple[str, str]:
    kind, target, _ = entry.fields[b"payload"].decode().split(" ")
    return kind, target


def _payload(how: bytes, entry: Entry) -> bytes:
    return b" ".join([how, entry.route.requests.encode(), entry.id])
