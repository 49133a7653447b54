"""The format ``iban``, judged by python-stdnum."""

import collections
import random
import string
from typing import Any

import msgspec
import pytest
from stdnum import iban as judge

from token_worker.acra.owner import Owner
from token_worker.tokens.derivation import ByteStream, Deriver
from token_worker.tokens.formats.base import FormatError
from token_worker.tokens.formats.iban import Iban, IbanParameters
from token_worker.tokens.formats.iban_table import STRUCTURES

DERIVER = Deriver(bytes(range(32)), Owner("client", "shop-frontend"))
GERMAN = b"DE89 3704 0044 0532 0130 00"
ITALIAN = b"IT60X0542811101000000123456"
ALBANIAN = b"AL47212110090000000235698741"
MAURITIAN = b"MU17BOMM0101101030300200000MUR"
ICELANDIC = b"IS140159260076545510730339"
CHARACTERS = {
    "n": string.digits,
    "a": string.ascii_uppercase,
    "c": string.digits + string.ascii_uppercase,
}


def iban(**parameters: Any) -> Iban:
    return Iban("iban", msgspec.convert(parameters, IbanParameters))


def valid_iban(country: bytes, rng: random.Random, *, grouped: bool = False) -> bytes:
    """Make a valid IBAN by the judge's arithmetic."""
    parts = STRUCTURES[country][0].split()
    bban = "".join(rng.choice(CHARACTERS[part[-1]]) for part in parts for _ in range(int(part[:-1])))
    number = country.decode() + judge.calc_check_digits(f"{country.decode()}00{bban}") + bban
    return (judge.format(number) if grouped else number).encode()


def bank_of(number: bytes) -> bytes:
    _, start, end = STRUCTURES[number[:2]]
    return number.replace(b" ", b"")[4 + start : 4 + end]


@pytest.mark.parametrize("keep_bank", [False, True])
@pytest.mark.parametrize("token_check", ["invalid", "valid"])
def test_tokens_of_every_country_are_judged(token_check: str, keep_bank: bool) -> None:
    """The judge accepts no invalid token and every valid one; country, structure, spaces and bank are kept."""
    rng = random.Random(1)
    format_ = iban(token=token_check, keep_bank=keep_bank, real_numbers=True)
    for country in STRUCTURES:
        for counter in range(20):
            value = valid_iban(country, rng, grouped=counter % 2 == 0)
            assert format_.problem(value) is None
            token = DERIVER.token(format_, value, counter)
            text = token.decode()
            assert judge.is_valid(text, check_country=False) == (token_check == "valid")
            right = text[:2] + judge.calc_check_digits(text) + text[4:]
            assert judge.is_valid(right, check_country=False)
            assert (token[:2], len(token)) == (country, len(value))
            assert [at for at, byte in enumerate(token) if byte == 32] == [
                at for at, byte in enumerate(value) if byte == 32
            ]
            assert 2 <= int(token[2:4]) <= 98
            assert not keep_bank or bank_of(token) == bank_of(value)
            assert token != value
            assert format_.could_draw(value, token)


def test_no_token_is_accepted_as_a_value() -> None:
    """An invalid token cannot be tokenized again by mistake."""
    format_ = iban()
    for counter in range(1000):
        assert format_.problem(DERIVER.token(format_, GERMAN, counter)) == format_.expected


def test_every_wrong_check_digits_are_drawn_alike() -> None:
    """Each of the 96 wrong pairs comes up about as often: the check digits tell nothing but that they are wrong."""
    format_ = iban()
    distances: collections.Counter[int] = collections.Counter()
    for counter in range(19_200):
        token = DERIVER.token(format_, GERMAN, counter).decode()
        distances[(int(token[2:4]) - int(judge.calc_check_digits(token))) % 97] += 1
    assert set(distances) == set(range(1, 97))
    assert all(130 < count < 280 for count in distances.values())


@pytest.mark.parametrize(
    ("parameters", "token"),
    [
        ({}, b"IT__B0123456789ABCDEFGHIJKL"),
        ({"keep_bank": True}, b"IT__B054280123456789ABCDEFG"),
    ],
)
def test_characters_are_drawn_from_left_to_right_then_the_check_digits(
    parameters: dict[str, Any], token: bytes
) -> None:
    """Drawn from the bytes 1, 0, 1, 2, 3 and so on, the token is the one that the specification tells."""
    drawn = 22 if not parameters else 17
    stream = ByteStream(bytes([1, *range(63)]), lambda _: b"")
    right = int(judge.calc_check_digits(token.decode().replace("_", "0")))
    check = [number for number in range(2, 99) if number != right][drawn]
    assert iban(**parameters).draw(stream, ITALIAN) == token.replace(b"__", b"%02d" % check)


