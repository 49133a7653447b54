"""The audit log: who detokenized. Each detokenize request leaves one line before its reply, even if it is refused.

A command that shows a value writes a line, too, before it shows the value.

Lines are JSON. They go to standard error, as logger ``audit`` and at any log level, or to a file of their own
(``TOKEN_WORKER_AUDIT_FILE``). A line has the time, route, client and zone (only if they exist), request id, entry,
number of items by outcome, worker, and trace if there is one. It never has a value or a token. A request that is tried
again may leave a second line, but always leaves one.

A write may be cut short: the disk is full, or a worker is killed. The rest of a cut line is never joined to the next
line. Several workers may append to one file, so each worker reads the byte before its own lines after it wrote them. If
that byte ends no line, it writes its lines once more, on a line of their own.
"""

import datetime as dt
import os
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import msgspec

from token_worker.errors import SettingsError, Unavailable
from token_worker.streams.entry import Answer
from token_worker.telemetry.trace_context import trace_parent

_encode = msgspec.json.Encoder().encode


class _Line(msgspec.Struct, kw_only=True, gc=False):
    """One detokenize request."""

    event: str = "detokenize"
    stream: str
    entry: str
    request_id: str
    client_id: str | None
    zone_id: str | None
    items: dict[str, int]
    worker: str
    trace_id: str | msgspec.UnsetType = msgspec.UNSET
    logger: str = "audit"
    level: str = "info"
    timestamp: str


def _numbers(outcomes: list[str]) -> dict[str, int]:
    return {outcomes[0]: 1} if len(outcomes) == 1 else Counter(outcomes)


class Audit:
    """Writes the lines of a batch at once, which costs little beside the requests.

    Args:
        worker: name of the consumer.
        file: file to append lines to; None for standard error.

    Raises:
        SettingsError: the file cannot be written.
    """

    def __init__(self, worker: str, file: str | None) -> None:
        self._worker = worker
        self._is_cut = False
        self._is_shared = False
        if file is None:
            self._file = sys.stderr.fileno()
            return
        path = Path(file)
        self._is_shared = path.is_file() or not path.exists()
        try:
            try:
                self._file = _open(path, os.O_RDWR if self._is_shared else os.O_WRONLY)
            except PermissionError:  # perhaps there is no right to read: then cuts of other processes stay unknown
                self._file = _open(path, os.O_WRONLY)
                self._is_shared = False
        except OSError as error:
            raise SettingsError(f"TOKEN_WORKER_AUDIT_FILE: cannot be written ({error.strerror})") from None

    def detokenize(self, answers: Iterable[Answer]) -> None:
        """Write a line for each answer to a detokenize request.

        Raises:
            Unavailable: the lines cannot be written now. Do not send the replies.
        """
        audited = [answer for answer in answers if answer.facts.op == "detokenize"]
        if not audited:
            return
        lines = bytearray()
        now = dt.datetime.now(dt.UTC).isoformat()
        for answer in audited:
            facts = answer.facts
            parent = trace_parent(answer.entry.fields) if len(answer.entry.fields) > 1 else None
            line = _Line(
                stream=answer.entry.route.requests,
                entry=answer.entry.id.decode(),
                request_id=facts.request_id,
                client_id=facts.client_id,
                zone_id=facts.zone_id,
                items=_numbers([outcome for _, outcome in facts.outcomes]),
                worker=self._worker,
                trace_id=msgspec.UNSET if parent is None else parent.trace_id,
                timestamp=now,
            )
            lines += _encode(line) + b"\n"
        self._write(lines)

    def reveal(self, what: str, **facts: str | None) -> None:
        """Write a line for a value that a command is about to show. ``facts`` name the value without holding it.

        Raises:
            Unavailable: the line cannot be written now. Do not show the value.
        """
        line = {"event": "reveal", "what": what, **facts, "worker": self._worker, "logger": "audit", "level": "info"}
        self._write(bytearray(_encode({**line, "timestamp": dt.datetime.now(dt.UTC).isoformat()}) + b"\n"))

    def _write(self, lines: bytearray) -> None:
        try:
            while lines:
                if self._is_cut:
                    lines[:0] = b"\n"
                written = os.write(self._file, lines)
                if self._is_shared and not self._is_cut and self._is_glued(written):
                    self._is_cut = True
                    continue
                whole = lines.rfind(b"\n", 0, written) + 1
                self._is_cut = whole < written
                del lines[:whole]
        except OSError as error:
            raise Unavailable("audit", type(error).__name__) from None

    def _is_glued(self, written: int) -> bool:
        """Return True if the bytes that were just appended continue a cut line of another writer."""
        start = os.lseek(self._file, 0, os.SEEK_CUR) - written
        return start > 0 and os.pread(self._file, 1, start - 1) != b"\n"


def _open(path: Path, mode: int) -> int:
    return os.open(path, mode | os.O_CREAT | os.O_APPEND, 0o600)
