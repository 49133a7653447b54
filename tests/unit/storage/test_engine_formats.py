"""Tokens of a format in both layouts: stored under the type, one for a value, until the space is used up."""

import pytest

from harness.engine_memory import (
    ORIGIN,
    EngineMemory,
    code,
    detokenize,
    run,
)
from token_worker.acra.value_types import EMAIL, STR
from token_worker.errors import Code
from token_worker.keys.keyring import Keyring
from token_worker.storage.token_item import ItemResult, TokenItem
from token_worker.tokens.derivation import ByteStream, Origin
from token_worker.tokens.formats import AnyFormat, builtin_formats
from token_worker.tokens.formats.base import Format, Parameters
from token_worker.tokens.formats.pan import Pan, PanParameters
from token_worker.tokens.formats.places import DIGITS

pytestmark = pytest.mark.usefixtures("guess_after")


PAN = builtin_formats()["pan"]
CARD = b"4111 1111-1111 1111"


def formatted(ring: Keyring, data: bytes, form: AnyFormat, origin: Origin | None = None) -> TokenItem:
    return TokenItem(ring, form.value_type, data, tokenize=True, origin=origin, format=form)


class TwoDigits(Format[Parameters, bytes]):
    """Two digits. It is as small as a format can be, so that its space is used up."""

    kind = "two-digits"

    def _expected(self) -> str:
        return "two digits"

    def _drawing(self) -> dict[str, str | int | bool]:
        return {}

    def _largest_space(self) -> int:
        return 100

    def _read(self, value: bytes) -> bytes | None:
        return value if len(value) == 2 and value.isdigit() else None

    def _space(self, read: bytes) -> int:
        return 100

    def _draw(self, stream: ByteStream, read: bytes) -> bytes:
        return stream.characters(DIGITS, 2)

    def _could_draw(self, read: bytes, token: bytes) -> bool:
        return self._read(token) is not None


TWO_DIGITS = TwoDigits("two-digits", Parameters(min_space=1))


def test_token_of_a_format_is_stored_under_its_type(memory: EngineMemory, ring: Keyring) -> None:
    """A token drawn by a format is an entry of type ``str`` like any other: it is detokenized without a format."""
    (token,) = run(memory, [formatted(ring, CARD, PAN)])

    assert isinstance(token, bytes)
    assert PAN.could_draw(CARD, token)
    assert set(memory.entries) == {memory.value_key(CARD), memory.token_key(token)}
    assert run(memory, [detokenize(ring, token)]) == [CARD]


def test_one_value_has_one_token_whatever_the_format(memory: EngineMemory, ring: Keyring) -> None:
    """A value that has a token keeps it: asked for with, without and with another format, before and in one batch.

    In one batch, the first item decides.
    """
    other = Pan("pan-6", PanParameters(keep_first=6, min_space=1))
    for first, second in ((None, PAN), (PAN, None), (PAN, other)):
        memory.entries = {}
        items = [TokenItem(ring, STR, CARD, tokenize=True, format=form) for form in (first, second)]
        (before,) = run(memory, items[:1])
        assert run(memory, [items[1]]) == [before]

        memory.entries = {}
        tokens = run(memory, [TokenItem(ring, STR, CARD, tokenize=True, format=form) for form in (first, second)])
        assert tokens == [before, before]
        assert len(memory.entries) == 2


def test_first_of_equal_values_decides_their_token(memory: EngineMemory, ring: Keyring) -> None:
    """Of equal values in one batch the first decides how the token is drawn, as if it had come alone."""
    for forms in ([PAN, None], [None, PAN], [PAN, None, PAN]):
        items = [TokenItem(ring, STR, CARD, tokenize=True, format=form) for form in forms]
        memory.entries = {}
        alone = run(memory, items[:1])
        memory.entries = {}
        assert run(memory, items) == alone * len(forms)


