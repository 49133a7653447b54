"""One batch can have several routes, named reply streams, isolated tries, and tokens that must be durable first."""

import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness.load import running
from harness.producer import BatchProducer
from harness.proxy import Command, Moment, Proxy, Verdict
from harness.servers import Valkey
from harness.stack import GROUP, Stack, wait_until
from token_worker.acra.owner import Owner
from token_worker.contract.messages import Op
from token_worker.errors import Unavailable
from token_worker.keys.cache import KeyCache
from token_worker.keys.index_key import index_path, seal_index_key
from token_worker.keys.layout_record import MOVE_PLACE, TOKENS_RECORD
from token_worker.keys.store import RedisKeyStore, new_key, wrap
from token_worker.redis.address import RedisSettings
from token_worker.redis.link import RedisLink
from token_worker.service.handler import Handler
from token_worker.settings import load
from token_worker.storage.durability import MARK, DurabilityBarrier, NoBarrier
from token_worker.storage.item_group import ItemGroup
from token_worker.storage.make_layout import make_layout
from token_worker.storage.token_item import TokenItem
from token_worker.storage.tokens import TokenStorage
from token_worker.streams.entry import Answer, Entry
from token_worker.streams.reads import FIRST_COUNT
from token_worker.streams.routes import Route

CLIENTS = ("client-one", "client-two")
OPEN = Route("open:in", "open:out", frozenset({Op.TOKENIZE, Op.DETOKENIZE}), reply_to="*")
PINNED = Route("pinned:in", "pinned:out", frozenset({Op.TOKENIZE}), client_id="client-one", reply_to="*")

Message = dict[str, Any]
Ask = Callable[..., dict[str, Answer]]
Make = Callable[[DurabilityBarrier], Handler]


class Unsafe(NoBarrier):
    """A barrier that never opens: the token storage confirms nothing."""

    holds_back = True

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def wait(self, items: Iterable[TokenItem] = (), groups: Iterable[ItemGroup] = ()) -> None:
        self.asked += 1
        raise Unavailable("tokens", "0 of 1 replicas confirmed")


@pytest.fixture
def unsafe() -> Unsafe:
    """Keeps every token back, where a test takes it into its handler."""
    return Unsafe()


@pytest.fixture(params=["acra", "dense"])
def make(storage_server: Valkey, request: pytest.FixtureRequest) -> Iterator[Make]:
    """Makes handlers of both routes, with what holds their tokens back, on keys of their own."""
    master_key = os.urandom(32)
    address = RedisSettings(url=storage_server.url)
    links = RedisLink("keys", address), RedisLink("tokens", address)
    with storage_server.client() as client:
        for owner in (*(Owner("client", name) for name in CLIENTS), Owner("zone", "zone-of-one")):
            client.set(f".acrakeys/{owner.key_name}", wrap(new_key(), master_key, owner))
            client.set(index_path(".acrakeys", owner), seal_index_key(new_key(), master_key, owner))
    routes = msgspec.json.encode([OPEN, PINNED]).decode()
    settings = load(
        {
            "TOKEN_WORKER_STREAMS_URL": storage_server.url,
            "TOKEN_WORKER_MASTER_KEY_SOURCE": "env",
            "TOKEN_WORKER_ROUTES": routes,
        }
    )

    def make(barrier: DurabilityBarrier) -> Handler:
        has_index_keys = request.param == "dense"
        keys = KeyCache(RedisKeyStore(links[0], settings.keys_folder), master_key, with_index=has_index_keys)
        return Handler(settings, keys, TokenStorage(links[1], barrier, make_layout(request.param)))

    yield make
    for link in links:
        link.close()


@pytest.fixture
def handler(make: Make) -> Handler:
    """A handler that holds nothing back."""
    return make(NoBarrier())


