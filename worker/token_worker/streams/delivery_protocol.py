"""The interface of delivery: what a worker can ask of the streams it serves.

``Delivery`` serves streams that one command can read together. ``ClusterDelivery`` serves streams in several slots of
a Redis Cluster. Both are sans-IO: they yield commands and are sent the replies, see ``redis.exchange``.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from token_worker.redis.exchange import Exchange
from token_worker.streams.entry import Answer, Batch, Committed, Entry
from token_worker.streams.routes import Route


class DeliveryProtocol(ABC):
    """Delivery of entries to one worker, and the commit of its answers.

    ``now`` is monotonic time in seconds, from the caller's clock. All entries or answers of one call come from one
    batch.

    Attributes:
        patience_seconds: how long the caller repeats a commit, or a move to the dead letters, during an outage.
    """

    patience_seconds: float

    # -- reading

    @abstractmethod
    def has_older(self, now: float) -> bool:
        """Return True if ``fetch`` may claim an entry that was delivered before. Such a claim counts as a try."""

    @abstractmethod
    def fetch(self, now: float, block_ms: int, *, with_commit: bool = False) -> Exchange[Batch]:
        """Get the next entries to handle, perhaps none after ``block_ms``. They are pending for this consumer then.

        Args:
            now: monotonic time in seconds.
            block_ms: how long to wait for new entries.
            with_commit: have the first commands sent with a commit. Only while ``reads_at_once`` is true.

        Raises:
            Unavailable: thrown in, or no stream can be read. The next call looks at own pending entries first.
        """

    def reads_at_once(self, now: float, answers: int) -> bool:  # noqa: ARG002 - one slot alone can tell
        """Return True if ``fetch`` begins with a read of new entries, and few come at a time.

        Then that read may be sent with the commit of so many answers.
        """
        return False

    @abstractmethod
    def renew(self, entries: Sequence[Entry]) -> Exchange[list[Entry]]:
        """Keep entries that wait in this worker from being taken over. Return those that are still its own."""

    @abstractmethod
    def suspect(self, entries: Sequence[Entry], now: float) -> None:
        """Have ``fetch`` isolate each of these entries, because one of them made its batch fail."""

    # -- state of the routes

    @property
    @abstractmethod
    def paused(self) -> list[Route]:
        """Routes that are paused: one of their streams cannot be used, or they are ``away``."""

    @property
    @abstractmethod
    def away(self) -> dict[Route, str]:
        """Routes whose server is unavailable while the servers of other routes are available, with the reason."""

    @property
    @abstractmethod
    def groups_made_again(self) -> int:
        """Number of times that consumer groups were missing and made again."""

    # -- ending the work on entries

    @abstractmethod
    def parts(self, answers: Sequence[Answer]) -> list[list[Answer]]:
        """Group answers by the scripts that commit them. Each part is for one route, and bounded."""

    @abstractmethod
    def commit(self, parts: Sequence[Sequence[Answer]], now: float) -> Exchange[Committed]:
        """Acknowledge entries and write their replies; ``parts`` has grouped them.

        A part takes one script, unless the server refuses some of it. If ``Unavailable`` is thrown in, commit all
        parts again; no reply is written twice.
        """

    @abstractmethod
    def dead_letter(self, entry: Entry, reason: str, reply: Answer | None, now: float) -> Exchange[Committed]:
        """Move an entry to its dead-letter stream, and answer its producer if there is a reply.

        If ``Unavailable`` is thrown in, do it again; the entry is not moved twice. The reply goes to the stream that
        the request named, or to the route's own stream if that one cannot take it.

        Returns:
            The outcome for the entry. ``written`` is 1 if it was moved, with or without a reply.
        """

    @abstractmethod
    def put_off(self, entries: Sequence[Entry], now: float) -> Exchange[None]:
        """Put off entries that failed for no fault of their own. This delivery of them does not count as a try.

        Raises:
            Unavailable: thrown in. Deliveries that could not be uncounted now are uncounted before the next claim.
        """

    @abstractmethod
    def uncount_tries(self) -> Exchange[None]:
        """Uncount all deliveries that must not count and are not uncounted yet.

        Raises:
            Unavailable: thrown in.
        """
