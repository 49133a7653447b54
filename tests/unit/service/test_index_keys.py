"""The index keys of a batch's owners are checked before a name is used: on storage in memory, by the handler."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest
import structlog

from token_worker.acra.owner import Owner
from token_worker.contract.messages import Op
from token_worker.keys.cache import KeyCache
from token_worker.keys.index_key import seal_index_key
from token_worker.keys.layout_record import LayoutName
from token_worker.keys.store import new_key, wrap
from token_worker.service.handler import Handler
from token_worker.service.replies import Postponed
from token_worker.settings import load
from token_worker.storage.dense.entry import EntryNames, check_name
from token_worker.storage.make_layout import make_layout
from token_worker.storage.steps import Claim, Lookup
from token_worker.streams.entry import Answer, Entry
from token_worker.streams.routes import Route
from token_worker.testing.memory import MemoryKeys, MemoryTokens

ROUTE = Route("requests", "responses", frozenset(Op))
SHOP, BILLING = Owner("client", "shop-frontend"), Owner("client", "billing_service")
ZONE = Owner("zone", "DDDDDDDDUXhraqEnfwpZNnam")
OWNERS = (SHOP, BILLING, ZONE)
MASTER_KEY = bytes(range(32))
INDEX_KEYS = {owner: bytes([number]) * 32 for number, owner in enumerate(OWNERS)}


class CountingTokens(MemoryTokens):
    """A token storage that connects at its first step, and may be made to connect again."""

    def __init__(self, layout: LayoutName) -> None:
        super().__init__(make_layout(layout))
        self.connections = 0
        self.steps: list[Any] = []
        self.before: Callable[[Any], None] = lambda _: None

    def execute(self, step: Any) -> Any:
        self.connections = self.connections or 1
        self.before(step)
        self.steps.append(step)
        return super().execute(step)


class Service:
    """A handler with keys and tokens in memory. All owners have a key; ``index_keys`` says which have an index key."""

    def __init__(self, *index_keys: Owner, layout: LayoutName = "dense") -> None:
        loaded = load({"TOKEN_WORKER_STREAMS_URL": "redis://nowhere", "TOKEN_WORKER_MASTER_KEY_SOURCE": "env"})
        self.keys = MemoryKeys()
        self.keys.sealed = {owner.key_name: wrap(new_key(), MASTER_KEY, owner) for owner in OWNERS}
        for owner in index_keys:
            self.put_index_key(owner, INDEX_KEYS[owner])
        self.tokens = CountingTokens(layout)
        self.seconds = 0.0
        self._cache = KeyCache(self.keys, MASTER_KEY, clock=lambda: self.seconds, with_index=layout == "dense")
        settings = msgspec.structs.replace(loaded, routes=(ROUTE,))
        self._handler = Handler(settings, self._cache, self.tokens, lambda: 1_800_000_000)
        self._numbers = itertools.count(1)
        self.values: list[str] = []

    def put_index_key(self, owner: Owner, key: bytes, master_key: bytes = MASTER_KEY) -> None:
        self.keys.index[owner.key_name] = seal_index_key(key, master_key, owner)

    def put_check(self, owner: Owner, index_key: bytes) -> None:
        self.tokens.entries[check_name(owner)] = EntryNames(index_key, owner).check

    def ask(self, *owners: Owner, op: str = "tokenize", value: str = "a value") -> list[str]:
        """Send one request for each owner in a batch; "ok", the code of the error, or "postponed" of each."""
        entries = [self._entry(owner, op, value) for owner in owners]
        results = {result.entry.id: result for result in self._handler.handle(entries)}
        outcomes = [self._outcome(results[entry.id]) for entry in entries]
        self.values = [value for _, value in outcomes]
        return [outcome for outcome, _ in outcomes]

    def comes_back(self, owner: Owner, token: str) -> bool:
        """Tell if a token of an owner gives the value."""
        return self.ask(owner, op="detokenize", value=token) == ["ok"] and self.values == ["a value"]

    def steps_of(self, *owners: Owner) -> list[str]:
        """Names of the steps that known values of these owners take."""
        self.tokens.steps.clear()
        self.ask(*owners)
        return [type(step).__name__ for step in self.tokens.steps]

    def _entry(self, owner: Owner, op: str, value: str) -> Entry:
        who = {"client_id": SHOP.id, "zone_id": owner.id} if owner.kind == "zone" else {"client_id": owner.id}
        message = {"id": "r", "op": op, "type": "str", "value": value, **who}
        return Entry(ROUTE, b"%d-0" % next(self._numbers), msgspec.json.encode(message))

    def _outcome(self, result: Any) -> tuple[str, str]:
        if isinstance(result, Postponed):
            return "postponed", ""
        assert isinstance(result, Answer)
        reply = msgspec.json.decode(result.payload)
        return ("ok", reply["value"]) if reply["status"] == "ok" else (reply["error"]["code"], "")


def names_asked_for(steps: Sequence[Any]) -> set[bytes]:
    """Names that any step touched."""
    names: set[bytes] = set()
    for step in steps:
        match step:
            case Lookup(keys):
                names.update(keys)
            case Claim(rows):
                names.update(key for key, _ in rows)
            case _:
                names.update(name for row in step.rows for name in (row.h_key, row.t_key))
    return names


def test_check_value_is_written_at_first_use_and_read_once_for_a_connection() -> None:
    """The check value is written with the first batch of an owner, and compared once for each connection after that."""
    service = Service(*OWNERS)
    assert service.steps_of(SHOP, SHOP, ZONE) == ["Lookup", "Claim", "Lookup", "Store"]
    for owner in (SHOP, ZONE):
        assert service.tokens.entries[check_name(owner)] == EntryNames(INDEX_KEYS[owner], owner).check
    assert check_name(BILLING) not in service.tokens.entries

    assert service.steps_of(SHOP, ZONE) == ["Lookup"]
    assert service.steps_of(SHOP, BILLING) == ["Lookup", "Claim", "Lookup", "Store"]
    service.tokens.connections += 1
    assert service.steps_of(SHOP, ZONE) == ["Lookup", "Lookup"]
    assert service.steps_of(SHOP, ZONE) == ["Lookup"]


@pytest.mark.parametrize("layout", ["acra", "dense"])
def test_what_a_layout_asks(layout: LayoutName) -> None:
    """Acra's layout takes no step more for its names, and needs no index key."""
    service = Service(*(OWNERS if layout == "dense" else ()), layout=layout)

    first = service.steps_of(SHOP, ZONE)

    assert first == (["Lookup", "Claim"] if layout == "dense" else []) + ["Lookup", "Store"]
    assert service.steps_of(SHOP, ZONE) == ["Lookup"]


