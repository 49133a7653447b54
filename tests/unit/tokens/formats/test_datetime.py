"""Tokens of ``datetime``: the date and the time of day drawn, the precision and the offset kept."""

import re
from datetime import date, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.formats import could_draw, make, problem, tokens
from token_worker.tokens.formats.base import FormatError

EXPECTED = (
    "a date and time as YYYY-MM-DDThh:mm, with or without seconds, fraction and offset, from 1900-01-01 to 2099-12-31"
)


@given(
    st.dates(date(1900, 1, 1), date(2099, 12, 31)),
    st.sampled_from("T "),
    st.times(),
    st.integers(0, 9),
    st.booleans(),
    st.sampled_from(["", "Z", "+00:00", "-00:00", "+0530", "-03", "+23:59"]),
)
def test_all_of_iso_8601_keeps_its_form(
    day: date, between: str, time: Any, digits: int, seconds: bool, offset: str
) -> None:
    """Any precision and any offset is accepted. The standard library reads value and tokens; only digits differ."""
    text = time.strftime("%H:%M:%S") if seconds else time.strftime("%H:%M")
    fraction = "." + "123456789"[:digits] if seconds and digits else ""
    value = f"{day}{between}{text}{fraction}{offset}"
    for token in tokens(make("datetime"), value, 3):
        assert re.sub("[0-9]", "9", token) == re.sub("[0-9]", "9", value)
        assert token.endswith(offset)
        moment = datetime.fromisoformat(token)
        assert 1900 <= moment.year <= 2099
        assert moment.utcoffset() == datetime.fromisoformat(value).utcoffset()


def test_every_time_of_day_can_be_a_token() -> None:
    """Hours, minutes, seconds and each digit of the fraction are drawn from all that there are."""
    drawn = [
        re.fullmatch(r"(\S+) (..):(..):(..)\.(.)(.)", token)
        for token in tokens(make("datetime"), "1984-02-29 00:00:00.00", 3000)
    ]
    seen = [{match[group] for match in drawn if match} for group in range(2, 7)]
    assert [len(values) for values in seen] == [24, 60, 60, 10, 10]
    assert [max(values) for values in seen] == ["23", "59", "59", "9", "9"]
    minutes = {token[-5:] for token in tokens(make("datetime"), "1984-02-29 00:00", 20_000)}
    assert len(minutes) == 24 * 60


def test_the_number_of_tokens() -> None:
    """``space`` counts days, seconds or minutes, and digits of the fraction."""
    form = make("datetime", keep_year=True)
    assert form.space(b"1984-02-29T10:00") == 366 * 1440
    assert form.space(b"1984-02-29T10:00:00Z") == 366 * 86_400
    assert form.space(b"1984-02-29T10:00:00.000Z") == 366 * 86_400_000


def test_the_range_is_that_of_the_written_date() -> None:
    """The offset does not count: the date as it is written is compared with ``min`` and ``max``."""
    form = make("datetime", min="2000-01-01")
    assert problem(form, "2000-01-01T00:00+14:00") is None  # in UTC this is 1999
    assert problem(form, "1999-12-31T23:59-12:00") is not None


def test_keep_year() -> None:
    """With ``keep_year`` a token has the year of the value, as it is written."""
    drawn = {token[:4] for token in tokens(make("datetime", keep_year=True), "1984-12-31T23:59-12:00", 500)}
    assert drawn == {"1984"}


@pytest.mark.parametrize(
    "value",
    [
        "1984-02-29",
        "1984-02-29T",
        "1984-02-29T10",
        "1984-02-29T1000",
        "19840229T100000",
        "1984-02-29t10:00",
        "1984-02-29T10:00z",
        "1984-02-29  10:00",
        "1984-02-29_10:00",
        "1984-02-29T24:00",
        "1984-02-29T10:60",
        "2016-12-31T23:59:60Z",
        "1984-02-29T10:00:00,5",
        "1984-02-29T10:00:00.",
        "1984-02-29T10:00.5",
        "1984-02-29T10:00:00.1234567890",
        "1984-02-29T10:00 Z",
        "1984-02-29T10:00+1",
        "1984-02-29T10:00+24:00",
        "1984-02-29T10:00+02:60",
        "1984-02-29T10:00+02:00:00",
        "1984-02-29T10:00\N{MINUS SIGN}02:00",
        "1984-02-29T10:00 ",
        "1984-02-29T10:00\n",
        "1985-02-29T10:00",
        "1899-12-31T23:59:59",
        "2100-01-01T00:00",
        "198\N{FULLWIDTH DIGIT FOUR}-02-29T10:00",
        "",
    ],
)
def test_other_values_are_refused(value: str) -> None:
    """Other forms of ISO 8601, leap seconds, the hour 24 and days outside the range are refused."""
    assert problem(make("datetime"), value) == EXPECTED


