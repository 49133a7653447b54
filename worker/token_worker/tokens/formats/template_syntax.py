r"""The text of a ``template``, and what it means. Pure.

::

    template = 1*( place / "(" 1*place ")" )      ; groups do not nest
    place    = ( class / escape / plain ) [ count ]
    class    = "[" 1*( member [ "-" member ] ) "]"  ; the first member of a range is not above the last, by code point
    member   = escape / any character but "[" "]" "-" "^" "\"
    escape   = "\d" / "\" and an ASCII character other than a letter or digit
    plain    = any character but "." "^" "$" "*" "+" "?" "|" "(" ")" "[" "]" "{" "}" "\"
    count    = "?" / "{" n "}" / "{" n "," m "}"    ; 1 to 3 digits each; n <= m; m from 1 to 256; {n} is {n,n}

Characters are those from U+0020 to U+007E and from U+00A0 on. No range goes across the gap. ``\d`` is ``[0-9]``; it is
no end of a range. Another escape is the character after the backslash. A class has each of its characters once. A count
says how many characters of the class stand in a value: one without a count, n, n to m, or none or one (``?``). ``{0}``
is refused, and so is ``{0,0}``.

**Values.** The whole value matches the template, as with a regular expression. Characters are code points. No case is
folded, and nothing is normalized.

**One reading.** A place whose count varies has no character in common with a place that may come next: up to and
including the first one after it that stands there at least once. So a value can be read in one way only, from left to
right, and each place takes as many characters as it can.

**Limits.** 256 characters in a template, 256 different ones in a class, and 256 in the longest value that matches.
"""

import string
from typing import NamedTuple

from token_worker.tokens.formats.base import FormatError

TEMPLATE_CHARACTERS = 256
"""Most characters of a template. It enters the derivation of each token."""

VALUE_CHARACTERS = 256
"""Most characters of a value."""

CLASS_CHARACTERS = 256
"""Most characters of a class: as many as one byte of the derivation can choose from."""

_DIGITS = "0123456789"
_SPECIAL = frozenset(".^$*+?|()[]{}\\")
_SPECIAL_IN_CLASS = frozenset("[]-^\\")
_UNBOUNDED = "a repeat needs a limit: {n} or {n,m}"


class Place(NamedTuple):
    """A place of a template.

    Attributes:
        characters: the characters of its class, in the order of their code points, each once.
        least, most: how many of them stand there.
        is_grouped: True within a group.
        position: where it begins in the template, from 1.
    """

    characters: str
    least: int
    most: int
    is_grouped: bool
    position: int


def parse(template: str) -> list[Place]:
    """Read a template.

    Raises:
        FormatError: it is not one. The text has the position, counted from 1.
    """
    if len(template) > TEMPLATE_CHARACTERS:
        raise FormatError("template", f"more than {TEMPLATE_CHARACTERS} characters")
    places = _Parser(template).places()
    if sum(place.most for place in places) > VALUE_CHARACTERS:
        raise FormatError("template", f"a value can have more than {VALUE_CHARACTERS} characters")
    for number, place in enumerate(places):
        if place.least < place.most:
            _check_one_reading(place, places[number + 1 :])
    return places


def _check_one_reading(place: Place, following: list[Place]) -> None:
    for follower in following:
        if not set(place.characters).isdisjoint(follower.characters):
            text = f"this repeat can go on with a character of the place at position {follower.position}"
            raise _error(f"{text}; give it a fixed count", place.position)
        if follower.least:
            return


def _error(text: str, position: int) -> FormatError:
    return FormatError("template", f"{text}, at position {position}")


