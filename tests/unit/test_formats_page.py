"""``docs/formats.md`` says what the formats do: its tokens, parameters, marks and odd characters."""

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from random import Random

import msgspec
import pytest

from judge.cases import cases_of
from token_worker.acra.owner import Owner
from token_worker.acra.value_types import TYPES
from token_worker.tokens.derivation import PLAIN, Deriver
from token_worker.tokens.formats import KINDS, builtin_formats

PAGE = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
DERIVER = Deriver(bytes(range(32)), Owner("client", "demo-client"))
SPELLED = re.compile(r"`([^`]+)`")


def rows(heading: str) -> Iterator[list[str]]:
    """The rows of the table that begins with this heading, cell by cell."""
    lines = iter(PAGE.splitlines())
    assert any(line.startswith(f"| {heading} |") for line in lines), f"no table begins with {heading}"
    next(lines)
    for line in lines:
        if not line.startswith("|"):
            return
        yield [cell.strip() for cell in line.strip("|").split("|")]


def token_of(name: str, value: str) -> str:
    """The token of a value, as a JSON reply writes it."""
    if name not in PLAIN:
        form = builtin_formats()[name]
        assert form.problem(value.encode()) is None
        return DERIVER.token(form, value.encode(), 0).decode()
    if name == "bytes":
        return base64.b64encode(DERIVER.token(PLAIN[name], base64.b64decode(value), 0)).decode()
    kind = TYPES[name]
    return str(kind.decode(DERIVER.token(PLAIN[name], kind.encode(int(value) if kind.is_number else value), 0)))


def test_each_type_and_kind_has_an_example() -> None:
    """The page has a value and its token for each type and each built-in format, derived from one key."""
    found = {}
    for row in rows("type, format"):
        assert row[3]
        [name], [value], [token] = map(SPELLED.findall, row[:3])
        found[name] = (value, token)
    assert found.keys() == PLAIN.keys() | builtin_formats().keys()
    assert {name: token for name, (_, token) in found.items()} == {
        name: token_of(name, value) for name, (value, _) in found.items()
    }


def test_each_parameter_stands_with_the_kinds_that_have_it() -> None:
    """The page names each parameter once, with exactly the kinds that have it."""
    having: dict[str, set[str]] = {}
    for name, kind in KINDS.items():
        for parameter in kind.parameters_type.__struct_fields__:
            having.setdefault(parameter, set()).add(name)
    told: dict[str, set[str]] = {}
    for parameters, kinds, _ in rows("parameter"):
        for parameter in SPELLED.findall(parameters):
            first, _, more = kinds.partition(f"; `{parameter}` also ")
            names = {*SPELLED.findall(first.partition(";")[0]), *SPELLED.findall(more)}
            if first.startswith("all but"):
                names = KINDS.keys() - names
            elif first.startswith("kinds whose"):
                names = having["refuse_tokens"]
            told[parameter] = names
    assert told == having


def test_defaults_of_each_kind() -> None:
    """The page has the defaults of ``min_space`` and ``keep_last``, and says which tokens have a mark."""
    told = {}
    for kinds, space, last, mark in rows("defaults of"):
        for name in SPELLED.findall(kinds):
            told[name] = (space.replace(",", ""), last, mark != "none")
    defaults = {}
    for name, kind in KINDS.items():
        fields = {field.name: field.default for field in msgspec.structs.fields(kind.parameters_type)}
        space, last = (str(fields.get(parameter, "")) for parameter in ("min_space", "keep_last"))
        defaults[name] = (space, last, "refuse_tokens" in fields)
    assert told == defaults


ODD = {
    "letters of other scripts": ["\u00e9"],
    "digits of other scripts": ["\u0664"],
    "full-width letters": ["\uff21"],
    "full-width digits": ["\uff14"],
    "zero-width characters": ["\u200b", "\ufeff"],
    "a space at either end": [" ", "\n"],
    "no-break spaces": ["\u00a0"],
    "other hyphens": ["\u2011"],
}


@pytest.mark.parametrize("name", [name for name in KINDS if name != "template"])
def test_odd_characters(name: str) -> None:
    """A value with an odd character is refused, accepted or kept as the page says, at either end and in the middle."""
    headings = next(line for line in PAGE.splitlines() if line.startswith("| a value with |")).strip("|").split("|")
    [column] = [at for at, heading in enumerate(headings) if name in SPELLED.findall(heading)]
    said = {next((key for key in ODD if row[0].startswith(key)), row[0]): row[column] for row in rows("a value with")}
    form, case = builtin_formats()[name], next(case for case in cases_of(name) if not case.parameters)
    chance = Random(1)
    for odd, characters in ODD.items():
        for character in characters:
            value = "ada@example.com" if form.value_type.name == "email" else case.values(chance)
            for at in (0, len(value) // 2, len(value)):
                changed = value[:at] + character + value[at:]
                if odd == "a space at either end" and at not in (0, len(value)):
                    continue
                problem = form.problem(changed.encode())
                if said[odd] == "refused":
                    assert problem is not None, (odd, at)
                    continue
                assert problem is None, (odd, at)
                is_kept = character in DERIVER.token(form, changed.encode(), 0).decode()
                if said[odd] != "accepted":
                    assert is_kept == (said[odd] == "kept"), (odd, at)
    assert form.problem(case.values(chance).encode() + b"\xff") is not None
    assert said['bytes that are not UTF-8 (`"as": "bytes"`)'] == "refused"
