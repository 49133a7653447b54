"""Makes answers of entries: decode, check against the route, find keys, run the engine, encode. Reads no stream.

A batch costs one look-up of the keys that are not cached, and the steps of the engine on the token storage. A faulty
entry does not keep the others from being answered. Only ids and counts are logged.
"""

import time
from collections.abc import Callable, Generator, Sequence
from functools import lru_cache, partial
from typing import Any, TypeVar

from msgspec import UNSET

from token_worker.acra.owner import Owner
from token_worker.acra.value_types import TYPES
from token_worker.contract.codec import decode, decode_all
from token_worker.contract.decoded import Limits, Unanswerable
from token_worker.contract.messages import Op, Request, RequestItem
from token_worker.contract.values import InvalidValue, bytes_not_allowed, unknown_type
from token_worker.errors import Code, Refused, Unavailable
from token_worker.keys.cache import KeyCache
from token_worker.keys.keyring import Keyring
from token_worker.keys.layout_record import MOVE_PLACE, TOKENS_RECORD
from token_worker.service.checked_request import (
    BYTES_TYPE_CODECS,
    INTERNAL,
    TYPE_CODECS,
    CheckedRequest,
    FailedValue,
    OwnerAccess,
    Value,
)
from token_worker.service.replies import (
    DeadLettered,
    Postponed,
    Result,
    build_refusal,
    build_replies,
    encode_error,
    refused_facts,
)
from token_worker.service.route_formats import RouteFormats
from token_worker.settings.options import Settings
from token_worker.storage.durability import MARK
from token_worker.storage.engine import Engine, FindKeys
from token_worker.storage.steps import Step
from token_worker.storage.token_item import TokenItem
from token_worker.storage.token_store import TokenStore
from token_worker.streams.entry import Answer, Entry
from token_worker.streams.routes import Route, keys_of, may_reply_to
from token_worker.tokens.derivation import Origin
from token_worker.tokens.formats import AnyFormat

REPLY_STREAMS_KEPT = 1000
"""Streams that requests of one route named for their replies, of which it is remembered whether that is allowed."""

_TOKENIZE = Op.TOKENIZE
_TARGET_FORBIDDEN = Refused(Code.FORBIDDEN, "$.reply_to: this stream is not allowed on this route")
_EXPIRED = Refused(Code.EXPIRED, "$.expires_at: has passed")

T = TypeVar("T")

_Accesses = dict[tuple[str, Op, str | None, str | None], OwnerAccess]
"""By request stream, operation, client and zone."""


