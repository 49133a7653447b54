"""Both Python clients behind one interface, and a fake worker that answers when the test says so."""

import asyncio
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self

import msgspec

from harness.servers import Valkey
from harness.stack import wait_until
from token_worker.client import AsyncTokenClient, TokenClient

CLIENT = "shop-frontend"

LONG_SECONDS = 120.0
"""Far longer than any call takes, also on a loaded machine."""

SHORT_SECONDS = 0.2
"""A time-out that tests wait for."""


class InLoop:
    """An ``AsyncTokenClient`` with the methods of a ``TokenClient``: each call runs the event loop until it ends."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._runner = asyncio.Runner()
        self.client = AsyncTokenClient(*arguments, **options)

    def tokenize(self, *arguments: Any, **options: Any) -> Any:
        return self._runner.run(self.client.tokenize(*arguments, **options))

    def detokenize(self, *arguments: Any, **options: Any) -> Any:
        return self._runner.run(self.client.detokenize(*arguments, **options))

    def request(self, *arguments: Any, **options: Any) -> Any:
        return self._runner.run(self.client.request(*arguments, **options))

    def close(self) -> None:
        self._runner.run(self.client.close())
        self._runner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


Kind = type[TokenClient] | type[InLoop]
KINDS: list[Kind] = [TokenClient, InLoop]


class FakeWorker:
    """A worker that the test moves by hand; its tokens are the values in capitals.

    Args:
        streams: a client of redis-py.
        stream: of the requests.
    """

    def __init__(self, streams: Any, stream: str = "tokenize:requests") -> None:
        self.streams = streams
        self._stream = stream
        self._last = "-"

    def take(self, count: int) -> list[dict[str, Any]]:
        """Wait for this many requests, and return them."""
        found: list[dict[str, Any]] = []

        def look() -> bool:
            for entry_id, fields in self.streams.xrange(self._stream, self._last, count=count - len(found)):
                self._last = f"({entry_id.decode()}"
                found.append(msgspec.msgpack.decode(fields[b"payload"]))
            return len(found) == count

        wait_until(look, f"{count} requests")
        return found

    def take_until(self, value: object) -> list[dict[str, Any]]:
        """The next requests, up to the one that has this value."""
        found = self.take(1)
        while value not in values_of(found[-1:]):
            found += self.take(1)
        return found

    def answer(self, requests: Iterable[dict[str, Any]], responses: str = "tokenize:responses", **more: Any) -> None:
        """Answer requests on their ``reply_to`` or on ``responses``; ``more`` are members in place of tokens."""
        for request in requests:
            members = more or {"items": [{"value": item["value"].upper()} for item in request["items"]]}
            reply = {"id": request["id"], "op": request["op"], "request_entry": "1-0", "status": "ok", **members}
            self.streams.xadd(request.get("reply_to", responses), {"payload": msgspec.msgpack.encode(reply)})


def values_of(requests: Iterable[dict[str, Any]]) -> list[Any]:
    """All values of some requests, in order."""
    return [item["value"] for request in requests for item in request["items"]]


def sync(server: Valkey, seconds: float = LONG_SECONDS, **options: Any) -> TokenClient:
    """A client of which each call has its own request, so that tests can count them."""
    return TokenClient(server.url, client_id=CLIENT, timeout_seconds=seconds, **{"batch_ms": None, **options})


def in_loop(server: Valkey, seconds: float = LONG_SECONDS, **options: Any) -> AsyncTokenClient:
    """The same as ``sync``."""
    return AsyncTokenClient(server.url, client_id=CLIENT, timeout_seconds=seconds, **{"batch_ms": None, **options})


def send(client: TokenClient, value: str, **options: Any) -> Future[Any]:
    return client.submit("tokenize", [("str", value)], **options)


def start(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def threads() -> list[str]:
    """Names of the client's running threads."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("token-client")]
