"""What holds for formats of every kind, with the values of ``judge.cases``."""

from random import Random
from typing import Any

import pytest

from harness.formats import make, problem, tokens
from judge.case import Case
from judge.cases import all_cases, cases_of
from token_worker.tokens.derivation import tries
from token_worker.tokens.formats import KINDS, builtin_formats

CASES = all_cases()
cases = pytest.mark.parametrize("case", CASES, ids=[f"{at} {case.name}" for at, case in enumerate(CASES)])


def values(case: Case, count: int = 10) -> list[str]:
    random = Random("a fixed seed")
    return [case.values(random) for _ in range(count)]


@cases
def test_tokens_depend_on_nothing_else(case: Case) -> None:
    """Two formats with the same parameters draw the same tokens, in whatever order they are asked."""
    drawn = [list(tokens(case.format(), value, 3)) for value in values(case)]
    again = [list(tokens(case.format(), value, 3)) for value in reversed(values(case))]
    assert again[::-1] == drawn


@cases
def test_a_format_knows_its_tokens(case: Case) -> None:
    """Each token of a value is one that the format could have drawn, and keeps what it has to keep."""
    form = case.format()
    for value in values(case):
        for token in tokens(form, value, 40):  # asserts the first
            assert case.kept(token) == case.kept(value)
            assert case.judge is None or case.judge(token) is case.accepted


@cases
def test_space_is_not_too_small(case: Case) -> None:
    """The number of tokens of a value is at least the number of those that are met."""
    form = case.format()
    for value in values(case, 3):
        met = set(tokens(form, value, 500))
        assert len(met) > 1
        assert form.space(value.encode()) >= len(met)


SPACES: list[tuple[str, dict[str, Any], str, int, int]] = [
    ("pan", {}, "4000000000006", 10**9, 256),
    ("pan", {"keep_last": 9, "min_space": 1}, "4000 0000 0000 6", 10**4, 256),
    ("pan", {"keep_first": 1, "keep_last": 9, "min_space": 1}, "4000000000006", 1000, 256),
    ("pan", {"keep_last": 9, "token": "any", "real_numbers": True, "min_space": 1}, "4000000000006", 10**4, 256),
    ("pan", {"keep_last": 9, "token": "valid", "min_space": 1}, "4000000000006", 10, 160),
    ("pan", {"keep_first": 1, "token": "valid", "real_numbers": True}, "4000000000006", 10**7, 256),
    ("iban", {}, "NO9386011117947", 10**11 * 96, 256),
    ("iban", {"token": "valid", "keep_bank": True, "real_numbers": True}, "GB29NWBK60161331926819", 10**14, 256),
    ("phone", {}, "+1 212 555 0100", 10**9, 256),
    ("phone", {"keep_last": 6}, "+12125550100", 1000, 256),
    ("phone", {"keep_last": 4, "min_space": 1}, "+44 2079460958", 10**4, 256),  # the dead prefix is 04
    ("date", {}, "1984-02-29", 73_049, 256),
    ("date", {"keep_year": True}, "1984-02-29", 366, 256),
    (
        "date",
        {"template": "%d/%m/%y", "min": "1930-03-01", "max": "2029-12-31", "keep_year": True},
        "01/04/30",
        306,
        256,
    ),
    ("datetime", {}, "2024-05-06T07:08", 73_049 * 1440, 256),
    ("datetime", {"min": "2024-05-06", "max": "2024-05-06", "template": "%Y%j%H%M"}, "20241270708", 1440, 256),
    ("datetime", {"keep_year": True}, "2023-05-06T07:08:09.12+02:00", 365 * 86_400 * 100, 256),
    ("ssn", {}, "123-45-6789", 49_000_000, 256),
    ("ssn", {"keep_last": 4, "min_space": 1}, "123456789", 4900, 256),
    ("digits", {}, "123-4", 10**4, 256),
    ("digits", {}, "123", 1000, 256),
    ("template", {"template": "[\u0100-\u01ff][ab][ab]"}, "\u0100ab", 1024, 256),
    ("template", {"template": r"\d{0,2}-?([A-E]{4,5})[xx]"}, "7-ABCDEx", 5**5, 256),
    ("uuid", {}, "urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6", 2**122, 256),
    ("email-domain", {"min_space": 1}, "é@x", 36, 576),
    ("email-domain", {}, "ab@x", 36**2, 256),
    ("email-safe", {}, "a@b", 26 * 36**17, 256),
    ("letters", {}, "O", 26, 416),
    ("letters", {}, "Lim", 26**3, 256),
    ("letters", {}, "x\u0301", 9, 144),  # the accent would change all but nine letters
]
"""Kind, parameters, value, its space, and the number of its candidates."""


