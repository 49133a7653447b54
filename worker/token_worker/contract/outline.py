"""What stands outermost in a payload that is nested too deeply for any decoder, so that its producer gets an answer.

Decoders recurse and give up at about a thousand levels. These functions walk over a payload without recursion, in time
linear to its length, and return a payload of the same format that has only the scalar members of the outermost object.
They do not say whether the original was well formed; of one cut short they keep what comes before the cut.
"""

import re

# Possessive, and a text may lack its end: every quote is passed over once, however broken the rest.
_JSON_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[][{}:,]|[-0-9][-+.0-9eE]*+', re.DOTALL)

# By the first byte of a MessagePack object: how many bytes follow it, ...
_SIZES = {0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
_SIZES |= {0xD4: 2, 0xD5: 3, 0xD6: 5, 0xD7: 9, 0xD8: 17}
# ... or how many bytes its length takes, and how many it has beside that many; ...
_LENGTHS = {0xC4: (1, 0), 0xC5: (2, 0), 0xC6: (4, 0), 0xD9: (1, 0), 0xDA: (2, 0), 0xDB: (4, 0)}
_LENGTHS |= {0xC7: (1, 1), 0xC8: (2, 1), 0xC9: (4, 1)}
# ... or how many bytes its count takes, and how many objects it holds for each.
_COUNTS = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}

_TEXTS = frozenset([*range(0xA0, 0xC0), 0xD9, 0xDA, 0xDB])


def json_outline(payload: bytes) -> bytes:
    """The outermost object's members whose value is a text or a number, as JSON."""
    members: list[bytes] = []
    depth = 0
    text = name = None
    for match in _JSON_TOKEN.finditer(payload):
        token = match[0]
        if token in b"[{":
            depth += 1
        elif token in b"]}":
            depth -= 1
        elif depth != 1:
            continue
        elif token == b":":
            name = text
        elif token == b",":
            name = text = None
        elif name is None:
            text = token
        else:
            members.append(name + b":" + token)
    return b"{" + b",".join(members) + b"}"


def msgpack_outline(payload: bytes) -> bytes:
    """The outermost map's members that have a text as name and no array or map as value, as MessagePack."""
    members: list[bytes] = []
    count, end = _open(payload, 0)
    for _ in range(count // 2):
        start, pending, nested = end, 2, False
        while pending and end < len(payload):
            children, end = _open(payload, end)
            nested |= children > 0
            pending += children - 1
        if pending or end > len(payload):
            break
        if not nested and payload[start] in _TEXTS:
            members.append(payload[start:end])
    return b"\xdf" + len(members).to_bytes(4) + b"".join(members)


def _open(payload: bytes, at: int) -> tuple[int, int]:
    """How many objects the one at this offset holds, and the offset of the first of them, else of what follows it."""
    first = payload[at]
    at += 1
    if first in _SIZES:
        return 0, at + _SIZES[first]
    if first in _LENGTHS:
        width, more = _LENGTHS[first]
        return 0, at + width + more + int.from_bytes(payload[at : at + width])
    if first in _COUNTS:
        width, each = _COUNTS[first]
        return each * int.from_bytes(payload[at : at + width]), at + width
    if 0x80 <= first <= 0x8F:
        return 2 * (first & 0x0F), at
    if 0x90 <= first <= 0x9F:
        return first & 0x0F, at
    if 0xA0 <= first <= 0xBF:
        return 0, at + (first & 0x1F)
    return 0, at
