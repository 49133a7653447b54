"""One connection to one Redis server, for one thread: raw replies, typed errors, nothing is ever sent twice.

A connection on which the server says that it is no primary is closed: the next one may find another at that address.
redis-py keeps the connection (TLS, passwords, time-outs); its retries are switched off, since a write whose answer was
lost may have happened, and its reply conversions, since the delivery protocol reads what the server says.
"""

import math
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import hiredis
import redis
from redis._parsers import _HiredisParser
from redis.backoff import NoBackoff
from redis.retry import Retry

from token_worker.errors import ReplyTooLarge, ServerError, Unavailable
from token_worker.redis.address import RedisSettings
from token_worker.redis.script import Script

SOCKET_SECONDS = 5.0
"""How long to wait for an answer; longer than any BLOCK we ask for."""

REST_SECONDS = 1.0
"""A connection that was not used for longer is looked at first: its server may have been started anew."""

SHORT_COMMAND = 32
"""Arguments below which hiredis packs a command faster."""

PIECE = 65_536
"""Bytes of several commands that are sent at once: each piece has the whole time-out, for slow lines."""

_WAIT_FOR = frozenset(
    {
        "LOADING",
        "BUSY",
        "READONLY",
        "MASTERDOWN",
        "CLUSTERDOWN",
        "TRYAGAIN",
        "OOM",
        "MISCONF",
        "NOREPLICAS",
        "NOAUTH",
        "WRONGPASS",
    }
)
"""Answers that say the server cannot or will not do its work now: an operator, or time, mends them."""

_NO_PRIMARY = frozenset({"READONLY", "MASTERDOWN", "NOREPLICAS", "UNBLOCKED"})
"""Answers of a server that is not, or may soon not be, the primary any more."""

_CODES: dict[type[Exception], str] = {
    redis.exceptions.BusyLoadingError: "LOADING",
    redis.exceptions.ReadOnlyError: "READONLY",
    redis.exceptions.OutOfMemoryError: "OOM",
    redis.exceptions.NoPermissionError: "NOPERM",
    redis.exceptions.AuthenticationError: "WRONGPASS",
    redis.exceptions.NoScriptError: "NOSCRIPT",
    redis.exceptions.MasterDownError: "MASTERDOWN",  # before its base
    redis.exceptions.ClusterDownError: "CLUSTERDOWN",
    redis.exceptions.ClusterCrossSlotError: "CROSSSLOT",
    redis.exceptions.TryAgainError: "TRYAGAIN",
    redis.exceptions.MovedError: "MOVED",  # before its base
    redis.exceptions.AskError: "ASK",
}
"""Codes of errors whose first word redis-py takes away."""


def code_of(error: redis.RedisError) -> str:
    """The first word of a server's error (``NOGROUP``), or the kind of a connection's (``ConnectionRefusedError``).

    The rest is left out on purpose: servers quote arguments.
    """
    for kind, code in _CODES.items():
        if isinstance(error, kind):
            return code
    if isinstance(error, redis.ResponseError):
        word = str(error).partition(" ")[0]
        return word if word.isascii() and word.isalpha() and word.isupper() else "ERR"
    cause: BaseException = error
    while cause.__context__ is not None:  # redis-py wraps what the socket or TLS said
        cause = cause.__context__
    return type(cause).__name__


class _Packer:
    """Packs a command in one piece. redis-py looks at each argument twice, and hiredis copies long commands often."""

    def pack(self, *args: bytes | str | float) -> list[bytes]:
        if len(args) < SHORT_COMMAND:
            return [hiredis.pack_command(args)]  # type: ignore[arg-type]  # its stub knows tuples of one alone
        arguments = [arg if type(arg) is bytes else _to_bytes(arg) for arg in args]
        parts = [b""] * (2 * len(arguments))
        parts[::2] = [b"\r\n$%d\r\n" % len(argument) for argument in arguments]
        parts[1::2] = arguments
        return [b"".join([b"*%d" % len(arguments), *parts, b"\r\n"])]


def _to_bytes(argument: bytes | str | float) -> bytes:
    return argument if isinstance(argument, bytes) else str(argument).encode()


