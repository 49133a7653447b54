"""Results of lists, types, refusals and options, from a worker in this process."""

import asyncio
import doctest
import importlib
import pkgutil
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from harness.clients import CLIENT, LONG_SECONDS, Kind
from token_worker import client as client_module
from token_worker.acra.value_types import EMAIL
from token_worker.client import (
    AsyncTokenClient,
    Forbidden,
    FormatConflict,
    FormatNotAllowed,
    InvalidRequest,
    Item,
    OtherFormat,
    RequestRefused,
    SomeFailed,
    TokenClient,
    TokenNotFound,
    TokenSpaceExhausted,
    UnknownType,
    ValueOutOfRange,
)
from token_worker.contract.messages import Op
from token_worker.settings import load
from token_worker.streams.routes import Route
from token_worker.testing import InProcessWorker
from token_worker.tokens.formats import KINDS

ROUTES = (
    Route("shop:in", "shop:out", frozenset(Op), client_id=CLIENT),
    Route("rest:in", "rest:out", frozenset({Op.TOKENIZE}), reply_to="rest:out:?:*"),
)


@pytest.fixture
def worker() -> Iterator[InProcessWorker]:
    with InProcessWorker() as worker:
        yield worker


@pytest.fixture
def client(worker: InProcessWorker, kind: Kind) -> Iterator[Any]:
    """A client of either kind."""
    with kind(worker.url, client_id=CLIENT, timeout_seconds=LONG_SECONDS) as client:
        yield client


def test_type_is_that_of_the_value_where_none_is_named(client: Any) -> None:
    """``int`` is ``int64``, the others are what they are called."""
    for value, type_name in ((2**40, "int64"), ("some text", "str"), (b"some bytes", "bytes")):
        token = client.tokenize(value)
        assert client.detokenize(token, type=type_name) == value


def test_none_in_a_list_stays_none(client: Any, worker: InProcessWorker) -> None:
    """``None`` in a list (an empty column, NULL) has no token: it keeps its place, and is not sent."""
    one, two = client.tokenize(["Grace", "Ada"])
    sent = len(worker.requests)
    assert client.tokenize([None, "Grace", None, None, "Ada"], type="str") == [None, one, None, None, two]
    assert worker.requests[-1].values == ["Grace", "Ada"]
    assert client.detokenize([one, None, two, None]) == ["Grace", None, "Ada", None]
    assert client.tokenize([None, None]) == [None, None]
    assert len(worker.requests) == sent + 2
    many = [None if number % 3 else f"value {number}" for number in range(5000)]
    assert client.detokenize(client.tokenize(many)) == many
    with pytest.raises(SomeFailed, match="1 of 4 values") as caught:
        client.detokenize([None, "no such token", None, two])
    first, second, third, fourth = caught.value.answers
    assert (first, third, fourth) == (None, None, "Ada")
    assert isinstance(second, TokenNotFound)


def test_none_alone_is_a_mistake(client: Any, worker: InProcessWorker) -> None:
    """A single value has to be there, as an item of a record has: ``TypeError``, and nothing is sent."""
    calls: list[Callable[[], Any]] = [
        lambda: client.tokenize(None),
        lambda: client.detokenize(None, type="email"),
        lambda: client.request("tokenize", [("str", "a"), ("str", None)]),
    ]
    for call in calls:
        with pytest.raises(TypeError, match="expected int, str or bytes, got NoneType"):
            call()
    client.tokenize("the next request")
    assert [request.values for request in worker.requests] == [["the next request"]]


@pytest.mark.parametrize("type_name", [None, "str"])
def test_value_of_a_list_that_cannot_be_sent_is_named(client: Any, type_name: str | None) -> None:
    """A list of a data frame has NaN where a value is missing. The error says where, and what to put there."""
    with pytest.raises(TypeError, match=r"^values\[2\]: expected int, str or bytes, got float; None stands for no"):
        client.tokenize(["Grace", None, float("nan"), "Ada"], type=type_name)


@pytest.mark.parametrize(
    ("item", "complaint"),
    [
        (("str", 1.5), "expected int, str or bytes, got float"),
        ({"type": "str", "value": "Ada"}, "expected an Item, or a tuple of type and value"),
        (("str",), "expected an Item, or a tuple of type and value"),
    ],
)
def test_item_that_cannot_be_sent_is_named(client: Any, item: Any, complaint: str) -> None:
    """A mistake in one of many items is told with its place."""
    with pytest.raises(TypeError, match=rf"^items\[1\]: {complaint}$"):
        client.request("tokenize", [("str", "Grace"), item])