@pytest.mark.parametrize(("kind", "parameters", "value", "space", "candidates"), SPACES)
def test_space_and_number_of_candidates(
    kind: str, parameters: dict[str, Any], value: str, space: int, candidates: int
) -> None:
    """The space of a value is what the docstring of the kind says. A small one gives 16 candidates for each token."""
    form = make(kind, **parameters)
    assert problem(form, value) is None
    assert form.space(value.encode()) == space
    assert tries(space) == candidates


def test_every_kind_has_a_known_space() -> None:
    """Values of all kinds are in the table of spaces."""
    assert {kind for kind, *_ in SPACES} == set(KINDS)


@pytest.mark.parametrize(
    ("kind", "parameters", "value"),
    [
        ("pan", {"keep_first": 4, "keep_last": 9, "min_space": 1}, "4000000000006"),
        ("pan", {"keep_first": 8, "keep_last": 9, "min_space": 1}, "4000000000006"),
        (
            "pan",
            {"keep_first": 3, "keep_last": 9, "token": "valid", "real_numbers": True, "min_space": 1},
            "4" + 11 * "0" + "6",
        ),
        ("phone", {"keep_last": 9, "min_space": 1}, "+1 212 555 0100"),
        ("digits", {"keep_first": 1, "keep_last": 2, "min_space": 1}, "123"),
        ("digits", {"keep_first": 2, "keep_last": 2, "min_space": 1}, "123"),
        ("template", {"template": r"A(\d?)", "min_space": 1}, "A"),
    ],
)
def test_values_of_which_nothing_is_drawn_are_refused(kind: str, parameters: dict[str, Any], value: str) -> None:
    """A value that would become itself has a space of 0, and is refused whatever ``min_space`` is."""
    form = make(kind, **parameters)
    assert form.space(value.encode()) == 0
    assert problem(form, value) == "a value that can have at least 1 tokens of this format"


@cases
def test_tokens_are_refused_as_values(case: Case) -> None:
    """Tokens are refused as values if they have a mark and the format says so; else a format takes them again."""
    form = case.format()
    problems = [form.problem(token.encode()) for value in values(case) for token in tokens(form, value, 5)]
    assert [problem is not None for problem in problems] == [case.refused] * len(problems)


@cases
def test_nothing_else_is_one_of_its_tokens(case: Case) -> None:
    """The value, a token with one more byte, bytes that are no text, and nothing at all are not tokens of a value."""
    form = case.format()
    for value in map(str.encode, values(case)):
        (token,) = (token.encode() for token in tokens(form, value.decode(), 1))
        for other in (value, token + b"\n", token + b" ", b" " + token, token[:-1] + b"\xff", b"\0" * len(token), b""):
            assert not form.could_draw(value, other)


@cases
@pytest.mark.timeout(60)
def test_hostile_values_are_refused_at_once(case: Case) -> None:
    """Values of a megabyte, damaged values, and bytes that are no text raise nothing. No message contains a value."""
    form = case.format()
    for value in map(str.encode, values(case, 3)):
        hostile = [
            value * (1 << 15),
            value[:1] * (1 << 20),
            value + b"\xff",
            b"\xff" + value,
            value[:-1] + b"\xc3",
            b"",
        ]
        hostile += [(value[-1:] + separator) * (1 << 19) for separator in (b" ", b"-", b".", b"\0", b"\n", b"@")]
        for each in hostile:
            problem = form.problem(each)
            assert problem is None or not each or each not in problem.encode()
            if b"\xff" in each:
                assert problem is not None


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_judged(kind: str) -> None:
    """Each kind has a case with its default parameters if it has a built-in format, and is known by its own name."""
    assert KINDS[kind].kind == kind
    assert cases_of(kind)
    if kind in builtin_formats():
        assert any(not case.parameters for case in cases_of(kind))
