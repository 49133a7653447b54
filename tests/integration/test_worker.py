"""A worker process on real servers keeps the contract from XADD to reply, for good and for bad input."""

import base64
import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from harness.processes import peak_mib
from harness.servers import Valkey
from harness.stack import Stack, wait_until
from token_worker.client import Item, TokenClient, ValueNotText

CLIENT = "shop-frontend"
OTHER = "other_client"
PLAIN = {"id": "r", "op": "tokenize", "client_id": CLIENT, "type": "str", "value": "x"}
ROUTES = [
    {"requests": "tokenize:requests", "responses": "tokenize:responses", "ops": ["tokenize"]},
    {"requests": "detokenize:requests", "responses": "detokenize:responses", "ops": ["detokenize"]},
    {
        "requests": "pinned:requests",
        "responses": "pinned:responses",
        "ops": ["tokenize", "detokenize"],
        "client_id": CLIENT,
        "zones": ["DDDDDDDDzoneone"],
    },
]


@pytest.fixture(params=["valkey", "redis82"])
def served(
    request: pytest.FixtureRequest, streams_server: Valkey, storage_server: Valkey, redis82_server: Valkey
) -> Iterator[Stack]:
    """One worker with three routes and small limits; streams on Valkey or on Redis 8.2."""
    streams = streams_server if request.param == "valkey" else redis82_server
    settings = {
        "TOKEN_WORKER_ROUTES": msgspec.json.encode(ROUTES).decode(),
        "TOKEN_WORKER_MAX_VALUE_BYTES": "1024",
        "TOKEN_WORKER_MAX_REQUEST_BYTES": "5000",
        "TOKEN_WORKER_MAX_ITEMS": "5",
    }
    with Stack(streams, storage_server, settings=settings) as stack:
        stack.generate_key(CLIENT)
        stack.generate_key(OTHER)
        stack.generate_key("DDDDDDDDzoneone", "zone")
        stack.generate_key("DDDDDDDDzonetwo", "zone")
        worker = stack.start_worker()
        yield stack
        worker.kill()  # draining is tested elsewhere, and takes a second


def one(stack: Stack, request: dict[str, Any], route: str = "tokenize") -> dict[str, Any]:
    """Reply to one request for ``CLIENT``, whose members may be overridden; None leaves one out."""
    full = {"id": "r", "op": "tokenize", "client_id": CLIENT, **request}
    return stack.ask([{name: value for name, value in full.items() if value is not None}], route)["r"]


def code(reply: dict[str, Any]) -> str:
    assert reply["status"] == "error"
    return str(reply["error"]["code"])


def test_values_of_every_type_go_there_and_back(served: Stack) -> None:
    """Every type is tokenized and detokenized; the token has the type, and where it is text or bytes the length."""
    values: dict[str, int | str] = {
        "int32": -5,
        "int64": "-9223372036854775808",
        "str": "żółć",
        "bytes": "AAECAw==",
        "email": "grace@navy.example",
    }
    for kind, value in values.items():
        reply = one(served, {"type": kind, "value": value})
        assert reply["status"] == "ok"
        assert reply["value"] != value
        assert type(reply["value"]) is type(value)
        if kind in ("str", "email"):
            assert len(str(reply["value"]).encode()) == len(str(value).encode())
        back = one(served, {"op": "detokenize", "type": kind, "value": reply["value"]}, "detokenize")
        assert back["value"] == value


def test_reply_has_the_format_of_its_request(served: Stack) -> None:
    """A request in MessagePack gets its reply in MessagePack, one in JSON in JSON; bytes are binary or base64."""
    request = {"id": "m", "op": "tokenize", "client_id": CLIENT, "type": "bytes", "value": b"\x00\xff"}
    served.send([msgspec.msgpack.encode(request)])
    served.wait_for_replies(1)
    [(_, fields)] = served.streams.xrange("tokenize:responses")
    packed = msgspec.msgpack.decode(fields[b"payload"])
    assert isinstance(packed["value"], bytes)
    served.send([{**request, "id": "j", "value": "AP8="}])
    served.wait_for_replies(2)
    _, (_, fields) = served.streams.xrange("tokenize:responses")
    assert msgspec.json.decode(fields[b"payload"])["value"] == msgspec.json.decode(msgspec.json.encode(packed["value"]))


