"""The page says what is wrong, the worst first."""

from pathlib import Path
from typing import Any

import pytest

from harness.looks import NOW, dead, lag, look_of, routes_named, seen, server, worker
from token_worker.admin.check import Check
from token_worker.admin.lag import GroupLag
from token_worker.admin.stream_ends import IdsFinding
from token_worker.admin.workers import SeenWorker
from token_worker.monitor.look import Look
from token_worker.monitor.problems import KINDS, Level, Problem, anchor_of, find_troubles, slug, summed_up
from token_worker.monitor.source import OWN_ERROR, Seen, Trouble
from token_worker.monitor.view import make_page

PAGE = (Path(__file__).parents[3] / "docs" / "operations.md").read_text()
ANCHORS = {slug(line.lstrip("# ").replace("`", "")) for line in PAGE.splitlines() if line.startswith("#")}
ROUTES = routes_named("cards", "names")


def problems(look: Look) -> list[Problem]:
    return summed_up([*find_troubles(look)])


def with_facts(look: Look, **known: Any) -> Look:
    facts = look.streams.value
    assert facts is not None
    return look._replace(streams=look.streams._replace(value=facts._replace(**known)))


def test_nothing_is_wrong() -> None:
    """If all is well, there is no problem."""
    assert problems(look_of(ROUTES)) == []


def rows(**known: Any) -> list[GroupLag]:
    return [lag("cards", **known), lag("names")]


SILENT = worker("w-1", idle_seconds=3600.0, noted_seconds_ago=3600.0, ready=None)
READY = worker("w-2")
NOBODY = "tokenworkernobodyserves"
NOT_READY = worker("w-1", ready=False, why="Vault is sealed")


@pytest.mark.parametrize(
    ("found", "workers", "level", "sentence", "anchor"),
    [
        (rows(), (), Level.WARN, "Nobody reads 2 streams: cards, names", NOBODY),
        (
            rows(pending=7),
            (SILENT,),
            Level.BAD,
            "No worker reads cards, where 7 requests wait",
            "tokenworkernobodyserves",
        ),
        (rows(), (SILENT, READY), Level.WARN, "Worker w-1 is silent since 2027-01-15 07:00:00 UTC", "worker-silent"),
        (
            rows(),
            (NOT_READY,),
            Level.BAD,
            "No worker is ready on 2 streams (cards, names): Vault is sealed",
            "worker-not-ready",
        ),
        (
            rows(),
            (NOT_READY, worker("w-2")),
            Level.WARN,
            "Worker w-1 is not ready: Vault is sealed",
            "worker-not-ready",
        ),
        (
            rows(undelivered=3, oldest_undelivered_age_seconds=301.0),
            (worker("w-1"),),
            Level.BAD,
            "A request on cards has waited for 5 min 1 s",
            "tokenworkerfallsbehind",
        ),
        (
            rows(pending=1, oldest_pending_age_seconds=7200.0),
            (worker("w-1"),),
            Level.WARN,
            "A request on cards has been pending for 2 h 0 min",
            "tokenworkerstuckentries",
        ),
        (
            [*rows(), lag("cards:out", "billing", oldest_undelivered_age_seconds=4000.0)],
            (worker("w-1"),),
            Level.WARN,
            "Group billing has not read the replies on cards:out for 1 h 6 min",
            "tokenworkerrepliesunread",
        ),
    ],
)
def test_trouble_of_the_streams(
    found: list[GroupLag], workers: tuple[SeenWorker, ...], level: Level, sentence: str, anchor: str
) -> None:
    """Each trouble has its level, one sentence with its names and figures, and the heading of its alert."""
    first = problems(look_of(ROUTES, found, workers))[0]
    assert (first.level, first.sentence, first.anchor) == (level, sentence, anchor)


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("TimeoutError", "does not answer: no answer in time"),
        ("WRONGPASS", "cannot be used: refuses the user or the password (WRONGPASS)"),
        (f"{OWN_ERROR}: KeyError", "cannot be read (an error of the monitor: KeyError)"),
    ],
)
def test_server_that_is_there_and_refuses_is_not_called_silent(reason: str, words: str) -> None:
    """A wrong password is told apart from a server that is down, and from a mistake of the monitor."""
    away = Seen(None, 0.0, Trouble(reason, NOW))
    [first] = problems(look_of(ROUTES, servers={"tokens": away}))
    assert first.sentence == f"The Redis for tokens {words}, since 08:00:00 UTC"


def test_streams_away_come_first_and_once() -> None:
    """If the streams are away, one sentence says so with the reason and the time, before everything else."""
    look = look_of(ROUTES, rows(pending=7), ())
    away = Trouble("ConnectionRefusedError", NOW - 60)
    look = look._replace(
        streams=look.streams._replace(trouble=away), servers={"streams": Seen([server()], NOW - 60, away)}
    )
    first, second, *_ = problems(look)
    assert first.level == Level.BAD
    assert first.sentence == "The Redis for streams does not answer: connection refused, since 07:59:00 UTC"
    assert second.sentence.startswith("No worker reads cards")
    assert make_page(look).refresh_seconds < make_page(look_of(ROUTES)).refresh_seconds  # its return is shown soon


def test_each_server_can_be_away_alone() -> None:
    """The storage is away: the sentence names it, and the streams are not said to be away."""
    away = Seen([server()], NOW, Trouble("TimeoutError", NOW))
    [first] = problems(look_of(ROUTES, servers={"streams": seen([server()]), "keys, tokens": away}))
    assert first.sentence.startswith("The Redis for keys, tokens does not answer: no answer in time")


