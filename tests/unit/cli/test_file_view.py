"""What ``token-worker file`` prints at its end."""

import io

from rich.console import Console

from token_worker.cli.file_view import View
from token_worker.files.progress import Counts


def printed(counts: Counts) -> list[str]:
    out = io.StringIO()
    View(Console(file=out)).end(counts)
    return out.getvalue().splitlines()


def test_tokens_of_another_format_are_told_by_column() -> None:
    """The last lines say how many values of each column kept a token of another format. Without any, there are none."""
    told = printed(Counts(rows=3, other_format={"card": 1234, "\x1b[31mname": 1}))
    assert told[1:] == [
        "column card: 1,234 values have tokens of another format, made before",
        "column ?[31mname: 1 values have tokens of another format, made before",
    ]
    assert len(printed(Counts(rows=3))) == 1
