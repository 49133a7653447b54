"""``letters``: names and other text, each letter replaced by a letter of its kind.

**Values.** Any text in UTF-8 in which at least one letter is drawn.

**Tokens.** Code points of the value, in order. Each is drawn or stays as it is. So a token has as many code points and
as many bytes as the value, with the same spaces, hyphens, digits and marks, and capitals where the value has capitals.

**Table.** ``letters.txt`` beside this module, in ASCII. Lines that begin with ``#`` are comments. A list of code points
is in hexadecimal, with spaces between: ``41`` or ``41-5A``, both ends included. There are two kinds of lines:

- ``SCRIPT CATEGORY LENGTH: DRAWN | OTHERS``, a class: letters of one script and one general category, with the same
  number of bytes in UTF-8. ``| OTHERS`` may be missing. A letter of DRAWN or OTHERS is replaced by one of DRAWN. The
  words before the colon change no token. SCRIPT can have spaces: ``Canadian Aboriginal Lo 3``.
- ``before POINT: LETTERS``: this code point, which is in no class, changes each of these letters before it in
  normalization form C (NFC). ``e`` and a combining acute accent become ``é``, say.

**Drawing.** For each code point of the value that is in a class (in DRAWN or OTHERS), from the first to the last:

1. The *stretch* is made of the value's code points after it, up to but not including the next that is in a class, or to
   the end. It can be empty.
2. The *choice* is DRAWN of its class, in the order of the code points, without each letter that at least one code point
   of the stretch changes. If fewer than 2 letters are left, the code point stays as it is, and nothing is drawn for it.
3. *A number below* the number of letters in the choice is the place of the new letter in the choice, from 0.

Any other code point stays as it is. What is drawn for one code point changes nothing for the others.

**Space.** The product, over the code points for which a letter is drawn, of the number of letters in the choice.

**Why these letters.** DRAWN has only letters that NFC and NFKC leave as they are, that are not deprecated, and that do
not join a letter before them. So a token of a value in NFC is in NFC, and a token of a value in NFKC is in NFKC. The
letters of names today come first. For scripts with many other letters these are ranges that
``scripts/make_letters_table.py`` lists, for the rest the letters of Unicode 3.2 (2002), which fonts have. Capital and
small letters are among them only in pairs of the same length in UTF-8: so there is no sharp s, no dotless i and no
final sigma. If fewer than ten letters of a class are left, DRAWN has all that are stable. If these are fewer than ten,
there is no class. Letters of the scripts Common and Inherited have no class either. All other letters of a class are in
OTHERS: Romanian ``ș``, full-width Latin, half-width kana, ligatures, jamo, say. They are replaced, but no token gets
them. So full-width and half-width letters become ordinary ones.

**What stays.** Marks, digits, spaces (at the ends, too), punctuation, zero-width and control characters, emoji, and
letters without a class: the ordinal indicator ``ª``, the kana mark ``ー``, the modifier letter apostrophe, mathematical
letters. A value is refused if no letter of it is drawn, or if it is not UTF-8. Upper and lower case, NFC and NFD, one
space and two are different values, with different tokens. ``spelling = "canonical"`` refuses values that are not in
NFC, as the Python that runs knows it.

**Short names.** A value in ASCII with k letters can have 26^k tokens: ``Li`` can have 676, ``O`` 26. Once a client
has more values of such a form, some are refused with ``token_space_exhausted``. Long before, many tokens are the names
of others. ``min_space`` refuses such values from the start. Every token shows the length of its value, the words, the
capitals, the accents that take bytes of their own, and the script.

**Definition.** No parameter changes a token. A new table is a new version of the kind.
"""

import unicodedata
from bisect import bisect_left
from typing import NamedTuple

from token_worker.tokens.derivation import LARGE_SPACE, ByteStream, alphabet
from token_worker.tokens.formats.base import Format, MinSpace, Parameters, Spelling
from token_worker.tokens.formats.letters_table import letters_for