def test_items_are_answered_in_order_each_on_its_own(served: Stack) -> None:
    """A request of items gets its answers in order, with refs; a bad one is an error beside its neighbours' tokens."""
    items = [
        {"type": "str", "value": "same", "ref": "a"},
        {"type": "int32", "value": 2**31, "ref": "b"},
        {"type": "str", "value": "same"},
        {"type": "float", "value": 1},
    ]
    reply = one(served, {"items": items})
    assert reply["status"] == "partial"
    first, second, third, fourth = reply["items"]
    assert first == {"ref": "a", "value": first["value"]}
    assert second["ref"] == "b"
    assert second["error"]["code"] == "value_out_of_range"
    assert third == {"value": first["value"]}
    assert fourth["error"]["code"] == "unknown_type"
    failed = one(served, {"items": items[1:2]})
    assert failed["status"] == "error"
    assert "error" in failed["items"][0]


def test_trace_fields_are_carried_over(served: Stack) -> None:
    """``traceparent`` and ``tracestate`` of a request stand on its reply."""
    payload = msgspec.json.encode({"id": "t", "op": "tokenize", "client_id": CLIENT, "type": "str", "value": "x y z"})
    served.streams.xadd("tokenize:requests", {"payload": payload, "traceparent": "00-ab-cd-01", "tracestate": "k=v"})
    served.wait_for_replies(1)
    [(_, fields)] = served.streams.xrange("tokenize:responses")
    assert (fields[b"traceparent"], fields[b"tracestate"]) == (b"00-ab-cd-01", b"k=v")


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({"op": "destroy", "type": "str", "value": "x"}, "invalid_request"),
        ({"type": "str", "value": "x", "unknown": 1}, "invalid_request"),
        ({"type": "uuid", "value": "x"}, "unknown_type"),
        ({"type": 5, "value": "x"}, "invalid_request"),
        ({"type": "str", "value": "x", "items": []}, "invalid_request"),
        ({}, "invalid_request"),
        ({"type": "int32", "value": 2**31}, "value_out_of_range"),
        ({"type": "int64", "value": 2**63}, "value_out_of_range"),
        ({"type": "int64", "value": "12abc"}, "invalid_request"),
        ({"type": "int32", "value": 1.5}, "invalid_request"),
        ({"type": "int32", "value": True}, "invalid_request"),
        ({"type": "str", "value": ""}, "value_out_of_range"),
        ({"type": "email", "value": "no at sign"}, "invalid_email"),
        ({"type": "email", "value": "a@b.c"}, "invalid_email"),
        ({"type": "bytes", "value": "AB=="}, "invalid_request"),
        ({"type": "str", "value": "x" * 1025}, "value_too_large"),
        ({"type": "str", "value": "x" * 6000}, "invalid_request"),
        ({"items": [{"type": "str", "value": "x"}] * 6}, "invalid_request"),
        ({"client_id": "nobody-knows", "type": "str", "value": "x"}, "unknown_client"),
        ({"client_id": "bad/id*", "type": "str", "value": "x"}, "unknown_client"),
        ({"client_id": None, "type": "str", "value": "x"}, "invalid_request"),
        ({"client_id": "c" * 257, "type": "str", "value": "x"}, "invalid_request"),
        ({"zone_id": "DDDDDDDDnothere", "type": "str", "value": "x"}, "unknown_zone"),
        ({"op": "detokenize", "type": "str", "value": "x"}, "forbidden"),
        ({"reply_to": "tokenize:requests", "type": "str", "value": "x"}, "forbidden"),
        ({"reply_to": "detokenize:responses", "type": "str", "value": "x"}, "forbidden"),
        ({"reply_to": "elsewhere", "type": "str", "value": "x"}, "forbidden"),
        ({"expires_at": 1, "type": "str", "value": "x"}, "expired"),
    ],
)
def test_bad_requests_get_their_code(served: Stack, request_: dict[str, Any], expected: str) -> None:
    """A wrong request gets its error code back; a neighbour in the batch is answered."""
    good = {"id": "good", "op": "tokenize", "client_id": CLIENT, "type": "str", "value": "neighbour"}
    full = {"id": "bad", "op": "tokenize", "client_id": CLIENT, **request_}
    replies = served.ask([{name: value for name, value in full.items() if value is not None}, good])
    assert code(replies["bad"]) == expected
    assert replies["good"]["status"] == "ok"


