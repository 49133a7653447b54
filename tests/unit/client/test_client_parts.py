"""What the client is made of beside its calls: values, deadlines, streams of replies, errors; what its import loads."""

import subprocess
import sys
import threading
from collections.abc import Callable
from enum import IntEnum
from typing import Any, assert_type

import msgspec
import pytest

from harness.stack import wait_until
from token_worker import client as client_module
from token_worker.client import (
    AsyncTokenClient,
    Item,
    RequestRefused,
    SomeFailed,
    TimedOut,
    TokenClient,
    TokenClientError,
    TokenNotFound,
)
from token_worker.client.calls import Call
from token_worker.client.deadline_table import DeadlineTable
from token_worker.client.errors import refusal
from token_worker.client.items import OVERHEAD_BYTES, RequestLimits, encode, type_of
from token_worker.client.replies import Replies
from token_worker.contract.messages import Op, TypeName
from token_worker.errors import Code
from token_worker.streams.routes import DEFAULT_ROUTES, Route, own_reply_stream, route_for

MARKER = "4242-4242"
ROUTE = Route("in", "out", frozenset({Op.TOKENIZE}), response_retention_seconds=60)


class Number(IntEnum):
    ONE = 1


# Values


@pytest.mark.parametrize(("value", "name"), [(1, "int64"), ("a", "str"), (b"a", "bytes")])
def test_type_follows_from_the_value(value: object, name: str) -> None:
    """Where no type is named, it is that of the value in Python; ``int32`` or ``email`` would be a guess."""
    assert type_of(value) == name


@pytest.mark.parametrize("value", [True, None, 1.5, [], bytearray(b"a"), Number.ONE], ids=repr)
def test_value_of_no_type_is_a_mistake_in_the_program(value: Any) -> None:
    """What only looks like a value is a ``TypeError`` where it is given, without the value in it."""
    with pytest.raises(TypeError, match="expected int, str or bytes, got"):
        encode(Item("str", value), RequestLimits())


@pytest.mark.parametrize(
    ("item", "code"),
    [
        (("text", MARKER), Code.UNKNOWN_TYPE),
        (("str", f"{MARKER}\ud800"), Code.INVALID_REQUEST),
        (("int64", 2**64), Code.VALUE_OUT_OF_RANGE),
        (("int64", -(2**63) - 1), Code.VALUE_OUT_OF_RANGE),
        (("str", MARKER * 1000), Code.VALUE_TOO_LARGE),
    ],
)
def test_value_that_no_request_can_carry_is_refused(item: tuple[Any, Any], code: Code) -> None:
    """It is refused with the code that a worker would have for it, and nothing of it is told."""
    found = encode(item, RequestLimits(bytes=OVERHEAD_BYTES + 5000))
    assert isinstance(found, RequestRefused)
    assert found.code == code
    assert MARKER not in repr(found)


def test_item_is_encoded_as_the_contract_has_it() -> None:
    """Numbers of 64 bits and bytes are what they are in MessagePack."""
    for type_name, value in (("int64", -(2**63)), ("int64", 2**64 - 1), ("bytes", b"\xff\x00"), ("str", "ü")):
        encoded = encode((type_name, value), RequestLimits())  # type: ignore[arg-type]  # a literal in a tuple is a str
        assert isinstance(encoded, bytes)
        assert msgspec.msgpack.decode(encoded) == {"type": type_name, "value": value}


def test_item_asks_for_bytes() -> None:
    """An item may say that its value stands as bytes; anything else it says of that is a mistake in the program."""
    for kind in (TypeName.STR, TypeName.EMAIL):
        encoded = encode(Item(kind, b"\xff", "bytes"), RequestLimits())
        assert isinstance(encoded, bytes)
        assert msgspec.msgpack.decode(encoded) == {"type": kind, "as": "bytes", "value": b"\xff"}
    with pytest.raises(TypeError):
        encode(Item("str", "x", "hex"), RequestLimits())  # type: ignore[arg-type]  # the mistake


# Errors


def test_every_code_has_a_class_of_its_own_that_is_exported() -> None:
    """A caller can name what to catch for each code of the contract, and finds it in the package."""
    classes = {code: type(refusal(code, "x")) for code in Code}
    assert len({*classes.values()}) == len(Code)
    for code, kind in classes.items():
        assert issubclass(kind, RequestRefused)
        assert kind.__name__ == "".join(word.capitalize() for word in code.split("_"))
        assert getattr(client_module, kind.__name__) is kind


def test_all_errors_have_one_base() -> None:
    """``except TokenClientError`` catches whatever the client raises on purpose."""
    kinds = [it for it in vars(client_module).values() if isinstance(it, type) and issubclass(it, Exception)]
    assert len(kinds) > len(Code)
    assert all(issubclass(kind, TokenClientError) for kind in kinds)


def test_error_of_a_list_shows_no_value() -> None:
    """Tracebacks and logs of a list that failed in part have how many and why, and none of the answers."""
    error = SomeFailed([MARKER, TokenNotFound(Code.TOKEN_NOT_FOUND, "no such token"), MARKER])
    assert str(error) == "1 of 3 values were refused: token_not_found"
    assert MARKER not in f"{error!r} {error} {error:} {ExceptionGroup('x', [error])!r}"
    assert error.answers[0] == MARKER