class _Parser(_HiredisParser):
    """Stops at a reply that is longer than it may be; as for any error, redis-py then closes the connection."""

    left = math.inf
    """Bytes that may still come."""

    def read_from_socket(self, *args: Any, **kwargs: Any) -> Any:
        before = self._reader.len()
        done = super().read_from_socket(*args, **kwargs)  # type: ignore[no-untyped-call]  # redis-py leaves it so
        self.left -= self._reader.len() - before
        if self.left < 0:
            raise ReplyTooLarge
        return done


class _ScriptUnknownError(ServerError):
    """The server was started anew, or forgot its scripts."""


class _Begun(NamedTuple):
    """A script that was sent, or why it could not be."""

    script: Script
    keys: Sequence[Any]
    args: Sequence[Any]
    error: Unavailable | ServerError | None


class Link(ABC):
    """Commands to one Redis, whatever stands behind its address.

    Attributes:
        name: ``streams``, ``keys`` or ``tokens``; stands in every error.
    """

    name: str

    @abstractmethod
    def connect(self) -> int:
        """Connect, if there is no connection; how many were made so far. Errors as by ``call``."""

    @abstractmethod
    def call(self, *command: Any) -> Any:
        """Send one command and give its raw reply.

        Raises:
            Unavailable: no connection, no answer in time, or the server cannot do its work now.
            ServerError: any other error the server answered.
        """

    @abstractmethod
    def call_bounded(self, most_bytes: int, *command: Any) -> Any:
        """Send one command whose reply is given up past so many bytes: no more than that is ever held of it.

        Raises:
            ReplyTooLarge: it is longer.
            Unavailable, ServerError: as by ``call``.
        """

    @abstractmethod
    def call_all(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send commands on one key together; what came of each, in order: its raw reply, or its error, not raised.

        Errors are those of ``call``. Where the connection was lost, all commands that were not answered by then have
        ``Unavailable``: whether the server did them is not known.
        """

    @abstractmethod
    def begin(self, script: Script, keys: Sequence[Any], args: Sequence[Any]) -> None:
        """Send a script, and do not wait for its reply: ``end`` is to be called before anything else is asked.

        Whatever fails is told by that.
        """

    @abstractmethod
    def end(self) -> Any:
        """The reply to the script that was begun; errors as by ``call``."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection."""

    def run(self, script: Script, keys: Sequence[Any], args: Sequence[Any]) -> Any:
        """Run a script; errors as by ``call``."""
        try:
            return self.call(f"EVALSHA{script.suffix}", script.sha, len(keys), *keys, *args)
        except _ScriptUnknownError:
            return self.call(f"EVAL{script.suffix}", script.source, len(keys), *keys, *args)


class RedisLink(Link):
    """Commands to one server.

    Args:
        name: as in ``Link``.
        settings: address, password and TLS files.
        refusals: whether an error that waiting does not mend is a ``ServerError``; without, every error is
            ``Unavailable``.
        seconds: how long to wait for a connection, or for an answer.
    """

    def __init__(
        self, name: str, settings: RedisSettings, *, refusals: bool = False, seconds: float = SOCKET_SECONDS
    ) -> None:
        self.name = name
        self._refusals = refusals
        given: dict[str, Any] = {}
        if settings.is_tls:
            given = {
                "ssl_ca_certs": settings.ca_file,
                "ssl_certfile": settings.cert_file,
                "ssl_keyfile": settings.key_file,
            }
        if settings.password is not None:
            given["password"] = settings.password
        pool = redis.ConnectionPool.from_url(
            settings.url,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=seconds,
            socket_connect_timeout=seconds,
            command_packer=_Packer(),
            parser_class=self._make_parser,
            **given,
        )
        connection: Any = pool.make_connection()  # redis-py has few types here
        self._connection = connection  # the only one: it needs no pool to be taken from for each command
        self._used_at = -math.inf  # there is no connection
        self._begun: _Begun | None = None
        self.connections = 0
        """How many connections were made so far: the number of the one in use."""
        self._connection.register_connect_callback(self._count)

    def _count(self, _connection: object) -> None:
        self.connections += 1

    def _make_parser(self, socket_read_size: int) -> _Parser:
        self._parser = _Parser(socket_read_size)  # type: ignore[no-untyped-call]  # redis-py leaves it so
        return self._parser

    def call_bounded(self, most_bytes: int, *command: Any) -> Any:
        self._parser.left = most_bytes
        try:
            return self.call(*command)
        finally:
            self._parser.left = math.inf

    def connect(self) -> int:
        """As ``Link.connect``: the number of the connection, see ``connections``."""
        try:
            self._look()
        except redis.RedisError as error:
            self.close()
            raise self._typed(error) from None
        except BaseException:  # a signal, say, or what another kind of link finds wrong
            self.close()
            raise
        return self.connections

    def call(self, *command: Any) -> Any:
        self._send(command)
        return self._receive()

    def begin(self, script: Script, keys: Sequence[Any], args: Sequence[Any]) -> None:
        error = None
        try:
            self._send(("EVALSHA", script.sha, len(keys), *keys, *args))
        except (Unavailable, ServerError) as raised:
            error = raised.with_traceback(None)  # its frames hold the command twice
        self._begun = _Begun(script, keys, args, error)

    def end(self) -> Any:
        begun, self._begun = self._begun, None
        if begun is None:
            raise RuntimeError("nothing was begun")
        if begun.error is not None:
            raise begun.error
        try:
            return self._receive()
        except _ScriptUnknownError:
            return self.call("EVAL", begun.script.source, len(begun.keys), *begun.keys, *begun.args)

    def _send(self, command: Sequence[Any]) -> None:
        try:
            self._look()
            self._connection.send_command(*command)
        except redis.RedisError as error:
            raise self._failure(error) from None
        except BaseException:
            self.close()
            raise

    def _receive(self) -> Any:
        try:
            reply = self._connection.read_response()
        except redis.RedisError as error:
            raise self._failure(error) from None
        except BaseException:  # a signal, say: what was asked may still be answered, and must not be the next reply
            self.close()
            raise
        self._used_at = time.monotonic()
        return reply

    def _failure(self, error: redis.RedisError) -> Unavailable | ServerError:
        """What to raise for an error; the connection is closed if it may not be used any more."""
        is_connected = self._used_at > -math.inf  # else it was refused while connecting: that is done anew
        if is_connected and isinstance(error, redis.ResponseError) and code_of(error) not in _NO_PRIMARY:
            self._used_at = time.monotonic()
        else:
            self.close()
        if isinstance(error, redis.exceptions.NoScriptError):
            return _ScriptUnknownError(self.name, "NOSCRIPT")
        return self._typed(error)

    def call_all(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        connection = self._connection
        outcomes: list[Any] = []
        try:
            self._look()
            packed = b"".join(piece for command in commands for piece in connection.pack_command(*command))
            if len(packed) > PIECE:  # else the system takes in megabytes at once, and their time is that of the answer
                connection._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * PIECE)  # noqa: SLF001 - redis-py has no option for it
            connection.send_packed_command([packed[at : at + PIECE] for at in range(0, len(packed), PIECE)])
            while len(outcomes) < len(commands):
                outcomes.append(self._next_outcome())
        except redis.RedisError as error:
            self.close()
            return outcomes + [self._typed(error)] * (len(commands) - len(outcomes))
        except Unavailable as error:  # what another kind of link finds wrong
            self.close()
            return outcomes + [error] * (len(commands) - len(outcomes))
        except BaseException:
            self.close()
            raise
        self._used_at = time.monotonic()
        return outcomes

    def _next_outcome(self) -> Any:
        try:
            return self._connection.read_response()
        except redis.ResponseError as error:
            if code_of(error) in _NO_PRIMARY:
                raise
            return self._typed(error)

    def _look(self) -> None:
        """Have a connection. Where nothing was asked and yet there is something to read, the server has closed it."""
        if self._begun is not None:
            raise RuntimeError("the reply to what was begun has to be taken first")
        if time.monotonic() - self._used_at <= REST_SECONDS:
            return
        if self._used_at > -math.inf:
            try:
                is_closed = self._connection.can_read()
            except redis.RedisError:
                is_closed = True
            if not is_closed:
                return
            self.close()
        self._connect()
        self._used_at = time.monotonic()

    def _connect(self) -> None:
        """Connect anew."""
        self._connection.connect()

    def close(self) -> None:
        self._connection.disconnect()
        self._used_at = -math.inf

    def _typed(self, error: redis.RedisError) -> Unavailable | ServerError:
        code = code_of(error)
        if self._refusals and isinstance(error, redis.ResponseError) and code not in _WAIT_FOR:
            return ServerError(self.name, code)
        return Unavailable(self.name, code)
