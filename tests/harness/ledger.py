"""The ledger of a test: every request that got into a stream, against every reply that came out of one.

A request is *open* until its reply has come. After that the ledger keeps only the id of the entry, which is enough to
notice a second reply. Of values the ledger keeps their tokens, some 300 bytes for each, so that a test can detokenize
all of them at the end. A ``Trouble`` is written down for everything that does not add up. It names entries by stream
and id, and never shows a value or a token. Which troubles a loss of data explains, ``chaos/judge.py`` decides.

Threads may share one ledger.
"""

import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import StrEnum
from typing import NamedTuple

from harness.messages import Failed, Native, Request, decode

LATE_SECONDS = 60.0
"""A reply that took longer is counted as late, without a trouble: requests may wait for a server."""


class Place(NamedTuple):
    """An entry of a stream."""

    stream: str
    id: str

    def __str__(self) -> str:
        return f"{self.stream} {self.id}"


def order(entry_id: str) -> tuple[int, int]:
    """The two numbers of an entry id, for comparing ids."""
    first, _, second = entry_id.partition("-")
    return int(first), int(second)


class Kind(StrEnum):
    """The kinds of trouble."""

    LOST = "request lost"
    DUPLICATE = "request answered twice"
    WRONG = "wrong reply"
    UNEXPECTED = "reply to no request"
    UNEQUAL = "value with two tokens"
    UNKNOWN_TOKEN = "token that cannot be detokenized"
    DEAD_LETTERED = "request moved to the dead letters"
    WORKER_ENDED = "worker that ended by itself"


class Item(NamedTuple):
    """A value or a token of a client."""

    client_id: str
    kind: str
    content: Native


class Trouble(NamedTuple):
    """Something that does not add up.

    Attributes:
        what: the request's entry, or another subject; safe to show.
        entry: the request's entry.
        first: of a second reply, the first one.
        item: the value or token; never shown.
    """

    kind: Kind
    what: str
    entry: Place | None = None
    first: Place | None = None
    item: Item | None = None

    def __repr__(self) -> str:
        """The trouble as a failed assertion shows it: without the item."""
        return f"<{self.kind}: {self.what}>"


def count_kinds(troubles: Iterable[Trouble]) -> Counter[Kind]:
    """Count troubles by their kind."""
    return Counter(trouble.kind for trouble in troubles)


class _Open(NamedTuple):
    request: Request | None
    sent_at: float


class _Settled(NamedTuple):
    reply: Place
    request: Request | None


