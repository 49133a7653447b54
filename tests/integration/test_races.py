"""Workers and AcraServer race for the same values on a real server: one token a value, and no orphans of ours."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from harness.direct import DirectHandler, Message
from harness.racing_acra import MASTER_KEY, NAMES, SEED, SHOP, RacingAcra, store_key
from harness.servers import Valkey
from harness.stack import Stack
from token_worker.acra.token_entry import decode_token_value
from token_worker.acra.value_types import STR
from token_worker.storage.engine import GUESS_AFTER
from token_worker.storage.steps import Adopt, Step, Store
from token_worker.tokens.derivation import PLAIN, Deriver


@pytest.fixture
def key(server: Valkey) -> bytes:
    """The client's key, stored."""
    return store_key(server)


def tokenize(values: list[bytes]) -> list[Message]:
    return [{"op": "tokenize", "client_id": SHOP.id, "type": "str", "value": value.decode()} for value in values]


def detokenize(tokens: list[str]) -> list[Message]:
    return [{"op": "detokenize", "client_id": SHOP.id, "type": "str", "value": token} for token in tokens]


def values_of(replies: list[Message]) -> list[str]:
    assert {reply["status"] for reply in replies} <= {"ok"}
    return [reply["value"] for reply in replies]


def check_storage(client: redis.Redis, acra: RacingAcra, key: bytes, tokens: dict[bytes, str]) -> None:
    """Every token detokenizes to its own value only, and every t. entry of ours belongs to the value's one token.

    Ours are told from Acra's by being derived: Acra's are random.
    """
    deriver = Deriver(key, SHOP)
    assert len(set(tokens.values())) == len(tokens)
    kept = {NAMES.of_token(token.encode(), STR.number): value for value, token in tokens.items()}
    for t_key, value in kept.items():
        raw = acra.get(t_key)
        assert raw is not None
        assert decode_token_value(acra.open(raw)) == (value, STR.number)
    for value in tokens:
        candidates = {NAMES.of_token(deriver.token(PLAIN["str"], value, n), STR.number) for n in range(8)} - kept.keys()
        for t_key in candidates:
            raw = acra.get(t_key) if len(value) > 2 else None  # Acra may well draw one of the short ones
            assert raw is None or decode_token_value(acra.open(raw))[0] != value
    written = sum(1 for _ in client.scan_iter(b"tokens/*/" + b"h.".hex().encode() + b"*", count=1000))
    assert written == len(tokens)


