"""W3C Trace Context is read strictly."""

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from token_worker.contract.messages import Op
from token_worker.streams.entry import Entry
from token_worker.streams.routes import Route
from token_worker.telemetry.trace_context import TraceParent, log_fields, trace_parent

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
ROUTE = Route("requests", "responses", frozenset(Op))


@pytest.mark.parametrize(
    ("text", "is_sampled"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-03", True),
        (f"00-{TRACE}-{SPAN}-02", False),
        (f"cc-{TRACE}-{SPAN}-01", True),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-brings", True),
    ],
)
def test_valid_traceparent_is_read(text: str, is_sampled: bool) -> None:
    """Trace, span and the sampled flag are read; of later versions too, which may have more at the end."""
    assert trace_parent({b"traceparent": text.encode()}) == TraceParent(TRACE, SPAN, is_sampled)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "01",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-011",
        f"00-{TRACE}-{SPAN}-01-",
        f"00-{TRACE}-{SPAN}-01-more",
        f"cc-{TRACE}-{SPAN}-01.more",
        f"ff-{TRACE}-{SPAN}-01",
        f"0-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN.upper()}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-0g",
        f" 00-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\n",
        f"00_{TRACE}_{SPAN}_01",
        f"00-{TRACE[:-1]}٣-{SPAN}-01",
    ],
)
def test_anything_else_is_no_traceparent(text: str) -> None:
    """A value that the specification does not permit counts as absent."""
    assert trace_parent({b"traceparent": text.encode()}) is None


def test_entry_without_the_field_has_no_trace() -> None:
    """Other fields tell nothing, ``tracestate`` neither."""
    assert trace_parent({b"tracestate": b"shop=1", b"Traceparent": f"00-{TRACE}-{SPAN}-01".encode()}) is None


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=80) | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}.*").map(str.encode))
def test_names_of_an_entry_hold_nothing_but_digits_of_what_a_producer_wrote(raw: bytes) -> None:
    """With any ``traceparent``, log lines get 32 hexadecimal digits or no trace id."""
    names = log_fields(Entry.of(ROUTE, b"7-1", {b"traceparent": raw}))
    trace_id = names.pop("trace_id", TRACE)
    assert re.fullmatch("[0-9a-f]{32}", trace_id)
    assert names == {"stream": "requests", "entry": "7-1"}
