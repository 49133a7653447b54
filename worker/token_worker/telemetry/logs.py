"""Logs: one JSON object a line on standard error (or text for a terminal), with ids and counts, never a payload.

Every line has ``event`` (a noun or a plain sentence), ``level``, ``logger`` and ``timestamp`` (ISO 8601, UTC).

- Our own code logs through ``structlog.get_logger(name)`` with the name of the part that logs. Values of an event are
  text, numbers and lists of them. Anything else, bytes above all, is written as the name of its type.
- Log messages and warnings of libraries may quote payload. Below WARNING they are not written, at any level of our own.
  From WARNING on, only the library and the line of code are written, never the message.
- An exception is written as types and code positions along its chain of causes. Its message is left out, unless it
  is one of ours (``TokenWorkerError``), whose messages hold no payload. Local variables are never written.
- Uncaught exceptions, in any thread or finalizer, are written the same way instead of as tracebacks.
"""

import logging
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, TextIO

import structlog

from token_worker.errors import TokenWorkerError

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["json", "console"]

_FRAMES: Final = 50
"""Innermost frames of an exception that are written: enough to find the place, and bounded for endless recursion."""

_Event = MutableMapping[str, Any]


def configure(level: Level, format: Format) -> None:  # noqa: A002 - the setting's name
    """Send all logs of this process to standard error. Call this before anything else can log or fail.

    A second call changes level and format. Handlers that others gave to the root logger are removed.

    Args:
        level: lowest level of our own events that is written.
        format: ``json`` for programs, ``console`` for people.
    """
    structlog.configure(
        processors=[
            _add_logger_name,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _write_exceptions_without_payload,
            _write_plain_values_only,
            *_renderers(format),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=_Logger,
        # Loggers that exist already must follow a second call. A look-up costs little beside a Redis command.
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[_LibraryHandler(logging.WARNING)], level=logging.WARNING, force=True)
    logging.raiseExceptions = False  # else a handler that fails prints the record that it failed on
    warnings.showwarning = _log_warning
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread
    sys.unraisablehook = _log_unraisable


class _Logger(structlog.WriteLogger):
    """Writes lines to standard error for the part of the program with this name."""

    def __init__(self, name: str | None = None) -> None:
        super().__init__(sys.stderr)
        self.name = name


def _add_logger_name(logger: _Logger, _method: str, event: _Event) -> _Event:
    if logger.name:
        event["logger"] = logger.name
    return event


def describe_exception(error: BaseException) -> list[dict[str, object]]:
    """Describe an exception and its causes, outermost first, without any payload.

    Returns:
        For each: ``type`` (qualified name), ``message`` (only of a ``TokenWorkerError``), ``frames`` (``file:line in
        function``, innermost last, at most 50).
    """
    described = []
    for link in _chain(error):
        entry: dict[str, object] = {"type": f"{type(link).__module__}.{type(link).__qualname__}"}
        if isinstance(link, TokenWorkerError):
            entry["message"] = str(link)
        entry["frames"] = [
            f"{frame.f_code.co_filename}:{line} in {frame.f_code.co_qualname}"
            for frame, line in traceback.walk_tb(link.__traceback__)
        ][-_FRAMES:]
        described.append(entry)
    return described


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the exception, then its causes and contexts as Python would print them; each once."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _write_exceptions_without_payload(_logger: object, _method: str, event: _Event) -> _Event:
    """Turn ``exc_info`` (an exception, a triple or true) into ``exception``, as ``describe_exception`` does."""
    given = event.pop("exc_info", None)
    if isinstance(given, tuple):
        given = given[1]
    elif given and not isinstance(given, BaseException):
        given = sys.exception()
    if given:
        event["exception"] = describe_exception(given)
    return event


def _write_plain_values_only(_logger: object, _method: str, event: _Event) -> _Event:
    return {str(name): _plain(value) for name, value in event.items()}


def _plain(value: object) -> object:
    """Return text, numbers, and lists or dictionaries of them unchanged; of other values the name of the type."""
    match value:
        case None | bool() | int() | float():
            return value
        case str() | Path():
            return str(value)
        case list() | tuple() | set() | frozenset():
            return [_plain(item) for item in value]
        case dict():
            return {str(name): _plain(item) for name, item in value.items()}
        case TokenWorkerError():
            return str(value)
        case _:
            return f"<{type(value).__qualname__}>"


def _renderers(format: Format) -> list[structlog.typing.Processor]:  # noqa: A002 - the setting's name
    if format == "json":
        return [structlog.processors.JSONRenderer()]
    # Text is quoted, so that an id cannot bring control characters to the terminal.
    console = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), repr_native_str=True)
    return [_exceptions_as_text, console]


def _exceptions_as_text(_logger: object, _method: str, event: _Event) -> _Event:
    """Write one line for each exception of the chain and for each frame. The console shows them under the event."""
    if "exception" in event:
        lines = []
        for link in event["exception"]:
            lines.append(f"{link['type']}: {link['message']!r}" if "message" in link else link["type"])
            lines += (f"  {frame}" for frame in link["frames"])
        event["exception"] = "\n".join(lines)
    return event


def _logger(name: str) -> structlog.typing.FilteringBoundLogger:
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(name)
    return logger


class _LibraryHandler(logging.Handler):
    """Writes that a library logged, and the line of its code; neither its message nor the arguments."""

    def emit(self, record: logging.LogRecord) -> None:
        level = min(record.levelno // 10 * 10, logging.CRITICAL)
        _logger(record.name).log(level, "library message", at=f"{record.pathname}:{record.lineno}")


def _log_warning(
    message: Warning | str,  # noqa: ARG001 - may quote payload
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,  # noqa: ARG001 - given by callers that want the text in a file
    line: str | None = None,  # noqa: ARG001 - likewise
) -> None:
    _logger("python").warning("library warning", category=category.__qualname__, at=f"{filename}:{lineno}")


def _log_uncaught(_kind: type[BaseException], error: BaseException, _traceback: TracebackType | None) -> None:
    _logger("python").critical("uncaught exception", exc_info=error)


def _log_uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is not SystemExit:
        name = args.thread.name if args.thread else None
        _logger("python").critical("uncaught exception in a thread", thread=name, exc_info=args.exc_value)


def _log_unraisable(args: "sys.UnraisableHookArgs") -> None:
    _logger("python").error("exception in a finalizer", exc_info=args.exc_value)
