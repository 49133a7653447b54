"""Tokens with formats on real servers: Acra's layout, races, one token for a value, redelivery, small spaces."""

import random
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from harness.direct import DirectHandler, Message
from harness.independent_reader import entry_name, read_entry
from harness.racing_acra import MASTER_KEY, SEED, SHOP, RacingAcra, store_key
from harness.servers import Valkey
from harness.stack import Stack
from judge.case import Case
from judge.cases import all_cases
from token_worker.storage.steps import Adopt, Step, Store

CARD = "4111 1111 1111 1111"
cases = pytest.mark.parametrize("case", all_cases(), ids=lambda case: case.name)


@pytest.fixture
def key(server: Valkey) -> bytes:
    """The client's key, stored."""
    return store_key(server)


def table(case: Case, name: str = "subject") -> Message:
    """The format of a case as the settings have it."""
    return {"name": name, "kind": case.kind, **case.parameters}


def values_of(case: Case, count: int) -> list[str]:
    """Different values that fit."""
    chance = random.Random(SEED)
    found: dict[str, None] = {}
    while len(found) < min(count, case.values_most):
        found[case.values(chance)] = None
    return list(found)


def request(op: str, type_name: str, values: Sequence[str], form: str | None = None) -> Message:
    items = [{"type": type_name, "value": value, **({"format": form} if form else {})} for value in values]
    return {"op": op, "client_id": SHOP.id, "items": items}


def answers(handler: DirectHandler, asked: Message, **more: Any) -> list[Message]:
    [reply] = handler.ask([asked], **more)
    found: list[Message] = reply["items"]
    return found


def tokens_of(items: Sequence[Message]) -> list[str]:
    assert all("value" in item for item in items), [item.get("error", {}).get("code") for item in items]
    return [item["value"] for item in items]


@cases
def test_tokens_are_entries_of_acras_layout(server: Valkey, key: bytes, case: Case) -> None:
    """A second reader finds each token and value under Acra's names, as Acra's type. Detokenize needs no format."""
    kind = case.format().value_type
    values = values_of(case, 50)
    with DirectHandler(server, MASTER_KEY, formats=[table(case)]) as handler, server.client() as client:
        items = answers(handler, request("tokenize", kind.name, values, "subject"))
        tokens = tokens_of(items)
        assert not any("format" in item for item in items)
        back = answers(handler, request("detokenize", kind.name, tokens))
        assert back == [{"value": value} for value in values]

        for value, token in zip(values, tokens, strict=True):
            names = [
                entry_name(prefix, text.encode(), kind.number, "client", SHOP.id)
                for prefix, text in (("h.", value), ("t.", token))
            ]
            raws: Any = client.mget(names)
            h_entry, t_entry = (read_entry(raw, key, SHOP.id) for raw in raws)
            assert h_entry.inside == token.encode()
            assert value.encode() in t_entry.inside
        assert client.dbsize() == 2 * len(values) + 1


