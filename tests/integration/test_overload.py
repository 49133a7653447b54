"""Workers under more load than they can take: fast producers, and many entries, tokens and clients.

A worker's memory does not grow, lag is right, and every request is answered in the end. ``LONG_TESTS=1`` makes the
overload a minute long, and the numbers those of large installations.
"""

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from bench import preload
from bench.subject import CLIENT, Subject, payloads
from harness.processes import peak_mib
from harness.proxy import Command, Moment, Proxy, Verdict
from harness.servers import Valkey
from harness.stack import GROUP, Stack, wait_until
from token_worker.keys.store import LOOK_PAGES_MAX

LONG = bool(os.environ.get("LONG_TESTS"))
LOOKS = 60 if LONG else 4
"""Number of times that lag is measured during the overload; a command takes a second."""

FASTER = 10
"""Ratio of sent requests to answered ones."""

WAITING = 1_000_000 if LONG else 100_000
TOKENS = 1_000_000 if LONG else 20_000
CLIENTS = 100_000 if LONG else 20_000
CACHED_CLIENTS = 12_000
"""More than a worker keeps the keys of."""

FEW = 20
GROWTH_MIB = 8
"""Permitted difference of a worker's resident peak: the C library's allocator differs with the order of the work."""


@pytest.fixture
def subject(streams_server: Valkey, storage_server: Valkey) -> Iterator[Subject]:
    """Servers, and a client; workers are killed at the end, since a drain takes a second each."""
    with Stack(streams_server, storage_server, fresh=True) as stack:
        stack.generate_key(CLIENT)
        yield Subject(streams_server, storage_server, stack)
        for worker in stack.workers:
            worker.kill()


def undelivered(stack: Stack) -> int:
    """The row of ``token-worker lag`` for the requests to tokenize."""
    rows = [msgspec.json.decode(line) for line in stack.run("lag", "--json").stdout.splitlines()]
    [row] = [row for row in rows if (row["stream"], row["group"]) == ("tokenize:requests", GROUP)]
    return int(row["undelivered"])


def one_reply_each(stack: Stack, entries: list[bytes]) -> bool:
    """Tell whether each of these entries, and no other, has one good reply."""
    replies = [(reply["request_entry"], reply["status"]) for reply in stack.replies()]
    return sorted(replies) == sorted((entry.decode(), "ok") for entry in entries)


@pytest.mark.timeout(600)
def test_producers_ten_times_faster_than_a_worker(
    subject: Subject, storage_server: Valkey, say: Callable[[str], None]
) -> None:
    """Requests come ten times as fast as they are answered: memory is flat, lag grows; later each has its reply."""
    stack = subject.stack
    values = subject.values(500)
    entries: list[bytes] = []
    lags: list[int] = []

    def answered() -> int:
        return int(stack.streams.xlen("tokenize:responses"))

    with Proxy(storage_server.port) as slow:
        # Given a worker that takes one request at a time from a token storage that is not near
        worker = stack.start_worker(TOKEN_WORKER_BATCH_SIZE="1", TOKEN_WORKER_TOKENS_URL=slow.url)
        entries += stack.send(payloads("tokenize", values))
        wait_until(lambda: answered() >= len(entries), "the worker to be warm")
        memory = peak_mib(worker.pid)
        # When producers send ten times as many as it answers
        for _ in range(LOOKS):
            while len(entries) < FASTER * answered():
                entries += stack.send(payloads("tokenize", values))
            before = answered()
            lags.append(undelivered(stack))
            assert len(entries) - before >= lags[-1] >= len(entries) - answered() - 1  # one is in hand
            wait_until(lambda before=before: answered() > before + 50, "some replies")  # type: ignore[misc]  # a default binds
        say(f"{len(entries):,} sent, lag up to {lags[-1]:,}, {memory:.0f} MiB, then {peak_mib(worker.pid):.0f} MiB")
        # Then memory has stayed, and lag, told as it is, has grown from look to look.
        assert peak_mib(worker.pid) < memory + GROWTH_MIB
        assert lags == sorted(set(lags))
        assert lags[-1] > len(entries) / 2
    # And once there is a worker that is fast enough, all is answered once.
    worker.kill()
    stack.start_worker(TOKEN_WORKER_CLAIM_IDLE_MS="1000")
    wait_until(lambda: answered() >= len(entries), "all replies", 300)
    assert one_reply_each(stack, entries)
    assert undelivered(stack) == 0


# Starting where there is much


@dataclass
class Cost:
    """The work of a worker until its first reply.

    Attributes:
        commands: by server and name.
        transferred: bytes of all arguments and replies.
        peak: resident, in MiB.
    """

    commands: Counter[str] = field(default_factory=Counter)
    transferred: int = 0
    peak: float = 0


