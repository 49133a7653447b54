"""The page as HTML, without a browser and without servers."""

import re
import time
from html.parser import HTMLParser

import pytest

from conftest import Say
from harness.looks import NOW, dead, hour, lag, look_of, routes_named, seen, worker
from token_worker.admin.check import Check
from token_worker.admin.workers import SeenWorker
from token_worker.monitor.history import History, Sample
from token_worker.monitor.key_names import KeyAges, OwnerKeys
from token_worker.monitor.look import Look, RouteHour
from token_worker.monitor.problems import Level
from token_worker.monitor.render import render_operations, render_page
from token_worker.monitor.source import Trouble
from token_worker.monitor.view import make_page

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{ 7*7 }}"

BYTES_MAX = 700_000
"""Most bytes of a page of 200 routes and 50 workers."""


class Parsed(HTMLParser):
    """The elements of a page, and its text."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


def rendered(look: Look) -> Parsed:
    return Parsed(render_page(make_page(look), 5))


def test_all_is_well() -> None:
    """The sentence on top says so, and counts workers and routes."""
    page = rendered(look_of(routes_named("cards", "names")))
    assert "All is well: 1 worker on 2 routes." in page.text
    assert ("div", {"id": "verdict", "class": "verdict ok", "role": "status"}) in page.elements


def test_names_that_hold_html_are_text() -> None:
    """A stream, worker, host, reason, client or message that holds HTML appears as it is, and makes no element."""
    plain = rendered(look_of(routes_named("a"), [lag("a"), lag("a:out", "g")]))
    route = routes_named(EVIL)
    look = look_of(
        route,
        [lag(EVIL, undelivered=5), lag(f"{EVIL}:out", EVIL)],
        (worker(EVIL, host=EVIL, version=EVIL, ready=False, why=EVIL),),
        keys=seen(KeyAges(1, 0, 0, [OwnerKeys("client", EVIL, True, NOW, 1)], True)),
        checks=seen([Check(EVIL, "finding", EVIL, f"{EVIL} `{EVIL}`"), Check(EVIL, "unknown", EVIL)]),
        group="token-workers",
    )
    assert look.streams.value is not None
    look = look._replace(streams=seen(look.streams.value._replace(dead=dead(EVIL, EVIL), refused=[EVIL])))
    page = rendered(look)
    assert page.text.count(EVIL) >= 12
    assert page.count("script") == plain.count("script") == 1
    assert page.count("img") == 0
    assert not [attrs for _, attrs in page.elements if any(name.startswith("on") for name in attrs)]
    links = {attrs["href"] for tag, attrs in page.elements if tag == "a" and attrs["href"]}
    assert all(re.fullmatch(r"/[a-z]*([#?][\w=-]*)?|#main", link) for link in links), links


@pytest.mark.parametrize("pending", [0, 2])
def test_worker_that_stopped_without_a_word_is_silent(pending: int) -> None:
    """A worker that was killed is silent since its last sign, on whatever stream. Its row and the top agree."""
    gone = worker("w-1", idle_seconds=50.0, noted_seconds_ago=61.0, pending=pending)
    look = look_of(routes_named("cards"), workers=(gone, worker("w-2")))
    page, text = make_page(look), rendered(look).text
    assert ("silent since 2027-01-15 07:59:10 UTC, and has pending entries" in text) == bool(pending)
    assert "Worker w-1 is silent since 2027-01-15 07:59:10 UTC." in text
    assert [row.level for row in page.workers] == [page.level, Level.GOOD]


def test_worker_that_is_silent_on_one_stream_is_not_silent() -> None:
    """A worker that gives a sign on one of its streams is alive: neither its row nor the top calls it silent."""
    look = look_of(routes_named("cards", "names"))
    assert look.streams.value is not None
    quiet = worker("w-1", idle_seconds=3600.0, noted_seconds_ago=3600.0, ready=None)
    workers: dict[str, tuple[SeenWorker, ...]] = {"cards": (quiet,), "names": (worker("w-1"),)}
    page = make_page(look._replace(streams=seen(look.streams.value._replace(workers=workers))))
    assert [row.state for row in page.workers] == ["ready"]
    assert "silent" not in page.headline


def test_nothing_is_inline_or_foreign() -> None:
    """The page has no script or style inside, and names no other host: the strict policy refuses nothing."""
    for page in (rendered(look_of(routes_named("a"))), Parsed(render_operations())):
        assert page.count("style") == 0
        for tag, attrs in page.elements:
            assert "style" not in attrs, tag
            sources = [attrs.get(name) for name in ("src", "href") if tag in ("script", "link", "img", "iframe")]
            assert all(source is None or re.match(r"/[a-z]", source) for source in sources), attrs


def test_page_without_javascript_refreshes_itself() -> None:
    """Only a browser without scripts is told to reload; a reader can stop that."""
    going = render_page(make_page(look_of(routes_named("a"))), 5)
    assert b'<noscript><meta http-equiv="refresh" content="5"></noscript>' in going
    assert b"http-equiv" not in render_page(make_page(look_of(routes_named("a"))), None)


def test_outage_keeps_what_was_read_last() -> None:
    """While the streams are away, the page says since when, and shows the last figures and the last plot."""
    route = routes_named("cards")
    look = look_of(route, [lag("cards", undelivered=1234)], hours={"cards": hour(1234)})
    away = look._replace(at=NOW + 90, streams=look.streams._replace(trouble=Trouble("TimeoutError", NOW + 5)))
    page = rendered(away)
    assert "The Redis for streams does not answer: no answer in time, since 08:00:05 UTC." in page.text
    assert "The streams have been away since 08:00:05 UTC, for 1 min 25 s." in page.text
    assert "was read at 2027-01-15 08:00:00 UTC" in page.text
    assert "1,234" in page.text
    paths = [attrs["d"] for tag, attrs in page.elements if tag == "path"]
    assert paths == [attrs["d"] for tag, attrs in rendered(look).elements if tag == "path"]
    assert all(paths)


def test_worst_route_comes_first() -> None:
    """Routes are in the order of their trouble, then of what waits."""
    names = ("calm", "long", "old", "away")
    look = look_of(
        routes_named(*names),
        [
            lag("calm"),
            lag("long", undelivered=9000),
            lag("old", undelivered=1, oldest_undelivered_age_seconds=4000.0),
            lag("away"),
        ],
    )
    assert [row.name for row in make_page(look).routes] == ["old", "long", "away", "calm"]
    assert [row.sign for row in make_page(look).routes] == ["act", "ok", "ok", "ok"]


@pytest.mark.parametrize(
    ("waiting", "samples", "drain"),
    [
        (0, [(0, 0), (50, 50)], "\N{EN DASH}"),
        (100, [(0, 0), (50, 100)], "10 s"),
        (100, [(0, 0), (100, 50)], "grows"),
        (97, [(0, 0), (100, 99)], "steady"),
        (5, [(0, 0), (0, 0)], "never"),
    ],
)
def test_time_to_drain(waiting: int, samples: list[tuple[int, int]], drain: str) -> None:
    """The page tells when nothing will wait, by the rates of now, or that this will never be."""
    history = History()
    for index, (added, done) in enumerate(samples):
        history.add(Sample(NOW + 5 * index, waiting, added, done))
    look = look_of(
        routes_named("a"), [lag("a", undelivered=waiting)], hours={"a": RouteHour(history.hour(), history.rates())}
    )
    [row] = make_page(look).routes
    assert row.drain == drain


def test_two_hundred_routes_and_fifty_workers(say: Say) -> None:
    """All are there, in a page of bounded size. What it costs is printed."""
    names = [f"tenant-{number:03}:tokenize:requests" for number in range(200)]
    workers = tuple(worker(f"host-{number}-4711-0a1b2c3d", host=f"host-{number}") for number in range(50))
    look = look_of(
        routes_named(*names),
        [lag(name, undelivered=number * 37 % 901) for number, name in enumerate(names)],
        workers,
        hours={name: wavy_hour(number) for number, name in enumerate(names)},
    )
    took_ms = []
    for _ in range(4):
        began = time.process_time()
        page = render_page(make_page(look), 5)
        took_ms.append(1000 * (time.process_time() - began))
    say(f"200 routes and 50 workers: {min(took_ms):.0f} ms of CPU, {len(page):,} bytes")
    parsed = Parsed(page)
    assert len(page) < BYTES_MAX
    assert all(name in parsed.text for name in names)
    assert all(it.consumer in parsed.text for it in workers)


def wavy_hour(seed: int) -> RouteHour:
    """An hour in which each step differs from the one before: the most that a plot can cost."""
    history = History()
    added = done = 0
    for step in range(120):
        added += (step * 7919 + seed * 104_729) % 1000
        done += (step * 6101 + seed * 15_485) % 1000
        history.add(Sample(NOW - 3600 + 30 * step, (step * 3571 + seed) % 997, added, done))
    return RouteHour(history.hour(), history.rates())


def test_guide_has_an_anchor_for_each_heading() -> None:
    """docs/operations.md is served with the anchors that the page links to, and without links that lead nowhere."""
    page = Parsed(render_operations())
    anchors = {attrs.get("id") for tag, attrs in page.elements if tag in ("h2", "h3")}
    assert {
        "tokenworkernobodyserves",
        "server-unavailable",
        "persistence",
        "durability-before-a-reply",
    } <= anchors
    assert None not in anchors
    links = {attrs["href"] or "" for tag, attrs in page.elements if tag == "a"}
    assert links - {"/", "#main"}
    assert {link.removeprefix("#") for link in links - {"/", "#main"}} <= anchors
