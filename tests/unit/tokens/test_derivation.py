"""The derivation of tokens: against its vectors, against a second implementation, and for bias."""

import base64
import collections
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Any, Literal

import msgspec
import pytest
from email_validator import validate_email
from hypothesis import given
from hypothesis import strategies as st

from harness import second_derivation
from harness.second import canonical_json
from judge.cases import all_cases, cases_of
from token_worker.acra.owner import Owner
from token_worker.acra.value_types import EMAIL_BYTES, TYPES, TokenType
from token_worker.tokens import derivation
from token_worker.tokens.derivation import PLAIN, ByteStream, Deriver, Form, Origin
from token_worker.tokens.formats import KINDS

VECTORS: list[dict[str, Any]] = msgspec.json.decode(
    (Path(__file__).parents[2] / "vectors" / "derivation.json").read_bytes()
)
KEY = base64.b64decode("a2V5IG9mIGEgdGVzdCwga2V5IG9mIGEgdGVzdC4uLi4=")
CLIENT = Owner("client", "shop-frontend")
DERIVER = Deriver(KEY, CLIENT)


def lengths(kind: TokenType) -> st.SearchStrategy[int]:
    if kind.name in ("int32", "int64"):
        return st.just(4 if kind.name == "int32" else 8)
    return st.integers(6, 254) if kind.name == "email" else st.integers(1, 400)


@st.composite
def inputs(draw: st.DrawFn) -> tuple[str, bytes, int]:
    kind = draw(st.sampled_from(list(TYPES.values())))
    length = draw(lengths(kind))
    return kind.name, draw(st.binary(min_size=length, max_size=length)), draw(st.integers(0, 2**32 - 1))


def form_of(vector: dict[str, Any]) -> Form:
    """The type or format of a vector."""
    named = vector["form"]
    if isinstance(named, str):
        return PLAIN[named]
    kind = KINDS[named["kind"]]
    return kind("any name", msgspec.convert(vector["parameters"], kind.parameters_type))


def name_of(vector: dict[str, Any]) -> str:
    """The name of the type or kind of a vector."""
    named = vector["form"]
    return str(named if isinstance(named, str) else named["kind"])


@pytest.mark.parametrize("name", [*PLAIN, *KINDS])
def test_vectors_are_derived_by_both_implementations(name: str) -> None:
    """A changed vector is a breaking release: the same value would get another token."""
    for vector in VECTORS:
        if name_of(vector) == name:
            check_vector(vector)


def check_vector(vector: dict[str, Any]) -> None:
    key, value, token = (bytes.fromhex(vector[member]) for member in ("key", "value", "token"))
    origin = vector.get("origin")
    ours = Origin(origin[0].encode(), origin[1].encode(), origin[2]) if origin else None
    owner = Owner(vector["kind"], vector["id"])
    assert Deriver(key, owner).token(form_of(vector), value, vector["counter"], ours) == token
    theirs = second_derivation.Origin(*origin) if origin else None
    second = second_derivation.derive(vector["form"], value, key, *owner, vector["counter"], theirs)
    assert second == token


def test_vectors_are_complete() -> None:
    """There are vectors of every type and kind with counters 0 to 3, of two keys, a client, a zone, inconsistent."""
    seen = {(name_of(v), v["counter"], v["kind"], v["key"], "origin" in v) for v in VECTORS}
    first, rotated = dict.fromkeys(v["key"] for v in VECTORS)
    for named in (*PLAIN, *KINDS):
        for rest in (("client", rotated, False), ("zone", first, False), ("client", first, True)):
            assert (named, 0, *rest) in seen
        for counter in range(4):
            assert (named, counter, "client", first, False) in seen


