"""A worker and two exporters of the lag whose metrics are watched, on servers of their own."""

import re
import subprocess
import sys
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from harness import quick
from harness.prometheus import scrape
from harness.servers import DEPLOY_FILES, OpenBao, Valkey, free_port
from harness.stack import Stack, WorkerProcess, wait_until

CLIENT = "shop-frontend"


class Watched:
    """A worker and two exporters, as a context manager. The worker has its master key from Vault.

    Attributes:
        targets: their ports, by job.
    """

    def __init__(self) -> None:
        self.worker_port, *self.exporter_ports = (free_port() for _ in range(3))
        self.targets = {"worker": [self.worker_port], "lag": self.exporter_ports}
        self._exits = ExitStack()

    def __enter__(self) -> Self:
        with self._exits as exits:
            self.streams, storage = (exits.enter_context(Valkey()) for _ in range(2))
            self.bao = exits.enter_context(OpenBao())
            self.stack = exits.enter_context(Stack(self.streams, storage))
            self.stack.generate_key(CLIENT)
            policy = DEPLOY_FILES / "vault" / "master-key-only.hcl"
            self.stack.settings |= self.bao.admit_workers(policy, self.stack.settings.pop("ACRA_MASTER_KEY"))
            self.worker = self.start_worker()
            self.exporters = [self._start_exporter(exits, port) for port in self.exporter_ports]
            self.wait_for_worker("token_worker_ready 1")
            wait_until(lambda: all(map(_can_read, self.exporter_ports)), "the exporters")
            self._exits = exits.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._exits.close()

    def start_worker(self) -> WorkerProcess:
        """Start a worker on the worker's port."""
        address = f"127.0.0.1:{self.worker_port}"
        return self.stack.start_worker(TOKEN_WORKER_HTTP_ADDRESS=address, TOKEN_WORKER_CLAIM_IDLE_MS="600000")

    def wait_for_worker(self, pattern: str) -> None:
        """Wait until a line of the worker's metrics begins so."""
        wait_until(lambda: re.search(f"^{pattern}", scrape(self.worker_port), re.MULTILINE), pattern)

    def stop_exporters(self) -> None:
        """Kill both exporters."""
        for exporter in self.exporters:
            exporter.kill()
            exporter.wait()

    def _start_exporter(self, exits: ExitStack, port: int) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "token_worker", "lag", "--serve", f"127.0.0.1:{port}"]
        exporter = quick.Popen(command, env=self.stack.environment())
        exits.callback(exporter.wait)
        exits.callback(exporter.kill)
        return exporter


def _can_read(exporter_port: int) -> bool:
    """Tell whether an exporter answers, and can read the streams."""
    return "token_worker_streams_reachable 1" in scrape(exporter_port)
