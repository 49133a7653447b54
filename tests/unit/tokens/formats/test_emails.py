"""Tokens of ``email-domain`` and ``email-safe``, and the addresses that both take."""

import re

import msgspec
import pytest
from email_validator import EmailNotValidError, validate_email
from hypothesis import given
from hypothesis import strategies as st

from harness.formats import could_draw, make, problem, tokens

EXPECTED = "an e-mail address of at most 254 bytes, without quotes, spaces and invisible characters"
KINDS = pytest.mark.parametrize("kind", ["email-domain", "email-safe"])


def is_valid(address: str) -> bool:
    """Ask another library. Return True if it takes the address. It asks no name server."""
    try:
        validate_email(address, check_deliverability=False, test_environment=True)
    except EmailNotValidError:
        return False
    return True


@pytest.mark.parametrize(
    "value",
    [
        "grace@navy.example",
        "ab@test",
        "Grace.Hopper+news@Mail.Navy.Example",
        "o'brien_#1@xn--bcher-kva.example",
        f"{'a' * 64}@{'b' * 63}.{'c' * 63}.{'d' * 57}.ex",
    ],
)
def test_email_domain_keeps_length_and_domain(value: str) -> None:
    """Another library takes each token as an address. It has the length and the domain of the value, to the letter."""
    local, domain = value.split("@")
    for token in tokens(make("email-domain"), value, 100):
        assert re.fullmatch(f"[a-z0-9]{{{len(local)}}}@{re.escape(domain)}", token)
        assert is_valid(token)


def test_email_domain_draws_every_character() -> None:
    """All letters and digits are drawn, at every place."""
    drawn = list(tokens(make("email-domain"), "ab@navy.example", 3000))
    assert [len({token[place] for token in drawn}) for place in (0, 1)] == [36, 36]


def test_email_domain_counts_characters() -> None:
    """A local part outside ASCII has a token of as many characters, and so of fewer bytes. The domain stays."""
    for token in tokens(make("email-domain"), "müller@bücher.example", 20):
        assert re.fullmatch("[a-z0-9]{6}@bücher.example", token)
        assert is_valid(token)


def test_email_domain_refuses_a_local_part_of_one_character() -> None:
    """One character has 36 tokens, which is below ``min_space``."""
    assert (
        problem(make("email-domain"), "a@navy.example") == "a value that can have at least 1,000 tokens of this format"
    )
    assert problem(make("email-domain", min_space=36), "a@navy.example") is None
    assert make("email-domain").space("éa@x.example".encode()) == 36**2


def test_what_email_domain_could_have_drawn() -> None:
    """A token with another domain, another length or other characters is not of this format."""
    form, value = make("email-domain"), "grace@Navy.example"
    assert could_draw(form, value, "0k3xz@Navy.example")
    for token in (
        "0k3xz@navy.example",
        "0k3x@Navy.example",
        "0k3xzz@Navy.example",
        "0k.xz@Navy.example",
        "0K3xz@Navy.example",
        "0k3xz@Navy.example@",
        "0k3xz",
        value,
    ):
        assert not could_draw(form, value, token)


@pytest.mark.parametrize(
    "value", ["a@b", "grace@navy.example", f"{'a' * 64}@{'b' * 63}.example", "müller@bücher.example"]
)
def test_email_safe_can_never_receive_mail(value: str) -> None:
    """Each token is an address of 27 bytes in the domain that RFC 2606 reserves, whatever the length of the value."""
    for token in tokens(make("email-safe"), value, 200):
        assert re.fullmatch(r"[a-z0-9]{12}@[a-z][a-z0-9]{5}\.invalid", token)
        assert is_valid(token.replace(".invalid", ".example"))  # the library refuses the domain on purpose
        with pytest.raises(EmailNotValidError, match="special-use"):
            validate_email(token, check_deliverability=False)


def test_email_safe_draws_every_character() -> None:
    """All letters and digits are drawn, at every place but those that are fixed; the domain begins with a letter."""
    drawn = list(tokens(make("email-safe"), "grace@navy.example", 3000))
    assert [len({token[place] for token in drawn}) for place in range(19)] == [36] * 12 + [1, 26] + [36] * 5


@pytest.mark.parametrize("value", ["grace@navy.invalid", "grace@navy.INVALID", "grace@a.b.Invalid"])
def test_email_safe_refuses_its_tokens(value: str) -> None:
    """An address that ends with .invalid looks like a token, and is refused unless ``refuse_tokens`` is false."""
    assert problem(make("email-safe"), value) == "a value that does not look like a token of this format"
    assert problem(make("email-safe", refuse_tokens=False), value) is None
    assert problem(make("email-domain"), value) is None


def test_email_safe_takes_domains_that_only_look_alike() -> None:
    """Only the whole last label is the mark."""
    assert problem(make("email-safe"), "grace@navyinvalid") is None
    assert problem(make("email-safe"), "grace@navy.invalid.example") is None


