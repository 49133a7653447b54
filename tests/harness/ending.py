"""Scripts that start processes end by an exception, so that every process is stopped on the way out."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def end_by_signals() -> None:
    """Let the first of these signals end the script; a signal that is ignored (under nohup, say) stays ignored."""
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)


def _end(number: int, _frame: Any) -> NoReturn:
    for other in _SIGNALS:  # an exception amid the way out would leave something behind
        signal.signal(other, signal.SIG_IGN)
    raise SystemExit(128 + number)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold SIGINT, SIGTERM and SIGHUP back until the block is done, then let the last of them act.

    For the moments in which an exception of a signal handler would leave a process behind: between its start and the
    note of it, and while it is stopped. Not by a signal mask, which the processes started would inherit.
    """
    if threading.current_thread() is not threading.main_thread():  # handlers run, and may be set, only there
        yield
        return
    held: list[int] = []
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    ours = [number for number, handler in before.items() if callable(handler)]  # what ignores or kills stays so
    for number in ours:
        signal.signal(number, lambda number, _frame: held.append(number))
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])
        if held:
            signal.raise_signal(held[-1])