@pytest.mark.parametrize(
    ("known", "sentence"),
    [
        ({"used_bytes": 95, "limit_bytes": 100}, "The Redis for tokens uses 95% of the memory that it may use"),
        ({"evicted": 1200}, "The Redis for tokens has evicted 1,200 keys: values may be lost"),
    ],
)
def test_trouble_of_a_server(known: dict[str, int], sentence: str) -> None:
    """A storage that is nearly full, or that evicts, is a problem before somebody misses a value."""
    [first] = problems(look_of(ROUTES, servers={"tokens": seen([server(**known)])}))
    assert first.sentence == sentence


def test_old_dead_letters_are_no_problem() -> None:
    """Dead letters of this day are a problem; older ones stay in their table."""
    look = look_of(ROUTES)
    [young] = problems(with_facts(look, dead=dead("cards:dead", "no_readable_id")))
    assert "cards:dead: no_readable_id" in young.sentence
    assert problems(with_facts(look, dead=dead("cards:dead", "no_readable_id", 2 * 86_400))) == []


def test_stream_that_cannot_be_read() -> None:
    """A key of another type in place of a stream is named with the server's word for it."""
    look = look_of(ROUTES)
    assert look.streams.value is not None
    measured = look.streams.value.measured
    [first] = problems(with_facts(look, measured=measured._replace(unknown={"cards": "WRONGTYPE"})))
    assert (first.level, first.sentence) == (Level.BAD, "cards cannot be read (WRONGTYPE)")
    [ahead] = problems(with_facts(look, measured=measured._replace(ids={"cards": IdsFinding("ids are ahead", "wait")})))
    assert ahead.sentence == "cards: ids are ahead"


def test_findings_of_doctor_lead_to_their_headings() -> None:
    """One finding is a sentence with a link of its own; several are counted. Fine and unknown checks are no problem."""
    one = Check("keys: persistence", "finding", "no append-only file", "set appendonly yes")
    other = Check("keys: user", "finding", "logged in as user default", "log in as another")
    fine = [Check("keys: version", "ok", ""), Check("cards: who may detokenize", "unknown", "may not check", "")]
    [first] = problems(look_of(ROUTES, checks=seen([one, *fine])))
    assert (first.sentence, first.anchor) == ("keys: persistence: no append-only file", "persistence")
    [both] = problems(look_of(ROUTES, checks=seen([one, other, *fine])))
    assert both.sentence == "2 findings of doctor: keys: persistence, keys: user"


def test_many_of_a_kind_are_one_problem() -> None:
    """Two hundred streams without a worker are one sentence, which names three of them."""
    names = [f"route-{number:03}" for number in range(200)]
    [first] = problems(look_of(routes_named(*names), workers=()))
    assert first.sentence == "Nobody reads 200 streams: route-000, route-001, route-002 and 197 more"


def test_reason_of_workers_that_are_not_ready_is_on_top() -> None:
    """The top line says why workers are not ready, also of several workers and streams, before what follows of it."""
    workers = (NOT_READY, worker("w-2", ready=False, why=NOT_READY.why), worker("w-3", ready=False, why="disk full"))
    stuck = [lag("cards", undelivered=9, oldest_undelivered_age_seconds=999.0), lag("names", pending=1)]
    first, *_ = problems(look_of(routes_named("cards", "names"), stuck, workers))
    assert first.sentence == "No worker is ready on 2 streams (cards, names): Vault is sealed"
    old = [lag("cards", pending=9, oldest_pending_age_seconds=9999.0), lag("names")]
    first, *_ = problems(look_of(ROUTES, old, (*workers, READY)))
    assert first.sentence == "3 workers are not ready (w-1, w-2, w-3): Vault is sealed, disk full"


def test_route_without_a_worker_does_not_hide_a_reason() -> None:
    """One route has nobody, and the workers of another are not ready: their reason is on top."""
    look = look_of(ROUTES, [lag("cards", undelivered=2), lag("names", undelivered=2)])
    first, second = problems(with_facts(look, workers={"cards": (), "names": (NOT_READY,)}))[:2]
    assert first.sentence == "No worker of names is ready: Vault is sealed"
    assert second.sentence == "No worker reads cards, where 2 requests wait"


def test_missing_right_is_said() -> None:
    """If the user of the monitor lacks a right, the page says so rather than showing nothing."""
    [other] = problems(with_facts(look_of(ROUTES), refused=["cards: notes of workers (WRONGTYPE)"]))
    assert other.sentence == "Cannot be read: cards: notes of workers (WRONGTYPE)"
    [first] = problems(with_facts(look_of(ROUTES), refused=["cards: notes of workers (NOPERM)"]))
    assert first.sentence == "A right is missing: cards: notes of workers (NOPERM)"


def test_before_the_first_figures() -> None:
    """A monitor that has read nothing yet does not say that all is well."""
    [first] = problems(look_of(ROUTES, streams=Seen(None, 0.0, None)))
    assert first.level == Level.WARN


def test_every_kind_leads_to_a_heading() -> None:
    """The link of each problem leads to a heading of docs/operations.md that is there."""
    assert {kind.anchor for kind in KINDS} <= ANCHORS
    checks = ["tokens: durability before a reply", "detokenize:requests: who may detokenize", "keys: right to read"]
    checks += ["layout", "layout: entries", "layout: index keys", "layout: check values"]
    checks += ["streams: TLS and password", "servers apart", "streams: version", "keys: eviction", "keys: clock"]
    assert {anchor_of(check) for check in checks} <= ANCHORS
