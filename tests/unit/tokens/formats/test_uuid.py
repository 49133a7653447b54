"""Tokens of ``uuid``: version 8, written as the value is."""

import uuid

import msgspec
import pytest

from harness.formats import could_draw, make, problem, tokens

VALUE = "f81d4fae-7dec-11d0-a765-00a0c91e6bf6"
EXPECTED = "a UUID as 32 hexadecimal digits in groups of 8-4-4-4-12, all lower case or all upper case"


def test_tokens_are_uuids_of_version_8() -> None:
    """The standard library reads each token as version 8 of RFC 9562. All other bits are drawn."""
    ones, zeros = 0, 2**128 - 1
    for token in tokens(make("uuid"), VALUE, 300):
        read = uuid.UUID(token)
        assert (read.version, read.variant, str(read)) == (8, uuid.RFC_4122, token)
        ones, zeros = ones | read.int, zeros & read.int
    assert zeros == 8 << 76 | 2 << 62
    assert ones == 2**128 - 1 - (7 << 76) - (1 << 62)


@pytest.mark.parametrize(
    ("value", "form"),
    [
        (VALUE, "{}"),
        (VALUE.upper(), "{}"),
        (f"urn:uuid:{VALUE}", "urn:uuid:{}"),
        (f"urn:uuid:{VALUE.upper()}", "urn:uuid:{}"),
        (str(uuid.UUID(int=0)), "{}"),
        (str(uuid.UUID(int=2**128 - 1)), "{}"),
    ],
)
def test_the_form_of_the_value_is_kept(value: str, form: str) -> None:
    """The prefix and the case stay. A value of digits alone has tokens of lower case."""
    is_upper = value.removeprefix("urn:uuid:").isupper()
    for token in tokens(make("uuid"), value, 50):
        text = form.format(uuid.UUID(token))
        assert token == (text[:-36] + text[-36:].upper() if is_upper else text)


@pytest.mark.parametrize(
    "value",
    [
        "F81d4fae-7dec-11d0-a765-00a0c91e6bf6",
        VALUE.replace("-", ""),
        f"{{{VALUE}}}",
        f"URN:UUID:{VALUE}",
        f"urn:uuid:urn:uuid:{VALUE}",
        f"urn:uuid:{VALUE.replace('-', '')}",
        f"{VALUE} ",
        f"{VALUE}\n",
        VALUE[:-1],
        f"{VALUE}0",
        VALUE.replace("f", "g"),
        VALUE.replace("-", "\N{HYPHEN}"),
        VALUE.replace("0", "\N{FULLWIDTH DIGIT ZERO}"),
        "f81d4fae7-dec-11d0-a765-00a0c91e6bf6",
        "",
    ],
)
def test_other_values_are_refused(value: str) -> None:
    """Mixed case and forms that RFC 9562 does not have are refused. The message has no value."""
    assert problem(make("uuid"), value) == EXPECTED


def test_canonical_spelling() -> None:
    """``canonical`` takes lower case without prefix only."""
    form = make("uuid", spelling="canonical")
    assert problem(form, VALUE) is None
    for value in (VALUE.upper(), f"urn:uuid:{VALUE}"):
        assert problem(form, value) == "a UUID as 32 hexadecimal digits in lower case, in groups of 8-4-4-4-12"


def test_refuse_tokens() -> None:
    """Values of version 8 fit by default, since version 8 is in use. ``refuse_tokens`` refuses them, in each case."""
    refusing = make("uuid", refuse_tokens=True)
    assert problem(refusing, VALUE) is None
    for token in [*tokens(make("uuid"), VALUE, 20), *tokens(make("uuid"), f"urn:uuid:{VALUE.upper()}", 20)]:
        assert problem(make("uuid"), token) is None
        assert problem(refusing, token) == "a value that does not look like a token of this format"
    assert problem(refusing, "f81d4fae-7dec-81d0-c765-00a0c91e6bf6") is None  # of version 8 only in variant 10


def test_there_is_no_min_space() -> None:
    """All values have the same number of tokens, which is more than anybody asks for: there is nothing to set."""
    with pytest.raises(msgspec.ValidationError, match="unknown field `min_space`"):
        make("uuid", min_space=1)
    assert make("uuid").space(VALUE.encode()) == 2**122


def test_what_could_have_been_drawn() -> None:
    """A token of another version, variant, case or form is not of this format."""
    token = "0b6e42c2-3dab-8f6b-9e6d-2f0a4d6f9a1b"
    form = make("uuid")
    assert could_draw(form, VALUE, token)
    assert could_draw(form, VALUE.upper(), token.upper())
    assert could_draw(form, f"urn:uuid:{VALUE}", f"urn:uuid:{token}")
    for other in (
        token.upper(),
        f"urn:uuid:{token}",
        token.replace("8f6b", "4f6b"),
        token.replace("9e6d", "ce6d"),
        token.replace("-", ""),
        "zdHuKE3u1x",
    ):
        assert not could_draw(form, VALUE, other)
    assert not could_draw(form, token, token)
