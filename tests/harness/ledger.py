"""A producer that keeps books: what it sent, and whether exactly the right replies have come.

Values of all types, in JSON and MessagePack, to several streams. Whatever it reports names entries by stream and id,
never by what is in them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, NamedTuple

from harness.messages import KINDS, Native, Request, decode, is_answer, values
from harness.stack import Stack, wait_until

GROUP = "token-workers"


class Trouble(NamedTuple):
    """What does not add up: entries as ``<request stream> <entry id>``. Equal to ``NONE`` when all is well."""

    lost: list[str]
    duplicate: list[str]
    wrong: list[str]


NONE = Trouble([], [], [])


@dataclass
class _Request(Request):
    entry: str = ""
    replies: list[tuple[str, bytes]] = field(default_factory=list)

    def only_answer(self) -> list[Native] | None:
        """What the reply brings for each value; None where it is not the reply to this request."""
        [(stream, payload)] = self.replies
        return self.answer(stream, payload)


class Ledger:
    """Requests of one client on the streams of a stack; their ids begin with a prefix."""

    def __init__(self, stack: Stack, client_id: str = "shop-frontend", prefix: str = "r") -> None:
        self.stack = stack
        self._client_id = client_id
        self._prefix = prefix
        self._unsent: list[_Request] = []
        self._sent: list[_Request] = []

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
        """Write a request down: one value, or several (sent as ``items``), and what has to come back, if known."""
        members = {"client_id": self._client_id, **members}
        number = len(self._sent) + len(self._unsent)
        items = as_items or len(values) > 1
        name = f"{self._prefix}{number}"
        self._unsent.append(_Request(name, op, route or op, kind, values, expected, packed, items, members))

    def add_new(self, count: int, start: int = 0, route: str | None = None) -> None:
        """Write down so many requests to tokenize one value each: all types in turn, every other one MessagePack."""
        number = 0
        sources = [islice(values(kind, start), count) for kind in KINDS]
        while number < count:
            kind = number % len(KINDS)
            self.add("tokenize", KINDS[kind], [next(sources[kind])], route=route, packed=number % 2 == 1)
            number += 1

    def add_turning_back(self, ledger: "Ledger", a_request: int = 100, routes: Sequence[str] = ("detokenize",)) -> None:
        """Write down requests that turn every token of another ledger back into its value, so many in each."""
        for kind in KINDS:
            pairs = list({token: value for of, token, value in ledger.tokens() if of == kind}.items())
            for start in range(0, len(pairs), a_request):
                part = pairs[start : start + a_request]
                tokens, expected = [token for token, _ in part], [value for _, value in part]
                route = routes[len(self._unsent) % len(routes)]
                self.add("detokenize", kind, tokens, expected=expected, route=route, packed=start % 200 == 0)

    def send(self) -> None:
        """Send what was written down since."""
        for route in dict.fromkeys(request.route for request in self._unsent):
            requests = [request for request in self._unsent if request.route == route]
            stream = f"{route}:requests"
            ids = self.stack.send((request.payload() for request in requests), stream)
            for request, entry in zip(requests, ids, strict=True):
                request.entry = f"{stream} {entry.decode()}"
        self._sent += self._unsent
        self._unsent = []

    def take_stock(self) -> list[str]:
        """Go by what the streams hold now, after sends that failed and servers that lost data.

        From now on every entry that is there is expected to be answered, those that were sent twice twice; nothing
        else is. The ids of requests that are not there.
        """
        by_id = {request.id: request for request in [*self._sent, *self._unsent]}
        found = []
        for route in {request.route for request in by_id.values()}:
            stream = f"{route}:requests"
            for entry, fields in self.stack.streams.xrange(stream):
                request = by_id.get(decode(fields[b"payload"])["id"])
                if request is not None:
                    found.append(replace(request, entry=f"{stream} {entry.decode()}", replies=[]))
        self._sent, self._unsent = found, []
        return sorted(by_id.keys() - {request.id for request in found})

    def replies_written(self) -> int:
        """Entries of all streams that replies go to."""
        targets = {request.target for request in self._sent}
        return sum(self.stack.streams.xlen(target) for target in targets)

    def is_settled(self) -> bool:
        """Whether every entry has been delivered and acknowledged."""
        for stream in {f"{request.route}:requests" for request in self._sent}:
            groups = self.stack.streams.xinfo_groups(stream)
            if [(group["pending"], group["lag"]) for group in groups] != [(0, 0)]:
                return False
        return True

    def settle(self, seconds: float = 60.0) -> Trouble:
        """Wait until every entry is acknowledged, so that no reply can come any more, then compare."""
        wait_until(self.is_settled, "every request to be acknowledged", seconds)
        return self.compare()

    def compare(self) -> Trouble:
        """Requests without a reply, with more than one, or with a reply that is not right."""
        by_entry = {request.entry: request for request in self._sent}
        for request in self._sent:
            request.replies.clear()
        requests_of = {request.target: f"{request.route}:requests" for request in self._sent}
        for target, stream in requests_of.items():
            for raw, payload in self._payloads(target):
                entry = f"{stream} {raw['request_entry']}"
                if entry in by_entry:  # else it answers another producer
                    by_entry[entry].replies.append((target, payload))
        lost = [request.entry for request in self._sent if not request.replies]
        duplicate = [request.entry for request in self._sent if len(request.replies) > 1]
        once = [request for request in self._sent if len(request.replies) == 1]
        wrong = [request.entry for request in once if not self._is_right(request)]
        return Trouble(lost, duplicate, wrong + self._unequal(once))

    def tokens(self) -> Iterator[tuple[str, Native, Native]]:
        """Type, token and value of all that has been tokenized; after ``compare``."""
        for request in self._sent:
            if request.op == "tokenize" and len(request.replies) == 1:
                for token, value in zip(request.only_answer() or (), request.values, strict=True):
                    yield request.kind, token, value

    def _payloads(self, stream: str) -> Iterator[tuple[dict[str, Any], bytes]]:
        entries = self.stack.streams.xrange(stream)
        for (_, fields), reply in zip(entries, self.stack.replies(stream), strict=True):
            yield reply, fields[b"payload"]

    @staticmethod
    def _is_right(request: _Request) -> bool:
        answer = request.only_answer()
        return answer is not None and is_answer(request, answer)

    @staticmethod
    def _unequal(requests: list[_Request]) -> list[str]:
        """Entries whose consistent tokens are not those that another entry got for the same value."""
        seen: dict[tuple[str, Native], tuple[Native, str]] = {}
        found = []
        for request in requests:
            if request.op == "tokenize" and request.members.get("consistent", True):
                for value, token in zip(request.values, request.only_answer() or (), strict=False):
                    if seen.setdefault((request.kind, value), (token, request.entry))[0] != token:
                        found.append(request.entry)
        return found
