"""Tokens of ``pan``: judged by the Luhn check of python-stdnum."""

from itertools import product
from random import Random

import pytest
from stdnum import luhn

from harness.formats import could_draw, make, problem, tokens
from judge.kinds import pan
from token_worker.tokens.formats.base import NOT_A_TOKEN, FormatError
from token_worker.tokens.formats.pan import luhn_sum

VALUE = "4111111111111111"
LUHN = "13 to 19 digits that pass the Luhn check"
EXPECTED = f"{LUHN}, with single spaces or hyphens at most"


def number(length: int) -> str:
    digits = "4929305718264037158"[: length - 1]
    return digits + str(luhn.calc_check_digit(digits))


def test_the_check_is_the_one_of_the_standard() -> None:
    """The sum is 0 exactly for the numbers that the other library accepts, of every length."""
    random = Random(1)
    for _ in range(3000):
        digits = str(random.randrange(10 ** random.randint(1, 20)))
        assert (luhn_sum(digits.encode()) == 0) is luhn.is_valid(digits)


@pytest.mark.parametrize("value", [number(length) for length in range(13, 20)])
def test_lengths(value: str) -> None:
    """Numbers of 13 to 19 digits get tokens that fail the check and end as the value does."""
    for token in tokens(make("pan"), value, 100):
        assert token.isdigit()
        assert not luhn.is_valid(token)
        assert (len(token), token[-4:]) == (len(value), value[-4:])


def test_every_place_is_drawn() -> None:
    """Each digit that is not kept takes every value."""
    met = list(tokens(make("pan"), VALUE, 400))
    assert [len({token[at] for token in met}) for at in range(16)] == [10] * 12 + [1] * 4


@pytest.mark.parametrize(
    "value",
    [
        number(12),
        number(20),
        VALUE[:-1] + "2",
        "",
        f"{VALUE} ",
        f" {VALUE}",
        f"{VALUE}\n",
        f"{VALUE}-",
        "4111  111111111111",
        "4111 -111111111111",
        "4111\t111111111111",
        "4111.1111.1111.1111",
        "4111\N{NO-BREAK SPACE}1111\N{NO-BREAK SPACE}1111\N{NO-BREAK SPACE}1111",
        "4111\N{NON-BREAKING HYPHEN}111111111111",
        "4111\N{ZERO WIDTH SPACE}111111111111",
        VALUE.replace("4", "\N{FULLWIDTH DIGIT FOUR}"),
        VALUE.replace("4", "\N{ARABIC-INDIC DIGIT FOUR}"),
        "+" + VALUE[1:],
        VALUE.replace("4", "four"),
    ],
)
def test_other_values_are_refused(value: str) -> None:
    """Wrong lengths, a wrong check digit, other separators, other digits, and anything around a number are refused."""
    assert problem(make("pan"), value) == EXPECTED


def test_bytes_that_are_no_text_are_refused() -> None:
    """Bytes that are not UTF-8 are refused as any other value that does not fit."""
    assert make("pan").problem(b"4111111111111\xff\xfe") == EXPECTED


@pytest.mark.parametrize("parameters", [{"separators": "refuse"}, {"spelling": "canonical"}])
def test_digits_alone(parameters: dict[str, str]) -> None:
    """A format can refuse separators. Tokens are the same."""
    form = make("pan", **parameters)
    assert problem(form, "4111-1111-1111-1111") == f"{LUHN}, without separators"
    assert list(tokens(form, VALUE, 3)) == list(tokens(make("pan"), VALUE, 3))


@pytest.mark.parametrize(
    "value", ["4111 1111 1111 1111", "4111-1111-1111-1111", "4-1 11111111111111", "41-11111111111 11-1"]
)
def test_separators_stay(value: str) -> None:
    """Separators are where the value has them, and nowhere else."""
    form = make("pan")
    for token in tokens(form, value, 50):
        assert pan.separators(token) == pan.separators(value)
        assert not pan.is_luhn(token)
        assert not could_draw(form, value, pan.number(token))
        assert not could_draw(form, value, token.replace(" ", "-") if " " in token else token.replace("-", " "))


@pytest.mark.parametrize(("first", "last"), [(0, 0), (6, 4), (8, 4), (1, 9), (12, 1), (0, 9)])
@pytest.mark.parametrize("token", ["invalid", "valid"])
def test_kept_digits(first: int, last: int, token: str) -> None:
    """The first and the last digits stay, and those between them change. Valid tokens pass the check, others do not."""
    form = make("pan", keep_first=first, keep_last=last, token=token, real_numbers=first > 0, min_space=1)
    for value in (number(19), number(16)):
        drawn = list(tokens(form, value, 60))
        assert len(set(drawn)) > 1
        for each in drawn:
            assert (each[:first], each[len(each) - last :]) == (value[:first], value[len(value) - last :])
            assert luhn.is_valid(each) is (token == "valid")


