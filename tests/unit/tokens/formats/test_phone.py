"""The format ``phone``, judged by the Python port of libphonenumber."""

import random
from typing import Any

import msgspec
import phonenumbers
import pytest
from phonenumbers import PhoneNumberFormat, PhoneNumberType

from judge.kinds.phone import as_it_stands, rings
from token_worker.acra.owner import Owner
from token_worker.tokens.derivation import ByteStream, Deriver
from token_worker.tokens.formats.base import NOT_A_TOKEN, FormatError
from token_worker.tokens.formats.phone import Phone, PhoneParameters
from token_worker.tokens.formats.phone_table import DEAD_PREFIXES, ZERO_IN_USE

DERIVER = Deriver(bytes(range(32)), Owner("client", "shop-frontend"))
CODES = [code.decode() for code in DEAD_PREFIXES]
REGIONS = [*phonenumbers.SUPPORTED_REGIONS]
DIGITS = "a phone number with + and a known calling code, 7 to 15 digits"
EXPECTED = f"{DIGITS}, with single spaces, hyphens or dots at most"


def phone(**parameters: Any) -> Phone:
    return Phone("phone", msgspec.convert(parameters, PhoneParameters))


def examples() -> list[str]:
    """Return a number of every type in every region, in international form and in E.164."""
    texts = set()
    for region in REGIONS:
        for kind in PhoneNumberType.values():
            number = phonenumbers.example_number_for_type(region, kind)
            if number is not None:
                texts |= {
                    phonenumbers.format_number(number, form)
                    for form in (PhoneNumberFormat.E164, PhoneNumberFormat.INTERNATIONAL)
                }
    for code in CODES:
        number = phonenumbers.example_number_for_non_geo_entity(int(code))
        if number is not None:
            texts.add(phonenumbers.format_number(number, PhoneNumberFormat.E164))
    return sorted(texts)


def test_no_token_of_any_calling_code_and_length_can_ring() -> None:
    """The judge finds no number in a token, neither as it stands nor after stripping trunk prefixes.

    Calling code, length and the last digits stay.
    """
    rng = random.Random(1)
    for code in CODES:
        for keep_last in (0, 2):
            format_ = phone(keep_last=keep_last, min_space=1)
            for length in range(7, 16):
                digits = "".join(rng.choices("123456789", k=length - len(code)))
                value = f"+{code}{digits}".encode()
                if format_.problem(value) is not None:
                    dead = DEAD_PREFIXES[code.encode()]
                    assert len(digits) <= len(dead) + keep_last or digits.encode().startswith(dead)
                    continue
                for counter in range(4):
                    token = DERIVER.token(format_, value, counter)
                    assert token.startswith(b"+" + code.encode() + DEAD_PREFIXES[code.encode()])
                    assert len(token) == len(value)
                    assert token[len(token) - keep_last :] == value[len(value) - keep_last :]
                    assert not rings(token.decode())
                    assert format_.could_draw(value, token)
                    assert format_.problem(token) == NOT_A_TOKEN


def test_the_judge_finds_numbers_behind_a_single_zero() -> None:
    """Shows why a 0 alone is no dead prefix where the 0 is stripped, and that the judge here does strip."""
    assert rings("+49030901820")
    assert rings("+4902012345678")
    assert rings("+493090182000")
    assert not rings("+49010901820")


def test_every_real_number_is_accepted() -> None:
    """No number in use is taken for a token: examples of every type and region are accepted as they are written."""
    format_ = phone(min_space=1)
    texts = [text for text in examples() if 7 <= sum(map(str.isdigit, text)) <= 15]
    assert len(texts) > 2000
    assert {text: problem for text in texts if (problem := format_.problem(text.encode())) is not None} == {}


def test_random_numbers_in_use_are_never_taken_for_tokens() -> None:
    """Of numbers drawn by chance, none that the judge takes for valid as it stands is refused."""
    rng = random.Random(2)
    format_ = phone(min_space=1)
    seen = 0
    for code in CODES:
        for _ in range(100):
            length = rng.randint(max(7 - len(code), 1), 15 - len(code))
            text = f"+{code}{rng.choice('0123456789')}{''.join(rng.choices('0123456789', k=length - 1))}"
            if phonenumbers.is_valid_number(as_it_stands(text)):
                seen += 1
                assert format_.problem(text.encode()) is None, text
    assert seen > 1000


@pytest.mark.parametrize(
    "value",
    [
        b"+1 (202) 555-0143",
        b"+1.2025550143",
        b"+1(202)5550143",
        b"+44 20 7946 0958",
        b"+49-30-901820",
        b"+39 06 6982",
        b"+225 01 23 45 67 89",
        b"+2905123",
    ],
)
def test_separators_stay_where_they_are(value: bytes) -> None:
    """The token can be read as the value was, with the calling code in its place."""
    format_ = phone()
    assert format_.problem(value) is None
    token = DERIVER.token(format_, value, 0)
    assert [(at, byte) for at, byte in enumerate(token) if not 48 <= byte <= 57] == [
        (at, byte) for at, byte in enumerate(value) if not 48 <= byte <= 57
    ]
    assert format_.could_draw(value, token)
    assert not rings(token.decode())


