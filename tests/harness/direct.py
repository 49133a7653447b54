"""Requests answered by a ``Handler`` on real key and token storage, without streams: quick enough for many runs."""

import base64
import itertools
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import msgspec

from harness.servers import Valkey
from token_worker.contract.messages import Op
from token_worker.keys.cache import KeyCache
from token_worker.keys.layout_record import LayoutName, read_tokens_record
from token_worker.keys.store import RedisKeyStore
from token_worker.redis.address import RedisSettings
from token_worker.redis.link import RedisLink
from token_worker.service.handler import Handler
from token_worker.settings import load
from token_worker.storage.layout import Layout
from token_worker.storage.make_layout import make_layout
from token_worker.storage.steps import Step
from token_worker.storage.tokens import TokenStorage
from token_worker.streams.entry import Answer, Entry
from token_worker.streams.routes import Route

Message = dict[str, Any]

ROUTE = Route("requests", "responses", frozenset(Op))
VECTORS = Path(__file__).parents[1] / "vectors"


class _Watched(TokenStorage):
    """A token storage that calls ``before`` ahead of each step."""

    def __init__(self, link: RedisLink, before: Callable[[Step], None], layout: Layout) -> None:
        super().__init__(link, layout=layout)
        self._before = before

    def execute(self, step: Step) -> Any:
        self._before(step)
        return super().execute(step)


class DirectHandler:
    """One worker's handler, with connections and caches of its own.

    Args:
        server: holds keys and tokens.
        master_key: of the key storage.
        now: Unix seconds.
        before: is called ahead of each step on the token storage.
        formats: formats of the settings, which the route allows besides the built-in ones.
        layout: of the tokens.
        route: members of the route that differ from ``ROUTE``.
    """

    def __init__(
        self,
        server: Valkey,
        master_key: bytes,
        now: Callable[[], float] = time.time,
        before: Callable[[Step], None] = lambda _: None,
        formats: Sequence[Message] = (),
        layout: LayoutName = "acra",
        **route: Any,
    ) -> None:
        environ = {"TOKEN_WORKER_STREAMS_URL": server.url, "TOKEN_WORKER_MASTER_KEY_SOURCE": "env"}
        loaded = load({**environ, "TOKEN_WORKER_FORMATS": json.dumps(formats)})
        served = msgspec.structs.replace(ROUTE, allowed_formats=tuple(loaded.formats), **route)
        settings = msgspec.structs.replace(loaded, routes=(served,))
        address = RedisSettings(url=server.url)
        self._links = RedisLink("keys", address), RedisLink("tokens", address)
        keys = KeyCache(RedisKeyStore(self._links[0], settings.keys_folder), master_key, with_index=layout == "dense")
        record = read_tokens_record(self._links[1])
        made = make_layout(layout, has_foreign=record is not None and record.foreign)
        self._handler = Handler(settings, keys, _Watched(self._links[1], before, made), now)
        self._numbers = itertools.count(1)

    def ask(self, requests: Sequence[Message], first: int | None = None, *, in_json: bool = True) -> list[Message]:
        """Replies to requests in one batch, in their order.

        Args:
            requests: without ``id``.
            first: number of the first entry, to have entries delivered again; new ones if left out.
            in_json: else in MessagePack.
        """
        codec = msgspec.json if in_json else msgspec.msgpack
        numbers = [next(self._numbers) for _ in requests] if first is None else range(first, first + len(requests))
        entries = [
            Entry(ROUTE, b"%d-0" % number, codec.encode({"id": str(number), **request}))
            for number, request in zip(numbers, requests, strict=True)
        ]
        results = self._handler.handle(entries)
        assert all(isinstance(result, Answer) for result in results)
        replies = [codec.decode(result.payload) for result in results if isinstance(result, Answer)]
        by_id = {reply["id"]: reply for reply in replies}
        assert len(by_id) == len(requests)
        return [by_id[str(number)] for number in numbers]

    def close(self) -> None:
        """Close both connections."""
        for link in self._links:
            link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Vectors:
    """A file of data that the real Acra binaries wrote.

    Attributes:
        master_key: opens the keys.
        redis: all keys and values of the Redis, as text.
        cases: value and token, in the form of a JSON request; ``bytes`` are base64.
    """

    def __init__(self, name: str) -> None:
        data = json.loads((VECTORS / f"{name}.json").read_text())
        self.master_key = base64.b64decode(data["master_key"])
        self.redis: dict[str, str] = data["redis"]
        self.cases: list[Message] = data["cases"]

    def load(self, server: Valkey) -> None:
        """Put all of it on a server."""
        with server.client() as client:
            client.mset(self.redis)
