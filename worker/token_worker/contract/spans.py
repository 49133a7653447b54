"""Find the positions of members and items in a payload that the decoder refuses, so that the rest can still be used.

The functions here walk over a payload without recursion and without building its values, in linear time and in a
bounded number of steps. They return slices of the payload: the known members of an object, or the elements of a list.
Each slice can then be decoded on its own.

Boundaries are brackets and commas (JSON) or lengths (MessagePack). If they are faulty, a slice may be something else.
Then the outline has a ``flaw``, and only the members of the head (``id`` and so on) are used, for the answer. A walk
continues after a fault as far as possible. A closing bracket closes the last bracket of its kind and everything that is
still open in it; *loosely*, it closes the last bracket of any kind. A bracket that closes nothing is skipped.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, NoReturn

import msgspec

from token_worker.contract.messages import Format

STEPS_MAX = 2_000_000
"""Most tokens in one walk, about a second of work. The rest counts as cut off. A payload of 1 MiB has half as many."""

TOO_DEEP = "nested too deeply"

_UNREADABLE = (ValueError, RecursionError)  # msgspec's errors, JSONDecodeError and UnicodeDecodeError are ValueErrors

Names = frozenset[str]


class Flawed(NamedTuple):
    """Stands for a value that cannot be decoded. ``problem`` says why, for people."""

    problem: str


class Outline(msgspec.Struct):
    """The members of an object, still encoded.

    Attributes:
        members: the encoded values of known members. If a member occurs twice, the last one counts. After a fault, only
            members that did not occur before are added.
        flaw: the problem of the whole object, for people.
        has_others: True if there are unknown members.
        guesses: number of different values of members that were added after a fault.
    """

    members: dict[str, bytes]
    flaw: str | None = None
    has_others: bool = False
    guesses: Counter[str] = msgspec.field(default_factory=Counter)


class Reader(NamedTuple):
    """One format, read in slices.

    Attributes:
        outline: returns the outline of an encoded object, or None if there is no object. Takes the known names.
        outline_loosely: the same, for objects whose ``outline`` has a flaw and lacks necessary members.
        elements: returns the encoded elements of a list, at most one more than a given number. None: there is no list.
            ``Flawed``: the elements cannot be separated.
        value: returns a decoded value, or ``Flawed``.
        check: returns the problem of an encoded value without building it, or None.
    """

    outline: Callable[[bytes, Names], Outline | None]
    outline_loosely: Callable[[bytes, Names], Outline | None]
    elements: Callable[[bytes, int], list[bytes] | Flawed | None]
    value: Callable[[bytes], Any]
    check: Callable[[bytes], str | None]


def _note(
    outline: Outline,
    name: str | None,
    raw: bytes,
    names: Names,
    check: Callable[[bytes], str | None],
    *,
    is_certain: bool = True,
) -> None:
    """Add a member. A member that is not used must still be well-formed."""
    unused: bytes | None = None
    if name is None or name not in names:
        outline.has_others = True
        unused = raw
    elif is_certain:
        unused = outline.members.get(name)
        outline.members[name] = raw
    elif name not in outline.members or (name in outline.guesses and outline.members[name] != raw):
        outline.members[name] = raw
        outline.guesses[name] += 1
    if unused is not None:
        outline.flaw = outline.flaw or check(unused)


# -- JSON

_NOT_JSON = "expected well-formed JSON"

# Possessive, so that every byte is visited a bounded number of times, even if the rest is broken.
_TEXT = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_FLAT = rb'(?:[^][{}"]++|' + _TEXT + rb"){0,64}+"
_TOKEN = re.compile(
    rb"(?P<group>\{" + _FLAT + rb"\}|\[" + _FLAT + rb"\])"  # most items: skipped at once
    rb"|(?P<bracket>[][{}])|(?P<text>" + _TEXT + rb")|(?P<comma>,)|(?P<colon>:)"
    rb'|(?P<cut>")|(?P<word>[^][{}:," \t\r\n]++)',
    re.DOTALL,
)
_CLOSING = {ord("{"): ord("}"), ord("["): ord("]")}
_START = re.compile(rb"[ \t\r\n]*+([\[{])")
_BLANK = re.compile(rb"[ \t\r\n]*+\Z")
_VALUES = frozenset({"group", "text", "word"})


class _JsonWalk:
    """The tokens inside the bracket that data begins with: ``(kind, start, end)``. A nested group is one token.

    Attributes:
        is_sound: after the walk, True if every bracket and text was closed, and nothing follows the last bracket.
    """

    def __init__(self, data: bytes, start: re.Match[bytes], *, loosely: bool = False) -> None:
        self._data = data
        self._loosely = loosely
        self._at = start.end()
        self._last = _CLOSING[data[start.start(1)]]
        self._open = bytearray()
        self._counts = dict.fromkeys(_CLOSING.values(), 0)
        """Number of closing brackets of each kind that are still missing, inside the first bracket."""
        self.is_sound = True

    def __iter__(self) -> Iterator[tuple[str, int, int]]:
        begun = 0
        for steps, match in enumerate(_TOKEN.finditer(self._data, self._at)):
            kind, start, end = match.lastgroup or "", match.start(), match.end()
            if steps > STEPS_MAX or kind == "cut":
                break
            if kind != "bracket":
                if not self._open:
                    yield kind, start, end
                continue
            bracket = self._data[start]
            if bracket in _CLOSING:
                begun = begun if self._open else start
                self._open.append(_CLOSING[bracket])
                self._counts[_CLOSING[bracket]] += 1
            elif self._counts[bracket] or (self._loosely and self._open):
                self.is_sound &= bracket == self._open[-1]
                self._close(self._open[-1] if self._loosely else bracket)
                if not self._open:
                    yield "group", begun, end
            elif not self._open and (self._loosely or bracket == self._last):
                self.is_sound &= bracket == self._last and _BLANK.match(self._data, end) is not None
                return
            else:
                self.is_sound = False
        self.is_sound = False

    def _close(self, bracket: int) -> None:
        """Close the last bracket of this kind, and everything in it that is still open."""
        at = self._open.rfind(bracket)
        for closed in self._open[at:]:
            self._counts[closed] -= 1
        del self._open[at:]


def _json_outline(data: bytes, names: Names, *, loosely: bool = False) -> Outline | None:
    start = _START.match(data)
    if start is None or start[1] != b"{":
        return None
    outline, walk = Outline({}), _JsonWalk(data, start, loosely=loosely)
    name, expected, is_sound, is_empty = b"", "name", True, True
    for kind, begin, end in walk:
        is_empty = False
        if expected == "value" and kind in _VALUES:
            _note(outline, _json_name(name), data[begin:end], names, _json_check, is_certain=is_sound and walk.is_sound)
            expected = "comma"
            continue
        if kind == "text":
            is_sound &= expected == "name"
            name, expected = data[begin:end], "colon"
        elif kind == "comma":
            is_sound &= expected == "comma"
            expected = "name"
        elif kind == expected == "colon":
            expected = "value"
        else:
            is_sound = False
    if not (is_sound and walk.is_sound and (is_empty or expected == "comma")):
        outline.flaw = outline.flaw or _NOT_JSON
    return outline


def _json_name(raw: bytes) -> str | None:
    try:
        return msgspec.json.decode(raw, type=str)
    except ValueError:
        return None


def _json_elements(data: bytes, most: int) -> list[bytes] | Flawed | None:
    start = _START.match(data)
    if start is None or start[1] != b"[":
        return None
    elements: list[bytes] = []
    walk = _JsonWalk(data, start)
    is_due = True
    for kind, begin, end in walk:
        if is_due != (kind in _VALUES) or kind == "colon":
            return Flawed(_NOT_JSON)
        is_due = not is_due
        if not is_due:
            elements.append(data[begin:end])
            if len(elements) > most:
                return elements
    return elements if walk.is_sound and not (is_due and elements) else Flawed(_NOT_JSON)


def _json_value(raw: bytes) -> Any:
    """Decode a value, also huge numbers and broken Unicode, which the quick decoder refuses: the type judges them."""
    for decode in (msgspec.json.decode, _decode_slowly):
        try:
            return decode(raw)
        except RecursionError:
            return Flawed(TOO_DEEP)
        except ValueError:
            pass
    return Flawed(_NOT_JSON)


def _json_integer(digits: str) -> int:
    """Read a number, cut to 40 digits: it stays out of range, and Python would refuse more than 4,300 digits."""
    return int(digits[:40])


def _no_constant(_name: str) -> NoReturn:
    raise ValueError("NaN and Infinity are not JSON")


_DECODER = json.JSONDecoder(parse_int=_json_integer, parse_constant=_no_constant)


def _decode_slowly(raw: bytes) -> Any:
    text = raw.decode("utf-8", "surrogateescape")  # other bytes become lone surrogates, which every type refuses
    return _DECODER.decode(text)


def _json_check(raw: bytes) -> str | None:
    try:
        msgspec.json.decode(raw, type=msgspec.Raw)
    except RecursionError:
        return TOO_DEEP
    except ValueError:
        return _NOT_JSON
    return None


# -- MessagePack

_NOT_MSGPACK = "expected well-formed MessagePack"

# By the first byte of an object: the number of bytes that follow it, ...
_SIZES = {0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
_SIZES |= {0xD4: 2, 0xD5: 3, 0xD6: 5, 0xD7: 9, 0xD8: 17}
# ... or the number of bytes of its length, and of bytes in addition to this length; ...
_LENGTHS = {0xC4: (1, 0), 0xC5: (2, 0), 0xC6: (4, 0), 0xD9: (1, 0), 0xDA: (2, 0), 0xDB: (4, 0)}
_LENGTHS |= {0xC7: (1, 1), 0xC8: (2, 1), 0xC9: (4, 1)}
# ... or the number of bytes of its count, and of objects for each counted element.
_COUNTS = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}

_MAPS = frozenset([*range(0x80, 0x90), 0xDE, 0xDF])
_ARRAYS = frozenset([*range(0x90, 0xA0), 0xDC, 0xDD])


class _MsgpackWalk:
    """The objects inside the map or array that data begins with, in order.

    Attributes:
        left: number of objects that are still to come.
        at: offset of the next object.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._steps = STEPS_MAX
        self.left, self.at = _open(data, 0)

    def take(self) -> bytes | None:
        """Return the next object, or None if data is cut off."""
        data, at, pending = self._data, self.at, 1
        while pending:
            self._steps -= 1
            if at >= len(data) or not self._steps:
                return None
            children, at = _open(data, at)
            pending += children - 1
        if at > len(data):
            return None
        taken = data[self.at : at]
        self.at = at
        self.left -= 1
        return taken


