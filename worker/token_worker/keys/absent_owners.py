"""Owners without a key: remembered for a moment, and asked for only so often.

Requests can name any client or zone. Without these limits, names without a key would fill the cache, and each would
cost a question to the key storage.
"""

import sys
from collections import OrderedDict

from token_worker.acra.owner import Owner

ABSENT_OWNERS_MAX = 10_000
"""Owners without a key that are remembered. The oldest are forgotten first."""


class AbsentOwners:
    """Remembers owners without a key, and counts how many more of them the key storage may be asked for.

    Times are monotonic seconds.

    Args:
        per_second: owners without a key that the key storage may be asked for in a second.
    """

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._until: OrderedDict[Owner, float] = OrderedDict()
        self._allowance = per_second
        self._allowance_at = float("-inf")

    def __len__(self) -> int:
        return len(self._until)

    def includes(self, owner: Owner, now: float) -> bool:
        """True if the owner has no key, as far as is known at this time."""
        return now < self._until.get(owner, float("-inf"))

    def add(self, owner: Owner, until: float) -> None:
        """Remember until then that an owner has no key, and count the question."""
        self._until[owner] = until
        self._until.move_to_end(owner)
        self._allowance -= 1
        if len(self._until) > ABSENT_OWNERS_MAX:
            self._until.popitem(last=False)

    def discard(self, owner: Owner) -> None:
        """Forget that an owner had no key: it has one now."""
        self._until.pop(owner, None)

    def allowed(self, now: float) -> int:
        """The number of owners that the key storage may be asked for now, if they perhaps have no key."""
        if self._per_second == float("inf"):
            return sys.maxsize
        earned = (now - self._allowance_at) * self._per_second
        self._allowance, self._allowance_at = min(self._allowance + earned, self._per_second), now
        return max(int(self._allowance), 0)