@pytest.fixture
def ask(make: Make, unsafe: Unsafe) -> Ask:
    """Has a handler answer requests, each with its route, in one batch; by their ids."""

    def ask(requests: list[tuple[Route, Message]], *, is_unsafe: bool = False) -> dict[str, Answer]:
        entries = [
            Entry(route, b"1-%d" % number, msgspec.json.encode({"id": str(number), **request}))
            for number, (route, request) in enumerate(requests, 1)
        ]
        results = make(unsafe if is_unsafe else NoBarrier()).handle(entries)
        answers = [result for result in results if isinstance(result, Answer)]
        assert len(answers) == len(requests)
        return {msgspec.json.decode(answer.payload)["id"]: answer for answer in answers}

    return ask


def said(answer: Answer) -> str:
    """The status of a reply, or the code of its error."""
    reply = msgspec.json.decode(answer.payload)
    return str(reply["error"]["code"]) if reply["status"] == "error" else str(reply["status"])


def tokenize(client: str, **more: Any) -> Message:
    return {"op": "tokenize", "client_id": client, "type": "str", "value": "Ada Lovelace", **more}


@pytest.mark.parametrize("is_pinned_first", [True, False])
def test_what_a_route_may_is_asked_for_each_route_of_a_batch(ask: Ask, *, is_pinned_first: bool) -> None:
    """A client or zone that one route serves is refused on another that does not, in whatever order they come."""
    zone = {"zone_id": "zone-of-one"}
    cases = [
        (OPEN, tokenize("client-two"), "ok"),
        (PINNED, tokenize("client-two"), "forbidden"),
        (OPEN, tokenize("client-one", **zone), "ok"),
        (PINNED, tokenize("client-one", **zone), "forbidden"),
        (OPEN, tokenize("client-one"), "ok"),
        (PINNED, tokenize("client-one"), "ok"),
        (OPEN, {**tokenize("client-one"), "op": "detokenize"}, "token_not_found"),
        (PINNED, {**tokenize("client-one"), "op": "detokenize"}, "forbidden"),
    ]
    if is_pinned_first:
        cases.reverse()
    answers = ask([(route, request) for route, request, _ in cases])
    assert [said(answers[str(number)]) for number in range(1, 9)] == [expected for _, _, expected in cases]


OF_ANY_ROUTE = [key for route in (OPEN, PINNED) for key in (*route.streams, *route.own_keys.names)]


OF_STORAGE = [
    MARK,
    f"{MARK}:{{7}}",
    TOKENS_RECORD,
    MOVE_PLACE,
    "tokens/a",
    ".acrakeys/a",
    ".acrakeys.retired/a",
    ".acrakeys.layout",
]


@pytest.mark.parametrize("name", [*OF_ANY_ROUTE, *OF_STORAGE])
def test_reply_goes_to_no_key_of_any_route(ask: Ask, name: str) -> None:
    """On each route, whatever its pattern, a request that names a stream or key of the workers' is ``forbidden``."""
    answers = ask([(route, tokenize("client-one", reply_to=name)) for route in (OPEN, PINNED)])
    assert [(said(answer), answer.reply_to) for answer in answers.values()] == [("forbidden", None)] * 2


def test_reply_to_that_is_free_is_used_on_each_route(ask: Ask) -> None:
    """A name that is no key of the workers' is taken, where it resembles one, too."""
    names = ["free", "open:in:trimmed:", "tokens", "pinned:out:mine"]
    answers = ask([(route, tokenize("client-one", reply_to=name)) for name in names for route in (OPEN, PINNED)])
    assert [answers[str(number)].reply_to for number in range(1, 9)] == [name for name in names for _ in range(2)]


@pytest.mark.parametrize(("reply_to", "used"), [("mine", "mine"), ("open:in:trimmed", None), (None, None)])
def test_entry_that_is_given_up_is_answered_where_its_route_allows(
    handler: Handler, reply_to: str | None, used: str | None
) -> None:
    """``internal`` goes to the stream that the request named, if the route allows it; else to the route's own."""
    message = {"id": "given-up", **tokenize("client-one", reply_to=reply_to)}
    answer = handler.internal(Entry(OPEN, b"1-0", msgspec.json.encode(message)))
    assert (said(answer), answer.reply_to) == ("internal", used)
    assert answer.forbidden == (answer.payload if used else b"")


