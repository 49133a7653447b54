"""From entries to answers: decode, check against the route, find keys, run the engine, encode. Reads no stream.

A batch costs one look-up of keys that are not cached, and what the engine needs of the token storage. One entry's
fault is its own: the others are answered. Nothing but ids and counts is logged.
"""

import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import msgspec
import structlog
from msgspec import UNSET

from token_worker.acra.owner import Owner
from token_worker.acra.value_types import TYPES, TokenType
from token_worker.contract.codec import decode, encode_reply
from token_worker.contract.decoded import Decoded, Limits, Unanswerable
from token_worker.contract.messages import Format, Op, Reply, ReplyError, ReplyItem, Request, RequestItem
from token_worker.contract.values import (
    BYTES_CODECS,
    VALUE_CODECS,
    InvalidValue,
    ValueCodec,
    bytes_not_allowed,
    unknown_type,
)
from token_worker.errors import Code, Refused, Unavailable
from token_worker.keys.cache import KeyCache
from token_worker.keys.keyring import Keyring
from token_worker.settings.options import Settings
from token_worker.storage.durability import MARK
from token_worker.storage.tokens import TokenStorage
from token_worker.streams.entry import Answer, Entry
from token_worker.streams.reply_facts import ReplyFacts
from token_worker.streams.routes import Route, keys_of, may_reply_to
from token_worker.telemetry.trace_context import names_of
from token_worker.tokens.derivation import Origin
from token_worker.tokens.engine import Engine, FindKeys, Steps, TokenItem

log = structlog.get_logger("handler")

_STORED_UNREADABLE = Refused(Code.ENTRY_UNREADABLE, "the stored entry cannot be read")
_NOT_TEXT = Refused(Code.VALUE_NOT_TEXT, 'the value is not UTF-8 text; ask for it with "as": "bytes"')
_OP_NAMES: dict[Op | None, str] = {Op.TOKENIZE: "tokenize", Op.DETOKENIZE: "detokenize", None: "unknown"}
_TOKENIZE = Op.TOKENIZE
_INTERNAL = Refused(Code.INTERNAL, "the request could not be handled; it is kept as a dead letter")


class DeadLettered(NamedTuple):
    """An entry that nobody can be answered for: it goes to the dead letters, with this reason."""

    entry: Entry
    reason: str


class Postponed(NamedTuple):
    """An entry that stays pending: a key it needs is out of reach."""

    entry: Entry
    why: Unavailable


Result = Answer | DeadLettered | Postponed


class _Form(NamedTuple):
    """A type in the messages of a format, and what is counted of a value that went well.

    Attributes:
        read, encode: from the member of a request to the stored bytes.
        decode, write: from the stored bytes to the member of a reply; ``write`` None: there is no more to do.
        ok: see ``ReplyFacts.outcomes``; and all of them of a request for one value.
    """

    kind: TokenType
    read: Callable[[object], Any]
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]
    write: Callable[[Any], Any] | None
    ok: tuple[str, str]
    all_ok: tuple[tuple[str, str]]


def _form(name: str, codec: ValueCodec) -> _Form:
    kind, ok = TYPES[name], (name, "ok")
    encode, decode = codec.to_bytes or kind.encode, codec.from_bytes or kind.read
    return _Form(kind, codec.from_message, encode, decode, codec.to_message, ok, (ok,))


def _forms(given: dict[Format, dict[str, ValueCodec]]) -> dict[Format, dict[str, _Form]]:
    return {written: {name: _form(name, codec) for name, codec in codecs.items()} for written, codecs in given.items()}


_FORMS = _forms(VALUE_CODECS)
_AS_BYTES = {op: _forms(codecs) for op, codecs in BYTES_CODECS.items()}


class _Failed(NamedTuple):
    """A value that never gets to the engine."""

    type_name: str
    refused: Refused


class _Grant:
    """What a client, or a client and a zone, may have on a route; found out once a batch.

    Attributes:
        owners: those whose keys must be there.
        outcome: the keys to use; why the request is refused; or that it has to wait for keys.
    """

    __slots__ = ("outcome", "owners")

    def __init__(self, owners: tuple[Owner, ...], refused: Refused) -> None:
        self.owners = owners
        self.outcome: Keyring | Refused | Unavailable = refused


class _Case(msgspec.Struct, eq=False):
    """A decoded entry, and what to answer: see ``_Grant``, if ``refused`` does not say it already."""

    entry: Entry
    decoded: Decoded
    reply_to: str | None
    refused: Refused | None
    grant: _Grant
    values: list[TokenItem | _Failed] = []


_Grants = dict[tuple[str, Op, str | None, str | None], _Grant]
_NO_GRANT = _Grant((), _INTERNAL)


