"""The Procfile starts the processes of a production set-up."""

import signal
import socket
import subprocess
import sys
import urllib.request
from contextlib import suppress
from pathlib import Path

from harness import ports
from harness.servers import free_port
from harness.stack import Stack, wait_until

PROCFILE = Path(__file__).parents[2] / "Procfile"
WORKERS = 4


def test_procfile_runs_four_workers_side_by_side(stack: Stack, tmp_path: Path) -> None:
    """Started by honcho, four workers all take part, their lag is exported, and SIGTERM ends all of them."""
    output = tmp_path / "output"
    port = _free_ports()
    lag_port = port + 100
    environment = stack.environment(PATH=f"{Path(sys.executable).parent}:/usr/bin:/bin", PORT=str(port))
    command = [sys.executable, "-m", "honcho", "-f", str(PROCFILE), "start", "-c", f"worker={WORKERS},lag=1"]
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
        wait_until(lambda: b"token_worker_stream_undelivered_entries" in _metrics(lag_port), "the lag")
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


def _metrics(port: int) -> bytes:
    """The exported metrics; an empty text as long as the exporter does not listen."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
            return bytes(answer.read())
    except OSError:
        return b""


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
