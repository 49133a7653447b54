"""The Procfile starts the processes of a production set-up."""

import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from harness import ports
from harness.fetching import get
from harness.servers import free_port
from harness.stack import Stack, wait_until

PROCFILE = Path(__file__).parents[2] / "Procfile"
WORKERS = 4
TOKEN = "password of the monitor's page"


def test_procfile_runs_four_workers_side_by_side(stack: Stack, tmp_path: Path) -> None:
    """Started by honcho, four workers all take part, the monitor serves its page, and SIGTERM ends all of them."""
    output = tmp_path / "output"
    port = _free_ports()
    token_file = tmp_path / "a token"
    token_file.write_text(TOKEN)
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    environment = stack.environment(PATH=path, PORT=str(port), MONITOR_TOKEN_FILE=str(token_file))
    command = [sys.executable, "-m", "honcho", "-f", str(PROCFILE), "start", "-c", f"worker={WORKERS},monitor=1"]
    with output.open("wb") as out:
        honcho = subprocess.Popen(
            command, env=environment, stdout=out, stderr=out, cwd=tmp_path, start_new_session=True
        )
    try:
        wait_until(lambda: output.read_text().count("worker is ready") == WORKERS, "four workers")
        wait_until(lambda: _took_part(stack) == WORKERS, "four consumers that have read requests")
        requests = [
            {"id": str(n), "op": "tokenize", "client_id": "shop-frontend", "type": "str", "value": f"value {n}"}
            for n in range(2000)
        ]
        replies = stack.ask(requests)
        assert {reply["status"] for reply in replies.values()} == {"ok"}
        page = f"http://127.0.0.1:{port + 100}/"
        wait_until(lambda: "token_worker_stream_undelivered_entries" in get(f"{page}metrics")[1], "the lag")
        assert get(page)[0] == 401
        assert get(page, TOKEN)[0] == 200
        honcho.send_signal(signal.SIGTERM)
        honcho.wait(60)
        assert output.read_text().count("drained") == WORKERS
    finally:
        honcho.terminate()  # killed, it would leave its processes behind
        honcho.wait(60)


def _took_part(stack: Stack) -> int:
    """Send a request, and count the workers that have read one so far; the server serves those who wait in turn."""
    stack.ask([{"id": "one more", "op": "tokenize", "client_id": "shop-frontend", "type": "str", "value": "a value"}])
    consumers = stack.streams.xinfo_consumers("tokenize:requests", "token-workers")
    return sum(consumer["inactive"] >= 0 for consumer in consumers)  # -1: has never read an entry


def _free_ports() -> int:
    """The first of the ports that honcho gives out, a hundred to each kind of process, all of them free."""
    while True:
        first = free_port()
        others = (*range(first + 1, first + WORKERS), first + 100)
        if all(map(ports.take, others)):
            with suppress(OSError):
                for port in others:
                    with socket.socket() as probe:
                        probe.bind(("127.0.0.1", port))
                return first