def _msgpack_outline(data: bytes, names: Names) -> Outline | None:
    if data[:1] == b"" or data[0] not in _MAPS:
        return None
    outline, walk = Outline({}), _MsgpackWalk(data)
    while walk.left:
        name = walk.take()
        raw = None if name is None else walk.take()
        if name is None or raw is None:
            break
        _note(outline, _msgpack_name(name), raw, names, _msgpack_check)
    if walk.left or walk.at != len(data):
        outline.flaw = outline.flaw or _NOT_MSGPACK
    return outline


def _msgpack_name(raw: bytes) -> str | None:
    try:
        return msgspec.msgpack.decode(raw, type=str)
    except _UNREADABLE:
        return None


def _msgpack_elements(data: bytes, most: int) -> list[bytes] | Flawed | None:
    if data[0] not in _ARRAYS:
        return None
    walk = _MsgpackWalk(data)
    elements: list[bytes] = []
    while walk.left and len(elements) <= most:
        element = walk.take()
        if element is None:
            return Flawed(_NOT_MSGPACK)
        elements.append(element)
    return elements


def _msgpack_value(raw: bytes) -> Any:
    try:
        return msgspec.msgpack.decode(raw)
    except RecursionError:
        return Flawed(TOO_DEEP)
    except ValueError:
        return Flawed(_NOT_MSGPACK)