class Ledger:
    """Requests and replies of one test, or of one act of the chaos tests.

    Args:
        keep_requests: check the second reply to a request like the first. This takes memory; it is for tests in which
            second replies can be permitted.
        clock: monotonic seconds.

    Attributes:
        requests: number of requests that got into a stream.
        replies: number of first replies, and of first dead letters for unreadable entries.
        detokenized: number of tokens that gave the right value back.
        late: number of replies that took longer than ``LATE_SECONDS``.
        slowest_seconds: the longest time from a request to its reply.
    """

    def __init__(self, *, keep_requests: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self.troubles: list[Trouble] = []
        self.requests = 0
        self.replies = 0
        self.detokenized = 0
        self.late = 0
        self.slowest_seconds = 0.0
        self._keep_requests = keep_requests
        self._clock = clock
        self._lock = threading.RLock()
        self._open: dict[Place, _Open] = {}
        self._settled: dict[Place, _Settled] = {}
        self._early: defaultdict[Place, list[tuple[Place, bytes]]] = defaultdict(list)
        self._tokens: dict[Item, Native] = {}
        self._values: list[Item] = []
        self._further: list[tuple[Item, Native]] = []

    @property
    def open(self) -> int:
        """Number of requests without a reply so far."""
        with self._lock:
            return len(self._open)

    def sent(self, entry: Place, request: Request | None) -> None:
        """Note a request that got into its stream; None is an unreadable entry, which must become a dead letter."""
        with self._lock:
            self.requests += 1
            self._open[entry] = _Open(request, self._clock())
            for reply, payload in self._early.pop(entry, ()):
                self._settle(entry, reply, payload)

    def reply(self, reply: Place, payload: bytes, stream: str | None = None) -> None:
        """Note a reply. ``stream`` is that of the request, by default the default stream for the operation."""
        message = decode(payload)
        with self._lock:
            self._settle(Place(stream or f"{message['op']}:requests", message["request_entry"]), reply, payload)

    def dead_letter(self, letter: Place, fields: dict[bytes, bytes]) -> None:
        """Note a dead letter."""
        with self._lock:
            self._settle(Place(fields[b"dead_stream"].decode(), fields[b"dead_entry"].decode()), letter, b"")

    def close(self) -> None:
        """Close the ledger when no reply can come any more: open requests are lost."""
        with self._lock:
            for entry in self._open:
                self._note(Kind.LOST, entry)
            for entry, replies in self._early.items():
                self.troubles += [Trouble(Kind.UNEXPECTED, str(reply), entry) for reply, _ in replies]
            self._open.clear()
            self._early.clear()

    def note(self, kind: Kind, what: str) -> None:
        """Write down a trouble that has no entry."""
        with self._lock:
            self.troubles.append(Trouble(kind, what))

    def sample(self, rng: random.Random) -> tuple[Item, Native] | None:
        """A random value and its token; None before the first."""
        with self._lock:
            if not self._values:
                return None
            value = rng.choice(self._values)
            return value, self._tokens[value]

    def handed_out(self) -> Iterator[tuple[Item, Native]]:
        """Every token that was handed out so far, with its value."""
        with self._lock:
            pairs = [*((Item(*value[:2], token), value.content) for value, token in self._tokens.items())]
            return iter(pairs + self._further)

    def _note(self, kind: Kind, entry: Place, first: Place | None = None, item: Item | None = None) -> None:
        self.troubles.append(Trouble(kind, str(entry), entry, first, item))

    def _settle(self, entry: Place, reply: Place, payload: bytes) -> None:
        opened = self._open.pop(entry, None)
        if opened is not None:
            self.replies += 1
            took = self._clock() - opened.sent_at
            self.slowest_seconds = max(self.slowest_seconds, took)
            self.late += took > LATE_SECONDS
            self._settled[entry] = _Settled(reply, opened.request if self._keep_requests else None)
            if opened.request is not None or payload:
                self._check(entry, opened.request, reply, payload)
            return
        settled = self._settled.get(entry)
        if settled is None:
            self._early[entry].append((reply, payload))
            return
        self._note(Kind.DUPLICATE, entry, settled.reply)
        if settled.request is not None:
            self._check(entry, settled.request, reply, payload)

    def _check(self, entry: Place, request: Request | None, reply: Place, payload: bytes) -> None:
        """Check the content of a reply."""
        if request is not None and not payload:
            self._note(Kind.DEAD_LETTERED, entry)
            return
        outcomes = request.outcomes(reply.stream, payload) if request is not None else None
        if request is None or outcomes is None:
            self._note(Kind.WRONG, entry)
        elif request.op == "detokenize":
            self._check_values(entry, request, outcomes)
        else:
            self._check_tokens(entry, request, outcomes)

    def _check_values(self, entry: Place, request: Request, outcomes: Iterable[Native | Failed]) -> None:
        is_wrong = False
        for token, expected, outcome in zip(request.values, request.expected or (), outcomes, strict=True):
            if outcome == Failed("token_not_found"):
                self._note(Kind.UNKNOWN_TOKEN, entry, item=Item(request.members["client_id"], request.kind, token))
            elif outcome == expected and type(outcome) is type(expected):
                self.detokenized += 1
            else:
                is_wrong = True
        if is_wrong:
            self._note(Kind.WRONG, entry)

    def _check_tokens(self, entry: Place, request: Request, outcomes: Iterable[Native | Failed]) -> None:
        is_wrong = False
        expected: Sequence[Native | None] = request.expected or [None] * len(request.values)
        for value, known, token in zip(request.values, expected, outcomes, strict=True):
            if (
                isinstance(token, Failed)
                or type(token) is not type(value)
                or token == value
                or known not in (None, token)
            ):
                is_wrong = True
                continue
            item = Item(request.members["client_id"], request.kind, value)
            if not request.members.get("consistent", True):
                self._further.append((item._replace(content=token), value))
            elif item not in self._tokens:
                self._tokens[item] = token
                self._values.append(item)
            elif self._tokens[item] != token:
                self._note(Kind.UNEQUAL, entry, item=item)
                self._further.append((item._replace(content=self._tokens[item]), value))
                self._tokens[item] = token  # a third one would be another trouble
        if is_wrong:
            self._note(Kind.WRONG, entry)
