"""Values that are characters with separators between them: card numbers, say. Pure.

The characters are ASCII letters and digits. Every other byte is a separator. The kinds say which ones they take.
"""

from typing import Final

from token_worker.tokens.derivation import alphabet
from token_worker.tokens.formats.base import Parameters, Separators, Spelling

DIGITS: Final = alphabet(b"0123456789")

Written = tuple[bytes, bytes]
"""A value, and its characters without the separators. If it has no separators, both are the same object."""

_CHARACTERS = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SEPARATORS = bytes(set(range(256)) - set(_CHARACTERS))
_OUTLINE = bytes.maketrans(_CHARACTERS, b"0" * len(_CHARACTERS))


class PlacesParameters(Parameters, frozen=True, kw_only=True):
    """Parameters of kinds whose values can have separators.

    Attributes:
        separators: ``keep``: separators stay where they are; ``refuse``: a value with any is refused.
        spelling: ``canonical`` refuses a value with any separator, too.
    """

    separators: Separators = "keep"
    spelling: Spelling = "as-is"

    @property
    def refuse_separators(self) -> bool:
        """True if values with separators are refused."""
        return self.separators == "refuse" or self.spelling == "canonical"


def separate(value: bytes) -> Written:
    """Take the separators out of a value."""
    return (value, value) if value.isalnum() else (value, value.translate(None, _SEPARATORS))


def weave(written: Written, characters: bytes) -> bytes:
    """Write other characters, as many, with the separators of a value."""
    value, plain = written
    if value is plain:
        return characters
    woven = bytearray(characters)
    for at, byte in enumerate(value):
        if byte in _SEPARATORS:
            woven.insert(at, byte)
    return bytes(woven)


def unweave(written: Written, token: bytes) -> bytes | None:
    """Return the characters of a token. None if it does not have the separators of the value, at the same places."""
    value, plain = written
    if len(token) != len(value):
        return None
    if value is plain:
        return token
    return token.translate(None, _SEPARATORS) if token.translate(_OUTLINE) == value.translate(_OUTLINE) else None


def unweave_digits(written: Written, token: bytes, keep_first: int, keep_last: int) -> bytes | None:
    """Return the digits of a token. None if its separators, or the digits that stay, are not those of the value.

    Args:
        written: the value, which has no letters.
        token: the token.
        keep_first: number of digits at the beginning that stay.
        keep_last: number of digits at the end that stay.
    """
    old, new = written[1], unweave(written, token)
    if new is None or not new.isdigit():
        return None
    end = len(old) - keep_last
    return new if new[:keep_first] == old[:keep_first] and new[end:] == old[end:] else None
