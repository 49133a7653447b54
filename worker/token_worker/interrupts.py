"""Handle signals before a command does: Ctrl-C while it is imported, and SIGTERM in a container.

While a command is imported, nothing has to be cleaned up: Ctrl-C ends the process at once, and it prints nothing.
Python's default, a KeyboardInterrupt, would print a traceback of imports, or an import would turn it into another one.

The first process of a container gets only the signals that it handles: the kernel drops all others but SIGKILL. A
command without a handler of its own would outlive ``docker stop``, until the time-out kills it.
"""

import os
import signal
from types import FrameType

FIRST_PROCESS = 1
"""Process id of the first process of a container."""


def exit_quietly() -> None:
    """Make Ctrl-C end the process at once, unless the signal is ignored or has another handler."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _exit)


def obey_sigterm() -> None:
    """Make SIGTERM end the first process of a container as it ends any other: at once, with exit status 143.

    Commands that finish their work first set a handler of their own later.
    """
    if os.getpid() == FIRST_PROCESS and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _exit)


def restore() -> None:
    """Make Ctrl-C raise KeyboardInterrupt again, before a command runs."""
    if signal.getsignal(signal.SIGINT) is _exit:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _exit(number: int, _frame: FrameType | None) -> None:
    os._exit(128 + number)