def test_refusal_belongs_to_a_form_of_the_value(memory: EngineMemory, ring: Keyring) -> None:
    """A value that can have no token of one form gets one of another form, also if both are asked for in one batch."""
    for number in range(100):
        memory.put_t(ring, STR, b"%02d" % number, b"taken")
    forms = [TWO_DIGITS, TWO_DIGITS, None, TWO_DIGITS]
    results = run(memory, [TokenItem(ring, STR, b"42", tokenize=True, format=form) for form in forms])
    assert [code(results[at]) for at in (0, 1, 3)] == [Code.TOKEN_SPACE_EXHAUSTED] * 3
    assert isinstance(results[2], bytes)

    safe = builtin_formats()["email-safe"]
    short = [TokenItem(ring, EMAIL, b"a@b.c", tokenize=True, format=form) for form in (None, safe)]
    refused, token = run(memory, short)
    assert code(refused) is Code.INVALID_EMAIL
    assert isinstance(token, bytes)
    assert safe.could_draw(b"a@b.c", token)


def test_formats_with_equal_definitions_draw_the_same(memory: EngineMemory, ring: Keyring) -> None:
    """The definition of a format decides its tokens, not its name. Each parameter that changes a token enters."""
    renamed = Pan("card", PanParameters(separators="refuse", min_space=7))
    kept = Pan("pan", PanParameters(keep_first=1))
    plain = CARD.translate(None, b" -")
    tokens = []
    for form in (PAN, renamed, kept):
        memory.entries = {}
        tokens += run(memory, [formatted(ring, plain, form)])

    assert tokens[0] == tokens[1] != tokens[2]
    assert renamed.field == PAN.field != kept.field


def test_inconsistent_token_of_a_format(memory: EngineMemory, ring: Keyring) -> None:
    """An inconsistent token of a format differs from item to item, and comes back."""
    origins = [ORIGIN._replace(item=number) for number in range(3)]
    tokens = run(memory, [formatted(ring, CARD, PAN, origin) for origin in origins])

    assert len(set(tokens)) == 3
    assert all(isinstance(token, bytes) and PAN.could_draw(CARD, token) for token in tokens)
    assert run(memory, [detokenize(ring, token) for token in tokens if isinstance(token, bytes)]) == [CARD] * 3


@pytest.mark.parametrize("batch", [1, 7, 100])
def test_space_of_a_format_until_exhaustion(memory: EngineMemory, ring: Keyring, batch: int) -> None:
    """Of 100 values with 100 tokens at least 95 get one. No two share one, none is its own, the rest are exhausted."""
    values = [b"%02d" % number for number in range(100)]
    results: list[ItemResult] = []
    for start in range(0, 100, batch):
        results += run(memory, [formatted(ring, value, TWO_DIGITS) for value in values[start : start + batch]])

    tokens = [result for result in results if isinstance(result, bytes)]
    assert 95 <= len(tokens) == len(set(tokens))
    assert all(token != value for value, token in zip(values, results, strict=True))
    assert {code(result) for result in results if not isinstance(result, bytes)} <= {Code.TOKEN_SPACE_EXHAUSTED}
    assert run(memory, [detokenize(ring, token) for token in tokens]) == [
        value for value, token in zip(values, results, strict=True) if isinstance(token, bytes)
    ]


def test_format_has_no_last_resort(memory: EngineMemory, ring: Keyring) -> None:
    """A value whose own digits are the only token left is refused, though a value without a format would get them."""
    for number in range(100):
        if number != 42:
            memory.put_t(ring, STR, b"%02d" % number, b"taken")
    (result,) = run(memory, [formatted(ring, b"42", TWO_DIGITS)])

    assert code(result) is Code.TOKEN_SPACE_EXHAUSTED
    assert memory.value_key(b"42") not in memory.entries


def test_only_one_token_and_it_is_the_value(memory: EngineMemory, ring: Keyring) -> None:
    """A format that can draw nothing but the value refuses it as exhausted."""

    class Same(TwoDigits):
        def _draw(self, stream: ByteStream, read: bytes) -> bytes:
            return read

    (result,) = run(memory, [formatted(ring, b"42", Same("same", Parameters(min_space=1)))])

    assert code(result) is Code.TOKEN_SPACE_EXHAUSTED
    assert memory.entries == {}
