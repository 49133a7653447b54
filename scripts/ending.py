"""How scripts end that have started processes: by an exception, so that all of these are stopped on the way out."""

import signal
from typing import Any, NoReturn

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def end_by_signals() -> None:
    """Have the first of these signals end the script; what is ignored (by nohup, say) stays so."""
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)


def _end(number: int, _frame: Any) -> NoReturn:
    for other in _SIGNALS:  # an exception amid the way out would leave something behind
        signal.signal(other, signal.SIG_IGN)
    raise SystemExit(128 + number)
