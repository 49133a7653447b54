"""Tool chains of other languages, for tests that are skipped where one is missing or cannot install what it needs.

Nothing here waits for long, and a process is stopped with all the processes that it started.
"""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple, TextIO

import pytest

INSTALL_SECONDS = 90
"""Time that a registry may take before its tests are skipped."""

RUN_SECONDS = 150
"""Time after which a compiler or program counts as hanging, also on a busy machine."""

JAVA_IN_SHORT = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
"""Options of Java for a run of seconds, most of which its better compiler would take."""


class Done(NamedTuple):
    """A command that ended by itself."""

    returncode: int
    stdout: str
    stderr: str


def run(
    command: Sequence[str | Path],
    folder: Path,
    *,
    value: str = "",
    environment: dict[str, str] | None = None,
    seconds: float = RUN_SECONDS,
) -> Done:
    """Run a command to its end, ``value`` on its standard input.

    Raises:
        TimeoutExpired: it did not end in time; it is gone by then, and so are the processes of its group.
    """
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            stdout, stderr = process.communicate(value, timeout=seconds)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return Done(process.returncode, stdout, stderr)


class SharedFolders:
    """Folders made once for all processes of a test run, and gone with the last process that uses them.

    Hundreds of megabytes of packages would be too much to keep, as pytest keeps the files of tests. A process that
    makes a folder holds its lock alone. A process that uses it shares the lock until the end of its session.
    """

    def __init__(self, base: Path) -> None:
        self._base = base
        self._used: dict[Path, TextIO] = {}

    def folder(self, name: str, make: Callable[[Path], None]) -> Path:
        """The folder, made now if no process has made it. If ``make`` skips, the tests of all processes skip."""
        folder = self._base / name
        made, lacking = self._marks(folder)
        if folder not in self._used:
            with ExitStack() as on_error:
                lock = on_error.enter_context(folder.with_suffix(".lock").open("w"))
                fcntl.flock(lock, fcntl.LOCK_SH)
                while not made.exists():  # nor is it sure to stay from one kind of lock to the other
                    fcntl.flock(lock, fcntl.LOCK_EX)
                    if lacking.exists():
                        pytest.skip(lacking.read_text())
                    if not made.exists():
                        self._make(folder, make)
                    fcntl.flock(lock, fcntl.LOCK_SH)
                on_error.pop_all()
            self._used[folder] = lock
        return folder

    def close(self) -> None:
        """Remove the folders that no other process uses."""
        for folder, lock in self._used.items():
            with lock, suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._marks(folder)[0].unlink()
                shutil.rmtree(folder)

    def _make(self, folder: Path, make: Callable[[Path], None]) -> None:
        made, lacking = self._marks(folder)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            make(folder)
        except pytest.skip.Exception as skipped:
            lacking.write_text(str(skipped))
            raise
        made.touch()

    @staticmethod
    def _marks(folder: Path) -> tuple[Path, Path]:
        return folder.with_suffix(".made"), folder.with_suffix(".lacking")


def npm_install(folder: Path, packages: dict[str, str] | None = None) -> None:
    """Install what the folder's ``package.json`` names, or these packages."""
    _need("node", "--version", at_least=(18, 0))
    _need("npm", "--version", at_least=(8, 0))
    if packages is not None:
        (folder / "package.json").write_text(json.dumps({"private": True, "dependencies": packages}))
    quiet = ("--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier")
    soon = ("--prefer-offline", "--fetch-retries=2", "--fetch-retry-mintimeout=500", "--fetch-retry-maxtimeout=1000")
    _install(["npm", "install", *quiet, *soon], folder)


def maven_jars(folder: Path, group: str, artifact: str, version: str) -> str:
    """Download a library with its dependencies; returns its class path."""
    _need("java", "--version", at_least=(11, 0))
    _need("javac", "--version", at_least=(11, 0))
    _need("mvn", "--version", at_least=(3, 0))
    (folder / "pom.xml").write_text(
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
        "<groupId>jars</groupId><artifactId>jars</artifactId><version>1</version><dependencies><dependency>"
        f"<groupId>{group}</groupId><artifactId>{artifact}</artifactId><version>{version}</version>"
        "</dependency></dependencies></project>"
    )
    _install(["mvn", "dependency:copy-dependencies", "-q", "-B", "-DoutputDirectory=jars"], folder)
    return os.pathsep.join(map(str, (folder / "jars").iterdir()))


def go_download(folder: Path) -> None:
    """Download the modules of the folder's ``go.mod``."""
    need_go()
    _install(["go", "mod", "download"], folder)


def need_go() -> None:
    """Skip the test without a Go that is new enough."""
    _need("go", "env", "GOVERSION", at_least=(1, 22))


def go_environment(environment: dict[str, str] | None = None) -> dict[str, str]:
    """Environment that makes Go use its own version, and download no other one."""
    return {**(environment or os.environ), "GOTOOLCHAIN": "local"}


def _need(tool: str, *version: str, at_least: tuple[int, int]) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    said = run([tool, *version], Path.cwd(), environment=go_environment()).stdout
    found = re.search(r"(?<![\[\d])(\d+)(?:\.(\d+))?", said)  # a bracket before it: a colour
    if found is None or (int(found[1]), int(found[2] or 0)) < at_least:
        pytest.skip(f"{tool} is older than {at_least[0]}.{at_least[1]}")


def _install(command: list[str], folder: Path) -> None:
    what = " ".join(command[:2])
    environment = go_environment({**os.environ, "MAVEN_OPTS": " ".join(JAVA_IN_SHORT)})
    try:
        done = run(command, folder, environment=environment, seconds=INSTALL_SECONDS)
    except subprocess.TimeoutExpired:
        pytest.skip(f"{what} did not end within {INSTALL_SECONDS} seconds")
    if done.returncode:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if "warn" not in line.lower()]
        pytest.skip(f"{what} failed: {lines[0][:200] if lines else done.returncode}")
