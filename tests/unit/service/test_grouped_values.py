"""Values are handled in groups if nothing sets them apart. Whoever gets the replies cannot tell."""

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import msgspec
import pytest
from msgspec.structs import replace
from prometheus_client import CollectorRegistry

from fuzz.world import BROKEN, ENCODE, OWNERS, ROUTE, SHOP, World
from token_worker.acra.owner import Owner
from token_worker.acra.value_types import TYPES
from token_worker.contract.messages import Format, Op
from token_worker.keys.layout_record import LayoutName
from token_worker.service.replies import Postponed, Result
from token_worker.service.request_values import ValueReader
from token_worker.storage.dense.siv_columns import COLUMN_MIN
from token_worker.storage.engine import Engine
from token_worker.storage.make_layout import make_layout
from token_worker.streams.entry import Answer, Committed, Entry
from token_worker.streams.routes import Route
from token_worker.telemetry.audit import Audit
from token_worker.telemetry.metrics import Metrics
from token_worker.testing.memory import MemoryTokens

Way = Literal["plain", "groups", "one by one"]

HANDLER = "token_worker.service.handler"
SEEDS = range(40)
UNKNOWN = Owner("client", "nobody-knows")

GOOD: dict[str, list[Any]] = {
    "int32": [0, 7, -1, 2**31 - 1],
    "int64": [1, -(2**63), 12],
    "str": ["new", "newer", "4012 8888 8888 1881", "żółć", "x"],
    "email": ["new@navy.example", "a@b.cd"],
    "bytes": ["bmV3"],
}
"""New values of each type. In MessagePack, that of ``bytes`` is of another type."""

BAD: dict[str, list[Any]] = {
    "int32": [2**31, "7"],
    "int64": [2**63, "x"],
    "str": ["", 5, "x" * 70_000],
    "email": ["not an address", b"a@b.cd"],
    "bytes": ["no base64", b""],
    "float": [1.0],
}

ODD: list[dict[str, Any]] = [
    {"consistent": False},
    {"format": "pan"},
    {"format": "unknown"},
    {"as": "bytes"},
    {"reply_to": "responses:own"},
    {"reply_to": "elsewhere"},
    {"expires_at": 1},
    {"expires_at": 1 << 60},
    {"replay": 2},
    {"zone_id": None},
    {"extra": 1},
]
"""Members that set a request apart."""


@pytest.fixture(scope="module", params=["acra", "dense"])
def world(request: pytest.FixtureRequest) -> World:
    layout: LayoutName = request.param
    return World("groups", layout)


