"""The token storage in a real cluster while nodes are away, slots move, and replicas have to confirm."""

import signal
from collections.abc import Callable, Iterator

import pytest
from msgspec.structs import replace

from harness.cluster_rows import PLACES, WRITTEN, all_stored, name, pipeline_of, redirects, row
from harness.servers import Cluster, Valkey
from harness.stack import wait_until
from token_worker.acra.owner import Owner
from token_worker.acra.value_types import STR
from token_worker.admin.cluster_entries import entries_on
from token_worker.admin.entry_store import EntryChange
from token_worker.errors import SettingsError, Unavailable
from token_worker.keys.keyring import DataKeyCache, Keyring
from token_worker.redis.address import parse
from token_worker.redis.cluster_pipeline import ClusterPipeline, slot_of
from token_worker.storage.cluster_durability import ClusterBarrier
from token_worker.storage.cluster_tokens import ClusterTokenStorage
from token_worker.storage.dense.layout import DenseLayout
from token_worker.storage.durability import Durability
from token_worker.storage.item_group import ItemGroup
from token_worker.storage.steps import Adopt, Claim, Lookup, Outcome, Row, Store
from token_worker.storage.token_item import TokenItem

ONLY_WHAT_IS_DOWN = "cluster-require-full-coverage no"


@pytest.fixture(scope="module")
def bare() -> Iterator[Cluster]:
    """Three primaries without replicas; a test leaves all running."""
    with Cluster(ONLY_WHAT_IS_DOWN, "maxmemory-policy noeviction", replicas=0) as cluster:
        yield cluster


def test_only_what_is_on_a_node_that_is_away_is_put_off() -> None:
    """Keys and rows of a node that is away are unavailable; others are answered. All go on once it is back."""
    keys = [name(b"t", 10, place) for place in range(PLACES)]
    first_away, last_away, good = row(20, 0, 1), row(21, 1, 2), row(22, 2, 0)
    with Cluster(ONLY_WHAT_IS_DOWN, replicas=0) as cluster:
        storage = ClusterTokenStorage(pipeline_of(cluster), DenseLayout())
        assert storage.execute(Lookup(keys)) == [None] * 3
        cluster.members[1].kill()

        for _ in range(2):
            found = storage.execute(Lookup(keys))
            assert isinstance(found[1], Unavailable)
            assert (found[0], found[2]) == (None, None)
        outcomes = storage.execute(Store([first_away, last_away, good]))
        assert [outcome.what for outcome in outcomes] == ["away", "away", "written"]
        assert all(outcome.error.server == "tokens" for outcome in outcomes[:2])
        storage.ping()
        storage.probe()
        # The value entry of a token entry that was not written does not exist.
        assert storage.execute(Lookup([first_away.h_key, last_away.t_key])) == [None, last_away.t_value]

        for member in (cluster.members[0], cluster.members[2]):
            member.kill()
        for step in (Lookup(keys), Store([good]), Adopt([good]), Claim([(keys[0], b"x")])):
            with pytest.raises(Unavailable):
                storage.execute(step)
        for ask in (storage.ping, storage.probe):
            with pytest.raises(Unavailable):
                ask()

        for member in cluster.members:
            member.start()
        wait_until(lambda: does(lambda: all_stored(storage.execute(Store([first_away, last_away, good])))), "all")


def does(ask: Callable[[], bool]) -> bool:
    """Tell whether the answer is true; not while the storage is unavailable."""
    try:
        return ask()
    except Unavailable:
        return False


