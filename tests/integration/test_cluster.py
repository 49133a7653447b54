"""Streams in a Redis Cluster: fail-overs and slots that move under load cost no entry, and answer none twice."""

import json
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.cluster import ClusterNode

from harness.load import Load, running
from harness.producer import BatchProducer
from harness.servers import Cluster, Valkey, redis_binary, valkey_binary
from harness.stack import GROUP, Stack, wait_until
from token_worker.contract.messages import Op
from token_worker.errors import ServerError, Unavailable
from token_worker.monitor.collector import Collector
from token_worker.redis.address import parse
from token_worker.redis.cluster import ClusterLink
from token_worker.redis.connect import make_link
from token_worker.redis.exchange import drive
from token_worker.redis.link import Link
from token_worker.settings import load
from token_worker.streams.commit import COMMIT
from token_worker.streams.delivery import Delivery
from token_worker.streams.entry import Answer
from token_worker.streams.routes import Route, slot_of

CLIENT = "shop-frontend"
FIRST, SECOND = "{shop-1}", "{shop-2}"
"""Names of two routes, whose slots are those of different servers."""

ROUTES = [
    {"requests": f"{name}:requests", "responses": f"{name}:responses", "ops": ["tokenize", "detokenize"]}
    for name in (FIRST, SECOND)
]
ONLY_WHAT_IS_DOWN = "cluster-require-full-coverage no"


def serving(
    cluster: Cluster, storage: Valkey, workers: int, settings: dict[str, str] | None = None
) -> AbstractContextManager[Stack]:
    """So many workers on the routes of these tests."""
    settings = {"TOKEN_WORKER_ROUTES": json.dumps(ROUTES), **(settings or {})}
    return running(Stack(cluster, storage, settings=settings), workers)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Three servers without replicas, for tests that leave every slot where it is."""
    with Cluster(replicas=0) as cluster:
        yield cluster


def link(cluster: Cluster) -> ClusterLink:
    found = make_link("streams", parse(cluster.url), raise_server_errors=True)
    assert isinstance(found, ClusterLink)
    return found


def answers(subject: Link, *command: str) -> bool:
    try:
        subject.call(*command)
    except Unavailable:
        return False
    return True


def errors(cluster: Cluster) -> Counter[str]:
    """Errors that the servers have answered, by their codes."""
    found: Counter[str] = Counter()
    for server in cluster.members:
        for name, figures in server.info("errorstats").items():
            found[name.removeprefix("errorstat_")] += figures["count"]
    return found


@pytest.mark.parametrize("binary", [valkey_binary, redis_binary])
def test_slot_moves_under_load(storage_server: Valkey, binary: Callable[[], str]) -> None:
    """While a slot's keys move one by one, and after, each request on it gets one reply; so do others."""
    with Cluster(replicas=0, binary=binary()) as cluster, serving(cluster, storage_server, workers=3) as stack:
        # Given workers under load on two slots
        slot = slot_of(FIRST)
        source = cluster.primary_of(slot)
        target = next(
            member for member in cluster.members if member not in (source, cluster.primary_of(slot_of(SECOND)))
        )
        producer = BatchProducer(stack)
        with Load(producer, [FIRST, SECOND]) as load:
            load.wait_for_replies()
            # When the keys of one go to a server that has none of them yet
            cluster.move_slot(slot, target, amid=lambda: load.go_on(2))
            assert cluster.primary_of(slot) is target
            load.go_on()
        # Then all that came was answered once, rightly,
        assert producer.take_stock() == []
        assert producer.settle() == []
        # while servers sent commands on: scripts, which workers alone use, met keys in both places.
        found = errors(cluster)
        assert all(found[code] for code in ("ASK", "MOVED", "TRYAGAIN")), found
        back = BatchProducer(stack, prefix="back-")
        back.add_tokens_of(producer, routes=[FIRST, SECOND])
        back.send()
        assert back.settle() == []


def test_entries_of_a_slot_on_its_way_are_not_given_up(storage_server: Valkey, tmp_path: Path) -> None:
    """While a route's streams are on two servers, its entries wait, and the failed tries are not counted."""
    streams = {f"{FIRST}:requests".encode(), f"{FIRST}:responses".encode()}
    with Cluster(replicas=0) as cluster, serving(cluster, storage_server, workers=0) as stack:
        log = tmp_path / "log"
        stack.start_worker(log=log, TOKEN_WORKER_MAX_DELIVERIES="1")
        producer = BatchProducer(stack)
        producer.add_new(5, route=FIRST)
        producer.send()
        assert producer.settle() == []
        target = cluster.primary_of(slot_of(SECOND))

        def amid() -> None:
            with target.client() as client:
                found: Any = client.keys("*")
            if len(streams & {*found}) == 1 and len(producer) == 5:
                producer.add_new(1, start=1, route=FIRST)
                producer.send()
                wait_until(lambda: log.read_text().count("entries left pending for a retry") > 2, "tries that fail")

        cluster.move_slot(slot_of(FIRST), target, amid)
        assert producer.settle() == []
        assert len(producer) == 6
        assert not stack.streams.exists(f"{FIRST}:requests:dead")


