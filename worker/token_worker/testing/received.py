"""Requests that an in-process worker received, for a test to look at. What pytest prints of them holds no value."""

from collections.abc import Iterator, Sequence

from msgspec import UNSET

from token_worker.contract.decoded import Decoded
from token_worker.contract.messages import Op, Request, RequestItem
from token_worker.contract.values import BYTES_CODECS, VALUE_CODECS, InvalidValue
from token_worker.streams.routes import Route


class Values:
    """The values or tokens of a request, in order.

    Compares with any sequence (``request.values == ["grace@navy.example"]``) and can be iterated and indexed. Not a
    sequence by its type, since pytest would print the elements of two sequences that differ.
    """

    __slots__ = ("_values",)
    __hash__ = None  # type: ignore[assignment]  # equal to lists, which have none either

    def __init__(self, values: Sequence[object]) -> None:
        self._values = tuple(values)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Values):
            return self._values == other._values
        return isinstance(other, Sequence) and self._values == tuple(other)

    def __iter__(self) -> Iterator[object]:
        return iter(self._values)

    def __contains__(self, value: object) -> bool:
        return value in self._values

    def __getitem__(self, index: int) -> object:
        return self._values[index]

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"<Values: {len(self._values)}>"


class ReceivedRequest:
    """A request that a producer made. ``repr`` shows no value.

    Attributes:
        stream: the request stream.
        id: the producer's id of the request.
        op: ``tokenize`` or ``detokenize``; None where the request names neither.
        client_id: whose key is used: the client of the request, or else of a pinned route.
        zone_id: the zone, if one is named.
        consistent: whether the same value gets the same token.
        reply_to: the stream that is named for the reply, if any.
        types: the type of each value.
        formats: the format that is asked for each value. None: none is.
        values: the values to tokenize or the tokens to detokenize, as ``int``, ``str`` or ``bytes``, whether the
            request is JSON or MessagePack. A value that is none of its type stands as in the request. Empty, as
            ``types`` and ``formats`` are, where the request as a whole is none of the contract's.
    """

    __slots__ = ("client_id", "consistent", "formats", "id", "op", "reply_to", "stream", "types", "values", "zone_id")

    def __init__(self, route: Route, decoded: Decoded) -> None:
        request = decoded.request
        self.stream = route.requests
        self.id = decoded.id
        self.op = decoded.op
        self.reply_to = decoded.reply_to
        self.client_id = route.client_id if request is None else request.client_id or route.client_id
        self.zone_id = None if request is None else request.zone_id
        self.consistent = True if request is None else request.consistent
        items = [] if request is None else _items_of(request)
        self.types = tuple(item.type or "" for item in items)
        self.formats = tuple(item.format for item in items)
        self.values = Values([] if request is None else [_value_of(item, decoded, request.op) for item in items])

    def __repr__(self) -> str:
        zone = "" if self.zone_id is None else f", zone_id={self.zone_id!r}"
        op = None if self.op is None else self.op.value
        return f"<ReceivedRequest {op} client_id={self.client_id!r}{zone}, types={self.types!r}>"


def _items_of(request: Request) -> Sequence[Request | RequestItem]:
    return [request] if request.items is UNSET else request.items


def _value_of(item: Request | RequestItem, decoded: Decoded, op: Op) -> object:
    codecs = VALUE_CODECS if item.as_ is None else BYTES_CODECS[op]
    codec = codecs[decoded.format].get(item.type or "")
    if codec is None:
        return item.value
    try:
        return codec.from_message(item.value)
    except InvalidValue:
        return item.value
