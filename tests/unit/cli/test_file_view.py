"""Tests of the lines that ``token-worker file`` prints at its end."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from token_worker.cli.file_view import View
from token_worker.cli.terminal import number
from token_worker.files.progress import Counts, OtherTokens


def printed(counts: Counts, errors: Path | None = None) -> list[str]:
    out = io.StringIO()
    View(Console(file=out)).end(counts, errors)
    return out.getvalue().splitlines()


def test_tokens_of_another_format_are_told_by_column() -> None:
    """The last lines say how many values of each column have such tokens, the first rows, and the ways out."""
    others = {
        "card": OtherTokens(1234, [2, 3, 5, 8, 9]),
        "iban": OtherTokens(2, [3, 4]),
        "\x1b[31mname": OtherTokens(1, [7]),
    }
    told = printed(Counts(rows=3, other_format=others))
    assert told[1:4] == [
        "column card: 1,234 values have tokens of another format, made before (the first rows are 2, 3, 5, 8, 9)",
        "column iban: 2 values have tokens of another format, made before (rows 3, 4)",
        "column ?[31mname: 1 value has a token of another format, made before (row 7)",
    ]
    assert "if the old tokens are stored nowhere, `token-worker tokens remove`" in told[4]
    assert "nobody can detokenize" in told[5]
    assert 'on_other = "refuse"' in told[6]
    assert told[7:] == ["  all these rows: use --errors FILE"]
    assert printed(Counts(rows=3, other_format=others), Path("left-out.jsonl"))[7:] == [
        "  all these rows: left-out.jsonl"
    ]
    assert len(printed(Counts(rows=3))) == 1


@pytest.mark.parametrize(
    ("told", "text"),
    [
        (number(1, "row"), "1 row"),
        (number(0, "row"), "0 rows"),
        (number(2000, "row"), "2,000 rows"),
        (number(1, "pass", "passes"), "1 pass"),
        (number(2, "pass", "passes"), "2 passes"),
    ],
)
def test_one_of_a_kind_is_no_plural(told: str, text: str) -> None:
    """A count of one has the noun in the singular."""
    assert told == text