@pytest.mark.parametrize(
    ("parameters", "value", "token"),
    [
        ({}, b"+1 (202) 555-0143", b"+1 (001) 234-5678"),
        ({}, b"+44 20 7946 0958", b"+44 04 0123 4567"),
        ({"keep_last": 4}, b"+49 30 90182000", b"+49 01 00122000"),
        ({"keep_last": 2}, b"+39 06 6982111", b"+39 00 0123411"),
    ],
)
def test_digits_are_drawn_after_the_dead_prefix(parameters: dict[str, Any], value: bytes, token: bytes) -> None:
    """Drawn from the bytes 0, 1, 2 and so on, the token is the one that the specification tells."""
    assert phone(**parameters).draw(ByteStream(bytes(range(64)), lambda _: b""), value) == token


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"+",
        b"2025550143",
        b"0012025550143",
        b"+120255",  # 6 digits
        b"+1202555014312345",  # 16 digits
        b"+1  2025550143",
        b"+1 202 555 0143 ",
        b" +12025550143",
        b"+ 12025550143",
        b"+12025550143\n",
        b"+(1) 2025550143",
        b"(+1) 2025550143",
        b"+1 202) 555 0143",
        b"+1 (202 555 0143",
        b"+1 ((202)) 5550143",
        b"+1 (202) (555) 0143",
        b"+1 () 2025550143",
        b"+1 (2025550143)",
        b"+1-202-555-0143-",
        b"+1 202/555/0143",
        b"+1 202 - 5550143",
        b"+12025550143 ext. 5",
        b"+12025550143;ext=5",
        b"tel:+12025550143",
        b"+1202CALLNOW",
        b"+4 4 20 7946 0958",  # a separator within the calling code
        b"+999 1234567",  # no calling code
        b"+888 1234 5678",  # a calling code with no dead prefix
        "+1\u00a0202\u00a05550143".encode(),
        "+1 202\u20115550143".encode(),
        "\uff0b12025550143".encode(),
        "+1202555014\u0663".encode(),
        "+12025550143\u200b".encode(),
        b"\xff\xfe",
    ],
)
def test_anything_else_is_refused(value: bytes) -> None:
    """Other spellings are refused whole: another spelling is another value with another token."""
    assert phone().problem(value) == EXPECTED


@pytest.mark.parametrize("value", [b"+44 (0)20 7946 0958", b"+4902030901820", b"+36 06 1 234 5678"])
def test_a_trunk_prefix_after_the_calling_code_is_refused(value: bytes) -> None:
    """With it a number would have two spellings of digits alone, and two tokens."""
    assert phone(refuse_tokens=False).problem(value) == "a phone number without a 0 after its calling code"


def test_zeros_that_belong_to_a_number_are_accepted() -> None:
    """In Italy and some other countries national numbers do begin with 0."""
    assert b"39" in ZERO_IN_USE
    assert phone().problem(b"+39 06 6982") is None


def test_tokens_are_accepted_as_values_on_purpose_only() -> None:
    """With ``refuse_tokens`` false a token may be tokenized again; its token is another one."""
    format_ = phone(refuse_tokens=False)
    value = b"+1 020 555-0143"
    assert phone().problem(value) == NOT_A_TOKEN
    assert format_.problem(value) is None
    assert format_.field == phone().field
    assert not format_.could_draw(value, value)


@pytest.mark.parametrize("parameters", [{"spelling": "canonical"}, {"separators": "refuse"}])
def test_separators_can_be_refused(parameters: dict[str, Any]) -> None:
    """One number then has one spelling, so one token."""
    format_ = phone(**parameters)
    assert format_.problem(b"+1 2025550143") == f"{DIGITS}, without separators"
    assert format_.problem(b"+12025550143") is None


def test_few_tokens_are_refused() -> None:
    """A value with fewer than ``min_space`` tokens is refused, also one that is shorter than what is kept."""
    assert phone().space(b"+12025550143") == 10**9
    assert phone(keep_last=4).space(b"+33123456789") == 100
    few = "a value that can have at least 1,000 tokens of this format"
    assert phone(keep_last=4).problem(b"+33123456789") == few
    assert phone(keep_last=4, min_space=100).problem(b"+33123456789") is None
    assert phone(keep_last=3).problem(b"+33123456789") is None
    assert (
        phone(keep_last=9, min_space=1).problem(b"+3531234") == "a value that can have at least 1 tokens of this format"
    )
    with pytest.raises(FormatError) as raised:
        phone(keep_last=9, min_space=10**5)
    assert raised.value.parameter == "min_space"


@pytest.mark.parametrize(
    ("parameters", "token"),
    [
        ({}, b"+44 04 1234 567"),
        ({}, b"+44-04-1234-5678"),
        ({}, b"+44 00 1234 5678"),
        ({}, b"+49 04 1234 5678"),
        ({}, b"044 04 1234 5678"),
        ({}, b"+44 04 1234 567x"),
        ({"keep_last": 4}, b"+44 04 1234 5678"),
        ({}, b"+44 20 7946 0958"),
        ({}, b"2BWWvDUc69KlRpBM"),
    ],
)
def test_tokens_of_other_forms_are_known(parameters: dict[str, Any], token: bytes) -> None:
    """A reply says ``other`` for a token that this format cannot have drawn for the value."""
    assert not phone(**parameters).could_draw(b"+44 20 7946 0958", token)
