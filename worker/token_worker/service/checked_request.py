"""A request that was checked against its route: the keys it may use, and its values."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from token_worker.acra.owner import Owner
from token_worker.acra.value_types import STR, TYPES, TokenType
from token_worker.contract.decoded import Decoded
from token_worker.contract.messages import Format, Op, PlainRequest, Request
from token_worker.contract.values import BYTES_CODECS, VALUE_CODECS, ValueCodec
from token_worker.errors import Code, Refused, Unavailable
from token_worker.keys.keyring import Keyring
from token_worker.service.route_formats import RouteFormats
from token_worker.storage.item_group import ItemGroup
from token_worker.storage.token_item import TokenItem
from token_worker.streams.entry import Entry
from token_worker.streams.reply_facts import ReplyFacts

OP_NAMES: dict[Op | None, str] = {Op.TOKENIZE: "tokenize", Op.DETOKENIZE: "detokenize", None: "unknown"}
"""Names of operations in ``ReplyFacts``."""

FACTS_KEPT = 1000
"""Kinds of good replies with one value, by stream, operation, owner and type, of which the facts are kept."""

INTERNAL = Refused(Code.INTERNAL, "the request could not be handled; it is kept as a dead letter")


class TypeCodec(msgspec.Struct, frozen=True, eq=False):
    """Converts values of one type between messages of one format and stored bytes.

    Attributes:
        read, encode: convert a member of a request to stored bytes, one after the other.
        encode_all: converts members of requests to stored bytes. Raises ``InvalidValue`` if one of them is refused.
        decode: converts stored bytes to a member of a reply. Raises ``ValueError`` if it cannot.
        ok: outcome of a good value, as in ``ReplyFacts.outcomes``.
    """

    kind: TokenType
    read: Callable[[object], Any]
    encode: Callable[[Any], bytes]
    encode_all: Callable[[list[Any]], list[bytes]]
    decode: Callable[[bytes], Any]
    ok: tuple[str, str]


def _type_codec(name: str, codec: ValueCodec) -> TypeCodec:
    kind = TYPES[name]
    encode, read, write = codec.to_bytes or kind.encode, codec.from_bytes or kind.read, codec.to_message
    decode = read if write is None else lambda stored: write(read(stored))
    from_message = codec.from_message
    is_text = kind is STR and encode is kind.encode

    def encode_all(given: list[Any]) -> list[bytes]:
        if is_text and {*map(type, given)} == {str} and all(given) and "".join(given).isascii():
            return [*map(str.encode, given)]  # most values: they need no further check
        return [encode(from_message(value)) for value in given]

    return TypeCodec(kind, from_message, encode, encode_all, decode, (name, "ok"))


def _type_codecs(given: dict[Format, dict[str, ValueCodec]]) -> dict[Format, dict[str, TypeCodec]]:
    return {
        written: {name: _type_codec(name, codec) for name, codec in codecs.items()} for written, codecs in given.items()
    }


TYPE_CODECS = _type_codecs(VALUE_CODECS)
"""Codecs by format and type."""

BYTES_TYPE_CODECS: dict[Op, dict[Format, dict[str, TypeCodec]]] = {
    op: _type_codecs(codecs) for op, codecs in BYTES_CODECS.items()
}
"""Codecs of values that are given or asked for ``as`` bytes, by operation, format and type."""


class FailedValue(NamedTuple):
    """A value that was refused before it got to the engine."""

    type_name: str
    refused: Refused


CheckedRequest = tuple[Entry, Decoded, Request]
"""A request that may be answered, with its entry and what else was decoded of it."""


class PlainRequests(msgspec.Struct):
    """Plain requests of one access, type and format of messages, each with its entry."""

    written: Format
    entries: Sequence[Entry]
    requests: list[PlainRequest]

    def checked(self, place: int) -> CheckedRequest:
        """Return one of the requests as any request."""
        plain = self.requests[place]
        request = Request(
            id=plain.id,
            op=plain.op,
            client_id=plain.client_id,
            zone_id=plain.zone_id,
            type=plain.type,
            value=plain.value,
        )
        return self.entries[place], Decoded(self.written, request, plain.id, plain.op), request

    def all_checked(self) -> list[CheckedRequest]:
        """Return each of the requests as any request."""
        return [self.checked(place) for place in range(len(self.requests))]


class Span(NamedTuple):
    """Values of a request that stand in a group one after the other. ``stop`` is the place after the last."""

    group: ItemGroup
    start: int
    stop: int


Value = TokenItem | FailedValue


class OwnerAccess:
    """Access of a client, or of a client and a zone, to one operation of a route, for requests of one batch.

    Attributes:
        stream: the request stream of the route.
        op: the operation.
        formats: the rules of the route about formats.
        owners: client and zone whose keys must exist; the last one's keys are used. Empty if the access is refused.
        outcome: the keys to use, or why the requests are refused, or why they have to wait for keys.
        plain: the requests of the batch that need it, as long as they are handled as plain ones.
        requests: the same requests if they are not.
        groups: the values of all requests if they are handled in groups. Those of plain requests are one group.
        spans: for each of ``requests`` where its values are in the groups.
        values: for each of ``requests`` its value, or the list of its values, if there are no groups.
        formatted: those of the values that have a format.
    """

    __slots__ = (
        "formats",
        "formatted",
        "groups",
        "op",
        "outcome",
        "owners",
        "plain",
        "requests",
        "spans",
        "stream",
        "values",
    )

    def __init__(
        self,
        stream: str,
        op: Op,
        formats: RouteFormats,
        owners: tuple[Owner, ...],
        refused: Refused,
        plain: PlainRequests | None = None,
    ) -> None:
        self.stream = stream
        self.op = op
        self.formats = formats
        self.owners = owners
        self.outcome: Keyring | Refused | Unavailable = refused
        self.plain = plain
        self.requests: list[CheckedRequest] = []
        self.groups: list[ItemGroup] = []
        self.spans: list[list[Span]] = []
        self.values: list[Value | list[Value]] = []
        self.formatted: list[TokenItem] = []

    def facts(self, status: str, outcomes: tuple[tuple[str, str], ...]) -> ReplyFacts:
        """Facts of a reply. The owners are known to exist."""
        return _facts(self.op, self.owners, status, outcomes)

    def ok_facts(self, codec: TypeCodec, count: int = 1) -> ReplyFacts:
        """Facts of a reply with so many good values of one type. Such replies with one value share them."""
        if count > 1:
            return self.facts("ok", (codec.ok,) * count)
        return _ok_facts(self.stream, self.op, self.owners, codec)


@lru_cache(FACTS_KEPT)
def _ok_facts(_stream: str, op: Op, owners: tuple[Owner, ...], codec: TypeCodec) -> ReplyFacts:
    """Facts of a reply with one good value. Those of two routes are two, though they are equal; see ``ReplyFacts``."""
    return _facts(op, owners, "ok", (codec.ok,))


def _facts(op: Op, owners: tuple[Owner, ...], status: str, outcomes: tuple[tuple[str, str], ...]) -> ReplyFacts:
    zone_id = owners[1].id if len(owners) > 1 else None
    return ReplyFacts(OP_NAMES[op], status, owners[0].id, zone_id, outcomes)
