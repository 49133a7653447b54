"""A client finds replies that cannot come on its own stream on the shared one, and soon."""

import json
import time
from contextlib import closing
from typing import Any

import msgspec
import pytest

from harness.clients import CLIENT, LONG_SECONDS, SHORT_SECONDS, FakeWorker, Kind, send, start, sync
from harness.servers import Cluster, Valkey
from harness.stack import Stack
from token_worker.client import Forbidden, Internal, TimedOut, TokenClient
from token_worker.contract.messages import Op
from token_worker.redis.address import RedisSettings
from token_worker.redis.link import RedisLink
from token_worker.streams.routes import Route
from token_worker.streams.strays import LOOK_SECONDS, PAGE_BYTES, PAGE_REPLIES, PAGES_MAX, Strays
from token_worker.streams.stream_ids import LAST_ID

FORBIDDEN = {"status": "error", "error": {"code": "forbidden", "message": "$.reply_to: this stream is not allowed"}}
SHARED = "tokenize:responses"


def refuse(fake_worker: FakeWorker, requests: list[dict[str, Any]], **members: Any) -> None:
    """Answer on the shared stream, as a worker does that may not use the one which was asked for."""
    fake_worker.answer(({**request, "reply_to": SHARED} for request in requests), **(members or FORBIDDEN))


def fill(fake_worker: FakeWorker, count: int, size: int = 10, first_id: str = "*") -> None:
    """Replies to others on the shared stream; the first with this id."""
    with fake_worker.streams.pipeline(transaction=False) as pipe:
        for number in range(count):
            reply = {"id": f"other-{number}", "op": "tokenize", "status": "ok", "value": "x" * size}
            pipe.xadd(SHARED, {"payload": msgspec.msgpack.encode(reply)}, id="*" if number else first_id)
        pipe.execute()


def ahead() -> str:
    """An id that is a day ahead of the clock; all later ones of its stream follow that."""
    return f"{int(time.time() + 86_400) * 1000}-0"


def test_stream_that_the_route_does_not_allow(stack: Stack, kind: Kind) -> None:
    """Workers whose route allows other streams for replies: each call is ``Forbidden``, long before its time is up."""
    routes = [{"requests": "in", "responses": "out", "ops": [*Op], "reply_to": "answers:*"}]
    stack.start_worker(TOKEN_WORKER_ROUTES=json.dumps(routes))
    here = (Route("in", "out", frozenset(Op)),)  # allows out:*
    with kind(
        stack.settings["TOKEN_WORKER_STREAMS_URL"], client_id=CLIENT, routes=here, timeout_seconds=86_400
    ) as client:
        for value in ("some value", ["a", "b"]):
            with pytest.raises(Forbidden, match="reply_to"):
                client.tokenize(value)


def test_stream_that_cannot_take_the_reply(served: Stack, kind: Kind) -> None:
    """A client's stream that became something else is told to the call that waits, and to no other client."""
    url = served.settings["TOKEN_WORKER_STREAMS_URL"]
    with kind(url, client_id=CLIENT, timeout_seconds=LONG_SECONDS) as client, sync_of(url) as other:
        token = client.tokenize("some value")
        [mine] = served.streams.keys(f"{SHARED}:client-*")
        served.streams.delete(mine)
        served.streams.hset(mine, "a", "b")
        with pytest.raises(Forbidden, match="cannot take the reply"):
            client.tokenize("other value")
        assert other.tokenize("some value") == token


def sync_of(url: str) -> TokenClient:
    return TokenClient(url, client_id=CLIENT, timeout_seconds=LONG_SECONDS)


def test_shared_stream_of_a_cluster_is_looked_at(stack: Stack) -> None:
    """The shared stream is in the slot of the route: there, too."""
    with Cluster(replicas=0) as cluster:
        routes = [{"requests": "{a}in", "responses": "{a}out", "ops": ["tokenize"], "reply_to": "{a}answers:*"}]
        stack.start_worker(TOKEN_WORKER_STREAMS_URL=cluster.url, TOKEN_WORKER_ROUTES=json.dumps(routes))
        here = [Route("{a}in", "{a}out", frozenset({Op.TOKENIZE}))]
        with (
            TokenClient(cluster.url, client_id=CLIENT, routes=here, timeout_seconds=LONG_SECONDS) as client,
            pytest.raises(Forbidden, match="reply_to"),
        ):
            client.tokenize("some value")
        for worker in stack.workers:
            worker.kill()


@pytest.mark.parametrize(
    ("before", "after"),
    [(0, 0), (PAGE_REPLIES + 1, PAGE_REPLIES - 1), (0, PAGE_REPLIES * (PAGES_MAX + 3)), (PAGE_REPLIES, PAGE_REPLIES)],
)
def test_among_replies_to_others(streams_server: Valkey, fake_worker: FakeWorker, before: int, after: int) -> None:
    """The reply is found among any number of other replies, and an older reply is never taken for it."""
    fill(fake_worker, PAGE_REPLIES * 3)
    with sync(streams_server) as client:
        future = send(client, "a")
        requests = fake_worker.take(1)
        fill(fake_worker, before)
        refuse(fake_worker, requests)
        fill(fake_worker, after)
        with pytest.raises(Forbidden):
            future.result()


