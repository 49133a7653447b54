"""From entries to answers: decode, check against the route, find keys, run the engine, encode. Reads no stream.

A batch costs one look-up of keys that are not cached, and what the engine needs of the token storage. One entry's
fault is its own: the others are answered. Nothing but ids and counts is logged.
"""

import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import msgspec
import structlog

from token_worker.contract.codec import Decoded, Limits, Unanswerable, decode, encode_reply
from token_worker.contract.messages import Op, Reply, ReplyError, ReplyItem, Request
from token_worker.contract.values import value_in, value_out
from token_worker.errors import Code, Damaged, Refused, Unavailable
from token_worker.keys.cache import KeyCache
from token_worker.keys.keyring import Keyring
from token_worker.keys.owner import Owner
from token_worker.settings import Settings
from token_worker.storage.tokens import TokenStorage
from token_worker.streams.delivery import Answer, Entry
from token_worker.streams.routes import Route, may_reply_to, streams_of
from token_worker.tokens.derivation import Origin
from token_worker.tokens.engine import Engine, Item, MoreKeys, Steps
from token_worker.tokens.types import TYPES, TokenType

log = structlog.get_logger("handler")

_STORED_UNREADABLE = Refused(Code.ENTRY_UNREADABLE, "the stored entry cannot be read")
_INTERNAL = Refused(Code.INTERNAL, "the request could not be handled; it is kept as a dead letter")


class Buried(NamedTuple):
    """An entry that nobody can be answered for: it goes to the dead letters, with this reason."""

    entry: Entry
    reason: str


class Postponed(NamedTuple):
    """An entry that stays pending: a key it needs is out of reach."""

    entry: Entry
    why: Unavailable


Result = Answer | Buried | Postponed


class Account(NamedTuple):
    """What is counted and audited of an answer.

    Attributes:
        client_id, zone_id: only those that are known to exist.
        outcomes: type and outcome of each item, ``ok`` or a code; of a request refused as a whole just its code.
    """

    op: Op | None
    status: str
    request_id: str
    client_id: str | None
    zone_id: str | None
    outcomes: list[tuple[str, str]]


class _Value:
    """One value of a request on its way through the engine."""

    __slots__ = ("item", "kind", "ref", "refused")

    def __init__(self, ref: str | None, kind: TokenType | None, item: Item | None, refused: Refused | None) -> None:
        self.ref = ref
        self.kind = kind
        self.item = item
        self.refused = refused


class _Case(NamedTuple):
    """A decoded entry, and what to answer if that is known already."""

    entry: Entry
    decoded: Decoded
    reply_to: str | None
    refused: Refused | None
    owners: tuple[Owner, ...]


