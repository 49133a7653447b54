"""The short form of ``scripts/moves``."""

import os
from collections.abc import Callable

from moves.run import run

TOKENS = 100_000 if os.environ.get("LONG_TESTS") == "1" else 900


def test_no_token_differs_after_moves_that_were_killed(say: Callable[[str], None]) -> None:
    """Moved both ways under load, with the command killed three times on each, every token is the same as before."""
    report = run(TOKENS, rate=1000)
    moves = [f"to {moved.to}: killed {moved.kills} times, pause {moved.pause_seconds} s" for moved in report.moves]
    say(f"{report.tokens} tokens, {report.requests} requests; {'; '.join(moves)}")
    assert [moved.different for moved in report.moves] == [0, 0]
    assert report.failed == 0
    assert report.is_whole
    assert sum(moved.kills for moved in report.moves) >= 2
