"""Back-off: waits that double with each failure in a row. Pure; callers spread the waits at random if they need it."""

from typing import NamedTuple

_DOUBLINGS_MAX = 32
"""Doublings that are calculated: more than between any two bounds, and few enough for a float."""


class BackOffSeconds(NamedTuple):
    """Bounds of the waits, in seconds."""

    shortest: float
    longest: float

    def after(self, failures: int) -> float:
        """Return the wait after so many failures in a row; the first failure is 1."""
        return min(self.longest, self.shortest * 2.0 ** min(failures - 1, _DOUBLINGS_MAX))
