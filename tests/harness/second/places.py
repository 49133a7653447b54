"""Values with separators: what is drawn is drawn as if there were none, and they stay where they are."""


def without_separators(value: str) -> str:
    """The ASCII letters and digits of the value."""
    return "".join(c for c in value if c.isascii() and c.isalnum())


def with_separators_of(value: str, drawn: str) -> str:
    """The drawn characters, with the separators where the value has them."""
    rest = iter(drawn)
    return "".join(next(rest) if c.isascii() and c.isalnum() else c for c in value)


def split(value: str, keep_first: int, keep_last: int) -> tuple[str, int, str]:
    """Split a value: the characters that stay in front, the number of new ones, and those that stay at the end."""
    digits = without_separators(value)
    end = len(digits) - keep_last
    return digits[:keep_first], end - keep_first, digits[end:]
