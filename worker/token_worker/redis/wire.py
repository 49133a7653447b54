"""Bytes on a connection: commands are packed in one piece, and replies are read up to a limit."""

import math
from typing import Any

import hiredis
from redis._parsers import _HiredisParser

from token_worker.errors import ReplyTooLarge

SHORT_COMMAND_ARGS = 32
"""Number of arguments below which hiredis packs a command faster."""


class Packer:
    """Packs a command in one piece. redis-py looks at each argument twice, and hiredis copies long commands often."""

    def pack(self, *args: bytes | str | float) -> list[bytes]:
        """Pack one command."""
        if len(args) < SHORT_COMMAND_ARGS:
            return [hiredis.pack_command(args)]  # type: ignore[arg-type]  # its stub knows tuples of one element only
        arguments = [arg if type(arg) is bytes else _to_bytes(arg) for arg in args]
        parts = [b""] * (2 * len(arguments))
        parts[::2] = [b"\r\n$%d\r\n" % len(argument) for argument in arguments]
        parts[1::2] = arguments
        return [b"".join([b"*%d" % len(arguments), *parts, b"\r\n"])]


def _to_bytes(argument: bytes | str | float) -> bytes:
    return argument if isinstance(argument, bytes) else str(argument).encode()


class LimitedParser(_HiredisParser):
    """Reads replies up to a limit. A longer reply raises ``ReplyTooLarge``, and redis-py closes the connection."""

    bytes_left = math.inf
    """Bytes that may still arrive."""

    def read_from_socket(self, *args: Any, **kwargs: Any) -> Any:
        before = self._reader.len()
        done = super().read_from_socket(*args, **kwargs)  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
        self.bytes_left -= self._reader.len() - before
        if self.bytes_left < 0:
            raise ReplyTooLarge
        return done
