"""The keys of one owner in the cache, and which of them seals.

A new key opens at once. It seals when its settling time is over, counted from when the key before it went into the
history, by the time in the name there: so all workers change over together. Until then the key seals that was in use
that long ago: an Acra that runs on, and knows no other, can read all that workers write. A time in the future counts as
the time at which this worker saw it. Tokens are derived from the key that seals.
"""

from concurrent.futures import Future
from typing import NamedTuple

from token_worker.acra.owner import Owner
from token_worker.errors import Refused, Unavailable
from token_worker.keys.history import Look, replaced_at
from token_worker.keys.keyring import DataKeyCache, Keyring

UNSETTLED = Unavailable("keys", "the history of keys is being looked up")


class Asked(NamedTuple):
    """A look at the history that is under way: since when, and when the key had changed."""

    answer: "Future[Look]"
    at: float
    changed_at: float


class Slot:
    """What is known of one owner. Times are monotonic seconds.

    Attributes:
        ring: its keys; None where ``refusal`` says why there are none.
        sealed: the stored text of the newest key.
        newest: that key.
        checked_at: the storage was asked for it.
        refused_until: without a ring, it is not asked again before.
        used_at: it was last asked for by the loop.
        changed_at: it was seen to be another.
        rechecked_at: it was looked for since no key opened a block.
        awaited_since: when that was asked for, if the loop did not wait for the answer.
        history_at: the history was looked up to its end.
        history: keys of the history, by name.
        asked: a look at the history.
        is_due: it is among those to be refreshed.
        is_settled: whether ``outgoing`` is what the history says.
        outgoing: keys that still seal, until when; the next to go first.
    """

    __slots__ = (
        "_seen",
        "asked",
        "awaited_since",
        "changed_at",
        "checked_at",
        "history",
        "history_at",
        "is_due",
        "is_settled",
        "newest",
        "outgoing",
        "rechecked_at",
        "refusal",
        "refused_until",
        "ring",
        "sealed",
        "used_at",
    )

    def __init__(self) -> None:
        self.ring: Keyring | None = None
        self.refusal: Refused | None = None
        self.sealed: bytes | None = None
        self.newest: bytes | None = None
        self.checked_at = float("-inf")
        self.refused_until = float("-inf")
        self.used_at = float("-inf")
        self.changed_at = float("-inf")
        self.rechecked_at = float("-inf")
        self.awaited_since: float | None = None
        self.history_at = float("-inf")
        self.history: dict[str, bytes] = {}
        self.asked: Asked | None = None
        self.is_due = False
        self.is_settled = True
        self.outgoing: list[tuple[float, bytes]] = []
        self._seen: dict[str, float] = {}

    def refuse(self, refusal: Refused) -> None:
        """There is no key to use."""
        self.ring, self.newest, self.outgoing, self.refusal = None, None, [], refusal

    def renew(self, owner: Owner, key: bytes, data_keys: DataKeyCache, now: float, settling_seconds: float) -> None:
        """Take another key as the newest one."""
        previous, self.newest, self.refusal = self.newest, key, None
        if settling_seconds:
            self.is_settled = False
            if previous is not None:  # until the history says better
                self.outgoing.append((now + settling_seconds, previous))
        is_first = self.ring is None
        ring = self._arrange(owner, data_keys, now)
        if is_first and settling_seconds:
            ring.unsettled = UNSETTLED

    def settle(self, owner: Owner, data_keys: DataKeyCache, now: float, wall: float, settling_seconds: float) -> None:
        """Take from the history, which is known by now, which key seals until when; ``wall`` are Unix seconds."""
        outgoing = [(until, key) for until, key in self.outgoing if key not in self.history.values()]
        for name, key in self.history.items():
            stamp = replaced_at(name)
            if stamp is None:
                continue
            left = min(stamp, self._seen.setdefault(name, wall)) + settling_seconds - wall
            if left > 0:
                outgoing.append((now + left, key))
        self.outgoing, self.is_settled = sorted(outgoing), True
        self._arrange(owner, data_keys, now).unsettled = None

    def change_over(self, owner: Owner, data_keys: DataKeyCache, now: float) -> None:
        """Seal with the next key if the time of the one before is over."""
        if self.outgoing and now >= self.outgoing[0][0]:
            self._arrange(owner, data_keys, now)

    def _arrange(self, owner: Owner, data_keys: DataKeyCache, now: float) -> Keyring:
        """Have a keyring that seals with the right key; a new one if that is another, so that its data key goes."""
        self.outgoing = [(until, key) for until, key in self.outgoing if until > now]
        newest = self.newest or b""
        sealing = self.outgoing[0][1] if self.outgoing else newest
        old = self.ring
        ring = old if old is not None and old.current == sealing else Keyring(owner, sealing, data_keys)
        self.ring = ring
        ring.add(newest)
        if old is not None and old is not ring:
            ring.some_unreadable, ring.unsettled = old.some_unreadable, old.unsettled
            for key in old.keys:
                ring.add(key)
        return ring
