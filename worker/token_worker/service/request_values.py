"""Reads the values of checked requests for the engine: in groups if nothing sets them apart, else one by one. Pure."""

from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter

from msgspec import UNSET

from token_worker.acra.value_types import TYPES
from token_worker.contract.messages import Op, Request, RequestItem
from token_worker.contract.values import InvalidValue, bytes_not_allowed, unknown_type
from token_worker.errors import Code, Refused
from token_worker.keys.keyring import Keyring
from token_worker.service.checked_request import (
    BYTES_TYPE_CODECS,
    TYPE_CODECS,
    CheckedRequest,
    FailedValue,
    OwnerAccess,
    PlainRequests,
    Span,
    TypeCodec,
    Value,
)
from token_worker.service.route_formats import RouteFormats
from token_worker.storage.item_group import ItemGroup
from token_worker.storage.token_item import TokenItem
from token_worker.tokens.derivation import Origin
from token_worker.tokens.formats import AnyFormat

_TOKENIZE = Op.TOKENIZE
_type_of = attrgetter("type")

_Groups = dict[TypeCodec, tuple[ItemGroup, list[object]]]
"""By type and format of messages: a group, and its values as they stand in the requests."""


class ValueReader:
    """Reads values.

    Args:
        max_value_bytes: length of the longest value.
    """

    def __init__(self, max_value_bytes: int) -> None:
        self._max_value_bytes = max_value_bytes

    def read(self, access: OwnerAccess, ring: Keyring) -> tuple[list[ItemGroup], list[TokenItem]]:
        """Read the values of all requests of an access. Return what the engine has to do: groups, or items.

        A faulty value, or one that is drawn in another way, takes all values of the access out of their groups: the
        first of equal values decides how their token is drawn, so their order matters.
        """
        plain = access.plain
        access.groups = self._group(access, ring) if plain is None else self._group_plain(access, plain, ring)
        if access.groups:
            return access.groups, []
        if plain is not None:
            access.requests, access.plain = plain.all_checked(), None
        return [], self._read_each(access, ring)

    def _group_plain(self, access: OwnerAccess, plain: PlainRequests, ring: Keyring) -> list[ItemGroup]:
        """Make one group of the values of plain requests; no group if one has to be read by itself."""
        codec = TYPE_CODECS[plain.written].get(plain.requests[0].type)
        if codec is None or access.formats.apply_to_all:
            return []
        group = ItemGroup(ring, codec.kind, access.op is _TOKENIZE, [], codec)
        return [group] if self._fill(group, [request.value for request in plain.requests]) else []

    def _group(self, access: OwnerAccess, ring: Keyring) -> list[ItemGroup]:
        """Group the values of requests, and set the spans of the access; no group if one has to be read by itself."""
        if access.formats.apply_to_all:
            return []
        tokenize = access.op is _TOKENIZE
        groups: _Groups = {}
        spans: list[list[Span]] = []
        for _, decoded, request in access.requests:
            if decoded.broken or (tokenize and not request.consistent):
                return []
            items = [request] if request.items is UNSET else request.items
            of_request = _spans(items, TYPE_CODECS[decoded.format], groups, ring, tokenize=tokenize)
            if of_request is None:
                return []
            spans.append(of_request)
        if not all(self._fill(group, values) for group, values in groups.values()):
            return []
        access.spans = spans
        return [group for group, _ in groups.values()]

    def _fill(self, group: ItemGroup, values: list[object]) -> bool:
        """Encode values for a group; False if one of them is refused."""
        codec: TypeCodec = group.form
        try:
            group.data = codec.encode_all(values)
        except InvalidValue:
            return False
        return max(map(len, group.data)) <= self._max_value_bytes

    def _read_each(self, access: OwnerAccess, ring: Keyring) -> list[TokenItem]:
        """Read each value by itself. Return those that are in order."""
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


def _spans(
    items: Sequence[Request | RequestItem],
    codecs: dict[str, TypeCodec],
    groups: _Groups,
    ring: Keyring,
    *,
    tokenize: bool,
) -> list[Span] | None:
    """Add the values of a request to groups. Return where they are; None if one has to be read by itself."""
    spans: list[Span] = []
    for type_name, run in groupby(items, _type_of):
        codec = codecs.get(type_name or "")
        if codec is None:
            return None
        found = groups.get(codec)
        if found is None:
            found = groups[codec] = ItemGroup(ring, codec.kind, tokenize, [], codec), []
        group, values = found
        start = len(values)
        for item in run:
            if item.as_ is not None or (tokenize and item.format is not None):
                return None
            values.append(item.value)
        spans.append(Span(group, start, len(values)))
    return spans


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
