"""Acts in which a server loses data. The loss may cost known entries, and nothing else.

The permitted troubles are found out at the moment of the loss, while nothing is sent:

- *flush, deletion of the streams*: the loss of requests added before it that have no reply yet;
- *groups destroyed*: a second reply to requests above the low-water mark, as it stood in that very transaction;
- *promotion of a replica of the streams*: the loss of requests that the replica does not hold, and a second reply to
  those whose first reply it does not hold;
- *promotion of a replica of the token storage*: a token that cannot be detokenized, or is not the same again, where the
  replica does not hold its entry. With ``replicas:1`` nothing is permitted.

Replicas fall behind for certain: their link goes through a proxy that goes away some time before the master is killed.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from chaos.judge import Outcome, Permit, groups_gone, judge, nothing, streams_behind, streams_gone, tokens_behind
from chaos.plan import Fault
from chaos.scene import CLIENTS, KEPT, Scene
from chaos.traffic import DEAD_LETTERS, REQUESTS, RESPONSES
from harness.ledger import Place, order
from harness.proxy import Proxy, Relay
from harness.servers import SYNC_AT_ONCE, Valkey
from harness.stack import GROUP, wait_until
from harness.stored_names import entries_on, names_of
from token_worker.acra.owner import Owner
from token_worker.keys.layout_record import LayoutName
from token_worker.streams.routes import DEFAULT_ROUTES

LOSS = "data lost"
RATE = 300
WORKERS = 3
REQUESTS_BEFORE = 300
REQUESTS_AFTER = 300
"""Least number of requests that are answered before the loss, and sent after it."""

BURST = 100
"""Requests that are sent at the moment of the loss: no worker answers them."""

BEHIND = 150
"""Requests that are sent while the replica is behind."""

TOO_LONG_SECONDS = 60.0


def play(
    rng: random.Random, progress: Callable[[str], None], layout: LayoutName
) -> tuple[list[Outcome], Counter[Fault]]:
    """Play every act once; return the result of each, and the losses."""
    outcomes: list[Outcome] = []
    counts: Counter[Fault] = Counter({Fault(LOSS, name): 0 for name in ACTS})
    for name, act in ACTS.items():
        progress(name)
        outcomes.append(act(name, rng, layout))
        counts[Fault(LOSS, name)] += 1
    return outcomes, counts


@contextmanager
def _scene(rng: random.Random, layout: LayoutName, *servers: Valkey, **settings: str) -> Iterator[Scene]:
    """Two servers, workers and a client; ``settings`` are the workers'."""
    fork = random.Random(rng.random())
    with Scene(servers[0], servers[1], fork, settings=settings, rate=RATE, keep_requests=True, layout=layout) as scene:
        for _ in range(WORKERS):
            scene.stack.start_worker()
        yield scene


def _wait_for_replies(scene: Scene, more: int) -> None:
    goal = scene.ledger.replies + more
    wait_until(lambda: scene.ledger.replies >= goal, "replies", TOO_LONG_SECONDS)


def _wait_for_requests(scene: Scene, more: int) -> None:
    goal = scene.ledger.requests + more
    wait_until(lambda: scene.ledger.requests >= goal, "requests", TOO_LONG_SECONDS)


# -- loss on the server of the streams itself


def _lose(name: str, rng: random.Random, layout: LayoutName, lose: Callable[[Scene], Permit]) -> Outcome:
    with Valkey(*KEPT) as streams, Valkey(*KEPT) as storage, _scene(rng, layout, streams, storage) as scene:
        with scene.traffic():
            _wait_for_replies(scene, REQUESTS_BEFORE)
            permit = lose(scene)
            _wait_for_replies(scene, REQUESTS_AFTER)
        return judge(name, scene.ledger, permit)


def _flush(scene: Scene) -> Permit:
    with scene.producer.turn, scene.stopped():
        scene.producer.send_some(BURST)
        last = _last_ids(scene.stack.streams)
        scene.stack.streams.flushall()
    return streams_gone(last)


def _delete_streams(scene: Scene) -> Permit:
    with scene.producer.turn, scene.stopped():
        scene.producer.send_some(BURST)
        last = _last_ids(scene.stack.streams)
        scene.stack.streams.delete(*REQUESTS)
    return streams_gone(last)


def _destroy_groups(scene: Scene) -> Permit:
    """Destroy the groups while the low-water mark stands in the middle of the streams.

    For that, another worker trims the streams when it starts, and then more requests come.
    """
    streams: Any = scene.stack.streams
    streams.delete(*(route.own_keys.trim_turn for route in DEFAULT_ROUTES))
    before = _marks(streams)
    scene.stack.start_worker()
    wait_until(lambda: all(_is_after(mark, before[stream]) for stream, mark in _marks(streams).items()), "the marks")
    _wait_for_replies(scene, BEHIND)
    with scene.producer.turn, streams.pipeline(transaction=True) as pipe:
        last = _last_ids(streams)
        for route in DEFAULT_ROUTES:
            pipe.get(route.own_keys.low_water_mark)
        for stream in REQUESTS:
            pipe.xgroup_destroy(stream, GROUP)
        answers = pipe.execute()
    marks = {stream: (mark or b"0-0").decode() for stream, mark in zip(REQUESTS, answers, strict=False)}

    return groups_gone(last, marks)


