"""Values that are characters with separators between them: card numbers, say. Pure.

The characters are ASCII letters and digits. Every other byte is a separator. The kinds say which ones they take.
"""

from typing import Final

from token_worker.tokens.derivation import alphabet

DIGITS: Final = alphabet(b"0123456789")

Written = tuple[bytes, bytes]
"""A value, and its characters without the separators. If it has no separators, both are the same object."""

_CHARACTERS = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SEPARATORS = bytes(set(range(256)) - set(_CHARACTERS))
_OUTLINE = bytes.maketrans(_CHARACTERS, b"0" * len(_CHARACTERS))


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
