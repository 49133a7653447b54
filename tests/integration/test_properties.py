"""Any sequence of requests keeps the promises: checked against a model in a dictionary, on a real server."""

import base64
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from harness.direct import DirectHandler, Message
from harness.servers import Valkey
from token_worker.acra.owner import Owner
from token_worker.keys.index_key import index_path, seal_index_key
from token_worker.keys.store import new_key, wrap
from token_worker.tokens.derivation import LETTERS

Value = int | str | bytes

MASTER_KEY = bytes(range(32))
NOW = 1_800_000_000


def number(bits: int) -> SearchStrategy[int]:
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    return st.sampled_from([low, low + 1, -1, 0, 1, high - 1, high]) | st.integers(low, high)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
ADDRESS = st.builds(
    "{}@{}".format, st.text("abcdefgh.żółć-", min_size=1, max_size=60), st.text("abc.", min_size=4, max_size=70)
)
VALUES: dict[str, SearchStrategy[Any]] = {
    "int32": number(32),
    "int64": number(64),
    "str": st.sampled_from(["a", "b", "ż", "same value", "0"]) | TEXT,
    "bytes": st.sampled_from([b"\0", b"\xff" * 8]) | st.binary(min_size=1, max_size=300),
    "email": st.sampled_from(["a@b.de", "ada@example.com"]) | ADDRESS,
}
ITEMS = st.sampled_from(list(VALUES)).flatmap(lambda kind: st.tuples(st.just(kind), VALUES[kind]))
"""A type and a value of it."""


class Held(NamedTuple):
    """A token that was given out: for whom, and of which type."""

    client: int
    kind: str
    token: Value


class Batch(NamedTuple):
    """Requests handled together, and what each asks for: (client, is it consistent, type and value of each item)."""

    requests: list[Message]
    asked: list[tuple[int, bool, list[tuple[str, Value]]]]


def length(value: Value) -> int | None:
    """In bytes as stored; numbers have none of their own."""
    if isinstance(value, int):
        return None
    return len(value.encode() if isinstance(value, str) else value)


def read(kind: str, value: Any, *, in_json: bool) -> Value:
    """A value of a reply, after checks that it has the type's form in this format."""
    if in_json and kind == "bytes":
        assert isinstance(value, str)
        return base64.b64decode(value, validate=True)
    if in_json and kind == "int64":
        assert isinstance(value, str)
        return int(value)
    assert type(value) is {"int32": int, "int64": int, "str": str, "bytes": bytes, "email": str}[kind]
    return cast("Value", value)


def fits(kind: str, value: Value, token: Value) -> bool:
    """Tell whether the token has the form of its type and the length of its value."""
    if isinstance(token, int):
        limit = 1 << (31 if kind == "int32" else 63)
        return -limit <= token < limit
    if kind == "str":
        return length(token) == length(value) and set(str(token).encode()) <= set(LETTERS)
    if kind == "email":
        return length(token) == length(value) and str(token).count("@") == 1
    return length(token) == length(value)


class Model:
    """The requests and answers of one example, with two clients of its own: it knows the right answers."""

    def __init__(self, handler: DirectHandler, clients: list[str]) -> None:
        self.handler = handler
        self.clients = clients
        self.tokens: dict[tuple[int, str, Value], Value] = {}
        """The consistent token of a value, for a client and type."""
        self.values: dict[Held, Value] = {}
        """The value behind every token."""

    def request(self, client: int, op: str, items: list[tuple[str, Value]], *, single: bool) -> Message:
        given = [{"type": kind, "value": value} for kind, value in items]
        request: Message = {"op": op, "client_id": self.clients[client]}
        return request | (given[0] if single else {"items": given})

    def tokenize(self, batch: Batch, *, in_json: bool, redelivered_at: int) -> None:
        """Ask for tokens twice, as after a worker's death, and check both answers."""
        replies = self.handler.ask(batch.requests, redelivered_at, in_json=in_json)
        again = self.handler.ask(batch.requests, redelivered_at, in_json=in_json)
        assert replies == again
        for reply, (client, is_consistent, items) in zip(replies, batch.asked, strict=True):
            for answer, (kind, value) in zip(_answers(reply), items, strict=True):
                if "error" in answer:
                    assert self._may_be_refused(kind, value, answer["error"]["code"])
                    continue
                token = read(kind, answer["value"], in_json=in_json)
                assert fits(kind, value, token)
                assert token != value or length(value) == 1
                if is_consistent:
                    assert self.tokens.setdefault((client, kind, value), token) == token
                assert self.values.setdefault(Held(client, kind, token), value) == value

    def _may_be_refused(self, kind: str, value: Value, code: str) -> bool:
        size = length(value)
        if kind == "email":
            return code == "invalid_email" and size not in range(6, 255)
        return code == "token_space_exhausted" and size == 1

    def detokenize(self, client: int, held: list[Held], *, in_json: bool, single: bool) -> None:
        """Turn tokens back for a client, its own and the other's, and check the answers."""
        items = [(one.kind, one.token) for one in held]
        request = self.request(client, "detokenize", items, single=single)
        (reply,) = self.handler.ask([request], in_json=in_json)
        for answer, (kind, token) in zip(_answers(reply), items, strict=True):
            value = self.values.get(Held(client, kind, token))
            if value is None:
                assert answer["error"]["code"] == "token_not_found"
            else:
                assert read(kind, answer["value"], in_json=in_json) == value


def _answers(reply: Message) -> list[Message]:
    answers: list[Message] = reply.get("items") or [reply]
    errors = sum("error" in answer for answer in answers)
    assert reply["status"] == ("ok" if not errors else "error" if errors == len(answers) else "partial")
    return answers


