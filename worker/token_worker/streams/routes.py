"""Routes: the streams that a worker serves, each with its operations and clients.

A route is a stream of requests, the stream of their replies, and the operations that are allowed there. A route that is
pinned to a client serves only this client, and only the zones that it lists. By default tokenize and detokenize have a
route each, so that the right to do one does not include the other.

Each stream has one role. Several routes may share a stream for replies, or one for dead letters. A request stream
belongs to one route.
"""

import difflib
import fnmatch
import re
from collections.abc import Collection, Iterable, Iterator
from functools import cache
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta
from redis.crc import key_slot

from token_worker.acra.owner import Owner
from token_worker.contract.messages import Op, Ref
from token_worker.streams.own_keys import OwnKeys, own_keys

RESPONSE_SECONDS: Final = 86_400
"""Default retention of replies."""

VALUE_RESPONSE_SECONDS: Final = 600
"""Default retention of replies that can hold values in the clear."""

MAX_RETENTION_SECONDS: Final = 10 * 365 * 86_400

_ROLES: Final = ("requests", "responses", "dead_letters")

Name = Annotated[str, Meta(min_length=1, max_length=512)]

FORMATS_EXPECTED: Final = 'formats by ref, of at most 128 characters, like {"card": "pan", "*": "letters"}'

ANY_REF: Final = "*"
"""Stands in ``formats`` for any ``ref`` that is not named, and for no ``ref``."""


class Route(msgspec.Struct, frozen=True):
    """One request stream, and the streams and rules that belong to it. ``check_routes`` finds its problems.

    Attributes:
        requests: stream that producers write to.
        responses: stream that the replies go to.
        ops: operations that are served. Any other operation is ``forbidden``.
        client_id: the one client that is served; None for any client.
        zones: zone ids that a pinned route serves; no zone unless it is listed. A route that is not pinned serves any
            zone, and has None here.
        reply_to: pattern of the streams that a request may name for its reply; ``<responses>:*`` if left out. ``*``
            stands for any characters, ``?`` for one. Nothing else is special.
        dead_letters: stream for entries that cannot be answered; ``<requests>:dead`` if left out.
        request_retention_seconds: how long acknowledged requests are kept for a replay; 0 to delete them at once.
        response_retention_seconds: how long replies are kept; a day if left out, 10 minutes if ``ops`` has
            ``detokenize``. It is also the time to live of a stream that a reply creates because a request named it.
        dead_letter_retention_seconds: how long dead letters are kept.
        retention_bytes: most bytes of acknowledged entries to keep in each stream; None for any number.
        formats: format of an item by its ``ref``; ``*`` stands for any other item, and for requests with one value. The
            format of a ``ref`` is pinned: an item cannot name another. That of ``*`` is a default.
        allowed_formats: formats that items may name, besides those of ``formats``. If both are left out, these are the
            built-in formats.
        formats_required: True refuses values without a format.
        on_other: what happens to a value whose token exists and is not of the format: ``return`` it, or ``refuse``.
    """

    requests: Name
    responses: Name
    ops: frozenset[Op]
    client_id: Name | None = None
    zones: tuple[Name, ...] | None = None
    reply_to: Name = ""
    dead_letters: Name = ""
    request_retention_seconds: Annotated[int, Meta(ge=0, le=MAX_RETENTION_SECONDS)] = 3600
    response_retention_seconds: Annotated[int, Meta(ge=1, le=MAX_RETENTION_SECONDS)] | None = None
    dead_letter_retention_seconds: Annotated[int, Meta(ge=1, le=MAX_RETENTION_SECONDS)] = 7 * 86_400
    retention_bytes: Annotated[int, Meta(ge=1, le=2**53)] | None = None
    formats: Annotated[dict[Ref, Name], Meta(extra={"expected": FORMATS_EXPECTED})] = {}
    allowed_formats: tuple[Name, ...] | None = None
    formats_required: bool = False
    on_other: Literal["return", "refuse"] = "return"

    def __hash__(self) -> int:
        """Return a hash. No two routes of a worker share a request stream."""
        return hash(self.requests)

    def __post_init__(self) -> None:
        """Fill in members that follow from others."""
        if not self.reply_to:
            msgspec.structs.force_setattr(self, "reply_to", f"{self.responses}:*")
        if not self.dead_letters:
            msgspec.structs.force_setattr(self, "dead_letters", f"{self.requests}:dead")
        if self.client_id is not None and self.zones is None:
            msgspec.structs.force_setattr(self, "zones", ())

    @property
    def streams(self) -> tuple[str, str, str]:
        """The streams of requests, responses and dead letters."""
        return self.requests, self.responses, self.dead_letters

    @property
    def response_seconds(self) -> int:
        """Seconds that replies are kept; the default if the setting is left out."""
        if self.response_retention_seconds is not None:
            return self.response_retention_seconds
        return VALUE_RESPONSE_SECONDS if Op.DETOKENIZE in self.ops else RESPONSE_SECONDS

    def kept_seconds(self, stream: str) -> int:
        """Seconds that entries of one of the streams are kept."""
        if stream == self.requests:
            return self.request_retention_seconds
        return self.response_seconds if stream == self.responses else self.dead_letter_retention_seconds

    @property
    def own_keys(self) -> OwnKeys:
        """The keys that workers and operators keep beside the streams. No request may name one for its reply."""
        return own_keys(*self.streams)


