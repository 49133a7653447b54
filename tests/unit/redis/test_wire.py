"""Commands are packed as Redis reads them, however long they and their arguments are."""

import hiredis
import pytest

from token_worker.redis.wire import SHORT_COMMAND_ARGS, pack


@pytest.mark.parametrize("arguments", [1, SHORT_COMMAND_ARGS - 2, SHORT_COMMAND_ARGS - 1, 300])
@pytest.mark.parametrize("length", [0, 1, 9, 10, 1023, 1024, 20_000])
def test_packed_command_is_what_hiredis_makes(arguments: int, length: int) -> None:
    """Text counts in bytes and numbers in digits, and an argument of any length has its own length before it."""
    kinds = (b"\r\n" * length, "é" * length, 17, -3, 1.5, bytes(length))
    command = ("SET", *[kinds[number % len(kinds)] for number in range(arguments)])
    assert pack(command) == hiredis.pack_command(command)  # type: ignore[arg-type]  # its stub knows tuples of one only