class Handler:
    """Answers batches of entries."""

    def __init__(
        self, settings: Settings, keys: KeyCache, tokens: TokenStorage, now: Callable[[], float] = time.time
    ) -> None:
        self._keys = keys
        self._tokens = tokens
        self._engine = Engine()
        self._now = now
        self._limits = Limits(settings.max_request_bytes, settings.max_items)
        self._max_value_bytes = settings.max_value_bytes
        self._all_streams = streams_of(settings.routes)

    def handle(self, entries: Iterable[Entry]) -> list[Result]:
        """A result for each entry, in no particular order.

        Raises:
            Unavailable: the token storage is away. Nothing was answered; the same entries may be handled again.
        """
        results: list[Result] = []
        cases: list[_Case] = []
        for entry in entries:
            try:
                decoded = decode(entry.fields.get(b"payload"), self._limits)
            except Unanswerable as unanswerable:
                results.append(Buried(entry, unanswerable.reason))
            else:
                cases.append(self._admit(entry, decoded))
        rings = self._keys.rings({owner: None for case in cases for owner in case.owners})
        open_cases: list[tuple[_Case, Request, list[_Value]]] = []
        for case in cases:
            ring: Keyring | Refused | Unavailable = case.refused or _INTERNAL
            for owner in case.owners:
                ring = rings[owner]
                if not isinstance(ring, Keyring):
                    break
            if isinstance(ring, Unavailable):
                results.append(Postponed(case.entry, ring))
            elif isinstance(ring, Refused) or case.decoded.request is None:
                results.append(_refusal(case, ring if isinstance(ring, Refused) else _INTERNAL))
            else:
                open_cases.append((case, case.decoded.request, self._values(case, case.decoded.request, ring)))
        items = [value.item for _, _, values in open_cases for value in values if value.item is not None]
        if items:
            self._run(self._engine.run(items, int(self._now())))
        results += (_result(*open_case) for open_case in open_cases)
        return results

    def internal(self, entry: Entry) -> Answer:
        """The reply for an entry whose tries are used up; its payload is empty where its producer cannot be told."""
        try:
            decoded = decode(entry.fields.get(b"payload"), self._limits)
        except Unanswerable:
            return Answer(entry, b"")
        account = Account(decoded.op, "error", decoded.id, None, None, [("unknown", Code.INTERNAL.value)])
        return Answer(entry, _encode_error(entry, decoded, _INTERNAL), account=account)

    def _run(self, steps: Steps) -> None:
        """Perform the engine's steps."""
        answer: Any = None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration:
                return
            if isinstance(step, MoreKeys):
                answer = [self._keys.more_keys(ring) for ring in step.rings]
            else:
                answer = self._tokens.perform(step)

    def _admit(self, entry: Entry, decoded: Decoded) -> _Case:
        """Check a request against its route."""
        request = decoded.request
        reply_to = decoded.reply_to
        if reply_to is not None and not may_reply_to(entry.route, reply_to, self._all_streams):
            refused = decoded.refusal or Refused(Code.FORBIDDEN, "$.reply_to: this stream is not allowed on this route")
            return _Case(entry, decoded, None, refused, ())
        if request is None:
            return _Case(entry, decoded, reply_to, decoded.refusal, ())
        try:
            owners = _owners(entry.route, request)
        except Refused as refused:
            return _Case(entry, decoded, reply_to, refused, ())
        if request.expires_at is not None and request.expires_at <= self._now() * 1000:
            return _Case(entry, decoded, reply_to, Refused(Code.EXPIRED, "$.expires_at: has passed"), ())
        return _Case(entry, decoded, reply_to, None, owners)

    def _values(self, case: _Case, request: Request, ring: Keyring) -> list[_Value]:
        if request.items is msgspec.UNSET:
            return [self._value(case, request, ring, 0, "$.value", request.type or "", request.value, None)]
        return [
            self._value(case, request, ring, index, f"$.items[{index}].value", item.type, item.value, item.ref)
            for index, item in enumerate(request.items)
        ]

    def _value(
        self,
        case: _Case,
        request: Request,
        ring: Keyring,
        index: int,
        path: str,
        type_name: str,
        raw: object,
        ref: str | None,
    ) -> _Value:
        try:
            value = value_in(type_name, raw, case.decoded.format, path)
        except Refused as refused:
            return _Value(ref, None, None, refused)
        kind = TYPES[type_name]
        data = kind.encode(value)
        if len(data) > self._max_value_bytes:
            too_large = Refused(Code.VALUE_TOO_LARGE, f"{path}: longer than {self._max_value_bytes} bytes")
            return _Value(ref, kind, None, too_large)
        tokenize = request.op is Op.TOKENIZE
        origin = None
        if tokenize and not request.consistent:
            original = request.replay_of.encode() if request.replay_of else case.entry.id
            origin = Origin(case.entry.route.requests.encode(), original, index)
        return _Value(ref, kind, Item(ring, kind, data, tokenize=tokenize, origin=origin), None)


