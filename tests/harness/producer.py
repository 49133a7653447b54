"""A producer for tests: it sends batches of requests, and a ``Ledger`` judges their replies.

It sends values of all types, in JSON and MessagePack, to several streams.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from harness.ledger import Ledger, Place, Trouble
from harness.messages import KINDS, Native, Request, decode, values
from harness.stack import Stack, wait_until


class BatchProducer:
    """Requests of one client on the streams of a stack; their ids begin with a prefix."""

    def __init__(self, stack: Stack, client_id: str = "shop-frontend", prefix: str = "r") -> None:
        self.stack = stack
        self._client_id = client_id
        self._prefix = prefix
        self._unsent: list[Request] = []
        self._sent: list[tuple[Place, Request]] = []
        self._ledger: Ledger | None = None

    def __len__(self) -> int:
        return len(self._sent)

    def add(
        self,
        op: str,
        kind: str,
        values: Sequence[Native],
        *,
        expected: Sequence[Native] | None = None,
        route: str | None = None,
        packed: bool = False,
        as_items: bool = False,
        **members: Any,
    ) -> None:
        """Add a request with one value, or with several as ``items``; ``expected`` are the right results, if known."""
        members = {"client_id": self._client_id, **members}
        number = len(self._sent) + len(self._unsent)
        items = as_items or len(values) > 1
        name = f"{self._prefix}{number}"
        self._unsent.append(Request(name, op, route or op, kind, values, expected, packed, items, members))

    def add_new(self, count: int, start: int = 0, route: str | None = None) -> None:
        """Add requests to tokenize one value each: all types in turn, every other request in MessagePack."""
        number = 0
        sources = [islice(values(kind, start), count) for kind in KINDS]
        while number < count:
            kind = number % len(KINDS)
            self.add("tokenize", KINDS[kind], [next(sources[kind])], route=route, packed=number % 2 == 1)
            number += 1

    def add_tokens_of(
        self, other: "BatchProducer", a_request: int = 100, routes: Sequence[str] = ("detokenize",)
    ) -> None:
        """Add requests that detokenize every token of another producer, ``a_request`` tokens in each."""
        for kind in KINDS:
            pairs = list({token: value for of, token, value in other.tokens() if of == kind}.items())
            for start in range(0, len(pairs), a_request):
                part = pairs[start : start + a_request]
                tokens, expected = [token for token, _ in part], [value for _, value in part]
                route = routes[len(self._unsent) % len(routes)]
                self.add("detokenize", kind, tokens, expected=expected, route=route, packed=start % 200 == 0)

    def send(self) -> None:
        """Send the requests that were added since the last call. If it fails, the next call sends all of them again."""
        sent = []
        for route in dict.fromkeys(request.route for request in self._unsent):
            requests = [request for request in self._unsent if request.route == route]
            stream = requests[0].stream
            ids = self.stack.send((request.payload() for request in requests), stream)
            sent += [
                (Place(stream, entry_id.decode()), request) for entry_id, request in zip(ids, requests, strict=True)
            ]
        self._sent += sent
        self._unsent = []

    def take_stock(self) -> list[str]:
        """Replace the list of sent requests by those that the streams hold, after failed sends or lost data.

        Every entry that a stream holds must then be answered; a request that was sent twice must be answered twice.

        Returns:
            The ids of requests that no stream holds.
        """
        by_id = {request.id: request for request in [*(request for _, request in self._sent), *self._unsent]}
        self._sent, self._unsent = [], []
        for stream in {request.stream for request in by_id.values()}:
            for entry_id, fields in self.stack.streams.xrange(stream):
                request = by_id.get(decode(fields[b"payload"])["id"])
                if request is not None:
                    self._sent.append((Place(stream, entry_id.decode()), request))
        return sorted(by_id.keys() - {request.id for _, request in self._sent})

    def replies_written(self) -> int:
        """Count the entries of all streams that replies go to."""
        targets = {request.target for _, request in self._sent}
        return sum(self.stack.streams.xlen(target) for target in targets)

    def is_settled(self) -> bool:
        """Tell whether every entry has been delivered and acknowledged."""
        for stream in {request.stream for _, request in self._sent}:
            groups = self.stack.streams.xinfo_groups(stream)
            if [(group["pending"], group["lag"]) for group in groups] != [(0, 0)]:
                return False
        return True

    def settle(self, seconds: float = 60.0) -> list[Trouble]:
        """Wait until every entry is acknowledged, so that no further reply can come, then compare."""
        wait_until(self.is_settled, "every request to be acknowledged", seconds)
        return self.compare()

    def compare(self) -> list[Trouble]:
        """Judge the replies that the streams hold now; replies to other producers do not count."""
        ledger = self._ledger = Ledger(keep_requests=True)
        mine = set()
        for entry, request in self._sent:
            mine.add(entry)
            ledger.sent(entry, request)
        for target, stream in {request.target: request.stream for _, request in self._sent}.items():
            for reply_id, fields in self.stack.streams.xrange(target):
                payload = fields[b"payload"]
                if Place(stream, decode(payload)["request_entry"]) in mine:
                    ledger.reply(Place(target, reply_id.decode()), payload, stream)
        ledger.close()
        return ledger.troubles

    def tokens(self) -> Iterator[tuple[str, Native, Native]]:
        """Type, token and value of everything that was tokenized, as of the last ``compare``."""
        assert self._ledger is not None, "tokens are known after compare"
        for (_, kind, token), value in self._ledger.handed_out():
            yield kind, token, value


def sent_requests(stack: Stack, count: int, client_id: str = "shop-frontend", start: int = 0) -> BatchProducer:
    """A producer that has sent requests to tokenize this many new values."""
    producer = BatchProducer(stack, client_id)
    producer.add_new(count, start=start)
    producer.send()
    return producer