def test_fail_over_under_load() -> None:
    """Entries that the promoted server has are answered once, on demand or after a kill; other slots never wait."""
    with Cluster(ONLY_WHAT_IS_DOWN) as cluster, Valkey() as storage, serving(cluster, storage, workers=3) as stack:
        slot = slot_of(FIRST)
        producer = BatchProducer(stack)
        with Load(producer, [FIRST, SECOND]) as load:
            load.wait_for_replies()
            # When a replica takes over on demand
            old = cluster.primary_of(slot)
            new = cluster.replica_of(old)
            with new.client() as client:
                client.execute_command("CLUSTER", "FAILOVER")
            wait_until(lambda: cluster.all_know(slot, new), "the replica to take over")
            load.go_on()
        # Then nothing is lost, and all is answered once.
        assert producer.take_stock() == []
        assert producer.settle() == []

        # When that server dies as all workers have entries of it in hand, and none takes over yet
        wait_until(lambda: old.info("replication").get("master_link_status") == "up", "the old one to be a replica")
        with old.client() as client:
            client.config_set("cluster-replica-no-failover", "yes")
        storage.signal(signal.SIGSTOP)
        unlucky = BatchProducer(stack, prefix="unlucky-")
        unlucky.add_new(1000, route=FIRST)
        unlucky.send()
        wait_until(
            lambda: len(stack.streams.xpending(f"{FIRST}:requests", GROUP)["consumers"]) == len(stack.workers),
            "all workers to have entries in hand",
        )
        reached = new.info("replication")["master_repl_offset"]
        wait_until(lambda: old.info("replication")["slave_repl_offset"] >= reached, "the replica to be in step")
        new.kill()
        storage.signal(signal.SIGCONT)
        # Then requests in the other slot are answered all the same.
        lucky = BatchProducer(stack, prefix="lucky-")
        lucky.add_new(200, route=SECOND)
        lucky.send()
        assert lucky.settle() == []
        # When the replica takes over
        with old.client() as client:
            client.config_set("cluster-replica-no-failover", "no")
        wait_until(lambda: cluster.all_know(slot, old), "the replica to take over")
        # Then nothing is lost, and all of it is answered once.
        assert unlucky.take_stock() == []
        assert unlucky.settle() == []
        assert unlucky.replies_written() == stack.streams.xlen(f"{FIRST}:requests")


@pytest.mark.parametrize("binary", [valkey_binary, redis_binary])
def test_link_follows_a_slot(binary: Callable[[], str]) -> None:
    """A command is done once, by whichever node has its key; what is neither here nor there is an outage."""
    with Cluster(replicas=0, binary=binary()) as cluster:
        subject, key = link(cluster), f"{FIRST}:stream"
        slot = slot_of(FIRST)
        source, target = cluster.primary_of(slot), cluster.primary_of(slot_of(SECOND))
        subject.call("XADD", key, "*", "n", "0")
        subject.call("SET", f"{FIRST}:other", "x")
        arguments = (COMMIT, [f"{FIRST}:other", key], ["group", 60])
        amid: list[str] = []

        def begin() -> None:
            subject.start_script(*arguments)
            subject.finish_script()

        def ask() -> None:
            subject.call("XADD", key, "*", "n", "1")
            for run in (begin, lambda: subject.run(*arguments)):
                try:
                    run()
                except (Unavailable, ServerError) as error:
                    amid.append(error.reason if isinstance(error, Unavailable) else error.code)

        cluster.move_slot(slot, target, amid=ask)
        assert amid == ["TRYAGAIN"] * 2 + ["WRONGTYPE"] * 2
        assert subject.node_of(key).node.port == source.port  # ASK is for one command
        with pytest.raises(ServerError, match="WRONGTYPE"):
            begin()
        subject.call("XADD", key, "*", "n", "2")
        assert subject.node_of(key).node.port == target.port  # MOVED is for good
        assert [fields for _, fields in subject.call("XRANGE", key, "-", "+")] == [
            [b"n", number] for number in (b"0", b"1", b"1", b"2")
        ]
        assert subject.call_bounded(1 << 20, "XLEN", key) == 4


