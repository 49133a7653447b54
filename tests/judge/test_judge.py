"""A sample of what ``scripts/judge`` looks at, and faults that it must find."""

from collections.abc import Callable

import pytest
from click.testing import CliRunner

from judge.__main__ import main
from judge.case import Case
from judge.cases import cases_of
from judge.kinds import pan
from judge.run import check, shares
from token_worker.tokens.derivation import ByteStream
from token_worker.tokens.formats import KINDS
from token_worker.tokens.formats.pan import Pan

TOKENS = 5_000
"""Tokens of each kind."""


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_of_a_kind(kind: str) -> None:
    """Values get tokens of their own and come back; tokens keep what they have to, and the judge says what it must."""
    for case, count in shares(cases_of(kind), TOKENS):
        report = check(case, count, "a fixed seed")
        assert report.tokens == count
        assert report.failures == {}, case.name


def _constant(self: Pan, stream: ByteStream, value: bytes) -> bytes:
    return b"4000000000000000"[: len(value)]


def _same(self: Pan, stream: ByteStream, value: bytes) -> bytes:
    return value


def _forgetful(self: Pan, stream: ByteStream, value: bytes) -> bytes:
    return bytes(stream.take(1)[0] % 10 + 48 for _ in value)


@pytest.mark.parametrize(
    ("draw", "found"), [(_constant, "unfit"), (_same, "unfit"), (_forgetful, "broken"), (_forgetful, "misjudged")]
)
def test_faults_are_found(monkeypatch: pytest.MonkeyPatch, draw: Callable[..., bytes], found: str) -> None:
    """Draws that give one token to all, the value itself, or digits that are not kept or checked are found out."""
    monkeypatch.setattr(Pan, "draw", draw)
    assert found in check(Case("pan", pan.plain, lambda text: text[-4:], judge=pan.is_luhn), 200, "seed").failures


def test_tokens_that_are_taken_again_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens that pass as values are found out if the case says that they are refused."""
    monkeypatch.setattr(Pan, "_problem", lambda self, read: None)
    case = Case("pan", pan.unmarked, len, {"token": "valid"}, judge=pan.is_luhn, accepted=True, refused=True)
    assert check(case, 200, "seed").failures == {"again": 200}


def test_tokens_are_shared_out() -> None:
    """Cases get equal shares of the tokens of a kind. What a small case leaves goes to the others."""
    small, *others = (Case("pan", pan.plain, len, values_most=most) for most in (10, 2**53, 2**53))
    assert [count for _, count in shares([*others, small], 101)] == [10, 45, 46]


def test_command_prints_a_table() -> None:
    """The command prints a line for each case of the kinds that are named, and ends well."""
    result = CliRunner().invoke(main, ["--kind", "pan", "--count", "100", "--seed", "a"])
    lines = result.output.splitlines()
    assert result.exit_code == 0
    assert lines[0] == "seed a"
    assert lines[1].split()[:3] == ["format", "tokens", "accepted"]
    assert len(lines) == 2 + len(cases_of("pan"))
    assert lines[2].split()[:7] == ["pan", "20", "0", "0", "0", "0", "0"]
