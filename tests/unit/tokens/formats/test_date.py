"""Tokens of ``date``: days in the range, written as the value is."""

from datetime import date, datetime, timedelta
from typing import Any

import pytest

from harness.formats import could_draw, make, problem, tokens
from token_worker.tokens.formats.base import FormatError

FIRST, LAST = date(1900, 1, 1), date(2099, 12, 31)


def test_tokens_are_dates_of_the_range() -> None:
    """A token is a date that the standard library reads. All years of the range are met, and nothing outside."""
    days = [date.fromisoformat(token) for token in tokens(make("date"), "1984-02-29", 4000)]
    assert {day.year for day in days} == set(range(1900, 2100))
    assert all(FIRST <= day <= LAST for day in days)


def test_every_day_can_be_a_token() -> None:
    """The first and the last day of a range are drawn, too, each about as often as any other."""
    drawn = list(tokens(make("date", min="2024-02-27", max="2024-03-02", min_space=5), "2024-02-28", 5000))
    counts = {day: drawn.count(day) for day in drawn}
    assert sorted(counts) == ["2024-02-27", "2024-02-28", "2024-02-29", "2024-03-01", "2024-03-02"]
    assert all(900 < count < 1100 for count in counts.values())


def test_the_number_of_tokens_is_that_of_the_days() -> None:
    """``space`` is exact: whether another candidate is worth a try depends on it."""
    assert make("date").space(b"1984-02-29") == 73_049
    assert make("date", keep_year=True).space(b"1984-02-29") == 366
    assert make("date", keep_year=True, min="1984-02-01").space(b"1984-02-29") == 366 - 31
    assert make("date", keep_year=True, max="1984-11-30").space(b"1984-02-29") == 366 - 31


def test_keep_year() -> None:
    """With ``keep_year`` a token has the year of its value, and is in the range, also where the range cuts the year."""
    form = make("date", keep_year=True, min="1984-03-01")
    drawn = {date.fromisoformat(token) for token in tokens(form, "1984-03-01", 6000)}
    assert drawn == {date(1984, 3, 1) + timedelta(days) for days in range(306)}


@pytest.mark.parametrize(
    "value",
    [
        "1899-12-31",
        "2100-01-01",
        "2023-02-29",
        "1900-02-29",
        "2024-00-10",
        "2024-13-10",
        "2024-01-00",
        "0000-01-01",
        "20240229",
        "2024-2-29",
        "24-02-29",
        "2024/02/29",
        "2024-02-29 ",
        " 2024-02-29",
        "2024-02-29\n",
        "2024-02-29T00:00",
        "2024\N{HYPHEN}02\N{HYPHEN}29",
        "202\N{FULLWIDTH DIGIT FOUR}-02-29",
        "202\N{ARABIC-INDIC DIGIT FOUR}-02-29",
        "+2024-02-29",
        "2024-060",
        "2024-W09-4",
        "",
    ],
)
def test_other_values_are_refused(value: str) -> None:
    """Days outside the range, days that do not exist, and other spellings are refused. The message has no value."""
    assert problem(make("date"), value) == "a date as YYYY-MM-DD, from 1900-01-01 to 2099-12-31"


def test_a_year_with_few_tokens_is_refused() -> None:
    """A value whose year has fewer days in the range than ``min_space`` is refused, others of the same format fit."""
    form = make("date", keep_year=True, min="1950-06-01")
    assert problem(form, "1950-07-01") == "a value that can have at least 300 tokens of this format"
    assert problem(form, "1951-07-01") is None


TEMPLATES = {
    "%d.%m.%Y": "29.02.1984",
    "%-d.%-m.%Y": "5.10.1984",
    "%m/%d/%Y": "02/29/1984",
    "%Y%m%d": "19840229",
    "%Y-%j": "1984-366",
    "%Y年%-m月%-d日": "1984年2月29日",
    "100%%: %Y-%m-%d": "100%: 1984-02-29",
}


@pytest.mark.parametrize(("template", "value"), TEMPLATES.items())
def test_tokens_are_written_as_the_template_says(template: str, value: str) -> None:
    """The standard library reads each token with the same template, and writes it the same way."""
    unpadded = template.replace("%-", "%")  # what strptime calls the same, it takes with and without zeros
    for token in tokens(make("date", template=template), value, 500):
        day = datetime.strptime(token, unpadded).date()  # noqa: DTZ007 - a date has no zone
        assert FIRST <= day <= LAST
        written = day.strftime(template.replace("%-d", str(day.day)).replace("%-m", str(day.month)))
        assert token == written


def test_fields_of_two_digits_have_two_digits() -> None:
    """``%d`` takes no single digit, and ``%-d`` no leading zero: one date has one spelling in one template."""
    fixed, open_ = make("date", template="%d.%m.%Y"), make("date", template="%-d.%-m.%Y")
    assert problem(fixed, "05.02.1984") is None
    assert problem(fixed, "5.2.1984") == "a date as DD.MM.YYYY, from 1900-01-01 to 2099-12-31"
    assert problem(open_, "5.2.1984") is None
    assert problem(open_, "05.02.1984") == "a date as D.M.YYYY, from 1900-01-01 to 2099-12-31"
    assert problem(open_, "0.2.1984") is not None
    assert problem(fixed, "05x02.1984") is not None  # a dot stands for itself


