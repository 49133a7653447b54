"""Replies, dead letters and entries left pending, on a connection without a server."""

import ast
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from token_worker import service
from token_worker.contract.messages import Op
from token_worker.errors import ServerError, Unavailable
from token_worker.redis.exchange import RunScript
from token_worker.redis.link import Link
from token_worker.redis.script import Script
from token_worker.service.committer import COMMITS_APART, EARLY_IN_A_ROW, Committer
from token_worker.service.outage import Drain, Outage
from token_worker.service.runtime import Runtime
from token_worker.streams.clock import ServerClock
from token_worker.streams.commit import COMMIT, DEAD_LETTER
from token_worker.streams.delivery import Delivery
from token_worker.streams.entry import Answer, Entry
from token_worker.streams.reply_facts import ReplyFacts
from token_worker.streams.routes import Route
from token_worker.telemetry.audit import Audit
from token_worker.telemetry.health import Health
from token_worker.telemetry.metrics import Metrics
from token_worker.telemetry.telemetry import Telemetry

ROUTE = Route("in", "out", frozenset({Op.TOKENIZE}))
FIRST, SECOND = Entry(ROUTE, b"1-0", b""), Entry(ROUTE, b"2-0", b"")
REPLIES: dict[str, Any] = {
    "TIME": [b"1700000000", b"0"],
    "XPENDING": [],
    "XREADGROUP": [[b"in", [[b"3-0", [b"payload", b"more"]]]]],
    "group.lua": 1,
    "uncount.lua": 1,
    "dead_letter.lua": 1,
}