def test_link_without_some_nodes() -> None:
    """Nodes that are down take their own keys along and nothing else; a map is had from any that is up."""
    with Cluster(ONLY_WHAT_IS_DOWN, replicas=0) as cluster, closing(link(cluster)) as subject:
        keys = {cluster.primary_of(slot_of(key)): key for key in map(str, range(20))}
        first, second, third = cluster.members
        for key in keys.values():
            assert subject.call("SET", key, "x") == b"OK"
        first.kill()
        with pytest.raises(Unavailable):
            subject.call("SET", keys[first], "y")
        assert subject.call("SET", keys[second], "y") == b"OK"
        assert link(cluster).call("GET", keys[third]) == b"x"
        assert len(subject.call("TIME")) == 2
        second.kill()
        third.kill()
        for command in (("GET", keys[third]), ("TIME",), ("GET", keys[first])):
            with pytest.raises(Unavailable):
                subject.call(*command)
        for server in (first, third):  # one alone is no majority
            server.start()
        wait_until(lambda: answers(subject, "GET", keys[third]), "one that is back")


def test_worker_without_a_node(storage_server: Valkey, tmp_path: Path) -> None:
    """While a node is down the streams of the others are trimmed, and what rests is told, with its cause and end."""
    settings = {"TOKEN_WORKER_ROUTES": json.dumps([{**route, "request_retention_seconds": 0} for route in ROUTES])}
    with Cluster(ONLY_WHAT_IS_DOWN, replicas=0) as cluster, serving(cluster, storage_server, 0, settings) as stack:
        log = tmp_path / "log"
        stack.start_worker(log=log)
        producer = BatchProducer(stack)
        producer.add_new(2, route=FIRST)
        producer.add_new(2, start=2, route=SECOND)
        producer.send()
        assert producer.settle() == []
        down, other = cluster.primary_of(slot_of(FIRST)), cluster.primary_of(slot_of(SECOND))

        down_at = f"127.0.0.1:{down.port}"

        def logged(event: str) -> list[tuple[str, str | None]]:
            lines = map(json.loads, log.read_text().splitlines())
            return [(line["stream"], line.get("reason")) for line in lines if line["event"] == event]

        down.kill()
        wait_until(lambda: logged("route paused: its server is unavailable"), "the route to rest")
        with other.client() as client:
            request = {"id": "1", "op": "tokenize", "client_id": CLIENT, "type": "str", "value": "x"}
            client.xadd(f"{SECOND}:requests", {"payload": json.dumps(request)})
            wait_until(lambda: client.xlen(f"{SECOND}:responses") == 3, "the reply")
            wait_until(lambda: client.xlen(f"{SECOND}:requests") == 0, "its request to be trimmed")
        # Commands show what the other nodes have, and name what they cannot look at.
        away = {f"{FIRST}:{name}" for name in ("requests", "responses")}
        lag = stack.run("lag", "--json")
        assert lag.returncode == 3
        assert {json.loads(line)["stream"] for line in lag.stdout.splitlines()} == {f"{SECOND}:requests"}
        assert {line.partition(": ")[0] for line in lag.stderr.splitlines()} >= away
        letters = stack.run("dead-letters", "list", "--json")
        assert (letters.returncode, letters.stdout) == (3, "")
        assert f"{FIRST}:requests:dead: out of reach" in letters.stderr
        doctor = stack.run("doctor", "--json")
        checks = {row["check"]: row["status"] for row in map(json.loads, doctor.stdout.splitlines())}
        for name in (f"streams at 127.0.0.1:{down.port}: reachable", f"{FIRST}:requests: reachable"):
            assert checks.pop(name) == "finding"
        assert not [name for name in checks if "reachable" in name]
        assert checks[f"streams at 127.0.0.1:{other.port}: version"] == checks[f"{SECOND}:requests: group"] == "ok"
        down.start()
        wait_until(lambda: logged("route resumed: its server is available again"), "the route to be served")
        [(stream, reason)] = logged("route paused: its server is unavailable")
        assert stream == f"{FIRST}:requests"
        assert reason in {f"Redis for streams at {down_at}: connection {how}" for how in ("refused", "closed")}
        assert logged("route resumed: its server is available again") == [(f"{FIRST}:requests", None)]


def test_server_that_is_in_no_cluster(streams_server: Valkey) -> None:
    """A cluster's address that leads to a single server is an outage that tells what was refused."""
    address = parse(f"redis+cluster://127.0.0.1:{streams_server.port}")
    with pytest.raises(Unavailable) as caught:
        make_link("streams", address, raise_server_errors=True).call("TIME")
    assert caught.value.reason == "CLUSTER SLOTS ERR"


