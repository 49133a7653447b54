"""The worker for tests of producers: its answers, the errors and time-outs that a test plans, and its end."""

import asyncio
import doctest
import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from harness.clients import CLIENT, KINDS, LONG_SECONDS, SHORT_SECONDS, Kind
from harness.stack import wait_until
from token_worker.client import (
    AsyncTokenClient,
    Forbidden,
    InvalidEmail,
    RequestRefused,
    SomeFailed,
    TimedOut,
    TokenClient,
    TokenNotFound,
    UnknownClient,
)
from token_worker.client.errors import refusal
from token_worker.contract.messages import Op
from token_worker.errors import Code
from token_worker.keys.layout_record import LayoutName
from token_worker.storage.dense.entry import NAME_BYTES
from token_worker.storage.layout import Layout
from token_worker.streams.routes import Route
from token_worker.testing import InProcessWorker
from token_worker.testing import worker as worker_module
from token_worker.testing.memory import MemoryTokens

SECRET = "4242 4242 4242 4242"

VALUES: list[tuple[Any, Any]] = [
    ("int32", 7),
    ("int64", 2**40),
    ("str", SECRET),
    ("bytes", b"\xff"),
    ("email", "grace@navy.example"),
]

OF_A_WHOLE_REQUEST = {
    Code.INVALID_REQUEST,
    Code.UNKNOWN_CLIENT,
    Code.UNKNOWN_ZONE,
    Code.FORBIDDEN,
    Code.KEY_UNREADABLE,
    Code.EXPIRED,
    Code.INTERNAL,
}


@pytest.fixture
def worker() -> Iterator[InProcessWorker]:
    with InProcessWorker() as worker:
        yield worker


@pytest.fixture
def client(worker: InProcessWorker) -> Iterator[TokenClient]:
    with TokenClient(worker.url, client_id=CLIENT, timeout_seconds=LONG_SECONDS) as client:
        yield client


@pytest.fixture
def streams(worker: InProcessWorker) -> Iterator[Any]:
    """A producer's own Redis client."""
    with redis.Redis.from_url(worker.url) as streams:
        yield streams


def add(streams: Any, stream: str = "tokenize:requests", headers: dict[str, str] | None = None, **members: Any) -> None:
    message = {"id": "r-1", "op": "tokenize", "client_id": CLIENT, **members}
    streams.xadd(stream, {"payload": json.dumps(message), **(headers or {})})


def read(streams: Any, stream: str = "tokenize:responses") -> tuple[dict[str, Any], dict[bytes, bytes]]:
    """The first reply on a stream, as soon as it is there, and all fields of its entry."""
    wait_until(lambda: streams.xlen(stream), "a reply")
    [(_, fields), *_] = streams.xrange(stream)
    return json.loads(fields[b"payload"]), fields


# Tokens


@pytest.mark.parametrize("kind", KINDS)
def test_values_go_there_and_back(worker: InProcessWorker, kind: Kind) -> None:
    """A value has one token, of its own type, which gives it back; with the client for threads and for a loop."""
    with kind(worker.url, client_id=CLIENT, timeout_seconds=LONG_SECONDS) as client:
        for type_name, value in VALUES:
            token = client.tokenize(value, type=type_name)
            assert token != value
            assert client.tokenize(value, type=type_name) == token
            assert client.detokenize(token, type=type_name) == value
        with pytest.raises(InvalidEmail):
            client.tokenize("no address", type="email")


