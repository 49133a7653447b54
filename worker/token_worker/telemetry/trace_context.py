"""The trace of a request: field ``traceparent`` of its entry, by the rules of W3C Trace Context. Pure.

A producer may write anything there. Its reply gets the field unchanged, because nothing depends on it. Log lines, audit
lines and spans use ids that were read here. This is strict: hexadecimal digits, or no id.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from token_worker.streams.entry import Entry

_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
_SAMPLED = 0x01


class TraceParent(NamedTuple):
    """The producer's span, as lower-case hexadecimal digits. ``is_sampled`` is True if that span is recorded."""

    trace_id: str
    span_id: str
    is_sampled: bool


def trace_parent(fields: Mapping[bytes, bytes] | None) -> TraceParent | None:
    """Read the field ``traceparent``; None if it is missing or not valid."""
    found = _TRACEPARENT.fullmatch(fields.get(b"traceparent", b"")) if fields else None
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == b"ff" or (version == b"00" and more):  # later versions begin alike and may have more
        return None
    if not trace_id.strip(b"0") or not span_id.strip(b"0"):
        return None
    return TraceParent(trace_id.decode(), span_id.decode(), bool(int(flags, 16) & _SAMPLED))


def log_fields(entry: Entry) -> dict[str, str]:
    """Fields by which a log line names an entry: ``stream``, ``entry``, and ``trace_id`` if it has one."""
    fields = {"stream": entry.route.requests, "entry": entry.id.decode()}
    parent = trace_parent(entry.others)
    return fields if parent is None else {**fields, "trace_id": parent.trace_id}
