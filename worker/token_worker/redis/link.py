"""One connection to one Redis server, for one thread: raw replies, typed errors. No command is ever sent twice.

A connection is closed when its server says that it is no primary: the next connection may find another server at that
address. redis-py makes and closes the connection (TLS, passwords); what goes over it is sent and received by ``Wire``.
Retries of redis-py are switched off, because a write whose reply was lost may have happened.
"""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import msgspec
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from token_worker.errors import LoginRefused, ServerError, Unavailable
from token_worker.redis.address import Node, RedisSettings
from token_worker.redis.errors import ScriptUnknownError, check_first_answer, is_from_primary, select_refusal, typed
from token_worker.redis.password import read_password
from token_worker.redis.script import Script
from token_worker.redis.wire import Wire, pack, pack_again

SOCKET_SECONDS = 5.0
"""Time-out of a reply; longer than any BLOCK that is asked for."""

IDLE_CHECK_SECONDS = 1.0
"""A connection that was idle for longer is checked before its next use, because its server may have been restarted."""


class _Started(msgspec.Struct, frozen=True, gc=False):
    """A script that was sent, or a pair.

    Attributes:
        error: why it was not sent.
        script, keys, args: the script; None and nothing for a pair, whose script is not run again here.
        commands, max_bytes: for a pair: the number of commands after the script, and the most bytes of their replies.
    """

    error: Unavailable | ServerError | None
    script: Script | None = None
    keys: Sequence[Any] = ()
    args: Sequence[Any] = ()
    commands: int = 0
    max_bytes: float = math.inf


