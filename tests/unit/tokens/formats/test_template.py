r"""Tokens of ``template``: places of a form that are drawn, and what is not a template."""

import re
from collections import Counter
from random import Random

import pytest

from harness.formats import could_draw, make, problem, tokens
from judge.run import Tokens
from token_worker.errors import Code, Refused
from token_worker.tokens.formats.base import FormatError
from token_worker.tokens.formats.template_syntax import Place, parse


@pytest.mark.parametrize(
    ("template", "value"),
    [
        (r"[A-Z]{2}-\d{4,8}", "AB-12345"),
        (r"\d{3}", "123"),
        (r"[a-z0-9.\-]{3,9}@x", "a.b-c@x"),
        (r"[0-9A-Fa-f]{8}", "00aBcdEf"),
        (r"\(\d{3}\) \d{3}\.\d{4}\?", "(555) 123.4567?"),
        (r"-?\d{1,3}", "-123"),
        (r"[β-ω]{3}-\d{3}", "γδε-123"),
        ("[\N{GRINNING FACE}-\N{WINKING FACE}]{3}", "\N{GRINNING FACE}\N{WINKING FACE}\N{GRINNING FACE}"),
    ],
)
def test_tokens_match_the_template(template: str, value: str) -> None:
    """A token matches the template as a regular expression does, with as many characters at each place."""
    drawn = list(tokens(make("template", template=template), value, 200))
    assert len(set(drawn)) > 100
    for token in drawn:
        assert re.fullmatch(template, token)
        assert len(token) == len(value)


@pytest.mark.parametrize(
    ("template", "value", "drawn"),
    [
        (r"[A-Z]{2}-\d{4}", "AB-1234", "xx.xxxx"),
        (r"[A-Z]{2}-(\d{4})", "AB-1234", "...xxxx"),
        (r"([A-Z]{2})-\d{2}(\d{2})", "AB-1234", "xx...xx"),
        (r"(\d{4}-[X])\d", "1234-X5", "xxxx..."),
        (r"\d?X?-(\d{3})", "5X-123", "...xxx"),
    ],
)
def test_groups_are_drawn_and_the_rest_is_kept(template: str, value: str, drawn: str) -> None:
    """Places in groups are drawn, else all. Literals never are, nor is a class of one character."""
    form = make("template", template=template)
    met = list(tokens(form, value, 400))
    assert "".join("x" if len({token[at] for token in met}) > 5 else "." for at in range(len(value))) == drawn
    for at, kind in enumerate(drawn):
        if kind == ".":
            assert {token[at] for token in met} == {value[at]}
            assert not could_draw(form, value, met[0][:at] + "7" + met[0][at + 1 :])


def test_every_character_of_a_class_is_drawn() -> None:
    """Characters of a class are equally likely, each once: also those that the class names twice."""
    met = Counter("".join(tokens(make("template", template="[CBA-CX]{8}"), "ABCXABCX", 2000)))
    assert set(met) == set("ABCX")
    assert max(met.values()) < 1.1 * min(met.values())


@pytest.mark.parametrize(
    "value",
    [
        "",
        "AB-123",
        "AB-123456789",
        "ab-12345",
        "AB12345",
        "AB-12345\n",
        "AB-12345 ",
        " AB-12345",
        "AB-1234\N{ARABIC-INDIC DIGIT FIVE}",
        "A\N{FULLWIDTH LATIN CAPITAL LETTER B}-12345",
        "AB-12\N{ZERO WIDTH SPACE}345",
        "AB\N{HYPHEN}12345",
        "A\u0301B-12345",
        "AB-12345\0",
    ],
)
def test_other_values_are_refused(value: str) -> None:
    """The whole value has to match, with the very characters of the classes."""
    form = make("template", template=r"[A-Z]{2}-\d{4,8}")
    assert problem(form, value) == r"text of the form [A-Z]{2}-\d{4,8}"


def test_bytes_that_are_no_text_are_refused() -> None:
    """Bytes that are not UTF-8 are no value and no token."""
    form = make("template", template=r"[é-ü]{4}")
    assert form.problem("éêüé".encode("latin-1")) is not None
    assert form.problem("éêüé".encode()) is None
    assert not form.could_draw("éêüé".encode(), "éêüé".encode("latin-1"))