DEFAULT_ROUTES: Final = (
    Route("tokenize:requests", "tokenize:responses", frozenset({Op.TOKENIZE})),
    Route("detokenize:requests", "detokenize:responses", frozenset({Op.DETOKENIZE})),
)


def streams_of(routes: Iterable[Route]) -> frozenset[str]:
    """All streams of all routes, in any role."""
    return frozenset(stream for route in routes for stream in route.streams)


def keys_of(routes: Iterable[Route]) -> frozenset[str]:
    """All keys of all routes: the streams, and the keys beside them."""
    return frozenset(key for route in routes for key in (*route.streams, *route.own_keys.names))


def may_reply_to(route: Route, name: str, all_keys: frozenset[str]) -> bool:
    """Return True if a request on the route may have its reply sent to the stream ``name``.

    Args:
        route: the route that the request came on.
        name: the stream that the request names.
        all_keys: all keys of all routes, from ``keys_of``. None of these is ever allowed.
    """
    return name not in all_keys and _compiled(route.reply_to).match(name) is not None


def own_reply_stream(route: Route, routes: Iterable[Route], name: str) -> str:
    """Name a stream for the replies of one producer only. The route allows it, and ``name`` is part of it.

    Raises:
        ValueError: the route allows no such stream.
    """
    stream = route.reply_to.replace("*", name, 1).replace("*", "").replace("?", "-")
    if "*" not in route.reply_to or not may_reply_to(route, stream, keys_of(routes)):
        raise ValueError(f"the route of {route.requests} allows no stream for the reply: its reply_to needs a *")
    return stream


def route_for(routes: Iterable[Route], op: Op, client_id: str | None) -> Route:
    """Find the route for requests of a client. A route that is pinned to the client comes before one for any client.

    The client can be left out if only one client's route can take such a request.

    Raises:
        ValueError: there is no such route; or there are several, and no client is named.
    """
    serving = [route for route in routes if op in route.ops]
    open_to_all = [route for route in serving if route.client_id is None]
    pinned = [route for route in serving if route.client_id is not None and client_id in (None, route.client_id)]
    if client_id is None and (open_to_all or len({route.client_id for route in pinned}) > 1):
        raise ValueError(f"name a client: more than one is served on the routes for {op}")
    found = [*pinned, *open_to_all]
    if not found:
        raise ValueError(f"no route of the settings serves {op} for this client")
    return found[0]


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    """Compile a pattern to match whole names, in time linear to their length. ``[`` is not special."""
    return re.compile(fnmatch.translate(pattern.replace("[", "[[]")))


def check_routes(routes: tuple[Route, ...]) -> list[str]:
    """Return the problems of these routes. Each text names the index of the route and the member."""
    if not routes:
        return ["routes: at least one is needed"]
    problems = [f"routes[{index}].{text}" for index, route in enumerate(routes) for text in _check_route(route)]
    problems += _check_roles(routes)
    all_keys = keys_of(routes)
    problems += [
        f"routes[{index}].reply_to: can only be a key of a route, which is never allowed; name a pattern for others"
        for index, route in enumerate(routes)
        if route.reply_to in all_keys and not _has_wildcard(route.reply_to)
    ]
    kept = {key for route in routes for key in route.own_keys.names}
    problems += [
        f"routes[{index}].{role}: is a key that workers keep beside a stream; choose another name"
        for index, route in enumerate(routes)
        for role, stream in zip(_ROLES, route.streams, strict=True)
        if stream in kept
    ]
    return problems


_FORMAT_DEFAULTS: Final[dict[str, object]] = {
    "formats": {},
    "allowed_formats": None,
    "formats_required": False,
    "on_other": "return",
}


