"""Logs: ids get out, payload does not. Each test is a process of its own, since logging belongs to the process."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import pytest

CANARY = "hunter2canary"

PREPARE = """
import logging, os, sys, threading, warnings
import structlog
from token_worker.errors import Code, Refused, Unavailable
from token_worker.telemetry.logs import configure
CANARY = "hunter2" + "canary"
configure("{level}", "{format}")
log = structlog.get_logger("vault")
"""


def run(code: str, level: str = "debug", form: str = "json") -> str:
    """Run code in a process, and return its log; nothing may go to standard output."""
    prepare = PREPARE.replace("{level}", level).replace("{format}", form)
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", prepare + code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout == ""
    return done.stderr


def events(code: str, level: str = "debug") -> list[dict[str, Any]]:
    """The log, line by line; fails if anything but JSON lines was written."""
    text = run(code, level)
    assert CANARY not in text
    return [json.loads(line) for line in text.splitlines()]


def test_event_is_a_json_line() -> None:
    """An event is a JSON line with its ids, level, time in UTC and the name of the part that logs."""
    (event,) = events("log.info('entry refused', entry='1-0', route=2, ops=('tokenize',), code=Code.EXPIRED)")

    at = datetime.fromisoformat(event.pop("timestamp"))
    assert at.tzinfo == UTC
    assert event == {
        "event": "entry refused",
        "level": "info",
        "logger": "vault",
        "entry": "1-0",
        "route": 2,
        "ops": ["tokenize"],
        "code": "expired",
    }


def test_events_below_the_level_are_not_written() -> None:
    """Events below the level are not written; a second call changes the level of loggers that exist."""
    code = "log.info('no'); log.warning('yes'); configure('info', 'json'); log.info('now')"

    assert [event["event"] for event in events(code, "warning")] == ["yes", "now"]


def test_values_of_other_types() -> None:
    """Bytes, exceptions and objects are written as types, wherever in an event they stand."""
    code = """
class Thing:
    def __repr__(self): return CANARY
nested = {"a": [ValueError(CANARY), Thing()]}
log.info("x", raw=CANARY.encode(), thing=Thing(), nested=nested, ours=Unavailable("keys", "OOM"))
"""
    (event,) = events(code)

    assert (event["raw"], event["thing"], event["ours"]) == (
        "<bytes>",
        "<Thing>",
        "key storage: its memory limit is reached (OOM)",
    )
    assert event["nested"] == {"a": ["<ValueError>", "<Thing>"]}


def test_exception_is_written_without_messages_of_others() -> None:
    """An exception is written as types and places along its causes; only the messages of our own are."""
    code = """
def inner():
    secret = CANARY
    raise ValueError(secret)
def outer():
    try:
        try:
            inner()
        except ValueError:
            raise KeyError(CANARY)
    except KeyError as error:
        raise Refused(Code.INTERNAL, "items[3]: no luck") from error
try:
    outer()
except Refused:
    log.exception("item failed", entry="1-0")
"""
    (event,) = events(code)

    assert [link["type"] for link in event["exception"]] == [
        "token_worker.errors.Refused",
        "builtins.KeyError",
        "builtins.ValueError",
    ]
    assert [link.get("message") for link in event["exception"]] == ["internal: items[3]: no luck", None, None]
    assert [frame.rpartition(" ")[2] for frame in event["exception"][2]["frames"]] == ["outer", "inner"]
    assert event["exception"][2]["frames"][0].startswith("<string>:")
    assert (event["entry"], event["level"]) == ("1-0", "error")


def test_hidden_and_circular_causes() -> None:
    """A suppressed context is left out, as Python does, and a chain that loops ends."""
    code = """
try:
    try:
        raise KeyError(CANARY)
    except KeyError:
        raise ValueError(CANARY) from None
except ValueError as error:
    log.error("one", exc_info=error)
first, second = OSError(CANARY), OSError(CANARY)
first.__cause__, second.__cause__ = second, first
log.error("two", exc_info=first)
log.error("three", exc_info=True)
"""
    one, two, three = events(code)

    assert [link["type"] for link in one["exception"]] == ["builtins.ValueError"]
    assert len(two["exception"]) == 2
    assert "exception" not in three


def test_deep_exception_is_written_with_its_innermost_frames() -> None:
    """Of a very deep exception only the innermost frames are written."""
    code = """
