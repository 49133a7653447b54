"""Bytes on a connection: commands are packed in one piece, and replies are read up to a limit.

redis-py makes a connection: it finds the server, does TLS and logs in. From then on ``Wire`` sends and receives by
itself. redis-py's own way takes half of the time of a batch of one request: its layers, and a ``poll`` before each send
and receive for the time-out. On a plain socket the kernel keeps the time-out instead.
"""

import math
import os
import select
import socket
import ssl
import struct
from functools import lru_cache
from typing import Any

import hiredis
import redis
from redis._parsers.hiredis import NOT_ENOUGH_DATA

from token_worker.errors import ReplyTooLarge

SHORT_COMMAND_ARGS = 32
"""Number of arguments below which hiredis packs a command faster."""

READ_BYTES = 65_536
"""Most bytes of one receive."""

CHUNK_BYTES = 65_536
"""Bytes of several commands that are sent at once. Each chunk has the whole time-out, for slow lines."""

_HEADS_MAX = 1024
_HEADS = [b"\r\n$%d\r\n" % length for length in range(_HEADS_MAX)]
"""What stands before an argument of each length. To look it up takes a third of the time of a long command less."""

_TIME = struct.Struct("@ll")
"""Seconds and microseconds, as in ``struct timeval``."""


def pack(command: tuple[Any, ...]) -> bytes:
    """Pack one command in one piece. hiredis copies long commands often."""
    if len(command) < SHORT_COMMAND_ARGS:
        packed: bytes = hiredis.pack_command(command)
        return packed
    arguments = [arg if type(arg) is bytes else _to_bytes(arg) for arg in command]
    lengths = map(len, arguments)
    parts = [b""] * (2 * len(arguments))
    parts[::2] = [_HEADS[length] if length < _HEADS_MAX else b"\r\n$%d\r\n" % length for length in lengths]
    parts[1::2] = arguments
    return b"".join([b"*%d" % len(arguments), *parts, b"\r\n"])


@lru_cache(maxsize=64)
def pack_again(command: tuple[Any, ...]) -> bytes:
    """Pack a command that is sent again and again, like a read."""
    return pack(command)


def _to_bytes(argument: bytes | str | float) -> bytes:
    return argument if isinstance(argument, bytes) else str(argument).encode()


class Wire:
    """The bytes of one connection at a time. Errors are those of redis-py.

    After an error the connection is of no use any more, unless the error is the reply.

    Args:
        seconds: how long to wait until a part of a command is taken, or a part of a reply comes. A signal that is
            handled in between makes the wait begin anew.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._socket: socket.socket | None = None
        self._reader: hiredis.Reader | None = None
        self.bytes_left = math.inf
        """Bytes that may still arrive. A longer reply raises ``ReplyTooLarge``."""

    def open(self, connection: Any) -> None:
        """Take over a connection that redis-py has just made. redis-py still has to close it."""
        taken: socket.socket = connection._sock  # noqa: SLF001 - redis-py has no other name
        self._socket, self._reader = taken, connection._parser._reader  # noqa: SLF001 - as above
        if os.name == "posix" and not isinstance(taken, ssl.SSLSocket):  # TLS does not tell of such a time-out
            _let_the_kernel_wait(taken, self._seconds)

    def close(self) -> None:
        """Forget the connection, and what was read of a reply."""
        self._socket = self._reader = None

    def send(self, packed: bytes) -> None:
        """Send packed commands.

        Raises:
            redis.TimeoutError: for so long nothing could be sent.
            redis.ConnectionError: there is no connection any more.
        """
        if self._socket is None:
            raise redis.ConnectionError
        try:
            self._socket.sendall(packed)
        except (BlockingIOError, TimeoutError):
            pass
        except OSError as error:
            raise redis.ConnectionError from error
        else:
            return
        raise redis.TimeoutError  # outside of the except clause: the time-out is the reason, not how it was told

    def send_long(self, packed: bytes) -> None:
        """Send many packed commands, a chunk at a time; errors as by ``send``."""
        if len(packed) > CHUNK_BYTES and self._socket is not None:  # else the system buffers megabytes for one time-out
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * CHUNK_BYTES)
        for at in range(0, len(packed), CHUNK_BYTES):
            self.send(packed[at : at + CHUNK_BYTES])

    def receive(self) -> Any:
        """Receive one reply.

        Raises:
            redis.RedisError: the reply is an error, or as by ``send``.
            ReplyTooLarge: more than ``bytes_left`` came.
        """
        reader, source = self._reader, self._socket
        if reader is None or source is None:
            raise redis.ConnectionError
        reply = reader.gets()
        while reply is NOT_ENOUGH_DATA:
            received = _receive(source)
            reader.feed(received)
            self.bytes_left -= len(received)
            if self.bytes_left < 0:
                raise ReplyTooLarge
            reply = reader.gets()
        if isinstance(reply, redis.RedisError):
            try:
                raise reply
            finally:
                del reply  # else the error and this frame would hold each other
        return reply

    @property
    def has_more(self) -> bool:
        """True if more came than the last reply, or a part of more."""
        return self._reader is not None and bool(self._reader.has_data())

    def receive_many(self, replies: list[Any], count: int) -> None:
        """Append so many replies to a list. An error that is the reply is appended, too, and not raised.

        Raises:
            redis.RedisError: as by ``send``. The replies before that are in the list.
        """
        reader, source = self._reader, self._socket
        if reader is None or source is None:
            raise redis.ConnectionError
        for _ in range(count):
            reply = reader.gets()
            while reply is NOT_ENOUGH_DATA:
                reader.feed(_receive(source))
                reply = reader.gets()
            replies.append(reply)

    def wait(self, seconds: float) -> bool:
        """Wait until something can be received. Return False if nothing came for so long."""
        source = self._socket
        if source is None:
            return True  # to receive tells why
        if isinstance(source, ssl.SSLSocket) and source.pending():
            return True
        poll = select.poll()
        poll.register(source, select.POLLIN)
        return bool(poll.poll(max(0.0, seconds) * 1000))


def _receive(source: socket.socket) -> bytes:
    try:
        received = source.recv(READ_BYTES)
    except (BlockingIOError, TimeoutError):
        pass
    except OSError as error:
        raise redis.ConnectionError from error
    else:
        if received:
            return received
        raise redis.ConnectionError  # the server has closed it
    raise redis.TimeoutError


def _let_the_kernel_wait(plain: socket.socket, seconds: float) -> None:
    """Replace Python's time-out, which polls before each send and receive, by one of the kernel."""
    plain.settimeout(None)
    whole, part = divmod(round(seconds * 1e6), 1_000_000)
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        plain.setsockopt(socket.SOL_SOCKET, option, _TIME.pack(whole, part))
