"""Waits after failures double up to a bound."""

from token_worker.backoff import BackOffSeconds


def test_wait_doubles_with_each_failure_in_a_row() -> None:
    """The first wait is the shortest, each next one is twice as long, and none is longer than the longest."""
    waits = BackOffSeconds(0.5, 3.0)
    assert [waits.after(failures) for failures in range(1, 6)] == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_endless_failures_have_the_longest_wait() -> None:
    """After any large number of failures, the wait is the longest one."""
    assert BackOffSeconds(0.1, 30.0).after(1_000_000) == 30.0
