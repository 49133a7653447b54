"""The commands that a batch sends before a reply, and its reaction to the answers, without a server."""

from typing import Any, cast

import pytest

from token_worker.admin.cluster_entries import entries_on
from token_worker.admin.entry_store import EntryChange
from token_worker.errors import ServerError, SettingsError, Unavailable
from token_worker.redis.link import RedisLink
from token_worker.redis.script import Script
from token_worker.storage.durability import CONFIRM_MS, MARK, Durability, DurabilityBarrier, examine_fsync


class Server:
    """Answers commands by their name; an exception is raised."""

    name = "tokens"
    address = "127.0.0.1:1"

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.commands: list[tuple[Any, ...]] = []
        self.connections = 1

    @property
    def link(self) -> RedisLink:
        return cast(RedisLink, self)

    def connect(self) -> int:
        return self.connections

    def run(self, script: Script, keys: list[bytes], _args: list[bytes]) -> Any:
        return self.call("EVAL", script, len(keys), *keys)

    def call(self, *command: Any) -> Any:
        self.commands.append(command)
        answer = self.answers[command[0]]
        if isinstance(answer, Exception):
            raise answer
        return answer


def hello(server: str, version: str) -> list[bytes]:
    return [b"server", server.encode(), b"version", version.encode(), b"proto", b"2"]


def policy(fsync: str, on_rewrite: str = "no") -> list[bytes]:
    return [b"appendfsync", fsync.encode(), b"no-appendfsync-on-rewrite", on_rewrite.encode()]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("server", Durability()), ("fsync", Durability(fsync=True)), ("replicas:2", Durability(replicas=2))],
)
def test_setting_is_read(text: str, expected: Durability) -> None:
    """The setting tells how safe tokens must be before a reply."""
    assert Durability.parse(text) == expected


def test_mark_is_written_before_every_wait() -> None:
    """WAIT vouches for its own connection's writes, so each batch makes one of its own, whatever it has written."""
    server = Server(SET=b"OK", WAIT=2)
    barrier = DurabilityBarrier(server.link, Durability(replicas=2), 500)
    for _ in range(2):
        barrier.open()
        barrier.wait()
    assert server.commands == [("SET", MARK, ""), ("WAIT", 0, 1), *[("SET", MARK, ""), ("WAIT", 2, 500)] * 2]


def test_wait_ends_before_the_socket_does() -> None:
    """With any time for a batch, a wait for replicas is bounded below the socket's time-out."""
    server = Server(SET=b"OK", WAIT=1)
    barrier = DurabilityBarrier(server.link, Durability(replicas=1), 10**6)
    barrier.open()
    barrier.wait()
    assert server.commands[-1] == ("WAIT", 1, CONFIRM_MS)


@pytest.mark.parametrize(
    ("durability", "answers"),
    [
        (Durability(replicas=2), {"WAIT": 1}),
        (Durability(fsync=True), {"WAITAOF": [0, 0], "HELLO": hello("redis", "8.2.1"), "CONFIG": policy("everysec")}),
    ],
)
def test_too_few_confirmations_are_no_reply(durability: Durability, answers: dict[str, Any]) -> None:
    """If too few replicas have confirmed in time, the batch has to be done again."""
    server = Server(SET=b"OK", **answers)
    barrier = DurabilityBarrier(server.link, durability, 500)
    barrier.open()
    with pytest.raises(Unavailable, match="tokens"):
        barrier.wait()


def test_batch_that_had_two_connections_is_no_reply() -> None:
    """A new connection may lead to a server that lost what the old one had confirmed: then nothing is confirmed."""
    server = Server(SET=b"OK", WAIT=1)
    barrier = DurabilityBarrier(server.link, Durability(replicas=1), 500)
    barrier.open()
    server.connections += 1
    with pytest.raises(Unavailable, match="connection was replaced"):
        barrier.wait()
    barrier.open()
    barrier.wait()


def test_command_that_had_two_connections_confirms_no_change() -> None:
    """A command fails if the connection was replaced after its first change: the new server may have lost that."""
    server = Server(SET=b"OK", WAIT=1, EVAL=1)
    entries = entries_on(server.link, Durability(replicas=1))
    change = [EntryChange(b"entry", b"old", b"new")]
    assert entries.change(change) == 1
    server.connections += 1
    assert entries.change(change) == 1
    with pytest.raises(Unavailable, match="connection was replaced"):
        entries.confirm()
    entries_on(server.link, Durability(replicas=1)).confirm()


