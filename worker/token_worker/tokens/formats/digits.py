"""``digits``: numbers of any sort, as text: of accounts, customers or taxpayers, say.

**Values.** 1 to 64 ASCII digits, with at most one separator between two digits: a space, a hyphen, a full stop or a
slash. All else is refused: a sign, brackets (``phone`` takes those), a comma or colon or underscore (``template`` takes
those), other digits and spaces of Unicode, a space or line feed at either end.

**Tokens.** The same number of digits, with the separators where the value has them. The first ``keep_first`` and the
last ``keep_last`` digits are those of the value. The n digits between them are n characters of ``0-9``. They are drawn
as if there were no separators.

A token can begin with 0, which a column of numbers does not keep: it has to be a column of text. Tokens have no mark:
they are values, too.

**Space.** 10 to the power of n. If n is 0 or less, the space is 0, and the value is refused.

**Definition.** ``keep_first``, ``keep_last``.
"""

import re
from typing import Annotated

from msgspec import Meta

from token_worker.tokens.derivation import ByteStream
from token_worker.tokens.formats.base import Format, MinSpace
from token_worker.tokens.formats.places import DIGITS, PlacesParameters, Written, separate, unweave_digits, weave

_LONGEST = 64
"""More digits than the numbers have that people give to things. It keeps messages and spaces small."""

_SHAPE = re.compile(rb"[0-9](?:[ ./-]?[0-9]){0,63}")


class DigitsParameters(PlacesParameters, frozen=True, kw_only=True):
    """Parameters of ``digits``.

    Attributes:
        keep_first: number of digits at the beginning that stay.
        keep_last: number of digits at the end that stay.
    """

    keep_first: Annotated[int, Meta(ge=0, le=_LONGEST)] = 0
    keep_last: Annotated[int, Meta(ge=0, le=_LONGEST)] = 0
    min_space: MinSpace = 1000


class Digits(Format[DigitsParameters, Written]):
    """Numbers of any sort."""

    kind = "digits"
    parameters_type = DigitsParameters

    def __init__(self, name: str, parameters: DigitsParameters) -> None:
        self._keep_first, self._keep_last = parameters.keep_first, parameters.keep_last
        self._alone = parameters.refuse_separators
        self._spaces = [self._tokens_of(length) for length in range(_LONGEST + 1)]
        super().__init__(name, parameters)

    def _expected(self) -> str:
        how = "without separators" if self._alone else "with at most a space, '-', '.' or '/' between two of them"
        return f"1 to {_LONGEST} digits, {how}"

    def _drawing(self) -> dict[str, str | int | bool]:
        return {"keep_first": self._keep_first, "keep_last": self._keep_last}

    def _largest_space(self) -> int:
        return self._spaces[-1]

    def _tokens_of(self, length: int) -> int:
        drawn = length - self._keep_first - self._keep_last
        return 10**drawn if drawn > 0 else 0

    def _read(self, value: bytes) -> Written | None:
        if value.isdigit():
            return (value, value) if len(value) <= _LONGEST else None
        return None if self._alone or not _SHAPE.fullmatch(value) else separate(value)

    def _reread(self, value: bytes) -> Written:
        return separate(value)

    def _space(self, read: Written) -> int:
        return self._spaces[len(read[1])]

    def _draw(self, stream: ByteStream, read: Written) -> bytes:
        digits = read[1]
        end = len(digits) - self._keep_last
        drawn = stream.characters(DIGITS, end - self._keep_first)
        return weave(read, digits[: self._keep_first] + drawn + digits[end:])

    def _could_draw(self, read: Written, token: bytes) -> bool:
        return unweave_digits(read, token, self._keep_first, self._keep_last) is not None
