"""Makes answers of entries: decode, check against the route, find keys, run the engine, encode. Reads no stream.

A batch costs one look-up of the keys that are not cached, and the steps of the engine on the token storage. A faulty
entry does not keep the others from being answered. Only ids and counts are logged.
"""

import time
from collections.abc import Callable, Generator, Sequence
from functools import lru_cache, partial
from typing import Any, TypeVar

from token_worker.acra.owner import Owner
from token_worker.contract.codec import decode, decode_all, decode_plain
from token_worker.contract.decoded import Limits, Unanswerable
from token_worker.contract.messages import Op, PlainRequest, Request
from token_worker.errors import Code, Refused, Unavailable
from token_worker.keys.cache import KeyCache
from token_worker.keys.keyring import Keyring
from token_worker.keys.layout_record import MOVE_PLACE, TOKENS_RECORD
from token_worker.service.checked_request import INTERNAL, OwnerAccess, PlainRequests
from token_worker.service.replies import (
    DeadLettered,
    Postponed,
    Result,
    build_refusal,
    build_replies,
    encode_error,
    refused_facts,
)
from token_worker.service.request_values import ValueReader
from token_worker.service.route_formats import RouteFormats
from token_worker.settings.options import Settings
from token_worker.storage.durability import MARK
from token_worker.storage.engine import Engine, FindKeys
from token_worker.storage.item_group import ItemGroup
from token_worker.storage.steps import Step
from token_worker.storage.token_item import TokenItem
from token_worker.storage.token_store import TokenStore
from token_worker.streams.entry import Answer, Entry
from token_worker.streams.routes import Route, keys_of, may_reply_to

REPLY_STREAMS_KEPT = 1000
"""Streams that requests of one route named for their replies, of which it is remembered whether that is allowed."""

OWNERS_KEPT = 1000
"""Combinations of route, operation, client and zone of which the owners are kept."""

_TARGET_FORBIDDEN = Refused(Code.FORBIDDEN, "$.reply_to: this stream is not allowed on this route")
_EXPIRED = Refused(Code.EXPIRED, "$.expires_at: has passed")