class Batches:
    """Batches of requests that are drawn at random; several of them may ask for one value."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self._world = world
        self._rng = rng

    def batch(self) -> list[bytes]:
        """Payloads: of one kind, or of several; in one format, or in both."""
        rng = self._rng
        formats = rng.choice([[Format.JSON], [Format.MSGPACK], [*Format]])
        oddity = rng.choice([0, 0, 0, 0.05, 0.5])
        owners = rng.choice([[SHOP], [SHOP], [*OWNERS], [*OWNERS, BROKEN, UNKNOWN]])
        kinds = rng.choice([["str"], ["int64"], [*TYPES]])
        several = rng.choice([0, 0, 0.5, 1])
        size = rng.choice([1, rng.randint(2, 24), COLUMN_MIN + 8])
        good = [each for each in self._world.singles if each.format in formats and each.owner in owners]
        return [self._payload(good, formats, oddity, owners, kinds, several) for _ in range(size)]

    def _payload(
        self,
        good: list[Any],
        formats: list[Format],
        oddity: float,
        owners: list[Owner],
        kinds: list[str],
        several: float,
    ) -> bytes:
        rng = self._rng
        if rng.random() < oddity / 4:
            return rng.choice([b"", b"{", b'{"id":"x"}', b"\x81\xa2id\xa1x", b"text"])
        if rng.random() < 0.3:
            known = rng.choice(good)
            message, written = dict(known.message), known.format
        else:
            written, owner = rng.choice(formats), rng.choice(owners)
            who = {"client_id": SHOP.id, "zone_id": owner.id} if owner.kind == "zone" else {"client_id": owner.id}
            message = {"id": f"r-{rng.random()}", "op": rng.choice([*Op]).value, **who}
            if rng.random() < several:
                message["items"] = [self._item(kinds, oddity) for _ in range(rng.randint(1, 6))]
            else:
                message |= self._value(kinds, oddity)
        if rng.random() < oddity:
            message |= rng.choice(ODD)
        return ENCODE[written](message)

    def _value(self, kinds: list[str], oddity: float) -> dict[str, Any]:
        rng = self._rng
        if rng.random() < oddity / 2:
            kind = rng.choice([*BAD])
            return {"type": kind, "value": rng.choice(BAD[kind])}
        kind = rng.choice(kinds)
        return {"type": kind, "value": rng.choice(GOOD[kind])}

    def _item(self, kinds: list[str], oddity: float) -> dict[str, Any]:
        rng = self._rng
        odd: list[dict[str, Any]] = [{"format": "pan"}, {"as": "bytes"}, {"ref": "card"}, {"ref": 1}, {"more": 1}]
        return self._value(kinds, oddity) | (rng.choice(odd) if rng.random() < oddity else {})


@contextmanager
def only(way: Way) -> Iterator[None]:
    """Have values handled no other way than this, or a slower one."""
    with ExitStack() as stack:
        if way != "plain":
            stack.enter_context(mock.patch(f"{HANDLER}.decode_plain", return_value=None))
        if way == "one by one":
            stack.enter_context(mock.patch.object(ValueReader, "_group", return_value=[]))
        yield


def outcome(result: Result) -> tuple[Any, ...]:
    """Return all of a result that anybody sees."""
    if isinstance(result, Answer):
        facts = result.facts
        seen = facts.op, facts.status, facts.client_id, facts.zone_id, facts.outcomes
        return result.entry.id, result.payload, result.reply_to, result.forbidden, result.request_id, seen
    return result.entry.id, (str(result.why) if isinstance(result, Postponed) else result.reason)


def handle(world: World, batches: list[list[bytes]], way: Way) -> tuple[list[list[tuple[Any, ...]]], set[bytes]]:
    """Handle batches. Return what becomes of each, and the names of all entries in the storage afterwards."""
    tokens = world.tokens()
    handler = world.handler(tokens)
    with only(way):
        seen = [
            sorted(map(outcome, handler.handle([world.next_entry({b"payload": payload}) for payload in batch])))
            for batch in batches
        ]
    return seen, set(tokens.entries)


@pytest.mark.parametrize("seed", SEEDS)
def test_values_in_groups_get_the_replies_that_each_alone_gets(world: World, seed: int) -> None:
    """Replies, facts, and what is stored are the same in groups and one by one, for any mixture of requests."""
    batches = Batches(world, random.Random(seed))
    given = [batches.batch() for _ in range(12)]

    expected = handle(world, given, "one by one")

    assert handle(world, given, "groups") == expected
    assert handle(world, given, "plain") == expected


def test_all_ways_are_taken(world: World) -> None:
    """The batches of the test above make the engine run groups of one and of several types, and single items."""
    seen: Counter[str] = Counter()
    run = Engine.run

    def count(self: Engine, items: Any, now: int, groups: Any = ()) -> Any:
        seen["items"] += bool(items)
        seen["both"] += bool(items and groups)
        seen["one group"] += len(groups) == 1
        seen["several groups"] += len(groups) > 1
        seen["large group"] += any(len(group.data) > COLUMN_MIN for group in groups)
        return run(self, items, now, groups)

    for seed in SEEDS:
        batches = Batches(world, random.Random(seed))
        with mock.patch.object(Engine, "run", count):
            handle(world, [batches.batch() for _ in range(12)], "plain")

    assert all(seen[way] >= 5 for way in ("items", "both", "one group", "several groups", "large group")), seen


def test_faulty_value_of_plain_requests_is_refused_alone(world: World) -> None:
    """Of plain requests that are handled together, one whose value is refused keeps no other from its token."""
    given = ["first", "", "third"]
    payloads = [
        ENCODE[Format.JSON]({"id": f"r-{at}", "op": "tokenize", "client_id": SHOP.id, "type": "str", "value": value})
        for at, value in enumerate(given)
    ]

    [seen], _ = handle(world, [payloads], "plain")

    statuses = {request_id: facts[1] for *_, request_id, facts in seen}
    assert statuses == {"r-0": "ok", "r-1": "error", "r-2": "ok"}


def answers_on(world: World, requests: list[dict[str, Any]], **rules: Any) -> list[dict[str, Any]]:
    """Answer requests to tokenize a card in one batch, on a route with these rules and an empty storage."""
    route = replace(ROUTE, **rules)
    with mock.patch.object(world, "settings", replace(world.settings, routes=(route,))):
        handler = world.handler(MemoryTokens(make_layout(world.layout)))
    payloads = [
        ENCODE[Format.JSON]({"id": str(at), "op": "tokenize", "client_id": SHOP.id, **request})
        for at, request in enumerate(requests)
    ]
    results = handler.handle([Entry(route, b"1-%d" % at, payload) for at, payload in enumerate(payloads)])
    replies = [msgspec.json.decode(result.payload) for result in results if isinstance(result, Answer)]
    return sorted(replies, key=lambda reply: str(reply["id"]))


CARD = {"type": "str", "value": "4012888888881881"}
FORMS = [CARD, CARD | {"reply_to": "responses:own"}, {"items": [CARD]}]
"""A plain request, one that is none, and one with items, for one value."""


@pytest.mark.parametrize("form", FORMS)
def test_route_gives_its_format_to_values_that_name_none(world: World, form: dict[str, Any]) -> None:
    """A value that names no format gets the token that the default format of its route draws, in whatever request."""
    [named] = answers_on(world, [CARD | {"format": "pan"}])
    for given in ([form], [form, form]):
        for reply in answers_on(world, given, formats={"*": "pan"}):
            [item] = reply.get("items", [reply])
            assert item["value"] == named["value"]
    [by_type] = answers_on(world, [CARD])
    assert by_type["value"] != named["value"]


@pytest.mark.parametrize("form", FORMS)
def test_route_that_requires_a_format_refuses_values_that_name_none(world: World, form: dict[str, Any]) -> None:
    """A value that names no format is refused where the route requires one, in whatever request."""
    for reply in answers_on(world, [form, form], formats_required=True):
        [item] = reply.get("items", [reply])
        assert item["error"]["code"] == "format_not_allowed"


def test_replies_of_two_routes_are_told_apart(world: World, tmp_path: Path) -> None:
    """Audit lines and counters of a batch name the stream of each request, though all else about them is alike."""
    other = Route("others", "other-responses", frozenset(Op))
    good = next(each for each in world.singles if each.op == "detokenize" and each.message["type"] == "str")
    with mock.patch.object(world, "settings", replace(world.settings, routes=(ROUTE, other))):
        handler = world.handler(world.tokens())
    results = handler.handle([Entry(route, b"1-0", good.payload) for route in (ROUTE, other, ROUTE)])
    answers = [result for result in results if isinstance(result, Answer)]

    file = tmp_path / "audit.log"
    Audit("worker", str(file)).detokenize(answers)
    metrics = Metrics(CollectorRegistry(), ["requests", "others"])
    metrics.committed(answers, Committed(written=3))

    streams = [msgspec.json.decode(line)["stream"] for line in file.read_bytes().splitlines()]
    assert Counter(streams) == {"requests": 2, "others": 1}
    for stream, count in Counter(streams).items():
        labels = {"stream": stream, "status": "ok"}
        assert metrics.registry.get_sample_value("token_worker_requests_total", labels) == count
