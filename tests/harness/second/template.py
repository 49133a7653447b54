"""Format kind ``template``: values of a form that the settings describe."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from harness.second.source import DIGITS, Source

_PIECE = re.compile(
    r"(?P<group>[()])"
    r"|(?:\[(?P<members>(?:\\.|[^\]\\])*)\]|\\(?P<escape>.)|(?P<plain>.))"
    r"(?:(?P<maybe>\?)|\{(?P<least>[0-9]{1,3})(?:,(?P<most>[0-9]{1,3}))?\})?",
    re.DOTALL,
)
_MEMBER = re.compile(r"\\d|(?:\\(?P<low_escape>.)|(?P<low>.))(?:-(?:\\(?P<high_escape>.)|(?P<high>.)))?", re.DOTALL)


class Place(NamedTuple):
    """A class, in the order of the code points, and how many of its characters a value can have here at most."""

    alphabet: str
    most: int
    grouped: bool


def _members(text: str) -> str:
    found: set[str] = set()
    for member in _MEMBER.finditer(text):
        if member[0] == "\\d":
            found.update(DIGITS)
            continue
        low = member["low_escape"] or member["low"]
        high = member["high_escape"] or member["high"] or low
        found.update(map(chr, range(ord(low), ord(high) + 1)))
    return "".join(sorted(found))


def places_of(template: str) -> Iterator[Place]:
    """The places of a template in order."""
    grouped = False
    for piece in _PIECE.finditer(template):
        if piece["group"]:
            grouped = piece["group"] == "("
            continue
        if piece["members"] is not None:
            alphabet = _members(piece["members"])
        elif piece["escape"]:
            alphabet = DIGITS if piece["escape"] == "d" else piece["escape"]
        else:
            alphabet = piece["plain"]
        yield Place(alphabet, int(piece["most"] or piece["least"] or 1), grouped)


def token(source: Source, value: str, definition: Mapping[str, Any]) -> str:
    """Text of the same form, new in the groups, or everywhere if there are none."""
    places = list(places_of(definition["template"]))
    groups = any(place.grouped for place in places)
    at = 0
    written = ""
    for alphabet, most, grouped in places:
        start = at
        while at < len(value) and at - start < most and value[at] in alphabet:
            at += 1
        new = (grouped or not groups) and len(alphabet) > 1
        written += source.characters(alphabet, at - start) if new else value[start:at]
    if at != len(value):
        raise ValueError("the value does not match the template")
    return written