# Calls by their deadlines


def call_until(deadline: float) -> Call:
    return Call(1, deadline, lambda: TimedOut("late"), lambda _: None)


def test_call_is_taken_once() -> None:
    """Of all that would end a call, one does."""
    calls, call = DeadlineTable(), call_until(5.0)
    assert calls.add(call)
    assert calls.take(call)
    assert not calls.take(call)
    assert calls.close() == []


def test_overdue_calls_are_those_whose_time_is_up() -> None:
    """A deadline is kept to 10 ms, never early."""
    calls = DeadlineTable()
    early, late = call_until(5.001), call_until(6.0)
    for call in (early, late):
        assert calls.add(call)
    assert calls.wait_for_overdue(5.5) == [early]
    assert not calls.take(early)
    assert calls.take(late)


def test_closed_takes_no_more_and_gives_all_back() -> None:
    """Calls that are open at the end are handed out to be ended; later ones are not taken."""
    calls, call = DeadlineTable(), call_until(5.0)
    assert calls.add(call)
    assert calls.close() == [call]
    assert not calls.add(call_until(5.0))
    assert calls.wait_for_overdue(0.0) == []


@pytest.mark.parametrize("wake", [DeadlineTable.wake, DeadlineTable.close, lambda calls: calls.add(call_until(50.0))])
def test_who_waits_for_deadlines_is_woken(wake: Callable[[DeadlineTable], object]) -> None:
    """By an earlier deadline, by the end, and on demand; also where that came before the wait."""
    calls = DeadlineTable()
    assert calls.add(call_until(1e6))
    done = threading.Event()

    def wait() -> None:
        assert calls.wait_for_overdue(0.0) == []
        done.set()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    wait_until(lambda: calls._next < 1e9, "the wait")
    wake(calls)
    assert done.wait(30)
    thread.join()
    calls.wake()
    assert calls.wait_for_overdue(0.0) == []


# Streams of replies


def test_own_stream_is_one_that_the_route_allows() -> None:
    """A name of its own for each client, below the route's response stream; none where the route has no room for it."""
    names = [Replies(route, DEFAULT_ROUTES).name for route in (*DEFAULT_ROUTES, DEFAULT_ROUTES[0])]
    assert len({*names}) == 3
    assert names[0].startswith("tokenize:responses:client-")
    odd = Route("in", "out", frozenset({Op.TOKENIZE}), reply_to="replies-?:*:*")
    assert own_reply_stream(odd, [odd], "me") == "replies--:me:"
    for pattern in ("out:fixed", "out:?"):
        with pytest.raises(ValueError, match="needs a \\*"):
            Replies(Route("in", "out", frozenset({Op.TOKENIZE}), reply_to=pattern), [])


def test_own_stream_is_read_from_where_the_last_read_ended() -> None:
    """What was read is not read again, and an answer about another stream changes nothing."""
    replies = Replies(ROUTE, [ROUTE])
    replies.start(0.0)
    name = replies.name.encode()
    assert replies.read_command(9) == ("XREAD", "COUNT", 1000, "BLOCK", 9, "STREAMS", replies.name, "0-0")
    entries = [(b"1-0", [b"payload", b"a"]), (b"2-0", [b"other", b"x"]), (b"3-0", [b"x", b"y", b"payload", b"b"])]
    assert replies.take([[name, entries]], 1.0) == [b"a", b"b"]
    assert replies.last_id == b"3-0"
    assert replies.take([[b"out:client-before", [(b"9-0", [b"payload", b"c"])]]], 1.0) == []
    assert replies.take(None, 1.0) == []
    assert replies.last_id == b"3-0"


def test_own_stream_changes_only_after_a_rest_in_which_it_may_have_expired() -> None:
    """A third of its time to live is safe; after more, another name is taken, and read from its beginning."""
    replies = Replies(ROUTE, [ROUTE])
    replies.start(100.0)
    first = replies.name
    replies.take([[first.encode(), [(b"1-0", [b"payload", b"a"])]]], 110.0)
    replies.start(130.0)
    assert (replies.name, replies.last_id) == (first, b"1-0")
    replies.start(150.1)
    assert replies.name != first
    assert replies.last_id == "0-0"
    assert replies.removal_commands() == [("UNLINK", replies.name)]


def test_own_stream_is_kept_short_and_alive_now_and_then() -> None:
    """What was read is trimmed and the time to live begins anew, every ten seconds at most."""
    replies = Replies(ROUTE, [ROUTE])
    assert replies.removal_commands() == []
    replies.start(0.0)
    assert replies.trim_commands(9.0) == []
    replies.take([[replies.name.encode(), [(b"1-0", [b"payload", b"a"])]]], 10.0)
    assert replies.trim_commands(10.0) == [("XTRIM", replies.name, "MINID", b"1-0"), ("EXPIRE", replies.name, 60)]
    assert replies.trim_commands(19.0) == []