def test_days_of_the_year_end_with_the_year() -> None:
    """``%j`` takes 366 in leap years only, and 000 never."""
    form = make("date", template="%Y%j")
    assert [problem(form, day) is None for day in ("1984366", "1983365", "1983366", "1984000", "1984367")] == [
        True,
        True,
        False,
        False,
        False,
    ]


def test_years_of_two_digits_are_in_the_range() -> None:
    """The range tells the century of ``%y``, to the day: at both ends and for leap days."""
    form = make("date", template="%y%m%d", min="1950-06-02", max="2050-06-01", keep_year=True, min_space=1)
    days = {date(1950, 6, 2), date(1950, 12, 31), date(1999, 1, 1), date(2000, 2, 29), date(2050, 1, 1)}
    for day in sorted(days):
        value = day.strftime("%y%m%d")
        first, last = max(day.replace(month=1, day=1), date(1950, 6, 2)), min(day.replace(month=12, day=31), LAST)
        if day.year == 2050:
            last = date(2050, 6, 1)
        assert form.space(value.encode()) == (last - first).days + 1
        assert all(first <= _near(day, token) <= last for token in tokens(form, value, 300))
    assert problem(form, "500229") is not None  # neither 1950 nor 2050 has it


def _near(day: date, token: str) -> date:
    return date(day.year - day.year % 100 + int(token[:2]), int(token[2:4]), int(token[4:]))


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("%d.%m", "the year is missing: %Y, or %y"),
        ("%m %Y", "the day is missing: %m and %d, or %j"),
        ("%d.%m.%Y %j", "character 10: %j says again what stands before"),
        ("%Y %j %d", "character 7: %d says again what stands before"),
        ("%Y-%m-%d %Y", "character 10: %Y says again what stands before"),
        ("%y %Y-%m-%d", "character 4: %Y says again what stands before"),
        ("%d %m%-m %Y", "character 6: %-m says again what stands before"),
        ("%d.%m.%y", "%y does not tell the century: set min and max less than 100 years apart"),
        ("%Y%m%d%H%M", "character 7: a date has no %H; the kind datetime has"),
        ("%Y-%m-%d%z", "character 9: a date has no %z; the kind datetime has"),
        ("%d %b %Y", "character 4: there is no directive %b"),
        ("%Y-%m-%d %", "character 10: there is no directive %"),
        ("%Y-%m-%-", "character 7: there is no directive %-"),
        ("%-Y-%m-%d", "character 1: there is no directive %-Y"),
        ("%Y-%m-%d\t", "character 9: a control character"),
        ("%-d%m%Y", "character 4: %-d and %m cannot be told apart: put something other than a digit between them"),
        ("%Y%-m.%d", "character 3: %Y and %-m cannot be told apart: put something other than a digit between them"),
        ("%-d%-m %Y", "character 4: %-d and %-m cannot be told apart: put something other than a digit between them"),
        ("%-d1.%m.%Y", "character 4: %-d and 1 cannot be told apart: put something other than a digit between them"),
        ("1%-d.%m.%Y", "character 2: 1 and %-d cannot be told apart: put something other than a digit between them"),
    ],
)
def test_templates_that_do_not_tell_the_date_are_refused(template: str, text: str) -> None:
    """A template that can be read in two ways, or does not tell the date, is refused at start, with the place."""
    with pytest.raises(FormatError) as raised:
        make("date", template=template)
    assert (raised.value.parameter, str(raised.value)) == ("template", text)


@pytest.mark.parametrize(
    ("parameters", "parameter"),
    [
        ({"min": "2000-01-01", "max": "1999-12-31"}, "max"),
        ({"min": "2000-01-01", "max": "2000-09-30"}, "min_space"),
        ({"keep_year": True, "min": "2000-06-01", "max": "2001-06-01"}, "min_space"),
        ({"template": "%d%m%y", "min": "1950-06-01", "max": "2050-06-01"}, "template"),
    ],
)
def test_ranges_without_tokens_are_refused(parameters: dict[str, Any], parameter: str) -> None:
    """A range that is empty, too small for ``min_space``, or too large for two digits is refused at start."""
    with pytest.raises(FormatError) as raised:
        make("date", **parameters)
    assert raised.value.parameter == parameter


def test_what_could_have_been_drawn() -> None:
    """A token of another year, outside the range, of another spelling, or equal to the value is not of this format."""
    form = make("date", min="1984-01-15", keep_year=True)
    assert could_draw(form, "1984-02-29", "1984-12-31")
    for token in ("1985-02-28", "1984-01-14", "19841231", "1984-02-30", "1984-02-29", "zdHuKE3u1x"):
        assert not could_draw(form, "1984-02-29", token)


def test_the_definition_has_what_changes_tokens() -> None:
    """Template and range are in the definition, in the canonical form of RFC 8785. Those that only refuse are not."""
    form = make("date", template="%Y年%m月%d日", max="2019-12-31", min_space=10)
    assert form.field[4:].decode() == (
        '{"keep_year":false,"kind":"date","max":"2019-12-31","min":"1900-01-01","template":"%Y年%m月%d日","type":"str"'
        ',"version":1}'
    )
