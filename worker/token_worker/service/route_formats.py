"""Formats on one route: which one a value gets, and what happens to a token of another form. Pure."""

from collections.abc import Mapping

from token_worker.contract.values import InvalidValue
from token_worker.errors import Code, Refused
from token_worker.storage.token_item import TokenItem
from token_worker.streams.routes import ANY_REF, Route
from token_worker.tokens.formats import KINDS, AnyFormat

_CONFLICT = Refused(Code.FORMAT_CONFLICT, "the value has a token of another form, and the route refuses those")


class RouteFormats:
    """The rules of one route about formats.

    Args:
        route: the route.
        formats: all formats of the settings, by name.

    Attributes:
        apply_to_all: True if the rules concern values for which no format is asked, too.
    """

    def __init__(self, route: Route, formats: Mapping[str, AnyFormat]) -> None:
        by_ref = {ref: formats[name] for ref, name in route.formats.items()}
        self._default = by_ref.pop(ANY_REF, None)
        self._pinned = by_ref
        names = {*route.formats.values(), *(route.allowed_formats or ())}
        if not route.formats and route.allowed_formats is None:
            names = formats.keys() & KINDS.keys()
        self._allowed = {name: formats[name] for name in sorted(names)}
        self._is_required = route.formats_required
        self._refuses_other = route.on_other == "refuse"
        self.apply_to_all = bool(route.formats or route.formats_required)

    def choose(self, name: str | None, ref: str | None, type_name: str) -> AnyFormat | None:
        """Choose the format of a value.

        Args:
            name: the format that the item names.
            ref: the ref of the item.
            type_name: the type of the value.

        Raises:
            InvalidValue: ``format_not_allowed``: the route does not allow this format, or pins another to the ref, or
                requires one; or the format is of another type.
        """
        pinned = None if ref is None else self._pinned.get(ref)
        if name is None:
            chosen = pinned or self._default
            if chosen is None and self._is_required:
                raise self._not_allowed("a format; this route requires one")
        else:
            chosen = self._allowed.get(name)
            if chosen is None:
                raise self._not_allowed("a format that this route allows")
            if pinned is not None and chosen is not pinned:
                raise InvalidValue(Code.FORMAT_NOT_ALLOWED, f"{pinned.name}, which this route pins to the ref")
        if chosen is not None and chosen.value_type.name != type_name:
            whose = "" if name is not None else ", which this route gives the value"
            expected = f"type {chosen.value_type.name} with format {chosen.name}{whose}"
            raise InvalidValue(Code.FORMAT_NOT_ALLOWED, expected)
        return chosen

    def _not_allowed(self, expected: str) -> InvalidValue:
        known = f": {', '.join(self._allowed)}" if self._allowed else ", which is none"
        return InvalidValue(Code.FORMAT_NOT_ALLOWED, f"{expected}{known}")

    def compare(self, item: TokenItem) -> None:
        """Mark a token that its format could not have drawn, or refuse it if the route does so."""
        if item.format is None or not isinstance(item.result, bytes) or item.result is item.token:
            return  # without a format, refused, or drawn just now
        if item.format.could_draw(item.data, item.result):
            return
        if self._refuses_other:
            item.result = _CONFLICT
        else:
            item.is_other = True
