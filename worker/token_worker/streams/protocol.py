"""What sans-IO protocols are made of: generators that yield commands and are sent their replies.

``service.loop`` performs them on a real server; a simulation can stop and interleave workers at every command. An
answer may also be an error thrown in: ``Unavailable`` where nobody knows whether the command was done, ``TooMuch``
where it was but its reply was given up, ``ServerError`` else.
"""

from collections.abc import Generator, Sequence
from typing import Any, NamedTuple, TypeVar

from token_worker.lua import Script

T = TypeVar("T")


class Run(NamedTuple):
    """A script to run; anything else that is yielded is a plain command."""

    script: Script
    keys: Sequence[str]
    args: Sequence[Any]


class Bounded(tuple[Any, ...]):
    """A command whose reply is given up past ``READ_BYTES``."""

    __slots__ = ()


Command = tuple[Any, ...] | Run
Protocol = Generator[Command, Any, T]
