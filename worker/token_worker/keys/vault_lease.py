"""The life of a token of Vault."""

import time
from typing import Any, NamedTuple


class Lease(NamedTuple):
    """How long the token is good for: ``ends`` on the monotonic clock (None: for ever); ``granted`` seconds at once."""

    ends: float | None
    granted: int
    renewable: bool

    @classmethod
    def of(cls, auth: dict[str, Any]) -> "Lease":
        """From the ``auth`` that a log-in or a renewal answers with."""
        seconds = int(auth["lease_duration"])
        return cls(time.monotonic() + seconds, seconds, bool(auth["renewable"]))
