"""``iban``: international bank account numbers.

**Values.** Two letters of a country, two check digits, and the BBAN: the account number of that country. The countries
and the structures of their BBANs are those of the IBAN Registry, in ``iban_table``. The check digits are from 02 to 98,
and right: with the first four characters moved to the end, and each letter A-Z replaced by 10 to 35, the decimal number
is 1 modulo 97 (ISO 13616-1, ISO 7064 MOD 97-10). All letters are capitals. The characters stand without spaces, or in
groups of four with one space between two groups; the last group may be shorter. Anything else is refused: small
letters, other groups, hyphens, the word IBAN, countries that the registry has not.

**Tokens.** The same country, and the spaces where the value has them. With ``keep_bank`` the bank identifier is that of
the value. The registry has one for every country. The table has the place of its first character and the place after
its last one; the first place of the BBAN is 0. All other characters of the BBAN are drawn from left to right, by the
class that the structure gives them: ``n`` a character of ``0-9``; ``a`` of ``A-Z``; ``c`` of ``0-9 A-Z``, in that
order. Check digits within the BBAN, which some countries have, are drawn as any others. Last come the two check digits
of the IBAN, though they stand before the BBAN:

- ``token = "invalid"``: k is *a number below 96*, drawn after the whole BBAN. Of the 97 numbers from 02 to 98, one is
  right for the country and the new BBAN. Of the other 96, in ascending order, the check digits are number k, counted
  from 0. So no token is an IBAN, and none can be tokenized again by mistake.
- ``token = "valid"``: the right ones. Nothing more is drawn. ISO 13616 keeps no account numbers free for such use. So
  the token can be somebody's account. With ``keep_bank`` it has a bank that exists, so this needs
  ``real_numbers = true``. Without ``keep_bank`` the bank is drawn, too. No valid token can be safer than that, so
  ``valid`` is consent enough. Where no token may ever be an account, use ``invalid``.

**Space.** The product, over the characters of the BBAN that are drawn, of 10 for ``n``, 26 for ``a`` and 36 for ``c``.
For invalid tokens times 96, for the check digits. Check digits within the BBAN count as any others.

A change of ``iban_table`` raises the kind's version.

**Definition.** ``keep_bank``, ``token``.
"""

import re
from functools import cache
from typing import Literal, NamedTuple

from token_worker.tokens.derivation import LARGE_SPACE, Alphabet, ByteStream, alphabet
from token_worker.tokens.formats.base import Format, FormatError, MinSpace
from token_worker.tokens.formats.iban_table import STRUCTURES
from token_worker.tokens.formats.places import DIGITS, PlacesParameters, Written, separate, unweave, weave

_CAPITALS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_CLASSES = {"n": ("[0-9]", 10, DIGITS), "a": ("[A-Z]", 26, alphabet(_CAPITALS))}
_CLASSES["c"] = ("[0-9A-Z]", 36, alphabet(b"0123456789" + _CAPITALS))
_SHAPE = re.compile(rb"[A-Z]{2}(?:0[2-9]|[1-8][0-9]|9[0-8])[0-9A-Z]+")
_GROUP = 4
_WRONG_CHECK_DIGITS = 96
_AS_DIGITS = {character: str(int(chr(character), 36)).encode() for character in b"0123456789" + _CAPITALS}


class Country(NamedTuple):
    """The BBAN of a country.

    Attributes:
        bban: matches the whole BBAN.
        bank: where the bank identifier is in the BBAN.
        runs: beginning, end, number of different characters and alphabet of each part, without the bank identifier if
            that is kept.
    """

    bban: re.Pattern[bytes]
    bank: slice
    runs: tuple[tuple[int, int, int, Alphabet], ...]


@cache
def country_of(code: bytes, *, keep_bank: bool) -> Country | None:
    """Return what the table says about a country. None: the table does not have the country."""
    if code not in STRUCTURES:
        return None
    structure, bank_start, bank_end = STRUCTURES[code]
    pattern = ""
    classes = ""
    for part in structure.split():
        pattern += f"{_CLASSES[part[-1]][0]}{{{part[:-1]}}}"
        classes += part[-1] * int(part[:-1])
    drawn = [place for place in range(len(classes)) if not (keep_bank and bank_start <= place < bank_end)]
    runs: list[tuple[int, int, int, Alphabet]] = []
    for place in drawn:
        _, size, letters = _CLASSES[classes[place]]
        if runs and runs[-1][1] == place and runs[-1][2] == size:
            runs[-1] = (runs[-1][0], place + 1, size, letters)
        else:
            runs.append((place, place + 1, size, letters))
    return Country(re.compile(pattern.encode()), slice(bank_start, bank_end), tuple(runs))