@pytest.mark.parametrize("consistent", [True, False])
def test_tokens_of_either_kind_are_held_back_until_they_are_safe(ask: Ask, unsafe: Unsafe, *, consistent: bool) -> None:
    """A batch with a token in its reply waits, be the token consistent or not; one without does not."""
    with pytest.raises(Unavailable, match="replicas"):
        ask([(OPEN, tokenize("client-one", consistent=consistent))], is_unsafe=True)
    assert unsafe.asked == 1
    [answer] = ask([(OPEN, tokenize("nobody-knows", consistent=consistent))], is_unsafe=True).values()
    assert (said(answer), unsafe.asked) == ("unknown_client", 1)


def test_request_that_is_tried_alone_has_its_audit_line(stack: Stack, tmp_path: Path) -> None:
    """A detokenize request that a dead worker left has its line, as all have, before its reply."""
    # Given requests that were delivered to a worker that died
    stream = "detokenize:requests"
    stack.streams.xgroup_create(stream, GROUP, id="0", mkstream=True)
    request = {"op": "detokenize", "client_id": "shop-frontend", "type": "str", "value": "no token"}
    entries = stack.send([{**request, "id": f"left-{number}"} for number in range(3)], stream)
    stack.streams.xreadgroup(GROUP, "dead", {stream: ">"})
    # When another one tries each alone
    file = tmp_path / "audit"
    stack.start_worker(TOKEN_WORKER_AUDIT_FILE=str(file), TOKEN_WORKER_CLAIM_IDLE_MS="1000")
    stack.wait_for_replies(3, "detokenize:responses")
    # Then each is audited.
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["entry"] for line in lines] == [entry.decode() for entry in entries]
    assert [line["items"] for line in lines] == [{"token_not_found": 1}] * 3


def test_lease_of_what_was_read_ahead_is_renewed(streams_server: Valkey, storage_server: Valkey) -> None:
    """A batch that was read during the commit of the one before is kept from other workers while it is handled."""
    # Given a small batch, then one of large entries, each handled by itself, and a storage that is slow for these
    claim_idle_ms = 1500
    renewed: set[bytes] = set()
    is_over = threading.Event()

    def streams(moment: Moment, command: Command) -> Verdict:
        if moment is Moment.BEFORE and command.name == "XCLAIM" and command.parts[-1] == b"JUSTID":
            renewed.update(part for part in command.parts[5:-1] if b"-" in part)
        return Verdict.PASS

    def storage(moment: Moment, command: Command) -> Verdict:
        if moment is Moment.BEFORE and command.name == "MGET" and len(command.parts) > 500:
            is_over.wait(claim_idle_ms / 3000)  # as long as a lease is not renewed
        return Verdict.PASS

    with Proxy(streams_server.port, streams) as first, Proxy(storage_server.port, storage) as second:
        settings = {
            "TOKEN_WORKER_STREAMS_URL": first.url,
            "TOKEN_WORKER_TOKENS_URL": second.url,
            "TOKEN_WORKER_CLAIM_IDLE_MS": str(claim_idle_ms),
            "TOKEN_WORKER_BATCH_SIZE": str(FIRST_COUNT),
        }
        with running(Stack(streams_server, storage_server, settings=settings), workers=0) as stack:
            producer = BatchProducer(stack)
            producer.add_new(FIRST_COUNT)
            for _ in range(FIRST_COUNT):
                producer.add("tokenize", "str", [f"value {number}" for number in range(1000)])
            producer.send()
            stack.start_worker()
            wait_until(producer.is_settled, "all to be answered")
            is_over.set()
            assert producer.compare() == []
            entries = [entry for entry, _ in stack.streams.xrange("tokenize:requests")]
    # Then of the second batch, too, what had to wait was renewed.
    assert renewed & set(entries[FIRST_COUNT:])
