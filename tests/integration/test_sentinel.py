"""Streams, keys and tokens behind Sentinels: a dead primary costs only the data that was not replicated yet."""

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import redis

from harness.load import Load, running
from harness.producer import BatchProducer
from harness.servers import Sentinel, Valkey, Watched, redis_binary, valkey_binary
from harness.stack import Stack, wait_until
from token_worker.errors import Unavailable
from token_worker.redis.address import parse
from token_worker.redis.connect import make_link
from token_worker.redis.link import Link

CLIENT = "shop-frontend"
PASSWORD = "of-the-sentinels"


@pytest.fixture
def watched() -> Iterator[Watched]:
    """A primary of this test alone, its replicas and Sentinels."""
    with Watched() as watched:
        yield watched


def link(watched: Watched) -> Link:
    return make_link("streams", parse(watched.url), raise_server_errors=True)


def is_replica_of(server: Valkey, primary: Valkey) -> bool:
    try:
        found = server.info("replication")
    except redis.ConnectionError:  # Sentinels that make it a replica end its connections
        return False
    return (found["role"], found.get("master_port"), found.get("master_link_status")) == ("slave", primary.port, "up")


def test_primary_of_the_streams_killed_under_load(storage_server: Valkey, watched: Watched) -> None:
    """Every entry that the promoted server has is answered exactly once; the old primary comes back as a replica."""
    with running(Stack(watched, storage_server), workers=3) as stack:
        # Given workers under load, and an amount of it that the replicas have
        producer = BatchProducer(stack)
        with Load(producer) as load:
            load.wait_for_replies()
            old = watched.primary()
            # When the primary dies, and producers go on as soon as they can
            old.kill()
            wait_until(lambda: watched.primary() is not old, "another primary")
            load.go_on()
            # and the dead one comes back, which takes itself for the primary at first
            old.start()
            load.go_on()
        # Then all that the new primary has was answered once, rightly, and nothing else was,
        lost = producer.take_stock()
        assert producer.settle() == []
        assert producer.replies_written() == len(producer)
        assert len(lost) < len(producer)  # those that the dead one alone had
        assert not stack.streams.exists("tokenize:requests:dead")
        # and the old one is a replica.
        wait_until(lambda: is_replica_of(old, watched.primary()), "the old primary to be a replica")


def test_primary_that_dies_with_replicas_in_step_loses_nothing(storage_server: Valkey) -> None:
    """Of requests that the replicas have when the primary dies none is lost, and none answered twice; on Redis, too."""
    with Watched(binary=redis_binary()) as watched, running(Stack(watched, storage_server), workers=0) as stack:
        # Given a backlog that the replicas have, and workers amid it
        producer = BatchProducer(stack)
        producer.add_new(20_000)
        producer.send()
        wait_until(watched.are_replicas_in_step, "the replicas to be in step")
        for _ in range(2):
            stack.start_worker(TOKEN_WORKER_BATCH_SIZE="50")
        old = watched.primary()
        wait_until(lambda: producer.replies_written() > 1000, "replies")
        # When the primary dies
        old.kill()
        # Then every request gets its one reply.
        wait_until(lambda: watched.primary() is not old, "another primary")
        assert not producer.is_settled()
        assert producer.take_stock() == []
        assert producer.settle() == []


def test_primary_of_keys_and_tokens_killed_under_load(streams_server: Valkey) -> None:
    """Nothing is lost while another takes over, and its tokens are detokenized; the same values keep their tokens."""
    with Watched(replicas=1) as watched, running(Stack(streams_server, watched), workers=2) as stack:
        # Given tokens that the replica has, and load
        before = BatchProducer(stack)
        before.add_new(500)
        before.send()
        assert before.settle() == []
        wait_until(watched.are_replicas_in_step, "the replica to be in step")
        during = BatchProducer(stack, prefix="during-")
        with Load(during) as load:
            load.wait_for_replies()
            old = watched.primary()
            # When the primary dies
            old.kill()
            wait_until(lambda: watched.primary() is not old, "another primary")
            load.go_on()
        # Then every request is answered once,
        assert during.take_stock() == []
        assert during.settle() == []
        # known values still have their tokens, and each gives its value back.
        again = BatchProducer(stack)
        for kind, token, value in before.tokens():
            again.add("tokenize", kind, [value], expected=[token])
        again.add_tokens_of(before)
        again.send()
        assert again.settle() == []


def test_users_of_acl_work_behind_sentinels(tmp_path: Path) -> None:
    """Worker, monitor and operator do their work with the rights that ``acl`` prints, and the Sentinels' password."""
    sentinels_password = tmp_path / "password"
    sentinels_password.write_text(PASSWORD)
    settings = {"TOKEN_WORKER_STREAMS_SENTINEL_PASSWORD_FILE": str(sentinels_password)}
    settings |= {"TOKEN_WORKER_KEYS_SENTINEL_PASSWORD_FILE": str(sentinels_password)}
    with (
        Watched(replicas=0, password=PASSWORD) as watched,
        running(Stack(watched, watched, settings=settings), workers=0) as stack,
    ):
        folder = tmp_path / "users"
        stack.restrict(folder)
        stack.start_worker()
        asked = stack.run("request", "tokenize", "--type", "str", "--client", CLIENT, value="Grace Hopper")
        assert asked.returncode == 0, asked.stderr
        stack.send([b"no message"])  # becomes a dead letter
        wait_until(lambda: stack.streams.xlen("tokenize:requests:dead"), "the dead letter")
        monitor, operator = stack.settings_as("token-monitor", folder), stack.settings_as("token-operator", folder)
        lag = stack.run("lag", "--json", **monitor)
        assert lag.returncode == 0, lag.stderr
        assert [json.loads(line)["pending"] for line in lag.stdout.splitlines()] == [0, 0]
        again = stack.run("replay", "--ids", json.loads(asked.stdout)["request_entry"], "--op", "tokenize", **operator)
        assert again.returncode == 0, again.stderr
        letters = stack.run("dead-letters", "list", "--json", **operator)
        assert [json.loads(line)["stream"] for line in letters.stdout.splitlines()] == ["tokenize:requests"]
        counted = stack.run("tokens", "status", CLIENT, "--json", **operator)
        assert counted.returncode == 0, counted.stderr
        looked = stack.run("doctor", "--json", **stack.settings_as("token-worker", folder))
        checks = {row["check"]: row["status"] for row in map(json.loads, looked.stdout.splitlines())}
        assert (checks["streams: user"], checks["keys: user"], checks["tokens: user"]) == ("ok", "ok", "ok")