def _owners(route: Route, request: Request) -> tuple[Owner, ...]:
    """The client, then the zone if one is given: both must have a key, the last one's is used.

    Raises:
        Refused: the route does not serve this operation, client or zone, or no client is named.
    """
    if request.op not in route.ops:
        raise Refused(Code.FORBIDDEN, f"$.op: this route does not serve {request.op}")
    if route.client_id is None:
        if request.client_id is None:
            raise Refused(Code.INVALID_REQUEST, "$.client_id: expected, since this route is not pinned to a client")
    elif request.client_id not in (None, route.client_id):
        raise Refused(Code.FORBIDDEN, "$.client_id: this route serves another client")
    client = Owner("client", request.client_id or route.client_id or "")
    if request.zone_id is None:
        return (client,)
    if route.zones is not None and request.zone_id not in route.zones:
        raise Refused(Code.FORBIDDEN, "$.zone_id: this route does not serve this zone")
    return client, Owner("zone", request.zone_id)


def _result(case: _Case, request: Request, values: list[_Value]) -> Result:
    outcomes: list[tuple[int | str | bytes | None, Refused | None]] = []
    for value in values:
        if value.item is None or value.kind is None:
            outcomes.append((None, value.refused or _INTERNAL))
            continue
        result = value.item.result
        if isinstance(result, Unavailable):
            return Postponed(case.entry, result)
        if isinstance(result, Refused):
            _report(case, request, result)
            outcomes.append((None, result))
            continue
        try:
            decoded = value.kind.decode(result or b"")
        except Damaged:
            _report(case, request, _STORED_UNREADABLE)
            outcomes.append((None, _STORED_UNREADABLE))
        else:
            outcomes.append((value_out(value.kind.name, decoded, case.decoded.format), None))
    reply = _reply(case)
    if request.items is msgspec.UNSET:
        answer, refused = outcomes[0]
        if refused is None:
            reply.status, reply.value = "ok", answer
        else:
            reply.error = _error(refused)
    else:
        failed = sum(refused is not None for _, refused in outcomes)
        reply.status = "ok" if not failed else "error" if failed == len(outcomes) else "partial"
        reply.items = [
            ReplyItem(value.ref, answer) if refused is None else ReplyItem(value.ref, error=_error(refused))
            for value, (answer, refused) in zip(values, outcomes, strict=True)
        ]
    owners = [owner.id for owner in case.owners]
    told = [
        (value.kind.name if value.kind is not None else "unknown", "ok" if refused is None else refused.code.value)
        for value, (_, refused) in zip(values, outcomes, strict=True)
    ]
    account = Account(request.op, reply.status, request.id, owners[0], owners[1] if len(owners) > 1 else None, told)
    return _answer(case, encode_reply(reply, case.decoded.format), account)


def _report(case: _Case, request: Request, refused: Refused) -> None:
    """What only an operator can mend is an error in the log; the client is known to exist here."""
    if refused.code in (Code.ENTRY_UNREADABLE, Code.KEY_UNREADABLE):
        names = [owner.key_name for owner in case.owners]
        entry = case.entry
        log.error(
            "stored data cannot be read",
            code=refused.code,
            key=names[-1],
            request_id=request.id,
            stream=entry.route.requests,
            entry=entry.id.decode(),
        )


def _error(refused: Refused) -> ReplyError:
    return ReplyError(refused.code, refused.message)


def _reply(case: _Case) -> Reply:
    decoded = case.decoded
    return Reply(
        id=decoded.id, op=decoded.op, request_entry=case.entry.id.decode(), status="error", replay=decoded.replay
    )


def _encode_error(entry: Entry, decoded: Decoded, refused: Refused) -> bytes:
    reply = Reply(
        id=decoded.id,
        op=decoded.op,
        request_entry=entry.id.decode(),
        status="error",
        error=_error(refused),
        replay=decoded.replay,
    )
    return encode_reply(reply, decoded.format)


def _refusal(case: _Case, refused: Refused) -> Answer:
    account = Account(case.decoded.op, "error", case.decoded.id, None, None, [("unknown", refused.code.value)])
    return _answer(case, _encode_error(case.entry, case.decoded, refused), account)


def _answer(case: _Case, payload: bytes, account: Account) -> Answer:
    if case.reply_to is None:
        return Answer(case.entry, payload, account=account)
    unable = Refused(Code.FORBIDDEN, "$.reply_to: this stream cannot take the reply")
    return Answer(case.entry, payload, case.reply_to, _encode_error(case.entry, case.decoded, unable), account)
