"""``token-worker file`` sends in order, tries again if that can help, and stops at its time limit."""

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Any

import pytest

from token_worker.backoff import BackOffSeconds
from token_worker.client import Answer, StreamsRefused, StreamsUnavailable, TimedOut
from token_worker.client.errors import refusal
from token_worker.contract.messages import Op
from token_worker.errors import CheckFailed, Unavailable
from token_worker.files import sending
from token_worker.files.columns import Column, SentItem
from token_worker.files.delimited import Delimited, Dialect
from token_worker.files.records import Encoding
from token_worker.files.rows import Chunk, chunks
from token_worker.files.sending import CHUNKS_IN_FLIGHT, MAX_SENDS, Sender, Stopped


class Client:
    """Answers as it is told, request by request, or at once by the value itself."""

    def __init__(
        self, *outcomes: Callable[[Sequence[SentItem]], list[Answer]] | Exception, holds: bool = False
    ) -> None:
        self.sent: list[list[Any]] = []
        self.held: list[tuple[Future[list[Answer]], list[Answer]]] = []
        self._outcomes = list(outcomes)
        self._holds = holds

    def submit(self, _op: Op, items: Sequence[SentItem], *, mark_other: bool) -> Future[list[Answer]]:
        self.sent.append([value for _, value, *_ in items])
        future: Future[list[Answer]] = Future()
        outcome = self._outcomes.pop(0) if self._outcomes else echo
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        elif self._holds:
            self.held.append((future, outcome(items)))
        else:
            future.set_result(outcome(items))
        return future


def echo(items: Sequence[SentItem]) -> list[Answer]:
    return [value for _, value, *_ in items]


def some(*values: str) -> list[Chunk]:
    """A chunk for each text, its letters the values."""
    dialect = Dialect(Encoding(None, b""), ",")
    form = Delimited(dialect, [Column("1", "str")], b"a", header=False)
    return [chunk for value in values for chunk in chunks(form, [[cell.encode() for cell in value]], 0, dedupe=True)]


def answers(
    client: Client, those: Iterable[Chunk], wait: float = 60, stopping: threading.Event | None = None
) -> list[list[Answer]]:
    sender = Sender(client, Op.TOKENIZE, wait, stopping or threading.Event())
    return [found for _, found in sender.answered(those)]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "BACK_OFF_SECONDS", BackOffSeconds(0.0, 0.0))


def test_answers_come_in_order() -> None:
    """Chunks come back in the order they were sent in, whichever is answered first; no more are out than may be."""
    client = Client(holds=True)
    most = 0

    def those() -> Iterable[Chunk]:
        nonlocal most
        for chunk in some(*"abcdefghijklmnopqrstuvwxyz"):
            most = max(most, len(client.held))
            if len(client.held) == CHUNKS_IN_FLIGHT:
                for future, found in reversed(client.held):
                    future.set_result(found)
                client.held.clear()
                client._holds = False
            yield chunk

    assert answers(client, those()) == [[letter] for letter in "abcdefghijklmnopqrstuvwxyz"]
    assert most == CHUNKS_IN_FLIGHT


def test_answers_that_may_change_are_asked_for_again() -> None:
    """``internal`` and ``expired`` are sent again, these values alone, and are the answer after some tries."""
    internal, expired = refusal("internal", "a reason"), refusal("expired", "a reason")
    client = Client(lambda _: ["A", internal, expired], lambda _: ["B", expired])
    assert answers(client, some("abc")) == [["A", "B", "c"]]
    assert client.sent == [["a", "b", "c"], ["b", "c"], ["c"]]

    def refuse(_items: Sequence[SentItem]) -> list[Answer]:
        return [internal]

    client = Client(*[refuse] * MAX_SENDS)
    assert answers(client, some("a")) == [[internal]]
    assert len(client.sent) == MAX_SENDS


def test_answers_that_stay_are_not_asked_for_again() -> None:
    """Any other refusal is the last word on its value."""
    refused = refusal("token_not_found", "a reason")
    client = Client(lambda _: [refused, "B"])
    assert answers(client, some("ab")) == [[refused, "B"]]
    assert len(client.sent) == 1