@st.composite
def requests_of(draw: st.DrawFn) -> tuple[int, bool, list[tuple[str, Value]], bool]:
    """Client, is it consistent, type and value of each item, is it without ``items``."""
    single = draw(st.booleans())
    items = draw(st.lists(ITEMS, min_size=1, max_size=1 if single else 5))
    if not single and draw(st.booleans()):
        items = [*items, *items]
    return draw(st.integers(0, 1)), draw(st.booleans()), items, single


@pytest.fixture(scope="module", params=["acra", "dense"])
def handler(_storage_process: Valkey, request: pytest.FixtureRequest) -> Iterator[DirectHandler]:
    """One for each layout and the whole module: each example has clients of its own."""
    with DirectHandler(_storage_process, MASTER_KEY, lambda: NOW, layout=request.param) as handler:
        yield handler


numbers = itertools.count(1)


@pytest.fixture(scope="module")
def example(_storage_process: Valkey, handler: DirectHandler) -> Iterator[Any]:
    """Makes the model of an example: two new clients, with a key each."""
    with _storage_process.client() as client:

        def make() -> Model:
            example = next(numbers)
            owners = [Owner("client", f"{name}-{example}") for name in ("shop-frontend", "billing_service")]
            client.mset({f".acrakeys/{owner.key_name}": wrap(new_key(), MASTER_KEY, owner) for owner in owners})
            sealed = {index_path(".acrakeys", owner): seal_index_key(new_key(), MASTER_KEY, owner) for owner in owners}
            client.mset(sealed)
            return Model(handler, [owner.id for owner in owners])

        yield make


BATCHES = st.lists(
    st.tuples(
        st.booleans(),
        st.lists(requests_of(), min_size=1, max_size=6),
        st.integers(0, 1),
        st.lists(st.integers(0, 1000), min_size=1, max_size=8),
    ),
    min_size=1,
    max_size=4,
)
"""Of each: is it in JSON, requests for tokens, and then a client and which of the tokens so far it turns back."""


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=BATCHES)
def test_any_sequence_of_batches_keeps_the_promises(
    example: Any, batches: list[tuple[bool, list[Any], int, list[int]]]
) -> None:
    """Round trip, consistency, no token for two values, type and length kept; for a redelivery the same answer."""
    model: Model = example()
    for in_json, drawn, client_turning_back, picked in batches:
        batch = Batch([], [])
        for client, is_consistent, items, single in drawn:
            request = model.request(client, "tokenize", items, single=single)
            batch.requests.append(request | {"consistent": is_consistent})
            batch.asked.append((client, is_consistent, items))
        model.tokenize(batch, in_json=in_json, redelivered_at=next(numbers) * 1000)
        so_far = list(model.values)
        if so_far:
            held = [so_far[number % len(so_far)] for number in picked]
            model.detokenize(client_turning_back, held, in_json=in_json, single=len(held) == 1)
    for client in (0, 1):
        held = [one for one in model.values if one.client == client]
        if held:
            model.detokenize(client, held, in_json=False, single=False)
    event(f"tokens: {len(model.values) // 10 * 10} and more")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(item=ITEMS, in_json=st.booleans())
def test_token_that_nobody_gave_out(example: Any, item: tuple[str, Value], *, in_json: bool) -> None:
    """Anything that is not a token is not found, and never comes back as if it were the value."""
    model: Model = example()

    model.detokenize(0, [Held(0, *item)], in_json=in_json, single=True)


@pytest.mark.parametrize(
    ("kind", "value"),
    [("int32", 2**31 - 1), ("int32", -(2**31)), ("int64", 2**63 - 1), ("int64", -(2**63)), ("int64", 2**53 + 1)],
)
@pytest.mark.parametrize("in_json", [True, False])
def test_extreme_numbers_come_back(example: Any, kind: str, value: int, *, in_json: bool) -> None:
    """The smallest and largest numbers of a type go there and back, in both formats."""
    model: Model = example()
    request = model.request(0, "tokenize", [(kind, value)], single=True)

    model.tokenize(Batch([request], [(0, True, [(kind, value)])]), in_json=in_json, redelivered_at=next(numbers) * 1000)
    model.detokenize(0, list(model.values), in_json=in_json, single=True)

    assert len(model.values) == 1


@pytest.mark.parametrize(
    ("kind", "value", "code"),
    [
        ("int32", 2**31, "value_out_of_range"),
        ("int32", -(2**31) - 1, "value_out_of_range"),
        ("int32", 1.0, "invalid_request"),
        ("int32", True, "invalid_request"),
        ("int32", "1", "invalid_request"),
        ("int64", 2**63, "value_out_of_range"),
        ("int64", str(-(2**63) - 1), "value_out_of_range"),
        ("int64", "12abc", "invalid_request"),
        ("str", "", "value_out_of_range"),
        ("bytes", "", "value_out_of_range"),
        ("bytes", "AB==", "invalid_request"),
        ("email", "", "invalid_email"),
        ("email", "no at sign", "invalid_email"),
        ("email", "a@b.c", "invalid_email"),
        ("email", "x@" + "y" * 253, "invalid_email"),
        ("str", "x" * 65537, "value_too_large"),
        ("phone", "x", "unknown_type"),
    ],
)
def test_bad_value_is_an_error_of_its_item_alone(example: Any, kind: str, value: object, code: str) -> None:
    """A value that cannot be tokenized is a named error of its item, never cut to fit; its neighbour gets a token."""
    model: Model = example()
    items = [{"type": kind, "value": value}, {"type": "str", "value": "fine"}]

    (reply,) = model.handler.ask([{"op": "tokenize", "client_id": model.clients[0], "items": items}])

    assert reply["status"] == "partial"
    assert reply["items"][0]["error"]["code"] == code
    assert fits("str", "fine", reply["items"][1]["value"])
