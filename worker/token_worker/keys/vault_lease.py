"""The lease of a Vault token: how long it is valid."""

import time
from typing import Any, NamedTuple


class Lease(NamedTuple):
    """The lease of a Vault token.

    Attributes:
        ends: monotonic seconds at which the token ends; None if it does not end.
        granted_seconds: time that the log-in or the last renewal granted.
        renewable: True if the token can be renewed.
    """

    ends: float | None
    granted_seconds: int
    renewable: bool

    @classmethod
    def of(cls, auth: dict[str, Any]) -> "Lease":
        """The lease in the ``auth`` part of the answer to a log-in or a renewal."""
        seconds = int(auth["lease_duration"])
        return cls(time.monotonic() + seconds, seconds, bool(auth["renewable"]))