def test_unknown_tokens_are_errors_never_the_token_itself(served: Stack) -> None:
    """A token that does not exist, of another client or of another type is ``token_not_found``."""
    token = one(served, {"type": "str", "value": "4242 4242 4242 4242"})["value"]
    for changed in ({"value": "never made"}, {"client_id": OTHER}, {"type": "bytes", "value": "AAAA"}):
        reply = one(served, {"op": "detokenize", "type": "str", "value": token, **changed}, "detokenize")
        assert code(reply) == "token_not_found"


def test_pinned_route_serves_one_client_and_its_zones(served: Stack) -> None:
    """A pinned route fills in its client, refuses others, and serves the zones it lists alone."""
    assert one(served, {"client_id": None, "type": "str", "value": "x y"}, "pinned")["status"] == "ok"
    assert code(one(served, {"client_id": OTHER, "type": "str", "value": "x y"}, "pinned")) == "forbidden"
    assert one(served, {"zone_id": "DDDDDDDDzoneone", "type": "str", "value": "x y"}, "pinned")["status"] == "ok"
    assert code(one(served, {"zone_id": "DDDDDDDDzonetwo", "type": "str", "value": "x y"}, "pinned")) == "forbidden"


def test_zone_and_clients_have_tokens_of_their_own(served: Stack) -> None:
    """The same value has one token for each client and zone; a zone's is the same whichever client asks."""
    tokens = [
        one(served, {"type": "str", "value": "one value"})["value"],
        one(served, {"type": "str", "value": "one value", "client_id": OTHER})["value"],
        one(served, {"type": "str", "value": "one value", "zone_id": "DDDDDDDDzoneone"})["value"],
    ]
    assert len(set(tokens)) == 3
    again = one(served, {"type": "str", "value": "one value", "zone_id": "DDDDDDDDzoneone", "client_id": OTHER})
    assert tokens[2] == again["value"]


def test_inconsistent_tokens_differ_and_turn_back(served: Stack) -> None:
    """Without consistency each item gets a token of its own; a replayed request gets the original's again."""
    request = {"consistent": False, "items": [{"type": "str", "value": "again and again"}] * 2}
    first = one(served, request)
    tokens = [item["value"] for item in first["items"]]
    assert len(set(tokens)) == 2
    replayed = one(served, {**request, "replay": 1, "replay_of": first["request_entry"]})
    assert replayed["replay"] == 1
    assert tokens == [item["value"] for item in replayed["items"]]
    for token in tokens:
        back = one(served, {"op": "detokenize", "type": "str", "value": token}, "detokenize")
        assert back["value"] == "again and again"


TO_TOKENIZE = {"id": "r", "op": "tokenize", "client_id": CLIENT, "type": "str", "value": "x"}


def test_reply_to_gets_the_reply_and_a_time_to_live(served: Stack) -> None:
    """A reply goes to the stream its request names; made by that reply, the stream has a time to live."""
    served.send([{**TO_TOKENIZE, "reply_to": "tokenize:responses:me"}])
    wait_until(lambda: served.streams.exists("tokenize:responses:me"), "the reply")
    [reply] = served.replies("tokenize:responses:me")
    assert reply["status"] == "ok"
    assert 86_000 < served.streams.ttl("tokenize:responses:me") <= 86_400
    assert served.streams.xlen("tokenize:responses") == 0


