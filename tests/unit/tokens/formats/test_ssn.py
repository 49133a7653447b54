"""Tokens of ``ssn``: numbers that nobody has, judged by python-stdnum."""

import pytest
from stdnum.us import itin, ssn

from harness.formats import could_draw, make, problem, tokens
from token_worker.tokens.formats.base import NOT_A_TOKEN, FormatError


@pytest.mark.parametrize(
    "value", ["536-90-4399", "536904399", "912-70-1234", "000-00-0000", "912-93-4567", "900-00-0001"]
)
def test_tokens_are_nobodys(value: str) -> None:
    """Tokens have the area 9xx and a group from 01 to 49, and the hyphens of the value. The judges accept none."""
    areas, groups, serials = set(), set(), set()
    for token in tokens(make("ssn"), value, 3000):
        digits = token.replace("-", "")
        assert token == (f"{digits[:3]}-{digits[3:5]}-{digits[5:]}" if "-" in value else digits)
        assert not ssn.is_valid(token)
        assert not itin.is_valid(token)
        areas.add(int(digits[:3]))
        groups.add(int(digits[3:5]))
        serials.add(digits[5:])
    assert areas == set(range(900, 1000))
    assert groups == set(range(1, 50))
    assert len(serials) > 2000


@pytest.mark.parametrize(
    "value",
    [
        "",
        "53690439",
        "5369043990",
        "536-904399",
        "53690-4399",
        "536-90-439",
        "536 90 4399",
        "536.90.4399",
        "536-90-4399\n",
        "536-90-4399 ",
        " 536904399",
        "536\N{EN DASH}90\N{EN DASH}4399",
        "536-90-439\N{FULLWIDTH DIGIT NINE}",
        "53690439\N{ARABIC-INDIC DIGIT NINE}",
        "536-90\N{ZERO WIDTH SPACE}-4399",
    ],
)
def test_other_values_are_refused(value: str) -> None:
    """Other lengths, other separators, one hyphen alone, other digits, and anything around the number are refused."""
    assert problem(make("ssn"), value) == "nine digits, or NNN-NN-NNNN"


def test_spellings() -> None:
    """A format can take hyphens alone or digits alone. The tokens are the same, with or without hyphens."""
    canonical, plain = make("ssn", spelling="canonical"), make("ssn", separators="refuse")
    assert problem(canonical, "536904399") == "nine digits written NNN-NN-NNNN"
    assert problem(canonical, "536-90-4399") is None
    assert problem(plain, "536-90-4399") == "nine digits"
    assert problem(plain, "536904399") is None
    assert canonical.field == plain.field == make("ssn").field
    with pytest.raises(FormatError) as refused:
        make("ssn", spelling="canonical", separators="refuse")
    assert refused.value.parameter == "separators"


@pytest.mark.parametrize("token", ["900-01-0000", "999499999", "912-30-1234"])
def test_tokens_are_refused_as_values(token: str) -> None:
    """Values with the mark are refused, unless the settings take them. Their neighbours are values."""
    assert problem(make("ssn"), token) == NOT_A_TOKEN
    assert problem(make("ssn", refuse_tokens=False), token) is None
    for neighbour in ("899-01-0000", "900-00-0000", "999-50-0000"):
        assert problem(make("ssn"), neighbour) is None


def test_the_last_four_can_stay() -> None:
    """With keep_last the serial number stays, which leaves 4,900 tokens: the settings must allow so few."""
    with pytest.raises(FormatError) as refused:
        make("ssn", keep_last=4)
    assert refused.value.parameter == "min_space"
    form = make("ssn", keep_last=4, min_space=4900)
    assert {token[-5:] for token in tokens(form, "536-90-4399", 50)} == {"-4399"}
    assert form.space(b"536904399") == 4900
    assert make("ssn").space(b"536904399") == 49_000_000
    assert len(set(tokens(form, "536904399", 40_000))) == 4900


def test_tokens_of_another_form_are_known() -> None:
    """A token without the mark, with other last digits, or with other hyphens is of another form."""
    form, kept = make("ssn"), make("ssn", keep_last=4, min_space=1)
    assert could_draw(form, "536-90-4399", "900-01-0000")
    assert could_draw(kept, "536-90-4399", "900-01-4399")
    for other in ("800-01-4399", "900-00-4399", "900-50-4399", "900014399", "900-01-439x", "90001-43-99"):
        assert not could_draw(form, "536-90-4399", other)
        assert not could_draw(kept, "536-90-4399", other)
    assert not could_draw(kept, "536-90-4399", "900-01-0000")


def test_the_definition_has_what_changes_tokens() -> None:
    """Only keep_last changes tokens."""
    assert make("ssn").field[4:] == b'{"keep_last":0,"kind":"ssn","type":"str","version":1}'
    assert make("ssn", refuse_tokens=False, min_space=5).field == make("ssn").field
    assert make("ssn", keep_last=4, min_space=1).field != make("ssn").field
