"""Format kind ``uuid``: UUIDs as text."""

from collections.abc import Mapping
from typing import Any

from harness.second.source import Source

_URN = "urn:uuid:"


def token(source: Source, value: str, definition: Mapping[str, Any]) -> str:
    """A UUID of version 8, written as the value is."""
    data = bytearray(source.take(16))
    data[6] = 0x80 | data[6] & 0x0F
    data[8] = 0x80 | data[8] & 0x3F
    text = "-".join(data[start:end].hex() for start, end in ((0, 4), (4, 6), (6, 8), (8, 10), (10, 16)))
    urn = _URN if value.startswith(_URN) else ""
    return urn + (text.upper() if any(c.isupper() for c in value[len(urn) :]) else text)
