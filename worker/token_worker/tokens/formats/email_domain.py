"""``email-domain``: e-mail addresses that keep their domain.

**Values.** Addresses as ``address`` says.

**Tokens.** n characters of ``a-z 0-9``, in that order, where n is the number of characters (code points of Unicode) of
the value's local part, then ``@``, then the value's domain as it is written there. So a token has as many characters as
its value.

A token is an address like any other. It has no mark. **It may exist**: whoever sends mail to it may reach a stranger,
at a domain that is in use. Where nobody must be reached, use ``email-safe``.

**Space.** 36^n.

**Definition.** No parameters.

**Canonical spelling.** As ``address`` says.
"""

import re

from token_worker.acra.value_types import EMAIL
from token_worker.tokens.derivation import EMAIL_LETTERS, ByteStream, alphabet
from token_worker.tokens.formats.address import Address, expected_address, read_address
from token_worker.tokens.formats.base import Format, MinSpace, Parameters, Spelling

_LETTERS = alphabet(EMAIL_LETTERS)
_LOCAL_PART = re.compile(rb"[a-z0-9]+")
_LONGEST = 64


class EmailDomainParameters(Parameters, frozen=True, kw_only=True):
    """Parameters of ``email-domain``.

    Attributes:
        spelling: ``canonical`` refuses capital letters and characters outside ASCII.
    """

    spelling: Spelling = "as-is"
    min_space: MinSpace = 1000


class EmailDomain(Format[EmailDomainParameters, Address]):
    """E-mail addresses that keep their domain."""

    kind = "email-domain"
    value_type = EMAIL
    parameters_type = EmailDomainParameters

    def _expected(self) -> str:
        return expected_address(self.parameters.spelling)

    def _drawing(self) -> dict[str, str | int | bool]:
        return {}

    def _largest_space(self) -> int:
        return int(36**_LONGEST)

    def _read(self, value: bytes) -> Address | None:
        return read_address(value, self.parameters.spelling)

    def _space(self, read: Address) -> int:
        return int(36**read.local_characters)

    def _draw(self, stream: ByteStream, read: Address) -> bytes:
        return stream.characters(_LETTERS, read.local_characters) + b"@" + read.domain

    def _could_draw(self, read: Address, token: bytes) -> bool:
        local, _, domain = token.partition(b"@")
        is_drawn = len(local) == read.local_characters and _LOCAL_PART.fullmatch(local) is not None
        return is_drawn and domain == read.domain
