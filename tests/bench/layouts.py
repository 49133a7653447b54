"""Both layouts of the token storage in turn: memory of a token, and CPU of the worker and of the storage's server."""

from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack

from bench import preload
from bench.cpu import DETOKENIZE, KNOWN, NEW
from bench.figures import Row, row
from bench.sizes import ITEMS, Sizes
from bench.subject import Measured, Subject, subject
from harness.servers import redis_binary
from token_worker.keys.layout_record import LayoutName

LAYOUTS: tuple[LayoutName, ...] = ("acra", "dense")
KINDS = (NEW, KNOWN, DETOKENIZE)

WORKER_MOST = {
    1: dict.fromkeys(KINDS, 1.15),
    ITEMS: {NEW: 0.8, KNOWN: 1.3, DETOKENIZE: 1.0},
}
"""Goals by items in a request: CPU of the worker, as a multiple of that in Acra's layout."""

SERVER_MOST = 0.6
"""Goal: CPU of the storage's server, as a multiple of that in Acra's layout, for values in requests of many."""

BYTES_MOST = {"Valkey": 190, "Redis": 210}
MEMORY_TOKENS = 100_000
"""Tokens of which the memory is taken."""

Figure = tuple[LayoutName, str, int]
"""Layout, kind of work, and items in a request."""


def measure(sizes: Sizes, tell: Callable[[str], None]) -> list[Row]:
    """Measure each kind of work in the one layout right after the other; each has its own servers and worker."""
    rounds: dict[Figure, list[Measured]] = defaultdict(list)
    with ExitStack() as opened:
        systems: dict[LayoutName, Subject] = {name: opened.enter_context(subject(name)) for name in LAYOUTS}
        for number in range(sizes.rounds):
            tell(f"layouts, round {number + 1} of {sizes.rounds}")
            turn = {name: systems[name] for name in (LAYOUTS if number % 2 else LAYOUTS[::-1])}
            for figure, measured in _round(turn, sizes.requests):
                rounds[figure].append(measured)
    return _memory_rows(sizes, tell) + _cpu_rows(rounds)


def _round(systems: dict[LayoutName, Subject], count: int) -> list[tuple[Figure, Measured]]:
    workers = {name: system.start_worker() for name, system in systems.items()}
    for system in systems.values():
        system.warm_up("tokenize", "detokenize")
    made: list[tuple[Figure, Measured]] = []
    for items in (1, ITEMS):
        values = {name: system.values(count) for name, system in systems.items()}
        tokens: dict[LayoutName, list[str]] = {}
        for kind in KINDS:
            for name, system in systems.items():
                pid = workers[name].pid
                if kind == DETOKENIZE:
                    asked = system.measure_checked(pid, "detokenize", tokens[name], values[name], items=items)
                else:
                    asked = system.measure_checked(pid, "tokenize", values[name], tokens.get(name), items=items)
                    tokens[name] = asked[1]
                made.append(((name, kind, items), asked[0]))
    for worker in workers.values():
        worker.kill()
    return made


def _cpu_rows(rounds: dict[Figure, list[Measured]]) -> list[Row]:
    made = []
    for items, goals in WORKER_MOST.items():
        requests = "single requests" if items == 1 else f"requests of {items} items"
        for title, field in (("worker", "worker_us"), ("storage's server", "storage_us")):
            section = f"layouts, CPU of the {title}, {requests}"
            for kind in KINDS:
                of_acra, of_dense = ([getattr(one, field) for one in rounds[name, kind, items]] for name in LAYOUTS)
                most = goals[kind] if title == "worker" else SERVER_MOST if items == ITEMS else None
                made.append(row(section, f"{kind}, acra", "µs a value", of_acra))
                made.append(row(section, f"{kind}, dense", "µs a value", of_dense, to=of_acra, of="acra", most=most))
    return made


def _memory_rows(sizes: Sizes, tell: Callable[[str], None]) -> list[Row]:
    """Bytes that the server allocates for each token of 16 characters."""
    count = min(sizes.stored, MEMORY_TOKENS)
    made = []
    for server, binary in (("Valkey", None), ("Redis", redis_binary())):
        samples: dict[LayoutName, float] = {}
        for name in LAYOUTS:
            tell(f"memory of {count:,} tokens, {name} in {server}")
            with subject(name, storage_binary=binary) as system:
                before = system.used_memory()
                preload.stored(system, count, 1)
                samples[name] = (system.used_memory() - before) / count
        section, acra = f"layouts, memory of {server}", [samples["acra"]]
        dense, most = [samples["dense"]], BYTES_MOST[server]
        made.append(row(section, "acra", "bytes a token", acra))
        made.append(row(section, "dense", "bytes a token", dense, to=acra, of="acra", most=most, of_median=True))
    return made
