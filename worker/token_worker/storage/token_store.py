"""The interface of a token storage, on one server or in a cluster."""

from typing import Any, Protocol

from token_worker.storage.durability import DurabilityBarrier
from token_worker.storage.layout import Layout
from token_worker.storage.steps import Step


class TokenStore(Protocol):
    """A token storage: it executes the steps of the engine.

    Attributes:
        barrier: holds a batch back until its tokens are safe.
        layout: of the entries.
        writes_whole_rows: True if both entries of a new token are written, or neither.
    """

    barrier: DurabilityBarrier
    layout: Layout
    writes_whole_rows: bool

    @property
    def connections(self) -> int:
        """Number of connections made so far. What was seen on an earlier one may have been another server."""
        ...

    def ping(self) -> None:
        """Check that the storage answers; raises ``Unavailable`` if not."""
        ...

    def probe(self) -> None:
        """Check that the storage takes and confirms writes, without a token; raises ``Unavailable`` if not."""
        ...

    def execute(self, step: Step) -> Any:
        """Execute a step of the engine, and return its answer.

        Raises:
            Unavailable: the storage is away or out of memory. The next try finds what was written.
        """
        ...
