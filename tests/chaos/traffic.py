"""Steady requests of every sort to the default routes, and their replies, for a ledger.

Producer and collector talk to the server itself, not through a proxy. If the answer to an XADD is lost with its server,
the request is in doubt. As soon as the server is back, the producer looks for it in the stream, and counts it as sent
if it is there.
"""

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import redis

from harness.ledger import Ledger, Place, order
from harness.messages import FORMATS, KINDS, Native, Request, value_of
from harness.planter import DensePlanter, Planter

REQUESTS = ("tokenize:requests", "detokenize:requests")
REPLY_STREAMS = tuple(f"tokenize:responses:{number}" for number in range(7))
"""Streams that some requests name for their replies."""

RESPONSES = ("tokenize:responses", "detokenize:responses", *REPLY_STREAMS)
DEAD_LETTERS = tuple(f"{stream}:dead" for stream in REQUESTS)

TICK_SECONDS = 0.05

MOST_OPEN = 1000
"""Number of open requests at which the producer waits, so that an outage does not gather more."""

UNREADABLE = 0.02
"""Share of unreadable entries, which have to become dead letters."""

TOKENS_A_REQUEST = 100
REQUESTS_AT_ONCE = 50
"""Size of the requests that detokenize everything at the end."""

BLOCK_MS = 200
PAGE = 500

Connect = Callable[[], "redis.Redis"]
AnyPlanter = Planter | DensePlanter


class _Sent(NamedTuple):
    stream: str
    payload: bytes
    request: Request | None