def test_list_may_change_while_it_is_worked_on(worker: InProcessWorker) -> None:
    """The list as it was given counts, for its values and for what was None."""
    values: list[str | None] = ["Grace", None, "Ada"]

    async def main() -> list[str | None]:
        async with AsyncTokenClient(worker.url, client_id=CLIENT, timeout_seconds=LONG_SECONDS) as client:
            task = asyncio.create_task(client.tokenize(values))
            await asyncio.sleep(0)  # it has begun
            values.clear()
            return await task

    assert [result is None for result in asyncio.run(main())] == [False, True, False]


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
    assert [type(answer) for answer in client.request("tokenize", items[2:4])] == kinds[2:4]  # nothing to send at all


def test_values_with_few_tokens_run_out_of_them(client: Any) -> None:
    """There are 62 tokens of one character: some of 90 values find none, and say so."""
    with pytest.raises(SomeFailed) as caught:
        client.tokenize([chr(0x20 + number) for number in range(90)])
    assert {type(answer) for answer in caught.value.answers} == {str, TokenSpaceExhausted}


CARD = "4242 4242 4242 4242"


def test_tokens_have_the_format_that_is_asked_for(client: Any, worker: InProcessWorker) -> None:
    """A value, a list and an item may name a format; detokenizing needs none."""
    token = client.tokenize(CARD, format="pan")
    assert re.fullmatch(r"\d{4} \d{4} \d{4} 4242", token)
    assert client.tokenize([CARD, None], format="pan") == [token, None]
    items = [Item("str", CARD, format="pan"), ("str", "Grace"), Item("str", CARD.encode(), "bytes", "pan")]
    answers = client.request("tokenize", items)
    assert (answers[0], answers[2]) == (token, token)
    assert client.detokenize(token) == CARD
    formats = [("pan",), ("pan",), ("pan", None, "pan"), (None,)]
    assert [request.formats for request in worker.requests] == formats


def test_value_that_does_not_fit_its_format_is_refused(client: Any) -> None:
    """The error has the code of the contract, and what the format expects; the others have their tokens."""
    with pytest.raises(ValueOutOfRange, match="Luhn"):
        client.tokenize("4242 4242 4242 4243", format="pan")
    with pytest.raises(SomeFailed) as caught:
        client.tokenize([CARD, "Grace"], format="pan")
    assert [type(answer) for answer in caught.value.answers] == [str, ValueOutOfRange]


def test_format_that_the_worker_does_not_have_is_not_allowed(client: Any) -> None:
    """The worker knows its formats, and the client cannot: it sends any name, and the worker refuses."""
    with pytest.raises(FormatNotAllowed):
        client.tokenize(CARD, format="no such format")
    with pytest.raises(FormatNotAllowed):
        client.tokenize(CARD, type="email", format="pan")


def test_name_that_no_format_can_have_is_refused_without_a_request(client: Any, worker: InProcessWorker) -> None:
    """An empty or too long name is refused at once, and one that is no text is a mistake in the program."""
    for name in ("", "x" * 65):
        with pytest.raises(InvalidRequest, match="format: expected text of 1 to 64 characters"):
            client.tokenize(CARD, format=name)
    for wrong in (5, ["pan"]):
        with pytest.raises(TypeError):
            client.tokenize(CARD, format=wrong)
    assert worker.requests == []


def test_type_is_that_of_the_format_where_none_is_named(worker: InProcessWorker, kind: Kind) -> None:
    """Without a type, values have the type of a built-in format, or of one of the settings; else as without format."""
    with kind(worker.url, client_id=CLIENT, timeout_seconds=LONG_SECONDS) as client:
        for name, format_kind in KINDS.items():
            with suppress(RequestRefused):  # the value need not fit
                client.tokenize("x", format=name)
            assert worker.requests[-1].types == (format_kind.value_type.name,)
        with pytest.raises(InvalidRequest, match="expected text"):
            client.tokenize(4242424242424242, format="pan")
        with pytest.raises(FormatNotAllowed):
            client.tokenize(b"x", format="unknown here")
        assert worker.requests[-1].types == ("bytes",)


