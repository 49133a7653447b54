"""The table of ``letters``: by which letters a letter can be replaced. Pure, but for the file beside this module.

The file is read when the first text outside ASCII is looked up. That takes about 2 ms, and 150 kB of memory.
"""

from bisect import bisect_right
from collections.abc import Iterator
from functools import cache, lru_cache
from importlib.resources import files
from operator import itemgetter
from typing import Final, NamedTuple

KEPT: Final = ""
"""Stands for the letters that a code point can become, if it stays as it is."""

_FEWEST = 2
"""Fewest letters to draw from."""


class _Letters:
    """The letters that tokens of one class are drawn from, in the order of their code points.

    Args:
        runs: ranges of code points, as the file has them.
    """

    __slots__ = ("_runs", "_text")

    def __init__(self, runs: str) -> None:
        self._runs = runs
        self._text = ""

    @property
    def text(self) -> str:
        """The letters. They are made when they are needed: the largest class has 42,711."""
        if not self._text:
            self._text = "".join(chr(point) for first, last in _ranges(self._runs) for point in range(first, last + 1))
        return self._text


_Run = tuple[int, int, _Letters]
"""First and last of code points in a row that belong to one class, and the letters of the class."""


class _Table(NamedTuple):
    """The file, read.

    Attributes:
        firsts: the first code point of each run, in order.
        runs: the runs, in the same order.
        changed: for a code point that changes letters before it in NFC: these letters.
    """

    firsts: list[int]
    runs: list[_Run]
    changed: dict[str, str]


def letters_for(text: str) -> list[str]:
    """Return for each code point of a text the letters that it can become, or ``KEPT``."""
    found = [_class_of(character) for character in text]
    changed = _table().changed
    if not changed.keys().isdisjoint(text):
        after = ""
        for place in range(len(text) - 1, -1, -1):
            if not found[place]:
                if text[place] in changed and text[place] not in after:
                    after += text[place]
            elif after:
                found[place] = _without(found[place], after)
                after = ""
    return found


@lru_cache(4096)
def _class_of(character: str) -> str:
    """Return the letters of the class of a letter, or ``KEPT``."""
    point = ord(character)
    table = _table()
    place = bisect_right(table.firsts, point) - 1
    if place < 0:
        return KEPT
    _, last, letters = table.runs[place]
    return letters.text if point <= last else KEPT


@lru_cache(1024)
def _without(letters: str, after: str) -> str:
    """Return the letters that none of these code points changes, or ``KEPT`` if they are too few."""
    changed = {letter for character in after for letter in _changed_by(character, letters)}
    if not changed:
        return letters
    left = "".join(letter for letter in letters if letter not in changed)
    return left if len(left) >= _FEWEST else KEPT


@lru_cache(1024)
def _changed_by(character: str, letters: str) -> frozenset[str]:
    """Return those of the letters that a code point after them changes."""
    return frozenset(_table().changed[character]).intersection(letters)


@cache
def _table() -> _Table:
    """Read the file."""
    runs: list[_Run] = []
    changed: dict[str, str] = {}
    for line in files(__package__).joinpath("letters.txt").read_text("ascii").splitlines():
        if line.startswith("#"):
            continue
        name, points = line.split(": ")
        if name.startswith("before "):
            changed[chr(int(name[7:], 16))] = _Letters(points).text
            continue
        drawn, _, others = points.partition(" | ")
        letters = _Letters(drawn)
        runs += [(first, last, letters) for part in (drawn, others) for first, last in _ranges(part)]
    runs.sort(key=itemgetter(0))
    return _Table([first for first, _, _ in runs], runs, changed)


def _ranges(text: str) -> Iterator[tuple[int, int]]:
    for each in text.split():
        first, _, last = each.partition("-")
        start = int(first, 16)
        yield start, int(last, 16) if last else start
