"""Tokens of ``letters``: each letter by one of its kind, and all else where it is."""
# ruff: noqa: RUF001 - letters of many scripts

import unicodedata
from collections import Counter
from random import Random

import pytest
import regex
from hypothesis import example, given
from hypothesis import strategies as st

from harness.formats import could_draw, make, problem, tokens
from token_worker.tokens.derivation import LARGE_SPACE, ByteStream

EXPECTED = "text with at least one letter that can be replaced"

NAMES = [
    "Müller-Lüdenscheidt",
    "O'Brien, Siobhán  (née Ó Súilleabháin) 3rd ",
    "Nguyễn Thị Minh Khai",
    "Łukasz Brzęczyszczykiewicz",
    "Ștefan Țepeș",
    "İbrahim Yıldız",
    "Γιώργος Παπαδόπουλος",
    "Александр Пушкин",
    "מרים פרץ",
    "فاطمة الزهراء",
    "राठौड़ लड़का",
    "สมชาย",
    "山田 太郎",
    "やまだ たろう",
    "김민준",
    "გიორგი",
    "Արամ Խաչատրյան",
    "Ọlọ́runfẹ́mi",
    "𐐇𐐝𐐀𐐡𐐇𐐓",
    "𠮷野家",
]


def _shape(text: str) -> list[object]:
    """List what has to stay: of a letter its script, category and length, and all of any other character."""
    shape: list[object] = []
    for character in text:
        if regex.match(r"(?!\p{Script=Common}|\p{Script=Inherited})\p{L}", character):
            script = next(name for name in SCRIPTS if regex.match(rf"\p{{Script={name}}}", character))
            shape.append((script, unicodedata.category(character), len(character.encode())))
        else:
            shape.append(character)
    return shape


SCRIPTS = [
    *("Latin", "Greek", "Cyrillic", "Hebrew", "Arabic", "Devanagari", "Thai", "Han", "Hiragana", "Katakana", "Hangul"),
    *("Georgian", "Armenian", "Deseret", "Tamil", "Bengali", "Myanmar", "Kirat_Rai", "Balinese", "Ethiopic"),
]


@pytest.mark.parametrize("name", NAMES)
def test_names_stay_names(name: str) -> None:
    """A token has the same kinds of letters at the same places, and the same spaces, marks, digits and hyphens."""
    form = make("letters")
    assert problem(form, name) is None
    drawn = set(tokens(form, name, 200))
    assert len(drawn) == 200
    for token in drawn:
        assert _shape(token) == _shape(name)
        assert len(token) == len(name)
        assert len(token.encode()) == len(name.encode())
        assert unicodedata.is_normalized("NFC", token)
        assert unicodedata.is_normalized("NFKC", token)
        assert could_draw(form, name, token)


@pytest.mark.parametrize(("value", "count"), [("Aa", 26), ("Éé", 90), ("Яя", 48)])
def test_every_letter_of_a_class_is_drawn_as_often(value: str, count: int) -> None:
    """All letters of a class are met at each place, each about as often as any other."""
    drawn = list(tokens(make("letters"), value, 200 * count))
    for letters in zip(*drawn, strict=True):
        counts = Counter(letters)
        assert len(counts) == count
        assert all(130 < times < 270 for times in counts.values())


def test_large_classes_are_drawn_from_whole() -> None:
    """Tokens of a Han letter are spread over all 20,902 of the class, to the ends."""
    drawn = set(tokens(make("letters"), "山", 10_000))
    assert 7800 < len(drawn) < 8100  # 20,902 * (1 - 1 / e ** (10,000 / 20,902)) is 7,950
    assert min(drawn) < "\u4e20"
    assert max(drawn) > "\u9f80"


NUMBERS = bytes(range(64))


def _stream(data: bytes) -> ByteStream:
    return ByteStream(data.ljust(64, b"\0"), lambda _: b"")


@pytest.mark.parametrize(
    ("value", "data", "token"),
    [
        ("Li", NUMBERS, "Ab"),
        ("lI-x y", NUMBERS, "aB-c d"),
        ("Z", b"\xe9", "Z"),  # 233 is 25 more than a multiple of 26
        ("z", b"\xea\xff\x1b", "b"),  # 234 and 255 are dropped
        ("Ö-Öl", NUMBERS, "À-Ác"),
        ("ö", b"\xb3", "ž"),  # 179 mod 90 is the last
        ("ö", b"\xb4\x01", "á"),  # 180 is dropped
        ("山", b"\x00\x01", "丁"),
        ("山a", b"\xff\xff\x51\xa5\x01", "龥b"),  # 65,535 is dropped, 20,901 is the last; then one byte is taken
        ("x\u0301", b"\x01", "d\u0301"),  # b d f h j q t v x do not join the accent
        ("xy\u0301", b"\x02\x02", "cf\u0301"),
        ("y\u0301x", b"\x02\x02", "f\u0301c"),
        ("e\u0323\u0302", b"\x02", "q\u0323\u0302"),  # f p q x join neither
        ("x\u200b\u0301", b"\x02", "f\u200b\u0301"),  # what stands between does not matter
        ("ﬁa\u0301", b"\x02\x03", "ấh\u0301"),  # a ligature is replaced, and ends the stretch of a letter before it
        ("ª\u0301 a", b"\x02", "ª\u0301 c"),
    ],
)
def test_bytes_become_letters(value: str, data: bytes, token: str) -> None:
    """Letters are chosen as the specification says, worked out here by hand."""
    drawn = make("letters").draw(_stream(data), value.encode())
    assert drawn.decode() == token


