"""Acts in which servers are away or full, and keep their data: nothing may be lost, and workers recover.

- *keys away*: requests of a client whose key nobody has cached are put off, and answered soon after the keys are back;
- *memory full*: the server of the streams is at its limit while requests go on coming; trimming frees it;
- *replies to claims lost*: of entries that are isolated, many more often than a request may be tried.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import msgspec

from chaos.judge import Outcome, judge
from chaos.plan import Fault
from chaos.scene import CLIENTS, KEPT, Scene
from harness.commands import CLAIM, label
from harness.proxy import Command, Moment, Proxy, Verdict
from harness.servers import Valkey
from harness.stack import wait_until
from token_worker.keys.layout_record import LayoutName
from token_worker.streams.routes import DEFAULT_ROUTES

TROUBLE = "nothing lost"
RATE = 300
WORKERS = 3
REPLIES_BEFORE = 300
REPLIES_AFTER = 300
"""Fewest requests that are answered before a trouble, and after it."""

PUT_OFF = 10_000
"""Requests that wait for a key; their client is new."""

DRAIN_SECONDS = 10.0
"""Time for them once the key is there, besides three times the time without the outage."""

SENT_AT_ONCE = 1000
NEWCOMER = "shop-newcomer"

ROOM_BYTES = 2 << 20
"""Memory that the server of the streams has left before it is full."""

MOST_SENT = 50_000
"""Number of requests that certainly fill that memory."""

RETENTION_SECONDS = 5

CLAIMS_LOST = 40
READS_LOST = 0.3
"""Share of reads whose reply is lost while replies to claims are lost: their entries have to be claimed."""

FEW_TRIES = {"TOKEN_WORKER_MAX_DELIVERIES": "2"}

TOO_LONG_SECONDS = 90.0


def play(
    rng: random.Random, progress: Callable[[str], None], layout: LayoutName
) -> tuple[list[Outcome], Counter[Fault]]:
    """Play every act once; return the result of each, and the acts that happened."""
    outcomes: list[Outcome] = []
    counts: Counter[Fault] = Counter({Fault(TROUBLE, name): 0 for name in ACTS})
    for name, act in ACTS.items():
        progress(name)
        outcomes.append(act(name, random.Random(rng.random()), layout))
        counts[Fault(TROUBLE, name)] += 1
    return outcomes, counts


@contextmanager
def _scene(rng: random.Random, layout: LayoutName, **settings: str) -> Iterator[tuple[Scene, Proxy, Proxy]]:
    """A scene, and proxies before its streams and its keys."""
    with ExitStack() as exits:
        streams = exits.enter_context(Valkey(*KEPT))
        storage = exits.enter_context(Valkey(*KEPT))
        to_streams = exits.enter_context(Proxy(streams.port))
        to_keys = exits.enter_context(Proxy(storage.port))
        settings |= {
            "TOKEN_WORKER_STREAMS_URL": to_streams.url,
            "TOKEN_WORKER_KEYS_URL": to_keys.url,
            "TOKEN_WORKER_TOKENS_URL": storage.url,
        }
        scene = exits.enter_context(Scene(streams, storage, rng, settings=settings, rate=RATE, layout=layout))
        for _ in range(WORKERS):
            scene.stack.start_worker()
        yield scene, to_streams, to_keys


def _wait_for_replies(scene: Scene, more: int, seconds: float = TOO_LONG_SECONDS) -> None:
    goal = scene.ledger.replies + more
    wait_until(lambda: scene.ledger.replies >= goal, "replies", seconds)


def _pending(streams: Any, stream: str) -> int:
    return sum(int(group["pending"]) for group in streams.xinfo_groups(stream))


def _take_keys_away(name: str, rng: random.Random, layout: LayoutName) -> Outcome:
    with _scene(rng, layout) as (scene, _, to_keys):
        with scene.traffic():
            _wait_for_replies(scene, REPLIES_BEFORE)
            begin = time.monotonic()
            _send_many(scene, CLIENTS[0])
            _wait_for_replies(scene, PUT_OFF)
            usual_seconds = time.monotonic() - begin
            to_keys.go_away()
            scene.producer.add_client(NEWCOMER, scene.make_client(NEWCOMER))
            _send_many(scene, NEWCOMER)
            wait_until(lambda: _pending(scene.stack.streams, "tokenize:requests") >= PUT_OFF, "requests to be put off")
            to_keys.come_back()
            _wait_for_replies(scene, PUT_OFF, DRAIN_SECONDS + 3 * usual_seconds)
        return judge(name, scene.ledger, None)


def _send_many(scene: Scene, client_id: str) -> None:
    for _ in range(PUT_OFF // SENT_AT_ONCE):
        scene.producer.send([scene.producer.request_of(client_id) for _ in range(SENT_AT_ONCE)])


def _fill_memory(name: str, rng: random.Random, layout: LayoutName) -> Outcome:
    routes = [
        {
            "requests": route.requests,
            "responses": route.responses,
            "ops": [op.value for op in route.ops],
            "reply_to": f"{route.responses}:*",
            "request_retention_seconds": RETENTION_SECONDS,
            "response_retention_seconds": RETENTION_SECONDS,
            "dead_letter_retention_seconds": RETENTION_SECONDS,
        }
        for route in DEFAULT_ROUTES
    ]
    with _scene(rng, layout, TOKEN_WORKER_ROUTES=msgspec.json.encode(routes).decode()) as (scene, _, _):
        streams: Any = scene.stack.streams
        with scene.traffic():
            _wait_for_replies(scene, REPLIES_BEFORE)
            streams.config_set("maxmemory", streams.info("memory")["used_memory"] + ROOM_BYTES)
            with scene.stopped():  # what they answer then takes the server far past its limit
                for _ in range(MOST_SENT // SENT_AT_ONCE):
                    if scene.producer.refused:
                        break
                    scene.producer.send_some(SENT_AT_ONCE)
            _wait_for_requests_taken(scene, REPLIES_AFTER)
            streams.config_set("maxmemory", 0)
        return judge(name, scene.ledger, None, scene.producer.refused)


def _wait_for_requests_taken(scene: Scene, more: int) -> None:
    """Wait until the full server takes requests again, one after the other, with none refused in between."""
    deadline = time.monotonic() + TOO_LONG_SECONDS
    refused, taken = scene.producer.refused, scene.ledger.requests
    while scene.ledger.requests - taken < more:
        if scene.producer.refused != refused:
            refused, taken = scene.producer.refused, scene.ledger.requests
        if time.monotonic() > deadline:
            raise TimeoutError("the server of the streams, full, did not get well by itself")
        time.sleep(0.05)


def _lose_claims(name: str, rng: random.Random, layout: LayoutName) -> Outcome:
    lost = 0

    def hook(moment: Moment, command: Command) -> Verdict:
        nonlocal lost
        if moment is Moment.BEFORE or not command.reply or lost >= CLAIMS_LOST:
            return Verdict.PASS
        name = label("streams", command)
        if name == CLAIM:
            lost += 1
            return Verdict.CUT
        if name == "streams XREADGROUP" and rng.random() < READS_LOST:
            return Verdict.CUT
        return Verdict.PASS

    with _scene(rng, layout, **FEW_TRIES) as (scene, to_streams, _):
        with scene.traffic():
            _wait_for_replies(scene, REPLIES_BEFORE)
            to_streams.hook = hook
            wait_until(lambda: lost >= CLAIMS_LOST, "claims whose reply is lost", TOO_LONG_SECONDS)
            _wait_for_replies(scene, REPLIES_AFTER)
        return judge(name, scene.ledger, None)


ACTS: dict[str, Callable[[str, random.Random, LayoutName], Outcome]] = {
    "key storage away, requests put off": _take_keys_away,
    "memory of the streams' server full": _fill_memory,
    "replies to claims lost": _lose_claims,
}
"""Each trouble by its name."""
