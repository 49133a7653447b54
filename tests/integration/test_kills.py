"""Workers killed and connections cut at every command they send: every request has exactly one reply.

Both happen from outside, in a proxy between worker and server. ``LONG_TESTS=1`` adds many kills at random places.
"""

import os
import random
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial

import pytest

from harness.commands import label
from harness.messages import values
from harness.planter import Planter
from harness.producer import BatchProducer
from harness.proxy import Command, Moment, Proxy, Verdict
from harness.servers import Valkey
from harness.stack import Stack, WorkerProcess, wait_until
from token_worker.acra.owner import Owner
from token_worker.keys.store import unwrap

WORKERS = 2
"""Workers that run, and are killed, at the same time: one before its commands, one after."""

REQUESTS = 2000

NEVER_MS = "86400000"
"""A claim idle time that no entry reaches: such a worker takes over from nobody."""

LONG = bool(os.environ.get("LONG_TESTS"))
MOST_COMMANDS = 100
"""A worker sends fewer than this to start and to answer its first batches."""

RANDOM_KILLS = 400 if LONG else 8

START_COMMANDS = 6
"""A worker sends so many before it asks for entries: they are the same, whatever it finds."""


class Killer:
    """Ends a worker at its n-th command, counted over all its connections; None never does."""

    def __init__(self, number: int | None, moment: Moment) -> None:
        self.labels: list[str] = []
        self._number = number
        self.moment = moment
        self._lock = threading.Lock()
        self._worker: WorkerProcess | None = None
        self._is_started = threading.Event()

    def aim(self, worker: WorkerProcess) -> None:
        self._worker = worker
        self._is_started.set()

    def hook(self, role: str, moment: Moment, command: Command) -> Verdict:
        self._is_started.wait()
        with self._lock:
            if moment is Moment.BEFORE:
                self.labels.append(label(role, command))
            if self._number is None or len(self.labels) < self._number or moment is not self.moment:
                return Verdict.PASS
            assert self._worker is not None
            self._worker.signal(signal.SIGKILL)
            return Verdict.CUT

    def commits(self) -> int:
        return sum(name.startswith("streams EVAL") for name in self.labels)


RoleHook = Callable[[str, Moment, Command], Verdict]


class ProxiedWorker:
    """Starts one worker after the other behind the same proxies, one for each server."""

    def __init__(self, stack: Stack, servers: dict[str, int], exits: ExitStack) -> None:
        self._stack = stack
        self._proxies = {role: exits.enter_context(Proxy(port)) for role, port in servers.items()}

    def watch(self, hook: RoleHook, **settings: str) -> WorkerProcess:
        """Start a worker, with this hook on all its connections."""
        urls = {}
        for role, proxy in self._proxies.items():
            proxy.hook = partial(hook, role)
            urls[f"TOKEN_WORKER_{role.upper()}_URL"] = proxy.url
        return self._stack.start_worker(log=None, **urls, **settings)

    def run(self, killer: Killer, **settings: str) -> WorkerProcess:
        """Start a worker that this killer is going to kill."""
        worker = self.watch(killer.hook, **settings)
        killer.aim(worker)
        return worker


@pytest.fixture
def proxied(streams_server: Valkey, storage_server: Valkey) -> Iterator[tuple[Stack, list[ProxiedWorker]]]:
    settings = {
        "TOKEN_WORKER_CLAIM_IDLE_MS": "1000",
        "TOKEN_WORKER_BATCH_SIZE": "20",
        "TOKEN_WORKER_MAX_DELIVERIES": "1000",  # the kills may hit one entry often, for no fault of its own
    }
    ports = {"streams": streams_server.port, "keys": storage_server.port, "tokens": storage_server.port}
    with Stack(streams_server, storage_server, settings=settings) as stack, ExitStack() as exits:
        stack.generate_key("shop-frontend")
        yield stack, [ProxiedWorker(stack, ports, exits) for _ in range(WORKERS)]
        for worker in stack.workers:
            worker.kill()


def known(stack: Stack, one: ProxiedWorker, number: int) -> BatchProducer:
    """Values that have tokens before anything goes wrong."""
    producer = BatchProducer(stack)
    producer.add_new(number, start=1_000_000)
    producer.send()
    worker = one.run(Killer(None, Moment.BEFORE))
    assert producer.settle() == []
    worker.kill()
    return producer


def planter(stack: Stack, client_id: str) -> Planter:
    owner = Owner("client", client_id)
    key = unwrap(stack.storage.get(f".acrakeys/{owner.key_name}"), stack.master_key, owner)
    return Planter(stack.storage, client_id, key)


def write_down(producer: BatchProducer, old: BatchProducer, rng: random.Random) -> None:
    """Requests of every sort: new and known values, items, inconsistent ones, tokens, reply streams of their own."""
    pairs = list(old.tokens())
    plant = planter(producer.stack, "shop-frontend")
    for number in range(0, REQUESTS, 10):
        producer.add_new(3, start=number)
        producer.add("tokenize", "str", [f"beaten to it {number}"])
        plant.take_candidate(f"beaten to it {number}")
        for _ in range(2):
            kind, token, value = rng.choice(pairs)
            producer.add("tokenize", kind, [value], expected=[token], packed=rng.random() < 0.5)
        for _ in range(2):
            kind, token, value = rng.choice(pairs)
            producer.add("detokenize", kind, [token], expected=[value], packed=rng.random() < 0.5)
        fresh = values("email", 2_000_000 + number)
        producer.add("tokenize", "email", [next(fresh) for _ in range(5)], reply_to=f"tokenize:responses:{number % 7}")
        producer.add("tokenize", "str", [next(values("str", number))], consistent=False, packed=True)


