"""The client with real workers: what comes back for each type, list and refusal, in threads and in an event loop."""

import asyncio
import doctest
import importlib
import json
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from harness.clients import CLIENT, LONG_SECONDS, Kind
from harness.stack import Stack
from token_worker import client as client_module
from token_worker.acra.owner import Owner
from token_worker.acra.token_entry import Names
from token_worker.acra.value_types import TYPES
from token_worker.client import (
    AsyncTokenClient,
    EntryUnreadable,
    Forbidden,
    InvalidEmail,
    InvalidRequest,
    Item,
    KeyUnreadable,
    RequestRefused,
    SomeFailed,
    TokenClient,
    TokenDisabled,
    TokenNotFound,
    TokenSpaceExhausted,
    UnknownClient,
    UnknownType,
    UnknownZone,
    ValueOutOfRange,
    ValueTooLarge,
)
from token_worker.contract.messages import Op
from token_worker.streams.routes import Route

VALUES: list[tuple[Any, Any]] = [
    ("int32", -(2**31)),
    ("int64", 2**63 - 1),
    ("str", "Grace Hopper, née Murray"),
    ("bytes", b"\x00\xff"),
    ("email", "grace@navy.example"),
]


@pytest.fixture
def client(served: Stack, kind: Kind) -> Iterator[Any]:
    """A client of either kind, whose worker runs."""
    with kind(served.settings["TOKEN_WORKER_STREAMS_URL"], client_id=CLIENT, timeout_seconds=LONG_SECONDS) as client:
        yield client


def test_every_type_goes_there_and_back(client: Any, served: Stack) -> None:
    """A token has the type of its value and turns back into it; alone, in a list, and in a record of many types."""
    for type_name, value in VALUES:
        token = client.tokenize(value, type=type_name)
        assert type(token) is type(value)
        assert token != value
        assert client.detokenize(token, type=type_name) == value
        assert client.tokenize([value, value], type=type_name) == [token, token]
    tokens = client.request("tokenize", [Item(type_name, value) for type_name, value in VALUES])
    names = [type_name for type_name, _ in VALUES]
    assert client.request(Op.DETOKENIZE, [*zip(names, tokens, strict=True)]) == [value for _, value in VALUES]
    # and it is the contract's own token: that of a request of somebody else
    asked = {"id": "1", "op": "tokenize", "client_id": CLIENT, "type": "email", "value": "grace@navy.example"}
    assert served.ask([asked])["1"]["value"] == tokens[-1]


def test_type_is_that_of_the_value_where_none_is_named(client: Any) -> None:
    """``int`` is ``int64``, the others are what they are called."""
    for value, type_name in ((2**40, "int64"), ("some text", "str"), (b"some bytes", "bytes")):
        token = client.tokenize(value)
        assert client.detokenize(token, type=type_name) == value


def test_list_longer_than_a_request(client: Any, served: Stack) -> None:
    """A list of any length is one call, its tokens in order; no request is longer than workers take."""
    values = [f"value {number}" for number in range(2500)]
    tokens = client.tokenize(values)
    assert len({*tokens}) == 2500
    assert served.streams.xlen("tokenize:requests") == 3
    assert client.detokenize(tokens) == values
    large = [f"{number}".ljust(50_000, "x") for number in range(50)]
    assert client.detokenize(client.tokenize(large)) == large
    assert client.tokenize([]) == []
    assert not served.streams.exists("tokenize:requests:dead")


def test_none_in_a_list_stays_none(client: Any, served: Stack) -> None:
    """``None`` in a list (an empty column, NULL) has no token: it keeps its place, and is not sent."""
    one, two = client.tokenize(["Grace", "Ada"])
    sent = served.streams.xlen("tokenize:requests")
    assert client.tokenize([None, "Grace", None, None, "Ada"], type="str") == [None, one, None, None, two]
    assert client.detokenize([one, None, two, None]) == ["Grace", None, "Ada", None]
    assert client.tokenize([None, None]) == [None, None]
    assert served.streams.xlen("tokenize:requests") == sent + 1
    many = [None if number % 3 else f"value {number}" for number in range(5000)]
    assert client.detokenize(client.tokenize(many)) == many
    with pytest.raises(SomeFailed, match="1 of 4 values") as caught:
        client.detokenize([None, "no such token", None, two])
    first, second, third, fourth = caught.value.answers
    assert (first, third, fourth) == (None, None, "Ada")
    assert isinstance(second, TokenNotFound)


def test_none_alone_is_a_mistake(client: Any, served: Stack) -> None:
    """A single value has to be there, as an item of a record has: ``TypeError``, and nothing is sent."""
    calls: list[Callable[[], Any]] = [
        lambda: client.tokenize(None),
        lambda: client.detokenize(None, type="email"),
        lambda: client.request("tokenize", [("str", "a"), ("str", None)]),
    ]
    for call in calls:
        with pytest.raises(TypeError, match="expected int, str or bytes, got NoneType"):
            call()
    assert not served.streams.exists("tokenize:requests", "detokenize:requests")