def test_layouts_give_the_same_replies(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the dense layout every client has an index key, and producers see no difference."""
    stored: list[MemoryTokens] = []

    def noted(layout: Layout) -> MemoryTokens:
        stored.append(MemoryTokens(layout))
        return stored[-1]

    monkeypatch.setattr(worker_module, "MemoryTokens", noted)
    acra, dense = some_answers("acra"), some_answers("dense")
    assert acra == dense
    assert [all(len(name) == NAME_BYTES for name in tokens.entries) for tokens in stored] == [False, True]


def some_answers(layout: LayoutName) -> list[Any]:
    with (
        InProcessWorker(layout=layout) as worker,
        TokenClient(worker.url, client_id=CLIENT, timeout_seconds=LONG_SECONDS) as client,
    ):
        tokens = [client.tokenize(value, type=name) for name, value in VALUES]
        assert [client.tokenize(value, type=name) for name, value in VALUES] == tokens
        with pytest.raises(TokenNotFound):
            client.detokenize("no token")
        values = [client.detokenize(token, type=name) for token, (name, _) in zip(tokens, VALUES, strict=True)]
        return [*tokens, *values, client.detokenize(client.tokenize(SECRET, consistent=False))]


def test_tokens_are_the_same_in_every_run(client: TokenClient) -> None:
    """A test may know the token of a value beforehand: it depends on value, type and client alone."""
    assert client.tokenize("grace@navy.example", type="email") == "wa5x7a@4dah5c.info"
    assert client.tokenize("grace@navy.example", type="email", client_id="billing_service") == "bdtj4p@ic60v8w.edu"


def test_tokens_of_another_worker_are_unknown(client: TokenClient) -> None:
    """Each worker begins without tokens: one test does not see what another has left."""
    token = client.tokenize(SECRET)
    with InProcessWorker() as other, TokenClient(other.url, client_id=CLIENT) as stranger:
        with pytest.raises(TokenNotFound):
            stranger.detokenize(token)
        assert stranger.tokenize(SECRET) == token


def test_ids_that_no_client_can_have_are_unknown(client: TokenClient) -> None:
    """Every valid id has a key, and an id that Acra would not take has none."""
    with pytest.raises(UnknownClient):
        client.tokenize(SECRET, client_id="shop")


def test_routes_are_those_of_the_producer() -> None:
    """The worker serves the routes that it is given, with their checks; routes that cannot be served are refused."""
    routes = [Route("shop:in", "shop:out", frozenset(Op), client_id=CLIENT)]
    with InProcessWorker(routes) as worker, TokenClient(worker.url, routes=routes) as client:
        assert client.detokenize(client.tokenize(SECRET)) == SECRET
        with pytest.raises(Forbidden):
            client.tokenize(SECRET, zone_id="zone-one")
        assert {request.client_id for request in worker.requests} == {CLIENT}
        assert {request.stream for request in worker.requests} == {"shop:in"}
    with pytest.raises(ValueError, match="a stream has one role"):
        InProcessWorker([Route("shop", "shop", frozenset(Op))])


# Errors


@pytest.mark.parametrize("code", Code)
def test_planned_error_is_that_of_its_code(worker: InProcessWorker, client: TokenClient, code: Code) -> None:
    """The next call raises the class of the code, and the one after it is answered."""
    worker.refuse_next(code)
    with pytest.raises(RequestRefused) as caught:
        client.tokenize(SECRET)
    assert type(caught.value) is type(refusal(code, ""))
    assert client.tokenize(SECRET)


def test_planned_error_has_no_format(worker: InProcessWorker, streams: Any, client: TokenClient) -> None:
    """The reply with a planned error is one of the contract, also if the value has a token of another form."""
    card = "4242 4242 4242 4242"
    client.tokenize(card)
    worker.refuse_next("token_disabled")
    add(streams, type="str", value=card, format="pan")
    reply, _ = read(streams)
    assert (reply["status"], reply["error"]["code"]) == ("error", "token_disabled")
    assert "format" not in reply
    add(streams, type="str", value=card, format="pan", reply_to="tokenize:responses:own")
    reply, _ = read(streams, "tokenize:responses:own")
    assert (reply["status"], reply["format"]) == ("ok", "other")


@pytest.mark.parametrize("code", Code)
def test_planned_error_in_a_list(worker: InProcessWorker, client: TokenClient, code: Code) -> None:
    """A list fails as it does with a real worker: as a whole, or value by value."""
    worker.refuse_next(code.value)
    with pytest.raises(RequestRefused if code in OF_A_WHOLE_REQUEST else SomeFailed) as caught:
        client.tokenize(["Grace", "Ada"])
    if isinstance(caught.value, SomeFailed):
        assert [type(answer) for answer in caught.value.answers] == [type(refusal(code, ""))] * 2


def test_planned_error_of_some_values(worker: InProcessWorker, client: TokenClient) -> None:
    """Values at other positions have their tokens; a request without these positions is not meant."""
    known = client.tokenize(["Grace", "Ada", "Edith"])
    worker.refuse_next("token_disabled", items=[0, 2])
    assert client.tokenize("Grace") == known[0]
    with pytest.raises(SomeFailed) as caught:
        client.tokenize(["Grace", "Ada", "Edith"])
    first, second, third = caught.value.answers
    assert isinstance(first, RequestRefused)
    assert (second, first.code, type(third)) == (known[1], Code.TOKEN_DISABLED, type(first))


def test_planned_error_of_some_requests(worker: InProcessWorker, client: TokenClient) -> None:
    """A plan can be for one operation, one client, and several requests; others are answered meanwhile."""
    worker.refuse_next("forbidden", op="detokenize", client_id="billing_service", count=2)
    token = client.tokenize(SECRET, client_id="billing_service")
    for _ in range(2):
        with pytest.raises(Forbidden):
            client.detokenize(token, client_id="billing_service")
        with pytest.raises(TokenNotFound):
            client.detokenize(token)
    assert client.detokenize(token, client_id="billing_service") == SECRET


def test_plans_are_used_in_order(worker: InProcessWorker, client: TokenClient) -> None:
    """Of two plans for the same request, the first one counts, then the other."""
    worker.refuse_next(Code.INTERNAL)
    worker.refuse_next(Code.EXPIRED)
    for code in (Code.INTERNAL, Code.EXPIRED):
        with pytest.raises(RequestRefused) as caught:
            client.tokenize(SECRET)
        assert caught.value.code == code


@pytest.mark.parametrize(
    ("code", "more", "match"),
    [
        ("no_such_code", {}, "no_such_code"),
        ("forbidden", {"items": [0]}, "never of a value"),
        ("token_not_found", {"items": []}, "positions"),
        ("token_not_found", {"items": [-1]}, "positions"),
        ("token_not_found", {"count": 0}, "count"),
        ("token_not_found", {"op": "erase"}, "erase"),
    ],
)
def test_plan_without_a_meaning_is_refused(worker: InProcessWorker, code: str, more: Any, match: str) -> None:
    """A plan that no request could ever use is a mistake in the test, and told where it stands."""
    with pytest.raises(ValueError, match=match):
        worker.refuse_next(code, **more)


def test_plan_that_was_not_used_fails_the_test() -> None:
    """A test that plans an error which never came tests something else than it seems to, and fails for it."""
    with InProcessWorker() as worker:
        pass
    worker.refuse_next("forbidden")
    worker.drop_next(client_id=CLIENT)
    with pytest.raises(AssertionError, match=r"no request came for: refuse_next\('forbidden', count=1\), drop_next"):
        worker.__exit__(None, None, None)
    error = ZeroDivisionError()  # the test has failed already: its own error is the one to see
    worker.__exit__(ZeroDivisionError, error, None)


# Time-outs


def test_dropped_request_is_a_time_out(worker: InProcessWorker, client: TokenClient) -> None:
    """A dropped request has no reply, ever; the next one has."""
    token = client.tokenize("Grace")
    worker.drop_next(op=Op.TOKENIZE)
    with pytest.raises(TimedOut):
        client.tokenize(SECRET, timeout_seconds=SHORT_SECONDS)
    assert client.tokenize("Grace") == token
    assert [request.values for request in worker.requests] == [["Grace"], [SECRET], ["Grace"]]


def test_paused_worker_answers_afterwards(worker: InProcessWorker, client: TokenClient) -> None:
    """Calls wait while the worker is paused; pauses may be within each other."""
    token = client.tokenize(SECRET)
    with worker.paused():
        with worker.paused():
            future = client.submit("tokenize", [("str", SECRET)])
            assert len(worker.wait_for_requests(2)) == 2
        with pytest.raises(TimedOut):
            client.tokenize("Grace", timeout_seconds=SHORT_SECONDS)
        assert not future.done()
    assert future.result(LONG_SECONDS) == [token]


def test_request_that_waited_too_long_has_expired(worker: InProcessWorker, streams: Any) -> None:
    """A request whose ``expires_at`` has passed when the pause ends has the error that real workers have."""
    with worker.paused():
        expires_at = int(time.time() * 1000) + 50
        add(streams, type="str", value=SECRET, expires_at=expires_at)
        worker.wait_for_requests()
        wait_until(lambda: time.time() * 1000 > expires_at, "the request to expire")
    assert read(streams)[0]["error"]["code"] == "expired"


def test_time_out_in_an_event_loop(worker: InProcessWorker) -> None:
    """A test that runs in an event loop pauses the worker, too: it has threads of its own."""

    async def main() -> list[str]:
        async with AsyncTokenClient(worker.url, client_id=CLIENT, timeout_seconds=LONG_SECONDS) as client:
            await client.tokenize(SECRET)
            with worker.paused():
                with pytest.raises(TimedOut):
                    await client.tokenize(SECRET, timeout_seconds=SHORT_SECONDS)
                waiting = [asyncio.create_task(client.tokenize(f"value {number}")) for number in range(20)]
                await asyncio.sleep(0)
            return await asyncio.gather(*waiting)

    assert len({*asyncio.run(main())}) == 20


# What a test can look at


def test_requests_are_as_their_producer_meant_them(worker: InProcessWorker, streams: Any, client: TokenClient) -> None:
    """Values are those of Python, whether they came as JSON or as MessagePack."""
    add(
        streams,
        items=[
            {"type": "int64", "value": "5"},
            {"type": "bytes", "value": "/w=="},
            {"type": "str", "value": 1, "format": "pan"},
        ],
    )
    worker.wait_for_requests()
    client.tokenize(b"\xff", zone_id="zone-one", consistent=False)
    first, second = worker.requests
    assert (first.stream, first.id, first.op, first.client_id) == ("tokenize:requests", "r-1", "tokenize", CLIENT)
    assert first.types == ("int64", "bytes", "str")
    assert first.formats == (None, None, "pan")
    assert first.values == [5, b"\xff", 1]
    assert (first.zone_id, first.consistent, first.reply_to) == (None, True, None)
    assert (second.types, second.zone_id, second.consistent) == (("bytes",), "zone-one", False)
    assert second.reply_to is not None
    assert [*second.values] == [second.values[0]] == [b"\xff"]
    assert b"\xff" in second.values
    assert first.values != second.values
    assert first.values != 5


def test_invalid_requests_are_seen_and_answered(worker: InProcessWorker, streams: Any) -> None:
    """A request that is none of the contract's has its error, and no values; what has no id is a dead letter."""
    add(streams, value=SECRET, typo=1)
    assert read(streams)[0]["error"]["code"] == "invalid_request"
    [request] = worker.requests
    assert (request.id, request.types, request.formats) == ("r-1", (), ())
    assert request.values == []
    streams.xadd("tokenize:requests", {"payload": b"no JSON"})
    wait_until(lambda: streams.xlen("tokenize:requests:dead"), "the dead letter")
    [(_, fields)] = streams.xrange("tokenize:requests:dead")
    assert fields[b"dead_reason"] == b"not_json_or_msgpack"
    assert len(worker.requests) == 1


def test_requests_show_no_value(worker: InProcessWorker, client: TokenClient) -> None:
    """The output of a failed test shows numbers and names of worker, requests and values, and no value."""
    client.tokenize([SECRET, "Grace"], zone_id="zone-one")
    [request] = worker.requests
    assert repr(request) == (
        f"<ReceivedRequest tokenize client_id='{CLIENT}', zone_id='zone-one', types=('str', 'str')>"
    )
    assert repr(request.values) == "<Values: 2>"
    assert repr(worker) == f"<InProcessWorker {worker.url}, requests: 1>"


def test_waiting_for_requests_ends(worker: InProcessWorker, client: TokenClient) -> None:
    """A producer that does not send what the test waits for fails the test soon, with the numbers."""
    client.tokenize(SECRET)
    with pytest.raises(TimeoutError, match="expected 2 requests, got 1"):
        worker.wait_for_requests(2, timeout_seconds=SHORT_SECONDS)


# Producers with a Redis client of their own


def test_reply_is_on_the_stream_of_the_contract(streams: Any) -> None:
    """A reply is on the route's stream, or where the request asked for it; there it has a time to live."""
    headers = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "more": "x"}
    add(streams, headers=headers, type="int64", value=5)
    reply, fields = read(streams)
    assert (reply["id"], reply["status"], type(reply["value"])) == ("r-1", "ok", str)
    assert fields.keys() == {b"payload", b"traceparent"}
    assert streams.ttl("tokenize:responses") == -1
    add(streams, type="int64", value=5, reply_to="tokenize:responses:mine")
    assert read(streams, "tokenize:responses:mine")[0]["value"] == reply["value"]
    assert streams.ttl("tokenize:responses:mine") > 0
    wait_until(lambda: not streams.xpending("tokenize:requests", "token-workers")["pending"], "acknowledgements")