def _msgpack_check(raw: bytes) -> str | None:
    try:
        msgspec.msgpack.decode(raw, type=msgspec.Raw)
    except RecursionError:
        return TOO_DEEP
    except ValueError:
        return _NOT_MSGPACK
    return None


def _open(data: bytes, at: int) -> tuple[int, int]:
    """Return the number of objects inside the object at this offset, and the offset of the next object."""
    first = data[at]
    at += 1
    if first in _SIZES:
        return 0, at + _SIZES[first]
    if first in _LENGTHS:
        width, more = _LENGTHS[first]
        return 0, at + width + more + int.from_bytes(data[at : at + width])
    if first in _COUNTS:
        width, each = _COUNTS[first]
        return each * int.from_bytes(data[at : at + width]), at + width
    if 0x80 <= first <= 0x8F:
        return 2 * (first & 0x0F), at
    if 0x90 <= first <= 0x9F:
        return first & 0x0F, at
    if 0xA0 <= first <= 0xBF:
        return 0, at + (first & 0x1F)
    return 0, at


READERS = {
    Format.JSON: Reader(_json_outline, partial(_json_outline, loosely=True), _json_elements, _json_value, _json_check),
    Format.MSGPACK: Reader(_msgpack_outline, _msgpack_outline, _msgpack_elements, _msgpack_value, _msgpack_check),
}