def test_list_may_change_while_it_is_worked_on(served: Stack) -> None:
    """The list as it was given counts, for its values and for what was None."""
    values: list[str | None] = ["Grace", None, "Ada"]

    async def main() -> list[str | None]:
        url = served.settings["TOKEN_WORKER_STREAMS_URL"]
        async with AsyncTokenClient(url, client_id=CLIENT, timeout_seconds=LONG_SECONDS) as client:
            task = asyncio.create_task(client.tokenize(values))
            await asyncio.sleep(0)  # it has begun
            values.clear()
            return await task

    assert [it is None for it in asyncio.run(main())] == [False, True, False]


def test_refused_value_among_others(client: Any) -> None:
    """The others have their tokens, which the error brings along; what no request can carry is an answer, too."""
    known = client.tokenize(["Grace", "Ada"])
    with pytest.raises(SomeFailed) as caught:
        client.detokenize([known[0], "no such token", known[1]])
    first, second, third = caught.value.answers
    assert (first, third) == ("Grace", "Ada")
    assert isinstance(second, TokenNotFound)
    items: list[Any] = [
        ("str", "\ud800"),
        ("str", "Grace"),
        ("int64", 2**70),
        ("text", "x"),
        ("str", "Ada"),
        ("str", ""),
    ]
    answers = client.request("tokenize", items)
    assert [answers[1], answers[4]] == known
    kinds = [InvalidRequest, str, ValueOutOfRange, UnknownType, str, ValueOutOfRange]
    assert [type(answer) for answer in answers] == kinds
    assert [type(it) for it in client.request("tokenize", items[2:4])] == kinds[2:4]  # nothing to send at all


SECRET = "4242-4242-4242"

REFUSED: list[tuple[type[RequestRefused], Callable[[Any], Any]]] = [
    (InvalidRequest, lambda client: client.tokenize(SECRET, type="int64")),
    (UnknownType, lambda client: client.tokenize(SECRET, type="text")),
    (ValueOutOfRange, lambda client: client.tokenize(2**31, type="int32")),
    (ValueOutOfRange, lambda client: client.tokenize("")),
    (ValueTooLarge, lambda client: client.tokenize("x" * 100_000)),
    (ValueTooLarge, lambda client: client.tokenize("x" * 2_000_000)),
    (InvalidEmail, lambda client: client.tokenize(SECRET, type="email")),
    (UnknownClient, lambda client: client.tokenize(SECRET, client_id="nobody-here")),
    (UnknownClient, lambda client: client.tokenize([SECRET] * 3, client_id="nobody-here")),
    (UnknownZone, lambda client: client.tokenize(SECRET, zone_id="no-such-zone")),
    (TokenNotFound, lambda client: client.detokenize(SECRET)),
    (KeyUnreadable, lambda client: client.tokenize(SECRET, client_id="damaged-key")),
]


@pytest.mark.parametrize(("error", "call"), REFUSED, ids=[kind.__name__ for kind, _ in REFUSED])
def test_refusal_has_the_class_of_its_code(client: Any, served: Stack, error: type, call: Callable[[Any], Any]) -> None:
    """What a worker refuses is raised as what it is, with a message that tells nothing of the value."""
    served.storage.set(".acrakeys/damaged-key_storage_sym", b"x" * 100)
    with pytest.raises(RequestRefused) as caught:
        call(client)
    found = caught.value
    assert type(found) is error
    assert SECRET not in f"{found} {found!r}"


def test_disabled_and_damaged_tokens(client: Any, served: Stack) -> None:
    """A token that somebody disabled and one whose entry is damaged are different errors."""
    disabled, damaged = client.tokenize(["one value", "other value"])
    done = served.run("tokens", "disable", CLIENT, "--type", "str", "--token", value=disabled)
    assert done.returncode == 0, done.stderr
    served.storage.set(Names(Owner("client", CLIENT)).of_token(damaged.encode(), TYPES["str"].number), b"damaged")
    for token, error in ((disabled, TokenDisabled), (damaged, EntryUnreadable)):
        with pytest.raises(error):
            client.detokenize(token)


def test_values_with_few_tokens_run_out_of_them(client: Any) -> None:
    """There are 62 tokens of one character: some of 90 values find none, and say so."""
    with pytest.raises(SomeFailed) as caught:
        client.tokenize([chr(0x20 + number) for number in range(90)])
    assert {type(answer) for answer in caught.value.answers} == {str, TokenSpaceExhausted}


