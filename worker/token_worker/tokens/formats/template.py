r"""``template``: values of a form that the settings describe: ``template = "[A-Z]{2}-\d{4,8}"``, say.

**Values.** Text that matches the template. ``template_syntax`` says what a template is and when a value matches. The
template is all that decides: whoever wants one spelling only, writes a template for it.

**Tokens.** Text that matches the template, with as many characters (code points) at each place as the value has there.
A place is new if it stands in a group, or in a template without groups; but never if its class has one character only:
that is a literal. A class has each of its characters once: ``[aa]`` is a literal, too. A group without a new place is a
group: the places outside groups stay. A template without any new place is refused at start. All places that are not new
are as in the value. In the order of the template, each new place with n characters in the value is drawn: n *characters
of an alphabet*, which is its class in the order of the code points. (Where these take more than one byte in UTF-8, a
token can have more or fewer bytes than its value.)

Tokens have no mark: they are values, too.

**Space.** The product of m to the power of n, for a class of m characters, over all new places. If no new place has a
character in the value, the space is 0, and the value is refused.

**Definition.** ``template``: its text.
"""

import re

from token_worker.tokens.derivation import LARGE_SPACE, Alphabet, ByteStream, alphabet
from token_worker.tokens.formats.base import Format, FormatError, MinSpace, Parameters
from token_worker.tokens.formats.template_syntax import Place, parse

Texts = tuple[str, ...]
"""What a value has at each place."""


class TemplateParameters(Parameters, frozen=True, kw_only=True):
    """Parameters of ``template``.

    Attributes:
        template: the form of the values.
    """

    template: str
    min_space: MinSpace = 100


class _Class:
    """The characters of a place that is drawn.

    Args:
        characters: in the order of their code points.
    """

    __slots__ = ("_numbers", "characters")

    def __init__(self, characters: str) -> None:
        self.characters = characters
        self._numbers: Alphabet = alphabet(bytes(range(len(characters))))

    def draw(self, stream: ByteStream, count: int) -> str:
        """Draw so many characters."""
        return "".join([self.characters[number] for number in stream.characters(self._numbers, count)])


class Template(Format[TemplateParameters, Texts]):
    """Values of a form that the settings describe."""

    kind = "template"
    parameters_type = TemplateParameters

    def __init__(self, name: str, parameters: TemplateParameters) -> None:
        places = parse(parameters.template)
        has_groups = any(place.is_grouped for place in places)
        self._classes = [
            _Class(place.characters) if len(place.characters) > 1 and place.is_grouped is has_groups else None
            for place in places
        ]
        self._places = places
        self._fullmatch = re.compile("".join(map(_pattern, places))).fullmatch
        if not any(self._classes):
            raise FormatError("template", "nothing in it would be drawn")
        super().__init__(name, parameters)

    def _expected(self) -> str:
        return f"text of the form {self.parameters.template}"

    def _drawing(self) -> dict[str, str | int | bool]:
        return {"template": self.parameters.template}

    def _largest_space(self) -> int:
        return self._space_of([place.most for place in self._places])

    def _space_of(self, counts: list[int]) -> int:
        """Return the number of tokens of a value that has so many characters at each place."""
        space, drawn = 1, 0
        for chosen, count in zip(self._classes, counts, strict=True):
            if chosen is not None:
                drawn += count
                space = min(space * len(chosen.characters) ** count, LARGE_SPACE)
        return space if drawn else 0

    def _read(self, value: bytes) -> Texts | None:
        try:
            matched = self._fullmatch(value.decode())
        except UnicodeDecodeError:
            return None
        return None if matched is None else matched.groups()

    def _space(self, read: Texts) -> int:
        return self._space_of(list(map(len, read)))

    def _draw(self, stream: ByteStream, read: Texts) -> bytes:
        drawn = [
            text if chosen is None else chosen.draw(stream, len(text))
            for chosen, text in zip(self._classes, read, strict=True)
        ]
        return "".join(drawn).encode()

    def _could_draw(self, read: Texts, token: bytes) -> bool:
        other = self._read(token)
        return other is not None and all(
            mine == theirs if chosen is None else len(mine) == len(theirs)
            for chosen, mine, theirs in zip(self._classes, read, other, strict=True)
        )


def _pattern(place: Place) -> str:
    """Return the regular expression of a place. Nothing that it has matched is given up again."""
    characters = "".join(map(re.escape, place.characters))
    return f"([{characters}]{{{place.least},{place.most}}}+)"
