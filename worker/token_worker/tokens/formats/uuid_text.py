"""``uuid``: UUIDs as text.

**Values.** The two text forms of RFC 9562, section 4: 32 hexadecimal digits in groups of 8, 4, 4, 4 and 12 with hyphens
between them, and the same after ``urn:uuid:``, which is lower case. Any version and variant will do, also the UUIDs Nil
and Max. The letters among the digits are all of lower case, or all of upper case. Mixed case, braces, and 32 digits
without hyphens are refused: RFC 9562 does not have the last two, and the case of each digit could not be kept.

**Tokens.** 16 bytes are taken; the first is byte 0. The upper four bits of byte 6 become 8, the version. The upper two
bits of byte 8 become binary 10, the variant. The other 122 bits stay as drawn. The bytes are written as hexadecimal
digits, as the value is written: after ``urn:uuid:`` if the value has it, in upper case if one of the value's 32 digits
is a letter of upper case, else in lower case.

RFC 9562 leaves version 8 to applications, and few use it. So a person tells tokens from values of other versions at a
glance. ``refuse_tokens`` makes this a rule, and then values of version 8 are refused.

**Space.** 2^122.

**Definition.** No parameters.

**Canonical spelling.** Lower case, without ``urn:uuid:``.
"""

import re
from typing import NamedTuple

from token_worker.tokens.derivation import ByteStream
from token_worker.tokens.formats.base import NOT_A_TOKEN, BaseParameters, Format, Spelling

_URN = b"urn:uuid:"
_GROUPS = rb"%(d)b{8}-%(d)b{4}-%(d)b{4}-%(d)b{4}-%(d)b{12}"
_LOWER = re.compile(rb"(?:urn:uuid:)?" + _GROUPS % {b"d": b"[0-9a-f]"})
_UPPER = re.compile(rb"(?:urn:uuid:)?" + _GROUPS % {b"d": b"[0-9A-F]"})
_VERSION_AT = 14
_VARIANT_AT = 19


class UuidParameters(BaseParameters, frozen=True, kw_only=True):
    """Parameters of ``uuid``.

    Attributes:
        spelling: ``canonical`` refuses upper case, and ``urn:uuid:``.
        refuse_tokens: True refuses values of version 8, the version of the tokens.
    """

    spelling: Spelling = "as-is"
    refuse_tokens: bool = False


class Written(NamedTuple):
    """A value that was read.

    Attributes:
        prefix: ``urn:uuid:``, or nothing.
        digits: the digits with their hyphens.
        is_upper: True if there is a letter of upper case.
    """

    prefix: bytes
    digits: bytes
    is_upper: bool


class Uuid(Format[UuidParameters, Written]):
    """UUIDs as text."""

    kind = "uuid"
    parameters_type = UuidParameters

    def _expected(self) -> str:
        if self.parameters.spelling == "canonical":
            return "a UUID as 32 hexadecimal digits in lower case, in groups of 8-4-4-4-12"
        return "a UUID as 32 hexadecimal digits in groups of 8-4-4-4-12, all lower case or all upper case"

    def _drawing(self) -> dict[str, str | int | bool]:
        return {}

    def _largest_space(self) -> int:
        return 2**122

    def _read(self, value: bytes) -> Written | None:
        is_upper = not _LOWER.fullmatch(value)
        if is_upper and not _UPPER.fullmatch(value):
            return None
        prefix = _URN if value.startswith(_URN) else b""
        return Written(prefix, value[len(prefix) :], is_upper)

    def _problem(self, read: Written) -> str | None:
        if self.parameters.spelling == "canonical" and (read.is_upper or read.prefix):
            return self.expected
        return NOT_A_TOKEN if self.parameters.refuse_tokens and _has_mark(read.digits) else None

    def _space(self, read: Written) -> int:  # noqa: ARG002 - the same for all
        return 2**122

    def _draw(self, stream: ByteStream, read: Written) -> bytes:
        drawn = bytearray(stream.take(16))
        drawn[6] = drawn[6] & 0x0F | 0x80
        drawn[8] = drawn[8] & 0x3F | 0x80
        digits = drawn.hex()
        text = f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
        return read.prefix + (text.upper() if read.is_upper else text).encode()

    def _could_draw(self, read: Written, token: bytes) -> bool:
        if not (_UPPER if read.is_upper else _LOWER).fullmatch(token) or len(token) != len(read.prefix + read.digits):
            return False
        return _has_mark(token[len(read.prefix) :])


def _has_mark(digits: bytes) -> bool:
    return digits[_VERSION_AT] == ord("8") and digits[_VARIANT_AT] in b"89abAB"
