"""A TCP proxy between a client and its server, where one can watch, kill and cut at every command.

``Proxy`` stands before a Redis: it takes one command at a time from a connection, also out of a pipeline, forwards it,
waits for the whole reply, and passes that on. RESP2 only, no subscriptions. ``Relay`` stands before anything else
(Vault, a replication link): what it calls a command or a reply is what came at once from one side.

``hook`` is called before the command goes to the server, and after its reply has come. Its verdict says what the proxy
has to do; a slow hook delays the connection. Hooks of one proxy are never called at the same time.
"""

import contextlib
import selectors
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from enum import Enum, auto
from types import TracebackType
from typing import Any, NamedTuple, Self

import hiredis


class Moment(Enum):
    """The moment at which a hook is called."""

    BEFORE = auto()
    """The server has not seen the command."""

    AFTER = auto()
    """The server has done it, the client does not know."""


class Verdict(Enum):
    """The action that a hook asks for."""

    PASS = auto()
    CUT = auto()
    """Reset both connections instead of passing the command or the reply on."""

    CUT_IN_THE_MIDDLE = auto()
    """Pass on the first half of the command or the reply, then reset both connections."""

    HOLD = auto()
    """Pass nothing on any more, and keep the connection until the client gives it up: it is half open."""


class Command(NamedTuple):
    """A command that a client sent.

    Attributes:
        parts: its name and arguments as they came.
        reply: what the server answered, None before it has.
    """

    parts: list[bytes]
    reply: Any = None

    @property
    def name(self) -> str:
        """The name in capitals, without a subcommand."""
        return self.parts[0].decode().upper()


Hook = Callable[[Moment, Command], Verdict]


class _GoneError(Exception):
    """One of the two ends has closed its connection, or the proxy is away."""


class Proxy:
    """Listens on a free loopback port for clients of a server on the loopback; a context manager.

    Attributes:
        server_port: where the server is; may be changed, for connections that are made from then on.
        hook: called at every command; may be replaced at any time.
    """

    def __init__(self, server_port: int, hook: Hook | None = None) -> None:
        self.hook: Hook = hook or (lambda _moment, _command: Verdict.PASS)
        self.server_port = server_port
        self._lock = threading.Lock()
        self._hook_lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener: socket.socket | None = None
        self.port = 0
        self._listen()

    @property
    def url(self) -> str:
        """The address of the Redis through this proxy."""
        return f"redis://127.0.0.1:{self.port}/0"

    def go_away(self) -> None:
        """Refuse new connections and reset those there are, as a server that has died."""
        with self._lock:
            listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):  # wakes the thread that waits in accept
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self.cut_all()

    def cut_all(self) -> None:
        """Reset all connections there are; new ones are served."""
        with self._lock:
            for end in self._open:
                _reset(end)

    def come_back(self) -> None:
        """Serve again, at the same address."""
        self._listen()

    def close(self) -> None:
        """Go away for good, and wait for the threads."""
        self.go_away()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _listen(self) -> None:
        listener = socket.create_server(("127.0.0.1", self.port))
        self.port = listener.getsockname()[1]
        self._listener = listener
        self._start(self._accept, listener)

    def _start(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        with self._lock:
            self._threads = [*filter(threading.Thread.is_alive, self._threads), thread]
            thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self._start(self._serve, listener, client)

    def _serve(self, listener: socket.socket, client: socket.socket) -> None:
        with client, contextlib.ExitStack() as stack:
            try:
                server = stack.enter_context(socket.create_connection(("127.0.0.1", self.server_port)))
            except OSError:
                _reset(client)
                return
            with self._lock:
                if self._listener is not listener:
                    _reset(client)
                    return
                self._open |= {client, server}
            try:
                self._converse(client, server)
            except (_GoneError, OSError):
                pass
            finally:
                with self._lock:
                    self._open -= {client, server}

    def _converse(self, client: socket.socket, server: socket.socket) -> None:
        """Take commands to the server and their replies back, until one of the two ends it."""
        for parts in _commands(client):
            self._pass_on(client, server, server, _pack(parts), Moment.BEFORE, Command(parts))
            raw, reply = _reply(client, server)
            self._pass_on(client, server, client, raw, Moment.AFTER, Command(parts, reply))

    def _pass_on(
        self,
        client: socket.socket,
        server: socket.socket,
        to: socket.socket,
        data: bytes,
        moment: Moment,
        what: Command,
    ) -> None:
        with self._hook_lock:
            verdict = self.hook(moment, what)
        if verdict is Verdict.PASS:
            to.sendall(data)
            return
        if verdict is Verdict.HOLD:
            while client.recv(1 << 16):
                pass
        elif verdict is Verdict.CUT_IN_THE_MIDDLE:
            to.sendall(data[: len(data) // 2])
        for end in (client, server):
            _reset(end)
            end.close()
        raise _GoneError


class Relay(Proxy):
    """A proxy for a server with another protocol: each piece of data counts as a command, or as a reply."""

    def _converse(self, client: socket.socket, server: socket.socket) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(client, selectors.EVENT_READ, (server, Moment.BEFORE))
            selector.register(server, selectors.EVENT_READ, (client, Moment.AFTER))
            while True:
                for key, _ in selector.select():
                    to, moment = key.data
                    data = _receive(client if to is server else server)
                    self._pass_on(client, server, to, data, moment, Command([b"DATA"]))


def _pack(parts: list[bytes]) -> bytes:
    """A command as clients send it: a RESP array of bulk strings."""
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


def _commands(client: socket.socket) -> Iterator[list[bytes]]:
    """Commands as they come; they read like replies."""
    reader = hiredis.Reader()
    while True:
        command = reader.gets()
        if command is not False:
            yield command
            continue
        reader.feed(_receive(client))


def _reply(client: socket.socket, server: socket.socket) -> tuple[bytes, Any]:
    """One whole reply, raw and read; gives up as soon as the client is gone, as a server would."""
    raw = bytearray()
    reader = hiredis.Reader()
    with selectors.DefaultSelector() as selector:
        selector.register(server, selectors.EVENT_READ)
        selector.register(client, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is server:
                    data = _receive(server)
                    raw += data
                    reader.feed(data)
                    reply = reader.gets()
                    if reply is not False:
                        return bytes(raw), reply
                elif not client.recv(1, socket.MSG_PEEK):
                    raise _GoneError
                else:
                    selector.unregister(client)  # the next command of a pipeline: it has its time


def _receive(end: socket.socket) -> bytes:
    data = end.recv(1 << 16)
    if not data:
        raise _GoneError
    return data


def _reset(end: socket.socket) -> None:
    """Wake the thread that waits for this connection. When its owner closes it, that is a reset."""
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        end.shutdown(socket.SHUT_RDWR)