def test_reply_to_another_slot_is_forbidden(cluster: Cluster, storage_server: Valkey) -> None:
    """A request that names a stream in another slot gets ``forbidden`` on its route, and its neighbours their replies.

    So it is where a route's pattern allows the name, as settings would not let it.
    """
    with serving(cluster, storage_server, workers=1) as stack:
        request = {"op": "tokenize", "client_id": CLIENT, "type": "str", "value": "x"}
        elsewhere = f"{SECOND}:responses:mine"
        stack.send([{**request, "id": "1", "reply_to": elsewhere}, {**request, "id": "2"}], f"{FIRST}:requests")
        replies = stack.wait_for_replies(2, f"{FIRST}:responses")
        assert {reply["id"]: reply.get("error", {}).get("code") for reply in replies} == {"1": "forbidden", "2": None}
        assert not stack.streams.exists(elsewhere)

    subject = link(cluster)
    route = Route("{other}:in", "{other}:out", frozenset({Op.TOKENIZE}), reply_to="*")
    delivery = Delivery([route], "group", "me", batch_size=10, claim_idle_ms=60_000, max_deliveries=2)
    for _ in range(2):
        subject.call("XADD", route.requests, "*", "payload", "x")
    entries = drive(delivery.fetch(0.0, 0), subject).entries
    answers = [Answer(entries[0], b"here"), Answer(entries[1], b"there", reply_to=elsewhere, forbidden=b"forbidden")]
    done = drive(delivery.commit([answers], 0.0), subject)
    assert (done.written, done.forbidden) == (1, [entries[1]])
    found = subject.call("XRANGE", route.responses, "-", "+")
    assert [fields for _, fields in found] == [[b"payload", b"here"], [b"payload", b"forbidden"]]


def test_users_of_acl_work_on_a_cluster(cluster: Cluster, storage_server: Valkey, tmp_path: Path) -> None:
    """Worker, producer, reader, monitor and operator do their work with the rights that ``acl`` prints."""
    with Valkey() as storage, serving(cluster, storage, workers=0) as stack:
        folder = tmp_path / "users"
        stack.restrict(folder)
        stack.start_worker()
        with cluster.members[0].client() as client:
            users = [name for name in client.acl_users() if name != "default"]
            assert {client.acl_dryrun(name, "ASKING") for name in users} == {b"OK"}  # while a slot moves

        def client_as(name: str) -> redis.RedisCluster:
            password = (folder / f"streams-{name}").read_text().strip()
            nodes = [ClusterNode("127.0.0.1", cluster.members[0].port)]  # type: ignore[no-untyped-call]  # redis-py leaves it so
            return redis.RedisCluster(startup_nodes=nodes, username=name, password=password, protocol=2)

        request = {"id": "1", "op": "tokenize", "client_id": CLIENT, "type": "str", "value": "x"}
        with client_as("producer-shop-2") as producer, client_as("reader-shop-2") as reader:
            entry: Any = producer.xadd(f"{SECOND}:requests", {"payload": json.dumps(request)})
            producer.xadd(f"{SECOND}:requests", {"no": "payload"})
            [[_, [reply]]] = reader.xread({f"{SECOND}:responses": "0"}, block=20_000)
            assert json.loads(reply[1][b"payload"])["status"] == "ok"
        dead = f"{SECOND}:requests:dead"
        wait_until(lambda: stack.streams.xlen(dead), "the dead letter")
        wait_until(lambda: stack.streams.exists(f"{SECOND}:requests:low-water"), "the low-water mark")

        monitor, operator = stack.settings_as("token-monitor", folder), stack.settings_as("token-operator", folder)
        lag = stack.run("lag", "--json", **monitor)
        assert lag.returncode == 0, lag.stderr
        rows = {row["stream"]: row for row in map(json.loads, lag.stdout.splitlines())}
        assert (rows[f"{SECOND}:requests"]["pending"], rows[f"{SECOND}:requests"]["dead_letters"]) == (0, 1)
        assert stack.run("lag", **monitor).returncode == 0
        collector = Collector(load(stack.environment(**monitor)))
        for source in collector.sources:
            source.look()
            assert source.seen.trouble is None, source.name
        facts = collector.look().streams.value
        assert facts is not None
        assert ([*facts.dead[dead].by_reason], facts.refused, facts.measured.unknown) == (["payload_missing"], [], {})
        again = stack.run("replay", "--stream", f"{SECOND}:requests", "--ids", entry.decode(), **operator)
        assert again.returncode == 0, again.stderr
        letters = stack.run("dead-letters", "list", "--json", **operator)
        assert [json.loads(line)["dead_stream"] for line in letters.stdout.splitlines()] == [dead]
        looked = stack.run("doctor", "--json", **stack.settings_as("token-worker", folder))
        checks = {row["check"]: row["status"] for row in map(json.loads, looked.stdout.splitlines())}
        names = [f"streams at 127.0.0.1:{server.port}" for server in cluster.members]
        assert {checks[f"{name}: user"] for name in names} == {checks[f"{name}: clock"] for name in names} == {"ok"}
        assert checks[f"{SECOND}:requests: group"] == "ok"
        asked = stack.run("request", "tokenize", "--type", "str", "--client", CLIENT, value="x")
        assert json.loads(asked.stdout)["value"] == json.loads(reply[1][b"payload"])["value"]
