"""``pan``: payment card numbers.

**Values.** 13 to 19 ASCII digits that pass the Luhn check (ISO/IEC 7812-1, annex B), with at most one space or hyphen
between two digits. All else is refused: other digits and spaces of Unicode, a space or line feed at either end.

**Tokens.** The same number of digits, with the separators where the value has them. The first ``keep_first`` and the
last ``keep_last`` digits are those of the value. The n digits between them are new. Their places are filled from left
to right, and separators are stepped over:

- ``token = "invalid"``: n characters of ``0-9``. If the whole number then passes the Luhn check, the next n characters
  are drawn from the same stream in their place, and so on until it fails. So no token is a card number, and none can be
  tokenized again by mistake.
- ``token = "valid"`` with ``keep_first`` 0: ``99``, then n - 3 characters of ``0-9``, then, in the last new place, the
  one digit with which the whole number passes the Luhn check. It stands before the kept digits, if there are any.
- ``token = "valid"`` with a higher ``keep_first``: n - 1 characters of ``0-9``, then, in the last new place, the one
  digit with which the whole number passes the Luhn check.
- ``token = "any"``: n characters of ``0-9``.

``99`` is the mark of valid tokens. ISO/IEC 7812-1 leaves numbers that begin with 9 to the national standards bodies:
the three digits after the 9 are the country, as in ISO 3166-1. Belkart has 9112, Napas 9704, Troy 9792, Humo 9860. ISO
3166-1 never gives a country a number from 900 on.

**Space.** 10 to the power of c, where c is the number of characters that are drawn once: n, n - 3 or n - 1. So numbers
that pass the Luhn check count for ``invalid``, too. If c is 0 or less, the space is 0, and the value is refused.

**Definition.** ``keep_first``, ``keep_last``, ``token`` (the string ``invalid``, ``valid`` or ``any``).
"""

import re
from typing import Annotated

from msgspec import Meta

from token_worker.tokens.derivation import ByteStream
from token_worker.tokens.formats.base import (
    NOT_A_TOKEN,
    Format,
    FormatError,
    MinSpace,
    TokenCheck,
)
from token_worker.tokens.formats.places import DIGITS, PlacesParameters, Written, separate, unweave_digits, weave

_SHAPE = re.compile(rb"[0-9](?:[ -]?[0-9]){12,18}")
_SHORTEST, _LONGEST = 13, 19
_MARK = b"99"
_DOUBLED = bytes.maketrans(b"0123456789", bytes([0, 2, 4, 6, 8, 1, 3, 5, 7, 9]))


def luhn_sum(digits: bytes) -> int:
    """Return the sum of the Luhn check, modulo 10. It is 0 if the digits pass."""
    singles = digits[::-2]
    return (sum(singles) - 48 * len(singles) + sum(digits[-2::-2].translate(_DOUBLED))) % 10


class PanParameters(PlacesParameters, frozen=True, kw_only=True):
    """Parameters of ``pan``.

    Attributes:
        keep_first: number of digits at the beginning that stay.
        keep_last: number of digits at the end that stay.
        token: whether tokens pass the Luhn check.
        real_numbers: True allows tokens that can be somebody's card number.
        refuse_tokens: True refuses values that look like tokens. Default: True if they have a mark.
    """

    keep_first: Annotated[int, Meta(ge=0, le=12)] = 0
    keep_last: Annotated[int, Meta(ge=0, le=9)] = 4
    token: TokenCheck = TokenCheck.INVALID
    real_numbers: bool = False
    refuse_tokens: bool | None = None
    min_space: MinSpace = 10_000


class Pan(Format[PanParameters, Written]):
    """Payment card numbers."""

    kind = "pan"
    parameters_type = PanParameters

    def __init__(self, name: str, parameters: PanParameters) -> None:
        self._keep_first, self._keep_last = parameters.keep_first, parameters.keep_last
        self._token = parameters.token
        self._marked = parameters.token is TokenCheck.VALID and parameters.keep_first == 0
        self._alone = parameters.refuse_separators
        self._refuses_tokens = self._marked and parameters.refuse_tokens is not False
        self._spaces = [self._tokens_of(length) for length in range(_LONGEST + 1)]
        super().__init__(name, parameters)
        if self._token is TokenCheck.VALID and self._keep_first and not parameters.real_numbers:
            text = "a valid number with the first digits of a real one is somebody's card; set keep_first = 0"
            raise FormatError("token", f"{text}, or real_numbers = true")
        if self._token is TokenCheck.ANY and not parameters.real_numbers:
            raise FormatError("token", "one in ten can be somebody's card; set invalid, or real_numbers = true")
        if parameters.refuse_tokens is True and self._token is not TokenCheck.INVALID and not self._marked:
            raise FormatError("refuse_tokens", "these tokens have no mark; leave it out")
        if parameters.refuse_tokens is False and self._token is TokenCheck.INVALID:
            raise FormatError("refuse_tokens", "these tokens never pass the Luhn check that a value must; leave it out")

    def _expected(self) -> str:
        how = "without separators" if self._alone else "with single spaces or hyphens at most"
        return f"13 to 19 digits that pass the Luhn check, {how}"

    def _drawing(self) -> dict[str, str | int | bool]:
        return {"keep_first": self._keep_first, "keep_last": self._keep_last, "token": self._token}

    def _largest_space(self) -> int:
        return self._spaces[-1]

    def _tokens_of(self, length: int) -> int:
        drawn = length - self._keep_first - self._keep_last
        if self._token is TokenCheck.VALID:
            drawn -= 1 + len(_MARK) * self._marked
        return 10**drawn if drawn > 0 else 0

    def _read(self, value: bytes) -> Written | None:
        if value.isdigit():
            read = value, value
            if not _SHORTEST <= len(value) <= _LONGEST:
                return None
        elif self._alone or not _SHAPE.fullmatch(value):
            return None
        else:
            read = separate(value)
        return None if luhn_sum(read[1]) else read

    def _reread(self, value: bytes) -> Written:
        return separate(value)

    def _problem(self, read: Written) -> str | None:
        return NOT_A_TOKEN if self._refuses_tokens and read[1].startswith(_MARK) else None

    def _space(self, read: Written) -> int:
        return self._spaces[len(read[1])]

    def _draw(self, stream: ByteStream, read: Written) -> bytes:
        digits = read[1]
        end = len(digits) - self._keep_last
        first, last = digits[: self._keep_first], digits[end:]
        if self._token is TokenCheck.VALID:
            head = _MARK if self._marked else first
            head += stream.characters(DIGITS, end - len(head) - 1)
            return weave(read, head + _check_digit(head, last) + last)
        count = end - self._keep_first
        token = first + stream.characters(DIGITS, count) + last
        while self._token is TokenCheck.INVALID and not luhn_sum(token):
            token = first + stream.characters(DIGITS, count) + last
        return weave(read, token)

    def _could_draw(self, read: Written, token: bytes) -> bool:
        digits = unweave_digits(read, token, self._keep_first, self._keep_last)
        if digits is None:
            return False
        if self._token is TokenCheck.ANY:
            return True
        if self._token is TokenCheck.INVALID:
            return luhn_sum(digits) != 0
        return luhn_sum(digits) == 0 and (not self._marked or digits.startswith(_MARK))


def _check_digit(before: bytes, after: bytes) -> bytes:
    """Return the digit between these digits with which the number passes the Luhn check."""
    missing = -luhn_sum(before + b"0" + after) % 10
    if len(after) % 2 == 0:  # the digit counts as it is
        return b"0123456789"[missing : missing + 1]
    return b"0516273849"[missing : missing + 1]  # the digit counts doubled