T = TypeVar("T")


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
        self._values = ValueReader(settings.max_value_bytes)
        self._routes = {route.requests: route for route in settings.routes}
        self._owners_of = lru_cache(OWNERS_KEPT)(self._find_owners)
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
        accesses = self._sort_plain(entries) or self._authorize(entries, results)
        self._find_keys(accesses)
        ready: list[OwnerAccess] = []
        items: list[TokenItem] = []
        groups: list[ItemGroup] = []
        for access in accesses:
            outcome = access.outcome
            if isinstance(outcome, Keyring):
                its_groups, its_items = self._values.read(access, outcome)
                groups += its_groups
                items += its_items
                ready.append(access)
                continue
            if access.plain is not None:
                access.requests = access.plain.all_checked()
            if isinstance(outcome, Unavailable):
                results += [Postponed(entry, outcome) for entry, _, _ in access.requests]
            else:
                results += [build_refusal(entry, decoded, outcome) for entry, decoded, _ in access.requests]
        if groups or items:
            self._run(items, groups)
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

    def _run(self, items: list[TokenItem], groups: Sequence[ItemGroup] = ()) -> None:
        """Run the engine, and hold its tokens back until they are as safe as the settings ask for."""
        barrier = self._tokens.barrier
        if barrier.holds_back:
            barrier.open()
        self._execute(self._engine.run(items, int(self._now()), groups))
        if barrier.holds_back and (
            any(item.tokenize and isinstance(item.result, bytes) for item in items)
            or any(group.tokenize and any(isinstance(result, bytes) for result in group.results) for group in groups)
        ):
            barrier.wait(items, groups)

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

    def _sort_plain(self, entries: Sequence[Entry]) -> list[OwnerAccess]:
        """Decode entries and sort them by access and type, if all of them are plain requests; else return nothing."""
        decoded = decode_plain([entry.payload for entry in entries], self._limits)
        if decoded is None:
            return []
        written, requests = decoded
        first, route = requests[0], entries[0].route
        op, client_id, zone_id, type_name = first.op, first.client_id, first.zone_id, first.type
        for entry, request in zip(entries, requests, strict=True):
            if (
                request.op is not op
                or request.client_id != client_id
                or request.zone_id != zone_id
                or request.type != type_name
                or entry.route is not route
            ):
                break
        else:
            return [self._access(route, first, PlainRequests(written, entries, requests))]
        alike: dict[tuple[str, Op, str | None, str | None, str], tuple[list[Entry], list[PlainRequest]]] = {}
        for entry, request in zip(entries, requests, strict=True):
            key = (entry.route.requests, request.op, request.client_id, request.zone_id, request.type)
            its_entries, its_requests = alike.setdefault(key, ([], []))
            its_entries.append(entry)
            its_requests.append(request)
        return [self._access(its[0].route, of[0], PlainRequests(written, its, of)) for its, of in alike.values()]

    def _authorize(self, entries: Sequence[Entry], results: list[Result]) -> list[OwnerAccess]:
        """Decode entries, and check them against their routes. Return those that may be answered, by their access.

        The others get their results here.
        """
        accesses: dict[tuple[str, Op, str | None, str | None], OwnerAccess] = {}
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
        return [*accesses.values()]

    def _access(self, route: Route, request: Request | PlainRequest, plain: PlainRequests | None = None) -> OwnerAccess:
        owners, refused = self._owners_of(route.requests, request.op, request.client_id, request.zone_id)
        return OwnerAccess(route.requests, request.op, self._formats[route.requests], owners, refused, plain)

    def _find_owners(
        self, requests: str, op: Op, client_id: str | None, zone_id: str | None
    ) -> tuple[tuple[Owner, ...], Refused]:
        """Return the owners whose keys are needed; none of them, and the reason, if the route refuses the request."""
        try:
            return _owners(self._routes[requests], op, client_id, zone_id), INTERNAL
        except Refused as refused:
            return (), refused.with_traceback(None)

    def _find_keys(self, accesses: Sequence[OwnerAccess]) -> None:
        """Set the outcome of every access: the last owner's keys if all owners have keys. A refused access has none."""
        rings = self._keys.rings({owner: None for access in accesses for owner in access.owners})
        for access in accesses:
            for owner in access.owners:
                access.outcome = rings[owner]
                if not isinstance(access.outcome, Keyring):
                    break
        if self._tokens.layout.has_index_keys:
            self._check_index_keys(accesses)

    def _check_index_keys(self, accesses: Sequence[OwnerAccess]) -> None:
        """Refuse every access whose owner's index key is not the one that named the stored tokens."""
        tokens = self._tokens
        rings = list({access.outcome: None for access in accesses if isinstance(access.outcome, Keyring)})
        refused = self._execute(tokens.layout.check(rings, lambda: tokens.connections)) if rings else {}
        for access in accesses:
            if isinstance(access.outcome, Keyring):
                access.outcome = refused.get(access.outcome, access.outcome)


def _owners(route: Route, op: Op, client_id: str | None, zone_id: str | None) -> tuple[Owner, ...]:
    """Return the client, then the zone if one is given. Both must have a key; the last one's key is used.

    Raises:
        Refused: the route does not serve this operation, client or zone, or no client is named.
    """
    if op not in route.ops:
        raise Refused(Code.FORBIDDEN, f"$.op: this route does not serve {op}")
    if route.client_id is None:
        if client_id is None:
            raise Refused(Code.INVALID_REQUEST, "$.client_id: expected, since this route is not pinned to a client")
    elif client_id not in (None, route.client_id):
        raise Refused(Code.FORBIDDEN, "$.client_id: this route serves another client")
    client = Owner("client", client_id or route.client_id or "")
    if zone_id is None:
        return (client,)
    if route.zones is not None and zone_id not in route.zones:
        raise Refused(Code.FORBIDDEN, "$.zone_id: this route does not serve this zone")
    return client, Owner("zone", zone_id)