@cases
def test_race_at_every_step_gives_one_token(server: Valkey, key: bytes, case: Case) -> None:
    """Acra and a worker without the format act between any two steps of a worker with it. All give the same tokens.

    The reply says ``other`` for those tokens that the format could not have drawn, and for no others.
    """
    form = case.format()
    kind = form.value_type
    values = values_of(case, 60)
    chance = random.Random(SEED)
    with (
        RacingAcra(server, key, kind) as acra,
        DirectHandler(server, MASTER_KEY) as other,
    ):
        under_way = {value: acra.steps(value.encode()) for value in values}

        def before(step: Step) -> None:
            for value in chance.sample(values, len(values) // 6):
                next(under_way[value], None)
            if isinstance(step, Store | Adopt):
                other.ask([request("tokenize", kind.name, chance.sample(values, len(values) // 12))])

        items: list[Message] = []
        with DirectHandler(server, MASTER_KEY, before=before, formats=[table(case)]) as handler:
            for start in range(0, len(values), 10):
                items += answers(handler, request("tokenize", kind.name, values[start : start + 10], "subject"))
        for steps in under_way.values():
            for _ in steps:
                pass

        ours = tokens_of(items)
        assert ours == [acra.token(value.encode()) for value in values]
        assert tokens_of(answers(other, request("tokenize", kind.name, values))) == ours
        assert tokens_of(answers(other, request("detokenize", kind.name, ours))) == values
        assert len(set(ours)) == len(values)
        drawn = [form.could_draw(value.encode(), token.encode()) for value, token in zip(values, ours, strict=True)]
        assert [item.get("format") for item in items] == [None if could else "other" for could in drawn]
        assert 0 < sum(drawn) < len(values)  # both sides have won


def test_with_and_without_a_format_at_the_same_moment(server: Valkey, key: bytes) -> None:
    """Two workers that get one value at the same moment, with ``pan`` and without, give it one token."""
    assert key
    cards = values_of(next(case for case in all_cases() if case.name == "pan"), 60)
    start = threading.Barrier(2, timeout=60)

    def worker(form: str | None) -> list[str]:
        found: list[str] = []
        with DirectHandler(server, MASTER_KEY) as handler:
            for card in cards:
                start.wait()
                found += tokens_of(answers(handler, request("tokenize", "str", [card], form)))
        return found

    with ThreadPoolExecutor(2) as pool:
        with_format, without = pool.submit(worker, "pan"), pool.submit(worker, None)
        assert with_format.result() == without.result()
    with server.client() as client:
        assert client.dbsize() == 2 * len(cards) + 1


def test_value_keeps_the_token_that_it_has(server: Valkey, key: bytes) -> None:
    """A value tokenized without a format keeps its token and says ``other``. On a route that refuses it: an error."""
    assert key
    with (
        DirectHandler(server, MASTER_KEY) as handler,
        DirectHandler(server, MASTER_KEY, on_other="refuse") as strict,
    ):
        [before] = tokens_of(answers(handler, request("tokenize", "str", [CARD])))
        assert answers(handler, request("tokenize", "str", [CARD], "pan")) == [{"value": before, "format": "other"}]
        assert answers(handler, request("tokenize", "str", [CARD])) == [{"value": before}]
        one = {"op": "tokenize", "client_id": SHOP.id, "type": "str", "value": CARD, "format": "pan"}
        [single] = handler.ask([one])
        assert (single["status"], single["value"], single["format"]) == ("ok", before, "other")

        [refused, new] = answers(strict, request("tokenize", "str", [CARD, "5105-1051-0510-5100"], "pan"))
        assert refused["error"]["code"] == "format_conflict"
        assert set(new) == {"value"}
        assert answers(strict, request("tokenize", "str", [CARD])) == [{"value": before}]


def test_changed_parameters_change_no_token_that_exists(server: Valkey, key: bytes) -> None:
    """After ``keep_first`` was changed, a value keeps its token, which is other now. A new value keeps six digits."""
    assert key
    new_card = "5105-1051-0510-5100"
    kept = {"name": "pan", "kind": "pan", "keep_first": 6, "min_space": 1000}
    with (
        DirectHandler(server, MASTER_KEY) as before,
        DirectHandler(server, MASTER_KEY, formats=[kept]) as after,
    ):
        [token] = tokens_of(answers(before, request("tokenize", "str", [CARD], "pan")))
        old, new = answers(after, request("tokenize", "str", [CARD, new_card], "pan"))
        assert old == {"value": token, "format": "other"}
        assert new["value"].startswith("5105-10")
        assert tokens_of(answers(before, request("tokenize", "str", [CARD, new_card], "pan"))) == [token, new["value"]]
        assert answers(before, request("detokenize", "str", [token, new["value"]])) == [
            {"value": CARD},
            {"value": new_card},
        ]


def test_redelivered_request_gets_the_same_tokens(server: Valkey, key: bytes) -> None:
    """A request that is delivered again gets the same tokens, consistent or not, also if none of them was kept."""
    assert key
    asked = [
        {**request("tokenize", "str", [CARD, "5105105105105100"], "pan"), "consistent": consistent}
        for consistent in (True, False)
    ]
    with DirectHandler(server, MASTER_KEY) as handler, server.client() as client:
        first = handler.ask(asked, first=10)
        assert handler.ask(asked, first=10) == first
        stored = client.keys("tokens/*")
        client.delete(*stored)
        assert handler.ask(asked, first=10) == first
        assert set(client.keys("tokens/*")) == set(stored)
    consistent, inconsistent = first
    assert tokens_of(consistent["items"]) != tokens_of(inconsistent["items"])


def test_space_that_is_nearly_full(server: Valkey, key: bytes) -> None:
    """Of 100 values of two digits at least 95 get tokens of two digits. No two share one, and none is its own."""
    assert key
    values = [f"{number:02}" for number in range(100)]
    formats = [{"name": "two", "kind": "template", "template": r"\d\d"}]
    with DirectHandler(server, MASTER_KEY, formats=formats) as handler:
        items: list[Message] = []
        for start in range(0, 100, 20):
            items += answers(handler, request("tokenize", "str", values[start : start + 20], "two"))
        got = {value: item["value"] for value, item in zip(values, items, strict=True) if "value" in item}
        assert {item["error"]["code"] for item in items if "error" in item} <= {"token_space_exhausted"}
        assert len(got) >= 95
        assert len(set(got.values())) == len(got)
        assert all(token != value and len(token) == 2 and token.isdigit() for value, token in got.items())
        assert tokens_of(answers(handler, request("detokenize", "str", list(got.values())))) == list(got)
        again = answers(handler, request("tokenize", "str", values, "two"))
        assert [item.get("value") for item in again] == [got.get(value) for value in values]


def test_value_that_does_not_fit_is_refused_alone(server: Valkey, key: bytes) -> None:
    """A value that does not fit says what the format expects, and not the value. The other items get their tokens."""
    assert key
    with DirectHandler(server, MASTER_KEY) as handler:
        wrong = "4111 1111 1111 1112"
        first, second = answers(handler, request("tokenize", "str", [wrong, CARD], "pan"))
        expected = (
            "$.items[0].value: expected 13 to 19 digits that pass the Luhn check, with single spaces or hyphens at most"
        )
        assert first["error"] == {"code": "value_out_of_range", "message": expected}
        [token] = tokens_of([second])
        [refused] = answers(handler, request("tokenize", "str", [token], "pan"))
        assert refused["error"]["code"] == "value_out_of_range"


def test_formats_and_routes_in_worker_processes(stack: Stack) -> None:
    """Worker processes serve two routes with rules of their own, in one run: pinned, required, refused, and none."""
    routes = (
        '[{"requests": "strict:in", "responses": "strict:out", "ops": ["tokenize"], "formats": {"card": "card"},'
        ' "formats_required": true, "on_other": "refuse"},'
        ' {"requests": "open:in", "responses": "open:out", "ops": ["tokenize", "detokenize"]}]'
    )
    formats = '[{"name": "card", "kind": "pan", "keep_first": 6, "min_space": 1000}]'
    stack.generate_key(SHOP.id)
    for _ in range(2):
        stack.start_worker(TOKEN_WORKER_ROUTES=routes, TOKEN_WORKER_FORMATS=formats)
    items = [
        {"type": "str", "value": CARD, "ref": "card"},
        {"type": "str", "value": CARD, "ref": "card", "format": "pan"},
        {"type": "str", "value": CARD},
        {"type": "email", "value": "a@b.example", "ref": "card"},
    ]
    stack.send([{"id": "1", "op": "tokenize", "client_id": SHOP.id, "items": items}], "strict:in")
    [strict] = stack.wait_for_replies(1, "strict:out")
    codes = [item.get("error", {}).get("code") for item in strict["items"]]
    assert codes == [None, "format_not_allowed", "format_not_allowed", "format_not_allowed"]
    token = strict["items"][0]["value"]
    assert token.startswith("4111 11")
    assert token.endswith("1111")

    asked = {"op": "tokenize", "client_id": SHOP.id, "type": "str"}
    stack.send([{"id": "2", **asked, "value": CARD, "format": "uuid"}], "open:in")
    stack.send([{"id": "3", **asked, "value": CARD, "format": "pan"}], "open:in")
    stack.send([{"id": "4", **asked, "op": "detokenize", "value": token, "format": "no such format"}], "open:in")
    replies = {reply["id"]: reply for reply in stack.wait_for_replies(3, "open:out")}
    assert replies["2"]["error"]["code"] == "value_out_of_range"
    assert replies["3"]["value"] == token
    assert replies["4"]["value"] == CARD