class SteadyProducer:
    """Sends requests at a steady rate; one thread at a time.

    Args:
        connect: makes a connection to the server of the streams.
        rate: requests a second.

    Attributes:
        turn: a lock that is held while requests are sent; no request is in doubt for the thread that holds it.
        refused: number of requests that the server refused because its memory was full.
    """

    def __init__(self, ledger: Ledger, connect: Connect, rng: random.Random, rate: int) -> None:
        self.turn = threading.RLock()
        self.refused = 0
        self._ledger = ledger
        self._connect = connect
        self._rng = rng
        self._at_once = max(1, round(rate * TICK_SECONDS))
        self._clients: list[tuple[str, AnyPlanter]] = []
        self._client: Any = None
        self._doubtful: list[_Sent] = []
        self._last = dict.fromkeys(REQUESTS, "0-0")
        self._number = 0

    def add_client(self, client_id: str, planter: AnyPlanter) -> None:
        """Send requests of this client, too."""
        self._clients.append((client_id, planter))

    def work(self, over: threading.Event) -> None:
        """Send requests until ``over`` is set."""
        while not over.wait(TICK_SECONDS):
            if self._ledger.open < MOST_OPEN:
                self.send_some(self._at_once)

    def send_some(self, number: int) -> None:
        """Send requests of every sort."""
        self.send([self._make() for _ in range(number)])

    def send(self, requests: Sequence[Request | None]) -> bool:
        """Send requests; None stands for an unreadable entry. Returns False if the server is away: all are in doubt."""
        with self.turn:
            try:
                if self._client is None:
                    self._client = self._connect()
                self._look_up_doubtful()
                self._doubtful = [self._pack(request) for request in requests]
                with self._client.pipeline(transaction=False) as pipe:
                    for sent in self._doubtful:
                        pipe.xadd(sent.stream, {"payload": sent.payload})
                    answers = pipe.execute(raise_on_error=False)
            except redis.RedisError:
                self.reconnect()
                return False
            for sent, answer in zip(self._doubtful, answers, strict=True):
                if isinstance(answer, bytes):
                    self._enter(sent, answer)
                elif isinstance(answer, redis.OutOfMemoryError):
                    self.refused += 1
                else:
                    raise answer
            self._doubtful = []
            return True

    def reconnect(self) -> None:
        """Close the connection; the caller must hold ``turn``."""
        if self._client is not None:
            self._client.close()
        self._client = None

    def detokenize_all(self, over: threading.Event) -> None:
        """Detokenize every token that was handed out; call it when ``work`` has ended.

        Raises:
            ConnectionError: the server is away.
        """
        requests = self._detokenizing()
        while part := list(islice(requests, REQUESTS_AT_ONCE)):
            while self._ledger.open > REQUESTS_AT_ONCE and not over.is_set():
                over.wait(TICK_SECONDS / 5)
            if over.is_set():
                return
            if not self.send(part):
                raise ConnectionError("the server of the streams went away while tokens were detokenized")

    def _enter(self, sent: _Sent, entry_id: bytes) -> None:
        self._last[sent.stream] = entry_id.decode()
        self._ledger.sent(Place(sent.stream, entry_id.decode()), sent.request)

    def _look_up_doubtful(self) -> None:
        doubtful = {sent.payload: sent for sent in self._doubtful}
        for stream in {sent.stream for sent in self._doubtful}:
            for entry_id, fields in self._client.xrange(stream, min=f"({self._last[stream]}"):
                self._enter(doubtful[fields[b"payload"]], entry_id)
        self._doubtful = []

    def _pack(self, request: Request | None) -> _Sent:
        if request is None:
            self._number += 1
            return _Sent(REQUESTS[0], b"unreadable %d" % self._number, None)
        return _Sent(request.stream, request.payload(), request)

    # -- sorts of requests

    def _make(self) -> Request | None:
        """A request of a random sort; None, now and then, for an unreadable entry."""
        if self._rng.random() < UNREADABLE:
            return None
        makers = (self._new, self._known, self._detokenized, self._items, self._inconsistent, self._planted)
        [make] = self._rng.choices(makers, (30, 20, 22, 8, 8, 10))
        return make() or self._new()

    def _request(self, op: str, kind: str, values: Sequence[Native], **members: Any) -> Request:
        self._number += 1
        client_id, _ = self._rng.choice(self._clients)
        items = len(values) > 1 or self._rng.random() < 0.05
        packed = self._rng.random() < 0.5
        members = {"client_id": client_id, **members}
        form = self._rng.choice([None, *FORMATS.get(kind, ())])  # a known value keeps its token, whatever is asked for
        return Request(
            f"r{self._number}", op, op, kind, values, packed=packed, as_items=items, members=members, format=form
        )

    def request_of(self, client_id: str) -> Request:
        """A request for a token of a new value of this client."""
        return self._request("tokenize", "str", [value_of("str", self._number)], client_id=client_id)

    def _new(self) -> Request:
        kind = self._rng.choice(KINDS)
        return self._request("tokenize", kind, [value_of(kind, self._number)])

    def _known(self) -> Request | None:
        if (found := self._ledger.sample(self._rng)) is None:
            return None
        (client_id, kind, value), _ = found
        return self._request("tokenize", kind, [value], client_id=client_id)

    def _detokenized(self) -> Request | None:
        if (found := self._ledger.sample(self._rng)) is None:
            return None
        (client_id, kind, value), token = found
        request = self._request("detokenize", kind, [token], client_id=client_id)
        request.expected = [value]
        return request

    def _items(self) -> Request:
        kind, start = self._rng.choice(KINDS), self._rng.randrange(1 << 20)
        values = [value_of(kind, (1 << 20) + start + number) for number in range(5)]
        return self._request("tokenize", kind, values, reply_to=self._rng.choice(REPLY_STREAMS))

    def _inconsistent(self) -> Request:
        return self._request("tokenize", "str", [value_of("str", 0)], consistent=False)

    def _planted(self) -> Request | None:
        """A request that needs one of the rarer scripts, since the token storage is prepared for its value."""
        client_id, planter = self._rng.choice(self._clients)
        self._number += 1
        value = f"prepared for {self._number}"
        try:
            self._rng.choice((planter.take_candidate, planter.leave_half, planter.leave_rare))(value)
        except redis.RedisError:  # the storage is away: it may be written or not, nobody has asked for it yet
            return None
        return self._request("tokenize", "str", [value], client_id=client_id)

    def _detokenizing(self) -> Iterator[Request]:
        groups: dict[tuple[str, str], list[tuple[Native, Native]]] = {}
        for (client_id, kind, token), value in self._ledger.handed_out():
            pairs = groups.setdefault((client_id, kind), [])
            pairs.append((token, value))
            if len(pairs) == TOKENS_A_REQUEST:
                yield self._batch(client_id, kind, pairs)
                pairs.clear()
        for (client_id, kind), pairs in groups.items():
            if pairs:
                yield self._batch(client_id, kind, pairs)

    def _batch(self, client_id: str, kind: str, pairs: Sequence[tuple[Native, Native]]) -> Request:
        request = self._request("detokenize", kind, [token for token, _ in pairs], client_id=client_id)
        request.as_items = True
        request.expected = [value for _, value in pairs]
        return request


class Collector:
    """Reads every stream that replies or dead letters go to, through restarts of its server."""

    def __init__(self, ledger: Ledger, connect: Connect) -> None:
        self._ledger = ledger
        self._connect = connect
        self._read_to: dict[str, str] = dict.fromkeys((*RESPONSES, *DEAD_LETTERS), "0-0")

    def work(self, over: threading.Event) -> None:
        """Read until ``over`` is set."""
        while not over.is_set():
            try:
                with self._connect() as client:
                    while not over.is_set():
                        self._read(client)
            except redis.RedisError:
                over.wait(TICK_SECONDS)

    def has_all(self, client: Any) -> bool:
        """Tell whether every entry that the streams hold now has been read."""
        newest = {stream: client.xrevrange(stream, count=1) for stream in self._read_to}
        return all(
            order(found[0][0].decode()) <= order(self._read_to[stream]) for stream, found in newest.items() if found
        )

    def _read(self, client: Any) -> None:
        for name, entries in client.xread(dict(self._read_to), count=PAGE, block=BLOCK_MS) or ():
            stream = name.decode()
            for raw_id, fields in entries:
                place = Place(stream, raw_id.decode())
                if stream in DEAD_LETTERS:
                    self._ledger.dead_letter(place, fields)
                else:
                    self._ledger.reply(place, fields[b"payload"])
                self._read_to[stream] = place.id
