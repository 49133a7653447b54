"""``ssn``: social security numbers of the United States.

**Values.** Nine ASCII digits, or ``NNN-NN-NNNN``. All else is refused: one hyphen alone, spaces, other digits of
Unicode, a space or line feed at either end. The number need not have been issued: columns of these numbers have ITINs
(taxpayers without a social security number), and placeholders such as 000-00-0000. With ``refuse_tokens``, which is the
default, a value that has the mark is refused.

**Tokens.** Nine digits, with the hyphens where the value has them: the area is ``9`` and two characters of ``0-9``; the
group is *a number below 49* plus 1, as two digits; the serial number is four characters of ``0-9``, or with
``keep_last = 4`` that of the value. They are drawn in this order.

The area 9xx with a group from 01 to 49 is the mark. The Social Security Administration has never issued an area of 900
or more (ssa.gov, "Social Security Number Randomization"). In this area, the Internal Revenue Service gives ITINs the
groups 50-65, 70-88, 90-92 and 94-99 (IRS Publication 1915), and adopted children 93. So a token is nobody's number.

**Space.** 49,000,000, or 4,900 with ``keep_last = 4``. That is below the default of ``min_space``: whoever keeps the
last four digits has to lower it, and has to know that 4,900 guesses find the value of a token whose last four digits
are known.

**Definition.** ``keep_last``.

**Canonical spelling.** ``NNN-NN-NNNN``. ``separators = "refuse"`` takes nine digits alone.
"""

import re
from typing import Literal

from token_worker.tokens.derivation import ByteStream
from token_worker.tokens.formats.base import (
    NOT_A_TOKEN,
    Format,
    FormatError,
    MinSpace,
    Parameters,
    Separators,
    Spelling,
)
from token_worker.tokens.formats.places import DIGITS, Written, separate, unweave_digits, weave

_HYPHENS = re.compile(rb"[0-9]{3}-[0-9]{2}-[0-9]{4}")
_MARK = re.compile(rb"9[0-9]{2}(?:0[1-9]|[1-4][0-9])[0-9]{4}")
_DIGITS = 9
_GROUPS = 49


class SsnParameters(Parameters, frozen=True, kw_only=True):
    """Parameters of ``ssn``.

    Attributes:
        keep_last: 4: the last four digits stay.
        separators: ``keep``: hyphens stay where they are; ``refuse``: a value with any is refused.
        spelling: ``canonical`` refuses values without hyphens.
        refuse_tokens: True refuses values that look like tokens.
    """

    keep_last: Literal[0, 4] = 0
    separators: Separators = "keep"
    spelling: Spelling = "as-is"
    refuse_tokens: bool = True
    min_space: MinSpace = 100_000


class Ssn(Format[SsnParameters, Written]):
    """Social security numbers of the United States."""

    kind = "ssn"
    parameters_type = SsnParameters

    def __init__(self, name: str, parameters: SsnParameters) -> None:
        self._keep_last = parameters.keep_last
        super().__init__(name, parameters)
        if parameters.spelling == "canonical" and parameters.separators == "refuse":
            raise FormatError("separators", "the canonical spelling has hyphens; leave one of the two out")

    def _expected(self) -> str:
        if self.parameters.spelling == "canonical":
            return "nine digits written NNN-NN-NNNN"
        return "nine digits" if self.parameters.separators == "refuse" else "nine digits, or NNN-NN-NNNN"

    def _drawing(self) -> dict[str, str | int | bool]:
        return {"keep_last": self._keep_last}

    def _largest_space(self) -> int:
        return 100 * _GROUPS * (1 if self._keep_last else 10_000)

    def _read(self, value: bytes) -> Written | None:
        if value.isdigit():
            is_read = len(value) == _DIGITS and self.parameters.spelling != "canonical"
        else:
            is_read = self.parameters.separators != "refuse" and _HYPHENS.fullmatch(value) is not None
        return separate(value) if is_read else None

    def _problem(self, read: Written) -> str | None:
        return NOT_A_TOKEN if self.parameters.refuse_tokens and _MARK.fullmatch(read[1]) else None

    def _space(self, read: Written) -> int:  # noqa: ARG002 - it is the same for all values
        return self._largest_space()

    def _draw(self, stream: ByteStream, read: Written) -> bytes:
        area = b"9" + stream.characters(DIGITS, 2)
        group = b"%02d" % (stream.below(_GROUPS) + 1)
        serial = read[1][-4:] if self._keep_last else stream.characters(DIGITS, 4)
        return weave(read, area + group + serial)

    def _could_draw(self, read: Written, token: bytes) -> bool:
        digits = unweave_digits(read, token, 0, self._keep_last)
        return digits is not None and _MARK.fullmatch(digits) is not None
