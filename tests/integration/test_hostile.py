"""Hostile entries beside good ones through a real worker and real streams; ``fuzz/`` does the same in process."""

import random
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from fuzz.mutations import Fields, Mutator, giants
from fuzz.world import MARK, MARK_DIGITS, OWNERS, World
from harness.processes import peak_mib
from harness.producer import BatchProducer
from harness.servers import Valkey
from harness.stack import Stack

SEED = "a worker's"
HOSTILE = 3000
GARBAGE = 3000
"""Entries of a few bytes that are no requests: as many as a worker reads at once, again and again."""

MEMORY_MIB = 80
"""Memory of a worker by docs/start.md, for requests within the default limits."""

GIANTS_MIB = 130
"""The same, and a few times an entry of 10 MB, which is read by itself."""


@pytest.fixture
def world() -> World:
    return World(SEED)


@pytest.fixture
def stack(streams_server: Valkey, storage_server: Valkey) -> Iterator[Stack]:
    """Keys for everyone that the hostile requests name."""
    with Stack(streams_server, storage_server, settings={"TOKEN_WORKER_LOG_LEVEL": "debug"}, fresh=True) as stack:
        for owner in OWNERS:
            stack.generate_key(owner.id, owner.kind)
        yield stack
        for worker in stack.workers:
            worker.kill()


def send(stack: Stack, entries: list[Fields]) -> None:
    with stack.streams.pipeline(transaction=False) as pipe:
        for fields in entries:
            pipe.xadd("tokenize:requests", fields)
        pipe.execute()


def outcomes(stack: Stack) -> list[str]:
    """The entries that replies and dead letters are for."""
    names = [reply["request_entry"] for reply in stack.replies()]
    dead = stack.streams.xrange("tokenize:requests:dead")
    return sorted(names + [fields[b"dead_entry"].decode() for _, fields in dead])


def all_sent(stack: Stack) -> list[str]:
    sent: list[str] = []
    start = "-"
    while page := stack.streams.xrange("tokenize:requests", min=start, count=20):  # some of them are large
        sent += [entry_id.decode() for entry_id, _ in page]
        start = f"({sent[-1]}"
    return sorted(sent)


def test_hostile_entries_cost_neither_the_worker_nor_their_neighbours(
    stack: Stack, world: World, tmp_path: Path
) -> None:
    """Of thousands of hostile entries each has a reply or is a dead letter; good ones among them are answered."""
    # Given hostile entries, garbage, and good requests among them
    mutator = Mutator(world.good, random.Random(SEED))
    hostile = [mutator.fields() for _ in range(HOSTILE)] + [{b"payload": b"no"}] * GARBAGE
    producer = BatchProducer(stack)
    for number, start in enumerate(range(0, len(hostile), 500)):
        send(stack, hostile[start : start + 500])
        producer.add_new(50, start=number * 50)
        producer.send()
    # When a worker serves them
    worker = stack.start_worker(log=tmp_path / "log")
    # Then the good ones are answered, and each other one has an outcome,
    assert producer.settle() == []
    assert outcomes(stack) == all_sent(stack)
    # within the memory that is promised,
    assert worker.is_alive
    assert peak_mib(worker.pid) < MEMORY_MIB
    # and the log tells nothing of them.
    assert not tells_of_a_payload(tmp_path / "log")


def test_giant_entries_cost_neither_the_worker_nor_their_neighbours(stack: Stack, world: World, tmp_path: Path) -> None:
    """Fields of 10 MB and entries of 10,000 fields have an outcome each; good ones between them are answered."""
    producer = BatchProducer(stack)
    for number, fields in enumerate(giants(world.good) * 2):
        send(stack, [fields])
        producer.add_new(10, start=number * 10)
        producer.send()
    worker = stack.start_worker(log=tmp_path / "log")
    assert producer.settle() == []
    assert outcomes(stack) == all_sent(stack)
    assert worker.is_alive
    assert peak_mib(worker.pid) < GIANTS_MIB
    assert not tells_of_a_payload(tmp_path / "log")


def tells_of_a_payload(log: Path) -> bool:
    """Tell whether a worker's log has a value. Ids of requests and times may have any digits, and do not count."""
    for line in map(msgspec.json.decode, log.read_text().splitlines()):
        text = str({name: value for name, value in line.items() if name not in {"request_id", "timestamp"}})
        if MARK in text or MARK_DIGITS in text:
            return True
    return False