def test_node_that_hangs_keeps_others_waiting_for_one_time_out(bare: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a node does not answer in time, its keys are unavailable; others are answered. Late answers are dropped."""
    monkeypatch.setattr("token_worker.redis.cluster.NODE_REST_SECONDS", 0.0)
    rows = [Row(b"", name(b"t", 10 + number, place % 3), b"", b"%d" % number) for number, place in enumerate(range(6))]
    storage = ClusterTokenStorage(ClusterPipeline("tokens", parse(bare.url), seconds=0.3), DenseLayout())
    storage.execute(Store(rows))
    bare.members[0].signal(signal.SIGSTOP)
    try:
        first, *others = storage.execute(Lookup([row.t_key for row in rows[:3]]))
        assert (first.reason, others) == ("TimeoutError", [b"1", b"2"])
    finally:
        bare.members[0].signal(signal.SIGCONT)
    later = [row.t_key for row in rows[3:]]
    found: list[bytes | Unavailable | None] = []

    def is_back() -> bool:
        found[:] = storage.execute(Lookup(later))
        return not isinstance(found[0], Unavailable)

    wait_until(is_back, "the node")
    assert found == [b"3", b"4", b"5"]
    wait_until(bare.is_well, "the cluster")


def test_cluster_is_checked_while_its_connections_are_in_use(bare: Cluster) -> None:
    """A check that is too old is made again. If it fails, nothing is sent, until it succeeds; a node may be away."""
    pipeline = pipeline_of(bare)
    storage = ClusterTokenStorage(pipeline, DenseLayout())
    record, keys = name(b"r", 50, 0), [name(b"t", 50, place) for place in range(PLACES)]
    good = row(51, 1, 2)

    def check() -> None:
        if pipeline.call("GET", record) is None:
            raise Unavailable("tokens", "LAYOUT")

    with bare.primary_of(slot_of(record)).client() as client:
        client.set(record, "here")
        pipeline.watch(check, 60.0)
        assert storage.execute(Lookup(keys)) == [None] * 3
        connections = pipeline.connections
        client.delete(record)
        assert storage.execute(Lookup(keys)) == [None] * 3
        pipeline.watch(check, 0.0)
        for _ in range(2):
            with pytest.raises(Unavailable, match="LAYOUT"):
                storage.execute(Store([good]))
        client.set(record, "here again")
        assert storage.execute(Lookup([good.t_key])) == [None]
        assert pipeline.connections == connections
    bare.members[0].kill()
    try:
        assert storage.execute(Store([good])) == [WRITTEN]
    finally:
        bare.members[0].start()
        wait_until(bare.is_well, "the cluster")


def test_full_node_refuses_writes_alone(bare: Cluster) -> None:
    """If a node is out of memory, rows with an entry there are put off. If all are, the storage is unavailable."""
    rows = [row(30 + place, place, (place + 1) % 3) for place in range(PLACES)]
    storage = ClusterTokenStorage(pipeline_of(bare), DenseLayout())
    storage.execute(Store([rows[0]]))
    limit(bare.members[1], 1)
    away, written = [outcome.what for outcome in storage.execute(Store(rows[1:]))]
    assert (away, written) == ("away", "written")
    storage.probe()
    for member in bare.members:
        limit(member, 1)
    with pytest.raises(Unavailable, match="OOM"):
        storage.execute(Store([row(40 + number) for number in range(20)]))
    single = ClusterTokenStorage(pipeline_of(bare), DenseLayout())
    alone = [row(70 + place, place, place) for place in range(PLACES)]
    for refused in alone[:2]:
        single.execute(Lookup([row.h_key for row in alone]))
        assert single.execute(Store([refused]))[0].what == "away"
    with pytest.raises(Unavailable):  # batches of one row, too, as soon as each node has refused one
        single.execute(Store(alone[2:]))
    assert storage.execute(Lookup([rows[0].h_key])) == [rows[0].h_value]
    with pytest.raises(Unavailable):
        storage.probe()
    for member in bare.members:
        limit(member, 0)
    storage.probe()
    assert all_stored(storage.execute(Store(rows)))


def limit(server: Valkey, maxmemory: int) -> None:
    with server.client() as client:
        client.config_set("maxmemory", maxmemory)


# Slots that move


def test_slot_moves_amid_batches(bare: Cluster) -> None:
    """While the keys of a slot move one by one, each is found and written, and none twice."""
    tagged = [b"t{slot}" + b"%09d" % number for number in range(12)]
    rows = [Row(b"", key, b"", b"of " + key) for key in tagged]
    fresh, other = iter(tagged[6:]), row(2)
    storage = ClusterTokenStorage(pipeline_of(bare), DenseLayout())
    assert storage.execute(Store(rows[:6])) == [WRITTEN] * 6
    slot = slot_of(tagged[0])
    target = next(member for member in bare.members if member is not bare.primary_of(slot))
    written = rows[:6]

    def amid() -> None:
        assert storage.execute(Lookup([row.t_key for row in written])) == [row.t_value for row in written]
        changed = [Outcome("token", row.t_value) for row in written]
        assert storage.execute(Store([replace(row, t_value=b"x") for row in written])) == changed
        if (key := next(fresh, None)) is not None:
            pair = Row(key, other.t_key, b"h", other.t_value)
            assert storage.execute(Store([pair])) == [WRITTEN]
            assert storage.execute(Store([replace(pair, h_value=b"i", h_old=b"h")])) == [WRITTEN]
            written.append(Row(b"", key, b"", b"i"))

    bare.move_slot(slot, target, amid)
    amid()
    assert len(written) == 12
    assert bare.primary_of(slot) is target
    found = [{*server.info("errorstats")} for server in bare.members]
    assert {"errorstat_ASK", "errorstat_MOVED"} <= set().union(*found)
    moved = redirects(bare)
    amid()
    assert redirects(bare) == moved  # the new map of slots is known


# Durability


def batch_of(cluster: Cluster, durability: Durability, most_ms: int = 300) -> ClusterTokenStorage:
    pipeline = pipeline_of(cluster)
    return ClusterTokenStorage(pipeline, DenseLayout(), ClusterBarrier(pipeline, durability, most_ms))


def item(key: bytes) -> TokenItem:
    """An item whose token is on its way to the reply."""
    made = TokenItem(Keyring(Owner("client", "shop-frontend"), bytes(32), DataKeyCache()), STR, b"x", tokenize=True)
    made.key, made.result = key, b"token"
    return made


@pytest.fixture(scope="module")
def replicated() -> Iterator[Cluster]:
    """Three primaries with a replica each; a test leaves all running, and every slot where it is."""
    with Cluster(ONLY_WHAT_IS_DOWN) as cluster:
        yield cluster


def test_value_entry_waits_until_replicas_have_the_token_entry(replicated: Cluster) -> None:
    """While the replica of the token entry's node does not confirm, the value entry is not written; others are."""
    storage = batch_of(replicated, Durability(replicas=1))
    held, other = row(50, 0, 1), row(51, 2, 0)
    replica = replicated.replica_of(replicated.members[1])
    replica.signal(signal.SIGSTOP)
    try:
        storage.barrier.open()
        first, second = storage.execute(Store([held, other]))
        assert (first.what, second) == ("away", WRITTEN)
        assert "0 of 1 replicas confirmed" in str(first.error)
        assert storage.execute(Lookup([held.h_key, held.t_key])) == [None, held.t_value]
        (outcome,) = storage.execute(Adopt([held]))
        assert outcome.what == "away"
        assert storage.execute(Lookup([held.h_key])) == [None]
    finally:
        replica.signal(signal.SIGCONT)
    wait_until(lambda: all_stored(storage.execute(Store([held]))), "the replica")


def test_tokens_are_put_off_whose_node_does_not_confirm(replicated: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that has only read waits for each node. Tokens of a node that does not confirm are put off alone."""
    monkeypatch.setattr("token_worker.storage.cluster_durability.REST_SECONDS", 60.0)
    pipeline = pipeline_of(replicated)
    storage = ClusterTokenStorage(pipeline, DenseLayout(), ClusterBarrier(pipeline, Durability(replicas=1), 300))
    rows = [row(60 + place, place, (place + 1) % 3) for place in range(PLACES)]
    assert storage.execute(Store(rows)) == [WRITTEN] * 3
    replica = replicated.replica_of(replicated.members[2])
    replica.signal(signal.SIGSTOP)
    try:
        storage.barrier.open()
        items = [item(row.h_key) for row in rows]
        names = [row.h_key for row in rows]
        group = ItemGroup(items[0].ring, STR, True, [b"x"] * 3, results=[b"token"] * 3, names=names)
        tokens = replace(group, tokenize=False)
        storage.execute(Lookup(names))
        storage.barrier.wait(items, [group, tokens])
        assert [type(item.result) for item in items] == [bytes, bytes, Unavailable]
        assert [*map(type, group.results)] == [bytes, bytes, Unavailable]
        assert tokens.results == [b"token"] * 3  # who detokenizes gives out no token
        # The next batch does not ask that node to confirm, and waits for no answer of it until the connection is cut.
        waits = calls(replicated, "wait")
        storage.barrier.open()
        storage.execute(Lookup([item.key for item in items]))
        storage.barrier.wait()
        assert [after > before for before, after in zip(waits, calls(replicated, "wait"), strict=True)] == [1, 1, 0]
        assert all(pipeline.link_to(node).is_connected for node in pipeline.owners())
    finally:
        replica.signal(signal.SIGCONT)
    monkeypatch.undo()
    storage = batch_of(replicated, Durability(replicas=1))

    def is_confirmed() -> bool:
        items = [item(row.h_key) for row in rows]
        storage.barrier.open()
        storage.execute(Lookup([item.key for item in items]))
        storage.barrier.wait(items)
        return all(isinstance(item.result, bytes) for item in items)

    wait_until(is_confirmed, "the replica")


def test_replaced_connection_confirms_nothing(replicated: Cluster) -> None:
    """If the connection to a node was replaced amid a batch, its tokens are put off: it may be another server."""
    storage = batch_of(replicated, Durability(replicas=1))
    items = [item(name(b"v", 70, place)) for place in range(PLACES)]
    storage.barrier.open()
    storage.execute(Lookup([item.key for item in items]))
    with replicated.members[0].client() as client:
        client.client_kill_filter(_type="normal")
    found = storage.execute(Lookup([item.key for item in items]))
    if isinstance(found[0], Unavailable):
        storage.execute(Lookup([item.key for item in items]))
    storage.barrier.wait(items)
    assert [type(item.result) for item in items] == [Unavailable, bytes, bytes]


def test_operator_goes_on_when_replicas_have_the_step_before(replicated: Cluster) -> None:
    """While the replica of a step's node does not confirm, the command fails there, and the next step is not done."""
    entries = entries_on(pipeline_of(replicated), Durability(replicas=1))
    first, second = name(b"v", 90, 0), name(b"t", 90, 1)
    steps = [EntryChange(first, b"", b"1"), EntryChange(second, b"", b"2"), EntryChange(first, b"1", b"3")]
    replica = replicated.replica_of(replicated.members[1])
    replica.signal(signal.SIGSTOP)
    try:
        for ask in (lambda: entries.change(steps), entries.confirm):
            with pytest.raises(Unavailable, match="0 of 1 replicas confirmed"):
                ask()
        assert entries.read([first, second]) == [b"1", b"2"]
    finally:
        replica.signal(signal.SIGCONT)
    left = [EntryChange(second, b"2", b"2"), *steps[2:]]
    wait_until(lambda: does(lambda: entries.change(left) == 2), "the replica")
    entries.confirm()
    assert entries.change(left) == 1


def test_operator_waits_for_nodes_that_were_used(replicated: Cluster) -> None:
    """A node that cannot confirm is in the way only of commands that have read or changed an entry there."""
    changing, reading, other = (entries_on(pipeline_of(replicated), Durability(replicas=1)) for _ in range(3))
    mine, there = name(b"v", 91, 0), name(b"v", 92, 1)
    replica = replicated.replica_of(replicated.members[1])
    replica.signal(signal.SIGSTOP)
    try:
        assert changing.change([EntryChange(mine, b"", b"1")]) == 1
        changing.confirm()
        reading.read([there])
        assert reading.change([EntryChange(mine, b"1", b"2")]) == 1
        with pytest.raises(Unavailable, match="0 of 1 replicas confirmed"):
            reading.confirm()
        other.read([mine])
        other.confirm()
    finally:
        replica.signal(signal.SIGCONT)
    wait_until(lambda: does(lambda: reading.change([EntryChange(there, b"", b"")]) == 1), "the replica")
    reading.confirm()


def test_operator_notices_a_connection_that_was_replaced(replicated: Cluster) -> None:
    """If the connection to a node was replaced since the change, another server may answer: it confirms nothing."""
    pipeline = pipeline_of(replicated)
    entries = entries_on(pipeline, Durability(replicas=1))
    key = name(b"v", 93, 0)
    entries.read([key])
    pipeline.link_to(pipeline.owners()[0]).close()
    entries.read([key])
    with pytest.raises(Unavailable, match="connection was replaced"):
        entries.confirm()


def test_replica_that_goes_amid_a_scan_does_not_end_it(replicated: Cluster) -> None:
    """A scan of all nodes fails if the slots have got other primaries meanwhile, and not if a replica is away."""
    entries, primary = entries_on(pipeline_of(replicated), Durability()), replicated.members[0]
    key = name(b"v", 95, 2)
    entries.change([EntryChange(key, b"", b"1")])
    pages = entries.names(b"*", 100)
    found = next(pages)
    with primary.client() as client:
        before = client.execute_command("CLUSTER", "SLOTS")
        replica = replicated.replica_of(primary)
        replica.kill()
        try:
            wait_until(lambda: client.execute_command("CLUSTER", "SLOTS") != before, "the replica to be missed")
            found += [name for page in pages for name in page]
        finally:
            replica.start()
    assert key in found
    wait_until(replicated.is_well, "the cluster")


def test_fsync_in_a_cluster() -> None:
    """With fsync each node is asked whether its writes are on its disk. Without an append-only file it is refused."""
    with Cluster("appendonly yes", "appendfsync always", replicas=0) as cluster:
        storage = batch_of(cluster, Durability(fsync=True))
        rows = [row(80 + number) for number in range(20)]
        storage.barrier.open()
        assert storage.execute(Store(rows)) == [WRITTEN] * 20
        items = [item(row.h_key) for row in rows]
        storage.execute(Lookup([item.key for item in items]))
        storage.barrier.wait(items)
        assert all(isinstance(item.result, bytes) for item in items)
        assert min(calls(cluster, "waitaof")) >= 3
        # A command waits at its end, for the nodes that it has used.
        entries, key = entries_on(pipeline_of(cluster), Durability(fsync=True)), name(b"v", 99, 0)
        assert entries.change([EntryChange(key, b"", b"1")]) == 1
        waits = calls(cluster, "waitaof")
        assert entries.change([EntryChange(key, b"1", b"2")]) == 1
        assert calls(cluster, "waitaof") == waits
        entries.confirm()
        waited = [count > before for count, before in zip(calls(cluster, "waitaof"), waits, strict=True)]
        assert waited == [True, False, False]
        with cluster.members[0].client() as client:
            client.config_set("appendonly", "no")
        storage = batch_of(cluster, Durability(fsync=True))
        with pytest.raises(SettingsError, match="appendonly yes"):
            storage.barrier.check_server()


def calls(cluster: Cluster, command: str) -> list[int]:
    """Count how often each primary has done a command."""
    return [server.info("commandstats")[f"cmdstat_{command}"]["calls"] for server in cluster.members[:PLACES]]