@contextmanager
def watched(subject: Subject, cost: Cost) -> Iterator[threading.Event]:
    """Proxies for a worker that count what it does until its first reply is written, and hold it there."""
    replied, go_on = threading.Event(), threading.Event()

    def hook(server: str) -> Callable[[Moment, Command], Verdict]:
        def watch(moment: Moment, command: Command) -> Verdict:
            if moment is Moment.AFTER and not replied.is_set():
                cost.commands[f"{server} {command.name}"] += 1
                cost.transferred += sum(map(len, command.parts)) + _size(command.reply)
                if b"tokenize:responses" in command.parts and isinstance(command.reply, list):
                    replied.set()
            if replied.is_set():
                go_on.wait()
            return Verdict.PASS

        return watch

    with (
        Proxy(subject.streams.port, hook("streams")) as streams,
        Proxy(subject.storage.port, hook("storage")) as storage,
    ):
        subject.stack.settings["TOKEN_WORKER_STREAMS_URL"] = streams.url
        subject.stack.settings["TOKEN_WORKER_KEYS_URL"] = storage.url
        try:
            yield replied
        finally:
            go_on.set()


def _size(reply: Any) -> int:
    if isinstance(reply, list):
        return sum(map(_size, reply))
    return len(reply) if isinstance(reply, bytes) else 1


def started(subject: Subject) -> Cost:
    """Start a worker that finds requests waiting, and kill it as soon as it has answered the first."""
    for server in (subject.stack.streams, subject.stack.storage):
        server.script_flush()
    cost = Cost()
    with watched(subject, cost) as replied:
        worker = subject.stack.start_worker()
        assert replied.wait(120)
        cost.peak = peak_mib(worker.pid)
        worker.kill()
    return cost


def many_waiting(subject: Subject) -> None:
    waiting = payloads("tokenize", subject.values(1000))
    for _ in range(WAITING // len(waiting)):
        subject.stack.send(waiting)


def many_tokens(subject: Subject) -> None:
    preload.stored(subject, TOKENS, 1)


def many_clients(subject: Subject) -> None:
    preload.clients(subject, CLIENTS)


PAGE_BYTES = 32 << 10
"""Most bytes of the keys that a worker tries at its start, and of the names among which it finds them."""


@pytest.mark.parametrize("fill", [many_waiting, many_tokens, many_clients])
@pytest.mark.timeout(900)
def test_start_does_not_depend_on_what_there_is(subject: Subject, fill: Callable[[Subject], None]) -> None:
    """Until its first reply a worker does the same, and needs as much memory, however much there is."""
    # Given what a worker does where there is little
    few = payloads("tokenize", subject.values(FEW))
    subject.stack.send(few)
    little = started(subject)
    # When there is much, and the very same requests come first
    subject.stack.streams.flushall()
    subject.stack.storage.flushall()
    subject.stack.generate_key(CLIENT)
    subject.stack.send(few)
    fill(subject)
    much = started(subject)
    # Then it is the same, but for the short look at the names, and the keys that it shows.
    keys, look = "storage MGET", "storage SCAN"
    assert abs(much.commands.pop(keys) - little.commands.pop(keys)) <= 1
    assert (little.commands.pop(look), much.commands.pop(look) <= LOOK_PAGES_MAX) == (1, True)
    assert much.commands == little.commands
    assert much.transferred < little.transferred * 1.1 + PAGE_BYTES
    assert much.peak < little.peak + GROWTH_MIB


@pytest.mark.timeout(900)
def test_memory_does_not_grow_with_clients(subject: Subject, say: Callable[[str], None]) -> None:
    """Once a worker has met as many clients as it keeps keys of, further ones take no more memory."""
    stack = subject.stack
    asked = preload.clients(subject, CLIENTS)
    worker = stack.start_worker()

    def ask(start: int, stop: int) -> None:
        part = asked[start:stop]
        requests = payloads("tokenize", [v for _, (v, _) in part], clients=[client for client, _ in part], first=start)
        stack.send(requests)
        wait_until(lambda: stack.streams.xlen("tokenize:responses") >= stop, "the replies", 120)

    ask(0, CACHED_CLIENTS)
    memory = peak_mib(worker.pid)
    for start in range(CACHED_CLIENTS, CLIENTS, 1000):
        ask(start, min(start + 1000, CLIENTS))
    say(f"{CACHED_CLIENTS:,} clients {memory:.0f} MiB, {CLIENTS:,} clients {peak_mib(worker.pid):.0f} MiB")
    assert peak_mib(worker.pid) < memory + GROWTH_MIB
    tokens = {reply["id"]: reply["value"] for reply in stack.replies()}
    assert tokens == {str(number): token for number, (_, (_, token)) in enumerate(asked)}
