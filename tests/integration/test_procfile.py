"""The Procfile: what runs in production."""

import signal
import subprocess
import sys
from pathlib import Path

from stack import Stack, wait_until

PROCFILE = Path(__file__).parents[2] / "Procfile"
WORKERS = 4


def test_procfile_runs_four_workers_side_by_side(stack: Stack, tmp_path: Path) -> None:
    """Started by honcho, four workers serve one group, and SIGTERM ends all of them."""
    output = tmp_path / "output"
    environment = stack.environment(PATH=f"{Path(sys.executable).parent}:/usr/bin:/bin", PORT="0")
    command = [sys.executable, "-m", "honcho", "-f", str(PROCFILE), "start", "-c", f"worker={WORKERS}", "worker"]
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
        honcho.send_signal(signal.SIGTERM)
        honcho.wait(60)
        assert output.read_text().count("drained") == WORKERS
    finally:
        if honcho.poll() is None:
            honcho.kill()


def _consumers(stack: Stack) -> set[bytes]:
    groups = stack.streams.exists("tokenize:requests")
    return {c["name"] for c in stack.streams.xinfo_consumers("tokenize:requests", "token-workers")} if groups else set()
