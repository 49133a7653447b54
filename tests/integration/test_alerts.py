"""Each alert fires when it should and not before, on series that were scraped from a real worker and exporter."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from harness.prometheus import Recording, debian_program, scrape
from harness.servers import DEPLOY_FILES, OpenBao, Valkey, free_port
from harness.stack import GROUP, Stack, WorkerProcess, wait_until
from token_worker.acra.owner import Owner

ALERTS = DEPLOY_FILES / "alerts.yml"
CLIENT, DAMAGED = "shop-frontend", "shop-with-a-damaged-key"
TOKENIZE = {"op": "tokenize", "type": "str", "value": "a value"}


class Watched:
    """A worker and two exporters on servers of their own. The worker has its master key from Vault."""

    def __init__(self, exits: ExitStack) -> None:
        debian_program("promtool")
        self._exits = exits
        self.streams = exits.enter_context(Valkey())
        storage, self.bao = exits.enter_context(Valkey()), exits.enter_context(OpenBao())
        self.stack = exits.enter_context(Stack(self.streams, storage))
        self.stack.generate_key(CLIENT)
        self.stack.storage.set(f".acrakeys/{Owner('client', DAMAGED).key_name}", "damaged")
        policy = DEPLOY_FILES / "vault" / "master-key-only.hcl"
        self.stack.settings |= self.bao.admit_workers(policy, self.stack.settings.pop("ACRA_MASTER_KEY"))
        self.worker_port, *self.exporter_ports = (free_port() for _ in range(3))
        self.worker = self.start_worker()
        self.wait_for_worker("token_worker_ready 1")
        self.exporters = [self._start_exporter(port) for port in self.exporter_ports]
        self.recording = Recording({"worker": [self.worker_port], "lag": self.exporter_ports})

    def start_worker(self) -> WorkerProcess:
        """Start a worker on the worker's port."""
        return self.stack.start_worker(TOKEN_WORKER_HTTP_ADDRESS=f"127.0.0.1:{self.worker_port}")

    def wait_for_worker(self, pattern: str) -> None:
        """Wait until a line of the worker's metrics begins so."""
        wait_until(lambda: re.search(f"^{pattern}", scrape(self.worker_port), re.MULTILINE), pattern)

    def _start_exporter(self, port: int) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "token_worker", "lag", "--serve", f"127.0.0.1:{port}"]
        exporter = subprocess.Popen(command, env=self.stack.environment())
        self._exits.callback(exporter.wait)
        self._exits.callback(exporter.kill)
        wait_until(lambda: "token_worker_streams_reachable 1.0" in scrape(port), "the exporter")
        return exporter

    def ask(self, client_id: str) -> str:
        """Send a request, and return the status of its reply."""
        reply = self.stack.ask([{**TOKENIZE, "id": client_id, "client_id": client_id}])[client_id]
        return str(reply["status"])


@pytest.fixture
def watched() -> Iterator[Watched]:
    """Everything runs, and nothing was asked yet."""
    with ExitStack() as exits:
        yield Watched(exits)


def test_every_alert_fires_when_it_should_and_no_other(watched: Watched, tmp_path: Path) -> None:
    """The rules see the first dead letter, the first unreadable key and every other trouble, and nothing else."""
    streams, record = watched.stack.streams, watched.recording.record

    # Given a worker that has just started, and one that has answered a request
    record()
    assert watched.ask(CLIENT) == "ok"
    record()

    # When one entry cannot be answered, somebody should look at it
    streams.xadd("tokenize:requests", {"no": "payload"})
    watched.wait_for_worker('token_worker_dead_letters_total{reason="payload_missing"} 1')
    record(TokenWorkerDeadLetters=1, TokenWorkerDeadLettersKept=1)
    streams.delete("tokenize:requests:dead")

    # When one key cannot be read, somebody has to act
    assert watched.ask(DAMAGED) == "error"
    watched.wait_for_worker('token_worker_items_total{.*outcome="key_unreadable".*} 1')
    record(TokenWorkerUnreadable=1)

    # When the streams' server is away
    watched.streams.kill()
    watched.wait_for_worker('token_worker_server_available{server="streams"} 0')
    record(TokenWorkerServerAway=1, TokenWorkerStreamsUnreachable=1)
    watched.streams.start()
    watched.wait_for_worker("token_worker_ready 1")

    # When there is no worker: one entry waits, another worker died with one in hand, a reader of replies is gone, and
    # a producer adds entries with ids of its own
    watched.worker.stop()
    now_ms = int(time.time() * 1000)
    for milliseconds in (1_000_001, 1_000_000):
        streams.xadd("detokenize:requests", {"payload": "waits"}, id=f"{now_ms - milliseconds}-0")
    streams.xreadgroup(GROUP, "dead worker", {"detokenize:requests": ">"}, count=1)
    streams.xgroup_create("detokenize:responses", "reader", id="0", mkstream=True)
    streams.xadd("detokenize:responses", {"payload": "waits"}, id=f"{now_ms - 4_000_000}-0")
    streams.xadd("tokenize:responses", {"payload": "ahead"}, id=f"{now_ms + 3_600_000}-0")
    record(
        TokenWorkerFallsBehind=1,
        TokenWorkerStuckEntries=1,
        TokenWorkerNobodyServes=1,
        TokenWorkerRepliesUnread=1,
        TokenWorkerIdsAhead=1,
    )

    # When nobody measures the lag, and a worker that does not become ready has a Vault token that cannot be renewed
    for exporter in watched.exporters:
        exporter.kill()
        exporter.wait()
    watched.streams.signal(signal.SIGSTOP)  # a connection to it hangs
    watched.bao.call("POST", "auth/approle/role/token-worker", token_explicit_max_ttl="200s")
    watched.start_worker()
    watched.wait_for_worker("token_worker_vault_token_seconds [0-9]")
    record(TokenWorkerMonitorMissing=1, TokenWorkerVaultTokenEnds=1, TokenWorkerNotReady=1)
    watched.streams.signal(signal.SIGCONT)

    watched.recording.check(ALERTS, tmp_path / "alerts.json")
    assert watched.recording.alerts == set(re.findall(r"- alert: (\w+)", ALERTS.read_text()))
