"""The monitor shows in a real browser what the servers hold, also while they are away, and reads no value."""

import base64
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry

from conftest import Say
from harness.browser import Complaints, chromium
from harness.looks import dead, hour, lag, look_of, routes_named, seen, worker
from harness.servers import Valkey, free_port
from harness.stack import Stack, wait_until
from harness.toolchains import SharedFolders, npm_install
from token_worker.monitor.guard import Guard
from token_worker.monitor.look import Look
from token_worker.monitor.render import render_page
from token_worker.monitor.site import Site
from token_worker.monitor.view import make_page
from token_worker.settings.listen_address import ListenAddress
from token_worker.telemetry.http_server import serve_pages

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"

STATE_MS = 60_000
"""Time that a page may take to show a change."""


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """One browser for all tests: its start takes seconds."""
    with chromium() as found:
        yield found


@pytest.fixture
def opened(browser: "Browser") -> Iterator[Callable[..., "Page"]]:
    """Opens a page that must not complain; arguments are those of a browser's context."""
    with ExitStack() as exits:

        def open_page(url: str, *, may_lose_monitor: bool = False, **options: Any) -> "Page":
            context = browser.new_context(**options)
            exits.callback(context.close)
            page = context.new_page()
            complaints = Complaints(page)
            complaints.allows_failed_requests = may_lose_monitor
            exits.callback(lambda: check(complaints))
            page.goto(url)
            return page

        yield open_page


def check(complaints: Complaints) -> None:
    assert complaints.all == []


class Shown:
    """A monitor without servers: shows what a test says."""

    def __init__(self, look: Look) -> None:
        self.look = look
        self.refresh_seconds = 1
        guard = Guard(None, metrics_open=False)
        guard.is_local = True

        def page(refreshes: bool) -> bytes:
            return render_page(make_page(self.look), self.refresh_seconds if refreshes else None)

        site = Site(guard, CollectorRegistry(), page)
        self.url = f"http://{serve_pages(ListenAddress('127.0.0.1', 0), site.handler(), '--serve')}/"


@contextmanager
def monitor(stack: Stack, folder: Path, *arguments: str) -> Iterator[str]:
    """The real command as the user ``token-monitor``; gives its address."""
    port = free_port()
    command = [sys.executable, "-m", "token_worker", "monitor", "--serve", f"127.0.0.1:{port}", *arguments]
    environment = stack.environment(**stack.settings_as("token-monitor", folder))
    del environment["ACRA_MASTER_KEY"]
    with (folder / "monitor.log").open("w") as log, subprocess.Popen(command, env=environment, stderr=log) as process:
        try:
            wait_until(lambda: "the page is at" in (folder / "monitor.log").read_text(), "the monitor")
            yield f"http://127.0.0.1:{port}/"
        finally:
            process.terminate()


def cells(page: "Page", table: str) -> dict[str, dict[str, str]]:
    """The rows of a table by their first header, each cell by the header of its column."""
    found: dict[str, dict[str, str]] = page.evaluate(
        """id => Object.fromEntries([...document.querySelectorAll(`#wide-${id} tbody tr`)].map(row => [
            row.querySelector("th").firstChild.textContent,
            Object.fromEntries([...row.cells].map((cell, at) => [
                row.closest("table").tHead.rows[0].cells[at].innerText.replace(/\\s+/g, " "),
                cell.innerText.trim()]))]))""",
        table,
    )
    return found


SECRET = "4242424242424242"
VERDICT = "No worker reads detokenize:requests, where 7 requests wait."
PATHS = "all => all.map(path => path.getAttribute('d'))"


