"""The token storage in a real cluster: its writes, nodes that are away, and slots that move."""

import random
from collections.abc import Iterator
from typing import Any

import pytest
from msgspec.structs import replace

from harness.cluster_rows import WRITTEN, name, pipeline_of, redirects, row
from harness.servers import Cluster, oldest_binary, valkey_binary
from token_worker.errors import Unavailable
from token_worker.redis.cluster_pipeline import slot_of
from token_worker.storage.cluster_tokens import ClusterTokenStorage
from token_worker.storage.dense.layout import DenseLayout
from token_worker.storage.steps import Adopt, Claim, Lookup, Outcome, Row, Store, Touch

ROW, OTHER = row(1, 0, 1), row(2, 2, 0)
ALONE = Row(b"", ROW.t_key, b"", ROW.t_value)


@pytest.fixture(scope="module", params=[valkey_binary, oldest_binary])
def any_cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with Cluster(replicas=0, binary=request.param()) as cluster:
        yield cluster


@pytest.fixture
def cluster(any_cluster: Cluster) -> Cluster:
    """Three empty primaries; a test leaves every slot where it is."""
    for server in any_cluster.members:
        with server.client() as client:
            client.flushall()
    return any_cluster


@pytest.fixture
def storage(cluster: Cluster) -> Iterator[ClusterTokenStorage]:
    pipeline = pipeline_of(cluster)
    yield ClusterTokenStorage(pipeline, DenseLayout())
    pipeline.close()


def content(cluster: Cluster) -> dict[bytes, bytes | None]:
    """All that the cluster holds; None where it is no string."""
    found: dict[bytes, bytes | None] = {}
    for server in cluster.members:
        with server.client() as client:
            for key in client.scan_iter(count=1000):
                kind: Any = client.type(key)
                found[key] = client.get(key) if kind == b"string" else None
    return found


def put(cluster: Cluster, key: bytes, value: bytes) -> None:
    with cluster.primary_of(slot_of(key)).client() as client:
        client.set(key, value)


def push(cluster: Cluster, key: bytes) -> None:
    with cluster.primary_of(slot_of(key)).client() as client:
        client.rpush(key, "an element")


# Store


def test_row_is_stored_as_two_entries(storage: ClusterTokenStorage, cluster: Cluster) -> None:
    """A row is written as its two entries on two nodes, and is found. The same row again is found."""
    assert storage.execute(Store([ROW, OTHER])) == [WRITTEN, WRITTEN]

    expected = {ROW.h_key: ROW.h_value, ROW.t_key: ROW.t_value, OTHER.h_key: OTHER.h_value, OTHER.t_key: OTHER.t_value}
    assert content(cluster) == expected
    assert storage.execute(Store([OTHER])) == [Outcome("value", OTHER.h_value)]
    none = name(b"t", 3)
    assert storage.execute(Lookup([OTHER.t_key, none, ROW.h_key])) == [OTHER.t_value, None, ROW.h_value]
    assert content(cluster) == expected


def test_inconsistent_token_is_stored_once_in_one_entry(storage: ClusterTokenStorage, cluster: Cluster) -> None:
    """An inconsistent token has only a token entry, and is written once."""
    assert storage.execute(Store([ALONE])) == [WRITTEN]
    assert storage.execute(Store([ALONE])) == [WRITTEN]
    assert storage.execute(Store([replace(ALONE, t_value=b"other")])) == [Outcome("token", ROW.t_value)]

    assert content(cluster) == {ROW.t_key: ROW.t_value}


def test_taken_token_stops_its_row(storage: ClusterTokenStorage, cluster: Cluster) -> None:
    """If the token entry is another one, the value entry is not written; other rows are."""
    put(cluster, ROW.t_key, b"of another")

    assert storage.execute(Store([ROW, OTHER])) == [Outcome("token", b"of another"), WRITTEN]

    assert content(cluster).keys() == {ROW.t_key, OTHER.h_key, OTHER.t_key}


def test_loser_answers_with_the_winners_entry(storage: ClusterTokenStorage, cluster: Cluster) -> None:
    """If the value has an entry, it stays and is the outcome; a token entry may be left, which nobody was given."""
    put(cluster, ROW.h_key, b"the winner's")

    assert storage.execute(Store([ROW])) == [Outcome("value", b"the winner's")]

    assert content(cluster) == {ROW.h_key: b"the winner's", ROW.t_key: ROW.t_value}


def test_empty_entries_exist(storage: ClusterTokenStorage, cluster: Cluster) -> None:
    """An entry that holds nothing exists all the same."""
    put(cluster, ROW.h_key, b"")
    put(cluster, OTHER.t_key, b"")

    assert storage.execute(Store([ROW, OTHER])) == [Outcome("value", b""), Outcome("token", b"")]


@pytest.mark.parametrize("second", [replace(OTHER, t_key=ROW.t_key), replace(ROW, t_key=OTHER.t_key, h_value=b"2")])
def test_store_of_rows_that_meet(storage: ClusterTokenStorage, second: Row) -> None:
    """Of two rows of one call that want the same entry the first is written, and the second finds it."""
    first, outcome = storage.execute(Store([ROW, second]))

    assert first == WRITTEN
    assert outcome in (Outcome("token", ROW.t_value), Outcome("value", ROW.h_value))


