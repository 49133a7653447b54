"""Values that are characters with separators between them: card numbers, say. Pure."""

from typing import NamedTuple

from token_worker.tokens.derivation import alphabet

DIGITS = alphabet(b"0123456789")


class Written(NamedTuple):
    """A value, and its characters without the separators."""

    value: bytes
    characters: bytes

    @property
    def is_plain(self) -> bool:
        """True if there are no separators."""
        return len(self.value) == len(self.characters)


def separate(value: bytes, separators: bytes) -> Written:
    """Take the separators out of a value."""
    return Written(value, value.translate(None, separators))


def weave(written: Written, characters: bytes, separators: bytes) -> bytes:
    """Write other characters, as many, with the separators of a value."""
    if written.is_plain:
        return characters
    taken = iter(characters)
    return bytes(byte if byte in separators else next(taken) for byte in written.value)


def unweave(written: Written, token: bytes, separators: bytes) -> bytes | None:
    """Return the characters of a token. None if its separators are not at the places where the value has them."""
    if len(token) != len(written.value):
        return None
    if written.is_plain:
        return token
    here = bytes(byte if byte in separators else 0 for byte in token)
    there = bytes(byte if byte in separators else 0 for byte in written.value)
    return token.translate(None, separators) if here == there else None