@pytest.mark.parametrize("stream", ["tokenize:requests", SHARED])
def test_ids_ahead_of_the_clock(streams_server: Valkey, fake_worker: FakeWorker, stream: str) -> None:
    """Ids of requests or of replies that are a day ahead hide no reply, new or known."""
    fake_worker.streams.xadd(stream, {"other": "entry"}, id=ahead())
    fake_worker._last = f"({ahead()}"
    if stream == SHARED:
        fake_worker._last = "-"
        fill(fake_worker, PAGE_REPLIES * 3)
    with sync(streams_server) as client:
        for value in "abc":
            future = send(client, value)
            refuse(fake_worker, fake_worker.take(1))
            with pytest.raises(Forbidden):
                future.result()


def test_nothing_is_looked_for_after_the_largest_id(streams_server: Valkey, fake_worker: FakeWorker) -> None:
    """The reply with the last id of all is found, and the next look finds nothing."""
    fake_worker.streams.xadd(SHARED, {"payload": "the reply"}, id=LAST_ID)
    strays = Strays(SHARED)
    with closing(RedisLink("streams", RedisSettings(url=streams_server.url), raise_server_errors=True)) as link:
        assert strays.look(link, 0) == [b"the reply"]
        assert strays.look(link, 0) == []


def test_large_replies_to_others(streams_server: Valkey, fake_worker: FakeWorker) -> None:
    """Replies that are larger together than a look may hold are passed in smaller steps."""
    with sync(streams_server) as client:
        future = send(client, "a")
        requests = fake_worker.take(1)
        fill(fake_worker, 12, PAGE_BYTES // 5)
        refuse(fake_worker, requests)
        fill(fake_worker, 3, PAGE_BYTES + 1)
        with pytest.raises(Forbidden):
            future.result()


def test_request_that_was_given_up(streams_server: Valkey, fake_worker: FakeWorker) -> None:
    """``internal`` on the shared stream ends the call, too; the calls beside it go on."""
    internal = {"status": "error", "error": {"code": "internal", "message": "the request could not be handled"}}
    with sync(streams_server) as client:
        given_up, answered = send(client, "a"), send(client, "b")
        first, second = fake_worker.take(2)
        refuse(fake_worker, [first], **internal)
        with pytest.raises(Internal):
            given_up.result()
        fake_worker.answer([second])
        assert answered.result() == ["B"]


def test_shared_stream_is_looked_at_twice_a_second_at_most(streams_server: Valkey, fake_worker: FakeWorker) -> None:
    """The client looks twice a second at most, for any number of waiting requests, and not for quick replies."""
    fake_worker.streams.config_resetstat()
    with sync(streams_server) as client:
        for _ in range(100):
            answering = start(lambda: fake_worker.answer(fake_worker.take(1)))
            client.tokenize("a")
            answering.join()
        fake_worker.streams.config_resetstat()
        began = time.monotonic()
        futures = [send(client, f"v{number}", timeout_seconds=3) for number in range(900)]
        for future in futures:
            assert isinstance(future.exception(), TimedOut)
        looks = fake_worker.streams.info("commandstats").get("cmdstat_xrevrange", {"calls": 0})["calls"]
        assert 2 <= looks <= (time.monotonic() - began) / LOOK_SECONDS + 2


def test_client_without_the_right_to_look(fake_worker: FakeWorker) -> None:
    """A server that refuses the look is asked again only after a while; replies on the own stream come as ever."""
    with Valkey() as server, server.client() as admin:
        rules = ["on", ">secret", f"~{SHARED}:*", "~tokenize:requests", "+@all"]
        admin.execute_command("ACL", "SETUSER", "narrow", *rules)
        url = server.url.replace("//", "//narrow:secret@")
        fake_worker = FakeWorker(admin)
        with TokenClient(url, client_id=CLIENT, timeout_seconds=LONG_SECONDS) as client:
            with pytest.raises(TimedOut):
                client.tokenize("a", timeout_seconds=5 * LOOK_SECONDS)
            assert [row["count"] for row in admin.acl_log() if row["object"] == SHARED] == [1]
            fake_worker.take(1)
            answering = start(lambda: fake_worker.answer(fake_worker.take(1)))
            assert client.tokenize("b") == "B"
            answering.join()


def test_call_with_a_short_time_out_is_told(stack: Stack) -> None:
    """Even a call that waits for less than a second is told, if the worker is as quick."""
    routes = [{"requests": "in", "responses": "out", "ops": [*Op], "reply_to": "answers:*"}]
    stack.start_worker(TOKEN_WORKER_ROUTES=json.dumps(routes))
    here = (Route("in", "out", frozenset(Op)),)
    found: set[type] = set()
    with TokenClient(stack.settings["TOKEN_WORKER_STREAMS_URL"], client_id=CLIENT, routes=here) as client:
        while Forbidden not in found:  # at a loaded moment there may be no reply yet
            found.add(type(client.submit("tokenize", [("str", "a")], timeout_seconds=3 * SHORT_SECONDS).exception()))
    assert found <= {Forbidden, TimedOut}
