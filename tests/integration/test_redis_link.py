"""The connection to one Redis server: typed errors, scripts, passwords, TLS."""

import datetime as dt
import gc
import ipaddress
import signal
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from harness.proxy import Command, Moment, Proxy, Relay, Verdict
from harness.servers import Valkey, free_port
from token_worker.errors import LoginRefused, ReplyTooLarge, ServerError, SettingsError, Unavailable
from token_worker.redis import link as redis_link
from token_worker.redis.address import RedisSettings, parse
from token_worker.redis.errors import ScriptUnknownError
from token_worker.redis.link import RedisLink
from token_worker.redis.script import Script
from token_worker.streams.commit import COMMIT

SECRET = "a-password-nobody-may-read"


def link(
    url: str, password: str | None = None, ca_file: str | None = None, *, raise_server_errors: bool = True
) -> RedisLink:
    return RedisLink(
        "streams", RedisSettings(url=url, password=password, ca_file=ca_file), raise_server_errors=raise_server_errors
    )


@contextmanager
def signals(handler: Callable[[int, FrameType | None], object], first: float, then: float = 60.0) -> Iterator[None]:
    """Have a handler called in this thread after so many seconds, and then again and again."""
    before = signal.signal(signal.SIGUSR1, handler)
    over, here = threading.Event(), threading.get_ident()

    def send() -> None:
        wait = first
        while not over.wait(wait):
            signal.pthread_kill(here, signal.SIGUSR1)
            wait = then

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        signal.signal(signal.SIGUSR1, before)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextmanager
def stopped(server: Valkey, seconds: float) -> Iterator[None]:
    """Stop a server for a while. It takes no bytes meanwhile."""
    server.signal(signal.SIGSTOP)
    timer = threading.Timer(seconds, server.signal, (signal.SIGCONT,))
    timer.start()
    try:
        yield
    finally:
        timer.join()


LONG = b"x" * (32 << 20)
"""More than the buffers of both ends of a connection take."""


def test_replies_are_raw(streams_server: Valkey) -> None:
    """Replies come as the server sent them: the delivery protocol reads them itself."""
    subject = link(streams_server.url)
    assert subject.call("SET", "key", b"value") == b"OK"
    assert subject.call("SET", "key", b"other", "NX") is None
    entry = subject.call("XADD", "stream", "*", "field", b"\xff")
    assert subject.call("XRANGE", "stream", "-", "+") == [[entry, [b"field", b"\xff"]]]