class Handler:
    """Answers batches of entries.

    Args:
        settings: the routes, and the bounds of a request.
        keys: keys of clients and zones.
        tokens: token storage.
        now: clock for the token entries, in Unix seconds.
        server_now: clock of the streams' server, for ``expires_at``; ``now`` if left out.
    """

    def __init__(
        self,
        settings: Settings,
        keys: KeyCache,
        tokens: TokenStore,
        now: Callable[[], float] = time.time,
        server_now: Callable[[], float] | None = None,
    ) -> None:
        self._keys = keys
        self._tokens = tokens
        self._engine = Engine(tokens.layout, guesses=tokens.writes_whole_rows)
        self._now = now
        self._server_now = server_now or now
        self._limits = Limits(settings.max_request_bytes, settings.max_items)
        self._max_value_bytes = settings.max_value_bytes
        self._formats = {route.requests: RouteFormats(route, settings.formats) for route in settings.routes}
        self._all_keys = keys_of(settings.routes) | {MARK, TOKENS_RECORD, MOVE_PLACE}
        self._may_reply_to = {
            route.requests: lru_cache(REPLY_STREAMS_KEPT)(partial(self._allows, route)) for route in settings.routes
        }
        self._of_storage = ("tokens/", f"{settings.keys_folder}/", f"{settings.keys_folder}.", f"{MARK}:")

    def handle(self, entries: Sequence[Entry]) -> list[Result]:
        """Make a result for each entry, in no particular order.

        Raises:
            Unavailable: the token storage is unavailable, or has not confirmed the tokens. Nothing was answered;
                handle the same entries again.
        """
        results: list[Result] = []
        accesses = self._authorize(entries, results)
        self._find_keys(accesses)
        ready: list[OwnerAccess] = []
        items: list[TokenItem] = []
        for access in accesses.values():
            outcome = access.outcome
            if isinstance(outcome, Keyring):
                items += self._make_values(access, outcome)
                ready.append(access)
            elif isinstance(outcome, Unavailable):
                results += [Postponed(entry, outcome) for entry, _, _ in access.requests]
            else:
                results += [build_refusal(entry, decoded, outcome) for entry, decoded, _ in access.requests]
        if items:
            self._run(items)
        for access in ready:
            results += build_replies(access)
        return results

    def internal(self, entry: Entry) -> Answer:
        """Make the reply to an entry whose tries are used up. Its payload is empty if its producer is not known."""
        try:
            decoded = decode(entry.payload, self._limits)
        except Unanswerable:
            return Answer(entry, b"")
        payload, facts = encode_error(entry, decoded, INTERNAL), refused_facts(decoded, INTERNAL)
        if decoded.reply_to is None or not self._may_reply_to[entry.route.requests](decoded.reply_to):
            return Answer(entry, payload, facts=facts, request_id=decoded.id)
        return Answer(entry, payload, decoded.reply_to, payload, facts, decoded.id)

    def _allows(self, route: Route, name: str) -> bool:
        """Return True if the route allows this stream, and no key or token can have its name on a shared server."""
        return may_reply_to(route, name, self._all_keys) and not name.startswith(self._of_storage)

    def _run(self, items: list[TokenItem]) -> None:
        """Run the engine, and hold its tokens back until they are as safe as the settings ask for."""
        barrier = self._tokens.barrier
        barrier.open()
        self._execute(self._engine.run(items, int(self._now())))
        if barrier.holds_back and any(item.tokenize and isinstance(item.result, bytes) for item in items):
            barrier.wait(items)

    def _execute(self, steps: Generator[Step | FindKeys, Any, T]) -> T:
        """Execute the steps of the engine, or of the layout. Return what they return."""
        answer: Any = None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration as stop:
                result: T = stop.value
                return result
            if isinstance(step, FindKeys):
                answer = [self._keys.find_keys(ring) for ring in step.rings]
            else:
                answer = self._tokens.execute(step)

    def _authorize(self, entries: Sequence[Entry], results: list[Result]) -> _Accesses:
        """Decode entries, and check them against their routes. Return those that may be answered, by their access.

        The others get their results here.
        """
        accesses: _Accesses = {}
        now_ms = self._server_now() * 1000
        payloads = [entry.payload for entry in entries]
        for entry, decoded in zip(entries, decode_all(payloads, self._limits), strict=True):
            if isinstance(decoded, Unanswerable):
                results.append(DeadLettered(entry, decoded.reason))
                continue
            route, request = entry.route, decoded.request
            if decoded.reply_to is not None and not self._may_reply_to[route.requests](decoded.reply_to):
                decoded.reply_to = None  # its reply goes to the stream of the route
                results.append(build_refusal(entry, decoded, decoded.refusal or _TARGET_FORBIDDEN))
                continue
            if request is None:
                results.append(build_refusal(entry, decoded, decoded.refusal or INTERNAL))
                continue
            key = (route.requests, request.op, request.client_id, request.zone_id)
            access = accesses.get(key)
            if access is None:
                access = accesses[key] = self._access(route, request)
            if request.expires_at is not None and access.owners and request.expires_at <= now_ms:
                results.append(build_refusal(entry, decoded, _EXPIRED))
                continue
            access.requests.append((entry, decoded, request))
        return accesses

    def _access(self, route: Route, request: Request) -> OwnerAccess:
        owners: tuple[Owner, ...] = ()
        outcome = INTERNAL
        try:
            owners = _owners(route, request)
        except Refused as refused:
            outcome = refused.with_traceback(None)
        return OwnerAccess(request.op, self._formats[route.requests], owners, outcome)

    def _find_keys(self, accesses: _Accesses) -> None:
        """Set the outcome of every access: the last owner's keys if all owners have keys. A refused access has none."""
        rings = self._keys.rings({owner: None for access in accesses.values() for owner in access.owners})
        for access in accesses.values():
            for owner in access.owners:
                access.outcome = rings[owner]
                if not isinstance(access.outcome, Keyring):
                    break
        if self._tokens.layout.has_index_keys:
            self._check_index_keys(accesses)

    def _check_index_keys(self, accesses: _Accesses) -> None:
        """Refuse every access whose owner's index key is not the one that named the stored tokens."""
        tokens = self._tokens
        rings = list({access.outcome: None for access in accesses.values() if isinstance(access.outcome, Keyring)})
        refused = self._execute(tokens.layout.check(rings, lambda: tokens.connections)) if rings else {}
        for access in accesses.values():
            if isinstance(access.outcome, Keyring):
                access.outcome = refused.get(access.outcome, access.outcome)

    def _make_values(self, access: OwnerAccess, ring: Keyring) -> list[TokenItem]:
        """Make the values of all requests that need an access. Return those for the engine."""
        items: list[TokenItem] = []
        for checked in access.requests:
            _, decoded, request = checked
            if request.items is UNSET:
                value = self._value(access, ring, checked, request)
                access.values.append(value)
                if isinstance(value, TokenItem):
                    items.append(value)
                continue
            values = [self._value(access, ring, checked, item, index) for index, item in enumerate(request.items)]
            for index, refused in (decoded.broken or {}).items():
                values[index] = FailedValue("unknown", refused)
            access.values.append(values)
            items += [value for value in values if isinstance(value, TokenItem)]
        return items

    def _value(
        self,
        access: OwnerAccess,
        ring: Keyring,
        checked: CheckedRequest,
        given: Request | RequestItem,
        index: int | None = None,
    ) -> Value:
        entry, decoded, request = checked
        type_name = given.type or ""
        codecs = TYPE_CODECS if given.as_ is None else BYTES_TYPE_CODECS[access.op]
        codec = codecs[decoded.format].get(type_name)
        if codec is None:
            refuse = bytes_not_allowed if type_name in TYPES else unknown_type
            return FailedValue("unknown", refuse(_path(index)))
        try:
            data = codec.encode(codec.read(given.value))
        except InvalidValue as invalid:
            return FailedValue("unknown", invalid.at(_path(index)))
        if len(data) > self._max_value_bytes:
            too_large = f"{_path(index)}: longer than {self._max_value_bytes} bytes"
            return FailedValue(type_name, Refused(Code.VALUE_TOO_LARGE, too_large))
        item = TokenItem(ring, codec.kind, data, access.op is _TOKENIZE, None, None, codec)
        if not item.tokenize:
            return item
        if given.format is not None or access.formats.apply_to_all:
            chosen = _choose_format(access.formats, given, index, type_name, data)
            if isinstance(chosen, Refused):
                return FailedValue(type_name, chosen)
            if chosen is not None:
                item.format = chosen
                access.formatted.append(item)
        if not request.consistent:
            original = request.replay_of.encode() if request.replay_of else entry.id
            item.origin = Origin(entry.route.requests.encode(), original, index or 0)
        return item


def _choose_format(
    formats: RouteFormats, given: Request | RequestItem, index: int | None, type_name: str, data: bytes
) -> AnyFormat | Refused | None:
    """Choose the format of a value, and check that the value fits it. Return the refusal if one of these fails."""
    ref = given.ref if isinstance(given, RequestItem) else None
    try:
        chosen = formats.choose(given.format, ref, type_name)
    except InvalidValue as invalid:
        return invalid.at(_path(index, "format"))
    problem = None if chosen is None else chosen.problem(data)
    if problem is not None:
        return InvalidValue(Code.VALUE_OUT_OF_RANGE, problem).at(_path(index))
    return chosen


def _path(index: int | None, member: str = "value") -> str:
    return f"$.{member}" if index is None else f"$.items[{index}].{member}"


def _owners(route: Route, request: Request) -> tuple[Owner, ...]:
    """Return the client, then the zone if one is given. Both must have a key; the last one's key is used.

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
