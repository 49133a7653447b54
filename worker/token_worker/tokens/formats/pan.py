"""``pan``: payment card numbers.

**Values.** 13 to 19 ASCII digits that pass the Luhn check (ISO/IEC 7812-1, annex B), with at most one space or hyphen
between two digits.

**Tokens.** The same number of digits, with the separators where the value has them. The first ``keep_first`` and the
last ``keep_last`` digits are those of the value. The n digits between them are drawn:

- ``token = "invalid"``: n characters of ``0-9``; if the whole number passes the Luhn check, n others. So no token is a
  card number, and none can be tokenized again by mistake.
- ``token = "valid"``: the first digit of the token is 9 if ``keep_first`` is 0; then n - 1 digits are left, else n.
  All but the last of these are drawn, as characters of ``0-9``. The last becomes the digit with which the number passes
  the Luhn check. With ``keep_first`` 0, if the number begins with 9112, 9704, 9792 or 9860, they are drawn again: ISO
  7812 gives numbers that begin with 9 to national standards bodies, and these four are cards (Belkart, Napas, Troy,
  Humo).
- ``token = "any"``: n characters of ``0-9``.

**Definition.** ``keep_first``, ``keep_last``, ``token``.
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
    Parameters,
    Separators,
    Spelling,
    TokenCheck,
)
from token_worker.tokens.formats.places import DIGITS, Written, separate, unweave, weave

_SEPARATORS = b" -"
_SHAPE = re.compile(rb"[0-9](?:[ -]?[0-9]){12,18}")
_LONGEST = 19
_NATIONAL_CARDS = (b"9112", b"9704", b"9792", b"9860")
_DOUBLED = bytes.maketrans(b"0123456789", bytes([0, 2, 4, 6, 8, 1, 3, 5, 7, 9]))


def luhn_sum(digits: bytes) -> int:
    """Return the sum of the Luhn check, modulo 10. It is 0 if the digits pass."""
    singles = digits[::-2]
    return (sum(singles) - 48 * len(singles) + sum(digits[-2::-2].translate(_DOUBLED))) % 10


class PanParameters(Parameters, frozen=True, kw_only=True):
    """Parameters of ``pan``.

    Attributes:
        keep_first: number of digits at the beginning that stay.
        keep_last: number of digits at the end that stay.
        separators: ``keep``: spaces and hyphens stay where they are; ``refuse``: a value with any is refused.
        token: whether tokens pass the Luhn check.
        real_numbers: True allows tokens that can be somebody's card number.
        spelling: ``canonical`` refuses values that are not digits alone.
        refuse_tokens: True refuses values that look like tokens. Default: True if they have a mark.
    """

    keep_first: Annotated[int, Meta(ge=0, le=12)] = 0
    keep_last: Annotated[int, Meta(ge=0, le=9)] = 4
    separators: Separators = "keep"
    token: TokenCheck = TokenCheck.INVALID
    real_numbers: bool = False
    spelling: Spelling = "as-is"
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
        self._alone = parameters.separators == "refuse" or parameters.spelling == "canonical"
        self._refuses_tokens = self._marked and parameters.refuse_tokens is not False
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
        how = ", without spaces and hyphens" if self._alone else ""
        return f"13 to 19 digits that pass the Luhn check{how}"

    def _drawing(self) -> dict[str, str | int | bool]:
        return {"keep_first": self._keep_first, "keep_last": self._keep_last, "token": self._token}

    def _largest_space(self) -> int:
        return self._tokens_of(_LONGEST)

    def _tokens_of(self, length: int) -> int:
        drawn = length - self._keep_first - self._keep_last - self._marked
        return 10**drawn if drawn > 0 else 0

    def _read(self, value: bytes) -> Written | None:
        if not _SHAPE.fullmatch(value):
            return None
        written = separate(value, _SEPARATORS)
        return None if luhn_sum(written.characters) or (self._alone and not written.is_plain) else written

    def _problem(self, read: Written) -> str | None:
        return NOT_A_TOKEN if self._refuses_tokens and self._has_mark(read.characters) else None

    def _space(self, read: Written) -> int:
        return self._tokens_of(len(read.characters))

    def _draw(self, stream: ByteStream, read: Written) -> bytes:
        digits = read.characters
        end = len(digits) - self._keep_last
        first, last = digits[: self._keep_first], digits[end:]
        count = end - self._keep_first
        while True:
            if self._token is TokenCheck.VALID:
                head = first or b"9"
                head += stream.characters(DIGITS, end - len(head) - 1)
                token = head + _check_digit(head, last) + last
                if not self._marked or not token.startswith(_NATIONAL_CARDS):
                    break
            else:
                token = first + stream.characters(DIGITS, count) + last
                if self._token is TokenCheck.ANY or luhn_sum(token):
                    break
        return weave(read, token, _SEPARATORS)

    def _could_draw(self, read: Written, token: bytes) -> bool:
        digits = unweave(read, token, _SEPARATORS)
        if digits is None or not digits.isdigit():
            return False
        kept = read.characters
        if (
            digits[: self._keep_first] != kept[: self._keep_first]
            or digits[::-1][: self._keep_last] != (kept[::-1][: self._keep_last])
        ):
            return False
        if self._token is TokenCheck.ANY:
            return True
        is_valid = luhn_sum(digits) == 0
        if self._token is TokenCheck.INVALID:
            return not is_valid
        return is_valid and (not self._marked or self._has_mark(digits))

    def _has_mark(self, digits: bytes) -> bool:
        return digits.startswith(b"9") and not digits.startswith(_NATIONAL_CARDS)


def _check_digit(before: bytes, after: bytes) -> bytes:
    """Return the digit between these digits with which the number passes the Luhn check."""
    missing = -luhn_sum(before + b"0" + after) % 10
    if len(after) % 2 == 0:  # the digit counts as it is
        return b"0123456789"[missing : missing + 1]
    return b"0516273849"[missing : missing + 1]  # the digit counts doubled
