"""Programs that start processes end by an exception, so that every process is stopped on the way out."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from harness.processes import children_of

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


def interrupt_by_signals() -> None:
    """Let SIGTERM and SIGHUP end pytest as Ctrl-C at a terminal does, with the processes that run tests for it."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)


def _interrupt(number: int, _frame: Any) -> NoReturn:
    for other in _SIGNALS:  # as above, but what is started on the way out must not ignore them
        signal.signal(other, lambda _number, _frame: None)
    for child in children_of(os.getpid()):
        with suppress(OSError):  # it has ended meanwhile
            if os.getpgid(child) == os.getpgrp():  # servers and workers have groups of their own: fixtures stop them
                os.kill(child, number)
    raise KeyboardInterrupt(signal.Signals(number).name)


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