def test_reply_to_of_the_producer_keeps_no_time_to_live(served: Stack) -> None:
    """A stream that its producer made is never given a time to live."""
    served.streams.xgroup_create("tokenize:responses:mine", "readers", mkstream=True)
    served.send([{**TO_TOKENIZE, "reply_to": "tokenize:responses:mine"}])
    served.wait_for_replies(1, "tokenize:responses:mine")
    assert served.streams.ttl("tokenize:responses:mine") == -1


def test_refused_request_is_answered_where_it_asks(served: Stack) -> None:
    """An invalid request with a readable, allowed ``reply_to`` is answered there."""
    served.send([{"id": "r", "op": "tokenize", "oops": 1, "reply_to": "tokenize:responses:me"}])
    [reply] = served.wait_for_replies(1, "tokenize:responses:me")
    assert code(reply) == "invalid_request"


def test_reply_to_of_another_type_is_forbidden_and_neighbours_are_answered(served: Stack) -> None:
    """A ``reply_to`` of another type of key is ``forbidden`` on the route's stream; neighbours are answered."""
    served.streams.set("tokenize:responses:text", "a string")
    requests = [
        {"id": str(n), "op": "tokenize", "client_id": CLIENT, "type": "str", "value": f"value {n}"} for n in range(5)
    ]
    requests[2]["reply_to"] = "tokenize:responses:text"
    replies = served.ask(requests)
    assert code(replies["2"]) == "forbidden"
    assert all(replies[str(n)]["status"] == "ok" for n in (0, 1, 3, 4))
    assert served.streams.get("tokenize:responses:text") == b"a string"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"other": "field"}, "payload_missing"),
        ({"payload": "plain text"}, "not_json_or_msgpack"),
        ({"payload": "{broken"}, "not_json_or_msgpack"),
        ({"payload": '{"op":"tokenize"}'}, "no_readable_id"),
        ({"payload": '{"id":5}'}, "no_readable_id"),
        ({"payload": '{"id":""}'}, "no_readable_id"),
        ({"payload": '{"id":"' + "i" * 129 + '"}'}, "no_readable_id"),
    ],
)
def test_unanswerable_entries_become_dead_letters(served: Stack, fields: dict[str, str], reason: str) -> None:
    """An entry that cannot be answered goes to the dead letters with the reason and its fields, acknowledged."""
    entry = served.streams.xadd("tokenize:requests", {**fields, "keep": "me"})
    wait_until(lambda: served.streams.xlen("tokenize:requests:dead"), "the dead letter")
    [(_, dead)] = served.streams.xrange("tokenize:requests:dead")
    expected = {name.encode(): value.encode() for name, value in fields.items()}
    ours = {
        b"dead_reason": reason.encode(),
        b"dead_stream": b"tokenize:requests",
        b"dead_entry": entry,
        b"dead_deliveries": b"1",
    }
    assert {**expected, b"keep": b"me", **ours} == dead
    assert served.streams.xpending("tokenize:requests", "token-workers")["pending"] == 0
    assert one(served, {"type": "str", "value": "goes on"})["status"] == "ok"


def test_broken_requests_are_answered(served: Stack) -> None:
    """A batch with a NaN, one behind a byte order mark and one that is cut short each get their reply; none is dead."""
    items = [{"type": "int32", "value": number, "ref": str(number)} for number in range(5)]
    items[3]["value"] = float("nan")
    batch = {"id": "batch", "op": "tokenize", "client_id": CLIENT, "items": items}
    served.send(
        [
            json.dumps(batch).encode(),
            b"\xef\xbb\xbf" + json.dumps({**PLAIN, "id": "marked"}).encode(),
            json.dumps({**PLAIN, "id": "cut"}).encode()[:-5],
            msgspec.msgpack.encode({**PLAIN, "id": "packed"})[:-1],
        ]
    )
    replies = {reply["id"]: reply for reply in served.wait_for_replies(4)}
    assert replies["batch"]["status"] == "partial"
    failed = [(item["ref"], item["error"]["code"]) for item in replies["batch"]["items"] if "error" in item]
    assert failed == [("3", "invalid_request")]
    assert replies["marked"]["status"] == "ok"
    assert code(replies["cut"]) == code(replies["packed"]) == "invalid_request"
    assert served.streams.xlen("tokenize:requests:dead") == 0


