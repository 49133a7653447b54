"""The cost of a request with few and with many tokens and clients."""

from collections import defaultdict
from collections.abc import Callable

from bench import preload
from bench.cpu import DETOKENIZE, KNOWN, NEW
from bench.figures import Row, row
from bench.sizes import Sizes
from bench.subject import CLIENT, Measured, Subject, subject

STORED_MOST = 1.1
CLIENTS_MOST = 2
FEW = 10_000
"""Tokens of the small storage."""


def measure_stored(sizes: Sizes, tell: Callable[[str], None]) -> list[Row]:
    """Measure the same work on a small and on a large storage, in turn; each has its own servers and worker."""
    few = min(FEW, max(1, sizes.stored // 100))
    wanted = min(sizes.requests, few)
    costs: dict[tuple[str, int], list[Measured]] = defaultdict(list)
    with subject(sizes.layout) as small, subject(sizes.layout) as large:
        tell(f"storing {sizes.stored:,} tokens")
        systems = {few: small, sizes.stored: large}
        empty = {count: system.used_memory() for count, system in systems.items()}
        tokens = {count: preload.stored(system, count, wanted) for count, system in systems.items()}
        memory = {count: (system.used_memory() - empty[count]) / count for count, system in systems.items()}
        workers = {count: (system, system.start_worker().pid) for count, system in systems.items()}
        for system, _ in workers.values():
            system.warm_up("tokenize", "detokenize")
        for number in range(sizes.few_rounds):
            tell(f"{sizes.stored:,} tokens, round {number + 1} of {sizes.few_rounds}")
            for count, (system, pid) in workers.items():
                for name, measured in _work(system, pid, tokens[count]):
                    costs[name, count].append(measured)
    unit = "µs a request"
    made = []
    for title, cost in (
        ("worker and storage", lambda run: run.worker_us + run.storage_us),
        ("worker", lambda run: run.worker_us),
    ):
        section = f"{title} CPU, few and many tokens stored"
        for name in (KNOWN, DETOKENIZE, NEW):
            with_few, with_many = (list(map(cost, costs[name, count])) for count in (few, sizes.stored))
            made.append(row(section, f"{name}, few", unit, with_few))
            made.append(row(section, f"{name}, many", unit, with_many, to=with_few, of="few", most=STORED_MOST))
    few_bytes, many_bytes = [memory[few]], [memory[sizes.stored]]
    made.append(row("Redis memory", "a token, both entries, few", "bytes", few_bytes))
    made.append(
        row("Redis memory", "a token, both entries", "bytes", many_bytes, to=few_bytes, of="few", most=STORED_MOST)
    )
    return made


def _work(system: Subject, pid: int, tokens: list[preload.Token]) -> list[tuple[str, Measured]]:
    values, drawn = [value for value, _ in tokens], [token for _, token in tokens]
    known, _ = system.measure_checked(pid, "tokenize", values, drawn)
    back, _ = system.measure_checked(pid, "detokenize", drawn, values)
    new, _ = system.measure_checked(pid, "tokenize", system.values(len(tokens)), None)
    return [(KNOWN, known), (DETOKENIZE, back), (NEW, new)]


def measure_clients(sizes: Sizes, tell: Callable[[str], None]) -> list[Row]:
    """Measure known values of many clients, one of each in turn, against as many values of one client.

    The one client has a worker of its own, since a worker that caches keys of many clients is slower for each.
    """
    costs: dict[str, list[Measured]] = {"one": [], "many": []}
    with subject(sizes.layout) as system:
        tell(f"storing {sizes.clients:,} clients")
        left = preload.clients(system, sizes.clients)
        part = len(left) // sizes.few_rounds
        own = [(CLIENT, token) for token in preload.stored(system, part, part)]
        workers = {route: system.start_worker(route) for route in costs}
        system.warm_up(*costs)
        for number in range(sizes.few_rounds):
            tell(f"{sizes.clients:,} clients, round {number + 1} of {sizes.few_rounds}")
            turn, left = left[:part], left[part:]
            for route, asked in (("one", own), ("many", turn)):
                values, tokens = [value for _, (value, _) in asked], [token for _, (_, token) in asked]
                clients = [client for client, _ in asked]
                measured, _ = system.measure_checked(workers[route].pid, route, values, tokens, clients=clients)
                costs[route].append(measured)
    section, unit = "CPU of known values, many clients in turn", "µs a request"
    one, many = costs["one"], costs["many"]
    alone, turns = [run.worker_us for run in one], [run.worker_us for run in many]
    return [
        row(section, "one client, worker", unit, alone),
        row(section, "one client, storage", unit, [run.storage_us for run in one]),
        row(section, "many clients, worker", unit, turns, to=alone, of="one", most=CLIENTS_MOST),
        row(section, "many clients, storage", unit, [run.storage_us for run in many]),
    ]
