"""Workers whose tokens are in a cluster, under load: a primary is killed, and a slot moves."""

from pathlib import Path

import pytest

from harness.dense import add_owner, record_dense
from harness.load import Load
from harness.producer import BatchProducer
from harness.servers import Cluster, Valkey
from harness.stack import Stack, has_logged, wait_until, workers_killed
from token_worker.acra.owner import Owner
from token_worker.keys.layout_record import TOKENS_RECORD
from token_worker.redis.cluster_pipeline import slot_of

CLIENT = Owner("client", "shop-frontend")
ONLY_WHAT_IS_DOWN = "cluster-require-full-coverage no"


@pytest.mark.timeout(120)
def test_primary_is_killed_and_a_slot_moves_under_load(streams_server: Valkey, storage_server: Valkey) -> None:
    """With replicas:1 every token that went out can be detokenized, and each request gets one reply."""
    settings = {"TOKEN_WORKER_DURABILITY": "replicas:1"}
    with (
        Cluster(ONLY_WHAT_IS_DOWN, "appendonly yes") as cluster,
        workers_killed(Stack(streams_server, storage_server, tokens=cluster, settings=settings)) as stack,
    ):
        # Given two workers
        add_owner(stack, CLIENT)
        record_dense(stack, cluster)
        for _ in range(2):
            stack.start_worker()
        producer = BatchProducer(stack)
        with Load(producer) as load:
            load.wait_for_replies()
            load.go_on()
            # When a primary is killed, and its replica, which lacks the last writes, takes over
            victim = cluster.members[1]
            slot = 8000
            heir = cluster.replica_of(victim)
            heir.kill()
            reached = stack.streams.xlen("tokenize:responses") + 60
            wait_until(lambda: stack.streams.xlen("tokenize:responses") > reached, "tokens of other nodes")
            victim.kill()
            heir.start()
            wait_until(lambda: cluster.all_know(slot, heir), "the replica to take over")
            load.go_on()
            # When it is back, now as a replica that can confirm, and a slot moves
            victim.start()
            wait_until(lambda: victim.info("replication").get("master_link_status") == "up", "the replica")
            cluster.move_slot(slot_of(TOKENS_RECORD.encode()), cluster.members[0], amid=lambda: load.go_on(1))
            load.go_on()
        # Then each request was answered once,
        assert producer.take_stock() == []
        assert producer.settle() == []
        assert all(worker.is_alive for worker in stack.workers)
        # and each token can be detokenized, and stays the same.
        back = BatchProducer(stack, prefix="back-")
        back.add_tokens_of(producer)
        back.send()
        assert back.settle() == []
        assert stack.dead_letters() == 0


def test_worker_serves_only_the_layout_that_the_cluster_records(
    streams_server: Valkey, storage_server: Valkey, tmp_path: Path
) -> None:
    """In Acra's layout a worker does not start. In the dense one it has the rights that it needs, and watches."""
    log = tmp_path / "log"
    with (
        Cluster(replicas=0) as cluster,
        workers_killed(Stack(streams_server, storage_server, tokens=cluster)) as stack,
    ):
        add_owner(stack, CLIENT)
        refused = stack.run("run")
        assert refused.returncode == 2
        assert "is that of a cluster, but tokens in Acra's layout need one primary" in refused.stderr
        # Given a worker as the user that "token-worker acl" prints
        record_dense(stack, cluster)
        stack.restrict(tmp_path / "passwords")
        stack.start_worker(log=log)
        producer = BatchProducer(stack)
        producer.add_new(100)
        producer.send()
        assert producer.settle() == []
        # When the record is gone, and the worker has to connect anew
        with cluster.client() as client:
            record = client.getdel(TOKENS_RECORD)
        for member in cluster.members:
            with member.client() as client:
                client.client_kill_filter(_type="normal")
        back = BatchProducer(stack, prefix="back-")
        back.add_tokens_of(producer)
        back.send()
        # Then nothing is read until it is back.
        wait_until(lambda: has_logged(log, "the token storage has no record"), "the worker to say so")
        assert back.replies_written() == 0
        with cluster.client() as client:
            client.set(TOKENS_RECORD, record)
        assert back.settle() == []