@pytest.mark.parametrize("guess_after", [GUESS_AFTER, 0], ids=["looks up", "guesses"])
def test_race_at_every_step_gives_one_token(
    server: Valkey, key: bytes, guess_after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Acra and another worker act between any two steps of a worker, and all of them give the same tokens."""
    monkeypatch.setattr("token_worker.storage.engine.GUESS_AFTER", guess_after)
    values = [b"value number %d" % number for number in range(200)] + [b"%02d" % number for number in range(40)]
    values += [letter.encode() for letter in "abcdefghij"]
    chance = random.Random(SEED)
    random.Random(SEED).shuffle(values)
    seen: list[str] = []
    with server.client() as client, RacingAcra(server, key) as acra, DirectHandler(server, MASTER_KEY) as other:
        under_way = {value: acra.steps(value) for value in values}

        def before(step: Step) -> None:
            seen.append(type(step).__name__)
            for value in chance.sample(values, 60):
                next(under_way[value], None)
            if isinstance(step, Store | Adopt):
                other.ask(tokenize(chance.sample(values, 10)))

        with DirectHandler(server, MASTER_KEY, before=before) as handler:
            ours: list[str] = []
            for start in range(0, len(values), 25):
                ours += values_of(handler.ask(tokenize(values[start : start + 25])))
        for steps in under_way.values():
            for _ in steps:
                pass

        assert {"Lookup", "Store"} <= set(seen)
        assert ours == [acra.token(value) for value in values]
        assert values_of(other.ask(tokenize(values))) == ours
        assert values_of(other.ask(detokenize(ours))) == [value.decode() for value in values]
        check_storage(client, acra, key, dict(zip(values, ours, strict=True)))
        derived = {Deriver(key, SHOP).token(PLAIN["str"], value, 0).decode() for value in values}
        assert 50 < len(derived.intersection(ours)) < len(values) - 50  # both sides have won


def test_half_written_value_of_acra_gets_a_token_of_ours(server: Valkey, key: bytes) -> None:
    """If Acra died between its two writes, the value gets a token of ours; Acra's t. entry stays as it was."""
    value = b"value number 1"
    with RacingAcra(server, key) as acra, DirectHandler(server, MASTER_KEY) as handler, server.client() as client:
        steps = acra.steps(value)
        next(steps)
        next(steps)
        (orphan,) = client.scan_iter(b"tokens/*", count=1000)
        raw = acra.get(orphan)

        (token,) = values_of(handler.ask(tokenize([value])))
        next(steps, None)  # Acra was not dead, but slow

        assert token == Deriver(key, SHOP).token(PLAIN["str"], value, 0).decode() == acra.token(value)
        assert acra.get(orphan) == raw
        assert client.dbsize() == 4


def test_threads_of_workers_and_acra_agree_on_every_token(server: Valkey, key: bytes) -> None:
    """Two workers and AcraServer, each in a thread of its own on the same values, agree on every token."""
    groups = [[b"group %d value %d" % (group, number) for number in range(12)] for group in range(20)]
    start = threading.Barrier(3, timeout=60)

    def worker(seed: int) -> dict[bytes, str]:
        found: dict[bytes, str] = {}
        order = random.Random(seed)
        with DirectHandler(server, MASTER_KEY) as handler:
            for group in groups:
                values = order.sample(group, len(group))
                start.wait()
                found |= zip(values, values_of(handler.ask(tokenize(values))), strict=True)
        return found

    def acra_server() -> dict[bytes, str]:
        found: dict[bytes, str] = {}
        with RacingAcra(server, key) as acra:
            for group in groups:
                start.wait()
                found |= {value: acra.tokenize(value) for value in group}
        return found

    with ThreadPoolExecutor(3) as pool:
        results = [pool.submit(worker, 1), pool.submit(worker, 2), pool.submit(acra_server)]
        first, second, third = (result.result() for result in results)

    assert first == second == third
    assert len(first) == 240
    with server.client() as client, RacingAcra(server, key) as acra:
        check_storage(client, acra, key, first)


def test_worker_processes_and_acra_agree_on_every_token(streams_server: Valkey, storage_server: Valkey) -> None:
    """Two worker processes that get every value in requests of their own, and AcraServer, agree on every token."""
    key = store_key(storage_server)
    values = [b"value number %d" % number for number in range(300)]
    found: dict[bytes, str] = {}
    with (
        Stack(
            streams_server, storage_server, master_key=MASTER_KEY, settings={"TOKEN_WORKER_BATCH_SIZE": "20"}
        ) as stack,
        RacingAcra(storage_server, key) as acra,
    ):
        workers = [stack.start_worker(), stack.start_worker()]
        requests = [
            {"id": f"{value.decode()} {copy}", **request}
            for copy in range(3)
            for value, request in zip(values, tokenize(values), strict=True)
        ]
        stack.ask([{"id": "warm up", **tokenize([b"another value"])[0]}])
        random.Random(SEED).shuffle(requests)
        stack.send(requests)
        for value in reversed(values):
            found[value] = acra.tokenize(value)
        replies = stack.wait_for_replies(len(requests) + 1)

        assert all(worker.is_alive for worker in workers)
        answers: dict[str, set[str]] = {}
        for reply in replies:
            answers.setdefault(reply["id"].rpartition(" ")[0], set()).add(reply["value"])
        assert {value: answers[value.decode()] for value in values} == {value: {found[value]} for value in values}
        found[b"another value"] = acra.token(b"another value")
        check_storage(stack.storage, acra, key, found)
