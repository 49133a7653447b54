"""Ctrl-C while a command is still being imported: the process ends at once, and without a word.

There is nothing to tidy up then. Python's own way, an exception, would show where it was in the midst of imports, or
come out of them as an error of another kind.
"""

import os
import signal
from types import FrameType


def begin() -> None:
    """From here on Ctrl-C ends the process, unless it is ignored or what it does is settled."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def end() -> None:
    """A command is about to run: Ctrl-C is an exception again."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave(number: int, _frame: FrameType | None) -> None:
    os._exit(128 + number)