def test_canonical_spelling() -> None:
    """``canonical`` takes a ``T``, and ``Z`` or no offset, so that one moment has one spelling in a precision."""
    form = make("datetime", spelling="canonical")
    for value in ("1984-02-29T10:00", "1984-02-29T10:00:00.50", "1984-02-29T10:00:00Z"):
        assert problem(form, value) is None
    for value in ("1984-02-29 10:00", "1984-02-29T10:00+00:00", "1984-02-29T10:00-00:00", "1984-02-29T10:00+02"):
        assert problem(form, value) == f"{EXPECTED}; the offset can only be Z"
        assert problem(make("datetime"), value) is None
    template = make("datetime", template="%d.%m.%Y %H:%M %z", spelling="canonical")
    assert problem(template, "29.02.1984 10:00 Z") is None
    assert problem(template, "29.02.1984 10:00 +00") is not None
    assert form.field == make("datetime").field


@pytest.mark.parametrize(
    ("template", "value", "standard"),
    [
        ("%d.%m.%Y %H:%M", "29.02.1984 10:00", "%d.%m.%Y %H:%M"),
        ("%Y%m%d%H%M%S", "19840229100000", "%Y%m%d%H%M%S"),
        ("%m/%d/%Y %H:%M:%S,%f", "02/29/1984 10:00:00,123456", "%m/%d/%Y %H:%M:%S,%f"),
        ("%H:%M:%S %d/%m/%Y%z", "10:00:00 29/02/1984+0200", "%H:%M:%S %d/%m/%Y%z"),
    ],
)
def test_tokens_are_written_as_the_template_says(template: str, value: str, standard: str) -> None:
    """The standard library reads each token with the same template, and writes it the same way."""
    form = make("datetime", template=template)
    drawn = list(tokens(form, value, 300))
    assert all(datetime.strptime(token, standard).strftime(standard) == token for token in drawn)  # noqa: DTZ007
    assert len(set(drawn)) == 300
    assert problem(form, "1984-02-29T10:00") is not None


@pytest.mark.parametrize(
    ("parameters", "parameter", "text"),
    [
        ({"template": "%Y-%m-%d"}, "template", "the time is not whole: it has %H and %M, or %H, %M and %S, or these"),
        ({"template": "%Y-%m-%d %H"}, "template", "the time is not whole"),
        ({"template": "%Y-%m-%d %H:%S"}, "template", "the time is not whole"),
        ({"template": "%Y-%m-%d %H:%M.%f"}, "template", "the time is not whole"),
        ({"template": "%H:%M"}, "template", "the year is missing"),
        ({"template": "%z %Y-%m-%d %H:%M"}, "template", "character 3: %z has to be the end"),
        ({"template": "%Y%m%d%H%M%S%f"}, "template", "character 13: %S and %f cannot be told apart"),
        ({"template": "%H%M %Y-%m-%d %I"}, "template", "character 15: there is no directive %I"),
        ({"template": "%Y%m%d%H%M", "spelling": "canonical"}, "spelling", "this template leaves one spelling"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(parameters: dict[str, str], parameter: str, text: str) -> None:
    """A template without a whole time, one that can be read in two ways, and a spelling without choice are refused."""
    with pytest.raises(FormatError, match=re.escape(text)) as raised:
        make("datetime", **parameters)
    assert raised.value.parameter == parameter


def test_what_could_have_been_drawn() -> None:
    """A token of another precision, another offset, another separator or outside the range is not of this format."""
    form = make("datetime", min="1950-01-01")
    value = "1984-02-29T10:00:00.5+02:00"
    assert could_draw(form, value, "1950-01-01T23:59:59.9+02:00")
    for token in (
        "1949-12-31T23:59:59.9+02:00",
        "1950-01-01T23:59:59.99+02:00",
        "1950-01-01T23:59:59+02:00",
        "1950-01-01T23:59+02:00",
        "1950-01-01T23:59:59.9+03:00",
        "1950-01-01T23:59:59.9+0200",
        "1950-01-01T23:59:59.9",
        "1950-01-01 23:59:59.9+02:00",
        "1950-01-01T24:00:00.0+02:00",
        value,
    ):
        assert not could_draw(form, value, token)
    assert could_draw(form, "1984-02-29T10:00", "1950-01-01T23:59")
    assert not could_draw(form, "1984-02-29T10:00", "1950-01-01T23:59:00")


def test_the_definition_has_what_changes_tokens() -> None:
    """The template is in the definition if it is set."""
    assert b"template" not in make("datetime").field
    assert b'"template":"%Y%m%d%H%M"' in make("datetime", template="%Y%m%d%H%M").field