def test_server_that_is_no_primary_is_not_used(watched: Watched) -> None:
    """A replica is neither read nor written: after a fail-over on demand the next command goes to the new primary."""
    subject = link(watched)
    old = watched.primary()
    assert subject.call("SET", "key", "value") == b"OK"
    with watched.sentinels[0].client() as client:
        client.execute_command("SENTINEL", "FAILOVER", "main")
    wait_until(lambda: watched.primary() is not old, "another primary")
    with old.client() as client:
        client.replicaof("127.0.0.1", str(watched.primary().port))  # as the Sentinels do some seconds later
    with pytest.raises(Unavailable) as caught:
        subject.call("SET", "key", "other")
    assert caught.value.reason == "READONLY"
    assert subject.call("SET", "key", "other") == b"OK"


@pytest.mark.parametrize("options", [(), ("replica-read-only no",)], ids=["reading", "writing, too"])
@pytest.mark.parametrize("binary", [valkey_binary, redis_binary])
def test_demoted_primary_that_keeps_its_connections_is_left(
    binary: Callable[[], str], options: tuple[str, ...]
) -> None:
    """A server that became a replica goes on answering: it is asked for its role, and the new primary is used."""
    # Given a connection in use to the primary
    with (
        Valkey(*options, binary=binary()) as old,
        Valkey(binary=binary()) as new,
        Sentinel(old, None, binary()) as sentinel,
        old.client() as on_old,
        new.client() as on_new,
        sentinel.client() as on_sentinel,
    ):
        subject = make_link("tokens", parse(f"redis+sentinel://127.0.0.1:{sentinel.port}/main"))
        on_old.set("where", "old")
        on_new.set("where", "new")
        assert subject.call("GET", "where") == b"old"
        connection = str(subject.call("CLIENT", "ID"))
        # When another one is the primary, of which the old one is a replica that is behind, and closes no connection
        on_sentinel.execute_command("SENTINEL", "REMOVE", "main")
        on_old.replicaof("127.0.0.1", "1")
        on_sentinel.execute_command("SENTINEL", "MONITOR", "main", "127.0.0.1", str(new.port), "1")
        assert connection in {client["id"] for client in on_old.client_list()}
        # Then the next commands tell that, and go to the new one.
        reasons: set[str] = set()

        def is_on_new() -> bool:
            try:
                return bool(subject.call("GET", "where") == b"new")
            except Unavailable as error:
                reasons.add(error.reason)
            return False

        wait_until(is_on_new, "the new primary to be used")
        assert reasons == {"READONLY"}
        subject.close()


def test_sentinels_that_are_behind_are_passed_over() -> None:
    """If one Sentinel names a dead server, and another one a replica, the first call still reaches the primary."""

    def link_by(*sentinels: Sentinel) -> Link:
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in sentinels)
        return make_link("tokens", parse(f"redis+sentinel://{hosts}/main"))

    with (
        Valkey() as primary,
        Valkey(f"replicaof 127.0.0.1 {primary.port}") as replica,
        Valkey() as dead,
        Sentinel(dead, None) as first,
        Sentinel(replica, None) as second,
        Sentinel(primary, None) as third,
    ):
        dead.kill()
        assert link_by(first, second, third).call("SET", "key", "value") == b"OK"
        # Where none names a primary, no server is used, and what is told is about the last one named.
        for sentinels, reason in (((second, first), "ConnectionRefusedError"), ((first, second), "READONLY")):
            with pytest.raises(Unavailable) as caught:
                link_by(*sentinels).call("GET", "key")
            assert caught.value.reason == reason


def test_sentinels_that_cannot_tell(watched: Watched) -> None:
    """One Sentinel that tells is enough; else the error says that it is about them, and why, but no password."""
    address = parse(watched.url)
    watched.sentinels[0].signal(signal.SIGSTOP)
    watched.sentinels[1].kill()
    subject = link(watched)
    assert subject.call("PING") == b"PONG"
    for settings, reason in (
        (msgspec.structs.replace(address, service="other"), "Sentinel knows no such service"),
        (msgspec.structs.replace(address, sentinel_password=PASSWORD), "Sentinel WRONGPASS"),
    ):
        with pytest.raises(Unavailable) as caught:
            make_link("streams", settings).call("PING")
        assert caught.value.reason == reason
    watched.sentinels[2].kill()
    with pytest.raises(Unavailable) as caught:
        link(watched).call("PING")
    assert caught.value.reason in {"Sentinel ConnectionRefusedError", "Sentinel TimeoutError"}
