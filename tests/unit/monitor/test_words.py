"""Figures as people read them."""

import pytest

from token_worker.monitor import words


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1.0, "0.0 s"),
        (0.25, "0.2 s"),
        (59.4, "59 s"),
        (61, "1 min 1 s"),
        (300, "5 min"),
        (3599, "59 min"),
        (7260, "2 h 1 min"),
        (86_400 * 3, "3 d 0 h"),
        (86_400 * 400, "400 days"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    """A time span has one or two units."""
    assert words.duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"), [(None, words.NONE), (0, "0"), (0.03, "0.03"), (1.25, "1.2"), (12.3, "12"), (12345.6, "12,346")]
)
def test_rate(number: float | None, text: str) -> None:
    """A rate has the digits that matter; an unknown one is no 0."""
    assert words.rate(number) == text


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (200 << 20, "200 MiB"), (5 << 40, "5.0 TiB")]
)
def test_size(number: int, text: str) -> None:
    """A number of bytes has its unit."""
    assert words.size(number) == text


def test_moment_that_no_calendar_has() -> None:
    """An id can be any number: a time that cannot be is no error."""
    assert words.moment(2.0**64) == words.NONE


def test_long_lists_are_cut() -> None:
    """Of many names the first few stand there, and how many more there are."""
    assert words.listed(["a", "b", "c"]) == "a, b, c"
    assert words.listed([*"abcdefg"]) == "a, b, c and 4 more"
