"""In a container every command ends on SIGTERM, although the kernel drops signals that its first process ignores."""

import base64
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from select import select

import pytest

from harness.container import Container
from harness.ports import release, reserve
from harness.stack import wait_until

PROGRAM = [sys.executable, "-m", "token_worker"]


@pytest.fixture
def silent_server() -> Iterator[socket.socket]:
    """A server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


pytestmark = pytest.mark.usefixtures("namespaces")


@pytest.mark.parametrize(
    "arguments",
    [
        ["lag", "--watch", "--json"],
        ["request", "tokenize", "--type", "str", "--client", "shop", "--timeout", "600"],
        ["keys", "list"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_command_that_waits_for_a_server_ends_on_sigterm(
    tmp_path: Path, silent_server: socket.socket, arguments: list[str]
) -> None:
    """A command that waits for an answer ends within the time that ``docker stop`` gives."""
    url = f"redis://127.0.0.1:{silent_server.getsockname()[1]}"
    environment = {
        "TOKEN_WORKER_STREAMS_URL": url,
        "TOKEN_WORKER_KEYS_URL": url,
        "ACRA_MASTER_KEY": base64.b64encode(bytes(32)).decode(),
    }
    with Container(tmp_path, [*PROGRAM, *arguments], environment) as container:
        wait_until(lambda: container.has_ended or select([silent_server], [], [], 0)[0], "the command to connect")
        assert not container.has_ended, container.log.read_text()
        waiting, _ = silent_server.accept()
        with waiting:
            assert container.stop() == 143, container.log.read_text()


def test_command_that_serves_pages_ends_on_sigterm(tmp_path: Path) -> None:
    """An exporter ends at once, whether its streams can be reached or not."""
    port = reserve()
    try:
        with Container(tmp_path, [*PROGRAM, "lag", "--serve", f"127.0.0.1:{port}"], {}) as container:
            wait_until(lambda: container.has_ended or _listens(port), "the exporter")
            assert container.stop() == 143, container.log.read_text()
    finally:
        release(port)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
