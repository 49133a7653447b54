"""Runs a command as a container runtime does, without one: first process, read-only files, a user without rights.

The command gets namespaces of its own for processes and mounts. It shares the network and the files of the machine, so
it finds the servers of the test and the package. Everything is read-only to it. Files of the test appear below
``/run``, as secrets do in a container; nothing else is there.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from harness.processes import children_of

ROOT: Final = Path(__file__).parents[2]

USER: Final = 65532
"""The user of the image."""

_SET_UP: Final = """
user=$1 files=$2 hidden=$3 shown=$4
shift 4
mount -t tmpfs -o mode=755 tmpfs /run
number=0
for place in $shown; do
  number=$((number + 1))
  mkdir -p /run/shown/$number
  mount --bind "$place" /run/shown/$number
done
for place in $hidden; do mount -t tmpfs -o mode=755 tmpfs "$place"; done
number=0
for place in $shown; do
  number=$((number + 1))
  mkdir -p "$place"
  mount --move /run/shown/$number "$place"
done
rm -rf /run/shown
cp -r "$files/." /run
chown -R 0:$user /run
chmod -R u=rX,g=rX,o= /run
chmod 755 /run
while read -r _ place _; do
  case $place in /proc* | /dev* | /sys*) ;; *) mount -o remount,bind,ro "$place" ;; esac
done < /proc/self/mounts
cd /
exec setpriv --reuid $user --regid $user --clear-groups --no-new-privs --inh-caps=-all --bounding-set=-all "$@"
"""
"""Arguments: the user, the folder whose files go below /run, folders that are hidden, folders in them that are shown,
and the command."""

_NAMESPACES: Final = (
    "unshare",
    "--pid",
    "--mount",
    "--fork",
    "--kill-child",
    "--mount-proc",
    "sh",
    "-euc",
    _SET_UP,
    "sh",
)


def _prefix(user: int, files: Path) -> list[str]:
    """Return what comes before the command."""
    needed = {Path(place).resolve() for place in (sys.base_prefix, sys.prefix, ROOT)}
    hidden: set[Path] = set()
    for place in needed:
        closed = [folder for folder in place.parents if not folder.stat().st_mode & 1]
        hidden |= set(closed[-1:])
    shown = [place for place in needed if hidden & set(place.parents)]
    return [*_NAMESPACES, str(user), str(files), " ".join(map(str, hidden)), " ".join(map(str, sorted(shown)))]


def why_not(folder: Path) -> str | None:
    """Say why no container can be imitated on this machine; None where one can. The folder is an empty one."""
    probe = [*_prefix(USER, folder), sys.executable, "-c", "import token_worker.cli.run"]
    try:
        done = subprocess.run(probe, capture_output=True, text=True, check=False, timeout=60)
    except OSError as error:
        return str(error)
    return done.stderr.strip().rpartition("\n")[2] if done.returncode else None


class Container:
    """A command in a container of its own; a context manager that kills what still runs.

    Args:
        folder: an empty folder for the files of the container and for its log.
        command: the command, with arguments.
        environment: all its variables.
        files: contents by path; each path is below ``/run``.
        user: id of its user, who can read the files.
        value: what the command reads from its standard input.
    """

    def __init__(
        self,
        folder: Path,
        command: Sequence[str],
        environment: Mapping[str, str],
        files: Mapping[str, str] | None = None,
        user: int = USER,
        value: str = "",
    ) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "value").write_text(value)
        self.log = folder / "log"
        below_run = folder / "run"
        below_run.mkdir()
        for name, content in (files or {}).items():
            file = below_run / Path(name).relative_to("/run")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
        with self.log.open("wb") as log, (folder / "value").open("rb") as stdin:
            self._process = subprocess.Popen(
                [*_prefix(user, below_run), *command],
                env={"PATH": os.defpath, **environment},
                stdin=stdin,
                stdout=log,
                stderr=log,
            )

    @property
    def has_ended(self) -> bool:
        """True if the command has ended."""
        return self._process.poll() is not None

    def wait(self, seconds: float = 60) -> int:
        """Wait until the command ends, and return its exit status.

        Raises:
            TimeoutExpired: it goes on.
        """
        return self._process.wait(seconds)

    @property
    def first_process(self) -> int:
        """The id of the first process of the container, which runs."""
        [found] = children_of(self._process.pid)
        return found

    def stop(self, seconds: float = 30) -> int:
        """Send SIGTERM to the first process of the container, which runs, and return its exit status.

        Raises:
            TimeoutExpired: it goes on.
        """
        os.kill(self.first_process, signal.SIGTERM)
        return self._process.wait(seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        # The kernel kills all processes of the container with its first one. --kill-child does not outlast setpriv: a
        # process that changes its user forgets that its parent's end is its own.
        for first_process in children_of(self._process.pid):
            with suppress(ProcessLookupError):  # it has ended meanwhile
                os.kill(first_process, signal.SIGKILL)
        self._process.kill()
        self._process.wait()
