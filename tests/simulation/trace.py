"""The last steps of a world, for people: actor and command with ids and names, and nothing of a payload."""

import zlib
from collections import deque
from typing import NamedTuple

from token_worker.redis.exchange import Command, RunScript

STEPS = 60
"""Number of steps that are kept."""


LONG = 60
"""Characters of a text that are shown."""


class Step(NamedTuple):
    """One step; ``who`` is a worker, or ``-`` for the world."""

    number: int
    seconds: float
    who: str
    what: str
    command: Command | None
    outcome: object


class Trace:
    """Keeps the last steps, and a checksum of all."""

    def __init__(self) -> None:
        self._steps: deque[Step] = deque(maxlen=STEPS)
        self.checksum = 0

    def add(self, step: Step) -> None:
        """Note a step."""
        self._steps.append(step)
        self.checksum = zlib.crc32(f"{step.who} {step.what} {step.seconds}".encode(), self.checksum)

    def __str__(self) -> str:
        return "\n".join(map(_line, self._steps))


def _line(step: Step) -> str:
    outcome = "" if step.outcome is None else f" -> {_short(step.outcome)}"
    return f"{step.number:6} {step.seconds:12.3f} {step.who:4} {step.what:12} {_told(step.command)}{outcome}".rstrip()


def _told(command: Command | None) -> str:
    if command is None:
        return ""
    if isinstance(command, RunScript):
        return f"{command.script.name} {' '.join(command.keys)} {b' '.join(ids_of(command)).decode()}"
    return " ".join(part.decode() if isinstance(part, bytes) else str(part) for part in command)


def ids_of(command: RunScript) -> list[bytes]:
    """The ids of entries that a script is given."""
    return [
        argument.removeprefix(b"+") for argument in command.args if isinstance(argument, bytes) and _is_id(argument)
    ]


def _is_id(argument: bytes) -> bool:
    first, dash, second = argument.removeprefix(b"+").partition(b"-")
    return bool(dash) and first.isdigit() and second.isdigit()


def _short(outcome: object) -> str:
    if isinstance(outcome, bytes):
        text = outcome.decode()
        return f"{text[:LONG]}…" if len(text) > LONG else text
    if isinstance(outcome, list):
        return f"[{', '.join(map(_short, outcome))}]"
    return repr(outcome)