@pytest.mark.parametrize(
    ("value", "bank"),
    [
        (GERMAN, b"37040044"),
        (ITALIAN, b"05428"),
        (ALBANIAN, b"212"),
        (MAURITIAN, b"BOMM01"),
        (ICELANDIC, b"01"),
        (b"XK051212012345678906", b"12"),
        (b"GB29NWBK60161331926819", b"NWBK"),
    ],
)
def test_bank_identifiers_are_those_of_the_registry(value: bytes, bank: bytes) -> None:
    """The registry's own examples: the bank identifier stays with ``keep_bank``, and changes without."""
    assert bank_of(value) == bank
    kept = {bank_of(DERIVER.token(iban(keep_bank=True), value, counter)) for counter in range(50)}
    drawn = {bank_of(DERIVER.token(iban(), value, counter)) for counter in range(50)}
    assert kept == {bank}
    assert len(drawn) > 10


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"DE",
        b"DE88370400440532013000",  # wrong check digits
        b"DE8937040044053201300",  # too short
        b"DE893704004405320130000",  # too long
        b"de89370400440532013000",
        b"GB29nwbk60161331926819",
        b"DE89-3704-0044-0532-0130-00",
        b"DE89 37040044 0532013000",
        b"DE 89370400440532013000",
        b"DE89  3704 0044 0532 0130 00",
        b"DE89 3704 0044 0532 0130 00 ",
        b" DE89370400440532013000",
        b"DE89370400440532013000\n",
        b"IBAN DE89370400440532013000",
        "DE89\u00a03704\u00a00044\u00a00532\u00a00130\u00a000".encode(),
        "\uff24\uff2589370400440532013000".encode(),
        "DE8937040044053201300\u0660".encode(),
        "DE89370400440532013000\u200b".encode(),
        b"GB29N1BK60161331926819",  # a digit where the structure has a letter
        b"QQ89370400440532013000",  # no country of the registry
        b"\xff\xfe",
    ],
)
def test_anything_else_is_refused(value: bytes) -> None:
    """Other spellings are refused whole: another spelling is another value with another token."""
    assert iban().problem(value) == (
        "an IBAN in capital letters with the right check digits, without spaces or in groups of four"
    )


@pytest.mark.parametrize("residue_pair", [0, 1, 99])
def test_check_digits_outside_02_to_98_are_refused(residue_pair: int) -> None:
    """00, 01 and 99 are equal to 97, 98 and 02 modulo 97, but no IBAN has them."""
    rng = random.Random(2)
    right = {0: 97, 1: 98, 99: 2}[residue_pair]
    value = next(made for made in iter(lambda: valid_iban(b"DE", rng), b"") if int(made[2:4]) == right)
    assert iban().problem(value) is None
    other = b"%b%02d%b" % (value[:2], residue_pair, value[4:])
    assert judge.is_valid(other.decode(), check_country=False)
    assert iban().problem(other) is not None


@pytest.mark.parametrize("parameters", [{"spelling": "canonical"}, {"separators": "refuse"}])
def test_spaces_can_be_refused(parameters: dict[str, Any]) -> None:
    """One account number then has one spelling, so one token."""
    format_ = iban(**parameters)
    assert format_.problem(GERMAN) == "an IBAN in capital letters with the right check digits, without spaces"
    assert format_.problem(GERMAN.replace(b" ", b"")) is None
    assert format_.field == iban().field


@pytest.mark.parametrize(
    ("parameters", "parameter"),
    [
        ({"token": "valid", "keep_bank": True}, "token"),
        ({"token": "valid", "real_numbers": True, "refuse_tokens": True}, "refuse_tokens"),
        ({"refuse_tokens": False}, "refuse_tokens"),
    ],
)
def test_parameters_that_promise_too_much_are_refused(parameters: dict[str, Any], parameter: str) -> None:
    """A valid token can be an account, and there is no mark to tell it by."""
    with pytest.raises(FormatError) as raised:
        iban(**parameters)
    assert raised.value.parameter == parameter


def test_any_is_no_choice() -> None:
    """One token in 97 would be valid, for no use."""
    with pytest.raises(msgspec.ValidationError):
        iban(token="any", real_numbers=True)


def test_space_is_the_number_of_tokens() -> None:
    """Drawn places by class, times the wrong check digits."""
    norwegian = b"NO9386011117947"
    assert iban().space(norwegian) == 10**11 * 96
    assert iban(keep_bank=True).space(norwegian) == 10**7 * 96
    assert iban(token="valid", real_numbers=True).space(norwegian) == 10**11
    assert iban(keep_bank=True).space(ITALIAN) == 26 * 10**5 * 36**12 * 96
    assert iban(keep_bank=True, min_space=2**40).problem(norwegian) is not None


@pytest.mark.parametrize(
    ("parameters", "token"),
    [
        ({}, b"DE89 3704 0044 0532 0130 01 "),
        ({}, b"DE88370400440532013000"),  # other spaces
        ({}, b"FR88 3704 0044 0532 0130 00"),
        ({}, b"DE88 3704 0044 0532 0130 0A"),
        ({}, b"DE99 3704 0044 0532 0130 01"),
        ({}, b"DE75 5121 0800 1245 1261 99"),  # valid
        ({"token": "valid", "real_numbers": True}, b"DE74 5121 0800 1245 1261 99"),
        ({"keep_bank": True}, b"DE74 5121 0800 1245 1261 99"),
        ({}, GERMAN),
        ({}, b"2BWWvDUc69KlRpBMVOUa3c4d5f6"),
    ],
)
def test_tokens_of_other_forms_are_known(parameters: dict[str, Any], token: bytes) -> None:
    """A reply says ``other`` for a token that this format cannot have drawn for the value."""
    assert not iban(**parameters).could_draw(GERMAN, token)