_CAPITALS, _SMALL = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", b"abcdefghijklmnopqrstuvwxyz"
_ALPHABET = alphabet(_SMALL)
_OTHER_ASCII = bytes(byte for byte in range(128) if byte not in _CAPITALS + _SMALL)
_SHAPE = bytes.maketrans(_CAPITALS + _SMALL, b"A" * 26 + b"a" * 26)
_CASE = bytes(0x20 if byte in _CAPITALS else 0 for byte in range(256))
"""For each byte, the bit by which it differs from a small letter."""

_SPACES = [26**count for count in range(14)]
"""Number of tokens by the number of ASCII letters. With more letters it is above ``LARGE_SPACE``."""


class LettersParameters(Parameters, frozen=True, kw_only=True):
    """Parameters of ``letters``.

    Attributes:
        spelling: ``canonical`` refuses values that are not in normalization form C.
    """

    spelling: Spelling = "as-is"
    min_space: MinSpace = 1


class Reading(NamedTuple):
    """A value that was read.

    Attributes:
        value: the value.
        ascii_letters: number of letters, if the value is in ASCII.
        text: the text, if it is not.
        choices: for each code point of the text the letters that it can become. Empty: it stays.
    """

    value: bytes
    ascii_letters: int
    text: str = ""
    choices: tuple[str, ...] = ()


class Letters(Format[LettersParameters, Reading]):
    """Names and other text."""

    kind = "letters"
    parameters_type = LettersParameters

    def _expected(self) -> str:
        form = " in Unicode normalization form C" if self.parameters.spelling == "canonical" else ""
        return f"text{form} with at least one letter that can be replaced"

    def _drawing(self) -> dict[str, str | int | bool]:
        return {}

    def _largest_space(self) -> int:
        return LARGE_SPACE

    def _read(self, value: bytes) -> Reading | None:
        if value.isascii():
            letters = len(value.translate(None, _OTHER_ASCII))
            return Reading(value, letters) if letters else None
        try:
            text = value.decode()
        except UnicodeDecodeError:
            return None
        choices = tuple(letters_for(text))
        return Reading(value, 0, text, choices) if any(choices) else None

    def _problem(self, read: Reading) -> str | None:
        is_refused = self.parameters.spelling == "canonical" and not unicodedata.is_normalized("NFC", read.text)
        return self.expected if is_refused else None

    def _space(self, read: Reading) -> int:
        if read.ascii_letters:
            return _SPACES[read.ascii_letters] if read.ascii_letters < len(_SPACES) else LARGE_SPACE
        space = 1
        for choice in read.choices:
            if choice:
                space *= len(choice)
                if space >= LARGE_SPACE:
                    return LARGE_SPACE
        return space

    def _draw(self, stream: ByteStream, read: Reading) -> bytes:
        if read.ascii_letters:
            return _in_shape(read.value, stream.characters(_ALPHABET, read.ascii_letters))
        drawn = [
            choice[stream.below(len(choice))] if choice else character
            for character, choice in zip(read.text, read.choices, strict=True)
        ]
        return "".join(drawn).encode()

    def _could_draw(self, read: Reading, token: bytes) -> bool:
        if len(token) != len(read.value):
            return False
        if read.ascii_letters:
            return token.translate(_SHAPE) == read.value.translate(_SHAPE)
        try:
            text = token.decode()
        except UnicodeDecodeError:
            return False
        return len(text) == len(read.text) and all(
            _is_in(new, choice) if choice else new == old
            for new, old, choice in zip(text, read.text, read.choices, strict=True)
        )


def _in_shape(value: bytes, letters: bytes) -> bytes:
    """Write small letters where an ASCII value has letters, as capitals where it has capitals."""
    if len(letters) < len(value):
        taken = iter(letters)
        letters = bytes([byte if byte in _OTHER_ASCII else next(taken) for byte in value])
    number = int.from_bytes(letters, "big") ^ int.from_bytes(value.translate(_CASE), "big")
    return number.to_bytes(len(value), "big")


def _is_in(letter: str, choice: str) -> bool:
    place = bisect_left(choice, letter)
    return place < len(choice) and choice[place] == letter
