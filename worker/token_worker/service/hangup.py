"""SIGHUP to a worker: its audit file is opened again. If the worker's terminal is gone, the worker drains.

``nohup`` starts a program with SIGHUP ignored. Such a worker outlives its terminal.
"""

import os
import signal
from collections.abc import Callable
from types import FrameType

from token_worker.service.outage import Drain


def listen(drain: Drain, reopen: Callable[[], object]) -> None:
    """Handle SIGHUP. Call this in the main thread.

    Args:
        drain: is asked when the terminal is gone.
        reopen: opens the audit file again; it must not raise.
    """
    is_kept_alive = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    terminals = [] if is_kept_alive else [stream for stream in range(3) if os.isatty(stream)]

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        if any(not os.isatty(stream) for stream in terminals):
            drain.ask()
        else:
            reopen()

    signal.signal(signal.SIGHUP, on_signal)