@pytest.mark.parametrize(
    ("who", "config", "is_known"),
    [
        (hello("redis", "8.0.0"), ServerError("tokens", "NOPERM"), True),
        (hello("redis", "10.1.0"), policy("everysec"), True),
        (hello("redis", "8.2.1"), policy("always"), True),
        (hello("redis", "7.4.2"), policy("always"), True),
        (hello("valkey", "9.1.2"), policy("always"), True),
        (hello("valkey", "9.1.2"), ServerError("tokens", "NOPERM"), False),
        (hello("valkey", "9.1.2"), Unavailable("tokens", "NOPERM"), False),
    ],
)
def test_fsync_is_sound_where_waitaof_can_be_trusted_or_every_write_is_synced(
    who: list[bytes], config: Any, *, is_known: bool
) -> None:
    """Redis 8 is trusted. Other servers need appendfsync always; if this user may not check that, the log says so."""
    assert examine_fsync(Server(WAITAOF=[1, 0], HELLO=who, CONFIG=config).link) is is_known


@pytest.mark.parametrize(
    ("answers", "text"),
    [
        ({"HELLO": hello("valkey", "9.1.2"), "CONFIG": policy("everysec")}, "appendfsync always"),
        ({"HELLO": hello("redis", "7.4.9"), "CONFIG": policy("no")}, "appendfsync always"),
        ({"HELLO": hello("redis", "7.2.9"), "CONFIG": policy("always", "yes")}, "no-appendfsync-on-rewrite no"),
        ({"HELLO": hello("redis", "8.2.1"), "CONFIG": policy("no")}, "appendfsync always"),
        ({"HELLO": hello("redis", "8.2.1"), "CONFIG": policy("everysec", "yes")}, "no-appendfsync-on-rewrite no"),
        ({"WAITAOF": Unavailable("tokens", "ERR")}, "appendonly yes"),
        ({"WAITAOF": ServerError("tokens", "WAITAOF")}, "appendonly yes"),
    ],
)
def test_fsync_that_would_promise_nothing_is_refused(answers: dict[str, Any], text: str) -> None:
    """A server that confirms without a sync, or has no append-only file, is an error that names the remedy."""
    with pytest.raises(SettingsError, match=text):
        examine_fsync(Server(**{"WAITAOF": [1, 0], **answers}).link)


@pytest.mark.parametrize(
    ("durability", "refused", "right"),
    [
        (Durability(replicas=1), "SET", "[+]set on token-worker:mark"),
        (Durability(replicas=1), "WAIT", "[+]wait;"),
        (Durability(fsync=True), "WAITAOF", "[+]waitaof;"),
    ],
)
def test_right_that_is_missing_is_named(durability: Durability, refused: str, right: str) -> None:
    """A user made for another durability is an error that names the right, and not an outage."""
    server = Server(**{"SET": b"OK", "WAIT": 1, "WAITAOF": [1, 0], refused: Unavailable("tokens", "NOPERM")})
    with pytest.raises(SettingsError, match=right):
        DurabilityBarrier(server.link, durability, 500).check_server()


def test_server_is_looked_at_again_after_each_new_connection() -> None:
    """The server may have another configuration now: it is checked once for each connection, and after a refusal."""
    server = Server(WAITAOF=[1, 0], HELLO=hello("valkey", "9.1"), CONFIG=policy("always"), SET=b"OK")
    barrier = DurabilityBarrier(server.link, Durability(fsync=True), 500)
    barrier.open()
    barrier.open()
    assert sum(command[0] == "CONFIG" for command in server.commands) == 1
    server.connections += 1
    server.answers["CONFIG"] = policy("everysec")
    with pytest.raises(Unavailable, match="appendfsync always"):
        barrier.open()
    server.answers["CONFIG"] = policy("always")
    barrier.open()
    server.answers["WAITAOF"] = Unavailable("tokens", "ERR")
    with pytest.raises(Unavailable):
        barrier.wait()
    with pytest.raises(Unavailable, match="appendonly yes"):
        barrier.open()