def test_type_is_that_of_a_format_of_the_settings(worker: InProcessWorker, kind: Kind) -> None:
    """A client with the settings of the workers knows the formats there, and so their types."""
    formats = [{"name": "card", "kind": "pan", "keep_first": 6}]
    settings = load(
        {"TOKEN_WORKER_STREAMS_URL": worker.url, "TOKEN_WORKER_FORMATS": msgspec.json.encode(formats).decode()}
    )
    of_email = SimpleNamespace(value_type=EMAIL)
    settings = msgspec.structs.replace(settings, formats={**settings.formats, "mail": of_email})
    with kind(settings, client_id=CLIENT, timeout_seconds=LONG_SECONDS) as client:
        for name, type_name in (("card", "str"), ("mail", "email"), ("neither", "str")):
            with pytest.raises(FormatNotAllowed):  # the worker has other settings
                client.tokenize("grace@navy.example", format=name)
            assert worker.requests[-1].types == (type_name,)


def test_token_of_another_format_is_marked_if_the_call_says_so(client: Any) -> None:
    """A value with a token from before keeps it: a plain ``str``, or with ``mark_other`` an ``OtherFormat``."""
    before = client.tokenize(CARD)
    known = client.tokenize("5555 5555 5555 4444", format="pan")
    assert type(client.tokenize(CARD, format="pan")) is str
    marked = client.tokenize(CARD, format="pan", mark_other=True)
    assert (type(marked), marked) == (OtherFormat, before)
    assert client.detokenize(marked) == CARD
    tokens = client.tokenize([CARD, "5555 5555 5555 4444", None], format="pan", mark_other=True)
    assert tokens == [before, known, None]
    assert [type(token) for token in tokens] == [OtherFormat, str, type(None)]
    answers = client.request("tokenize", [("str", CARD), Item("str", CARD, format="pan")], mark_other=True)
    assert [type(answer) for answer in answers] == [str, OtherFormat]


def test_route_may_set_formats_and_refuse_tokens_of_another(kind: Kind) -> None:
    """A route's format needs no word of the client; where it refuses tokens of another form, the call fails."""
    plain = Route("plain:in", "plain:out", frozenset({Op.TOKENIZE}), client_id="plain")
    strict = Route("in", "out", frozenset(Op), formats={"*": "card"}, on_other="refuse")
    formats = [{"name": "card", "kind": "pan", "keep_first": 6}]
    with (
        InProcessWorker([plain, strict], formats) as worker,
        kind(worker.url, routes=[strict], client_id="plain", timeout_seconds=LONG_SECONDS) as client,
        kind(worker.url, routes=[plain], client_id="plain", timeout_seconds=LONG_SECONDS) as without_formats,
    ):
        assert re.fullmatch(r"4242 42\d\d \d{4} 4242", client.tokenize(CARD))
        without_formats.tokenize("5555 5555 5555 4444")
        with pytest.raises(FormatConflict):
            client.tokenize("5555 5555 5555 4444", mark_other=True)


def test_whose_key_and_how_is_said_by_client_or_call(worker: InProcessWorker, kind: Kind) -> None:
    """Options of the client hold for each call that says nothing else; another client's call leaves the zone aside."""
    url = worker.url
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


def test_routes_that_the_client_is_given(kind: Kind) -> None:
    """Requests go to the route of their client; what a route does not serve is refused here, or by its worker."""
    with (
        InProcessWorker(ROUTES) as worker,
        kind(worker.url, routes=ROUTES, timeout_seconds=LONG_SECONDS) as client,
    ):
        token = client.tokenize("some value", client_id=CLIENT)
        assert client.detokenize(token) == "some value"  # one route alone: the client is clear
        assert client.tokenize("some value", client_id="other-client") != token
        assert [request.stream for request in worker.requests] == ["shop:in", "shop:in", "rest:in"]
        with pytest.raises(ValueError, match="no route"):
            client.detokenize(token, client_id="other-client")
        with pytest.raises(ValueError, match="name a client"):
            client.tokenize("some value")
        with pytest.raises(Forbidden):
            client.tokenize("some value", client_id=CLIENT, zone_id="zone-one")


def test_examples_of_the_docstrings(worker: InProcessWorker) -> None:
    """Every example in the client's docstrings does what it shows."""
    attempted = 0
    with TokenClient(worker.url, client_id=CLIENT, timeout_seconds=LONG_SECONDS) as client:
        known = {"client": client, "streams": worker.url, "asyncio": asyncio}
        known |= {"TokenClient": TokenClient, "AsyncTokenClient": AsyncTokenClient}
        for module in pkgutil.iter_modules(client_module.__path__, f"{client_module.__name__}."):
            done = doctest.testmod(importlib.import_module(module.name), extraglobs=known)
            assert done.failed == 0, module.name
            attempted += done.attempted
    assert attempted >= 9
