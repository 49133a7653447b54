"""Redis ACLs of a worker: it needs few rights, and a refusal on one stream does not affect other requests."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from harness.servers import Valkey, redis_binary, valkey_binary
from harness.stack import Stack, wait_until

CLIENT = "shop-frontend"
ROUTES = [
    {"requests": "in", "responses": "out", "ops": ["tokenize", "detokenize"], "reply_to": "*:replies"},
    {"requests": "other:in", "responses": "other:out", "ops": ["tokenize"]},
]
STREAM_COMMANDS = (
    "+xreadgroup +xpending +xclaim +xgroup +xack +xadd +xrange +xtrim +xinfo +memory|usage +type +exists +expire"
    " +get +set +time +evalsha +eval"
)
STORAGE_RULES = [
    *("~.acrakeys/*", "~.acrakeys.layout"),
    *("~tokens/*", "~token-worker:layout"),
    *["+mget", "+msetnx", "+get", "+set", "+scan", "+evalsha", "+eval", "+ping"],
]


@pytest.fixture(params=[valkey_binary, redis_binary])
def servers(request: pytest.FixtureRequest) -> Iterator[tuple[Valkey, Valkey]]:
    """Servers of this test's own, whose users it may change."""
    with Valkey(binary=request.param()) as streams, Valkey(binary=request.param()) as storage:
        yield streams, storage


def as_user(server: Valkey) -> str:
    return server.url.replace("redis://", "redis://worker:secret@")


def test_worker_serves_with_least_rights_and_refused_targets_are_forbidden(
    servers: tuple[Valkey, Valkey], tmp_path: Path
) -> None:
    """A worker with exact rights serves; a ``reply_to`` outside of them is ``forbidden`` and hurts no neighbour."""
    streams, storage = servers
    log = tmp_path / "worker.log"
    settings = {
        "TOKEN_WORKER_ROUTES": msgspec.json.encode(ROUTES).decode(),
        "TOKEN_WORKER_STREAMS_URL": as_user(streams),
        "TOKEN_WORKER_KEYS_URL": as_user(storage),
        "TOKEN_WORKER_CLAIM_IDLE_MS": "1000",
    }
    with Stack(streams, storage, settings=settings) as stack:
        keys = [
            "~in",
            "~in:dead",
            "~in:low-water",
            "~in:trimmed",
            "~out",
            "~mine:replies",
            "~other:in",
            "~other:in:dead",
        ]
        stack.streams.execute_command("ACL", "SETUSER", "worker", "on", ">secret", *keys, *STREAM_COMMANDS.split())
        stack.storage.execute_command("ACL", "SETUSER", "worker", "on", ">secret", *STORAGE_RULES)
        stack.generate_key(CLIENT)
        request = {"op": "tokenize", "client_id": CLIENT, "type": "str"}
        targets = {3: "mine:replies", 5: "secret:replies", 7: "secret:replies"}
        stack.send(
            [
                {**request, "id": str(n), "value": f"value {n}", **({"reply_to": targets[n]} if n in targets else {})}
                for n in range(10)
            ],
            "in",
        )
        stack.streams.xadd("in", {"no": "payload"})
        stack.send([{**request, "id": "stuck", "value": "waits"}], "other:in")
        worker = stack.start_worker(log=log)

        replies = {reply["id"]: reply for reply in stack.wait_for_replies(9, "out")}
        assert {n for n in range(10) if n != 3} == {int(name) for name in replies}
        assert {name for name, reply in replies.items() if reply["status"] == "error"} == {"5", "7"}
        assert {replies[name]["error"]["code"] for name in ("5", "7")} == {"forbidden"}
        [mine] = stack.wait_for_replies(1, "mine:replies")
        assert mine["status"] == "ok"
        assert not stack.streams.exists("secret:replies")
        wait_until(lambda: stack.streams.xlen("in:dead"), "the dead letter")

        # The other route's response stream is refused: its entry stays pending until an operator mends that.
        wait_until(lambda: stack.streams.xpending("other:in", "token-workers")["pending"] == 1, "the pending entry")
        assert worker.is_alive
        stack.streams.execute_command("ACL", "SETUSER", "worker", "~other:out")
        [reply] = stack.wait_for_replies(1, "other:out")
        assert reply["status"] == "ok"
        assert stack.streams.xlen("other:in:dead") == 0
        # A worker without the right to write notes about itself says so once, and works on.
        assert log.read_text().count("notes of this worker could not be written") == 1