def test_reply_has_no_part_of_a_trace(streams: Any) -> None:
    """``tracestate`` without ``traceparent`` means nothing: the reply has neither, as with real workers."""
    add(streams, headers={"tracestate": "shop=1"}, type="int64", value=5)
    assert read(streams)[1].keys() == {b"payload"}


def test_stream_that_cannot_take_the_reply(streams: Any) -> None:
    """Such a reply is ``forbidden`` on the route's own stream, as with real workers; the worker lives on."""
    streams.set("tokenize:responses:mine", "no stream")
    add(streams, type="int64", value=5, reply_to="tokenize:responses:mine")
    assert read(streams)[0]["error"]["code"] == "forbidden"


def test_planned_error_of_a_single_value_in_json(worker: InProcessWorker, streams: Any) -> None:
    """A request for one value has the error in place of the value."""
    worker.refuse_next("value_too_large")
    add(streams, type="str", value=SECRET)
    reply, _ = read(streams)
    assert (reply["status"], reply["error"]["code"]) == ("error", "value_too_large")
    assert "value" not in reply


def test_replies_of_many_megabytes(worker: InProcessWorker, streams: Any, client: TokenClient) -> None:
    """One read may be larger than the buffers of a socket."""
    values = [str(number).ljust(60_000, "x") for number in range(64)]
    assert client.detokenize(client.tokenize(values)) == values
    payload = b"x" * 1_000_000
    for _ in range(12):
        streams.xadd("elsewhere", {"payload": payload})
    [(_, entries)] = streams.xread({"elsewhere": "0"})
    assert [fields[b"payload"] for _, fields in entries] == [payload] * 12


