"""Tokens without a format: drawn by their type."""

from harness.second.source import LETTERS_AND_DIGITS, LOWER_AND_DIGITS, Source

ENDINGS = [".com", ".net", ".org", ".edu", ".info", ".au", ".br", ".de", ".jp", ".et", ".us"]


def _email(source: Source, length: int) -> str:
    endings = ENDINGS if length >= 8 else ENDINGS[-6:]
    ending = endings[source.below(len(endings))]
    room = length - len(ending) - 1
    local = min(64, room // 2)
    rest = room - local
    count = 0
    while 64 * count < rest + 1:
        count += 1
    letters = rest - count + 1
    sizes = [letters // count + (1 if number < letters % count else 0) for number in range(count)]
    words = [source.characters(LOWER_AND_DIGITS, size) for size in [local, *sizes]]
    return words[0] + "@" + ".".join(words[1:]) + ending


def token(source: Source, type_name: str, value: bytes) -> bytes:
    """A token with as many bytes as the value."""
    if type_name == "str":
        return source.characters(LETTERS_AND_DIGITS, len(value)).encode()
    if type_name == "email":
        return _email(source, len(value)).encode()
    return source.take(len(value))