@pytest.mark.parametrize("kind", KINDS)
def test_both_implementations_agree_on_formats(kind: str) -> None:
    """Product and second implementation draw the same tokens for 10,000 random values of each kind of format."""
    cases = cases_of(kind)
    owner = Owner("client", "shop-frontend")
    for case in cases:
        form, chance = case.format(), Random(case.name)
        definition = msgspec.json.decode(form.field[4:])
        for _ in range(-(-10_000 // len(cases))):
            value, counter = case.values(chance).encode(), chance.randrange(1000)
            second = second_derivation.derive(definition, value, KEY, *owner, counter)
            assert DERIVER.token(form, value, counter) == second


def test_definition_is_canonical_json() -> None:
    """The definition of a format is JSON in the canonical form of RFC 8785, with its length before it."""
    for case in all_cases():
        field = case.format().field
        definition = msgspec.json.decode(field[4:])
        assert field == len(field[4:]).to_bytes(4, "big") + canonical_json.write(definition).encode()
        assert definition["type"] in {"str", "email"}
        assert (definition["kind"], definition["version"]) == (case.kind, 1)


@given(inputs(), st.sampled_from(["client", "zone"]), st.text(min_size=5, max_size=20), st.booleans())
def test_both_implementations_agree(
    given_: tuple[str, bytes, int], kind: Literal["client", "zone"], owner_id: str, consistent: bool
) -> None:
    """Product and second implementation derive the same from whatever inputs."""
    name, value, counter = given_
    ours = None if consistent else Origin(b"stream", b"1-0", 7)
    theirs = None if consistent else second_derivation.Origin("stream", "1-0", 7)
    token = Deriver(KEY, Owner(kind, owner_id)).token(PLAIN[name], value, counter, ours)
    assert second_derivation.derive(name, value, KEY, kind, owner_id, counter, theirs) == token
    assert len(token) == len(value)


@given(inputs())
def test_every_input_changes_the_token(given_: tuple[str, bytes, int]) -> None:
    """Key, owner, kind of owner, purpose, stream, entry and item all enter."""
    name, _, counter = given_
    value = bytes(32) if name not in ("int32", "int64") else bytes(8)
    name = "int64" if name == "int32" else name
    zone = Owner("zone", CLIENT.id)
    derived = [
        DERIVER.token(PLAIN[name], value, counter),
        Deriver(bytes(32), CLIENT).token(PLAIN[name], value, counter),
        Deriver(KEY, zone).token(PLAIN[name], value, counter),
        Deriver(KEY, Owner("client", "other_client")).token(PLAIN[name], value, counter),
        *(
            DERIVER.token(PLAIN[name], value, counter, origin)
            for origin in (
                Origin(b"s", b"1-0", 0),
                Origin(b"t", b"1-0", 0),
                Origin(b"s", b"2-0", 0),
                Origin(b"s", b"1-0", 1),
            )
        ),
    ]
    assert len(set(derived)) == len(derived)


def chi_square(counted: collections.Counter[Any], outcomes: int) -> float:
    """Distance from uniform in standard deviations of the chi-square statistic, about normal for many outcomes."""
    total = counted.total()
    expected = total / outcomes
    statistic = sum((count - expected) ** 2 / expected for count in counted.values())
    statistic += (outcomes - len(counted)) * expected
    return float((statistic - (outcomes - 1)) / (2 * (outcomes - 1)) ** 0.5)


LIMIT = 6.0
"""Inputs are fixed, so this never flakes; modulo bias is some hundred deviations away."""


def characters(name: str, length: int, tokens: int, form: Form | None = None) -> Iterable[int]:
    for number in range(tokens):
        yield from DERIVER.token(form or PLAIN[name], number.to_bytes(length, "big"), 0)


@pytest.mark.parametrize("name", ["int32", "int64", "bytes"])
def test_numbers_and_bytes_are_uniform(name: str) -> None:
    """Each byte of a number or of bytes is equally often each of 256, at every position; a bias would be found out."""
    length = {"int32": 4, "int64": 8, "bytes": 33}[name]
    drawn = list(characters(name, length, 200_000 // length))
    assert abs(chi_square(collections.Counter(drawn), 256)) < LIMIT
    for position in range(length):
        assert abs(chi_square(collections.Counter(drawn[position::length]), 256)) < LIMIT
    naive = collections.Counter(characters(name, length, 200_000 // length, Biased(bytes(range(255)))))
    assert chi_square(naive, 256) > 5 * LIMIT


class Biased:
    """The draw as it would be without rejection."""

    def __init__(self, alphabet: bytes) -> None:
        self.field = PLAIN["str"].field
        self._alphabet = alphabet

    def draw(self, stream: ByteStream, value: bytes) -> bytes:
        return bytes(self._alphabet[byte % len(self._alphabet)] for byte in stream.take(len(value)))

    def space(self, value: bytes) -> int:
        return int(len(self._alphabet) ** len(value))


@pytest.mark.parametrize(
    ("name", "value", "candidates"),
    [
        ("str", b"a", 16 * 62),
        ("str", b"ab", 256),
        ("str", "é".encode(), 256),
        ("bytes", b"\0", 4096),
        ("bytes", b"\0\0", 256),
        ("int32", bytes(4), 256),
        ("int64", bytes(8), 256),
        ("email", b"a@b.cd", 256),
    ],
)
def test_number_of_candidates_without_a_format(name: str, value: bytes, candidates: int) -> None:
    """Only text and bytes of one byte have so few tokens that there are 16 candidates for each."""
    assert derivation.tries(PLAIN[name].space(value)) == candidates


def test_number_of_candidates_by_the_space() -> None:
    """A value that can have up to 256 tokens has 16 candidates for each. With more tokens there are 256 in all."""
    assert [derivation.tries(space) for space in (1, 100, 256, 257, 10**9)] == [16, 1600, 4096, 256, 256]


def test_a_number_below_1_takes_one_byte() -> None:
    """A byte is taken also where there is nothing to choose: the next draw begins after it."""
    stream = ByteStream(bytes(range(64)), bytes)
    assert stream.below(1) == 0
    assert stream.take(1) == b"\x01"


def test_text_is_uniform() -> None:
    """Each of 62 characters is equally likely; taking bytes modulo 62 would be found out."""
    assert abs(chi_square(collections.Counter(characters("str", 40, 5000)), 62)) < LIMIT
    naive = collections.Counter(characters("str", 40, 5000, Biased(derivation.LETTERS)))
    assert chi_square(naive, 62) > 10 * LIMIT


def test_emails_are_uniform() -> None:
    """Characters, and endings of short and of long addresses, are equally likely; modulo bias would be found out."""
    locals_: collections.Counter[int] = collections.Counter()
    labels: collections.Counter[int] = collections.Counter()
    endings: dict[int, collections.Counter[bytes]] = {7: collections.Counter(), 40: collections.Counter()}
    for length, counted in endings.items():
        for number in range(30_000):
            local, _, domain = DERIVER.token(PLAIN["email"], number.to_bytes(length, "big"), 0).partition(b"@")
            counted[domain[domain.rindex(b".") :]] += 1
            if number < 5000 and length == 40:
                locals_.update(local)
                labels.update(domain[: domain.rindex(b".")].replace(b".", b""))
    assert abs(chi_square(locals_, 36)) < LIMIT
    assert abs(chi_square(labels, 36)) < LIMIT
    assert abs(chi_square(endings[40], 11)) < LIMIT
    assert abs(chi_square(endings[7], 6)) < LIMIT
    naive = collections.Counter(characters("email", 40, 5000, Biased(derivation.EMAIL_LETTERS)))
    assert chi_square(naive, 36) > 2 * LIMIT
    heads = collections.Counter(byte % 11 for byte in characters("bytes", 40, 30_000))
    assert chi_square(heads, 11) > LIMIT


@pytest.mark.parametrize("length", EMAIL_BYTES)
def test_every_email_token_is_a_valid_address(length: int) -> None:
    """An e-mail token of every length there is passes a strict validator, and keeps its length."""
    for counter in range(4):
        token = DERIVER.token(PLAIN["email"], b"x" * length, counter)
        assert len(token) == length
        validate_email(token.decode(), check_deliverability=False)


@given(st.sampled_from(["int32", "int64"]), st.integers(-(2**31), 2**31 - 1))
def test_numbers_are_encoded_and_decoded(name: str, value: int) -> None:
    """A number survives its encoding for storage; its token decodes to a number of its type."""
    kind = TYPES[name]
    assert kind.decode(kind.encode(value)) == value
    token = kind.decode(DERIVER.token(PLAIN[kind.name], kind.encode(value), 0))
    assert isinstance(token, int)
    bits = 32 if name == "int32" else 64
    assert -(2 ** (bits - 1)) <= token < 2 ** (bits - 1)
