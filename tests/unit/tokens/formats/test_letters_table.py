"""The table of ``letters``: other libraries than the ones it is made with say which letters belong together."""

import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from importlib.resources import files
from typing import NamedTuple

import make_letters_table
import pytest
import regex

FILE = files("token_worker.tokens.formats").joinpath("letters.txt")


class Line(NamedTuple):
    """A class, as the file has it."""

    script: str
    category: str
    length: int
    drawn: str
    others: str


def _points(text: str) -> str:
    ends = (each.split("-") for each in text.split())
    return "".join(chr(point) for each in ends for point in range(int(each[0], 16), int(each[-1], 16) + 1))


def _lines() -> Iterator[tuple[str, str]]:
    for line in FILE.read_text("ascii").splitlines():
        if not line.startswith("#"):
            name, _, points = line.partition(": ")
            yield name, points


def _read() -> list[Line]:
    found = []
    for name, points in _lines():
        if not name.startswith("before "):
            script, category, length = name.rsplit(" ", 2)
            drawn, _, others = points.partition(" | ")
            found.append(Line(script, category, int(length), _points(drawn), _points(others)))
    return found


CLASSES = _read()
ALL = "".join(chr(point) for point in range(0x40000) if not 0xD800 <= point < 0xE000)  # there are no letters above
CHANGED = {chr(int(name.split()[1], 16)): _points(points) for name, points in _lines() if name.startswith("before ")}


def _drawn(script: str, category: str, length: int) -> str:
    return next(one.drawn for one in CLASSES if one[:3] == (script, category, length))


def test_the_table_is_what_the_script_writes() -> None:
    """The file in the package is the one that ``scripts/make_letters_table.py`` makes."""
    assert FILE.read_text("ascii") == make_letters_table.text()


def test_letters_of_a_class_are_of_one_script_category_and_length() -> None:
    """``regex``, which has its own tables, finds in each line letters of its script and category, and all of them."""
    for one in CLASSES:
        letters = regex.findall(rf"[\p{{Script={one.script}}}&&\p{{{one.category}}}]", ALL, regex.VERSION1)
        assert {letter for letter in letters if len(letter.encode()) == one.length} == set(one.drawn + one.others)


def test_scripts_of_many_letters_have_a_class() -> None:
    """A class is missing only if fewer than ten of its letters can be drawn. Each has ten at least, in order."""
    assert min(len(one.drawn) for one in CLASSES) >= 10
    assert all(list(one.drawn) == sorted(one.drawn) for one in CLASSES)
    names = {one[:3] for one in CLASSES}
    left: dict[tuple[str, str, int], set[str]] = {}
    for script in sorted({one.script for one in CLASSES} - {"Common", "Inherited"}):
        for letter in regex.findall(rf"[\p{{Script={script}}}&&\p{{L}}]", ALL, regex.VERSION1):
            key = (script, unicodedata.category(letter), len(letter.encode()))
            if key not in names and unicodedata.is_normalized("NFKC", letter):
                left.setdefault(key, set()).add(letter)
    assert {key for key, letters in left.items() if len(letters) >= 10 and key[1] != "Cn"} == set()


def test_drawn_letters_are_stable() -> None:
    """The standard library normalizes no drawn letter to another text, and none of them is deprecated."""
    letters = "".join(one.drawn for one in CLASSES)
    assert len(letters) > 90_000
    assert [letter for letter in letters if not unicodedata.is_normalized("NFC", letter)] == []
    assert [letter for letter in letters if not unicodedata.is_normalized("NFKC", letter)] == []
    assert regex.findall(r"\p{Deprecated}|\p{Default_Ignorable_Code_Point}", letters) == []
    assert regex.findall(r"\p{NFC_Quick_Check=Maybe}", letters) == []


def test_case_does_not_change_the_length() -> None:
    """Drawn letters of European alphabets have a counterpart in the other case, drawn as well, of the same length."""
    alphabets = [("Latin", 1), ("Latin", 2), ("Latin", 3), ("Greek", 2), ("Cyrillic", 2), ("Armenian", 2)]
    for script, length in alphabets:
        capitals, small = _drawn(script, "Lu", length), _drawn(script, "Ll", length)
        assert sorted(capitals.lower()) == sorted(small)
        assert sorted(small.upper()) == sorted(capitals)


@pytest.mark.parametrize(
    ("script", "category", "length", "letters"),
    [
        ("Latin", "Lu", 1, "ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
        ("Hebrew", "Lo", 2, "אבגדהוזחטיךכלםמןנסעףפץצקרשת"),
        ("Greek", "Ll", 2, "άέήίαβγδεζηθικλμνξοπρστυφχψωϊϋόύώ"),
        ("Cyrillic", "Lu", 2, "ЀЁЂЃЄЅІЇЈЉЊЋЌЍЎЏАБВГДЕЖЗИЙКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯ"),
        ("Arabic", "Lo", 2, "ءآأؤإئابةتثجحخدذرزسشصضطظعغفقكلمنهوىي"),
    ],
)
def test_letters_of_names_are_drawn(script: str, category: str, length: int, letters: str) -> None:
    """Tokens of a script with many letters that no name has today have only letters that names have."""
    assert _drawn(script, category, length) == letters


def test_letters_that_change_before_a_mark_are_known() -> None:
    """The standard library, as far as it knows the letters, finds the same letters that change in NFC before a mark."""
    known = {mark: {one for one in letters if _is_known(one)} for mark, letters in CHANGED.items() if _is_known(mark)}
    assert sum(map(len, known.values())) > 1500
    letters = [one for each in CLASSES for one in each.drawn if _is_known(one)]
    changeable = [one for one in letters if unicodedata.decomposition(one)] + [*set().union(*known.values())]
    marks = [mark for mark in regex.findall(r"\p{M}", ALL) if unicodedata.is_normalized("NFC", mark)]
    for mark in marks:
        changed = {one for one in changeable if not unicodedata.is_normalized("NFC", one + mark)}
        assert changed == known.get(mark, set())
    assert {letter for one in CLASSES for letter in one.drawn + one.others}.isdisjoint(CHANGED)


def _is_known(character: str) -> bool:
    """Tell whether the Unicode of this Python has a character. Scripts that are younger are not looked at."""
    return unicodedata.category(character) != "Cn"


def test_the_table_is_read_late() -> None:
    """A process that sees no text outside ASCII does not read the file."""
    code = (
        "from token_worker.tokens.formats import builtin_formats, letters_table\n"
        "letters = builtin_formats()['letters']\n"
        "letters.problem(b'Li')\n"
        "assert letters_table._table.cache_info().currsize == 0\n"
        "letters.problem('Lí'.encode())\n"
        "assert letters_table._table.cache_info().currsize == 1\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
