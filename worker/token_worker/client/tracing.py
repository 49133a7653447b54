"""The trace context of a call, on its way into the entry of its request."""

from token_worker.contract.messages import Op


def headers(op: Op, stream: str, count: int) -> tuple[str, ...]:  # noqa: ARG001 - what a span will tell
    """Further fields of the entry, names and values in turn."""
    return ()
