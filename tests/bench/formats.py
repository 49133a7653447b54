"""CPU time of the worker for a new value with a format, as a ratio to one without, and for a derivation alone."""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence

from bench.figures import Row, row
from bench.sizes import ITEMS, Sizes
from bench.subject import Measured, Subject, subject
from token_worker.acra.owner import Owner
from token_worker.tokens.derivation import PLAIN, Deriver, Form
from token_worker.tokens.formats import builtin_formats
from token_worker.tokens.formats.pan import luhn_sum

PLAIN_STR = "str of 16, new value"
PAN = "pan of 16, new value"
PAN_KNOWN = "pan of 16, known value"
MOST = {PAN: 1.25}
"""Goals: as a multiple of a ``str``."""

DERIVED = 20_000


def measure(sizes: Sizes, tell: Callable[[str], None]) -> list[Row]:
    """The same card numbers as ``str`` and as ``pan``, each new, in a fresh worker each round."""
    rounds: dict[tuple[str, int], list[Measured]] = defaultdict(list)
    derived: dict[str, list[float]] = defaultdict(list)
    with subject(sizes.layout) as system:
        for number in range(sizes.rounds):
            tell(f"formats, round {number + 1} of {sizes.rounds}")
            worker = system.start_worker()
            system.warm_up("tokenize")
            for items in (1, ITEMS):
                for name, measured in _kinds(system, worker.pid, sizes.requests, items, number % 2 == 1):
                    rounds[name, items].append(measured)
            worker.kill()
            for name, form in (("str of 16", PLAIN["str"]), ("pan of 16", builtin_formats()["pan"])):
                derived[name].append(_derivation_us(form, cards(system, min(sizes.requests, DERIVED))))
    made = []
    for items, unit, section in ((1, "µs a request", "single requests"), (ITEMS, "µs an item", f"{ITEMS} items")):
        plain = [one.worker_us for one in rounds[PLAIN_STR, items]]
        for name in (PLAIN_STR, PAN, PAN_KNOWN):
            own = [one.worker_us for one in rounds[name, items]]
            made.append(
                row(f"formats, worker CPU, {section}", name, unit, own, to=plain, of="str", most=MOST.get(name))
            )
    for name, own in derived.items():
        made.append(row("formats, derivation alone", name, "µs a token", own, to=derived["str of 16"], of="str"))
    return made


def cards(system: Subject, count: int) -> list[str]:
    """New numbers of 16 digits that pass the Luhn check."""
    heads = [f"{system.rng.randrange(10**15):015}" for _ in range(count)]
    return [head + str(_CHECK_DIGITS[luhn_sum(f"{head}0".encode())]) for head in heads]


_CHECK_DIGITS = [0, 9, 8, 7, 6, 5, 4, 3, 2, 1]


def _kinds(system: Subject, pid: int, count: int, items: int, is_odd: bool) -> list[tuple[str, Measured]]:
    """Measure both kinds, in turn the one and the other first."""

    def plain() -> list[tuple[str, Measured]]:
        return [(PLAIN_STR, system.measure_checked(pid, "tokenize", cards(system, count), None, items=items)[0])]

    def formatted() -> list[tuple[str, Measured]]:
        values = cards(system, count)
        new, tokens = system.measure_checked(pid, "tokenize", values, None, items=items, format_name="pan")
        known, _ = system.measure_checked(pid, "tokenize", values, tokens, items=items, format_name="pan")
        return [(PAN, new), (PAN_KNOWN, known)]

    return formatted() + plain() if is_odd else plain() + formatted()


def _derivation_us(form: Form, values: Sequence[str]) -> float:
    """CPU microseconds of this process for the derivation of a token."""
    deriver = Deriver(bytes(32), Owner("client", "bench-client"))
    encoded = [value.encode() for value in values]
    started = time.process_time()
    for value in encoded:
        deriver.token(form, value, 0)
    return (time.process_time() - started) / len(encoded) * 1e6