@pytest.mark.parametrize(
    ("template", "position"),
    [
        ("", 1),
        ("a|b", 2),
        (r"(\d)\1", 5),
        (r"(?:\d)", 1),
        (r"(?P<a>\d)", 1),
        (r"\d+", 3),
        (r"\d*", 3),
        (r"\d{2,}", 3),
        (r"\d{,2}", 4),
        (r"\d{2", 5),
        (r"\d{2,3", 7),
        (r"\d{}", 4),
        (r"\d{0}", 3),
        (r"\d{0,0}", 3),
        (r"\d{3,2}", 3),
        (r"\d{257}", 3),
        (r"\d{1000}", 7),
        (r"\d{2}{3}", 6),
        (r"\d{2}?", 6),
        (r"\d??", 4),
        (r"\d{2}+", 6),
        (r"(\d{2}){3}", 8),
        (r"(\d)?", 5),
        (r"(\d)*", 5),
        (r"((\d))", 2),
        (r"(\d", 1),
        (r"\d)", 3),
        (r"()\d", 2),
        (r"^\d{3}", 1),
        (r"\d{3}$", 6),
        (r"\d.", 3),
        (r"?\d", 1),
        (r"*\d", 1),
        (r"{2}\d", 1),
        (r"\d]", 3),
        (r"\d}", 3),
        (r"\w{3}", 1),
        (r"\D", 1),
        ("\\", 2),
        ("\\é", 1),
        ("[]", 1),
        ("[", 2),
        ("[a-", 4),
        ("[^a]", 2),
        ("[[:alpha:]]", 2),
        ("[a-z-]", 5),
        ("[-a]", 2),
        ("[z-a]", 3),
        (r"[\d-z]", 4),
        (r"[a-\d]", 3),
        (r"[\w]", 2),
        ("[\u0100-\u0200]", 1),
        ("[ -\u00ff]", 1),
        ("\\d\t", 3),
        ("\\d\x7f", 3),
        ("\\d\x85", 3),
        ("\\d\ud800", 3),
        (r"\d{2,3}\d", 1),
        (r"X[A-Z]{1,2}-?[A-Z]", 2),
        (r"\d{2}\d{1,2}[a-f5]", 6),
        (r"A?[AB]\d", 1),
    ],
)
def test_what_is_not_a_template_is_refused(template: str, position: int) -> None:
    """A text that is not a template, or can be read in two ways, is refused with the position."""
    with pytest.raises(FormatError, match=rf"at position {position}$") as refused:
        make("template", template=template)
    assert refused.value.parameter == "template"


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("ABC", "nothing in it would be drawn"),
        (r"(ABC)\d{4}", "nothing in it would be drawn"),
        ("[aa]{4}", "nothing in it would be drawn"),
        (r"\d" * 128 + "A", "more than 256 characters"),
        (r"\d{200}[a-z]{57}", "a value can have more than 256 characters"),
        ("".join(map(chr, [91, *range(256, 500), 93])) + "x" * 20, "more than 256 characters"),
    ],
)
def test_limits(template: str, text: str) -> None:
    """Templates that draw nothing, or are too long, and templates of too long values are refused."""
    with pytest.raises(FormatError, match=text):
        make("template", template=template)


def test_largest_templates() -> None:
    """A class of 256 characters, and a value of 256, are the most there can be."""
    form = make("template", template="[\u0100-\u01ff]{256}")
    value = "\u0100" * 256
    (token,) = tokens(form, value, 1)
    assert len(set(token)) > 100
    assert form.space(value.encode()) == 2**64  # stands for any number that is too large to matter
    with pytest.raises(FormatError, match="a class of more than 256 characters, at position 1"):
        make("template", template="[\u0100-\u01ffA]{256}")


def test_places() -> None:
    """A template is read as places, with the sorted characters of each."""
    assert parse(r"(\d{2,3})-[cab]?") == [
        Place("0123456789", 2, 3, is_grouped=True, position=2),
        Place("-", 1, 1, is_grouped=False, position=10),
        Place("abc", 0, 1, is_grouped=False, position=11),
    ]
    assert [place.characters for place in parse(r"[\d\-\]\\ ]\{\.")] == [" -0123456789\\]", "{", "."]


def random_template(random: Random) -> str:
    places = []
    for _ in range(random.randint(1, 6)):
        atom = random.choice([r"\d", "[A-F]", "[a-c0-3]", "-", "X", r"\.", "[XYZ]"])
        places.append(atom + random.choice(["", "", "?", "{2}", "{1,3}", "{0,2}"]))
    if random.random() < 0.4:
        at = random.randrange(len(places))
        places[at] = f"({places[at]})"
    return "".join(places)


def test_templates_are_read_in_one_way() -> None:
    """Of random templates, those that are accepted match what regular expressions match, and parse each value once."""
    random = Random(7)
    accepted = 0
    for _ in range(3000):
        text = random_template(random)
        try:
            form = make("template", template=text, min_space=1)
        except FormatError:
            continue
        accepted += 1
        usual = re.compile(text.replace(r"\d", "[0-9]"))
        for _ in range(10):
            value = "".join(random.choices("0A1aXZ-.5", k=random.randint(1, 6)))
            matched = usual.fullmatch(value)
            reason = problem(form, value)
            assert matched is not None or reason is not None
            if matched and reason is not None:
                assert reason == "a value that can have at least 1 tokens of this format"  # nothing of it is drawn
            if reason is None:
                list(tokens(form, value, 3))
    assert accepted > 500


def test_values_in_which_nothing_is_drawn() -> None:
    """A value in which no place is drawn has no token. A place that is not there adds nothing to the space."""
    form = make("template", template=r"X\d{0,3}", min_space=1)
    assert problem(form, "X") == "a value that can have at least 1 tokens of this format"
    assert [form.space(value) for value in (b"X", b"X1", b"X12", b"X123")] == [0, 10, 100, 1000]
    assert problem(make("template", template=r"X\d{0,3}"), "X1") is not None
    with pytest.raises(FormatError) as refused:
        make("template", template=r"X\d")
    assert refused.value.parameter == "min_space"


@pytest.mark.parametrize("chosen", [0, 1, 2])
def test_a_space_that_is_nearly_full(chosen: int) -> None:
    """Of the 100 values of two digits at least 95 get tokens of their own, none its value. The others are refused."""
    form = make("template", template=r"\d\d")
    values = [b"%02d" % number for number in range(100)]
    Random(chosen).shuffle(values)
    results = Tokens().tokenize(form, values)
    made = {value: token for value, token in zip(values, results, strict=True) if isinstance(token, bytes)}
    assert len(made) >= 95
    assert len(set(made.values())) == len(made)
    assert all(value != token for value, token in made.items())
    refused = [result.code for result in results if isinstance(result, Refused)]
    assert refused == [Code.TOKEN_SPACE_EXHAUSTED] * (100 - len(made))


def test_the_definition_has_the_template() -> None:
    """The text of the template enters the derivation, in UTF-8."""
    form = make("template", template=r"[é\"]{9}")
    expected = '{"kind":"template","template":"[é\\\\\\"]{9}","type":"str","version":1}'
    assert form.field[4:].decode() == expected
    assert make("template", template=r"[é\"]{9}", min_space=5).field == form.field
