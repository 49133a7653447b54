"""A source keeps what it read last, and says since when it cannot read."""

from token_worker.errors import ServerError, SettingsError, Unavailable
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
