"""The Procfile: what runs in production."""

import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

from servers import free_port
from stack import Stack, wait_until

PROCFILE = Path(__file__).parents[2] / "Procfile"
WORKERS = 4


def test_procfile_runs_four_workers_side_by_side(stack: Stack, tmp_path: Path) -> None:
    """Started by honcho, four workers serve one group, their lag is exported, and SIGTERM ends all of them."""
    output = tmp_path / "output"
    lag_port = free_port()
    port = str(lag_port - 100)  # honcho gives each kind of process a hundred ports
    environment = stack.environment(PATH=f"{Path(sys.executable).parent}:/usr/bin:/bin", PORT=port)
    command = [sys.executable, "-m", "honcho", "-f", str(PROCFILE), "start", "-c", f"worker={WORKERS},lag=1"]
    with output.open("wb") as out:
        honcho = subprocess.Popen(
            command, env=environment, stdout=out, stderr=out, cwd=tmp_path, start_new_session=True
        )
    try:
        wait_until(lambda: output.read_text().count("worker is ready") == WORKERS, "four workers")
        wait_until(lambda: len(_consumers(stack)) == WORKERS, "four consumers")
        requests = [
            {"id": str(n), "op": "tokenize", "client_id": "shop-frontend", "type": "str", "value": f"value {n}"}
            for n in range(2000)
        ]
        replies = stack.ask(requests)
        assert {reply["status"] for reply in replies.values()} == {"ok"}
        with urllib.request.urlopen(f"http://127.0.0.1:{lag_port}/metrics", timeout=10) as answer:
            assert b"token_worker_stream_undelivered_entries" in answer.read()
        honcho.send_signal(signal.SIGTERM)
        honcho.wait(60)
        assert output.read_text().count("drained") == WORKERS
    finally:
        if honcho.poll() is None:
            honcho.kill()


def _consumers(stack: Stack) -> set[bytes]:
    groups = stack.streams.exists("tokenize:requests")
    return {c["name"] for c in stack.streams.xinfo_consumers("tokenize:requests", "token-workers")} if groups else set()