class Handler:
    """Answers batches of entries.

    Args:
        settings: bounds of a request, and the routes.
        keys: keys of clients and zones.
        tokens: where token entries are.
        now: Unix seconds, for the entries of tokens.
        server_now: the same by the clock of the streams' server, for ``expires_at``; ``now`` if left out.
    """

    def __init__(
        self,
        settings: Settings,
        keys: KeyCache,
        tokens: TokenStorage,
        now: Callable[[], float] = time.time,
        server_now: Callable[[], float] | None = None,
    ) -> None:
        self._keys = keys
        self._tokens = tokens
        self._engine = Engine()
        self._now = now
        self._server_now = server_now or now
        self._limits = Limits(settings.max_request_bytes, settings.max_items)
        self._max_value_bytes = settings.max_value_bytes
        self._all_keys = keys_of(settings.routes) | {MARK}
        self._of_storage = ("tokens/", f"{settings.keys_folder}/", f"{settings.keys_folder}.")

    def handle(self, entries: Iterable[Entry]) -> list[Result]:
        """A result for each entry, in no particular order.

        Raises:
            Unavailable: the token storage is away, or too little of it has confirmed what was written. Nothing was
                answered; the same entries may be handled again.
        """
        results: list[Result] = []
        cases: list[_Case] = []
        grants: _Grants = {}
        for entry in entries:
            try:
                decoded = decode(entry.fields.get(b"payload"), self._limits)
            except Unanswerable as unanswerable:
                results.append(DeadLettered(entry, unanswerable.reason))
            else:
                cases.append(self._admit(entry, decoded, grants))
        self._find_keys(grants)
        answerable: list[_Case] = []
        items: list[TokenItem] = []
        for case in cases:
            outcome = case.refused or case.grant.outcome
            if isinstance(outcome, Keyring) and case.decoded.request is not None:
                case.values = self._values(case, case.decoded.request, outcome)
                items += [value for value in case.values if isinstance(value, TokenItem)]
                answerable.append(case)
            elif isinstance(outcome, Unavailable):
                results.append(Postponed(case.entry, outcome))
            else:
                results.append(_refusal(case, outcome if isinstance(outcome, Refused) else _INTERNAL))
        if items:
            self._run(items)
        results += map(_result, answerable)
        return results

    def internal(self, entry: Entry) -> Answer:
        """The reply for an entry whose tries are used up; its payload is empty where its producer cannot be told."""
        try:
            decoded = decode(entry.fields.get(b"payload"), self._limits)
        except Unanswerable:
            return Answer(entry, b"")
        payload, facts = _encode_error(entry, decoded, _INTERNAL), _refused_facts(decoded, _INTERNAL)
        if decoded.reply_to is None or not self._may_reply_to(entry.route, decoded.reply_to):
            return Answer(entry, payload, facts=facts)
        return Answer(entry, payload, decoded.reply_to, payload, facts)

    def _may_reply_to(self, route: Route, name: str) -> bool:
        """Whether the route allows it; never a key of keys or tokens, which may be on the same server."""
        return may_reply_to(route, name, self._all_keys) and not name.startswith(self._of_storage)

    def _run(self, items: list[TokenItem]) -> None:
        """Run the engine, and hold its tokens back until they are as safe as the settings ask for."""
        barrier = self._tokens.barrier
        barrier.open()
        self._execute(self._engine.run(items, int(self._now())))
        if any(item.tokenize and isinstance(item.result, bytes) for item in items):
            barrier.wait()

    def _execute(self, steps: Steps) -> None:
        """Execute the steps of the engine."""
        answer: Any = None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration:
                return
            if isinstance(step, FindKeys):
                answer = [self._keys.find_keys(ring) for ring in step.rings]
            else:
                answer = self._tokens.execute(step)

    def _admit(self, entry: Entry, decoded: Decoded, grants: _Grants) -> _Case:
        """Check a request against its route."""
        request = decoded.request
        reply_to = decoded.reply_to
        if reply_to is not None and not self._may_reply_to(entry.route, reply_to):
            refused = decoded.refusal or Refused(Code.FORBIDDEN, "$.reply_to: this stream is not allowed on this route")
            return _Case(entry, decoded, None, refused, _NO_GRANT)
        if request is None:
            return _Case(entry, decoded, reply_to, decoded.refusal, _NO_GRANT)
        key = (entry.route.requests, request.op, request.client_id, request.zone_id)
        grant = grants.get(key)
        if grant is None:
            try:
                grant = _Grant(_owners(entry.route, request), _INTERNAL)
            except Refused as refused:
                grant = _Grant((), refused.with_traceback(None))
            grants[key] = grant
        if grant.owners and request.expires_at is not None and request.expires_at <= self._server_now() * 1000:
            return _Case(entry, decoded, reply_to, Refused(Code.EXPIRED, "$.expires_at: has passed"), _NO_GRANT)
        return _Case(entry, decoded, reply_to, None, grant)

    def _find_keys(self, grants: _Grants) -> None:
        """Set the outcome of every grant that was not refused: the last owner's keys, if all owners have some."""
        rings = self._keys.rings({owner: None for grant in grants.values() for owner in grant.owners})
        for grant in grants.values():
            for owner in grant.owners:
                grant.outcome = rings[owner]
                if not isinstance(grant.outcome, Keyring):
                    break

    def _values(self, case: _Case, request: Request, ring: Keyring) -> list[TokenItem | _Failed]:
        if request.items is UNSET:
            return [self._value(case, request, ring, None, request)]
        values = [self._value(case, request, ring, index, item) for index, item in enumerate(request.items)]
        for index, refused in (case.decoded.broken or {}).items():
            values[index] = _Failed("unknown", refused)
        return values

    def _value(
        self, case: _Case, request: Request, ring: Keyring, index: int | None, given: Request | RequestItem
    ) -> TokenItem | _Failed:
        type_name = given.type or ""
        forms = _FORMS if given.as_ is None else _AS_BYTES[request.op]
        form = forms[case.decoded.format].get(type_name)
        if form is None:
            refuse = bytes_not_allowed if type_name in TYPES else unknown_type
            return _Failed("unknown", refuse(_path(index)))
        try:
            data = form.encode(form.read(given.value))
        except InvalidValue as invalid:
            return _Failed("unknown", invalid.at(_path(index)))
        if len(data) > self._max_value_bytes:
            too_large = f"{_path(index)}: longer than {self._max_value_bytes} bytes"
            return _Failed(type_name, Refused(Code.VALUE_TOO_LARGE, too_large))
        tokenize = request.op is _TOKENIZE
        origin = None
        if not request.consistent and tokenize:
            original = request.replay_of.encode() if request.replay_of else case.entry.id
            origin = Origin(case.entry.route.requests.encode(), original, index or 0)
        return TokenItem(ring, form.kind, data, tokenize, origin, form=form)