def test_a_format_that_is_not_allowed_ends_the_run() -> None:
    """It is refused for every value of its column, so nothing more is sent; the refusal of the worker is told."""
    refused = refusal("format_not_allowed", "$.items[7].format: expected a format that this route allows: pan")
    client = Client(lambda _: ["A", refused])
    with pytest.raises(CheckFailed, match="the workers refuse: format_not_allowed: expected a format"):
        answers(client, some("ab", "c"))


def test_requests_that_are_too_large_are_made_smaller() -> None:
    """A request refused for its form is halved, until one value is left, whose error it is."""

    def at_most_one(items: Sequence[SentItem]) -> list[Answer]:
        if len(items) > 1 or items[0][1] == "c":
            raise refusal("invalid_request", "a reason")
        return echo(items)

    class Small(Client):
        def submit(self, _op: Op, items: Sequence[SentItem], *, mark_other: bool) -> Future[list[Answer]]:
            future: Future[list[Answer]] = Future()
            try:
                future.set_result(at_most_one(items))
            except Exception as error:  # noqa: BLE001 - as a client does it
                future.set_exception(error)
            return future

    [[first, second, third, fourth]] = answers(Small(), some("abcd"))
    assert [first, second, fourth] == ["a", "b", "d"]
    assert str(third) == "invalid_request: a reason"


@pytest.mark.parametrize("code", ["unknown_client", "unknown_zone", "forbidden", "key_unreadable"])
def test_refusals_for_all_end_the_run(code: str) -> None:
    """A refusal that every other request would get, too, ends the run."""
    with pytest.raises(CheckFailed, match=f"the workers refuse: {code}: a reason"):
        answers(Client(refusal(code, "a reason")), some("a"))
    with pytest.raises(CheckFailed, match="NOPERM"):
        answers(Client(StreamsRefused("NOPERM")), some("a"))


def test_missing_answers_are_waited_for() -> None:
    """A request without an answer is sent again, as long as the wait lasts."""
    client = Client(TimedOut("no reply"), TimedOut("no reply"))
    assert answers(client, some("a")) == [["a"]]
    assert client.sent == [["a"]] * 3
    with pytest.raises(Unavailable, match="worker: no reply; waited for 0 seconds"):
        answers(Client(*[TimedOut("no reply")] * 100), some("a"), wait=0)


class Held(Client):
    """Answers a request only when it is told to."""

    def __init__(self, after: int) -> None:
        super().__init__(holds=True)
        self.looks = 0
        self._after = after

    def away(self) -> str | None:
        """Return a reason on the first call, and None afterwards. Answer after the given number of calls."""
        self.looks += 1
        if self.looks == self._after:
            for future, found in self.held:
                future.set_result(found)
        return "streams: Connection refused" if self.looks == 1 else None


def test_missing_answers_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long before a request is given up, the user is told why no answers come, each reason once, and when they do."""
    assert sending.QUIET_SECONDS <= 5
    monkeypatch.setattr(sending, "QUIET_SECONDS", 0)
    monkeypatch.setattr(sending, "STOP_CHECK_SECONDS", 0.01)
    notices: list[str] = []
    client = Held(after=5)
    sender = Sender(client, Op.TOKENIZE, 60, threading.Event(), notices.append, client.away)
    assert [found for _, found in sender.answered(some("a"))] == [["a"]]
    assert notices == [
        "no answers: streams: Connection refused; waiting",
        f"no answers: {sending.NO_WORKER}; waiting",
        "the workers answer again",
    ]


def test_requests_that_are_given_up_are_told_once() -> None:
    """A request that is sent again because its time was up says why, and no second time."""
    notices: list[str] = []
    client = Client(*[StreamsUnavailable("streams: timeout")] * 2, TimedOut("no reply"))
    sender = Sender(client, Op.TOKENIZE, 60, threading.Event(), notices.append)
    assert [found for _, found in sender.answered(some("a"))] == [["a"]]
    assert notices == [
        "no answers: streams: timeout; waiting",
        f"no answers: {sending.NO_WORKER}; waiting",
        "the workers answer again",
    ]


def test_a_run_can_be_stopped_while_it_waits() -> None:
    """Asked to stop, the sender does not wait for the answers that are missing."""
    stopping = threading.Event()
    client = Client(holds=True)

    def those() -> Iterable[Chunk]:
        yield from some("a")
        stopping.set()

    with pytest.raises(Stopped):
        answers(client, those(), stopping=stopping)