# Routes


def test_route_is_that_of_the_client_before_one_for_all() -> None:
    """A pinned route is taken for its client; without a client only where there is no doubt."""
    ops = frozenset({Op.TOKENIZE})
    one, two = (Route(f"{name}:in", f"{name}:out", ops, client_id=f"{name}-client") for name in ("one", "two"))
    rest = Route("rest:in", "rest:out", ops)
    assert route_for([rest, one, two], Op.TOKENIZE, "two-client") is two
    assert route_for([rest, one, two], Op.TOKENIZE, "third-client") is rest
    assert route_for([one], Op.TOKENIZE, None) is one
    for routes, op, client_id in (
        ([rest], Op.TOKENIZE, None),
        ([one, two], Op.TOKENIZE, None),
        ([one], Op.TOKENIZE, "two-client"),
        ([one, rest], Op.DETOKENIZE, "one-client"),
    ):
        with pytest.raises(ValueError, match=r"name a client|no route"):
            route_for(routes, op, client_id)


# Settings


@pytest.mark.parametrize(
    "options",
    [
        *({"timeout_seconds": seconds} for seconds in (0, -1, float("nan"), float("inf"), 1e10)),
        *({"batch_ms": it} for it in (-1, float("nan"), float("inf"))),
        {"max_in_flight": 0},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", [TokenClient, AsyncTokenClient])
def test_settings_out_of_range_are_refused(kind: type[TokenClient | AsyncTokenClient], options: dict[str, Any]) -> None:
    """A time or number that a thread of the client would choke on later is a ``ValueError`` at once."""
    with pytest.raises(ValueError, match=next(iter(options))):
        kind("redis://127.0.0.1", **options)


@pytest.mark.parametrize(
    "options",
    [
        *({"timeout_seconds": seconds} for seconds in (0, -1, float("nan"), float("inf"), 1e10)),
        {"client_id": "shop\ud800"},
        {"client_id": "x" * 257},
        {"zone_id": "shop\ud800"},
    ],
    ids=ascii,
)
def test_call_that_could_not_be_sent_is_refused_at_once(options: dict[str, Any]) -> None:
    """What no request can hold never gets to the threads that all calls share; nothing was started for it."""
    client = TokenClient("redis://127.0.0.1:1", client_id="shop-frontend")
    with pytest.raises(ValueError, match=next(iter(options))):
        client.submit("tokenize", [("str", MARKER)], **options)
    assert not client._engine.needs_closing


def test_client_shows_where_it_sends_to_and_no_password() -> None:
    """``repr`` has the server and the client id, and nothing secret."""
    shown = repr(TokenClient("redis://user:hush@streams.example:7000/0", client_id="shop-frontend"))
    assert shown == "TokenClient('streams.example:7000', client_id='shop-frontend')"


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an address it is the one that workers have, and so are the limits and routes."""
    monkeypatch.setenv("TOKEN_WORKER_STREAMS_URL", "redis://elsewhere:7001/0")
    monkeypatch.setenv("TOKEN_WORKER_MAX_ITEMS", "7")
    client = TokenClient(client_id="shop-frontend")
    assert repr(client) == "TokenClient('elsewhere:7001', client_id='shop-frontend')"
    assert client._engine._limits.items == 7


# What importing it costs

NOT_LOADED = ("hvac", "requests", "click", "rich", "structlog", "prometheus_client")
OF_CRYPTOGRAPHY = {"cryptography", "cryptography.__about__"}
"""What redis-py itself loads of it: no cipher."""


def test_import_loads_neither_vault_nor_ciphers() -> None:
    """A producer's process has nothing in memory of what only workers and commands need."""
    code = "import sys, token_worker.client; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = {*done.stdout.split()}
    assert not [name for name in NOT_LOADED if name in loaded]
    assert {name for name in loaded if name.startswith("cryptography")} <= OF_CRYPTOGRAPHY


# Types, which mypy checks


def _types_follow_the_value(client: TokenClient) -> None:
    assert_type(client.tokenize("a"), str)
    assert_type(client.tokenize(1, type="int32"), int)
    assert_type(client.tokenize(b"a", zone_id="zone"), bytes)
    assert_type(client.detokenize(["a"], timeout_seconds=1), list[str])
    assert_type(client.detokenize([1]), list[int])
    assert_type(client.tokenize(["a", None]), list[str | None])
    assert_type(client.request("tokenize", [("str", "a")]), list[int | str | bytes | RequestRefused])
    assert_type(client.submit("tokenize", [Item("str", "a")]).result(), list[int | str | bytes | RequestRefused])


async def _types_follow_the_value_in_a_loop(client: AsyncTokenClient) -> None:
    assert_type(await client.tokenize("a"), str)
    assert_type(await client.detokenize(1), int)
    assert_type(await client.tokenize([b"a"]), list[bytes])
    assert_type(await client.detokenize([None, 1]), list[int | None])
    assert_type(await client.detokenize(["a"], type="email"), list[str])
    assert_type(await client.request("tokenize", [("str", "a")]), list[int | str | bytes | RequestRefused])