def _path(index: int | None) -> str:
    return "$.value" if index is None else f"$.items[{index}].value"


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


def _result(case: _Case) -> Result:
    decoded = case.decoded
    request = decoded.request
    op = _OP_NAMES[decoded.op]
    owners = case.grant.owners
    zone_id = owners[1].id if len(owners) > 1 else None
    reply = Reply(
        id=decoded.id, op=decoded.op, request_entry=case.entry.id.decode(), status="ok", replay=decoded.replay
    )
    values = case.values
    is_one = request is not None and request.items is UNSET
    if is_one and isinstance(values[0], TokenItem) and isinstance(values[0].result, bytes):  # most requests, in short
        form = values[0].form
        try:
            answer = form.decode(values[0].result)
        except ValueError:
            pass
        else:
            reply.value = answer if form.write is None else form.write(answer)
            facts = ReplyFacts(op, "ok", decoded.id, owners[0].id, zone_id, form.all_ok)
            return _answer(case, encode_reply(reply, decoded.format), facts)
    answers: list[Any] = []
    outcomes: list[tuple[str, str]] = []
    failed = 0
    for value in values:
        result: object
        if isinstance(value, TokenItem):
            result, type_name = value.result, value.kind.name
            if isinstance(result, bytes):
                form = value.form
                try:
                    answer = form.decode(result)
                except ValueError:
                    result = _STORED_UNREADABLE if value.tokenize or value.kind.is_number else _NOT_TEXT
                else:
                    answers.append(answer if form.write is None else form.write(answer))
                    outcomes.append(form.ok)
                    continue
            elif isinstance(result, Unavailable):
                return Postponed(case.entry, result)
        else:
            result, type_name = value.refused, value.type_name
        refused = result if isinstance(result, Refused) else _INTERNAL
        _report(case, refused)
        failed += 1
        answers.append(refused)
        outcomes.append((type_name, refused.code.value))
    if failed:
        reply.status = "error" if failed == len(answers) else "partial"
    if request is not None and request.items is not UNSET:
        reply.items = [
            ReplyItem(item.ref, error=_error(answer)) if isinstance(answer, Refused) else ReplyItem(item.ref, answer)
            for item, answer in zip(request.items, answers, strict=True)
        ]
    elif failed:
        reply.error = _error(answers[0])
    else:
        reply.value = answers[0]
    facts = ReplyFacts(op, reply.status, decoded.id, owners[0].id, zone_id, tuple(outcomes))
    return _answer(case, encode_reply(reply, decoded.format), facts)


def _report(case: _Case, refused: Refused) -> None:
    """What only an operator can mend is an error in the log; the client is known to exist here."""
    if refused.code in (Code.ENTRY_UNREADABLE, Code.KEY_UNREADABLE):
        names = [owner.key_name for owner in case.grant.owners]
        log.error(
            "stored data cannot be read",
            code=refused.code,
            key=names[-1],
            request_id=case.decoded.id,
            **names_of(case.entry),
        )


def _error(refused: Refused) -> ReplyError:
    return ReplyError(refused.code, refused.message)


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
    facts = _refused_facts(case.decoded, refused)
    return _answer(case, _encode_error(case.entry, case.decoded, refused), facts)


def _refused_facts(decoded: Decoded, refused: Refused) -> ReplyFacts:
    return ReplyFacts(_OP_NAMES[decoded.op], "error", decoded.id, None, None, (("unknown", refused.code.value),))


def _answer(case: _Case, payload: bytes, facts: ReplyFacts) -> Answer:
    if case.reply_to is None:
        return Answer(case.entry, payload, facts=facts)
    unable = Refused(Code.FORBIDDEN, "$.reply_to: this stream cannot take the reply")
    return Answer(case.entry, payload, case.reply_to, _encode_error(case.entry, case.decoded, unable), facts)