@pytest.mark.parametrize("key", [ROW.h_key, ROW.t_key])
def test_store_at_a_key_of_another_type(storage: ClusterTokenStorage, cluster: Cluster, key: bytes) -> None:
    """A row with a key that is no string is broken; no value entry is written; other rows are written."""
    push(cluster, key)

    assert storage.execute(Store([ROW, OTHER])) == [Outcome("broken"), WRITTEN]

    found = content(cluster)
    assert found[key] is None
    assert found.get(ROW.h_key) is None
    assert {OTHER.h_key, OTHER.t_key} <= found.keys()
    assert storage.execute(Lookup([key, OTHER.h_key])) == [None, OTHER.h_value]


@pytest.mark.parametrize(
    ("there", "outcome"),
    [(b"tombstone", WRITTEN), (b"another", Outcome("value", b"another")), (None, WRITTEN)],
)
def test_tombstone_is_replaced_if_it_is_still_there(
    storage: ClusterTokenStorage, cluster: Cluster, there: bytes | None, outcome: Outcome
) -> None:
    """A value entry replaces the tombstone that was read, and nothing else; if that is gone, it is written, too."""
    for step in (Store([replace(ROW, h_old=b"tombstone")]), Adopt([replace(ROW, h_old=b"tombstone")])):
        with cluster.primary_of(slot_of(ROW.h_key)).client() as client:
            client.delete(ROW.h_key)
        if there is not None:
            put(cluster, ROW.h_key, there)

        assert storage.execute(step) == [outcome]

        assert content(cluster).get(ROW.h_key) == (ROW.h_value if outcome == WRITTEN else there)


# Adopt, Claim, Touch


def test_adopting_writes_the_value_entry(storage: ClusterTokenStorage, cluster: Cluster) -> None:
    """The value entry is written if the token entry has not changed since it was read."""
    put(cluster, ROW.t_key, ROW.t_value)
    put(cluster, OTHER.t_key, b"disabled meanwhile")

    assert storage.execute(Adopt([ROW, OTHER, row(3)])) == [WRITTEN, Outcome("changed"), Outcome("changed")]

    expected = {ROW.h_key: ROW.h_value, ROW.t_key: ROW.t_value, OTHER.t_key: b"disabled meanwhile"}
    assert content(cluster) == expected


def test_adopting_too_late_returns_the_entry_that_is_there(storage: ClusterTokenStorage, cluster: Cluster) -> None:
    """If the value has got a token meanwhile, that token is returned and stays."""
    put(cluster, ROW.t_key, ROW.t_value)
    put(cluster, ROW.h_key, b"the winner's")

    assert storage.execute(Adopt([ROW])) == [Outcome("value", b"the winner's")]
    assert content(cluster)[ROW.h_key] == b"the winner's"


def test_adopt_at_a_key_of_another_type(storage: ClusterTokenStorage, cluster: Cluster) -> None:
    """A row is broken if the value entry is not a string, and has changed if the token entry is not a string."""
    put(cluster, ROW.t_key, ROW.t_value)
    push(cluster, ROW.h_key)
    push(cluster, OTHER.t_key)

    assert storage.execute(Adopt([ROW, OTHER])) == [Outcome("broken"), Outcome("changed")]
    assert OTHER.h_key not in content(cluster)


def test_claim_returns_what_is_stored(storage: ClusterTokenStorage, cluster: Cluster) -> None:
    """A claim is written where there is nothing, and what is there is returned."""
    put(cluster, OTHER.h_key, b"earlier")
    push(cluster, OTHER.t_key)

    first, second, third = storage.execute(Claim([(ROW.h_key, b"mine"), (OTHER.h_key, b"mine"), (OTHER.t_key, b"x")]))

    assert (first, second) == (b"mine", b"earlier")
    assert isinstance(third, Unavailable)
    assert content(cluster)[ROW.h_key] == b"mine"


def test_nothing_is_touched(storage: ClusterTokenStorage) -> None:
    """Entries of the dense layout have no time of last use: to move one would be a defect."""
    with pytest.raises(TypeError):
        storage.execute(Touch([(ROW.t_key, b"old", b"new")]))


def test_large_batches_keep_their_order(storage: ClusterTokenStorage, cluster: Cluster) -> None:
    """All that was asked is done, in order, whatever the size of the batch."""
    rows = [row(number) for number in range(1234)]

    assert storage.execute(Store(rows)) == [WRITTEN] * 1234
    assert storage.execute(Lookup([row.h_key for row in rows])) == [row.h_value for row in rows]
    assert storage.execute(Adopt(rows)) == [Outcome("value", row.h_value) for row in rows]
    assert len(content(cluster)) == 2 * 1234
    assert all(server.info("keyspace")["db0"]["keys"] > 600 for server in cluster.members)


def test_names_with_braces_are_found(storage: ClusterTokenStorage, cluster: Cluster) -> None:
    """Names hold any bytes, braces among them: the node that has the slot is asked, and none redirects."""
    chance = random.Random(1)
    pieces = [b"{", b"}", b"{}", b"a", b"\r\n", b"\0"]
    names = list({b"t" + b"".join(chance.choices(pieces, k=15))[:15].ljust(15, b"x") for _ in range(300)})
    with cluster.members[0].client() as client:
        slots = [client.execute_command("CLUSTER", "KEYSLOT", name) for name in names]
    assert list(map(slot_of, names)) == slots
    moved = redirects(cluster)

    assert storage.execute(Store([Row(b"", name, b"", name) for name in names])) == [WRITTEN] * len(names)
    assert storage.execute(Lookup(names)) == names
    assert redirects(cluster) == moved