@pytest.mark.parametrize(
    ("value", "kinds"),
    [
        ("ＡＢ", r"\p{Lu}\p{Lu}"),
        ("ﾔﾏﾀﾞ", r"[ァ-ヺ]{3}ﾞ"),
        ("\u1112\u1161\u11ab", r"[가-힣]{3}"),
        ("ﬁ", r"\p{Ll}"),
        ("Mª José", r"[A-Z]ª [A-Z][a-z][a-z]\p{Ll}"),
        ("a\u200b\u00a0\u3000\ufeff \x00\t\n", "[a-z]\u200b\u00a0\u3000\ufeff \x00\t\n"),
        ("٣x๓", "٣[a-z]๓"),
        ("👩🏽\u200d🚀x", "👩🏽\u200d🚀[a-z]"),
        ("ℌx𝐀", "ℌ[a-z]𝐀"),
        ("Hawaiʻi", "[A-Z][a-z]{4}ʻ[a-z]"),
    ],
)
def test_what_is_drawn_and_what_stays(value: str, kinds: str) -> None:
    """Compatibility letters become ordinary ones. Letters without a class stay, and so does all that is no letter."""
    form = make("letters")
    assert problem(form, value) is None
    for token in tokens(form, value, 50):
        assert regex.fullmatch(kinds, token)
        assert len(token.encode()) == len(value.encode())
        assert could_draw(form, value, token) or token == value


@pytest.mark.parametrize(
    "value", ["", " ", "4111 1111", "-", "ª", "ʻ", "ー", "𝐀", "👍", "\u0301", "€", "٣", "Ⅷ", "\ufffd"]
)
def test_values_without_a_letter_are_refused(value: str) -> None:
    """A value that would be its own token is refused, and the message has nothing of it."""
    assert problem(make("letters"), value) == EXPECTED


@pytest.mark.parametrize("value", [b"\xff", b"abc\xc3", b"a\xed\xa0\x80", b"a\xc0\xaf", b"a\xf4\x90\x80\x80"])
def test_bytes_that_are_no_text_are_refused(value: bytes) -> None:
    """Values that are not UTF-8 are refused: broken, overlong, surrogates, and beyond Unicode."""
    assert make("letters").problem(value) == EXPECTED


@pytest.mark.parametrize(
    ("value", "space"),
    [
        ("O", 26),
        ("Li", 676),
        ("Li 1", 676),
        ("Lí", 26 * 90),
        ("É", 90),
        ("x\u0301", 9),
        ("김", 11_172),
        ("abcdefghijklm", 26**13),
        ("abcdefghijklmn", LARGE_SPACE),
        ("é" * 9, 90**9),
        ("é" * 10, LARGE_SPACE),
        ("é" * 100_000, LARGE_SPACE),
    ],
)
def test_the_number_of_tokens_is_the_product_of_the_choices(value: str, space: int) -> None:
    """``space`` is exact as long as that matters: whether another candidate is worth a try depends on it."""
    assert make("letters").space(value.encode()) == space


def test_short_names_can_be_refused() -> None:
    """A name that can have fewer tokens than ``min_space`` is refused. By default one letter is enough."""
    assert problem(make("letters"), "O") is None
    text = "a value that can have at least 10,000 tokens of this format"
    assert problem(make("letters", min_space=10_000), "Li") == text
    assert problem(make("letters", min_space=10_000), "Lí") == text
    assert problem(make("letters", min_space=10_000), "Lim") is None


def test_short_names_get_nearly_all_tokens() -> None:
    """The 675 other names of two letters are all met among the candidates of one."""
    assert len(set(tokens(make("letters"), "Li", 8000)) | {"Li"}) == 676


def test_canonical_spelling() -> None:
    """``canonical`` refuses text that is not in NFC, so that a name has one token, however it is typed."""
    form = make("letters", spelling="canonical")
    assert problem(form, "Zoë") is None
    assert problem(form, "Zoe") is None
    expected = "text in Unicode normalization form C with at least one letter that can be replaced"
    assert problem(form, "Zoe\u0308") == expected
    assert problem(form, "123") == expected
    assert problem(make("letters"), "Zoe\u0308") is None
    assert form.field == make("letters").field