def check_digits(country: bytes, bban: bytes) -> int:
    """Return the right check digits, from 2 to 98."""
    return 98 - int(b"".join([_AS_DIGITS[character] for character in bban + country + b"00"])) % 97


class IbanParameters(PlacesParameters, frozen=True, kw_only=True):
    """Parameters of ``iban``.

    Attributes:
        keep_bank: True keeps the bank identifier.
        token: whether tokens have the right check digits.
        real_numbers: True allows valid tokens with the bank of the value. They can be somebody's account.
        refuse_tokens: may be left out. No invalid token is accepted as a value anyway, and valid ones have no mark.
    """

    keep_bank: bool = False
    token: Literal["invalid", "valid"] = "invalid"  # noqa: S105 - not a secret
    real_numbers: bool = False
    refuse_tokens: bool | None = None
    min_space: MinSpace = 10_000


class Account(NamedTuple):
    """An IBAN that was read.

    Attributes:
        written: the value, and its characters without spaces.
        code: the letters of the country.
        bban: the account number of the country.
        country: how that is made.
    """

    written: Written
    code: bytes
    bban: bytes
    country: Country


class Iban(Format[IbanParameters, Account]):
    """International bank account numbers."""

    kind = "iban"
    parameters_type = IbanParameters

    def __init__(self, name: str, parameters: IbanParameters) -> None:
        self._keep_bank = parameters.keep_bank
        self._valid = parameters.token == "valid"  # noqa: S105 - not a secret
        self._alone = parameters.refuse_separators
        super().__init__(name, parameters)
        if self._valid and self._keep_bank and not parameters.real_numbers:
            text = "a valid number of a real bank can be somebody's account; set keep_bank = false"
            raise FormatError("token", f"{text}, or real_numbers = true")
        if self._valid and parameters.refuse_tokens is True:
            raise FormatError("refuse_tokens", "these tokens have no mark; leave it out")
        if not self._valid and parameters.refuse_tokens is False:
            raise FormatError("refuse_tokens", "these tokens never have the check digits of a value; leave it out")

    def _expected(self) -> str:
        how = "without spaces" if self._alone else "without spaces or in groups of four"
        return f"an IBAN in capital letters with the right check digits, {how}"

    def _drawing(self) -> dict[str, str | int | bool]:
        return {"keep_bank": self._keep_bank, "token": self.parameters.token}

    def _largest_space(self) -> int:
        return LARGE_SPACE

    def _read(self, value: bytes) -> Account | None:
        written = separate(value)
        characters = written[1]
        if not _SHAPE.fullmatch(characters):
            return None
        if len(characters) < len(value) and (self._alone or value != _grouped(characters)):
            return None
        country = country_of(characters[:2], keep_bank=self._keep_bank)
        if country is None or not country.bban.fullmatch(characters, 4):
            return None
        account = Account(written, characters[:2], characters[4:], country)
        return account if int(characters[2:4]) == check_digits(account.code, account.bban) else None

    def _space(self, read: Account) -> int:
        space = 1 if self._valid else _WRONG_CHECK_DIGITS
        for start, end, size, _ in read.country.runs:
            space *= size ** (end - start)
        return space

    def _draw(self, stream: ByteStream, read: Account) -> bytes:
        bban = bytearray(read.bban)
        for start, end, _, letters in read.country.runs:
            bban[start:end] = stream.characters(letters, end - start)
        check = check_digits(read.code, bytes(bban))
        if not self._valid:
            drawn = stream.below(_WRONG_CHECK_DIGITS) + 2
            check = drawn if drawn < check else drawn + 1
        return weave(read.written, b"%b%02d%b" % (read.code, check, bytes(bban)))

    def _could_draw(self, read: Account, token: bytes) -> bool:
        characters = unweave(read.written, token)
        if characters is None or not _SHAPE.fullmatch(characters) or characters[:2] != read.code:
            return False
        bban = characters[4:]
        if not read.country.bban.fullmatch(bban):
            return False
        if self._keep_bank and bban[read.country.bank] != read.bban[read.country.bank]:
            return False
        return (int(characters[2:4]) == check_digits(read.code, bban)) == self._valid


def _grouped(characters: bytes) -> bytes:
    return b" ".join([characters[at : at + _GROUP] for at in range(0, len(characters), _GROUP)])
