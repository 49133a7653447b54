"""Workers and an operator race for the same values in the dense layout, on real servers: one token, none comes back."""

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Self

import pytest

from harness.direct import DirectHandler, Message
from harness.servers import Valkey, oldest_binary, redis_binary, valkey_binary
from token_worker.acra.owner import Owner
from token_worker.acra.value_types import STR
from token_worker.admin.entry_store import ServerEntries
from token_worker.admin.stored_tokens import Token
from token_worker.admin.tokens import TokenAdmin, TokenFilter
from token_worker.keys.cache import KeyCache
from token_worker.keys.index_key import index_path, seal_index_key
from token_worker.keys.store import RedisKeyStore, wrap
from token_worker.redis.address import RedisSettings
from token_worker.redis.link import RedisLink
from token_worker.storage.engine import GUESS_AFTER
from token_worker.storage.steps import Step
from token_worker.tokens.derivation import PLAIN, Deriver

SHOP = Owner("client", "shop-frontend")
MASTER_KEY, KEY, INDEX_KEY = bytes(range(32)), bytes(range(32, 64)), bytes(range(64, 96))
SEED = 20_260_101
VALUES = [b"value number %d" % number for number in range(12)] + [b"a", b"b"]
ALL = TokenFilter()


@pytest.fixture(
    scope="module", params=[valkey_binary, redis_binary, oldest_binary], ids=["valkey", "redis82", "redis70"]
)
def process(request: pytest.FixtureRequest) -> Iterator[Valkey]:
    with Valkey(binary=request.param()) as server:
        yield server


@pytest.fixture
def place(process: Valkey) -> Valkey:
    """A server with the client's keys, and nothing else."""
    with process.client() as client:
        client.flushall()
        client.set(f".acrakeys/{SHOP.key_name}", wrap(KEY, MASTER_KEY, SHOP))
        client.set(index_path(".acrakeys", SHOP), seal_index_key(INDEX_KEY, MASTER_KEY, SHOP))
    return process


def worker(place: Valkey, before: Callable[[Step], None] = lambda _: None) -> DirectHandler:
    return DirectHandler(place, MASTER_KEY, before=before, layout="dense")


class Operator:
    """Removes, disables and enables tokens as ``token-worker tokens`` does."""

    def __init__(self, place: Valkey) -> None:
        self._link = RedisLink("tokens", RedisSettings(url=place.url))
        keys = KeyCache(RedisKeyStore(self._link, ".acrakeys"), MASTER_KEY, with_index=True)
        self._admin = TokenAdmin(ServerEntries(self._link), keys, SHOP, layout="dense", rate=1e9)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._link.close()

    def remove(self, value: bytes) -> bytes | None:
        """Remove the token of a value. Return the token."""
        found = self._admin.of_value(value, STR)
        if found is None:
            return None
        assert isinstance(found, Token)
        assert self._admin.remove(found, ALL)
        return found.token

    def disable_and_enable(self, value: bytes) -> None:
        found = self._admin.of_value(value, STR)
        if isinstance(found, Token):
            assert self._admin.set_disabled(found, disabled=True)
            found = self._admin.of_value(value, STR)
            assert found is None or (isinstance(found, Token) and self._admin.set_disabled(found, disabled=False))

    def findings(self) -> list[str]:
        """Kinds of what ``tokens verify`` finds."""
        return [str(getattr(found, "what", "unreadable")) for found in self._admin.check_values()]


def tokenize(values: list[bytes]) -> list[Message]:
    return [{"op": "tokenize", "client_id": SHOP.id, "type": "str", "value": value.decode()} for value in values]


def detokenize(tokens: list[bytes]) -> list[Message]:
    return [{"op": "detokenize", "client_id": SHOP.id, "type": "str", "value": token.decode()} for token in tokens]


def outcomes(replies: list[Message]) -> list[str]:
    return [reply["status"] if reply["status"] == "ok" else reply["error"]["code"] for reply in replies]


def check_end(place: Valkey, handler: DirectHandler, removed: set[bytes]) -> None:
    """Each value has a token of its own, which was not removed, and comes back; removed ones are not found."""
    replies = handler.ask(tokenize(VALUES))
    assert set(outcomes(replies)) == {"ok"}
    tokens = [reply["value"].encode() for reply in replies]
    assert not removed.intersection(tokens)
    assert len(set(tokens)) == len(VALUES)
    back = handler.ask(detokenize(tokens))
    assert set(outcomes(back)) == {"ok"}
    assert all(reply["value"].encode() == value for reply, value in zip(back, VALUES, strict=True))
    assert set(outcomes(handler.ask(detokenize(sorted(removed))))) == {"token_not_found"}
    with Operator(place) as operator:
        assert operator.findings() == []


@pytest.mark.parametrize("guess_after", [GUESS_AFTER, 0], ids=["looks up", "guesses"])
def test_race_with_an_operator_at_every_step(place: Valkey, guess_after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another worker and an operator act between any two steps of a worker. A removed token never comes back."""
    monkeypatch.setattr("token_worker.storage.engine.GUESS_AFTER", guess_after)
    chance = random.Random(SEED)
    removed: set[bytes] = set()
    seen: Counter[str] = Counter()
    with Operator(place) as operator, worker(place) as other:

        def stores() -> None:
            other.ask(tokenize(chance.sample(VALUES, 3)))

        def removes() -> None:
            removed.update(filter(None, map(operator.remove, chance.sample(VALUES, 3))))

        def disables() -> None:
            for value in chance.sample(VALUES, 2):
                operator.disable_and_enable(value)

        def before(step: Step) -> None:
            seen[type(step).__name__] += 1
            for act in chance.sample([stores, removes, disables], 2):
                act()

        with worker(place, before) as handler:
            for _ in range(40):
                was_removed = frozenset(removed)
                replies = handler.ask(tokenize(chance.sample(VALUES, 6)))
                assert set(outcomes(replies)) <= {"ok", "token_disabled"}
                assert not was_removed.intersection(reply["value"].encode() for reply in replies if "value" in reply)
        check_end(place, other, removed)

    assert {"Lookup", "Store"} <= set(seen)
    assert len(removed) > 20
    first = {Deriver(KEY, SHOP).token(PLAIN["str"], value, 0) for value in VALUES}
    assert removed - first  # values went on to further candidates


def test_threads_of_workers_and_an_operator(place: Valkey) -> None:
    """Three workers on the same values and an operator who removes their tokens, each in a thread of its own, agree."""
    start = threading.Barrier(4, timeout=60)

    def tokenizes(seed: int) -> None:
        order = random.Random(seed)
        with worker(place) as handler:
            for _ in range(25):
                start.wait()
                replies = handler.ask(tokenize(order.sample(VALUES, len(VALUES))))
                assert set(outcomes(replies)) == {"ok"}

    def removes() -> set[bytes]:
        order, removed = random.Random(0), set[bytes]()
        with Operator(place) as operator:
            for _ in range(25):
                start.wait()
                removed.update(filter(None, map(operator.remove, order.sample(VALUES, 8))))
        return removed

    with ThreadPoolExecutor(4) as pool:
        workers = [pool.submit(tokenizes, seed) for seed in (1, 2, 3)]
        operator = pool.submit(removes)
        for done in workers:
            done.result()
        removed = operator.result()

    assert removed
    with worker(place) as handler:
        check_end(place, handler, removed)
