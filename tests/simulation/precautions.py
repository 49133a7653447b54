"""What has to be done before a reply: a line of audit for each that turns a token back, a confirmation of new tokens.

A line is of the worker that replies, and tells the outcome of the reply. A confirmation is of the connection over which
the token was found or written, whoever wrote it.
"""

import msgspec

from simulation.events import Id

REPLY = b"reply"
"""How the payload of a reply begins that brings what was asked for."""

REFUSED = b"refused"
"""How the payload of a reply begins that refuses the request."""

INSTEAD = b"forbidden"
"""How the payload of a reply begins that went to the route's own stream, since the request's could not take it."""

INTERNAL = b"internal"
"""How the payload of the reply to an entry that was given up begins; it may go to either, as ``INSTEAD``."""

CODES = {REPLY: "ok", REFUSED: "expired", INTERNAL: "internal"}
"""The outcomes in the lines of audit; one of ``INSTEAD`` has any, since it is written before the stream is tried."""

Place = tuple[bytes, Id]
"""The stream of a request, and its id."""


class Precautions:
    """Those of all workers; ``audited``: streams whose requests turn tokens back."""

    def __init__(self, audited: frozenset[bytes]) -> None:
        self._audited = audited
        self._lines: dict[tuple[str, Place], set[str]] = {}  # outcomes, by worker and request
        self._unconfirmed: dict[str, dict[Place, int]] = {}  # connections, by worker and request

    def wrote(self, line: bytes) -> None:
        """A line of audit was written."""
        found = msgspec.json.decode(line)
        ms, _, number = found["entry"].partition("-")
        place = found["stream"].encode(), (int(ms), int(number))
        self._lines.setdefault((found["worker"], place), set()).update(found["items"])

    def found(self, worker: str, place: Place, connection: int) -> None:
        """A worker has found or written a token."""
        self._unconfirmed.setdefault(worker, {})[place] = connection

    def confirmed(self, worker: str, connection: int) -> None:
        """What a worker has found or written over this connection is safe."""
        of_worker = self._unconfirmed.get(worker, {})
        for place in [place for place, made in of_worker.items() if made == connection]:
            del of_worker[place]

    def missing(self, worker: str, place: Place, how: bytes) -> str:
        """Tell what should have been done before this reply; empty: nothing."""
        if place[0] in self._audited:
            outcomes = self._lines.get((worker, place), set())
            if not outcomes or (how in CODES and CODES[how] not in outcomes):
                return "no line of audit was written before its reply"
        if how == REPLY and place in self._unconfirmed.get(worker, {}):
            return "its token was not confirmed before its reply"
        return ""
