"""Where members and items stand in a payload that decoders refuse, so that what is wrong costs no more than itself.

The functions here walk over a payload without recursion and without building what is in it, in time linear to its
length and in steps that are bounded. They give slices of the payload: of an object its known members, of a list its
elements. Each slice can then be decoded by itself.

Boundaries are told by brackets and commas (JSON) or lengths (MessagePack). Where these are at fault, so that a slice
might be of something else, the outline has a ``flaw``: then nothing but the members of the head (``id`` and the like)
is of use, to answer with. Walks go on after a fault as far as they can: a bracket closes the last one of its kind and
all that was left open in it, or *loosely* the last one of any kind; one that closes nothing is passed over.
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
"""Tokens looked at in one walk, about a second's work; what follows counts as cut off. 1 MiB has half as many."""

TOO_DEEP = "nested too deeply"

_UNREADABLE = (ValueError, RecursionError)  # msgspec's errors, JSONDecodeError and UnicodeDecodeError are ValueErrors

Names = frozenset[str]


class Flawed(NamedTuple):
    """Stands for a value that cannot be decoded; ``problem`` says why, for people."""

    problem: str


class Outline(msgspec.Struct):
    """An object, as far as its boundaries go.

    Attributes:
        members: the encoded values of known members; of one that comes twice, the last. Behind boundaries that are at
            fault, only those that did not stand before.
        flaw: what is wrong with the object as a whole, for people.
        has_others: there are members beside the known ones.
        guesses: how many different values of such members came.
    """

    members: dict[str, bytes]
    flaw: str | None = None
    has_others: bool = False
    guesses: Counter[str] = msgspec.field(default_factory=Counter)


class Reader(NamedTuple):
    """One format, read in slices.

    Attributes:
        outline: of an encoded object; None where there is none. Names are those of known members.
        outline_loosely: the same, where ``outline`` has a flaw and not the members that are needed.
        elements: the encoded elements of a list, one more than a given number at most; None where there is no list,
            ``Flawed`` where they cannot be told apart.
        value: a decoded value, or ``Flawed``.
        check: what is wrong with an encoded value, without building it; None where nothing is.
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
    """Add a member; one that nobody will look at must at least be well-formed."""
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

# Possessive, so that every byte is passed over a bounded number of times, however broken the rest.
_TEXT = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_FLAT = rb'(?:[^][{}"]++|' + _TEXT + rb"){0,64}+"
_TOKEN = re.compile(
    rb"(?P<group>\{" + _FLAT + rb"\}|\[" + _FLAT + rb"\])"  # most items: passed over at once
    rb"|(?P<bracket>[][{}])|(?P<text>" + _TEXT + rb")|(?P<comma>,)|(?P<colon>:)"
    rb'|(?P<cut>")|(?P<word>[^][{}:," \t\r\n]++)',
    re.DOTALL,
)
_CLOSING = {ord("{"): ord("}"), ord("["): ord("]")}
_START = re.compile(rb"[ \t\r\n]*+([\[{])")
_BLANK = re.compile(rb"[ \t\r\n]*+\Z")
_VALUES = frozenset({"group", "text", "word"})


class _JsonWalk:
    """The tokens right inside the bracket that data begins with: ``(kind, start, end)``; a group is one, however deep.

    Attributes:
        is_sound: every bracket and text was closed, and nothing follows the last bracket; told at the end.
    """

    def __init__(self, data: bytes, start: re.Match[bytes], *, loosely: bool = False) -> None:
        self._data = data
        self._loosely = loosely
        self._at = start.end()
        self._last = _CLOSING[data[start.start(1)]]
        self._open = bytearray()
        self._counts = dict.fromkeys(_CLOSING.values(), 0)
        """Closing brackets that are due, inside the first one, and how many of each."""
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
        """Close what this bracket closes, and all in it that was left open."""
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
    """What the quick decoder refuses may still be a value: huge numbers and broken Unicode are judged by its type."""
    for decode in (msgspec.json.decode, _decode_slowly):
        try:
            return decode(raw)
        except RecursionError:
            return Flawed(TOO_DEEP)
        except ValueError:
            pass
    return Flawed(_NOT_JSON)


def _json_integer(digits: str) -> int:
    """A number out of every range stays so when it is cut to 40 digits, and Python refuses more than 4,300."""
    return int(digits[:40])


def _no_constant(_name: str) -> NoReturn:
    raise ValueError("NaN and Infinity are not JSON")


_DECODER = json.JSONDecoder(parse_int=_json_integer, parse_constant=_no_constant)


def _decode_slowly(raw: bytes) -> Any:
    return _DECODER.decode(raw.decode("utf-8", "surrogateescape"))  # no UTF-8: lone surrogates, which no type takes


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

# By the first byte of an object: how many bytes follow it, ...
_SIZES = {0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
_SIZES |= {0xD4: 2, 0xD5: 3, 0xD6: 5, 0xD7: 9, 0xD8: 17}
# ... or how many bytes its length takes, and how many it has beside that many; ...
_LENGTHS = {0xC4: (1, 0), 0xC5: (2, 0), 0xC6: (4, 0), 0xD9: (1, 0), 0xDA: (2, 0), 0xDB: (4, 0)}
_LENGTHS |= {0xC7: (1, 1), 0xC8: (2, 1), 0xC9: (4, 1)}
# ... or how many bytes its count takes, and how many objects it holds for each.
_COUNTS = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}

_MAPS = frozenset([*range(0x80, 0x90), 0xDE, 0xDF])
_ARRAYS = frozenset([*range(0x90, 0xA0), 0xDC, 0xDD])


class _MsgpackWalk:
    """The objects right inside the map or array that data begins with, as they come.

    Attributes:
        left: how many of them are still due.
        at: offset of the next.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._steps = STEPS_MAX
        self.left, self.at = _open(data, 0)

    def take(self) -> bytes | None:
        """The next one, or None where data is cut short."""
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
    """How many objects the one at this offset holds, and the offset of the first of them, else of what follows it."""
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