def fill(stack: Stack, folder: Path) -> None:
    """Two workers for one of two routes, requests that wait on the other, a dead letter, a late reader, an old key."""
    stack.generate_key("shop-frontend")
    stack.storage.set(".acrakeys/shop-frontend_storage_sym.old/2026-01-31T08:15:30", "x")
    stack.restrict(folder)
    only = '[{"requests": "tokenize:requests", "responses": "tokenize:responses", "ops": ["tokenize"]}]'
    for name in ("worker-a", "worker-b"):
        stack.start_worker(TOKEN_WORKER_CONSUMER=name, TOKEN_WORKER_ROUTES=only, log=folder / f"{name}.log")
    stack.streams.xgroup_create("tokenize:responses", "billing", "0", mkstream=True)
    asked = {"op": "tokenize", "client_id": "shop-frontend", "type": "str", "value": SECRET}
    stack.ask([{"id": str(number), **asked} for number in range(30)])
    stack.send([f"neither JSON nor MessagePack {SECRET}".encode()])
    stack.send([{"id": str(number)} for number in range(7)], "detokenize:requests")
    wait_until(lambda: stack.streams.xlen("tokenize:requests:dead") == 1, "the dead letter")


def test_page_shows_what_the_servers_hold_also_while_they_are_away(
    opened: Callable[..., "Page"], tmp_path: Path
) -> None:
    """The page has figures and names as the servers have them, and keeps them, with its plots, during an outage.

    The monitor needs no right beyond those of ``token-monitor``, and shows no payload.
    """
    kept = ("appendonly yes", "appendfsync always")
    with Valkey(*kept) as streams, Valkey(*kept) as storage, Stack(streams, storage) as stack:
        fill(stack, tmp_path)
        with monitor(stack, tmp_path) as url:
            page = opened(url)
            for name in ("worker-a", "worker-b"):  # each says it at a time of its own
                page.wait_for_selector(f"#wide-workers tr:has-text('{name}') :text('ready')", timeout=STATE_MS)
            page.wait_for_selector("#checks ~ p:text('checks found nothing')", timeout=STATE_MS)
            assert page.inner_text("#verdict h1") == f"ACT {VERDICT}"
            check_figures(page, stack)
            assert "who may detokenize" in page.inner_text("#left-out")
            assert ": right to read" not in page.inner_text("main")  # it would be a finding
            assert SECRET not in page.content()
            plots = page.eval_on_selector_all("path", PATHS)

            streams.kill()
            page.wait_for_selector("#verdict :text('streams does not answer')", timeout=STATE_MS)
            assert re.search(r"away since \d\d:\d\d:\d\d UTC", page.inner_text("#verdict"))
            assert cells(page, "routes")["detokenize:requests"]["Undelivered"] == "7"
            assert cells(page, "servers")["keys, tokens"]["Says"] == "answers"
            assert len(page.eval_on_selector_all("path", PATHS)) == len(plots)
            assert page.get_attribute("#wide-routes path.waiting", "d")
            streams.start()
            stack.restrict(tmp_path)  # users are not kept by a server without a file for them
            page.wait_for_selector(f"#verdict :text('{VERDICT}')", timeout=STATE_MS)
        assert "Traceback" not in (tmp_path / "monitor.log").read_text()
        # It tries a right that it must not have once, to say so if it has it, and not at each look.
        denied = {row["object"] for row in stack.storage.acl_log() if row["username"] == "token-monitor"}
        stored = {".acrakeys/no-such-name", "tokens/no-such-name"}
        assert denied <= {*stored, "config|get", "acl|list", "acl|users", "client|setinfo"}


def check_figures(page: "Page", stack: Stack) -> None:
    """Compare the tables with what the servers hold."""
    routes = cells(page, "routes")
    waiting, served = routes["detokenize:requests"], routes["tokenize:requests"]
    assert (waiting["State"], waiting["Undelivered"], waiting["Workers"]) == ("ACT", "7", "0")
    assert (served["State"], served["Undelivered"], served["Pending"]) == ("OK", "0", "0")
    assert (served["Workers"], served["Dead letters"]) == ("2", "1")
    assert stack.streams.xlen("detokenize:requests") == 7
    workers = cells(page, "workers")
    consumers = stack.streams.xinfo_consumers("tokenize:requests", "token-workers")
    assert workers.keys() == {consumer["name"].decode() for consumer in consumers} == {"worker-a", "worker-b"}
    assert workers["worker-a"]["Says"] == "ready"
    assert cells(page, "dead")["tokenize:requests:dead"]["Reason"] == "not_json_or_msgpack"
    reader = cells(page, "readers")["tokenize:responses"]
    assert (reader["Group"], reader["Undelivered"]) == ("billing", "30")
    assert cells(page, "keys")["client shop-frontend"]["Replaced last, UTC"].startswith("2026-01-31 08:15:30")
    assert "Valkey" in cells(page, "servers")["keys, tokens"]["Version"]


