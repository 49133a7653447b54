"""Sans-IO exchanges: generators that yield commands and are sent their replies.

``drive`` runs an exchange on a real server. A simulation can stop and interleave workers at every command. Instead of
a reply, an exchange may get an error thrown in:

- ``Unavailable``: nobody knows whether the command was done.
- ``ReplyTooLarge``: the command was done, but its reply was dropped.
- ``ServerError``: the server refused the command.
"""

from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple, TypeVar

import structlog
from structlog.typing import FilteringBoundLogger

from token_worker.errors import ReplyTooLarge, ServerError, Unavailable
from token_worker.redis.link import Link
from token_worker.redis.script import Script

T = TypeVar("T")


class RunScript(NamedTuple):
    """A script to run. Any other tuple is a plain command."""

    script: Script
    keys: Sequence[str]
    args: Sequence[Any]


class BoundedCommand(NamedTuple):
    """A command whose reply is given up past ``max_bytes``."""

    max_bytes: int
    command: tuple[Any, ...]


class Together(NamedTuple):
    """Plain commands that are sent in one write. The reply is the list of their replies.

    The replies are given up past ``max_bytes`` of all. If commands are refused, the first error is thrown in, and
    nobody knows whether the others were done.
    """

    max_bytes: float
    commands: Sequence[tuple[Any, ...]]


_LOG: FilteringBoundLogger = structlog.get_logger("worker")

Command = tuple[Any, ...] | RunScript | BoundedCommand | Together
Exchange = Generator[Command, Any, T]


def start(exchange: Exchange[Any], link: Link) -> None:
    """Send the first command of an exchange, which is a script; ``link.finish_script`` has the reply."""
    first = next(exchange)
    if not isinstance(first, RunScript):
        raise TypeError("an exchange is started by a script")
    link.start_script(*first)


def start_pair(first: Exchange[Any], second: Exchange[Any], link: Link) -> None:
    """Send the first commands of two exchanges in one write: a script, and what is to be sent ``Together``.

    The reply to the first is ``link.finish_first()``; ``drive`` takes ``link.finish_second()`` to the second.
    """
    script, rest = next(first), next(second)
    if not isinstance(script, RunScript) or not isinstance(rest, Together):
        raise TypeError("a pair is a script, and commands to send together")
    link.start_pair(*script, rest.max_bytes, *rest.commands)


def drive(
    exchange: Exchange[T],
    link: Link,
    *,
    receive: Callable[[], Any] | None = None,
    log: FilteringBoundLogger = _LOG,
) -> T:
    """Run an exchange on a server: send the commands that it yields, give it the replies, throw in the errors.

    Args:
        exchange: what to run.
        link: connection to the server.
        receive: returns the reply to the first command, if that was sent already.
        log: is told of a reply that was given up because it is too large.
    """
    reply: Any = None
    error: Unavailable | ServerError | ReplyTooLarge | None = None
    command: Command = ()
    while True:
        try:
            if receive is None:
                command = exchange.send(reply) if error is None else exchange.throw(error)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]  # StopIteration is not generic
        finally:
            reply = error = None  # an error holds this frame; a circle would keep megabytes of commands in memory
        try:
            if receive is not None:
                receive_first, receive = receive, None
                reply = receive_first()
            elif isinstance(command, RunScript):
                reply = link.run(*command)
            elif isinstance(command, BoundedCommand):
                reply = link.call_bounded(command.max_bytes, *command.command)
            elif isinstance(command, Together):
                raise TypeError("commands are sent together with a script")
            else:
                reply = link.call(*command)
        except ReplyTooLarge as raised:
            log.info("read aborted: entries too large, taking them in small parts")
            error = raised.with_traceback(None)  # its frames hold the reply
        except (Unavailable, ServerError) as raised:
            error = raised
