"""Exchanges send only what a link can send."""

from typing import cast

import pytest

from token_worker.redis.exchange import Command, Exchange, RunScript, Together, drive, start, start_pair
from token_worker.redis.link import Link
from token_worker.streams.commit import COMMIT

NO_LINK = cast(Link, None)
"""Nothing may be asked of it."""

SCRIPT, PLAIN, TOGETHER = RunScript(COMMIT, (), ()), ("PING",), Together(100, [("PING",)])


def exchange(command: Command) -> Exchange[None]:
    yield command


def test_commands_go_together_only_after_a_script() -> None:
    """An exchange that yields commands to send together can only be the second of a pair, whose first is a script."""
    with pytest.raises(TypeError):
        drive(exchange(TOGETHER), NO_LINK)
    for first, second in ((SCRIPT, PLAIN), (SCRIPT, SCRIPT), (PLAIN, TOGETHER), (TOGETHER, TOGETHER)):
        with pytest.raises(TypeError):
            start_pair(exchange(first), exchange(second), NO_LINK)
    with pytest.raises(TypeError):
        start(exchange(PLAIN), NO_LINK)
