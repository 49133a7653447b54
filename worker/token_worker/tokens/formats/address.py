"""E-mail addresses that ``email-domain`` and ``email-safe`` take. Pure.

An address is a local part, one ``@``, and a domain. In UTF-8, the local part has 1 to 64 bytes, and the address has at
most 254 (RFC 5321, section 4.5.3.1, and the erratum 1690 of RFC 3696).

- The local part is made of ``a-z A-Z 0-9 . ! # $ % & ' * + - / = ? ^ _ ` { | } ~`` and of characters outside ASCII.
  Dots may stand anywhere: some providers gave out such addresses. Quoted local parts are refused.
- The domain is one label or more, with one dot between two. A label has 1 to 63 bytes. It is made of ``a-z A-Z 0-9 -``
  and of characters outside ASCII, and does not begin or end with a hyphen. Addresses in brackets are refused.
- Of the characters outside ASCII, those are refused that cannot be seen, that look like a space, an ``@`` or a dot, or
  that are other forms of ASCII: U+0080 to U+00A0, 00AD, 034F, 061C, 115F, 1160, 1680, 17B4, 17B5, 180B to 180F, 2000 to
  200F, 2024, 2028 to 202F, 205F to 206F, 2800, 3000, 3002, 3164, D800 to F8FF, FE00 to FE0F, FE52, FE6B, FEFF to FFFF,
  1BCA0 to 1BCA3, 1D173 to 1D17A, and all from E0000. Nothing else is asked of them: which are letters depends on the
  version of Unicode.

So spaces and control characters are refused everywhere, also at the end.

**Canonical spelling.** ASCII only, and no capital letter. Two capital forms of a local part are, by the letter of RFC
5321, two addresses. In practice they are one. A character outside ASCII has more than one spelling nearly everywhere.
"""

import re
from typing import NamedTuple

from token_worker.tokens.formats.base import Spelling

_UNSEEN = re.compile(
    "[\x80-\xa0\xad\u034f\u061c\u115f\u1160\u1680\u17b4\u17b5\u180b-\u180f\u2000-\u200f\u2024\u2028-\u202f"
    "\u205f-\u206f\u2800\u3000\u3002\u3164\ud800-\uf8ff\ufe00-\ufe0f\ufe52\ufe6b\ufeff-\uffff"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U0010ffff]"
)
_OUTSIDE = r"\x80-\U0010ffff"
_LOCAL = rf"[a-zA-Z0-9.!#$%&'*+\-/=?^_`{{|}}~{_OUTSIDE}]+"
_END = f"[a-zA-Z0-9{_OUTSIDE}]"
_LABEL = f"{_END}+(?:-+{_END}+)*"
_SHAPE = re.compile(rf"({_LOCAL})@({_LABEL}(?:\.{_LABEL})*)")
_LOCAL_BYTES = 64
_LABEL_BYTES = 63
_ADDRESS_BYTES = 254


class Address(NamedTuple):
    """An address that was read.

    Attributes:
        local_characters: number of characters of the local part.
        domain: the domain as it is written, in UTF-8.
    """

    local_characters: int
    domain: bytes


def expected_address(spelling: Spelling) -> str:
    """Describe the addresses that are taken, to be read after "expected"."""
    form = ", in ASCII without capital letters" if spelling == "canonical" else ""
    return f"an e-mail address of at most 254 bytes, without quotes, spaces and invisible characters{form}"


def read_address(value: bytes, spelling: Spelling) -> Address | None:
    """Read an address. None: the value is no address, or not in this spelling."""
    if len(value) > _ADDRESS_BYTES:
        return None
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return None
    shape = _SHAPE.fullmatch(text)
    if shape is None or _UNSEEN.search(text):
        return None
    local, domain = shape[1].encode(), shape[2].encode()
    if len(local) > _LOCAL_BYTES or any(len(label) > _LABEL_BYTES for label in domain.split(b".")):
        return None
    if spelling == "canonical" and not (text.isascii() and value == value.lower()):
        return None
    return Address(len(shape[1]), domain)