@pytest.mark.parametrize(("owner", "code"), [(SHOP, "unknown_client"), (ZONE, "unknown_zone")])
def test_owner_without_index_key_and_without_tokens_is_unknown(owner: Owner, code: str) -> None:
    """An owner that has no index key and no check value is unknown. The log says once which command helps."""
    service = Service()
    with structlog.testing.capture_logs() as lines:
        for op in ("tokenize", "detokenize", "tokenize"):
            assert service.ask(owner, op=op) == [code]

    assert service.tokens.entries == {}
    assert [line["key"] for line in lines] == [owner.key_name]
    assert "token-worker keys index" in lines[0]["reason"]


def test_index_key_that_is_made_later() -> None:
    """An owner is served as soon as its index key is found."""
    service = Service()
    assert service.ask(SHOP) == ["unknown_client"]
    service.put_index_key(SHOP, INDEX_KEYS[SHOP])
    service.seconds += 3600

    assert service.ask(SHOP) == ["ok"]
    assert service.comes_back(SHOP, service.values[0])


def gone(service: Service) -> None:
    service.put_check(SHOP, INDEX_KEYS[SHOP])


def unreadable(service: Service) -> None:
    service.put_index_key(SHOP, INDEX_KEYS[SHOP], bytes(32))


def unreadable_with_tokens(service: Service) -> None:
    service.put_index_key(SHOP, INDEX_KEYS[SHOP], bytes(32))
    service.put_check(SHOP, INDEX_KEYS[SHOP])


