"""Open calls by their deadlines: a call is taken once, and overdue calls are found in time."""

import threading
from collections.abc import Callable

import pytest

from harness.stack import wait_until
from token_worker.client import (
    TimedOut,
)
from token_worker.client.calls import Call
from token_worker.client.deadline_table import DeadlineTable


def call_until(deadline: float) -> Call:
    call = Call()
    call.start(1, deadline, lambda: TimedOut("late"))
    return call


def test_call_is_taken_once() -> None:
    """A call can be taken from the table only once, so that it ends once."""
    calls, call = DeadlineTable(), call_until(5.0)
    assert calls.add(call)
    assert calls.take(call)
    assert not calls.take(call)
    assert calls.close() == []


def test_overdue_calls_are_those_whose_time_is_up() -> None:
    """A deadline is kept to 10 ms, never early."""
    calls = DeadlineTable()
    early, late = call_until(5.001), call_until(6.0)
    for call in (early, late):
        assert calls.add(call)
    assert calls.wait_for_overdue(5.5) == [early]
    assert not calls.take(early)
    assert calls.take(late)


def test_closed_takes_no_more_and_gives_all_back() -> None:
    """Calls that are open at the end are handed out to be ended; later ones are not taken."""
    calls, call = DeadlineTable(), call_until(5.0)
    assert calls.add(call)
    assert calls.close() == [call]
    assert not calls.add(call_until(5.0))
    assert calls.wait_for_overdue(0.0) == []


@pytest.mark.parametrize("wake", [DeadlineTable.wake, DeadlineTable.close, lambda calls: calls.add(call_until(50.0))])
def test_who_waits_for_deadlines_is_woken(wake: Callable[[DeadlineTable], object]) -> None:
    """An earlier deadline, closing and ``wake`` end the wait; the last two also if they come before the wait."""
    calls = DeadlineTable()
    assert calls.add(call_until(1e6))
    done = threading.Event()

    def wait() -> None:
        assert calls.wait_for_overdue(0.0) == []
        done.set()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    wait_until(lambda: calls._next < 1e9, "the wait")
    wake(calls)
    assert done.wait(30)
    thread.join()
    calls.wake()
    assert calls.wait_for_overdue(0.0) == []
