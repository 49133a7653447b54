"""What holds for formats of every kind, with the values of ``judge.cases``."""

from random import Random

import pytest

from harness.formats import tokens
from judge.case import Case
from judge.cases import all_cases, cases_of
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
