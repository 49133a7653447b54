"""Tokens of ``digits``: the same number of digits, with the separators where they were."""

import pytest

from harness.formats import could_draw, make, problem, tokens
from judge.kinds.pan import number, separators
from token_worker.tokens.formats.base import FormatError

EXPECTED = "1 to 64 digits, with at most a space, '-', '.' or '/' between two of them"


@pytest.mark.parametrize(
    "value",
    ["123", "000", "123.456.789-09", "12.345.678/0001-95", "93/815/08152", "1 2 3 4", "7" * 64, "9-" * 63 + "9"],
)
def test_tokens_have_the_form_of_the_value(value: str) -> None:
    """Digits become other digits. Separators stay where they are."""
    form = make("digits")
    drawn = list(tokens(form, value, 200))
    assert len(set(drawn)) > 50
    for token in drawn:
        assert separators(token) == separators(value)
        assert len(token) == len(value)
        assert number(token).isascii()
    first = number(value)[0]
    assert {number(token)[0] for token in drawn} == set("0123456789"), first


@pytest.mark.parametrize(
    "value",
    [
        "",
        "-",
        "1" * 65,
        "-123456",
        "+123456",
        "123456 ",
        " 123456",
        "123456\n",
        "123456.",
        "12..3456",
        "12. 3456",
        "12,345,678",
        "12:34:56",
        "12_345_678",
        "(030) 123456",
        "12+3456",
        "12e4567",
        "12\N{THIN SPACE}345678",
        "12\N{ZERO WIDTH JOINER}345678",
        "12\N{EN DASH}345678",
        "12345\N{FULLWIDTH DIGIT SIX}",
        "12345\N{SUPERSCRIPT TWO}",
        "\N{DEVANAGARI DIGIT ONE}\N{DEVANAGARI DIGIT TWO}\N{DEVANAGARI DIGIT THREE}\N{DEVANAGARI DIGIT FOUR}",
    ],
)
def test_other_values_are_refused(value: str) -> None:
    """Signs, other separators, two in a row, one at an end, other digits, and more than 64 are refused."""
    assert problem(make("digits"), value) == EXPECTED


@pytest.mark.parametrize("parameters", [{"separators": "refuse"}, {"spelling": "canonical"}])
def test_digits_alone(parameters: dict[str, str]) -> None:
    """A format can refuse separators. Tokens are the same."""
    form = make("digits", **parameters)
    assert problem(form, "123-456") == "1 to 64 digits, without separators"
    assert list(tokens(form, "123456", 3)) == list(tokens(make("digits"), "123456", 3))


def test_kept_digits() -> None:
    """The first and the last digits stay. A token with others is of another form."""
    form = make("digits", keep_first=2, keep_last=3)
    value = "12.345.678-90"
    for token in tokens(form, value, 100):
        assert (token[:2], token[-4:]) == ("12", "8-90")
    assert could_draw(form, value, "12.999.998-90")
    assert not could_draw(form, value, "13.999.998-90")
    assert not could_draw(form, value, "12.999.998-91")
    assert not could_draw(form, value, "12.999.99a-90")
    assert not could_draw(form, value, "1299999890")
    assert not could_draw(form, value, "12-999.998-90")


def test_tokens_of_another_length_are_of_another_form() -> None:
    """A token with more or fewer digits is not one of this format."""
    for token in ("1234567", "12345", ""):
        assert not could_draw(make("digits"), "123456", token)


def test_short_values_are_refused() -> None:
    """A value of which fewer than three digits are drawn has too few tokens, unless the settings allow it."""
    text = "a value that can have at least 1,000 tokens of this format"
    assert problem(make("digits"), "12") == text
    assert problem(make("digits", keep_last=4), "123456") == text
    assert problem(make("digits", keep_last=4), "1234567") is None
    one = make("digits", min_space=10)
    assert set(tokens(one, "7", 200)) == set("0123456789")
    assert one.space(b"7") == 10
    none = make("digits", keep_first=4, keep_last=4, min_space=1)
    assert problem(none, "12345678") is not None
    assert problem(none, "1234") is not None
    assert problem(none, "123456789") is None


def test_formats_without_room_are_refused() -> None:
    """A format that keeps all digits of every value is refused at start."""
    with pytest.raises(FormatError, match="no value can have") as refused:
        make("digits", keep_first=60, keep_last=4, min_space=1)
    assert refused.value.parameter == "min_space"


def test_the_definition_has_what_changes_tokens() -> None:
    """Only keep_first and keep_last change tokens."""
    plain = make("digits").field
    assert plain[4:] == b'{"keep_first":0,"keep_last":0,"kind":"digits","type":"str","version":1}'
    assert make("digits", separators="refuse", spelling="canonical", min_space=7).field == plain
    assert len({plain, make("digits", keep_first=1).field, make("digits", keep_last=1).field}) == 3
