"""The trace that a request belongs to: field ``traceparent`` of its entry, as W3C Trace Context has it. Pure.

A producer may write anything there. Its reply gets the field as it came, since nothing depends on it; log lines, audit
lines and spans have ids that were read here, which is strict: hexadecimal digits, or nothing.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from token_worker.streams.entry import Entry

_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
_SAMPLED = 0x01


class TraceParent(NamedTuple):
    """The producer's place in a trace, in lower-case hexadecimal digits; ``is_sampled``: its span is recorded."""

    trace_id: str
    span_id: str
    is_sampled: bool


def trace_parent(fields: Mapping[bytes, bytes]) -> TraceParent | None:
    """What ``traceparent`` says; None where there is none, or none that is valid."""
    found = _TRACEPARENT.fullmatch(fields.get(b"traceparent", b""))
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == b"ff" or (version == b"00" and more):  # later versions may have more, and begin alike
        return None
    if not trace_id.strip(b"0") or not span_id.strip(b"0"):
        return None
    return TraceParent(trace_id.decode(), span_id.decode(), bool(int(flags, 16) & _SAMPLED))


def names_of(entry: Entry) -> dict[str, str]:
    """What a log line calls an entry by: ``stream``, ``entry``, and ``trace_id`` where it has one."""
    names = {"stream": entry.route.requests, "entry": entry.id.decode()}
    parent = trace_parent(entry.fields)
    return names if parent is None else {**names, "trace_id": parent.trace_id}