@pytest.mark.parametrize("end", ["restart", "kill"])
def test_connection_closed_while_at_rest_is_made_anew(
    end: str, streams_server: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that closed the connection while nothing was asked is asked on a new one, and nobody notices."""
    monkeypatch.setattr(redis_link, "IDLE_CHECK_SECONDS", 0.0)
    monkeypatch.setattr(RedisLink, "_checked_seconds", 0.0)
    subject = link(streams_server.url)
    for number in range(3):
        assert subject.call("PING") == b"PONG"
        if end == "restart":
            streams_server.kill()
            streams_server.start()
        else:
            with streams_server.client() as client:
                assert client.client_kill_filter(skipme=True, _type="normal") >= 1, number


def test_connection_closed_between_two_calls_is_an_outage_once(streams_server: Valkey) -> None:
    """A connection that was just used is not looked at: one call finds it closed, the next one is answered."""
    subject = link(streams_server.url)
    assert subject.call("PING") == b"PONG"
    streams_server.kill()
    streams_server.start()
    with pytest.raises(Unavailable):
        subject.call("PING")
    assert subject.call("PING") == b"PONG"


def test_server_is_checked_while_its_connection_is_in_use(streams_server: Valkey) -> None:
    """A check that is too old is made again before a command. If it fails, nothing is sent, and the connection ends."""
    subject = link(streams_server.url)
    checked: list[int] = []

    def check() -> None:
        checked.append(subject.connections)
        if subject.call("GET", "record") is None:
            raise Unavailable("streams", "LAYOUT")

    with streams_server.client() as client:
        client.set("record", "here")
        subject.call("SET", "first", "")
        subject.watch(check, 60.0)
        subject.call("SET", "second", "")
        subject.watch(check, 0.0)
        subject.call("SET", "third", "")
        assert checked == [1]
        client.flushall()
        for number in (2, 3):
            with pytest.raises(Unavailable, match="LAYOUT"):
                subject.call("SET", "not sent", "")
            assert checked == [1, 1, 2][:number]
        assert client.keys() == []
        client.set("record", "here again")
        subject.watch(check, 60.0)
        for _ in range(2):
            subject.call("SET", "sent", "")
        assert client.exists("sent")
        assert checked == [1, 1, 2, 3]


def test_connection_is_left_when_the_server_is_no_primary_any_more() -> None:
    """After READONLY the next command goes over a new connection: the name may lead to another server by then."""
    with Valkey() as server, server.client() as client:
        subject = link(server.url)
        before = subject.call("CLIENT", "ID")
        client.replicaof("127.0.0.1", str(free_port()))
        with pytest.raises(Unavailable) as caught:
            subject.call("SET", "key", "value")
        assert caught.value.reason == "READONLY"
        assert subject.call("CLIENT", "ID") != before


def test_connection_that_is_refused_is_made_anew_by_the_next_call(streams_server: Valkey) -> None:
    """After an error while connecting the next call connects as the first did, never in a way of the library's own."""

    class Counting(RedisLink):
        """Counts how often it is told to connect."""

        tries = 0

        def _connect(self) -> None:
            self.tries += 1
            super()._connect()

    subject = Counting(
        "streams", RedisSettings(url=f"redis://127.0.0.1:{streams_server.port}/99"), raise_server_errors=True
    )
    for tries in (1, 2, 3):
        with pytest.raises(SettingsError, match="has no database 99: set a smaller number"):
            subject.call("PING")
        assert subject.tries == tries


def test_reply_of_a_call_cut_short_is_not_the_next_one(streams_server: Valkey) -> None:
    """A signal that ends a call between sending and reading leaves no reply behind for the next call."""
    subject = link(streams_server.url)
    subject.call("PING")
    with signals(_interrupt, 0.1), pytest.raises(KeyboardInterrupt):
        subject.call("BLPOP", "what nobody waits for any more", 0.3)
    time.sleep(0.4)
    assert subject.call("ECHO", "next") == b"next"


def test_command_cut_short_is_never_continued(streams_server: Valkey) -> None:
    """A signal that ends a call in the middle of its command leaves nothing of it for the next connection."""
    subject = link(streams_server.url)
    subject.call("PING")
    with stopped(streams_server, 0.4), signals(_interrupt, 0.1), pytest.raises(KeyboardInterrupt):
        subject.call("SET", "key", LONG)
    assert subject.call("ECHO", "next") == b"next"
    assert subject.call("EXISTS", "key") == 0


def test_signals_that_are_handled_end_no_call(streams_server: Valkey) -> None:
    """A handler that just notes something neither ends a wait for a reply nor breaks a command that is being sent."""
    subject = link(streams_server.url)
    seen: list[int] = []
    with signals(lambda number, _frame: seen.append(number), 0.02, 0.02):
        assert subject.call("BLPOP", "nothing", 0.3) is None
        while_receiving = len(seen)
        with stopped(streams_server, 0.3):
            assert subject.call("SET", "key", LONG) == b"OK"
    assert while_receiving > 2
    assert len(seen) > while_receiving + 2
    assert subject.call("STRLEN", "key") == len(LONG)
    assert subject.connections == 1


@pytest.mark.parametrize("kind", ["tcp", "unix", "tls"])
def test_wait_for_a_reply_ends(kind: str, tmp_path: Path) -> None:
    """A reply that does not come in time is an outage that says so, on every kind of connection."""
    path = f"{tmp_path}/socket"
    with Valkey(f"unixsocket {path}") as server, closing(TlsFront(server.port, tmp_path)) as front:
        settings = {
            "tcp": RedisSettings(url=server.url),
            "unix": RedisSettings(url=f"unix://{path}"),
            "tls": RedisSettings(url=front.url, ca_file=str(front.certificate)),
        }[kind]
        subject = RedisLink("streams", settings, seconds=0.3)
        assert subject.call("PING") == b"PONG"
        began = time.monotonic()
        with pytest.raises(Unavailable) as caught:
            subject.call("BLPOP", "nothing", 20)
        assert caught.value.reason == "TimeoutError"
        assert 0.25 < time.monotonic() - began < 5
        assert subject.call("PING") == b"PONG"
        assert subject.connections == 2
        subject.close()


def test_wait_for_room_to_send_ends(streams_server: Valkey) -> None:
    """A server that takes no more of a command is an outage, even if the system took some of it."""
    subject = RedisLink("streams", RedisSettings(url=streams_server.url), seconds=0.3)
    assert subject.call("PING") == b"PONG"
    with stopped(streams_server, 2.0), pytest.raises(Unavailable) as caught:
        subject.call("SET", "key", LONG)
    assert caught.value.reason == "TimeoutError"
    assert subject.call("EXISTS", "key") == 0


def test_plain_connection_needs_no_call_of_the_system_but_send_and_receive(streams_server: Valkey) -> None:
    """The time-out of a plain socket is kept by the kernel: with one of Python's, each call would poll before."""
    subject = RedisLink("streams", RedisSettings(url=streams_server.url), seconds=1.25)
    subject.connect()
    plain = subject._wire._socket
    assert plain is not None
    assert plain.gettimeout() is None
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        seconds, micros = struct.unpack("@ll", plain.getsockopt(socket.SOL_SOCKET, option, struct.calcsize("@ll")))
        assert seconds + micros / 1e6 == pytest.approx(1.25, abs=0.02)


def test_connection_is_kept_after_an_error_of_its_primary(streams_server: Valkey) -> None:
    """An error that says nothing against the server costs no connection, alone or among others."""
    subject = link(streams_server.url)
    subject.call("SET", "text", "x")
    with pytest.raises(ServerError):
        subject.call("XLEN", "text")
    subject.call_all([("XLEN", "text"), ("STRLEN", "text")])
    assert subject.call("GET", "text") == b"x"
    assert subject.connections == 1


def test_reply_cut_in_the_middle_is_an_outage() -> None:
    """A part of a reply that came before its connection was closed is dropped: the next reply is whole."""

    def serve(listener: socket.socket) -> None:
        for answer in (b"$9\r\nhalf", b"$5\r\nwhole\r\n"):
            server, _ = listener.accept()
            with server:
                while b"GET" not in server.recv(65536):
                    server.sendall(b"+OK\r\n")
                server.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        subject = link(f"redis://127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(Unavailable) as caught:
            subject.call("GET", "key")
        assert caught.value.reason == "ConnectionError"
        assert subject.call("GET", "key") == b"whole"
        thread.join()


def test_error_answers_are_their_code_alone(streams_server: Valkey) -> None:
    """An error is reduced to its first word: servers quote arguments."""
    subject = link(streams_server.url)
    subject.call("SET", "key", "value")
    for command, expected in (
        (("XADD", "key", "*", "f", SECRET), "WRONGTYPE"),
        (("XREADGROUP", "GROUP", SECRET, "c", "STREAMS", "none", ">"), "NOGROUP"),
        (("NOCOMMAND", SECRET), "ERR"),
    ):
        with pytest.raises(ServerError) as caught:
            subject.call(*command)
        assert caught.value.code == expected
        assert SECRET not in str(caught.value)
        assert caught.value.__cause__ is None


def test_reply_past_its_bound_is_given_up(streams_server: Valkey) -> None:
    """A reply is never held beyond its bound; the next one comes on a new connection, and has no bound unless asked."""
    subject = link(streams_server.url)
    subject.call("SET", "key", b"x" * (1 << 20))
    with pytest.raises(ReplyTooLarge):
        subject.call_bounded(1 << 19, "MGET", *["key"] * 8)
    assert subject.call_bounded(1 << 21, "GET", "key") == subject.call("GET", "key")
    assert len(subject.call("MGET", *["key"] * 8)) == 8


def test_storage_links_make_every_error_an_outage(streams_server: Valkey) -> None:
    """Unless server errors are asked for, any error makes the worker wait: no entry is answered or lost."""
    subject = link(streams_server.url, raise_server_errors=False)
    with pytest.raises(Unavailable) as caught:
        subject.call("NOCOMMAND")
    assert caught.value.reason == "ERR"


def test_scripts_survive_a_server_that_forgot_them(streams_server: Valkey) -> None:
    """A script that the server does not know is sent whole, then by its hash again."""
    subject = link(streams_server.url)
    arguments = (COMMIT, ["requests", "responses"], ["group", 60])
    assert subject.run(*arguments) == []
    subject.call("SCRIPT", "FLUSH")
    assert subject.run(*arguments) == []
    assert subject.call("SCRIPT", "EXISTS", COMMIT.sha) == [1]


def test_reply_to_a_started_script_comes_at_the_end(streams_server: Valkey) -> None:
    """The reply is the same as by ``run``, even if the server has forgotten the script. It can be had once."""
    subject = link(streams_server.url)
    for _ in range(2):
        subject.start_script(COMMIT, ["requests", "responses"], ["group", 60])
        assert subject.finish_script() == []
        with pytest.raises(RuntimeError):
            subject.finish_script()
        subject.call("SCRIPT", "FLUSH")


def test_reply_to_a_started_script_is_never_that_of_another_command(streams_server: Valkey) -> None:
    """To ask anything before the script is finished is an error, and the reply is dropped then."""
    subject = link(streams_server.url)
    start = partial(subject.start_script, COMMIT, ["requests", "responses"], ["group", 60])
    for ask in (partial(subject.call, "PING"), partial(subject.call_all, [("PING",)]), start):
        start()
        with pytest.raises(RuntimeError):
            ask()
        with pytest.raises(Unavailable):
            subject.finish_script()
        assert subject.call("PING") == b"PONG"


def test_started_script_that_fails_raises_at_the_end(streams_server: Valkey) -> None:
    """Errors of the script and of the connection are raised at the end. The next call makes a new connection."""
    subject = link(streams_server.url)
    subject.call("SET", "requests", "x")
    arguments = (COMMIT, ["requests", "responses"], ["group", 60, "1-1", "reply"])
    subject.start_script(*arguments)
    with pytest.raises(ServerError, match="WRONGTYPE"):
        subject.finish_script()
    streams_server.signal(signal.SIGSTOP)
    subject.start_script(*arguments)
    streams_server.kill()
    with pytest.raises(Unavailable):
        subject.finish_script()
    subject.start_script(*arguments)
    with pytest.raises(Unavailable, match="connection refused"):
        subject.finish_script()
    streams_server.start()
    assert subject.call("PING") == b"PONG"


PAIR = (COMMIT, ["requests", "responses"], ["group", 60, "1-1", "reply"])
"""A script that finds nothing to acknowledge."""


def test_replies_to_a_pair_come_in_order(streams_server: Valkey) -> None:
    """A script and a command go in one write. Each has its own reply; the second is there at once, or after a wait."""
    subject = link(streams_server.url)
    subject.call("XGROUP", "CREATE", "requests", "group", 0, "MKSTREAM")
    read = ("XREADGROUP", "GROUP", "group", "me", "BLOCK", 50, "STREAMS", "requests", ">")
    subject.run(*PAIR)
    sent = subject.connections
    for command, reply in ((("PING",), b"PONG"), (read, None), (("PING",), b"PONG")):
        subject.start_pair(*PAIR, 1 << 20, command)
        assert subject.finish_first() == [0]
        assert subject.has_second == (command is not read)
        assert subject.finish_second() == [reply]
    for finish in (subject.finish_first, subject.finish_second):
        with pytest.raises(RuntimeError):
            finish()
    assert (subject.call("PING"), subject.connections) == (b"PONG", sent)


def test_errors_of_a_pair_belong_to_one_of_the_two(streams_server: Valkey) -> None:
    """An error of the script leaves the command its reply, and a reply that is too long takes none from the script."""
    subject = link(streams_server.url)
    subject.start_pair(*PAIR, 1 << 20, ("PING",))
    with pytest.raises(ScriptUnknownError):
        subject.finish_first()
    assert subject.finish_second() == [b"PONG"]
    subject.run(*PAIR)
    subject.start_pair(*PAIR, 1 << 20, ("GET",))
    assert subject.finish_first() == [0]
    with pytest.raises(ServerError):
        subject.finish_second()
    subject.call("SET", "long", bytes(1 << 20))
    subject.start_pair(*PAIR, 1 << 10, ("GET", "long"))
    assert subject.finish_first() == [0]
    with pytest.raises(ReplyTooLarge):
        subject.finish_second()
    subject.call("SET", "requests", "x")
    subject.start_pair(*PAIR, 1 << 20, ("PING",))
    with pytest.raises(ServerError, match="WRONGTYPE"):
        subject.finish_first()
    assert subject.finish_second() == [b"PONG"]


def test_commands_of_a_pair_share_a_bound_and_an_error(streams_server: Valkey) -> None:
    """Several commands may follow the script. An error of one is raised after the replies to all were taken."""
    subject = link(streams_server.url)
    subject.run(*PAIR)
    subject.start_pair(*PAIR, 1 << 20, ("ECHO", "one"), ("ECHO", "two"))
    assert subject.finish_first() == [0]
    assert subject.finish_second() == [b"one", b"two"]
    for commands in ([("GET",), ("ECHO", "two")], [("ECHO", "one"), ("GET",)], [("GET",), ("HGET",)]):
        subject.start_pair(*PAIR, 1 << 20, *commands)
        assert subject.finish_first() == [0]
        with pytest.raises(ServerError):
            subject.finish_second()
        assert subject.call("PING") == b"PONG"
    sent = subject.connections
    subject.call("SET", "long", bytes(600_000))
    subject.start_pair(*PAIR, 1_000_000, ("GET", "long"), ("GET", "long"))
    assert subject.finish_first() == [0]
    with pytest.raises(ReplyTooLarge):
        subject.finish_second()
    assert (subject.call("PING"), subject.connections) == (b"PONG", sent + 1)


def test_error_of_a_pair_holds_no_reply(streams_server: Valkey) -> None:
    """The error of one command frees the replies to the others, without the garbage collector."""
    subject = link(streams_server.url)
    subject.run(*PAIR)
    gc.collect()
    gc.disable()
    try:
        subject.start_pair(*PAIR, 1 << 20, ("ECHO", "one"), ("GET",))
        subject.finish_first()
        with suppress(ServerError):
            subject.finish_second()
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_signal_between_replies_to_a_pair_closes_the_connection(streams_server: Valkey) -> None:
    """If a signal handler raises while a reply is to come, that reply is never taken for another command's."""
    subject = link(streams_server.url)
    subject.run(*PAIR)
    subject.call("XGROUP", "CREATE", "requests", "group", 0, "MKSTREAM")
    read = ("XREADGROUP", "GROUP", "group", "me", "BLOCK", 60_000, "STREAMS", "requests", ">")

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit

    subject.start_pair(*PAIR, 1 << 20, ("ECHO", "one"), read)
    subject.finish_first()
    with signals(stop, 0.1), pytest.raises(SystemExit):
        subject.finish_second()
    assert subject.call("PING") == b"PONG"


def test_connection_lost_between_commands_of_a_pair(streams_server: Valkey) -> None:
    """If the connection breaks while the second command has no reply yet, all of them have failed."""
    subject = link(streams_server.url)
    subject.run(*PAIR)
    subject.call("XGROUP", "CREATE", "requests", "group", 0, "MKSTREAM")
    read = ("XREADGROUP", "GROUP", "group", "me", "BLOCK", 60_000, "STREAMS", "requests", ">")
    subject.start_pair(*PAIR, 1 << 20, ("ECHO", "one"), read)
    assert subject.finish_first() == [0]
    streams_server.kill()
    with pytest.raises(Unavailable):
        subject.finish_second()
    streams_server.start()
    assert subject.call("PING") == b"PONG"


def test_lost_connection_is_an_error_of_both_of_a_pair(streams_server: Valkey) -> None:
    """If the connection breaks, nobody knows what was done of either. The next call makes a new connection."""
    subject = link(streams_server.url)
    subject.run(*PAIR)
    streams_server.signal(signal.SIGSTOP)
    subject.start_pair(*PAIR, 1 << 20, ("PING",))
    streams_server.kill()
    for _ in range(2):
        for finish in (subject.finish_first, subject.finish_second):
            with pytest.raises(Unavailable):
                finish()
        subject.start_pair(*PAIR, 1 << 20, ("PING",))  # cannot be sent
    for finish in (subject.finish_first, subject.finish_second):
        with pytest.raises(Unavailable, match="connection refused"):
            finish()
    streams_server.start()
    assert subject.call("PING") == b"PONG"


def test_reply_to_a_pair_is_never_that_of_another_command(streams_server: Valkey) -> None:
    """To ask anything before both replies were taken is an error, and they are dropped then."""
    subject = link(streams_server.url)
    subject.run(*PAIR)
    for taken in (0, 1):
        subject.start_pair(*PAIR, 1 << 20, ("ECHO", "other"))
        if taken:
            assert subject.finish_first() == [0]
        with pytest.raises(RuntimeError):
            subject.call("PING")
        with pytest.raises(Unavailable):
            subject.finish_second()
        assert subject.call("PING") == b"PONG"


@pytest.mark.parametrize("is_started", [False, True])
def test_script_that_takes_too_long_is_told_as_such(streams_server: Valkey, *, is_started: bool) -> None:
    """The reason is the time-out, also if the server did not know the script before."""
    subject = RedisLink("streams", RedisSettings(url=streams_server.url), seconds=0.2)
    script = Script("token_worker.streams", "commit.lua")
    script.source = b"local t = os.clock() while os.clock() - t < 1 do end"
    script.sha = "0" * 40
    if is_started:
        subject.start_script(script, [], [])
    with pytest.raises(Unavailable) as caught:
        subject.finish_script() if is_started else subject.run(script, [], [])
    assert caught.value.reason == "TimeoutError"
    assert link(streams_server.url).call("PING") == b"PONG"  # waits for the end of the script


def test_error_in_a_script_is_not_taken_for_an_unknown_one(streams_server: Valkey) -> None:
    """A script that fails is not run a second time."""
    subject = link(streams_server.url)
    script = Script("token_worker.streams", "commit.lua")
    script.source = b"redis.call('INCR', KEYS[1]) return redis.error_reply('UNFIT nothing')"
    script.sha = "0" * 40
    with pytest.raises(ServerError) as caught:
        subject.run(script, ["runs"], [])
    assert caught.value.code == "UNFIT"
    assert subject.call("GET", "runs") == b"1"


@pytest.mark.parametrize("url", ["redis://127.0.0.1:{port}/0", "unix:///no/such/socket"])
def test_server_that_is_away_is_unavailable(url: str) -> None:
    """No connection is ``Unavailable`` with the kind of failure and the server's role."""
    with pytest.raises(Unavailable) as caught:
        link(url.format(port=free_port())).call("PING")
    assert caught.value.server == "streams"
    assert caught.value.reason in {"ConnectionRefusedError", "FileNotFoundError"}


@pytest.mark.parametrize("raises", [False, True])
def test_refused_database_is_told_by_its_number(raises: bool) -> None:
    """A user who may not SELECT the database of the address reads that, and not of any right that is missing."""
    with Valkey() as server, server.client() as client:
        client.execute_command("ACL", "SETUSER", "app", "on", f">{SECRET}", "+ping")
        url = f"redis://app:{SECRET}@127.0.0.1:{server.port}"
        assert RedisLink("keys", parse(f"{url}/0")).call("PING") == b"PONG"
        subject = RedisLink("keys", parse(f"{url}/3"), raise_server_errors=raises)
        for ask in (subject.connect, lambda: subject.call("PING"), lambda: subject.call_all([("PING",)])[0]):
            with pytest.raises(Unavailable, match=r"SELECT of database 3 was refused: .*\(NOPERM\)") as caught:
                raise_from(ask())
            assert caught.value.reason == "SELECT 3 NOPERM"


def raise_from(answer: object) -> None:
    """Raise the answer if it is an error, as those of ``call_all`` are."""
    if isinstance(answer, Exception):
        raise answer


def test_wrong_password_is_unavailable_and_not_told() -> None:
    """A refused password is waited on, as an operator may mend it; it is not in the error."""
    with Valkey(f"requirepass {SECRET}") as server:
        assert link(server.url, SECRET).call("PING") == b"PONG"
        for password, reason in ((None, "NOAUTH"), (f"{SECRET}x", "WRONGPASS")):
            with pytest.raises(LoginRefused) as caught:
                link(server.url, password).call("PING")
            assert caught.value.reason == reason
            assert SECRET not in str(caught.value)


class TlsFront:
    """TLS in front of a plain server, for servers that are built without."""

    def __init__(self, target: int, folder: Path) -> None:
        self.certificate = folder / "certificate.pem"
        key_file = folder / "key.pem"
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
        now = dt.datetime.now(dt.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
            )
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        self.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        pkcs8 = serialization.PrivateFormat.PKCS8
        key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, pkcs8, serialization.NoEncryption()))
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(self.certificate, key_file)
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"rediss://127.0.0.1:{self._listener.getsockname()[1]}/0"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(plain,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        try:
            with (
                self._context.wrap_socket(plain, server_side=True) as front,
                socket.create_connection(("127.0.0.1", self._target)) as back,
            ):
                while request := front.recv(65536):  # one command, one answer: all these tests need
                    back.sendall(request)
                    front.sendall(back.recv(65536))
        except OSError:
            pass

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def tls(streams_server: Valkey, tmp_path: Path) -> Iterator[TlsFront]:
    """TLS with a certificate of its own in front of the streams' server."""
    front = TlsFront(streams_server.port, tmp_path)
    yield front
    front.close()


def test_tls_with_the_servers_ca(tls: TlsFront) -> None:
    """``rediss://`` works with the CA file that is set."""
    subject = link(tls.url, ca_file=str(tls.certificate))
    assert subject.call("PING") == b"PONG"
    subject.close()


def test_tls_checks_the_certificate(tls: TlsFront) -> None:
    """A certificate that nobody vouches for is an outage that names its cause."""
    with pytest.raises(Unavailable) as caught:
        link(tls.url).call("PING")
    assert caught.value.reason == "SSLCertVerificationError"


def test_commands_together_have_each_its_own_outcome(streams_server: Valkey) -> None:
    """Each command has its own reply or error, in their order; errors are not raised."""
    subject = link(streams_server.url)
    assert subject.call("SET", "text", "x") == b"OK"
    refused, *others = subject.call_all([("XLEN", "text"), ("XADD", "s", "1-1", "a", "b"), ("XLEN", "s")])
    assert isinstance(refused, ServerError)
    assert refused.code == "WRONGTYPE"
    assert others == [b"1-1", 1]


@pytest.mark.parametrize("moment", Moment)
def test_commands_together_on_a_connection_that_breaks(streams_server: Valkey, moment: Moment) -> None:
    """Those that were answered have their replies; others are in doubt, and the next ones go on a new connection."""

    def hook(now: Moment, command: Command) -> Verdict:
        return Verdict.CUT if now is moment and command.parts[-1] == b"3" else Verdict.PASS

    with Proxy(streams_server.port, hook) as proxy:
        subject = link(proxy.url)
        outcomes = subject.call_all([("XADD", "s", f"{number}-1", "n", str(number)) for number in range(1, 6)])
        assert outcomes[:2] == [b"1-1", b"2-1"]
        assert [type(outcome) for outcome in outcomes[2:]] == [Unavailable] * 3
        assert subject.call_all([("XLEN", "s")]) == [2 if moment is Moment.BEFORE else 3]
        subject.close()


def test_long_command_on_a_slow_line_is_sent_once(streams_server: Valkey) -> None:
    """A line that takes longer for a command than any answer may take is no outage: the time runs once it is over."""
    a_pause = threading.Event()  # never set

    def hook(moment: Moment, _: Command) -> Verdict:
        if moment is Moment.BEFORE:
            a_pause.wait(0.12)
        return Verdict.PASS

    with Relay(streams_server.port, hook) as relay:
        subject = RedisLink("streams", RedisSettings(url=relay.url), raise_server_errors=True, seconds=3.0)
        assert subject.call_all([("XADD", "s", "1-1", "n", b"x" * 2_000_000)]) == [b"1-1"]
        assert subject.connections == 1
        subject.close()
