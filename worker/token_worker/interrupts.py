"""Handle Ctrl-C while a command is still being imported: the process ends at once and prints nothing.

Nothing has to be cleaned up at this time. Python's default, a KeyboardInterrupt, would print a traceback of imports, or
an import would turn it into another error.
"""

import os
import signal
from types import FrameType


def exit_quietly() -> None:
    """Make Ctrl-C end the process at once, unless the signal is ignored or has another handler."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _exit)


def restore() -> None:
    """Make Ctrl-C raise KeyboardInterrupt again, before a command runs."""
    if signal.getsignal(signal.SIGINT) is _exit:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _exit(number: int, _frame: FrameType | None) -> None:
    os._exit(128 + number)
