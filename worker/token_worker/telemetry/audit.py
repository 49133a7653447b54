"""The audit log of a worker: who detokenized. Each detokenize request leaves a line before its reply, also if refused.

Lines are JSON. They go to standard error, as logger ``audit`` and at any log level, or to a file of their own
(``TOKEN_WORKER_AUDIT_FILE``). A line has the time, route, client and zone (only if they exist), request id, entry,
number of items by outcome, worker, and trace if there is one. It never has a value or a token. A request that is tried
again may leave a second line, but always leaves one.

``audit_file`` has what happens to the file, ``command_audit`` the lines of commands.
"""

import datetime as dt
import sys
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import msgspec

from token_worker.settings.options import CONSUMER
from token_worker.streams.entry import Answer, Entry
from token_worker.streams.reply_facts import ReplyFacts
from token_worker.telemetry.audit_file import AuditStream, open_audit
from token_worker.telemetry.trace_context import trace_parent

_encode = msgspec.json.Encoder().encode


FRAMES_KEPT = 256
"""Kinds of lines, by client and outcomes, of which the parts that they share are kept."""


class _End(msgspec.Struct, kw_only=True, gc=False):
    """The end of a line, after the id of the request."""

    client_id: str | None
    zone_id: str | None
    items: dict[str, int]
    worker: str
    trace_id: str | msgspec.UnsetType
    logger: str = "audit"
    level: str = "info"
    timestamp: str = ""


class Audit:
    """Writes the lines of a batch at once, which costs little beside the requests.

    Args:
        worker: name of the consumer.
        file: file to append lines to; ``{consumer}`` in it stands for the worker's name. None for standard error.

    Raises:
        SettingsError: the file cannot be written, or another process writes to it.
    """

    def __init__(self, worker: str, file: str | None) -> None:
        self._worker = worker
        self._file = AuditStream(sys.stderr.fileno()) if file is None else open_audit(_path(file, worker))

    def detokenize(self, answers: Iterable[Answer]) -> None:
        """Write a line for each answer to a detokenize request.

        Raises:
            Unavailable: the lines cannot be written now. Do not send the replies.
        """
        audited = [answer for answer in answers if answer.facts.op == "detokenize"]
        if not audited:
            return
        parts: list[bytes] = []
        stamp = b'%b"}\n' % dt.datetime.now(dt.UTC).isoformat().encode()
        facts: ReplyFacts | None = None
        for answer in audited:
            entry = answer.entry
            if answer.facts is not facts or entry.others:  # mostly all of a route share them
                facts = None if entry.others else answer.facts
                begin, end = self._frame(entry, answer.facts)
            parts += (begin, entry.id, b'","request_id":', _encode(answer.request_id), end, stamp)
        self._write(b"".join(parts))

    def reopen(self) -> None:
        """Open the file again if it was moved or deleted. A signal handler may call this."""
        self._file.reopen()

    def _frame(self, entry: Entry, facts: ReplyFacts) -> tuple[bytes, bytes]:
        parent = trace_parent(entry.others)
        trace_id = None if parent is None else parent.trace_id
        make = _kept_frame if trace_id is None else _make_frame
        return make(self._worker, entry.route.requests, facts.client_id, facts.zone_id, facts.outcomes, trace_id)

    def _write(self, lines: bytes) -> None:
        self._file.append(lines)


def _make_frame(
    worker: str,
    stream: str,
    client_id: str | None,
    zone_id: str | None,
    outcomes: tuple[tuple[str, str], ...],
    trace_id: str | None,
) -> tuple[bytes, bytes]:
    """Make what stands in a line before the id of the entry, and after the id of the request up to the time."""
    end = _End(
        client_id=client_id,
        zone_id=zone_id,
        items=Counter(outcome for _, outcome in outcomes),
        worker=worker,
        trace_id=msgspec.UNSET if trace_id is None else trace_id,
    )
    begin = {"event": "detokenize", "stream": stream, "entry": ""}
    return _encode(begin).removesuffix(b'"}'), b"," + _encode(end)[1:].removesuffix(b'"}')


_kept_frame = lru_cache(FRAMES_KEPT)(_make_frame)


def _path(template: str, worker: str) -> Path:
    return Path(template.replace(CONSUMER, worker.replace("/", "_")))
