"""The handler and the audit of a puppet: they do before a reply what they do in production, on servers of the world.

Tokens are held back by ``Handler`` and ``DurabilityBarrier`` as they are, and lines are made by ``Audit`` as it is.
"""

from collections.abc import Callable, Iterable, Sequence
from types import SimpleNamespace
from typing import Any, Protocol, cast

from token_worker.redis.link import RedisLink
from token_worker.service.handler import Handler
from token_worker.service.replies import Result
from token_worker.storage.durability import Durability, DurabilityBarrier
from token_worker.storage.engine import Engine
from token_worker.storage.token_item import TokenItem
from token_worker.storage.tokens import TokenStorage
from token_worker.streams.entry import Answer, Entry
from token_worker.telemetry.audit import Audit

RunItems = Callable[[list[TokenItem]], None]
"""Finds tokens and values, and returns as soon as a reply may have them."""


class Services(Protocol):
    """The world as the handler and the audit of the running worker see it."""

    @property
    def storage_life(self) -> int:
        """Number of connections that were made to the token storage."""

    def handle(self, entries: Sequence[Entry], run: RunItems) -> list[Result]:
        """Handle entries."""

    def internal(self, entry: Entry) -> Answer:
        """The reply to an entry that is given up."""

    def find(self, items: Sequence[TokenItem]) -> None:
        """Look items up in the token storage, and write new ones."""

    def confirm(self) -> int:
        """Number of replicas that have all writes to the token storage."""

    def audit(self, lines: bytes) -> None:
        """Append to the audit file."""


class PuppetHandler(Handler):
    """A handler for requests of the simulation, with values of its token storage."""

    def __init__(self, services: Services) -> None:
        self._services = services
        link = cast(RedisLink, _StorageLink(services))
        self._tokens = cast(TokenStorage, SimpleNamespace(barrier=self._make_barrier(link)))
        self._engine = cast(Engine, SimpleNamespace(run=lambda items, _now, _groups: items))
        self._now = lambda: 0.0

    def _make_barrier(self, link: RedisLink) -> DurabilityBarrier:
        return DurabilityBarrier(link, Durability(replicas=1), 1)

    def handle(self, entries: Iterable[Entry]) -> list[Result]:
        """Stand in for ``Handler.handle``."""
        return self._services.handle(list(entries), self._run)

    def internal(self, entry: Entry) -> Answer:
        """Stand in for ``Handler.internal``."""
        return self._services.internal(entry)

    def _execute(self, items: Any) -> Any:
        self._services.find(items)


class _StorageLink:
    """Stands for the connection to the token storage."""

    name = "tokens"
    address = "storage"

    def __init__(self, services: Services) -> None:
        self._services = services

    @property
    def connections(self) -> int:
        return self._services.storage_life

    def connect(self) -> int:
        return self.connections

    def call(self, name: str, *_: Any) -> Any:
        return self._services.confirm() if name == "WAIT" else None


class PuppetAudit(Audit):
    """Writes its lines to a file of the world."""

    def __init__(self, worker: str, services: Services) -> None:
        self._worker = worker
        self._services = services

    def _write(self, lines: bytes) -> None:
        self._services.audit(lines)