def test_value_that_is_no_text_is_asked_for_as_bytes(served: Stack) -> None:
    """A value as AcraServer stores another encoding: a client and a command give it, and ask for it, as bytes."""
    latin = "Müller".encode("latin-1")
    encoded = base64.b64encode(latin).decode()
    given = served.run("request", "tokenize", "--type", "str", "--client", CLIENT, "--as-bytes", value=encoded)
    assert given.returncode == 0, given.stderr
    token = json.loads(given.stdout)["value"]
    asked = ("request", "detokenize", "--type", "str", "--client", CLIENT)
    assert json.loads(served.run(*asked, value=token).stdout)["error"]["code"] == "value_not_text"
    assert json.loads(served.run(*asked, "--as-bytes", value=token).stdout)["value"] == encoded
    assert served.run("request", "detokenize", "--type", "int32", "--as-bytes", value="5").returncode == 2
    with TokenClient(served.settings["TOKEN_WORKER_STREAMS_URL"], client_id=CLIENT, timeout_seconds=60) as client:
        assert client.request("tokenize", [Item("str", latin, "bytes"), ("str", "x")])[0] == token
        assert client.request("detokenize", [Item("str", token, "bytes")]) == [latin]
        with pytest.raises(ValueNotText):
            client.detokenize(token, type="str")


def test_key_the_master_key_does_not_open_is_one_clients_trouble(served: Stack) -> None:
    """A client whose key cannot be unwrapped gets ``key_unreadable``; other clients in the batch go on."""
    served.storage.set(".acrakeys/broken_client_storage_sym", "AAEBQAwAAAAQAAAAIAAAA" + "A" * 81 + "==")
    request = {"op": "tokenize", "type": "str", "value": "some value"}
    replies = served.ask(
        [{**request, "id": "1", "client_id": "broken_client"}, {**request, "id": "2", "client_id": CLIENT}]
    )
    assert code(replies["1"]) == "key_unreadable"
    assert replies["2"]["status"] == "ok"


def test_damaged_entry_is_an_error_for_its_item_and_stays_as_it_is(served: Stack) -> None:
    """A damaged token entry is ``entry_unreadable`` for that item; it is never overwritten or taken for absent."""
    one(served, {"type": "str", "value": "will be damaged"})
    damaged = {}
    for key in served.storage.keys("tokens/*"):
        raw = served.storage.get(key)
        assert isinstance(raw, bytes)
        damaged[key] = raw[:-40] + (b"0" if raw[-40:-39] != b"0" else b"1") + raw[-39:]
        served.storage.set(key, damaged[key])
    items = [{"type": "str", "value": "will be damaged"}, {"type": "str", "value": "is fine"}]
    first, second = one(served, {"items": items})["items"]
    assert first["error"]["code"] == "entry_unreadable"
    assert "value" in second
    assert {key: served.storage.get(key) for key in damaged} == damaged


def test_large_requests_behind_small_ones_do_not_swell_the_worker(
    streams_server: Valkey, storage_server: Valkey
) -> None:
    """Small requests make a worker ask for many; large ones that come then are answered one by one."""
    with Stack(streams_server, storage_server) as stack:
        stack.generate_key(CLIENT)
        worker = stack.start_worker()
        one(stack, PLAIN)
        before = peak_mib(worker.pid)
        os.kill(worker.pid, signal.SIGSTOP)
        small = [{**PLAIN, "id": f"small-{number}"} for number in range(1000)]
        items = [{"type": "str", "value": "x" * 60_000}] * 16
        large = [
            {"id": f"large-{number}", "op": "tokenize", "client_id": CLIENT, "items": items} for number in range(60)
        ]
        stack.send([*small, *large])
        os.kill(worker.pid, signal.SIGCONT)
        stack.wait_for_replies(1061)
        replies = [reply["id"] for reply in stack.replies("tokenize:responses")]
        assert len(set(replies)) == len(replies) == 1061
        assert peak_mib(worker.pid) < before + 30
        worker.kill()
