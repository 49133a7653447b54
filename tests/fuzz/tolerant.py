"""A second reader of malformed requests, written independently of the product's: it finds the readable ids.

It goes over the payload character by character and knows nothing but texts, brackets of any kind, and commas. An id is
a whole text, well-formed by Python's own ``json``, behind ``"id":`` and before a comma, a bracket or the end, right
inside the outermost object. In MessagePack it goes over the objects with a stack of counts.
"""

import json
import struct
from collections.abc import Iterator
from contextlib import suppress

_ENDS = (",", "}", "]", "")


def json_ids(payload: bytes) -> list[str]:
    """The ids at the top level of a damaged JSON object, in their order."""
    pieces = list(_pieces(payload.removeprefix(b"\xef\xbb\xbf").decode("latin-1")))
    ids: list[str] = []
    depth = 0
    if not pieces or pieces[0] != "{":
        return []
    for at, piece in enumerate(pieces):
        if piece in "{[":
            depth += 1
        elif piece in "}]":
            depth -= 1
            if depth == 0:
                break
        elif depth == 1 and piece.startswith('"') and _text(piece) == "id":
            colon, value, end = (*pieces[at + 1 : at + 4], "", "", "")[:3]
            found = _text(value) if value.startswith('"') else None
            is_sure = pieces[at - 1] in "{," and colon == ":" and end in _ENDS
            if colon == ":" or pieces[at - 1] != ":":
                ids.append(found if found and len(found) <= 128 and is_sure else "")  # else: one that cannot be read
    return ids


def _pieces(text: str) -> Iterator[str]:
    at = 0
    while at < len(text):
        start = at
        if text[at] in " \t\r\n":
            at += 1
            continue
        if text[at] == '"':
            at += 1
            while at < len(text) and text[at] != '"':
                at += 2 if text[at] == "\\" else 1
            if at >= len(text):
                return  # its end is missing
            at += 1
        elif text[at] in "{}[],:":
            at += 1
        else:
            while at < len(text) and text[at] not in '{}[],:" \t\r\n':
                at += 1
        yield text[start:at]


def _text(piece: str) -> str | None:
    with suppress(ValueError):
        text = json.loads(piece.encode("latin-1").decode())
        if isinstance(text, str):
            text.encode()
            return text
    return None


def msgpack_ids(payload: bytes) -> list[str]:
    """The ids at the top level of a MessagePack object, up to the place where it is cut short."""
    ids: list[str] = []
    first = payload[0]
    width = {0xDE: 2, 0xDF: 4}.get(first, 0)
    count = int.from_bytes(payload[1 : 1 + width]) if width else first & 0x0F
    at = 1 + width
    for _ in range(count):
        name_at, value_at = at, _skip(payload, at)
        at = _skip(payload, value_at)
        if at > len(payload):
            break
        if _msgpack_text(payload[name_at:value_at]) == "id":
            found = _msgpack_text(payload[value_at:at])
            ids.append(found if found and len(found) <= 128 else "")
    return ids


def _msgpack_text(data: bytes) -> str | None:
    first, header = data[0], {0xD9: 2, 0xDA: 3, 0xDB: 5}
    if not (0xA0 <= first <= 0xBF or first in header):
        return None
    try:
        return data[header.get(first, 1) :].decode()
    except UnicodeDecodeError:
        return None


def _skip(data: bytes, at: int) -> int:
    """The offset behind the object at this one; beyond the end where it is cut short."""
    due = 1
    while due:
        if at >= len(data):
            return len(data) + 1
        first = data[at]
        due -= 1
        try:
            size, inside = _size(data, at, first)
        except struct.error:
            return len(data) + 1
        at += size
        due += inside
    return at


def _size(data: bytes, at: int, first: int) -> tuple[int, int]:
    """Bytes of the object's own, and objects inside."""
    if 0x80 <= first < 0x90:
        return 1, 2 * (first - 0x80)
    if 0x90 <= first < 0xA0:
        return 1, first - 0x90
    if 0xA0 <= first < 0xC0:
        return 1 + first - 0xA0, 0
    if first in (0xC4, 0xD9):
        return 2 + struct.unpack_from(">B", data, at + 1)[0], 0
    if first in (0xC5, 0xDA):
        return 3 + struct.unpack_from(">H", data, at + 1)[0], 0
    if first in (0xC6, 0xDB):
        return 5 + struct.unpack_from(">I", data, at + 1)[0], 0
    if first in (0xC7, 0xC8, 0xC9):
        form, head = {0xC7: (">B", 3), 0xC8: (">H", 4), 0xC9: (">I", 6)}[first]
        return head + struct.unpack_from(form, data, at + 1)[0], 0
    if first in (0xDC, 0xDE):
        return 3, (1 + (first == 0xDE)) * struct.unpack_from(">H", data, at + 1)[0]
    if first in (0xDD, 0xDF):
        return 5, (1 + (first == 0xDF)) * struct.unpack_from(">I", data, at + 1)[0]
    fixed = {0xCC: 2, 0xD0: 2, 0xCD: 3, 0xD1: 3, 0xCE: 5, 0xD2: 5, 0xCA: 5, 0xCF: 9, 0xD3: 9, 0xCB: 9}
    fixed |= {0xD4: 3, 0xD5: 4, 0xD6: 6, 0xD7: 10, 0xD8: 18}
    return fixed.get(first, 1), 0
