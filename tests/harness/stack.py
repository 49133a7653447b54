"""Worker processes and the producer's side, on servers that run already: for the demo, the benchmark and the tests."""

import base64
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import msgspec

from harness import quick
from harness.ending import uninterrupted
from harness.servers import RedisUse
from token_worker.acra.owner import Owner
from token_worker.keys.index_key import index_path, seal_index_key
from token_worker.keys.layout_record import TOKENS_RECORD, LayoutName, encode_record, layout_path, new_record
from token_worker.keys.store import new_key, wrap

Reply = dict[str, Any]
PROGRAM = ("-m", "token_worker")

GROUP = "token-workers"
"""The default consumer group of the workers."""

COMMAND_SECONDS = 120
"""Time limit of a command of the product."""


def wait_until(condition: Callable[[], object], what: str, seconds: float = 90.0) -> None:
    """Wait for a condition to hold.

    Raises:
        TimeoutError: it did not within ``seconds``.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} seconds for {what}")
        time.sleep(0.01)


def has_logged(log: Path, *words: str) -> bool:
    """Tell whether one line of a worker's log has all these words."""
    return log.exists() and any(all(word in line for word in words) for line in log.read_text().splitlines())


class Stack:
    """Servers for streams and storage, a master key, and the workers started here.

    Args:
        streams: server of the streams.
        storage: server of keys, and of tokens.
        tokens: server of the tokens, if they have one of their own.
        master_key: a random one where none is given.
        settings: further settings of all workers, as environment variables.
        fresh: processes start by a new Python, not by a fork: where their memory or their start is measured.
        layout: of the tokens. In the dense layout, it is recorded in ``storage``, and owners get index keys, too.
    """

    def __init__(
        self,
        streams: RedisUse,
        storage: RedisUse,
        *,
        tokens: RedisUse | None = None,
        master_key: bytes | None = None,
        settings: dict[str, str] | None = None,
        fresh: bool = False,
        layout: LayoutName = "acra",
    ) -> None:
        self._servers = {"streams": streams, "keys": storage} | ({} if tokens is None else {"tokens": tokens})
        self._popen: type[subprocess.Popen[Any]] = subprocess.Popen if fresh else quick.Popen
        self._run: Callable[..., subprocess.CompletedProcess[Any]] = subprocess.run if fresh else quick.run
        self.streams: Any = streams.client()  # Any: redis-py types replies as unions of all they could be
        self.storage: Any = storage.client()
        self.master_key = master_key or os.urandom(32)
        self.settings = {
            "TOKEN_WORKER_STREAMS_URL": streams.url,
            "TOKEN_WORKER_KEYS_URL": storage.url,
            **({} if tokens is None else {"TOKEN_WORKER_TOKENS_URL": tokens.url}),
            "ACRA_MASTER_KEY": base64.b64encode(self.master_key).decode(),
            **(settings or {}),
        }
        self.layout = layout
        if layout == "dense":
            record = encode_record(new_record(layout, time.time()))
            self.storage.mset({TOKENS_RECORD: record, layout_path(".acrakeys"): record})
        self.workers: list[WorkerProcess] = []
        self._of_workers: dict[str, str] = {}

    def generate_key(self, owner_id: str, kind: Literal["client", "zone"] = "client") -> bytes:
        """Put a new symmetric key into the key storage, and return it."""
        owner, key = Owner(kind, owner_id), new_key()
        self.storage.set(f".acrakeys/{owner.key_name}", wrap(key, self.master_key, owner))
        if self.layout == "dense":
            self.storage.set(index_path(".acrakeys", owner), seal_index_key(new_key(), self.master_key, owner))
        return key

    def restrict(self, folder: Path) -> None:
        """Make the users that ``token-worker acl`` prints; workers that start from now on are ``token-worker``."""
        command = [sys.executable, "-m", "token_worker", "acl", "--passwords", str(folder), "--json"]
        printed = self._run(command, env=self.environment(), check=True, capture_output=True).stdout
        for row in map(msgspec.json.decode, printed.splitlines()):
            for server in self._servers[row["server"]].members:  # each has users of its own
                with server.client() as client:
                    client.execute_command("ACL", "SETUSER", row["user"], *row["rules"])
        self._of_workers = self.settings_as("token-worker", folder)

    def settings_as(self, user: str, folder: Path) -> dict[str, str]:
        """Settings to work as a user that ``restrict`` made, on every server that has this user."""
        settings: dict[str, str] = {}
        for use, server in self._servers.items():
            file = folder / f"{'streams' if server is self._servers['streams'] else use}-{user}"
            if file.exists():
                url = f"TOKEN_WORKER_{use.upper()}_URL"
                settings[url] = self.settings[url].replace("//", f"//{user}@")
                settings[f"TOKEN_WORKER_{use.upper()}_PASSWORD_FILE"] = str(file)
        return settings

    def environment(self, **more: str) -> dict[str, str]:
        """Environment of a worker or command: the settings, and nothing else of ours."""
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("TOKEN_WORKER_", "VAULT_", "ACRA_"))
        }
        return {**clean, **self.settings, **more}

    def run(self, *arguments: str, value: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        """Run a command with these settings, ``value`` on its standard input, to its end."""
        return self._run(
            [sys.executable, *PROGRAM, *arguments],
            env=self.environment(**more),
            input=value,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )

    def start_worker(
        self, *, log: Path | None = None, program: Sequence[str] = PROGRAM, **more: str
    ) -> "WorkerProcess":
        """Start a worker process; ``more`` are settings of its own, ``log`` is the file for its output.

        ``program`` are arguments of Python that start ``token-worker``, in another way if need be.
        """
        with uninterrupted():
            worker = WorkerProcess(self.environment(**{**self._of_workers, **more}), log, program, self._popen)
            self.workers.append(worker)
        return worker

    def send(self, requests: Iterable[Any], stream: str = "tokenize:requests") -> list[bytes]:
        """Add requests, as dicts (sent as JSON) or payloads, in few round trips; returns their entry ids."""
        ids: list[bytes] = []
        with self.streams.pipeline(transaction=False) as pipe:
            for request in requests:
                payload = request if isinstance(request, bytes) else msgspec.json.encode(request)
                pipe.xadd(stream, {"payload": payload})
                if len(pipe) >= 500:
                    ids += pipe.execute()
            ids += pipe.execute()
        return ids

    def replies(self, stream: str = "tokenize:responses") -> Iterator[Reply]:
        """All replies of a stream so far, decoded."""
        start = "-"
        while page := self.streams.xrange(stream, min=start, count=1000):
            for _, fields in page:
                payload = fields[b"payload"]
                yield msgspec.json.decode(payload) if payload[:1] == b"{" else msgspec.msgpack.decode(payload)
            start = f"({page[-1][0].decode()}"

    def dead_letters(self) -> int:
        """Count the dead letters of the default routes."""
        return sum(self.streams.xlen(f"{op}:requests:dead") for op in ("tokenize", "detokenize"))

    def calls(self, command: str) -> int:
        """Count how often the server of the streams has done a command."""
        return int(self.streams.info("commandstats").get(f"cmdstat_{command.lower()}", {}).get("calls", 0))

    def wait_for_replies(self, count: int, stream: str = "tokenize:responses", seconds: float = 60.0) -> list[Reply]:
        """Wait for this many replies on a stream, and return all of them."""
        wait_until(lambda: self.streams.xlen(stream) >= count, f"{count} replies on {stream}", seconds)
        return list(self.replies(stream))

    def ask(
        self, requests: Sequence[Reply], stream: str = "tokenize", progress: Callable[[int], object] | None = None
    ) -> dict[str, Reply]:
        """Send requests with distinct ids to ``<stream>:requests`` and wait for their replies, by id.

        Raises:
            TimeoutError: no reply came for a minute.
        """
        last = self.streams.xrevrange(f"{stream}:responses", count=1)
        before = last[0][0].decode() if last else "0-0"
        self.send(requests, f"{stream}:requests")
        wanted = {request["id"] for request in requests}  # others may ask meanwhile
        found: dict[str, Reply] = {}
        deadline = time.monotonic() + 60
        while len(found) < len(requests):
            for _, entries in self.streams.xread({f"{stream}:responses": before}, block=1000, count=1000) or ():
                for entry_id, fields in entries:
                    before = entry_id.decode()
                    payload = fields[b"payload"]
                    reply = msgspec.json.decode(payload) if payload[:1] == b"{" else msgspec.msgpack.decode(payload)
                    if reply["id"] in wanted:
                        found[reply["id"]] = reply
                        deadline = time.monotonic() + 60
            if progress is not None:
                progress(len(found))
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(requests) - len(found)} of {len(requests)} replies are missing")
        return found

    @uninterrupted()
    def stop(self) -> None:
        """Stop all workers, also when one of them does not end, and close the connections."""
        with ExitStack() as exits:
            exits.callback(self.streams.close)
            exits.callback(self.storage.close)
            for worker in self.workers:
                exits.callback(worker.stop)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()


class WorkerProcess:
    """``token-worker run`` as a process of its own."""

    def __init__(
        self,
        environment: dict[str, str],
        log: Path | None = None,
        program: Sequence[str] = PROGRAM,
        popen: type["subprocess.Popen[Any]"] = subprocess.Popen,
    ) -> None:
        self.log = log
        with (log or Path(os.devnull)).open("ab") as output:
            self._process = popen(
                [sys.executable, *program, "run"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self.is_alive:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL, and wait."""
        self.signal(signal.SIGKILL)
        self._process.wait()

    def wait(self, seconds: float = 90.0) -> int:
        """Its exit status, once it has ended by itself."""
        return self._process.wait(seconds)

    def stop(self) -> int:
        """Ask it to drain; its exit status. Killed if it does not end."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        try:
            return self._process.wait(90)
        except subprocess.TimeoutExpired:
            self.kill()
            raise


@contextmanager
def workers_killed(stack: Stack) -> Iterator[Stack]:
    """Use a stack with a client's key, and kill its workers at the end, since a drain takes a second each."""
    with stack:
        stack.generate_key("shop-frontend")
        yield stack
        for worker in stack.workers:
            worker.kill()
