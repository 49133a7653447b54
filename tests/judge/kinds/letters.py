"""Cases of ``letters``. The judge is the standard library: tokens are text in the normalization forms C and KC."""

import unicodedata
from random import Random

from judge.case import Case

ALPHABETS = [
    "abcdefghijklmnopqrstuvwxyz",
    "abcdefghijklmnopqrstuvwxyzäöüéèçñåøłžš",
    "абвгдежзийклмнопрстуфхцчшщъыьэюя",
    "αβγδεζηθικλμνξοπρστυφχψωάέήίόύώ",
    "אבגדהוזחטיכלמנסעפצקרשת",
    "कखगघचछजझटठडढतथदधनपफबभमयरलवशषसह",
    "".join(map(chr, range(0x4E00, 0x9FA6))),
    "".join(map(chr, range(0xAC00, 0xD7A4))),
]


def names(random: Random) -> str:
    """Make two or three words of one alphabet, so long that nobody has the same."""
    letters = random.choice(ALPHABETS)
    words = ["".join(random.choices(letters, k=random.randrange(5, 12))).title() for _ in range(random.randrange(2, 4))]
    return random.choice([" ", "-", ", "]).join(words)


def accented(random: Random) -> str:
    """Make words with marks after letters, in NFC."""
    words = "".join(random.choices("abdefghknoqtxyẹọạ", k=14))
    marked = "".join(letter + random.choice(["", "", "\u0301", "\u0300", "\u0323", "\u0331"]) for letter in words)
    return unicodedata.normalize("NFC", marked)


def is_normal(text: str) -> bool:
    """Judge whether a text is in both forms."""
    return unicodedata.is_normalized("NFC", text) and unicodedata.is_normalized("NFKC", text)


def kept(text: str) -> object:
    """Return the category and the length of each letter, and all other characters."""
    return [
        (unicodedata.category(character), len(character.encode())) if character.isalpha() else character
        for character in text
    ]


CASES = [
    Case("letters", names, kept, judge=is_normal, accepted=True),
    Case("letters", accented, kept, {"spelling": "canonical", "min_space": 10_000}, judge=is_normal, accepted=True),
]