class _Parser:
    """Reads a template from left to right.

    Args:
        text: the template.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def places(self) -> list[Place]:
        found: list[Place] = []
        group: int | None = None  # the position of the open group
        before_group = 0
        while self._at < len(self._text):
            position = self._at + 1
            if self._next_is("("):
                if group is not None:
                    raise _error("a group within a group", position)
                if self._peek() == "?":
                    raise _error("'(?' has no meaning here", position)
                group, before_group = position, len(found)
            elif self._next_is(")"):
                if group is None or len(found) == before_group:
                    raise _error("a group without content" if group else "')' without '('", position)
                if self._peek() in {"?", "{", "*", "+"}:
                    raise _error("a group cannot be repeated", self._at + 1)
                group = None
            else:
                found.append(self._place(is_grouped=group is not None))
        if group is not None:
            raise _error("'(' without ')'", group)
        if not found:
            raise _error("there is nothing", 1)
        return found

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _next_is(self, character: str) -> bool:
        """Step over the next character if it is this one."""
        is_next = self._peek() == character
        self._at += is_next
        return is_next

    def _take(self) -> str:
        """Step over the next character."""
        character = self._peek()
        self._at += 1
        if not character:
            raise _error("something is missing at the end", self._at)
        if character < " " or "\x7e" < character < "\xa0" or "\ud800" <= character <= "\udfff":
            raise _error("a control character", self._at)
        return character

    def _place(self, *, is_grouped: bool) -> Place:
        position = self._at + 1
        character = self._take()
        if character == "[":
            characters = self._class(position)
        elif character == "\\":
            characters = self._escaped()
        elif character in "*+":
            raise _error(_UNBOUNDED, position)
        elif character == "|":
            raise _error("there are no alternatives; '\\|' is the character", position)
        elif character in _SPECIAL:
            raise _error(f"'{character}' has no meaning here; '\\{character}' is the character", position)
        else:
            characters = character
        least, most = self._count()
        return Place(characters, least, most, is_grouped, position)

    def _escaped(self) -> str:
        """Return the characters of an escape, after its backslash."""
        position = self._at
        character = self._take()
        if character == "d":
            return _DIGITS
        if character.isascii() and not character.isalnum():
            return character
        raise _error("only \\d and characters other than letters and digits follow a backslash", position)

    def _class(self, position: int) -> str:
        """Return the characters of a class, after its bracket."""
        found: set[str] = set()
        while not self._next_is("]"):
            first = self._member()
            if self._next_is("-"):
                at = self._at
                last = self._member()
                if len(first) > 1 or len(last) > 1 or first > last:
                    raise _error("a range that does not ascend", at)
                if ord(last) - ord(first) >= CLASS_CHARACTERS:
                    raise _error(f"a class of more than {CLASS_CHARACTERS} characters", position)
                if first < "\x7f" and last > "\x9f":
                    raise _error("a range across the control characters from U+007F", position)
                found.update(map(chr, range(ord(first), ord(last) + 1)))
            else:
                found.update(first)
        if not found:
            raise _error("a class without characters", position)
        if len(found) > CLASS_CHARACTERS:
            raise _error(f"a class of more than {CLASS_CHARACTERS} characters", position)
        return "".join(sorted(found))

    def _member(self) -> str:
        character = self._take()
        if character == "\\":
            return self._escaped()
        if character in _SPECIAL_IN_CLASS:
            raise _error(f"'{character}' has no meaning here; '\\{character}' is the character", self._at)
        return character

    def _count(self) -> tuple[int, int]:
        """Read a count, if there is one."""
        position = self._at + 1
        if self._next_is("?"):
            counts = 0, 1
        elif self._next_is("{"):
            least = self._number()
            most = least
            if self._next_is(","):
                if self._peek() == "}":
                    raise _error(_UNBOUNDED, position)
                most = self._number()
            if not self._next_is("}"):
                raise _error("'}' is missing", self._at + 1)
            if not 0 < most <= VALUE_CHARACTERS or least > most:
                raise _error(f"a count that is not from 1 to {VALUE_CHARACTERS}, or does not ascend", position)
            counts = least, most
        else:
            counts = 1, 1
        if self._peek() in {"?", "{", "*", "+"}:
            raise _error(_UNBOUNDED if self._peek() in "*+" else "a second count", self._at + 1)
        return counts

    def _number(self) -> int:
        start = self._at
        while self._peek() and self._peek() in string.digits and self._at - start < 3:
            self._at += 1
        if start == self._at:
            raise _error("a number is missing", start + 1)
        return int(self._text[start : self._at])
