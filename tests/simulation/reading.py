"""Checks of how workers read, after every read and claim: no route starves, COUNT goes by bytes, none is forgotten."""

from collections import deque
from collections.abc import Collection, Sequence
from typing import Any

from simulation.broken import Broken
from simulation.brought import entries_of
from simulation.commands import format_id
from simulation.events import Id
from simulation.model import Model
from simulation.puppets import Terms

MOST_PASSES = 3
"""Reads in a row that may leave out a stream while there is something to read: those of one batch and of the next."""

READS_KEPT = 3
"""Reads of a worker that tell the size of the entries before. One batch takes several."""

LARGER = 2
"""Factor by which entries have to be larger than before, if they are too much for a read."""

Place = tuple[bytes, Id]
"""The stream of a request, and its id."""


class ReadLedger:
    """The ledger of what workers have read, kept beside the server."""

    def __init__(self, model: Model, terms: Terms) -> None:
        self._model = model
        self._group = terms.group.encode()
        self._is_apart = terms.is_apart
        self._passes: dict[str, dict[bytes, int]] = {}  # by worker and stream
        self._means: dict[str, dict[str, deque[float]]] = {}  # bytes of an entry in the last reads, by worker and pace
        self._in_hand: dict[str, set[Place]] = {}  # by worker

    def done(self, worker: str, command: tuple[Any, ...], waiting: Collection[bytes], reply: Sequence[Any]) -> None:
        """A read or claim of a worker was done, whether or not the worker gets the reply.

        A claim on a stream is its turn, too: many isolated tries come before new entries.

        Args:
            worker: its name.
            command: what was done.
            waiting: streams that had something to read, and that this worker is to serve.
            reply: what it has brought.

        Raises:
            Broken: one of the streams is left out again and again.
        """
        before = self._passes.get(worker, {})
        if command[0] == "XCLAIM":
            before.pop(command[1].encode(), None)
            return
        got = {key for key, _ in reply}
        passes = self._passes[worker] = {key: before.get(key, 0) + 1 for key in waiting if key not in got}
        for key, times in passes.items():
            if times > MOST_PASSES:
                raise Broken(
                    f"{worker} has read {times} times, and left out {key.decode()}, which has something to read"
                )

    def gave_up(self, worker: str, command: tuple[Any, ...], reply: Sequence[Any]) -> None:
        """A worker gave up the reply to a read or claim, which is too large.

        Raises:
            Broken: the worker should have known, since the entries before were no smaller.
        """
        means = self._means.get(worker, {}).get(self._pace_of(command))
        sizes = [size for _, _, size in entries_of(command, reply)]
        if means and sum(sizes) / len(sizes) <= LARGER * min(means):
            raise Broken(f"{worker} asked for {len(sizes)} entries, which are too much, though no larger than before")

    def took(self, worker: str, command: tuple[Any, ...], reply: Sequence[Any]) -> None:
        """A worker has got the reply to a read or claim."""
        found = [*entries_of(command, reply)]
        if found:
            if not any(self._is_isolated(key, entry) for key, entry, _ in found):
                of_worker = self._means.setdefault(worker, {})
                means = of_worker.setdefault(self._pace_of(command), deque(maxlen=READS_KEPT))
                means.append(sum(size for _, _, size in found) / len(found))
            self._in_hand.setdefault(worker, set()).update((key, entry) for key, entry, _ in found)

    def _is_isolated(self, key: bytes, entry: Id) -> bool:
        """Tell whether an entry is tried alone, perhaps again and again: its size says nothing about the others'."""
        group = self._model.group(key, self._group)
        pending = group.pending.get(entry) if group is not None else None
        return pending is not None and pending.count > 1

    def _pace_of(self, command: tuple[Any, ...]) -> str:
        """The stream whose entries set COUNT; empty if all streams share it."""
        if not self._is_apart:
            return ""
        return str(command[1] if command[0] == "XCLAIM" else command[command.index("STREAMS") + 1])

    def handled(self, worker: str, places: Collection[Place]) -> None:
        """A worker handles these entries, or gives them up."""
        self._in_hand.get(worker, set()).difference_update(places)

    def sleeps(self, worker: str, keys: Collection[str]) -> None:
        """A worker waits for new entries of these streams, and does nothing else. The others are paused.

        Raises:
            Broken: it has entries in hand that it has not handled.
        """
        in_hand = self._in_hand.get(worker, set())
        for key, entry in sorted(place for place in in_hand if place[0].decode() in keys):
            in_hand.remove((key, entry))
            group = self._model.group(key, self._group)
            pending = group.pending.get(entry) if group is not None else None
            if pending is not None and pending.owner == worker.encode():
                where = f"{key.decode()} {format_id(entry).decode()}"
                raise Broken(f"{worker} sleeps, and has not handled {where}, which it has read")

    def left(self, worker: str) -> None:
        """A worker has ended."""
        for known in (self._passes, self._means, self._in_hand):
            known.pop(worker, None)
