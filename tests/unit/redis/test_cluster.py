"""The link to a cluster, without servers: it chooses the node to ask, also if some are away."""

import socket
from typing import Any

import pytest
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from token_worker.errors import Unavailable
from token_worker.redis import cluster as cluster_link
from token_worker.redis.address import Node, RedisSettings, parse
from token_worker.redis.cluster import ClusterLink, NodeLink

NODES = [Node(host, 6379) for host in ("a", "b", "c")]
KEYS = {
    node: next(key for key in map(str, range(99)) if key_slot(key.encode()) % 3 == at) for at, node in enumerate(NODES)
}
"""A key of each: the slots go round."""


class Nodes:
    """The nodes of a cluster: who is away, and who was asked for what."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.away: set[Node] = set()
        self.asked: list[tuple[Node, str]] = []
        monkeypatch.setattr(NodeLink, "call", lambda link, *command: self.answer(link.node, *command))

    def answer(self, node: Node, *command: Any) -> Any:
        self.asked.append((node, command[0]))
        if node in self.away:
            raise Unavailable("streams", "TimeoutError")
        if command[0] != "CLUSTER":
            return node
        return [
            [slot, slot, [NODES[slot % 3].host.encode(), NODES[slot % 3].port]]
            for slot in range(REDIS_CLUSTER_HASH_SLOTS)
        ]


def test_nodes_that_failed_are_asked_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a node hangs, what any node could answer is not asked of it, however often its own keys are asked for."""
    nodes, subject = Nodes(monkeypatch), ClusterLink("streams", parse("redis+cluster://a,b,c"))
    first, second, third = NODES
    assert subject.call("TIME") == first
    nodes.away = {first}
    for _ in range(5):
        with pytest.raises(Unavailable):
            subject.call("GET", KEYS[first])
        nodes.asked.clear()
        assert subject.call("GET", KEYS[second]) == second
        assert subject.call("TIME") in (second, third)
        assert first not in {node for node, _ in nodes.asked}
    # When it is the only one left, it is asked again.
    nodes.away = {second, third}
    with pytest.raises(Unavailable):
        subject.call("GET", KEYS[second])
    assert subject.call("TIME") == first
    assert subject.call("GET", KEYS[first]) == first


@pytest.mark.parametrize(("rest_seconds", "connections"), [(60.0, 1), (0.0, 2)])
def test_commands_in_a_row_wait_for_a_node_once(
    monkeypatch: pytest.MonkeyPatch, rest_seconds: float, connections: int
) -> None:
    """A node that did not answer in time is away for the next commands without a wait, and asked again after a rest."""
    monkeypatch.setattr(cluster_link, "NODE_SECONDS", 0.05)
    monkeypatch.setattr(cluster_link, "NODE_REST_SECONDS", rest_seconds)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        node = Node(*silent.getsockname())
        subject = NodeLink("streams", RedisSettings(url=f"redis+cluster://{node}", kind="cluster"), node)
        for _ in range(2):
            with pytest.raises(Unavailable) as caught:
                subject.call("PING")
            assert caught.value.reason == "TimeoutError"
        silent.setblocking(False)
        for _ in range(connections):
            silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()