def test_logs_hold_no_value(client: TokenClient, caplog: pytest.LogCaptureFixture) -> None:
    """Pytest prints captured logs of tests that fail, and with ``log_level=DEBUG`` those of the server."""
    with caplog.at_level(logging.DEBUG):
        client.detokenize(client.tokenize(SECRET))
    assert SECRET not in caplog.text


def test_logs_hold_no_value_after_another_worker_has_ended(
    client: TokenClient, caplog: pytest.LogCaptureFixture
) -> None:
    """The end of one worker does not open the logs of another that runs on."""
    with InProcessWorker():
        pass
    with caplog.at_level(logging.DEBUG):
        client.detokenize(client.tokenize(SECRET))
    assert SECRET not in caplog.text


# End


def test_nothing_runs_on() -> None:
    """Closing ends the threads and frees the port; closing again does no harm."""
    before = {*threading.enumerate()}
    with InProcessWorker() as worker, redis.Redis.from_url(worker.url) as streams:
        streams.ping()
        assert {*threading.enumerate()} - before
    worker.close()
    wait_until(lambda: {*threading.enumerate()} <= before, "the threads to end")
    with redis.Redis.from_url(worker.url) as streams, pytest.raises(redis.ConnectionError):
        streams.ping()


def test_producer_that_waits_without_a_time_out(worker: InProcessWorker, streams: Any) -> None:
    """A producer that waits for an entry, for ever, is told that the server is gone, and nobody waits for it."""
    streams.xgroup_create("tokenize:responses", "shop", mkstream=True)
    ended: list[bool] = []

    def wait() -> None:
        with redis.Redis.from_url(worker.url, socket_timeout=None) as waiting, pytest.raises(redis.ConnectionError):
            waiting.xreadgroup("shop", "me", {"tokenize:responses": ">"}, block=0)
        ended.append(True)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    wait_until(lambda: streams.xinfo_consumers("tokenize:responses", "shop"), "the read to begin")
    closing = threading.Thread(target=worker.close, daemon=True)
    closing.start()
    for each in (closing, thread):
        each.join(LONG_SECONDS)
        assert not each.is_alive()
    assert ended


def test_example_of_the_docstring() -> None:
    """The example of the class does what it shows."""
    assert doctest.testmod(worker_module) == doctest.TestResults(failed=0, attempted=2)


def test_import_is_cheap() -> None:
    """Pytest imports the plugin in every project, also where fakeredis is missing: that loads nothing else of ours."""
    code = (
        "import sys, pytest\n"
        "before = {*sys.modules}\n"
        "import token_worker.testing.plugin\n"
        "new = sorted(name for name in {*sys.modules} - before)\n"
        "print(new)\n"
        "sys.exit(new != ['token_worker', 'token_worker.testing', 'token_worker.testing.plugin'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