def _last_ids(streams: Any) -> dict[str, str]:
    """The id of the last entry of each request stream."""
    return {stream: streams.xinfo_stream(stream)["last-generated-id"].decode() for stream in REQUESTS}


def _marks(streams: Any) -> dict[str, str]:
    return {route.requests: (streams.get(route.own_keys.low_water_mark) or b"0-0").decode() for route in DEFAULT_ROUTES}


def _is_after(one: str, other: str) -> bool:
    return order(one) > order(other)


# -- promotion of a replica


class _Pair:
    """A master and its replica, which workers reach through a proxy."""

    def __init__(self, exits: ExitStack) -> None:
        self.master = exits.enter_context(Valkey(*KEPT, SYNC_AT_ONCE))
        self.replica = exits.enter_context(Valkey(*KEPT, SYNC_AT_ONCE))
        self.link = exits.enter_context(Relay(self.master.port))
        self.way = exits.enter_context(Proxy(self.master.port))
        with self.replica.client() as client:
            client.replicaof("127.0.0.1", str(self.link.port))
        wait_until(self.is_in_step, "the replica")

    def is_in_step(self) -> bool:
        """Tell whether the replica is connected to its primary."""
        return bool(self.replica.info("replication")["master_link_status"] == "up")

    def promote(self) -> None:
        """Kill the master, and lead clients of the proxy to the replica."""
        self.master.kill()
        with self.replica.client() as client:
            client.replicaof("NO", "ONE")
        self.way.server_port = self.replica.port
        self.way.cut_all()


def _promote_streams(name: str, rng: random.Random, layout: LayoutName) -> Outcome:
    with ExitStack() as exits:
        pair = _Pair(exits)
        storage = exits.enter_context(Valkey(*KEPT))
        scene = exits.enter_context(_scene(rng, layout, pair.master, storage, TOKEN_WORKER_STREAMS_URL=pair.way.url))
        with scene.traffic():
            _wait_for_replies(scene, REQUESTS_BEFORE)
            pair.link.go_away()
            _wait_for_replies(scene, BEHIND)
            with scene.producer.turn:
                pair.way.go_away()
                scene.producer.send_some(BURST)
                held = _promote(pair)
                scene.streams_server = pair.replica
                scene.producer.reconnect()
            _wait_for_replies(scene, REQUESTS_AFTER)

        return judge(name, scene.ledger, streams_behind(held))


def _promote(pair: _Pair) -> set[Place]:
    """Promote the replica while no worker can add to it; return all entries that it held."""
    with pair.replica.client() as client:
        pair.promote()
        held = {
            Place(stream, entry_id.decode())
            for stream in (*REQUESTS, *RESPONSES, *DEAD_LETTERS)
            for entry_id, _ in client.xrange(stream)
        }
    pair.way.come_back()
    return held


def _promote_tokens(name: str, rng: random.Random, layout: LayoutName, *, durability: str = "server") -> Outcome:
    with ExitStack() as exits:
        streams = exits.enter_context(Valkey(*KEPT))
        pair = _Pair(exits)
        scene = exits.enter_context(
            _scene(
                rng,
                layout,
                streams,
                pair.master,
                TOKEN_WORKER_KEYS_URL=pair.way.url,
                TOKEN_WORKER_DURABILITY=durability,
            )
        )
        names = {owner: names_of(scene.stack, owner) for owner in (Owner("client", client_id) for client_id in CLIENTS)}
        with scene.traffic():
            _wait_for_replies(scene, REQUESTS_BEFORE)
            pair.link.go_away()
            if durability == "server":
                _wait_for_replies(scene, BEHIND)
            else:  # nothing is answered that the replica does not have
                _wait_for_requests(scene, BEHIND)
            pair.way.go_away()
            pair.promote()
            with pair.replica.client() as client:
                held = set(entries_on(client, layout))
            if durability != "server":
                exits.enter_context(_replica_of(pair.replica))
            pair.way.come_back()
            _wait_for_replies(scene, REQUESTS_AFTER)

        return judge(
            name,
            scene.ledger,
            tokens_behind(held, names.__getitem__) if durability == "server" else nothing,
        )


def _replica_of(master: Valkey) -> Valkey:
    """A new server that is a replica once it is started."""
    return Valkey(*KEPT, f"replicaof 127.0.0.1 {master.port}")


ACTS: dict[str, Callable[[str, random.Random, LayoutName], Outcome]] = {
    "FLUSHALL of the streams": lambda name, rng, layout: _lose(name, rng, layout, _flush),
    "streams deleted": lambda name, rng, layout: _lose(name, rng, layout, _delete_streams),
    "groups destroyed": lambda name, rng, layout: _lose(name, rng, layout, _destroy_groups),
    "replica of the streams promoted": _promote_streams,
    "replica of the tokens promoted": _promote_tokens,
    "replica of the tokens promoted, replicas:1": lambda name, rng, layout: _promote_tokens(
        name, rng, layout, durability="replicas:1"
    ),
}
"""Each loss by its name."""
