"""``email-safe``: e-mail addresses that can never receive mail.

**Values.** Addresses as ``address`` says. With ``refuse_tokens``, which is the default, an address that ends with
``.invalid``, in any case, is refused.

**Tokens.** In this order: 12 characters of ``a-z 0-9``, then ``@``, then one character of ``a-z``, then 5 characters of
``a-z 0-9``, then ``.invalid``. Both alphabets are in that order. A token always has 27 bytes, whatever its value is. A
column has to have room for them.

RFC 2606 reserves the top-level domain ``invalid``, so that no host can have a name in it. It is the mark of the tokens.

**Space.** 26 * 36^17.

**Definition.** No parameters.

**Canonical spelling.** As ``address`` says.
"""

import re
from typing import Final

from token_worker.acra.value_types import EMAIL
from token_worker.tokens.derivation import EMAIL_LETTERS, ByteStream, alphabet
from token_worker.tokens.formats.address import Address, expected_address, read_address
from token_worker.tokens.formats.base import NOT_A_TOKEN, BaseParameters, Format, Spelling

_LOCAL_CHARACTERS = 12
_REST_CHARACTERS = 5
_LETTERS = alphabet(EMAIL_LETTERS)
_FIRST_LETTERS = alphabet(b"abcdefghijklmnopqrstuvwxyz")
_MARK = b".invalid"
_TOKEN = re.compile(rb"[a-z0-9]{12}@[a-z][a-z0-9]{5}\.invalid")
_SPACE: Final[int] = 36**_LOCAL_CHARACTERS * 26 * 36**_REST_CHARACTERS


class EmailSafeParameters(BaseParameters, frozen=True, kw_only=True):
    """Parameters of ``email-safe``.

    Attributes:
        spelling: ``canonical`` refuses capital letters and characters outside ASCII.
        refuse_tokens: True refuses addresses that end with ``.invalid``.
    """

    spelling: Spelling = "as-is"
    refuse_tokens: bool = True


class EmailSafe(Format[EmailSafeParameters, Address]):
    """E-mail addresses that can never receive mail."""

    kind = "email-safe"
    value_type = EMAIL
    parameters_type = EmailSafeParameters

    def _expected(self) -> str:
        return expected_address(self.parameters.spelling)

    def _drawing(self) -> dict[str, str | int | bool]:
        return {}

    def _largest_space(self) -> int:
        return _SPACE

    def _read(self, value: bytes) -> Address | None:
        return read_address(value, self.parameters.spelling)

    def _problem(self, read: Address) -> str | None:
        is_marked = read.domain.lower().endswith(_MARK)
        return NOT_A_TOKEN if self.parameters.refuse_tokens and is_marked else None

    def _space(self, read: Address) -> int:  # noqa: ARG002 - the same for all
        return _SPACE

    def _draw(self, stream: ByteStream, read: Address) -> bytes:  # noqa: ARG002 - nothing of it is kept
        local = stream.characters(_LETTERS, _LOCAL_CHARACTERS)
        first = stream.characters(_FIRST_LETTERS, 1)
        return local + b"@" + first + stream.characters(_LETTERS, _REST_CHARACTERS) + _MARK

    def _could_draw(self, read: Address, token: bytes) -> bool:  # noqa: ARG002 - any address can have any token
        return _TOKEN.fullmatch(token) is not None