def test_whose_key_and_how_is_said_by_client_or_call(served: Stack, kind: Kind) -> None:
    """Options of the client hold for each call that says nothing else; another client's call leaves the zone aside."""
    served.generate_key("zone-one", "zone")
    served.generate_key("other-client")
    url = served.settings["TOKEN_WORKER_STREAMS_URL"]
    with kind(url, client_id=CLIENT, zone_id="zone-one", consistent=False, timeout_seconds=LONG_SECONDS) as client:
        of_zone = client.tokenize("some value", consistent=True)
        of_other = client.tokenize("some value", client_id="other-client", consistent=True)
        assert client.tokenize("some value") not in {of_zone, client.tokenize("some value")}
        assert client.detokenize(of_zone) == "some value"
        with pytest.raises(TokenNotFound):
            client.detokenize(of_other)
        assert client.detokenize(of_other, client_id="other-client") == "some value"
    with kind(url, client_id="other-client", timeout_seconds=LONG_SECONDS) as client:
        assert client.tokenize("some value") == of_other


ROUTES = (
    Route("shop:in", "shop:out", frozenset(Op), client_id=CLIENT),
    Route("rest:in", "rest:out", frozenset({Op.TOKENIZE}), reply_to="rest:out:?:*"),
)


def test_routes_of_the_settings(stack: Stack, kind: Kind) -> None:
    """Requests go to the route of their client; what a route does not serve is refused here, or by its worker."""
    listed = [{"requests": "shop:in", "responses": "shop:out", "ops": [*Op], "client_id": CLIENT}]
    listed.append({"requests": "rest:in", "responses": "rest:out", "ops": ["tokenize"], "reply_to": "rest:out:?:*"})
    stack.generate_key("other-client")
    stack.start_worker(TOKEN_WORKER_ROUTES=json.dumps(listed))
    with kind(stack.settings["TOKEN_WORKER_STREAMS_URL"], routes=ROUTES, timeout_seconds=LONG_SECONDS) as client:
        token = client.tokenize("some value", client_id=CLIENT)
        assert client.detokenize(token) == "some value"  # one route alone: the client is clear
        assert client.tokenize("some value", client_id="other-client") != token
        assert [stack.streams.xlen(name) for name in ("shop:in", "rest:in")] == [2, 1]
        with pytest.raises(ValueError, match="no route"):
            client.detokenize(token, client_id="other-client")
        with pytest.raises(ValueError, match="name a client"):
            client.tokenize("some value")
        with pytest.raises(Forbidden):
            client.tokenize("some value", client_id=CLIENT, zone_id="zone-one")
    for worker in stack.workers:
        worker.kill()


def test_two_clients_at_once_on_the_shared_stream(served: Stack, kind: Kind) -> None:
    """Each takes its own replies from among those of the other and of producers that write JSON, old ones and new."""
    url = served.settings["TOKEN_WORKER_STREAMS_URL"]

    def asked(number: int) -> dict[str, Any]:
        return {"id": f"{number}", "op": "tokenize", "client_id": CLIENT, "type": "str", "value": f"json {number}"}

    served.ask([asked(number) for number in range(50)])
    with TokenClient(url, client_id=CLIENT, shared_replies=True, timeout_seconds=LONG_SECONDS) as beside:
        futures = [beside.submit("tokenize", [("str", f"beside {number}")]) for number in range(200)]
        with kind(url, client_id=CLIENT, shared_replies=True, timeout_seconds=LONG_SECONDS) as client:
            served.streams.xadd("tokenize:responses", {"payload": b"\x81\xa2id\xa1\xff"})
            served.send([asked(number) for number in range(50, 100)])
            tokens = client.tokenize([f"value {number}" for number in range(1500)])
            assert client.detokenize(tokens) == [f"value {number}" for number in range(1500)]
            found: list[Any] = [future.result()[0] for future in futures]
            assert beside.detokenize(found) == [f"beside {number}" for number in range(200)]
    names = {name for name in served.streams.keys("*") if b"client-" in name}
    assert not names
    assert served.streams.ttl("tokenize:responses") == -1


def test_examples_of_the_docstrings(served: Stack) -> None:
    """Every example in the client's docstrings does what it shows."""
    url = served.settings["TOKEN_WORKER_STREAMS_URL"]
    attempted = 0
    with TokenClient(url, client_id=CLIENT, timeout_seconds=LONG_SECONDS) as client:
        known = {"client": client, "streams": url, "asyncio": asyncio}
        known |= {"TokenClient": TokenClient, "AsyncTokenClient": AsyncTokenClient}
        for module in pkgutil.iter_modules(client_module.__path__, f"{client_module.__name__}."):
            done = doctest.testmod(importlib.import_module(module.name), extraglobs=known)
            assert done.failed == 0, module.name
            attempted += done.attempted
    assert attempted >= 9
