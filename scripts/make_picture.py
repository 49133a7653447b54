"""Write ``docs/monitor.png``, the page of the monitor: ``PYTHONPATH=tests python scripts/make_picture.py``.

Real servers, workers and requests; a minute of them is shown as an hour. Needs Chromium.
"""

import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import sync_playwright
from prometheus_client import CollectorRegistry

from harness.servers import Valkey
from harness.stack import Stack
from token_worker.monitor.collector import Collector
from token_worker.monitor.guard import Guard
from token_worker.monitor.render import render_page
from token_worker.monitor.site import Site
from token_worker.monitor.view import make_page
from token_worker.settings import load
from token_worker.settings.listen_address import ListenAddress
from token_worker.telemetry.http_server import serve_pages

PICTURE = Path(__file__).parents[1] / "docs" / "monitor.png"

SECONDS = 60.0
HOUR_SECONDS = 3600.0
STEP_SECONDS = 0.25
"""Length of the run, what it is shown as, and time from one look to the next."""

WIDTH, HEIGHT = 1180, 785
BYTES_MAX = 150_000

CLIENT = "shop-frontend"
KEPT = ("appendonly yes", "maxmemory 256mb", "maxmemory-policy noeviction")


def main() -> None:
    """Run it all, and take the picture."""
    with TemporaryDirectory() as folder, served(Path(folder)) as (stack, collector):
        live(stack, collector)
        for source in collector.sources[1:]:
            source.look()
        take(render_page(make_page(collector.look()), 5))
    size = PICTURE.stat().st_size
    print(f"{PICTURE}: {size:,} bytes")
    if size > BYTES_MAX:
        raise SystemExit(f"more than {BYTES_MAX:,} bytes")


@contextmanager
def served(folder: Path) -> Iterator[tuple[Stack, Collector]]:
    """Three workers and a monitor, each with the rights of its user."""
    with Valkey(*KEPT) as streams, Valkey(*KEPT) as storage, Stack(streams, storage) as stack:
        stack.generate_key(CLIENT)
        stack.restrict(folder)
        stack.streams.xgroup_create("tokenize:responses", "billing", "0", mkstream=True)
        for number in range(3):
            stack.start_worker(TOKEN_WORKER_CONSUMER=f"worker-{number + 1}", log=folder / f"worker-{number}.log")
        began = time.time()
        pace = HOUR_SECONDS / SECONDS
        settings = load(stack.environment(**stack.settings_as("token-monitor", folder)))
        yield stack, Collector(settings, lambda: began - HOUR_SECONDS + (time.time() - began) * pace)
        for worker in stack.workers:
            worker.kill()


def live(stack: Stack, collector: Collector) -> None:
    """A minute of requests: a steady load, a worker that hangs for a while, and a burst."""
    sent = 0
    began = time.monotonic()
    hanging = False
    while (passed := time.monotonic() - began) < SECONDS:
        part = passed / SECONDS
        count = 60 + int(40 * part) + (6000 if 0.62 < part < 0.63 else 0)
        stack.send(request("tokenize", sent + number) for number in range(count))
        stack.send(
            (request("detokenize", number, value="no such token") for number in range(count // 4)),
            "detokenize:requests",
        )
        sent += count
        if hanging != (0.25 < part < 0.4):
            hanging = not hanging
            for worker in stack.workers:
                worker.signal(signal.SIGSTOP if hanging else signal.SIGCONT)
        if part > 0.9 and not stack.streams.xlen("tokenize:requests:dead"):
            stack.streams.xadd("tokenize:requests", {"payload": "neither JSON nor MessagePack"})
        collector.streams.look()
        time.sleep(STEP_SECONDS)


def request(op: str, number: int, value: str | None = None) -> dict[str, object]:
    """A request."""
    return {"id": f"{op}-{number}", "op": op, "client_id": CLIENT, "type": "str", "value": value or f"value {number}"}


def take(page: bytes) -> None:
    """Take the picture of a page."""
    guard = Guard(None, metrics_open=False)
    guard.is_local = True
    in_use = serve_pages(
        ListenAddress("127.0.0.1", 0), Site(guard, CollectorRegistry(), lambda _: page).handler(), "--serve"
    )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=browser_arguments())
        shown = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        shown.goto(f"http://{in_use}/?refresh=off")
        shown.screenshot(path=PICTURE)
        browser.close()


def browser_arguments() -> list[str]:
    """Arguments of Chromium: without them root cannot start it."""
    return ["--no-sandbox"] if os.geteuid() == 0 else []


if __name__ == "__main__":
    main()