def deep(number):
    if number == 0:
        raise ValueError(CANARY)
    deep(number - 1)
try:
    deep(200)
except ValueError:
    log.exception("deep")
"""
    (event,) = events(code)

    assert len(event["exception"][0]["frames"]) == 50
    assert event["exception"][0]["frames"][-1] == "<string>:12 in deep"


@pytest.mark.parametrize("name", ["urllib3.connectionpool", "redis.connection", "hvac.adapters", "requests", "other"])
def test_libraries_log_only_the_origin_of_a_warning(name: str) -> None:
    """Of what libraries log, only the warning's origin gets out, whatever their level or ours."""
    code = f"""
library = logging.getLogger({name!r})
library.setLevel(logging.DEBUG)
library.debug(CANARY); library.info("%s", CANARY)
library.warning("retrying %s", CANARY)
try:
    raise ValueError(CANARY)
except ValueError:
    library.exception(CANARY, extra={{"url": CANARY}})
library.log(35, CANARY)
library.error("%d", CANARY)  # does not even format
"""
    found = events(code)

    assert [event["level"] for event in found] == ["warning", "error", "warning", "error"]
    for event in found:
        assert event.keys() == {"event", "level", "timestamp", "logger", "at"}
        assert (event["event"], event["logger"]) == ("library message", name)


def test_libraries_below_our_level() -> None:
    """Warnings of libraries are not written where our own would not be."""
    assert events("logging.getLogger('redis').warning(CANARY)", "error") == []


def test_warning_is_written_without_its_text() -> None:
    """A warning is written as its kind and place, without its text."""
    (event,) = events("warnings.warn(CANARY, ResourceWarning)")

    assert (event["event"], event["category"], event["level"]) == ("library warning", "ResourceWarning", "warning")
    assert event["at"].startswith("<string>:")


def test_uncaught_exception_is_a_json_line() -> None:
    """An exception nobody caught is written as any other instead of a traceback."""
    (event,) = events("raise ValueError(CANARY)")

    assert (event["event"], event["level"]) == ("uncaught exception", "critical")
    assert event["exception"][0]["type"] == "builtins.ValueError"


def test_uncaught_in_a_thread() -> None:
    """So is one that ends a thread."""
    code = """
def body(): raise ValueError(CANARY)
thread = threading.Thread(target=body, name="renewal"); thread.start(); thread.join()
thread = threading.Thread(target=sys.exit); thread.start(); thread.join()
"""
    (event,) = events(code)

    assert (event["event"], event["thread"]) == ("uncaught exception in a thread", "renewal")
    assert event["exception"][0]["frames"][-1].endswith(" in body")


def test_exception_in_a_finalizer_is_a_json_line() -> None:
    """So is one in a finalizer."""
    code = """
class Thing:
    def __repr__(self): return CANARY
    def __del__(self): raise ValueError(CANARY)
Thing()
"""
    (event,) = events(code)

    assert event["event"] == "exception in a finalizer"
    assert event["exception"][0]["frames"][0].endswith(" in Thing.__del__")


def test_console_shows_the_same_as_text() -> None:
    """On a console the same is told as text, exceptions without payload, and ids bring no control characters."""
    code = """
log.info("entry refused", id="a\\x1b[2Jb\\nc", raw=CANARY.encode())
try:
    raise Unavailable("keys", "OOM") from ValueError(CANARY)
except Unavailable:
    secret = CANARY
    log.exception("batch failed")
logging.getLogger("redis").warning(CANARY)
raise KeyError(CANARY)
"""
    text = run(code, form="console")

    assert CANARY not in text
    assert "entry refused" in text
    assert "\x1b" not in text
    assert "'a\\x1b[2Jb\\nc'" in text
    assert "token_worker.errors.Unavailable: 'key storage: its memory limit is reached (OOM)'\n  <string>:" in text
    assert "builtins.ValueError" in text
    assert "library message" in text
    assert "uncaught exception" in text
