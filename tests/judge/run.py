"""Tokenizes many values of a case by the engine, on storage in memory, and looks at every token."""

import time
from collections.abc import Iterator
from contextlib import suppress
from random import Random
from typing import Any

import msgspec

from judge.case import Case
from token_worker.acra.owner import Owner
from token_worker.keys.keyring import DataKeyCache, Keyring
from token_worker.storage.acra.layout import AcraLayout
from token_worker.storage.engine import Engine, FindKeys, Steps
from token_worker.storage.token_item import ItemResult, TokenItem
from token_worker.testing.memory import MemoryTokens
from token_worker.tokens.formats import AnyFormat

BATCH = 1000
NOW = 1_800_000_000


class Report(msgspec.Struct):
    """Counts of what was seen of the tokens of a case.

    Attributes:
        tokens: number of values that got a token.
        accepted: tokens that the judge accepts; None: there is no judge.
        misjudged: tokens that it accepts against the case, or does not accept.
        unfit: values that the format refuses, or that got no token.
        shared: tokens that another value has, too.
        same: tokens equal to their value.
        broken: tokens that do not keep what they have to keep.
        other: tokens of which the format says that it could not have drawn them.
        again: tokens that the format takes as values, against the case.
        lost: tokens that are not detokenized to their value.
    """

    tokens: int = 0
    accepted: int | None = None
    misjudged: int = 0
    unfit: int = 0
    shared: int = 0
    same: int = 0
    broken: int = 0
    other: int = 0
    again: int = 0
    lost: int = 0
    seconds: float = 0

    @property
    def failures(self) -> dict[str, int]:
        """All that must not be, by name."""
        names = ("misjudged", "unfit", "shared", "same", "broken", "other", "again", "lost")
        return {name: count for name in names if (count := getattr(self, name))}


class Tokens:
    """An owner's tokens, in memory."""

    def __init__(self) -> None:
        self._ring = Keyring(Owner("client", "shop-frontend"), bytes(range(32)), DataKeyCache())
        self._storage = MemoryTokens()
        self._engine = Engine(AcraLayout())

    def tokenize(self, form: AnyFormat, values: list[bytes]) -> list[ItemResult | None]:
        """Tokenize values by a format. The results stand in their order."""
        kind = form.value_type
        return self._run([TokenItem(self._ring, kind, value, tokenize=True, format=form) for value in values])

    def detokenize(self, form: AnyFormat, tokens: list[bytes]) -> list[ItemResult | None]:
        """Detokenize tokens of the format's type. The results stand in their order."""
        return self._run([TokenItem(self._ring, form.value_type, token, tokenize=False) for token in tokens])

    def _run(self, items: list[TokenItem]) -> list[ItemResult | None]:
        for start in range(0, len(items), BATCH):
            self._do(self._engine.run(items[start : start + BATCH], NOW))
        return [item.result for item in items]

    def _do(self, steps: Steps) -> None:
        answer: Any = None
        with suppress(StopIteration):
            while True:
                step = steps.send(answer)
                assert not isinstance(step, FindKeys)
                answer = self._storage.execute(step)


def distinct_values(case: Case, count: int, seed: str) -> list[bytes]:
    """Make so many different values of a case."""
    random = Random(f"{case.name} {seed}")
    made = dict.fromkeys(case.values(random).encode() for _ in range(count))
    for _ in range(20 * count):
        if len(made) == count:
            return list(made)
        made[case.values(random).encode()] = None
    raise ValueError(f"{case.name}: there are fewer than {count} values")


def check(case: Case, count: int, seed: str) -> Report:
    """Tokenize and detokenize so many different values."""
    started = time.monotonic()
    form = case.format()
    tokens = Tokens()
    report = Report(accepted=None if case.judge is None else 0)
    values = distinct_values(case, count, seed)
    fitting = [value for value in values if form.problem(value) is None]
    pairs = [
        (value, token)
        for value, token in zip(fitting, tokens.tokenize(form, fitting), strict=True)
        if isinstance(token, bytes)
    ]
    report.tokens = len(pairs)
    report.unfit = len(values) - len(pairs)
    for value, token in pairs:
        _look(case, form, value, token, report)
    made = [token for _, token in pairs]
    report.shared = len(made) - len(set(made))
    report.lost = sum(
        detokenized != value for (value, _), detokenized in zip(pairs, tokens.detokenize(form, made), strict=True)
    )
    report.seconds = time.monotonic() - started
    return report


def _look(case: Case, form: AnyFormat, value: bytes, token: bytes, report: Report) -> None:
    """Look at one token."""
    text = token.decode()
    if case.judge is not None and report.accepted is not None:
        is_accepted = case.judge(text)
        report.accepted += is_accepted
        report.misjudged += is_accepted != case.accepted
    report.same += token == value
    report.broken += case.kept(value.decode()) != case.kept(text)
    report.other += not form.could_draw(value, token)
    report.again += case.refused and form.problem(token) is None


def shares(cases: list[Case], count: int) -> Iterator[tuple[Case, int]]:
    """Share a number of tokens among cases. What a case cannot have goes to the others."""
    for at, case in enumerate(sorted(cases, key=lambda case: case.values_most)):
        share = min(count // (len(cases) - at), case.values_most)
        count -= share
        yield case, share
