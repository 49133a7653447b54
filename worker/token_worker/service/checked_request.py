"""A request that was checked against its route: the keys it may use, and its values."""

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from token_worker.acra.owner import Owner
from token_worker.acra.value_types import TYPES, TokenType
from token_worker.contract.decoded import Decoded
from token_worker.contract.messages import Format, Op
from token_worker.contract.values import BYTES_CODECS, VALUE_CODECS, ValueCodec
from token_worker.errors import Code, Refused, Unavailable
from token_worker.keys.keyring import Keyring
from token_worker.service.route_formats import RouteFormats
from token_worker.storage.token_item import TokenItem
from token_worker.streams.entry import Entry

INTERNAL = Refused(Code.INTERNAL, "the request could not be handled; it is kept as a dead letter")


class TypeCodec(NamedTuple):
    """Converts values of one type between messages of one format and stored bytes.

    Attributes:
        read, encode: convert a member of a request to stored bytes, one after the other.
        decode, write: convert stored bytes to a member of a reply. ``write`` is None if ``decode`` does all.
        ok: outcome of a good value, as in ``ReplyFacts.outcomes``.
        all_ok: outcomes of a request with one good value.
    """

    kind: TokenType
    read: Callable[[object], Any]
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]
    write: Callable[[Any], Any] | None
    ok: tuple[str, str]
    all_ok: tuple[tuple[str, str]]


def _type_codec(name: str, codec: ValueCodec) -> TypeCodec:
    kind, ok = TYPES[name], (name, "ok")
    encode, decode = codec.to_bytes or kind.encode, codec.from_bytes or kind.read
    return TypeCodec(kind, codec.from_message, encode, decode, codec.to_message, ok, (ok,))


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


class OwnerAccess:
    """Access of a client, or of a client and a zone, on one route. It is looked up once a batch.

    Attributes:
        owners: client and zone whose keys must exist; the last one's keys are used.
        formats: the rules of the route about formats; None where the access is refused.
        outcome: the keys to use, or why the request is refused, or why it has to wait for keys.
    """

    __slots__ = ("formats", "outcome", "owners")

    def __init__(self, owners: tuple[Owner, ...], refused: Refused, formats: RouteFormats | None = None) -> None:
        self.owners = owners
        self.formats = formats
        self.outcome: Keyring | Refused | Unavailable = refused


NO_ACCESS = OwnerAccess((), INTERNAL)
"""Access of a request that is refused for another reason."""


class CheckedRequest(msgspec.Struct, eq=False):
    """A decoded entry that was checked against its route.

    Attributes:
        reply_to: stream that the reply goes to; None for the route's own.
        refused: why the request is refused. If None, ``access`` decides.
        access: access of its client and zone.
        values: its values, in order.
    """

    entry: Entry
    decoded: Decoded
    reply_to: str | None
    refused: Refused | None
    access: OwnerAccess
    values: list[TokenItem | FailedValue] = []