def test_email_safe_has_no_min_space() -> None:
    """All values have the same number of tokens, which is more than anybody asks for: there is nothing to set."""
    with pytest.raises(msgspec.ValidationError, match="unknown field `min_space`"):
        make("email-safe", min_space=1)
    assert make("email-safe").space(b"a@b.example") == 36**17 * 26


def test_what_email_safe_could_have_drawn() -> None:
    """A token of another form is not of this format."""
    form, value = make("email-safe"), "grace@navy.example"
    assert could_draw(form, value, "0123456789ab@a00000.invalid")
    for token in (
        "0123456789a@a00000.invalid",
        "0123456789ab@000000.invalid",
        "0123456789ab@a00000.INVALID",
        "0123456789ab@a00000.invalid\n",
        "0k3xz@navy.example",
    ):
        assert not could_draw(form, value, token)


@KINDS
@pytest.mark.parametrize(
    "value",
    [
        "",
        "@",
        "grace",
        "grace@",
        "@navy.example",
        "grace@@navy.example",
        "grace@hopper@navy.example",
        '"grace hopper"@navy.example',
        '"grace@hopper"@navy.example',
        "<grace@navy.example>",
        "Grace <grace@navy.example>",
        "grace@navy.example, alan@navy.example",
        "mailto:grace@navy.example",
        "grace hopper@navy.example",
        " grace@navy.example",
        "grace@navy.example ",
        "grace@navy.example\n",
        "gra\tce@navy.example",
        "gra\x00ce@navy.example",
        "gra\x7fce@navy.example",
        "grace@.navy.example",
        "grace@navy..example",
        "grace@navy.example.",
        "grace@-navy.example",
        "grace@navy-.example",
        "grace@na_vy.example",
        "grace@[192.0.2.1]",
        "grace@navy.example:25",
        f"{'a' * 65}@navy.example",
        f"{'é' * 33}@navy.example",
        f"grace@{'a' * 64}.example",
        f"{'a' * 64}@{'b' * 63}.{'c' * 63}.{'d' * 62}",
        "gra\N{ZERO WIDTH SPACE}ce@navy.example",
        "grace@na\N{SOFT HYPHEN}vy.example",
        "grace@navy.example\N{NO-BREAK SPACE}",
        "\N{ZERO WIDTH NO-BREAK SPACE}grace@navy.example",
        "grace\N{FULLWIDTH COMMERCIAL AT}navy.example",
        "gra\N{FULLWIDTH COMMERCIAL AT}ce@navy.example",
        "grace@navy\N{IDEOGRAPHIC FULL STOP}example",
        "grace@navy\N{FULLWIDTH FULL STOP}example",
        "\N{FULLWIDTH LATIN SMALL LETTER G}race@navy.example",
        "gra\N{RIGHT-TO-LEFT OVERRIDE}ce@navy.example",
    ],
)
def test_other_values_are_refused(kind: str, value: str) -> None:
    """A text that is no address, is more than one, or hides a character is refused. The message has no value."""
    assert problem(make(kind), value) == EXPECTED


@KINDS
@pytest.mark.parametrize(
    "value",
    [
        "da.me..@docomo.example",
        ".dot@navy.example",
        "a!#$%&'*+-/=?^_`{|}~z@navy.example",
        "12345@1.2.3.4",
        "ab@a--b.example",
        "ab@b",
        "用户@例子.example",
        f"{'a' * 64}@{'b' * 63}.{'c' * 63}.{'d' * 61}",
        f"{'é' * 32}@navy.example",
    ],
)
def test_addresses_that_exist_are_accepted(kind: str, value: str) -> None:
    """Unusual addresses fit: dots anywhere, all signs, a domain without a dot, other scripts, the greatest lengths."""
    assert problem(make(kind), value) is None


@KINDS
def test_canonical_spelling(kind: str) -> None:
    """``canonical`` takes ASCII without capital letters only."""
    form = make(kind, spelling="canonical")
    assert problem(form, "grace@navy.example") is None
    for value in ("Grace@navy.example", "grace@Navy.example", "gräce@navy.example", "grace@nävy.example"):
        assert problem(make(kind), value) is None
        assert problem(form, value) == f"{EXPECTED}, in ASCII without capital letters"
    assert form.field == make(kind).field


@given(st.lists(st.text("abAB01-_é", max_size=4), min_size=1, max_size=3))
def test_domains_that_are_accepted_are_domains(labels: list[str]) -> None:
    """Another library takes the tokens of every domain that is accepted, and refuses each domain that is refused."""
    value = f"ab@{'.'.join(labels)}.example"
    if not any("--" in label for label in labels):  # the library looks closer at labels that are encoded
        is_accepted = problem(make("email-domain"), value) is None
        assert is_accepted is is_valid(value)
        assert not is_accepted or all(map(is_valid, tokens(make("email-domain"), value, 2)))


@KINDS
@pytest.mark.parametrize("value", [b"gr\xffce@navy.example", b"gr\xed\xa0\x80ce@navy.example"])
def test_text_that_is_not_utf_8_is_refused(kind: str, value: bytes) -> None:
    """AcraServer stores text in other encodings, too: such values are no addresses."""
    assert make(kind).problem(value) == EXPECTED
