"""Writes the table of the format ``letters``: which letters there are, and by which each can be replaced.

Categories and normalization come from ``unicodedata2``, scripts from ``fontTools``: both are pinned, and have the data
of Unicode ``UNICODE``. A table that changes by this changes tokens: raise ``Letters.version``.
"""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import unicodedata2
from fontTools import unicodedata as scripts

FILE = Path(__file__).parent.parent / "worker" / "token_worker" / "tokens" / "formats" / "letters.txt"
UNICODE = "18.0.0"
SMALLEST_CLASS = 10

WITHOUT_CLASS = {"Common", "Inherited", "Unknown"}
"""Letters of these scripts belong to no writing of their own: the modifier letter apostrophe, say."""

MODERN = {
    "Arabic": [(0x621, 0x63A), (0x641, 0x64A)],
    "Cyrillic": [(0x400, 0x45F)],
    "Georgian": [(0x10D0, 0x10F0), (0x1C90, 0x1CB0)],
    "Greek": [(0x386, 0x3CE), (0x1F00, 0x1FFF)],
    "Han": [(0x4E00, 0x9FA5), (0x20000, 0x2A6D6)],
    "Hangul": [(0xAC00, 0xD7A3)],
    "Hebrew": [(0x5D0, 0x5EA)],
    "Katakana": [(0x30A1, 0x30FA)],
    "Latin": [(0x41, 0x5A), (0x61, 0x7A), (0xC0, 0x17F), (0x1EA0, 0x1EF9)],
}
"""Letters of names today, of scripts that also have many others: of scholars, of phonetics, of old books."""

DEPRECATED = {0x149, 0x673, 0x17A3, 0x17A4}
"""Letters with the property ``Deprecated`` (PropList.txt)."""

HEADER = f"""\
# Letters and by which each is replaced, for the format "letters". Written by scripts/make_letters_table.py.
# Derived from the Unicode Character Database {UNICODE} (Unicode License v3).
# token_worker/tokens/formats/letters.py tells how to read it. All numbers are code points in hexadecimal.
"""

Key = tuple[str, str, int]
"""Script, general category, length in UTF-8."""


class LetterClass(NamedTuple):
    """The code points of one class."""

    drawn: list[int]
    others: list[int]


def classes() -> dict[Key, LetterClass]:
    """Make all classes, in the order of their names."""
    members: dict[Key, list[int]] = defaultdict(list)
    for point in range(0x110000):
        letter = chr(point)
        category = unicodedata2.category(letter)
        if category[0] == "L":
            script = scripts.script_name(scripts.script(letter))
            if script not in WITHOUT_CLASS:
                members[script, category, len(letter.encode())].append(point)
    seconds = {second for _, second in _pairs()}
    found = {}
    for key, points in sorted(members.items()):
        stable = [point for point in points if _is_stable(point) and _first_part(point) not in seconds]
        modern = [point for point in stable if _is_modern(point, key[0])]
        drawn = modern if len(modern) >= SMALLEST_CLASS else stable
        if len(drawn) >= SMALLEST_CLASS:
            chosen = set(drawn)
            found[key] = LetterClass(drawn, [point for point in points if point not in chosen])
    return found


def _is_stable(point: int) -> bool:
    letter = chr(point)
    forms = {unicodedata2.normalize(form, letter) for form in ("NFC", "NFKC")}
    return forms == {letter} and point not in DEPRECATED


def _first_part(point: int) -> int:
    return ord(unicodedata2.normalize("NFD", chr(point))[0])


def _is_modern(point: int, script: str) -> bool:
    """Tell the letters that names of today are written with, as far as that is known without a list of them."""
    letter = chr(point)
    if script in MODERN:
        if not any(first <= point <= last for first, last in MODERN[script]):
            return False
    elif unicodedata.ucd_3_2_0.category(letter) == "Cn":  # fonts have the letters of 2002
        return False
    if unicodedata2.category(letter) not in {"Lu", "Ll"}:
        return True
    capital, small = letter.upper(), letter.lower()
    other = small if letter == capital else capital
    return other != letter and {other.upper(), other.lower()} == {letter, other} and _length(other) == _length(letter)


def _length(text: str) -> int:
    return len(text.encode())


def _pairs() -> set[tuple[int, int]]:
    """Make the pairs of code points that NFC can join. For syllables of jamo, the first is left out."""
    found = {(0, jamo) for jamo in (*range(0x1161, 0x1176), *range(0x11A8, 0x11C3))}
    for point in range(0x110000):
        parts = unicodedata2.decomposition(chr(point)).split()
        if len(parts) == 2 and parts[0][0] != "<":
            found.add((int(parts[0], 16), int(parts[1], 16)))
    return found


def joined(table: dict[Key, LetterClass]) -> dict[int, list[int]]:
    """Make, for each code point outside the classes that changes a letter before it in NFC: these letters."""
    pairs = _pairs()
    seconds = {second for _, second in pairs} - {point for one in table.values() for each in one for point in each}
    firsts = {first for first, _ in pairs}
    found = defaultdict(list)
    for point in sorted(point for one in table.values() for point in one.drawn):
        letter = chr(point)
        if point in firsts or unicodedata2.decomposition(letter):
            for second in seconds:
                text = letter + chr(second)
                if unicodedata2.normalize("NFC", text) != text:
                    found[second].append(point)
    return dict(sorted(found.items()))


def ranges(points: Iterable[int]) -> str:
    """Write code points in order, neighbours as a range."""
    runs: list[list[int]] = []
    for point in points:
        if runs and runs[-1][1] == point - 1:
            runs[-1][1] = point
        else:
            runs.append([point, point])
    return " ".join(f"{first:X}" if first == last else f"{first:X}-{last:X}" for first, last in runs)


def text() -> str:
    """Return the text of the table."""
    if unicodedata2.unidata_version != UNICODE:
        raise SystemExit(f"unicodedata2 has Unicode {unicodedata2.unidata_version}, not {UNICODE}")
    table = classes()
    lines = []
    for (script, category, length), one in table.items():
        others = f" | {ranges(one.others)}" if one.others else ""
        lines.append(f"{script} {category} {length}: {ranges(one.drawn)}{others}\n")
    lines += [f"before {second:X}: {ranges(letters)}\n" for second, letters in joined(table).items()]
    return HEADER + "".join(lines)


if __name__ == "__main__":
    FILE.write_text(text())