@pytest.mark.parametrize(
    ("value", "token"),
    [
        ("Li", "Li"),
        ("Li", "LI"),
        ("Li", "li"),
        ("Li", "Abc"),
        ("Li", "A"),
        ("Li", "É"),
        ("Li", "4b"),
        ("Li-", "Ab "),
        ("Li", "2B"),
        ("É", "Ab"),
        ("É", "é"),
        ("É", "Ω"),
        ("Éa", "Éé"),
        ("éß", "éß"),
        ("éß", "áß"),  # a sharp s is replaced, but is in no token
        ("Șa", "Ța"),
        ("山", "㐀"),
        ("é1", "á2"),
        ("x\u0301", "e\u0301"),
        ("é\u0301a", "áb\u0301"),
    ],
)
def test_tokens_of_others_are_told(value: str, token: str) -> None:
    """A token that this format could not have drawn for the value is told: another kind of letter, other characters."""
    assert not could_draw(make("letters"), value, token)


def test_tokens_that_are_no_text_are_told() -> None:
    """Bytes that are not UTF-8 are never a token of this format."""
    assert not make("letters").could_draw("é".encode(), b"\xc3\x28")
    assert not make("letters").could_draw(b"ab", b"a\xff")


def _letters() -> st.SearchStrategy[str]:
    names = regex.findall(r"\p{L}", "".join(map(chr, range(0x11000))) + "\U00020bb7\U0001e900")
    return st.sampled_from(names)


MARKS = st.sampled_from(regex.findall(r"\p{M}", "".join(map(chr, range(0x3100)))))
ACCENTS = st.sampled_from("\u0300\u0301\u0302\u0304\u0307\u0308\u030c\u031b\u0323\u0327\u0328\u0345\u0654\u093c\u3099")
TEXTS = st.lists(
    st.one_of(st.sampled_from("abcdeXYZäöüÉŁ"), _letters(), ACCENTS, MARKS, st.characters(exclude_categories=["Cs"])),
    min_size=1,
).map("".join)


@given(TEXTS, st.binary(min_size=64, max_size=64))
@example("k\u0302\u0301", b"\0" * 64)
@example("각\u11a8", b"\0" * 64)
@example("ကီ", bytes([33] * 64))
@example("\U00016d63\U00016d67\U00016d67", b"\0" * 64)
@example("é\u0316\u0323", b"\0" * 64)
def test_any_text(value: str, data: bytes) -> None:
    """Whatever the text: a token is as long, could be drawn, is drawn again, and is in NFC and NFKC if the value is."""
    form = make("letters")
    if problem(form, value) is not None:
        return
    stream = ByteStream(data, lambda _: data)
    token = form.draw(stream, value.encode()).decode()
    assert len(token) == len(value)
    assert [len(new.encode()) for new in token] == [len(old.encode()) for old in value]
    categories = {(unicodedata.category(new), unicodedata.category(old)) for new, old in zip(token, value, strict=True)}
    assert all(new == old or "Cn" in {new, old} for new, old in categories)  # this Python does not know all letters
    assert token == value or could_draw(form, value, token)
    assert form.draw(ByteStream(data, lambda _: data), value.encode()).decode() == token
    assert problem(form, token) is None
    for normal_form in ("NFC", "NFKC"):
        if unicodedata.is_normalized(normal_form, value):
            assert unicodedata.is_normalized(normal_form, token)


def test_stacks_of_marks() -> None:
    """Tokens of text in NFC are in NFC, also with several marks on one letter, in any order that NFC allows."""
    random = Random(5)
    form = make("letters")
    marks = (
        "\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030c\u031b\u0323\u0324\u0327\u0328\u0331\u0316\u0338"
    )
    letters = "abcdefghijklmnopqrstuvwxyzAEIOUéüñçőơụậṩαωѐйか"
    for _ in range(20_000):
        text = "".join(random.choice(letters) + "".join(random.choices(marks, k=random.randrange(4))) for _ in "123")
        value = unicodedata.normalize("NFC", text)
        token = form.draw(_stream(random.randbytes(64)), value.encode()).decode()
        assert unicodedata.is_normalized("NFC", token)
        assert unicodedata.is_normalized("NFKC", token) or not unicodedata.is_normalized("NFKC", value)


def test_letter_that_only_one_letter_could_replace_stays() -> None:
    """After all these marks, of a-z only q is left to draw. So the letter stays, and nothing is drawn for it."""
    form = make("letters")
    letters = "abcdefghijklmnopqrstuvwxyz"
    marks = [chr(point) for point in range(0x300, 0x330) if any(_changes(chr(point), letter) for letter in letters)]
    assert [letter for letter in letters if not any(_changes(mark, letter) for mark in marks)] == ["q"]
    stays = "a" + "".join(marks)
    assert problem(form, stays) == EXPECTED
    assert form.space(f"b {stays}".encode()) == 26
    assert all(token.endswith(f" {stays}") for token in tokens(form, f"b {stays}", 30))


def _changes(mark: str, letter: str) -> bool:
    return not unicodedata.normalize("NFC", letter + mark).startswith(letter)