@pytest.mark.parametrize("length", range(13, 20))
def test_valid_tokens_begin_with_the_mark(length: int) -> None:
    """Valid tokens begin with 99. A value that begins so is refused, unless the settings take it."""
    value = number(length)
    form, open_form = make("pan", token="valid"), make("pan", token="valid", refuse_tokens=False)
    for token in tokens(form, value, 50):
        assert luhn.is_valid(token)
        assert token.startswith("99")
        assert problem(form, token) == NOT_A_TOKEN
        assert problem(open_form, token) is None


def test_tokens_of_another_form_are_known() -> None:
    """A token that the check judges otherwise, without the mark, or with other kept digits is of another form."""
    marked, unmarked = (head + luhn.calc_check_digit(head) for head in ("990000000000000", "980000000000000"))
    valid, invalid = make("pan", token="valid", keep_last=0), make("pan", keep_last=0)
    assert could_draw(valid, VALUE, marked)
    assert not could_draw(valid, VALUE, unmarked)
    assert not could_draw(invalid, VALUE, marked)
    assert not could_draw(valid, VALUE, "9900000000001111")
    assert could_draw(invalid, VALUE, "9900000000001111")
    assert could_draw(make("pan"), VALUE, "9900000000001111")
    assert not could_draw(make("pan"), VALUE, "9900000000001112")
    assert not could_draw(make("pan", keep_first=1), VALUE, "9900000000001111")


def test_national_cards_are_values() -> None:
    """Cards of national schemes begin with 9 and the country's number. Formats with valid tokens take them."""
    form = make("pan", token="valid")
    for scheme in ("9112", "9704", "9792", "9860", "9051", "9417"):
        digits = scheme + "38000000000"
        assert problem(form, digits + luhn.calc_check_digit(digits)) is None


def test_any_token() -> None:
    """With ``any``, one token in ten passes the check."""
    drawn = list(tokens(make("pan", token="any", real_numbers=True), VALUE, 1000))
    assert 60 < sum(map(luhn.is_valid, drawn)) < 140


@pytest.mark.parametrize(
    ("parameters", "wrong"),
    [
        ({"token": "valid", "keep_first": 6}, "token"),
        ({"token": "any"}, "token"),
        ({"refuse_tokens": False}, "refuse_tokens"),
        ({"refuse_tokens": True, "token": "any", "real_numbers": True}, "refuse_tokens"),
        ({"refuse_tokens": True, "token": "valid", "keep_first": 6, "real_numbers": True}, "refuse_tokens"),
        ({"keep_first": 12, "keep_last": 9, "min_space": 1}, "min_space"),
        ({"keep_first": 12, "keep_last": 4}, "min_space"),
        ({"token": "valid", "keep_last": 9, "min_space": 10**8}, "min_space"),
    ],
)
def test_parameters_that_contradict(parameters: dict[str, object], wrong: str) -> None:
    """Parameters by which a token is somebody's card, has no effect, or has no room are refused at start."""
    with pytest.raises(FormatError) as refused:
        make("pan", **parameters)
    assert refused.value.parameter == wrong


def test_short_numbers_that_keep_too_much() -> None:
    """A number of which too few digits are drawn is refused, while longer ones get tokens."""
    form = make("pan", keep_first=6)
    assert problem(form, number(13)) == "a value that can have at least 10,000 tokens of this format"
    assert problem(form, number(14)) is None
    least = make("pan", keep_first=6, keep_last=7, min_space=1)
    assert problem(least, number(13)) is not None
    assert problem(least, number(14)) is None


def test_spaces() -> None:
    """The space counts the digits that are drawn: all that is neither kept, nor of the mark, nor the check digit."""
    real = {"real_numbers": True, "min_space": 1}
    for (token, first, last), drawn in {
        ("invalid", 0, 4): 12,
        ("invalid", 6, 4): 6,
        ("any", 0, 0): 16,
        ("valid", 0, 4): 9,
        ("valid", 0, 0): 13,
        ("valid", 6, 4): 5,
    }.items():
        form = make("pan", token=token, keep_first=first, keep_last=last, **real)
        assert form.space(VALUE.encode()) == 10**drawn
    narrow = make("pan", keep_first=6, keep_last=9, min_space=10)
    assert len(set(tokens(narrow, VALUE, 300))) == 9  # the tenth is the value's own digit, which passes the check


def test_the_definition_has_what_changes_tokens() -> None:
    """Only keep_first, keep_last and token change tokens; other parameters leave them as they are."""
    plain = make("pan").field
    assert plain[4:] == b'{"keep_first":0,"keep_last":4,"kind":"pan","token":"invalid","type":"str","version":1}'
    for parameters in ({"separators": "refuse"}, {"spelling": "canonical"}, {"min_space": 7}, {"real_numbers": True}):
        assert make("pan", **parameters).field == plain
    fields = [
        make("pan", keep_first=first, keep_last=last, token=token, real_numbers=True).field
        for first, last, token in product((0, 6), (0, 4), ("invalid", "valid", "any"))
    ]
    assert len(set(fields)) == len(fields)
