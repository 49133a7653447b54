"""``phone``: international telephone numbers.

**Values.** ``+``, then 7 to 15 ASCII digits (ITU-T E.164). They begin with a calling code of ``phone_table``, with no
separator within it. The digits after it are the national number. Whether that number is in use does not matter:
numbering plans change. Between two digits there may be one space, hyphen or dot. One group of digits after the calling
code, but not the last one, may stand in round brackets. One space, hyphen or dot may come before the opening and after
the closing bracket. Anything else is refused: ``00`` or ``011`` in place of ``+``, extensions, ``tel:``, slashes, other
digits or dashes.

Two more are refused. A 0 after the calling code, as in ``+44 (0)20``, if no number of the calling code begins with 0:
such a 0 is the trunk prefix of calls within the country, and no part of the international number. And calling code 888,
since its plan leaves no digit free.

**Tokens.** The calling code and the separators are those of the value, and so are the last ``keep_last`` digits. The
national number has the same length. It begins with the dead prefix of the calling code, from ``phone_table``. The n
digits between the dead prefix and the last ``keep_last`` digits are drawn, as n characters of ``0-9``.

No number begins with the dead prefix, whatever its length. So no token can ring, and each can be told from a number.
The prefix begins with 0 in all calling codes but 672, 881 and 992. Where 0 is the trunk prefix, programs that read
numbers strip the 0 also after a calling code. There the prefix is longer, so that no number begins with the digits
after the 0 either, and a stripped token is no number.

**Space.** 10 to the power of n. If n is 0 or less, the space is 0, and the value is refused.

A change of ``phone_table`` raises the kind's version.

**Definition.** ``keep_last``.
"""

import re
from typing import Annotated, NamedTuple

from msgspec import Meta

from token_worker.tokens.derivation import ByteStream
from token_worker.tokens.formats.base import NOT_A_TOKEN, Format, MinSpace
from token_worker.tokens.formats.phone_table import DEAD_PREFIXES, ZERO_IN_USE
from token_worker.tokens.formats.places import DIGITS, PlacesParameters, Written, separate, unweave_digits, weave

_SHAPE = re.compile(
    rb"""\+ [0-9] (?: [ .-]?[0-9] )*
    (?: [ .-]? \( [0-9] (?: [ .-]?[0-9] )* \) (?: [ .-]?[0-9] )+ )?""",
    re.VERBOSE,
)
_SHORTEST = 7
_LONGEST = 15
_LONGEST_CODE = 3


class PhoneParameters(PlacesParameters, frozen=True, kw_only=True):
    """Parameters of ``phone``.

    Attributes:
        keep_last: number of digits at the end that stay.
        refuse_tokens: True refuses values that begin with the dead prefix, as tokens do.
    """

    keep_last: Annotated[int, Meta(ge=0, le=9)] = 0
    refuse_tokens: bool = True
    min_space: MinSpace = 1_000


class Number(NamedTuple):
    """A telephone number that was read.

    Attributes:
        written: the value, and its digits.
        code: the calling code.
        national: the digits after the calling code.
        dead: digits that no number of the calling code begins with.
    """

    written: Written
    code: bytes
    national: bytes
    dead: bytes


class Phone(Format[PhoneParameters, Number]):
    """International telephone numbers."""

    kind = "phone"
    parameters_type = PhoneParameters

    def __init__(self, name: str, parameters: PhoneParameters) -> None:
        self._keep_last = parameters.keep_last
        self._alone = parameters.refuse_separators
        super().__init__(name, parameters)

    def _expected(self) -> str:
        how = "without separators" if self._alone else "with single spaces, hyphens or dots at most"
        return f"a phone number with + and a known calling code, {_SHORTEST} to {_LONGEST} digits, {how}"

    def _drawing(self) -> dict[str, str | int | bool]:
        return {"keep_last": self._keep_last}

    def _largest_space(self) -> int:
        return max(self._tokens_of(_LONGEST - len(code), dead) for code, dead in DEAD_PREFIXES.items())

    def _tokens_of(self, length: int, dead: bytes) -> int:
        drawn = length - len(dead) - self._keep_last
        return 10**drawn if drawn > 0 else 0

    def _read(self, value: bytes) -> Number | None:
        if not _SHAPE.fullmatch(value):
            return None
        written = separate(value)
        digits = written[1]
        if not _SHORTEST <= len(digits) <= _LONGEST or (self._alone and len(value) > 1 + len(digits)):
            return None
        for size in range(1, _LONGEST_CODE + 1):
            code = digits[:size]
            dead = DEAD_PREFIXES.get(code)
            if dead is not None:
                return Number(written, code, digits[size:], dead) if value.startswith(code, 1) else None
        return None

    def _problem(self, read: Number) -> str | None:
        national = read.national
        if national.startswith(read.dead):
            return NOT_A_TOKEN if self.parameters.refuse_tokens else None
        if national.startswith(b"0") and read.code not in ZERO_IN_USE:
            return "a phone number without a 0 after its calling code"
        return None

    def _space(self, read: Number) -> int:
        return self._tokens_of(len(read.national), read.dead)

    def _draw(self, stream: ByteStream, read: Number) -> bytes:
        national = read.national
        end = len(national) - self._keep_last
        drawn = stream.characters(DIGITS, end - len(read.dead))
        return weave(read.written, read.code + read.dead + drawn + national[end:])

    def _could_draw(self, read: Number, token: bytes) -> bool:
        digits = unweave_digits(read.written, token, len(read.code), self._keep_last)
        return digits is not None and digits.startswith(read.dead, len(read.code))