def test_many_routes_can_be_read_and_filtered(opened: Callable[..., "Page"], say: Say) -> None:
    """Of 200 routes the worst stands first, and a filter finds any of them; it outlives a refresh, with the focus."""
    names = [f"tenant-{number:03}:requests" for number in range(200)]
    rows = [lag(name, undelivered=number) for number, name in enumerate(names)]
    rows[77] = lag(names[77], undelivered=3, oldest_undelivered_age_seconds=4000.0)
    workers = tuple(worker(f"worker-{number}") for number in range(50))
    shown = Shown(look_of(routes_named(*names), rows, workers, hours={name: hour(5) for name in names}))
    page = opened(shown.url)
    assert page.locator("#wide-routes tbody tr").count() == 200
    assert page.inner_text("#wide-routes tbody tr:first-child th").startswith(names[77])
    page.fill("#filter-routes", "tenant-12")
    assert page.locator("#wide-routes tbody tr:visible").count() == 10
    time_before = page.inner_text(".when time")
    shown.look = shown.look._replace(streams=shown.look.streams._replace(at=shown.look.at + 60))
    page.wait_for_function("before => document.querySelector('.when time').innerText !== before", arg=time_before)
    assert page.locator("#wide-routes tbody tr:visible").count() == 10
    assert page.evaluate("document.activeElement.id") == "filter-routes"
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    size = page.evaluate("performance.getEntriesByType('navigation')[0].decodedBodySize")
    say(f"200 routes and 50 workers: first paint after {paint:.0f} ms, {size:,.0f} bytes")


def test_names_that_hold_html_run_nothing(opened: Callable[..., "Page"]) -> None:
    """Names that hold HTML stand there as they are. No script of theirs runs, and nothing else is loaded."""
    look = look_of(
        routes_named(EVIL),
        [lag(EVIL, undelivered=5), lag(f"{EVIL}:out", EVIL)],
        (worker(EVIL, host=EVIL, ready=False, why=EVIL),),
    )
    assert look.streams.value is not None
    look = look._replace(streams=seen(look.streams.value._replace(dead=dead(EVIL, EVIL))))
    page = opened(Shown(look).url)
    assert EVIL in cells(page, "routes")
    assert cells(page, "workers")[EVIL]["Host"] == EVIL
    assert page.locator("img").count() == 0
    page.wait_for_function("() => performance.getEntriesByType('resource').some(it => it.initiatorType === 'fetch')")
    assert page.locator("img").count() == 0  # nor after a refresh


def test_page_refreshes_without_javascript(opened: Callable[..., "Page"]) -> None:
    """A browser without scripts shows all, and loads the page again by itself."""
    shown = Shown(look_of(routes_named("cards")))
    page = opened(shown.url, java_script_enabled=False)
    assert page.inner_text("#verdict h1") == "OK All is well: 1 worker on 1 route."
    shown.look = look_of(routes_named("cards"), [lag("cards", pending=3)], ())
    page.wait_for_selector("#verdict :text('No worker reads cards')", timeout=STATE_MS)
    page.click("text=Stop")
    page.wait_for_selector("text=Go on")
    assert page.locator("meta[http-equiv]").count() == 0


def test_open_page_takes_over_a_new_interval(opened: Callable[..., "Page"]) -> None:
    """A page that is open refreshes as often as the monitor says now: more often while a server is away."""
    shown = Shown(look_of(routes_named("cards")))
    page = opened(shown.url)
    shown.refresh_seconds = 2
    page.wait_for_selector("#every:text('2')", timeout=STATE_MS)
    assert page.evaluate("seconds") == 2


def test_keyboard_and_narrow_screen(opened: Callable[..., "Page"]) -> None:
    """The first stop of the keyboard leads to the content, each stop is seen; a narrow page does not scroll aside."""
    shown = Shown(look_of(routes_named("a-rather-long-name-of-a-tenant:tokenize:requests", "b" * 80)))
    page = opened(f"{shown.url}?refresh=off", viewport={"width": 360, "height": 740})
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 360
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "To the content"
    assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    reached = set()
    for _ in range(25):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.getAttribute('href')"))
        style = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert style == "solid" or page.evaluate("document.activeElement === document.body")
    assert {"wide-routes", "wide-workers", "/operations", "/metrics"} <= reached