class FakeLink(Link):
    """Answers by ``REPLIES``, and fails for as many commands as ``outages`` says; refuses what comes too soon.

    Attributes:
        events: each command or script; ``sent`` and ``finished`` before a script that was started and ended.
    """

    name = "streams"
    connections = 1
    sends_pairs = True
    has_second = False

    def __init__(self) -> None:
        self.events: list[str] = []
        self.outages = 0
        self.refuses = False
        self.statuses: list[Any] = [1]
        self.max_bytes = 0.0
        self._started: RunScript | None = None
        self._pair: list[str] = []

    def connect(self) -> int:
        assert self._started is None
        return 1

    def call(self, *command: Any) -> Any:
        return self._do(command[0])

    def call_bounded(self, max_bytes: int, *command: Any) -> Any:
        return self._do(command[0])

    def call_all(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        raise NotImplementedError

    def run(self, script: Script, keys: Sequence[Any], args: Sequence[Any]) -> Any:
        return self._do(script.name)

    def start_script(self, script: Script, keys: Sequence[Any], args: Sequence[Any]) -> None:
        assert self._started is None
        self._started = RunScript(script, keys, args)
        self.events.append(f"sent {script.name}")

    def finish_script(self) -> Any:
        started, self._started = self._started, None
        assert started is not None
        return self._do(started.script.name, f"finished {started.script.name}")

    def start_pair(
        self, script: Script, keys: Sequence[Any], args: Sequence[Any], max_bytes: float, *commands: tuple[Any, ...]
    ) -> None:
        assert self._started is None
        assert not self._pair
        names = [command[0] for command in commands]
        self.events.append(" and ".join([f"sent {script.name}", *names]))
        self._pair, self.max_bytes = [script.name, *names], max_bytes

    def finish_first(self) -> Any:
        if self.refuses:
            raise ServerError("streams", "WRONGTYPE")
        return self._take_of_pair(0)

    def finish_second(self) -> list[Any]:
        (_, *names), self._pair = self._pair, []
        return [self._do(name, f"finished {name}") for name in names]

    def _take_of_pair(self, place: int) -> Any:
        name, pair = self._pair[place], self._pair
        self._pair = []
        try:
            return self._do(name, f"finished {name}")
        finally:
            self._pair = pair

    def close(self) -> None:
        raise NotImplementedError

    def _do(self, name: str, event: str = "") -> Any:
        assert self._started is None, f"{name} was asked while a commit was in flight"
        assert not self._pair, f"{name} was asked while replies to a pair were to come"
        self.events.append(event or name)
        if self.outages:
            self.outages -= 1
            raise Unavailable("streams", "ConnectionError")
        return [*self.statuses] if name == COMMIT.name else REPLIES[name]


class CommitterSetup:
    """A committer on a ``FakeLink``; its time passes only while it waits."""

    def __init__(self) -> None:
        self.link = FakeLink()
        self.seconds = 0.0
        runtime = Runtime(monotonic=lambda: self.seconds, sleep=self._sleep)
        self.drain = Drain(10, runtime)
        health = Health(30)
        self.delivery = Delivery([ROUTE], "group", "me", batch_size=10, claim_idle_ms=30_000, max_deliveries=3)
        self.registry = CollectorRegistry()
        telemetry = Telemetry(Metrics(self.registry, [ROUTE.requests]), health, cast(Audit, None))
        outage = Outage(self.drain, health, runtime)
        self.committer = Committer(
            self.link, self.delivery, ServerClock(lambda: self.seconds), outage, telemetry, runtime
        )

    def _sleep(self, seconds: float) -> None:
        self.seconds += seconds

    def begin(self) -> None:
        """Have a commit in flight."""
        self.committer.begin([[_answer(FIRST)]], 0)
        assert self.committer.is_in_flight


def _answer(entry: Entry) -> Answer:
    return Answer(entry, b"reply", facts=ReplyFacts("tokenize", "ok", "shop", None, (("str", "ok"),)))


@pytest.fixture
def setup() -> CommitterSetup:
    return CommitterSetup()


Ask = Callable[[CommitterSetup], None]


def _drive(setup: CommitterSetup) -> None:
    setup.committer.drive(setup.delivery.renew([SECOND]))


def _refresh_clock(setup: CommitterSetup) -> None:
    setup.committer.refresh_clock()


def _begin(setup: CommitterSetup) -> None:
    setup.committer.begin([[_answer(SECOND)]], 0)


def _commit(setup: CommitterSetup) -> None:
    setup.committer.commit([[_answer(SECOND)]], 0)


def _dead_letter(setup: CommitterSetup) -> None:
    setup.committer.dead_letter(SECOND, "no_id", None, 0)


def _leave_pending(setup: CommitterSetup) -> None:
    setup.committer.leave_pending([SECOND])


WAYS: dict[Ask, str] = {
    _drive: "XPENDING",
    _refresh_clock: "TIME",
    _begin: f"sent {COMMIT.name}",
    _commit: COMMIT.name,
    _dead_letter: DEAD_LETTER.name,
    _leave_pending: "uncount.lua",
}
"""All public ways to ask the streams, and the first thing that each of them asks."""


@pytest.mark.parametrize(("ask", "first"), WAYS.items())
def test_commit_in_flight_is_finished_before_anything_is_asked(setup: CommitterSetup, ask: Ask, first: str) -> None:
    """Before any command to the streams, the reply to the commit in flight is read."""
    setup.begin()
    ask(setup)
    assert setup.link.events[:3] == [f"sent {COMMIT.name}", f"finished {COMMIT.name}", first]


def test_commit_in_flight_is_finished_through_an_outage_before_anything_is_asked(setup: CommitterSetup) -> None:
    """If the reply to the commit in flight is lost, the commit is repeated until it is done; only then others ask."""
    setup.begin()
    setup.link.outages = 2
    _drive(setup)
    assert setup.link.events == [
        f"sent {COMMIT.name}",
        f"finished {COMMIT.name}",
        COMMIT.name,
        COMMIT.name,
        "XPENDING",
    ]
    assert not setup.committer.is_in_flight


# A read that is sent with a commit


PAIR = [f"sent {COMMIT.name} and XREADGROUP", f"finished {COMMIT.name}", "finished XREADGROUP"]


@pytest.fixture
def reading(setup: CommitterSetup) -> CommitterSetup:
    """A committer that has read and committed an entry."""
    setup.committer.drive(setup.delivery.fetch(0.0, 0))
    assert not setup.committer.may_read_on([_answer(SECOND)])
    _commit(setup)
    setup.link.events.clear()
    return setup


def _commit_and_read(setup: CommitterSetup, answers: int = 1) -> list[bytes]:
    now = 0.0
    assert setup.delivery.reads_at_once(now, answers)
    fetch = setup.delivery.fetch(now, 1000, with_commit=True)
    batch = setup.committer.commit_and_read([[_answer(FIRST), _answer(SECOND)][-answers:]], 0, fetch)
    return [entry.id for entry in batch.entries]


def test_read_is_sent_with_a_commit(reading: CommitterSetup) -> None:
    """The replies to both are taken in their order, and the commit is noted before the read is waited for."""
    assert reading.committer.may_read_on([_answer(SECOND)])
    assert _commit_and_read(reading) == [b"3-0"]
    assert reading.link.events == PAIR


def test_commit_that_was_refused_is_done_again_after_its_read(reading: CommitterSetup) -> None:
    """If the server refuses the commit, the entries of the read are not lost, and the commit is done by itself."""
    reading.link.refuses = True
    assert _commit_and_read(reading) == [b"3-0"]
    assert reading.link.events == [PAIR[0], PAIR[2], COMMIT.name]
    assert not reading.committer.may_read_on([_answer(SECOND)])  # the next one may be refused, too


def test_entry_that_cannot_be_answered_is_left_pending_after_the_read(reading: CommitterSetup) -> None:
    """The committer notes at once what a commit did. It leaves the entries that have to stay pending after the read."""
    reading.link.statuses = [1, 3, b"ids used up"]
    assert _commit_and_read(reading, 2) == [b"3-0"]
    assert reading.link.events == [
        f"sent {COMMIT.name} and XREADGROUP",
        f"finished {COMMIT.name}",
        "finished XREADGROUP",
        "uncount.lua",
    ]
    assert not reading.committer.may_read_on([_answer(SECOND)])
    assert reading.registry.get_sample_value("token_worker_replies_suppressed_total") == 0
    labels = {"stream": ROUTE.requests, "status": "ok"}
    assert reading.registry.get_sample_value("token_worker_requests_total", labels) == 2  # with the one of ``reading``


def test_no_reply_waits_for_a_read_because_a_request_named_a_stream(reading: CommitterSetup) -> None:
    """One of several replies to a named stream may have the commit of all refused, so no read goes with that."""
    named = msgspec.structs.replace(_answer(FIRST), reply_to="elsewhere")
    assert not reading.committer.may_read_on([_answer(SECOND), named])
    assert reading.committer.may_read_on([named])
    assert reading.committer.may_read_on([_answer(FIRST), _answer(SECOND)])


def test_commit_that_was_lost_is_done_again_after_its_read(reading: CommitterSetup) -> None:
    """If the connection breaks, the commit is repeated until it is done. The read is told to have failed."""
    reading.link.outages = 3
    with pytest.raises(Unavailable):
        _commit_and_read(reading)
    assert reading.link.events == [*PAIR, COMMIT.name, COMMIT.name]
    assert reading.delivery.has_older(0.0)  # the read may have brought entries


def test_read_of_one_entry_of_any_size_is_sent_with_a_commit(reading: CommitterSetup) -> None:
    """After a large entry the next read asks for one entry, whose reply has no bound. It goes with a commit, too."""
    reading.delivery = Delivery([ROUTE], "group", "me", batch_size=1, claim_idle_ms=30_000, max_deliveries=3)
    reading.committer.drive(reading.delivery.fetch(0.0, 0))
    reading.link.events.clear()
    assert _commit_and_read(reading) == [b"3-0"]
    assert (reading.link.events, reading.link.max_bytes) == (PAIR, math.inf)


@pytest.mark.parametrize(("at_once", "answers"), [(True, 1), (False, 2)], ids=["at once", "few"])
def test_reads_that_come_too_early_are_sent_later(reading: CommitterSetup, answers: int, *, at_once: bool) -> None:
    """After reads in a row that found entries at once, or few, batches are committed without a read for a while."""
    link, committer = reading.link, reading.committer
    for is_early in [True, False] + [True] * EARLY_IN_A_ROW:
        assert committer.may_read_on([_answer(SECOND)])
        link.has_second = at_once and is_early
        assert _commit_and_read(reading, answers if is_early else 1) == [b"3-0"]
    allowed = [committer.may_read_on([_answer(SECOND)]) for _ in range(COMMITS_APART + 1)]
    assert allowed == [False] * COMMITS_APART + [True]


def test_read_that_finds_nothing_is_not_too_early(reading: CommitterSetup, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads that wait in vain are sent with commits again: nothing came meanwhile."""
    monkeypatch.setitem(REPLIES, "XREADGROUP", None)
    for _ in range(2 * EARLY_IN_A_ROW):
        assert reading.committer.may_read_on([_answer(SECOND)])
        assert _commit_and_read(reading, 2) == []


def test_read_is_not_sent_with_a_script_that_the_server_may_not_know(reading: CommitterSetup) -> None:
    """After a new connection, the first answers are committed by themselves: the server may have been restarted."""
    reading.link.connections += 1
    assert not reading.committer.may_read_on([_answer(SECOND)])
    _commit(reading)
    assert reading.committer.may_read_on([_answer(SECOND)])
    reading.begin()
    assert not reading.committer.may_read_on([_answer(SECOND)])


def test_every_public_method_of_the_committer_is_tried() -> None:
    """A new way to ask the streams has to be added to the ways that are tested here."""
    public = {name for name in vars(Committer) if not name.startswith("_")}
    public -= {"is_in_flight", "may_read_on", "finish", "note_dead_letter"}  # these ask for nothing else
    public -= {"commit_and_read"}  # not while a commit is in flight
    assert public == {way.__name__.removeprefix("_") for way in WAYS}


MEANS = {
    "token_worker.redis.exchange.drive",
    "token_worker.redis.exchange.start",
    "token_worker.redis.exchange.start_pair",
    "token_worker.redis.link.Link",
    "token_worker.redis.link.RedisLink",
}
"""Names by which a module could ask the streams itself."""


def test_no_other_part_of_the_worker_can_ask_the_streams() -> None:
    """Only the committer has what it takes to use a connection: no other module of the room imports it."""
    users = set()
    for path in Path(service.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and MEANS & {f"{node.module}.{alias.name}" for alias in node.names}:
                users.add(path.stem)
    assert users == {"committer"}
