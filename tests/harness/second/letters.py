"""Format kind ``letters``: names and other text. Only the table is the product's."""

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

from harness.second.source import Source


class Table(NamedTuple):
    """Letters that can take the place of each letter, and letters that each code point changes before it."""

    classes: dict[str, list[str]]
    changed: dict[str, set[str]]


def _letters(text: str) -> Iterator[str]:
    for part in text.split():
        first, _, last = part.partition("-")
        yield from map(chr, range(int(first, 16), int(last or first, 16) + 1))


@cache
def table() -> Table:
    """The table as it is beside the product's module."""
    found = Table({}, {})
    text = resources.files("token_worker.tokens.formats").joinpath("letters.txt").read_text("ascii")
    for line in text.splitlines():
        name, _, points = line.partition(":")
        if line.startswith("#"):
            continue
        if name.startswith("before "):
            found.changed[chr(int(name.split()[1], 16))] = set(_letters(points))
            continue
        drawn_points, _, others = points.partition("|")
        drawn = sorted(_letters(drawn_points))
        found.classes.update(dict.fromkeys([*drawn, *_letters(others)], drawn))
    return found


def token(source: Source, value: str, definition: Mapping[str, Any]) -> str:
    """Text with another letter for each letter, but where nothing could be chosen."""
    classes, changed = table()
    written = list(value)
    for at, old in enumerate(value):
        if old not in classes:
            continue
        end = at + 1
        while end < len(value) and value[end] not in classes:
            end += 1
        choice = classes[old]
        unfit = {letter for point in value[at + 1 : end] for letter in changed.get(point, ())}
        if unfit:
            choice = [letter for letter in choice if letter not in unfit]
        if len(choice) > 1:
            written[at] = choice[source.below(len(choice))]
    return "".join(written)
