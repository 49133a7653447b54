"""One run: servers, workers, a producer, logrotate, and the count of lines at the end."""

import gzip
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from harness.servers import DEPLOY_FILES, Valkey
from harness.stack import Stack, wait_until

CLIENT = "shop-frontend"
STREAM = "detokenize"
TOKENS = 50
WORKERS = 2
TICK_SECONDS = 0.02

LOGROTATE = shutil.which("logrotate", path="/usr/sbin:/usr/bin:/sbin:/bin")
"""Debian installs it where the path of many users does not lead."""


class Report(msgspec.Struct, kw_only=True):
    """The outcome.

    Attributes:
        seconds: how long requests were sent.
        requests, answered: requests that were sent, and those that have a reply.
        rotations: runs of logrotate.
        files, compressed: audit files at the end, and how many of them are compressed.
        lines: lines in all of them.
        missing: answered requests without a line.
        repeated: requests with more than one line.
        unanswered: lines of requests without a reply.
    """

    seconds: float
    requests: int
    answered: int
    rotations: int
    files: int
    compressed: int
    lines: int
    missing: int
    repeated: int
    unanswered: int

    @property
    def is_whole(self) -> bool:
        """True if every answered request has one line, and every line a reply."""
        return not (self.missing or self.repeated or self.unanswered) and self.answered == self.requests > 0


class Rotation:
    """Runs logrotate on a folder, with the configuration of the product, as cron or systemd would."""

    def __init__(self, folder: Path, audit: Path) -> None:
        assert LOGROTATE is not None, "logrotate is not installed"
        text = (DEPLOY_FILES / "token-worker.logrotate").read_text()
        assert "/var/log/token-worker/" in text
        config = folder / "logrotate.conf"
        config.write_text(text.replace("/var/log/token-worker/", f"{audit}/"))
        config.chmod(0o644)
        self._command = [LOGROTATE, "--force", "--state", str(folder / "logrotate.state"), str(config)]
        self._log = folder / "logrotate.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.runs = 0

    def begin(self) -> bool:
        """Start logrotate, which then runs beside the load; False if it still runs."""
        if self._process is not None and self._process.poll() is None:
            return False
        self.end()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        self.runs += 1
        return True

    def end(self) -> None:
        """Wait for the last run.

        Raises:
            RuntimeError: it failed.
        """
        if self._process is not None and self._process.wait(60):
            raise RuntimeError(f"logrotate failed: {self._log.read_text()}")


def run(
    folder: Path, *, seconds: float, every: float, rate: float, progress: Callable[[str], object] = lambda _: None
) -> Report:
    """Send requests for a time, and rotate the files meanwhile.

    Args:
        folder: takes audit files, logs and the configuration.
        seconds: how long requests are sent.
        every: seconds between two rotations.
        rate: requests in a second.
        progress: is told how far the run has come.
    """
    audit = folder / "audit"
    audit.mkdir()
    with Valkey() as streams, Valkey() as storage, Stack(streams, storage) as stack:
        stack.generate_key(CLIENT)
        for number in range(WORKERS):
            settings = {
                "TOKEN_WORKER_CONSUMER": f"worker-{number}",
                "TOKEN_WORKER_AUDIT_FILE": f"{audit}/{{consumer}}.log",
                "TOKEN_WORKER_CLAIM_IDLE_MS": "3600000",  # nothing is delivered again: a second line is a fault
            }
            stack.start_worker(log=folder / f"worker-{number}.log", **settings)
        known = [
            {"id": str(n), "op": "tokenize", "client_id": CLIENT, "type": "str", "value": f"value {n}"}
            for n in range(TOKENS)
        ]
        tokens = [reply["value"] for reply in stack.ask(known).values()]
        rotation, load = Rotation(folder, audit), _Load(stack, tokens)
        begun = time.monotonic()
        rotate_at = begun + every
        while (now := time.monotonic()) < begun + seconds:
            load.send_until(int((now - begun) * rate))
            load.read()
            if now >= rotate_at and rotation.begin():
                rotate_at += every
                progress(f"{load.sent} requests, {len(load.answered)} answered, {rotation.runs} rotations")
            time.sleep(TICK_SECONDS)
        rotation.end()
        wait_until(lambda: load.read() >= load.sent, "all replies")
    return _report(audit, load, rotation.runs, seconds)


class _Load:
    """Sends requests to detokenize, and notes which entries were answered."""

    def __init__(self, stack: Stack, tokens: list[str]) -> None:
        self._stack = stack
        self._tokens = tokens
        self._last = "0-0"
        self.sent = 0
        self.answered: set[str] = set()

    def send_until(self, count: int) -> None:
        """Send requests until there are so many."""
        self._stack.send(
            (
                {
                    "id": f"r{number}",
                    "op": "detokenize",
                    "client_id": CLIENT,
                    "type": "str",
                    "value": self._tokens[number % len(self._tokens)],
                }
                for number in range(self.sent, count)
            ),
            f"{STREAM}:requests",
        )
        self.sent = max(self.sent, count)

    def read(self) -> int:
        """Read new replies, and delete them; the number of all so far."""
        while page := self._stack.streams.xrange(f"{STREAM}:responses", min=f"({self._last}", count=1000):
            self._last = page[-1][0].decode()
            self.answered |= {msgspec.json.decode(fields[b"payload"])["request_entry"] for _, fields in page}
            self._stack.streams.xtrim(f"{STREAM}:responses", minid=self._last, approximate=False)
        return len(self.answered)


def _report(audit: Path, load: _Load, rotations: int, seconds: float) -> Report:
    files = sorted(audit.iterdir())
    lines = Counter(entry for file in files for entry in _entries(file))
    return Report(
        seconds=seconds,
        requests=load.sent,
        answered=len(load.answered),
        rotations=rotations,
        files=len(files),
        compressed=sum(file.suffix == ".gz" for file in files),
        lines=lines.total(),
        missing=len(load.answered - lines.keys()),
        repeated=sum(count > 1 for count in lines.values()),
        unanswered=len(lines.keys() - load.answered),
    )


def _entries(file: Path) -> Iterator[str]:
    """The entries in the lines of an audit file, whole or compressed."""
    data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    for line in data.splitlines():
        yield msgspec.json.decode(line)["entry"]