def kill_everywhere(
    proxied: Sequence[ProxiedWorker], commands: set[str], commits: int, *, first: int = 1, **settings: str
) -> None:
    """Kill each worker at its first, second, third… command, or begin at a later one.

    Ends when all of these commands were hit from both sides, and workers have got as far as so many commits.
    """
    missing = {(moment, command) for moment in Moment for command in commands}
    for number in range(first, MOST_COMMANDS):
        killers = [Killer(number, moment) for moment in Moment]
        workers = [one.run(killer, **settings) for one, killer in zip(proxied, killers, strict=True)]
        for worker, killer in zip(workers, killers, strict=True):
            assert worker.wait() == -signal.SIGKILL
            assert killer.labels, "something else killed the worker, before its first command"
            missing.discard((killer.moment, killer.labels[-1]))
        if not missing and all(killer.commits() >= commits for killer in killers):
            return
    assert not missing


BATCH = {
    "streams CLIENT",
    "streams EVALSHA group",
    "streams XPENDING",
    "streams XREADGROUP",
    "streams EVALSHA commit",
    "keys CLIENT",
    "keys MGET",
    "tokens CLIENT",
    "tokens MGET",
    "tokens MSETNX",
    "tokens EVALSHA store",
}
ALONE = {"streams XPENDING", "streams XCLAIM", "streams EVALSHA commit", "tokens PING", "tokens MGET"}


@pytest.mark.timeout(1800 if LONG else 300)
def test_workers_killed_at_every_command_answer_every_request_once(proxied: tuple[Stack, list[ProxiedWorker]]) -> None:
    """Workers are killed before and after every command: each of over 2,000 requests gets exactly one reply."""
    # Given requests of every sort in the streams
    stack, both = proxied
    rng = random.Random(7)
    old = known(stack, both[0], 300)
    producer = BatchProducer(stack)
    write_down(producer, old, rng)
    producer.send()
    assert len(producer) == REQUESTS

    # When workers are killed before and after each command of reading, handling and answering two batches,
    kill_everywhere(both, BATCH, 3, TOKEN_WORKER_CLAIM_IDLE_MS=NEVER_MS)
    # and each command of taking over, one by one, what those have left behind,
    kill_everywhere(both, ALONE, 1, first=START_COMMANDS + 1)
    # and wherever it may be, as more requests come,
    for number in range(RANDOM_KILLS // WORKERS):
        producer.add_new(100, start=3_000_000 + 100 * number)
        producer.send()
        killers = [Killer(rng.randrange(1, 300), rng.choice(list(Moment))) for _ in both]
        for worker in [one.run(killer) for one, killer in zip(both, killers, strict=True)]:
            wait_until(lambda worker=worker: not worker.is_alive or producer.is_settled(), "the kill")  # type: ignore[misc]
            worker.kill()
    # and then two are left alone,
    for one in both:
        one.run(Killer(None, Moment.BEFORE))

    # Then every request has exactly one reply, the right one, no entry was given up,
    assert producer.settle() == []
    assert not stack.streams.exists("tokenize:requests:dead", "detokenize:requests:dead")
    # and every token that went out gives its value back.
    back = BatchProducer(stack)
    back.add_tokens_of(producer)
    back.send()
    assert back.settle() == []


CUTS = [
    (Moment.BEFORE, Verdict.CUT),
    (Moment.BEFORE, Verdict.CUT_IN_THE_MIDDLE),
    (Moment.AFTER, Verdict.CUT),
    (Moment.AFTER, Verdict.CUT_IN_THE_MIDDLE),
]


FOR_PENDING = {"streams XPENDING", "streams XCLAIM"}


class Cutter:
    """Cuts connections at commands, each given one once, in their order."""

    def __init__(self) -> None:
        self.left: list[tuple[str, Moment, Verdict]] = []

    def hook(self, role: str, moment: Moment, command: Command) -> Verdict:
        if not self.left or (label(role, command), moment) != self.left[0][:2]:
            return Verdict.PASS
        if moment is Moment.AFTER and not command.reply:
            return Verdict.PASS  # a read that brought nothing
        return self.left.pop(0)[2]


@pytest.mark.parametrize(
    "command",
    [
        "streams XREADGROUP",
        "streams XPENDING",
        "streams XCLAIM",
        "streams EVALSHA commit",
        "tokens MGET",
        "tokens MSETNX",
        "tokens EVALSHA store",
        "keys MGET",
    ],
)
def test_connections_cut_at_any_command_are_made_good_by_the_same_worker(
    proxied: tuple[Stack, list[ProxiedWorker]], command: str
) -> None:
    """A worker whose connection is cut answers every entry once, whether or not the server has done the command.

    It waits for no take-over to find what it was given without knowing.
    """
    # Given one worker, and entries that nobody takes over
    stack, [one, _] = proxied
    cutter = Cutter()
    worker = one.watch(cutter.hook, TOKEN_WORKER_CLAIM_IDLE_MS=NEVER_MS)
    for number, (moment, verdict) in enumerate(CUTS):
        stack.generate_key(f"client-{number}")
        # When its connection is cut at the command (to be found pending, entries must have been delivered in vain)
        detour = [("streams XREADGROUP", Moment.AFTER, Verdict.CUT)] if command in FOR_PENDING else []
        cutter.left = [*detour, (command, moment, verdict)]
        producer = BatchProducer(stack, f"client-{number}")  # whose key is not at hand yet
        producer.add_new(40)
        if command == "tokens EVALSHA store":
            planter(stack, f"client-{number}").take_candidate("beaten to it")
            producer.add("tokenize", "str", ["beaten to it"])
        producer.send()
        # Then each of them has one reply, from that worker.
        assert producer.settle() == []
        assert cutter.left == []
    assert worker.is_alive
