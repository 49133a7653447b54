"""A source keeps what it read last, and says since when it cannot read."""

import pytest

from harness.stack import wait_until
from token_worker.errors import LoginRefused, ServerError, SettingsError, Unavailable
from token_worker.monitor.source import Source, Trouble


class Reader:
    """Returns or raises what a test says, and has a clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self.next: object = 1

    def __call__(self) -> object:
        if isinstance(self.next, Exception):
            raise self.next
        return self.next


def test_trouble_has_the_time_of_its_beginning() -> None:
    """A long outage has one beginning; the value before it stays, and a new value ends it."""
    reader = Reader()
    source = Source("x", reader, 5.0, lambda: reader.now)
    source.look()
    assert tuple(source.seen) == (1, 100.0, None)
    reader.next, reader.now = Unavailable("streams", "TimeoutError"), 105.0
    source.look()
    reader.next, reader.now = ServerError("streams", "NOPERM"), 110.0
    source.look()
    assert tuple(source.seen) == (1, 100.0, Trouble("NOPERM", 105.0))
    reader.next, reader.now = 2, 115.0
    source.look()
    assert tuple(source.seen) == (2, 115.0, None)


def test_mistake_of_the_code_does_not_end_the_source() -> None:
    """An error that nothing expects is shown with its type alone, and the next read is tried."""
    reader = Reader()
    source = Source("x", reader, 5.0, lambda: reader.now)
    reader.next = KeyError("some value")
    source.look()
    assert source.seen.trouble is not None
    assert source.seen.trouble.reason == "an error of the monitor: KeyError"
    reader.next = SettingsError("a sentence")
    source.look()
    assert source.seen.trouble is not None
    assert source.seen.trouble.reason == "a sentence"


@pytest.mark.parametrize("error", [Unavailable("streams", "TimeoutError"), LoginRefused("streams", "WRONGPASS")])
def test_server_that_was_away_is_seen_soon(error: Exception) -> None:
    """While a server is away it is asked again within a second or two, however long the interval is."""
    answers: list[object] = [error, 1]

    def read() -> object:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    source = Source("x", read, 3600.0)
    source.start()
    try:
        wait_until(lambda: source.seen.value == 1, "the second read", seconds=20)
    finally:
        source.stop()


def test_right_that_is_missing_is_not_tried_more_often() -> None:
    """Each try leaves a line in ``ACL LOG``: a server that refuses is asked at its interval."""
    reader = Reader()
    source = Source("x", reader, 60.0)
    reader.next = ServerError("streams", "NOPERM")
    source.look()
    assert source._pause(0.5) == 59.5
    reader.next = Unavailable("streams", "TimeoutError")
    source.look()
    assert source._pause(5.0) == 1.0
    reader.next = 1
    source.look()
    assert source._pause(0.5) == 59.5
