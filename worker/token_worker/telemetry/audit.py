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
from pathlib import Path

import msgspec

from token_worker.settings.options import CONSUMER
from token_worker.streams.entry import Answer, Entry
from token_worker.streams.reply_facts import ReplyFacts
from token_worker.telemetry.audit_file import AuditStream, open_audit
from token_worker.telemetry.trace_context import trace_parent

_encode = msgspec.json.Encoder().encode


class _End(msgspec.Struct, kw_only=True, gc=False):
    """The end of a line, after the id of the request."""

    client_id: str | None
    zone_id: str | None
    items: dict[str, int]
    worker: str
    trace_id: str | msgspec.UnsetType
    logger: str = "audit"
    level: str = "info"
    timestamp: str


def _numbers(outcomes: list[str]) -> dict[str, int]:
    return {outcomes[0]: 1} if len(outcomes) == 1 else Counter(outcomes)


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
        now = dt.datetime.now(dt.UTC).isoformat()
        facts: ReplyFacts | None = None
        for answer in audited:
            entry = answer.entry
            if answer.facts is not facts or entry.others:  # mostly all of a route share them
                facts = None if entry.others else answer.facts
                begin, end = self._frame(entry, answer.facts, now)
            parts += (begin, entry.id, b'","request_id":', _encode(answer.request_id), end)
        self._write(b"".join(parts))

    def reopen(self) -> None:
        """Open the file again if it was moved or deleted. A signal handler may call this."""
        self._file.reopen()

    def _frame(self, entry: Entry, facts: ReplyFacts, now: str) -> tuple[bytes, bytes]:
        """Make what stands in a line before the id of the entry, and after the id of the request."""
        parent = trace_parent(entry.others)
        end = _End(
            client_id=facts.client_id,
            zone_id=facts.zone_id,
            items=_numbers([outcome for _, outcome in facts.outcomes]),
            worker=self._worker,
            trace_id=msgspec.UNSET if parent is None else parent.trace_id,
            timestamp=now,
        )
        begin = {"event": "detokenize", "stream": entry.route.requests, "entry": ""}
        return _encode(begin).removesuffix(b'"}'), b",%b\n" % _encode(end)[1:]

    def _write(self, lines: bytes) -> None:
        self._file.append(lines)


def _path(template: str, worker: str) -> Path:
    return Path(template.replace(CONSUMER, worker.replace("/", "_")))
