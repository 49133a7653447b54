"""The cached keys of one owner, and which of them seals.

A new key opens entries at once. It seals only after its settling time. That time begins when the key before it went
into the history, by the time in the name there, so all workers change over at the same moment. Until then, the key
before it seals. So an Acra that has not seen the new key yet can read all that workers write. A time in the future
counts as the time when this worker first saw it. Tokens are derived from the key that seals.
"""

from concurrent.futures import Future
from typing import NamedTuple

from token_worker.acra.owner import Owner
from token_worker.errors import Refused, Unavailable
from token_worker.keys.history import HistoryPage, replaced_at
from token_worker.keys.keyring import DataKeyCache, IndexState, Keyring

UNSETTLED = Unavailable("keys", "the history of keys is being looked up")


class HistorySearch(NamedTuple):
    """A search in the history that is under way. Times are monotonic seconds.

    Attributes:
        answer: gets the result.
        at: when the search began.
        changed_at: when the owner's key had been seen to change, as of then.
    """

    answer: "Future[HistoryPage]"
    at: float
    changed_at: float


class OpenedIndex(NamedTuple):
    """An index key.

    Attributes:
        text: the stored text; None if there is none.
        key: the key; None if there is none, or no master key opens it.
        state: as of ``Keyring.index_state``.
    """

    text: bytes | None = None
    key: bytes | None = None
    state: IndexState = "absent"

    def names_as(self, other: "OpenedIndex") -> bool:
        """True if both give the same names to entries, however they are sealed."""
        return self.key == other.key and self.state == other.state

    def __repr__(self) -> str:
        return f"OpenedIndex({self.state})"


class CachedKeys:
    """The keys of one owner, and what is known about them. Times are monotonic seconds.

    Attributes:
        ring: the keys; None if they cannot be used, for the reason in ``refusal``.
        sealed: stored text of the newest key.
        newest: the newest key.
        index: the index key; absent, too, if the worker does not look for index keys.
        checked_at: when the key storage was last asked for the newest key.
        doubted_at: when a stored text was first seen that no known master key opens; None if one opens it.
        refused_until: without a ring, the key storage is not asked again before this time.
        used_at: when the loop last used the keys.
        changed_at: when the newest key was seen to be another.
        rechecked_at: when the key storage was last asked because no key opened a block.
        awaited_since: when that question was asked, if the loop did not wait for the answer.
        history_at: when the last complete search of the history ended.
        history: keys of the history, by name.
        search: a search of the history that is under way.
        is_due: True if the owner is in the queue of keys to refresh.
        is_settled: True if ``outgoing`` agrees with the history.
        outgoing: replaced keys that still seal, each with the time until when; the next to go is first.
    """

    __slots__ = (
        "_first_seen",
        "awaited_since",
        "changed_at",
        "checked_at",
        "doubted_at",
        "history",
        "history_at",
        "index",
        "is_due",
        "is_settled",
        "newest",
        "outgoing",
        "rechecked_at",
        "refusal",
        "refused_until",
        "ring",
        "sealed",
        "search",
        "used_at",
    )

    def __init__(self) -> None:
        self.ring: Keyring | None = None
        self.refusal: Refused | Unavailable | None = None
        self.sealed: bytes | None = None
        self.newest: bytes | None = None
        self.index = OpenedIndex()
        self.checked_at = float("-inf")
        self.refused_until = float("-inf")
        self.doubted_at: float | None = None
        self.used_at = float("-inf")
        self.changed_at = float("-inf")
        self.rechecked_at = float("-inf")
        self.awaited_since: float | None = None
        self.history_at = float("-inf")
        self.history: dict[str, bytes] = {}
        self.search: HistorySearch | None = None
        self.is_due = False
        self.is_settled = True
        self.outgoing: list[tuple[float, bytes]] = []
        self._first_seen: dict[str, float] = {}

    def refuse(self, refusal: Refused | Unavailable) -> None:
        """Drop the keys: there is no key that can be used."""
        self.ring, self.newest, self.outgoing, self.refusal = None, None, [], refusal
        if isinstance(refusal, Unavailable):
            self.sealed = None  # tried again with the next look-up

    def doubt(self, now: float) -> float:
        """Note that no known master key opens the stored text. Returns the seconds since that began."""
        self.doubted_at = now if self.doubted_at is None else self.doubted_at
        return now - self.doubted_at

    def forget_refusal(self) -> None:
        """Have keys looked up again that could not be opened: there is another master key."""
        if self.ring is None:
            self.sealed, self.refused_until = None, float("-inf")
        elif self.index.state == "unreadable":
            self.checked_at = float("-inf")

    def renew(self, owner: Owner, key: bytes, data_keys: DataKeyCache, now: float, settling_seconds: float) -> None:
        """Take another key as the newest one."""
        previous, self.newest, self.refusal = self.newest, key, None
        if settling_seconds:
            self.is_settled = False
            if previous is not None:  # until the history is known
                self.outgoing.append((now + settling_seconds, previous))
        is_first = self.ring is None
        ring = self._arrange(owner, data_keys, now)
        if is_first and settling_seconds:
            ring.unsettled = UNSETTLED

    def rename(self, owner: Owner, data_keys: DataKeyCache) -> None:
        """Take another index key: names that were made with the keyring before are dropped with it."""
        if self.ring is not None:
            self._replace(self.ring, Keyring(owner, self.ring.current, data_keys, self.index.key, self.index.state))

    def settle(self, owner: Owner, data_keys: DataKeyCache, now: float, wall: float, settling_seconds: float) -> None:
        """Decide by the history, which is complete now, which key seals and until when; ``wall`` is in Unix seconds."""
        outgoing = [(until, key) for until, key in self.outgoing if key not in self.history.values()]
        for name, key in self.history.items():
            stamp = replaced_at(name)
            if stamp is None:
                continue
            seconds_left = min(stamp, self._first_seen.setdefault(name, wall)) + settling_seconds - wall
            if seconds_left > 0:
                outgoing.append((now + seconds_left, key))
        self.outgoing, self.is_settled = sorted(outgoing), True
        self._arrange(owner, data_keys, now).unsettled = None

    def change_over(self, owner: Owner, data_keys: DataKeyCache, now: float) -> None:
        """Seal with the next key if the time of the key before it is over."""
        if self.outgoing and now >= self.outgoing[0][0]:
            self._arrange(owner, data_keys, now)

    def _arrange(self, owner: Owner, data_keys: DataKeyCache, now: float) -> Keyring:
        """Make sure that the keyring seals with the right key. A new keyring drops the data key of the old one."""
        self.outgoing = [(until, key) for until, key in self.outgoing if until > now]
        newest = self.newest or b""
        sealing = self.outgoing[0][1] if self.outgoing else newest
        old, index = self.ring, self.index
        is_right = (
            old is not None and old.current == sealing and (old.index, old.index_state) == (index.key, index.state)
        )
        if old is not None and is_right:
            old.add(newest)
            return old
        ring = Keyring(owner, sealing, data_keys, index.key, index.state)
        ring.add(newest)
        if old is None:
            self.ring = ring
        else:
            self._replace(old, ring)
        return ring

    def _replace(self, old: Keyring, ring: Keyring) -> None:
        self.ring = ring
        ring.some_unreadable, ring.unsettled = old.some_unreadable, old.unsettled
        for key in old.keys:
            ring.add(key)
