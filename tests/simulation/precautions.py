"""The precautions before a reply: an audit line for a reply that detokenizes, and a confirmation of new tokens.

A line is of the worker that replies, and tells the outcome of the reply. A confirmation is of the connection over which
the token was found or written, whoever wrote it.
"""

import msgspec

from simulation.events import Id

REPLY = b"reply"
"""First bytes of the payload of a good reply."""

REFUSED = b"refused"
"""First bytes of the payload of a reply that refuses the request."""

INSTEAD = b"forbidden"
"""First bytes of the payload of a reply on the route's own stream, since the request's stream could not take it."""

INTERNAL = b"internal"
"""First bytes of the payload of the reply to a dead letter; it may go to either stream, like ``INSTEAD``."""

CODES = {REPLY: "ok", REFUSED: "expired", INTERNAL: "internal"}
"""The outcomes in the lines of audit; one of ``INSTEAD`` has any, since it is written before the stream is tried."""

Place = tuple[bytes, Id]
"""The stream of a request, and its id."""


class Precautions:
    """The precautions of all workers; ``audited`` are the streams with requests to detokenize."""

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
        """Note that all tokens which a worker has found or written over this connection are safe."""
        of_worker = self._unconfirmed.get(worker, {})
        for place in [place for place, made in of_worker.items() if made == connection]:
            del of_worker[place]

    def missing(self, worker: str, place: Place, how: bytes) -> str:
        """Name the precaution that is missing before this reply; empty if all were taken."""
        if place[0] in self._audited:
            outcomes = self._lines.get((worker, place), set())
            if not outcomes or (how in CODES and CODES[how] not in outcomes):
                return "no line of audit was written before its reply"
        if how == REPLY and place in self._unconfirmed.get(worker, {}):
            return "its token was not confirmed before its reply"
        return ""