def check_formats(routes: Iterable[Route], known: Collection[str]) -> Iterator[str]:
    """Yield the problems of the formats that these routes name.

    Args:
        routes: the routes.
        known: names of all formats.
    """
    for index, route in enumerate(routes):
        named = {f"formats.{ref}": name for ref, name in route.formats.items()}
        named |= {f"allowed_formats[{at}]": name for at, name in enumerate(route.allowed_formats or ())}
        for member, name in named.items():
            if name not in known:
                near = difflib.get_close_matches(name, list(known), n=1)
                hint = f"the nearest is {near[0]!r}" if near else f"there are {', '.join(sorted(known))}"
                yield f"routes[{index}].{member}: there is no such format; {hint}"
        if route.formats_required and not route.formats and route.allowed_formats == ():
            yield f"routes[{index}].allowed_formats: is empty, so no value has the format that is required; name some"
        if "" in route.formats:
            yield f"routes[{index}].formats: a ref is missing; name a ref, or * for all others"
        if Op.TOKENIZE not in route.ops:
            for member, default in _FORMAT_DEFAULTS.items():
                if getattr(route, member) != default:
                    yield f"routes[{index}].{member}: has a meaning only for tokenize, which the route does not serve"


def check_slots(routes: tuple[Route, ...]) -> Iterator[str]:
    """Yield the problems of these routes in a Redis Cluster, where all keys of a route must be in one slot.

    These keys are the streams of the route, the keys beside the request stream, and the streams of ``reply_to``. They
    are in one slot if their names have the same part in braces, the hash tag.
    """
    for index, route in enumerate(routes):
        tag = _hash_tag(route.requests)
        if tag is None:
            tag = route.requests.partition(":")[0].strip("{}") or "route"
            example = f"{{{tag}}}{route.requests.removeprefix(tag)}"
            yield f"routes[{index}].requests: in a cluster it needs a hash tag, as in {example}"
        slot = slot_of(f"{{{tag}}}")
        for role in ("responses", "dead_letters"):
            name: str = getattr(route, role)
            if name != f"{route.requests}:dead" and slot_of(name) != slot:
                yield f"routes[{index}].{role}: in a cluster it needs the same hash tag, as in {{{tag}}}:{role}"
        literal = re.split(r"[*?]", route.reply_to, maxsplit=1)[0]
        is_tagged = literal == route.reply_to or _hash_tag(literal) is not None
        if route.reply_to != f"{route.responses}:*" and not (is_tagged and slot_of(literal) == slot):
            yield f"routes[{index}].reply_to: in a cluster it needs the same hash tag, as in {{{tag}}}:responses:*"


def by_slot(routes: Iterable[Route]) -> list[list[Route]]:
    """Group the routes by slot, in their order."""
    groups: dict[int, list[Route]] = {}
    for route in routes:
        groups.setdefault(slot_of(route.requests), []).append(route)
    return [*groups.values()]


def slot_of(key: str) -> int:
    """Return the slot of a key in a Redis Cluster. Keys of one slot are on one node."""
    return key_slot(key.encode())


def _hash_tag(name: str) -> str | None:
    """Return the text in the first braces of a name. If there is any, only this text decides the slot."""
    found = re.match(r"[^{]*\{([^}]+)\}", name)
    return found[1] if found else None


def _check_route(route: Route) -> Iterator[str]:
    for role in _ROLES:
        name: str = getattr(route, role)
        if not _is_name(name) or _has_wildcard(name):
            yield f"{role}: expected a stream's name of printable characters without * and ?"
    if not _is_name(route.reply_to):
        yield "reply_to: expected a pattern of printable characters"
    if not route.ops:
        yield f"ops: expected at least one of {', '.join(Op)}"
    if route.client_id is not None and not Owner("client", route.client_id).is_valid:
        yield "client_id: expected 5 to 256 letters, digits, hyphens, underscores and spaces"
    if route.client_id is None and route.zones is not None:
        yield "zones: has a meaning only with client_id; set that, or leave zones out"
    for position, zone in enumerate(route.zones or ()):
        if not Owner("zone", zone).is_valid:
            yield f"zones[{position}]: expected 5 to 256 letters, digits, hyphens, underscores and spaces"


def _check_roles(routes: tuple[Route, ...]) -> Iterator[str]:
    first: dict[str, tuple[str, str]] = {}
    for index, route in enumerate(routes):
        for role, stream in zip(_ROLES, route.streams, strict=True):
            here = f"routes[{index}].{role}"
            first_role, there = first.setdefault(stream, (role, here))
            if there == here:
                continue
            if role != first_role:
                yield f"{here}: is the same stream as {there}; a stream has one role"
            elif role == "requests":
                yield f"{here}: is the same stream as {there}; give each route a request stream of its own"


def _is_name(text: str) -> bool:
    return bool(text) and text.isprintable() and text == text.strip()


def _has_wildcard(text: str) -> bool:
    return "*" in text or "?" in text