class Link(ABC):
    """Commands to one Redis: one server, the primary behind Sentinels, or a cluster.

    Attributes:
        name: ``streams``, ``keys`` or ``tokens``. Every error has it.
        sends_pairs: True if ``start_pair`` can be used.
    """

    name: str
    sends_pairs = False

    @property
    @abstractmethod
    def connections(self) -> int:
        """Number of connections made so far. Any thread may ask."""

    @abstractmethod
    def connect(self) -> int:
        """Connect if there is no connection. Return the number of connections made so far. Errors as by ``call``."""

    @abstractmethod
    def call(self, *command: Any) -> Any:
        """Send one command and return its raw reply.

        Raises:
            Unavailable: no connection, no reply in time, or the server cannot do its work now.
            ServerError: the server answered with any other error.
        """

    @abstractmethod
    def call_bounded(self, max_bytes: int, *command: Any) -> Any:
        """Send one command and return its raw reply. No more than ``max_bytes`` of the reply is ever held.

        Raises:
            ReplyTooLarge: the reply is longer.
            Unavailable, ServerError: as by ``call``.
        """

    @abstractmethod
    def call_all(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send commands on one key together. Return the raw reply or the error of each, in order.

        Errors are those of ``call``, and are not raised. If the connection is lost, every command without a reply gets
        ``Unavailable``: nobody knows whether the server did it.
        """

    @abstractmethod
    def start_script(self, script: Script, keys: Sequence[Any], args: Sequence[Any]) -> None:
        """Send a script without waiting for its reply. Call ``finish_script`` before asking anything else.

        ``finish_script`` raises all errors.
        """

    @abstractmethod
    def finish_script(self) -> Any:
        """Return the reply to the script that was started; errors as by ``call``."""

    def start_pair(
        self, script: Script, keys: Sequence[Any], args: Sequence[Any], max_bytes: float, *commands: tuple[Any, ...]
    ) -> None:
        """Send a script and then some commands, in one write. Take all replies before asking anything else.

        ``finish_first`` and ``finish_second`` raise all errors. Only for a link that ``sends_pairs``.
        """
        raise NotImplementedError

    def finish_first(self) -> Any:
        """Return the reply to the script of the pair.

        Raises:
            ScriptUnknownError: the server has forgotten the script.
            Unavailable, ServerError: as by ``call``.
        """
        raise NotImplementedError

    @property
    def has_second(self) -> bool:
        """After ``finish_first``: True if more came with the first reply."""
        raise NotImplementedError

    def finish_second(self) -> list[Any]:
        """Return the replies to the commands of the pair; errors as by ``call_bounded``.

        If the server refuses commands, the first error is raised after all replies were taken.
        """
        raise NotImplementedError

    @abstractmethod
    def close(self) -> None:
        """Close the connection."""

    def run(self, script: Script, keys: Sequence[Any], args: Sequence[Any]) -> Any:
        """Run a script and return its reply; errors as by ``call``."""
        try:
            return self.call(f"EVALSHA{script.suffix}", script.sha, len(keys), *keys, *args)
        except ScriptUnknownError:
            pass  # the next command must not keep the error, which holds the command
        return self.call(f"EVAL{script.suffix}", script.source, len(keys), *keys, *args)


class RedisLink(Link):
    """Commands to one server.

    Args:
        name: as in ``Link``.
        settings: address, password and TLS files.
        raise_server_errors: whether an error that waiting does not mend is a ``ServerError``. If not, every error is
            ``Unavailable``.
        seconds: how long to wait for a connection, or for a reply.
    """

    sends_pairs = True

    _checked_seconds = IDLE_CHECK_SECONDS
    """Time after the last use for which ``_ensure_connected`` need not be called."""

    is_known = False
    """True if the address does not come from the settings. An answer that is none of Redis' is an outage then."""

    connections = 0
    """Number of connections made so far; also the number of the current connection."""

    _check: Callable[[], object] | None = None
    _check_seconds = _check_at = math.inf

    def __init__(
        self,
        name: str,
        settings: RedisSettings,
        *,
        raise_server_errors: bool = False,
        seconds: float = SOCKET_SECONDS,
    ) -> None:
        self.name = name
        self._raise_server_errors = raise_server_errors
        given: dict[str, Any] = {}
        if settings.is_tls:
            given = {
                "ssl_ca_certs": settings.ca_file,
                "ssl_certfile": settings.cert_file,
                "ssl_keyfile": settings.key_file,
            }
        if settings.password is not None:
            given["password"] = settings.password
        self._password_file = settings.password_file
        self._has_password = settings.password is not None
        pool = redis.ConnectionPool.from_url(
            settings.url,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=seconds,
            socket_connect_timeout=seconds,
            **given,
        )
        connection: Any = pool.make_connection()  # redis-py has few types here
        self._connection = connection  # the only one: no command has to take one from a pool
        self._wire = Wire(seconds)
        self._used_at = -math.inf  # there is no connection
        self._started: _Started | None = None
        self._connection.register_connect_callback(self._count)

    def _count(self, _connection: object) -> None:
        self.connections += 1

    def call_bounded(self, max_bytes: int, *command: Any) -> Any:
        self._wire.bytes_left = max_bytes
        try:
            return self._exchange(pack_again(command))
        finally:
            self._wire.bytes_left = math.inf

    def watch(self, check: Callable[[], object], seconds: float) -> None:
        """Have the server checked on each new connection, before it is used for anything else, and while it is in use.

        Args:
            check: may ask the server. If it raises ``Unavailable``, the connection is closed, and the command that
                needed it fails with this error.
            seconds: age of the last check at which the next command makes another.
        """
        self._check, self._check_seconds = check, seconds
        self._check_at = time.monotonic() + seconds

    def connect(self) -> int:
        if self._started is None and time.monotonic() - self._used_at <= self._checked_seconds:
            return self.connections
        try:
            self._ensure_connected()
        except redis.RedisError as error:
            self.close()
            raise self._typed(error) from None
        except BaseException:  # a signal, say, or an error of another kind of link
            self.close()
            raise
        return self.connections

    def call(self, *command: Any) -> Any:
        return self._exchange(pack(command))

    def start_script(self, script: Script, keys: Sequence[Any], args: Sequence[Any]) -> None:
        error = None
        try:
            self._exchange(pack(("EVALSHA", script.sha, len(keys), *keys, *args)), wants_reply=False)
        except (Unavailable, ServerError) as raised:
            error = raised.with_traceback(None)  # its frames hold the command twice
        self._started = _Started(error, script, keys, args)

    def finish_script(self) -> Any:
        started, self._started = self._started, None
        if started is None or started.script is None:
            raise RuntimeError("no script was started")
        if started.error is not None:
            raise started.error
        try:
            return self._exchange(None)
        except ScriptUnknownError:
            pass  # as in ``run``
        return self.call("EVAL", started.script.source, len(started.keys), *started.keys, *started.args)

    def start_pair(
        self, script: Script, keys: Sequence[Any], args: Sequence[Any], max_bytes: float, *commands: tuple[Any, ...]
    ) -> None:
        error = None
        packed = [pack(("EVALSHA", script.sha, len(keys), *keys, *args)), *map(pack_again, commands)]
        try:
            self._exchange(b"".join(packed), wants_reply=False)
        except (Unavailable, ServerError) as raised:
            error = raised.with_traceback(None)  # as above
        self._started = _Started(error, commands=len(commands), max_bytes=max_bytes)

    def finish_first(self) -> Any:
        pair = self._started
        if pair is None:
            raise RuntimeError("no pair was started")
        if pair.error is not None:
            raise pair.error.with_traceback(None)
        return self._exchange(None)

    @property
    def has_second(self) -> bool:
        return self._wire.has_more

    def finish_second(self) -> list[Any]:
        pair, self._started = self._started, None
        if pair is None:
            raise RuntimeError("no pair was started")
        if pair.error is not None:
            raise pair.error.with_traceback(None)
        self._wire.bytes_left = pair.max_bytes
        try:
            replies = [self._next_outcome() for _ in range(pair.commands)]
        except redis.RedisError as error:
            raise self._failure(error) from None
        except BaseException:  # as in ``_exchange``
            self.close()
            raise
        finally:
            self._wire.bytes_left = math.inf
        self._used_at = time.monotonic()
        for reply in replies:
            if isinstance(reply, Unavailable | ServerError):
                try:
                    raise reply
                finally:
                    del reply, replies  # else the error and this frame would hold each other
        return replies

    def _exchange(self, packed: bytes | None, *, wants_reply: bool = True) -> Any:
        """Send a packed command, or nothing; then receive a reply if one is wanted. Errors as by ``call``."""
        try:
            if packed is not None:
                now = time.monotonic()
                if self._started is not None or now - self._used_at > self._checked_seconds or now >= self._check_at:
                    self._ensure_connected()
                self._wire.send(packed)
            if not wants_reply:
                return None
            reply = self._wire.receive()
        except redis.RedisError as error:
            raise self._failure(error) from None
        except BaseException:  # a signal, say: a late reply to this command must not be taken for the next one
            self.close()
            raise
        self._used_at = time.monotonic()
        return reply

    def _failure(self, error: redis.RedisError) -> Unavailable | ServerError:
        """Make the error to raise, and close the connection if it may not be used any more."""
        is_connected = self._used_at > -math.inf  # if not, the server refused the connection: make a new one
        if is_connected and is_from_primary(error):
            self._used_at = time.monotonic()
        else:
            self.close()
        if isinstance(error, redis.exceptions.NoScriptError):
            return ScriptUnknownError(self.name, "NOSCRIPT")
        return self._typed(error)

    def call_all(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        outcomes: list[Any] = []
        try:
            self._ensure_connected()
            self._wire.send_long(b"".join(map(pack, commands)))
            while len(outcomes) < len(commands):
                outcomes.append(self._next_outcome())
        except redis.RedisError as error:
            self.close()
            return outcomes + [self._typed(error)] * (len(commands) - len(outcomes))
        except Unavailable as error:  # an error of another kind of link
            self.close()
            return outcomes + [error] * (len(commands) - len(outcomes))
        except BaseException:
            self.close()
            raise
        self._used_at = time.monotonic()
        return outcomes

    def _next_outcome(self) -> Any:
        try:
            return self._wire.receive()
        except redis.ResponseError as error:
            if not is_from_primary(error):
                raise
            return self._typed(error)

    def _ensure_connected(self) -> None:
        """Connect if there is no connection, or if the server has closed it. Make the check that is due."""
        if self._started is not None:
            raise RuntimeError("the script that was started has to be finished first")
        is_new = time.monotonic() - self._used_at > IDLE_CHECK_SECONDS and not self._is_open()
        if is_new:
            self._connect()
            self._used_at = time.monotonic()
        if self._check is not None and (is_new or time.monotonic() >= self._check_at):
            self._check_at = math.inf  # the check asks, too
            self._check()
            self._check_at = time.monotonic() + self._check_seconds

    def _is_open(self) -> bool:
        """Tell whether an idle connection is open. If there is something to read, the server has closed it."""
        if self._used_at == -math.inf:
            return False
        with suppress(redis.RedisError):
            if not self._connection.can_read():
                return True
        self.close()
        return False

    def _connect(self) -> None:
        """Make a new connection, with the password that its file holds now."""
        if self._password_file is not None:
            password = read_password(self._password_file)
            if password is None:
                raise LoginRefused(self.name, f"its password file {self._password_file} cannot be read", self.address)
            self._connection.password = password
        try:
            self._connection.connect()
        except redis.RedisError as error:
            if not (self.connections or self.is_known):
                check_first_answer(self.name, error, self.address, self._connection.db)
            raise select_refusal(error, self._connection.db) from None
        self._wire.open(self._connection)

    def close(self) -> None:
        self._connection.disconnect()
        self._wire.close()
        self._used_at = -math.inf

    @property
    def address(self) -> str:
        """``host:port`` of the server, or the path of its socket."""
        connection = self._connection
        path: str | None = getattr(connection, "path", None)
        return path or str(Node(connection.host, connection.port))

    def _typed(self, error: redis.RedisError) -> Unavailable | ServerError:
        made = typed(self.name, error, raise_server_errors=self._raise_server_errors, address=self.address)
        if isinstance(made, LoginRefused) and not self._has_password:
            return LoginRefused(self.name, "NOAUTH", self.address)  # redis-py does not tell it from WRONGPASS
        return made
