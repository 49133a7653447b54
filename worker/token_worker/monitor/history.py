"""One hour of a route, in memory: what waits, what comes in, what is answered. Pure, and bounded in space.

Figures are kept in steps of half a minute. A step without a figure is a gap, never 0: the server was away.
"""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

STEP_SECONDS = 30
STEPS = 120
"""Length of a step, and number of steps: an hour."""

RATE_SECONDS = 30.0
"""Rates are means over this time, about."""

SAMPLES_MAX = 32
"""Most samples that rates are computed from."""


class Sample(NamedTuple):
    """The figures of a route at one time.

    Attributes:
        at: Unix seconds.
        waiting: entries that are undelivered or pending; None if unknown.
        added: entries ever added to the request stream; None if unknown.
        done: entries ever answered or given up; None if unknown.
        is_counted: how ``done`` was found. Two samples that differ here cannot be compared.
    """

    at: float
    waiting: int | None
    added: int | None
    done: int | None
    is_counted: bool = True


class Rates(NamedTuple):
    """Entries a second. None if unknown."""

    come: float | None
    go: float | None


class _Step(NamedTuple):
    number: int
    waiting: float | None
    come: float | None
    go: float | None


class History:
    """The last hour of one route."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque(maxlen=SAMPLES_MAX)
        self._steps: deque[_Step] = deque(maxlen=STEPS)

    def add(self, sample: Sample) -> None:
        """Take the next sample. Counters that went back begin anew: the stream was deleted, or the clock set back."""
        last = self._samples[-1] if self._samples else None
        is_new = last is not None and last.is_counted != sample.is_counted
        if last is not None and (is_new or sample.at <= last.at or _is_less(sample.added, last.added)):
            self._samples.clear()
            last = None
        if last is not None and _is_less(sample.done, last.done):
            sample = sample._replace(done=None)  # an entry was taken back into the pending ones
        while self._samples and self._samples[0].at < sample.at - RATE_SECONDS:
            self._samples.popleft()
        rates = Rates(None, None) if last is None else _between(last, sample)
        self._samples.append(sample)
        self._note(int(sample.at // STEP_SECONDS), sample.waiting, rates)

    def rates(self) -> Rates:
        """The rates of the last half minute."""
        if len(self._samples) < 2:
            return Rates(None, None)
        return _between(self._samples[0], self._samples[-1])

    def hour(self) -> "Hour":
        """The hour up to the last sample."""
        by_number = {step.number: step for step in self._steps}
        end = self._steps[-1].number + 1 if self._steps else 0
        found = [by_number.get(number) for number in range(end - STEPS, end)]
        return Hour(
            [None if step is None else step.waiting for step in found],
            [None if step is None else step.come for step in found],
            [None if step is None else step.go for step in found],
            end * STEP_SECONDS,
        )

    def _note(self, number: int, waiting: int | None, rates: Rates) -> None:
        last = self._steps[-1] if self._steps else None
        if last is not None and number < last.number:  # this machine's clock was set back
            self._steps.clear()
            last = None
        step = _Step(number, None if waiting is None else float(waiting), rates.come, rates.go)
        if last is not None and last.number == number:
            self._steps.pop()
            step = _Step(
                number, _larger(last.waiting, step.waiting), _mean(last.come, step.come), _mean(last.go, step.go)
            )
        self._steps.append(step)


class Hour(NamedTuple):
    """The steps of an hour, oldest first; None for a gap. ``end`` is where the hour ends, in Unix seconds."""

    waiting: Sequence[float | None]
    come: Sequence[float | None]
    go: Sequence[float | None]
    end: int


def _between(first: Sample, last: Sample) -> Rates:
    seconds = last.at - first.at
    return Rates(_rate(first.added, last.added, seconds), _rate(first.done, last.done, seconds))


def _rate(first: int | None, last: int | None, seconds: float) -> float | None:
    return None if first is None or last is None else max(last - first, 0) / seconds


def _is_less(new: int | None, old: int | None) -> bool:
    return new is not None and old is not None and new < old


def _larger(one: float | None, other: float | None) -> float | None:
    return max((value for value in (one, other) if value is not None), default=None)


def _mean(earlier: float | None, new: float | None) -> float | None:
    """Weigh the newest figure by a third: a short burst stays visible, and one sample does not make the step."""
    if earlier is None or new is None:
        return new if earlier is None else earlier
    return earlier + (new - earlier) / 3