MOST_FREQUENT = """async ([png, right]) => {
    const bytes = Uint8Array.from(atob(png), char => char.charCodeAt(0));
    const image = await createImageBitmap(new Blob([bytes]));
    const context = new OffscreenCanvas(image.width, image.height).getContext("2d");
    context.drawImage(image, 0, 0);
    const {data} = context.getImageData(right ? image.width - 4 : 3, 0, 1, image.height);
    const counts = {};
    for (let at = 0; at < data.length; at += 4) {
        const colour = data.slice(at, at + 3).join();
        counts[colour] = (counts[colour] || 0) + 1;
    }
    return Object.entries(counts).sort((one, other) => other[1] - one[1])[0][0];
}"""
"""The colour that most pixels have, near the left or the right edge of a picture."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_table_that_goes_on_is_seen_to_do_so(opened: Callable[..., "Page"], scheme: str) -> None:
    """On a narrow screen a shadow lies on the side on which a table goes on, and on no other side."""
    shown = Shown(look_of(routes_named("tokenize:requests")))
    page = opened(f"{shown.url}?refresh=off", viewport={"width": 400, "height": 800}, color_scheme=scheme)
    table = page.locator("#wide-routes")

    def edges() -> tuple[str, str]:
        """The colours at the left and the right edge."""
        png = base64.b64encode(table.screenshot()).decode()
        return page.evaluate(MOST_FREQUENT, [png, False]), page.evaluate(MOST_FREQUENT, [png, True])

    back = {"light": "255,255,255", "dark": "13,17,23"}[scheme]
    left, right = edges()
    assert (left == back, right == back) == (True, False)
    table.evaluate("it => it.scrollLeft = it.scrollWidth / 4")
    assert back not in edges()
    table.evaluate("it => it.scrollLeft = it.scrollWidth")
    left, right = edges()
    assert (left == back, right == back) == (False, True)
    page.set_viewport_size({"width": 1900, "height": 800})
    assert edges() == (back, back)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_rule_of_accessibility_is_broken(
    opened: Callable[..., "Page"], shared_folders: SharedFolders, scheme: str
) -> None:
    """The checker axe finds nothing: contrast, names, headers, landmarks, in light and dark, for all levels."""
    folder = shared_folders.folder("axe", lambda made: npm_install(made, {"axe-core": "4.14.1"}))
    axe = (folder / "node_modules" / "axe-core" / "axe.min.js").read_text()
    names = ("bad", "warned", "good")
    rows = [
        lag("bad", undelivered=9, oldest_undelivered_age_seconds=999.0),
        lag("warned", pending=1, oldest_pending_age_seconds=9999.0),
        *(lag("good"), lag("good:out", "billing", undelivered=3, oldest_undelivered_age_seconds=9999.0)),
    ]
    look = look_of(routes_named(*names), rows, (worker("w-1"), worker("w-2", ready=False, why="Vault is sealed")))
    assert look.streams.value is not None
    look = look._replace(streams=seen(look.streams.value._replace(dead=dead("bad:dead", "no_readable_id"))))
    for path in ("?refresh=off", "operations"):
        page = opened(Shown(look).url + path, color_scheme=scheme)
        page.evaluate(axe)
        broken = page.evaluate("axe.run().then(found => found.violations.map(it => [it.id, it.nodes[0].html]))")
        assert broken == [], path


def test_page_says_that_the_monitor_is_gone(opened: Callable[..., "Page"]) -> None:
    """If the monitor itself does not answer any more, the page that is open says that it is old."""
    shown = Shown(look_of(routes_named("cards")))
    page = opened(shown.url, may_lose_monitor=True)
    page.route("**/*", lambda route: route.abort())
    page.wait_for_selector("#late:text('The monitor does not answer')", timeout=STATE_MS)
    page.unroute("**/*")
    page.wait_for_function("() => !document.getElementById('late').textContent", timeout=STATE_MS)
