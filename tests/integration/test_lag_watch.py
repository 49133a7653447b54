"""``lag --watch`` on a terminal of 80 columns shows what is so now, also through an outage of the streams."""

import re
import sys

from harness.servers import Valkey
from harness.stack import Stack, wait_until
from harness.terminal import Terminal
from token_worker import __version__

WATCH = [sys.executable, "-m", "token_worker", "lag", "--watch"]
NAME = "token-worker-7d9f8c6b5d-x2x4z-1-0a1b2c3d"
"""A consumer as long as the default names of workers in Kubernetes."""
HEADINGS = re.compile(r"^stream +undelivered age pending age tries alive letters$", re.MULTILINE)
DEAD_LETTER = re.compile(r"^tokenize:requests +0 +0 +0 +\d +1$", re.MULTILINE)


def test_watching_goes_on_through_an_outage(storage_server: Valkey) -> None:
    """The screen has whole headings, workers by name, and while the streams are away since when; then it goes on."""
    with Valkey("appendonly yes", "appendfsync always") as streams, Stack(streams, storage_server) as stack:
        stack.generate_key("shop-frontend")
        stack.start_worker(TOKEN_WORKER_CONSUMER=NAME)
        with Terminal(WATCH, stack.environment()) as terminal:
            shown = terminal.wait_for("ready", __version__)
            assert HEADINGS.search(shown)
            assert "detokenize:requests " in shown
            assert any(line.startswith(f"{NAME} ") and line.endswith("ready") for line in shown.splitlines())
            streams.kill()
            shown = terminal.wait_for(f"127.0.0.1:{streams.port} is away since", "the figures are of")
            assert NAME in shown
            streams.start()
            stack.streams.xadd("tokenize:requests", {"no": "payload"})  # becomes a dead letter
            wait_until(lambda: DEAD_LETTER.search(terminal.text), "the dead letter on the screen")
            assert "away" not in terminal.wait_for("ready")
            assert re.search(rb"\x1b\[[0-9;]*31[0-9;]*m", terminal.said)  # dead letters and outages are red
            terminal.interrupt()
            assert terminal.wait() == 0


def test_watching_starts_while_the_streams_are_away(stack: Stack) -> None:
    """A watch that begins in an outage waits for its end, and NO_COLOR keeps colours away."""
    with Valkey() as streams:
        streams.kill()
        environment = stack.environment(TOKEN_WORKER_STREAMS_URL=streams.url, NO_COLOR="1")
        with Terminal(WATCH, environment) as terminal:
            terminal.wait_for("is away since", "connection refused")
            streams.start()
            terminal.wait_for("no worker reads")
            assert not re.search(rb"\x1b\[[0-9;]*3[0-7][0-9;]*m", terminal.said)
            terminal.interrupt()
            assert terminal.wait() == 0