def of_another_owner(service: Service) -> None:
    service.keys.index[SHOP.key_name] = seal_index_key(INDEX_KEYS[SHOP], MASTER_KEY, BILLING)


def another(service: Service) -> None:
    service.put_index_key(SHOP, b"another index key of this client")
    service.put_check(SHOP, INDEX_KEYS[SHOP])


def damaged_check(service: Service) -> None:
    service.put_index_key(SHOP, INDEX_KEYS[SHOP])
    service.tokens.entries[check_name(SHOP)] = EntryNames(INDEX_KEYS[SHOP], SHOP).check[:-1]


Trouble = Callable[[Service], None]
troubles = pytest.mark.parametrize(
    "trouble", [gone, unreadable, unreadable_with_tokens, of_another_owner, another, damaged_check]
)


@troubles
def test_index_key_that_cannot_be_used(trouble: Trouble) -> None:
    """An index key that is gone, unreadable or another one is key_unreadable. No entry is looked up or written."""
    service = Service()
    trouble(service)
    before = dict(service.tokens.entries)

    with structlog.testing.capture_logs() as lines:
        for op in ("tokenize", "detokenize", "tokenize"):
            assert service.ask(SHOP, op=op) == ["key_unreadable"]

    assert service.tokens.entries == before
    assert names_asked_for(service.tokens.steps) <= {check_name(SHOP)}
    told = [line for line in lines if line["event"] == "index key cannot be used"]
    assert [line["key"] for line in told] == [SHOP.key_name]


@troubles
def test_one_refused_owner_beside_others(trouble: Trouble) -> None:
    """The trouble of one owner costs the others of its batch nothing."""
    service = Service(BILLING, ZONE)
    trouble(service)

    assert service.ask(BILLING, SHOP, ZONE, SHOP) == ["ok", "key_unreadable", "ok", "key_unreadable"]

    of_billing, _, of_zone, _ = service.values
    assert service.comes_back(BILLING, of_billing)
    assert service.comes_back(ZONE, of_zone)


def test_another_storage_behind_a_new_connection() -> None:
    """A worker that was right on one connection checks again on the next one, where the names may be of another key."""
    service = Service(SHOP)
    service.ask(SHOP)
    service.tokens.connections += 1
    service.put_check(SHOP, b"another index key of this client")

    assert service.ask(SHOP) == ["key_unreadable"]


def test_replaced_index_key_is_checked_anew() -> None:
    """If another text of the index key is found, it is checked on the same connection: names of two keys never mix."""
    service = Service(SHOP)
    service.ask(SHOP)
    service.put_index_key(SHOP, b"another index key of this client")
    service.seconds += 3600

    assert service.ask(SHOP) == ["key_unreadable"]
    assert len(service.tokens.entries) == 3


def test_trouble_that_comes_back_is_logged_again() -> None:
    """The log says once that an index key cannot be used, and says so again after a time in which it could."""
    service = Service(SHOP)
    right, wrong = (EntryNames(key, SHOP).check for key in (INDEX_KEYS[SHOP], b"another index key of this client"))

    with structlog.testing.capture_logs() as lines:
        for check, code in ((wrong, "key_unreadable"), (right, "ok"), (wrong, "key_unreadable")):
            service.tokens.entries[check_name(SHOP)] = check
            service.tokens.connections += 1
            assert [service.ask(SHOP), service.ask(SHOP)] == [[code], [code]]

    assert [line["event"] for line in lines] == ["index key cannot be used"] * 2


def test_first_check_value_wins() -> None:
    """Of two workers with different index keys that start together, the second one is refused."""
    service = Service(SHOP)
    theirs = EntryNames(b"another index key of this client", SHOP).check

    def be_faster(step: Any) -> None:
        if isinstance(step, Claim):
            service.tokens.entries.setdefault(check_name(SHOP), theirs)

    service.tokens.before = be_faster

    assert service.ask(SHOP) == ["key_unreadable"]
    assert len(service.tokens.entries) == 1
