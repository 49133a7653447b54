"""Ports for servers, so that no two processes of the project are ever given the same one at a time.

A port that was free a moment ago may be taken by another test run before its server listens. So each port that is given
out is held, from its choice to its release or the end of the process, by a lock that the kernel keeps: a Unix socket in
the abstract namespace, named after the port. Other programs do not know these locks. If one takes a port first,
``servers`` starts again with other ports.
"""

import errno
import os
import random
import socket
from contextlib import suppress
from pathlib import Path
from typing import Final

FIRST, END = 10_000, 32_768
"""Ports that are given out: below those that connections get for their own ends, one of which might be taken before its
server starts, or while that is down."""

_LISTEN: Final = "0A"
"""The state of a listening socket in ``/proc/net/tcp``."""

_locks: dict[int, int] = {}
"""File descriptors, by port: objects would be told as forgotten at the end of the process, which is what ends them."""

_ports = random.SystemRandom()  # "random" gives all processes of a test run the same numbers


def reserve() -> int:
    """A TCP port of the loopback that nobody listens on, for this process alone."""
    while True:
        port = _ports.randrange(FIRST, END)
        if not take(port):
            continue
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
        release(port)


def release(port: int) -> None:
    """The port is not needed any more."""
    lock = _locks.pop(port, None)
    if lock is not None:
        os.close(lock)


def take(port: int) -> bool:
    """Hold the port, and tell whether that worked: nobody may hold it already."""
    lock = socket.socket(socket.AF_UNIX)
    try:
        lock.bind(f"\0token-worker port {port}")
    except OSError as error:
        lock.close()
        if error.errno != errno.EADDRINUSE:
            raise
        return False
    _locks[port] = lock.detach()
    return True


def listens(pid: int, port: int) -> bool:
    """Tell whether this very process listens on the port: another one might, and answer in its place."""
    inodes = {
        columns[9]
        for file in ("tcp", "tcp6")
        for columns in map(str.split, _lines(Path(f"/proc/{pid}/net/{file}")))
        if columns[3] == _LISTEN and int(columns[1].rpartition(":")[2], 16) == port
    }
    folder = f"/proc/{pid}/fd"
    with suppress(OSError):  # it has ended
        for name in os.listdir(folder):  # noqa: PTH208 - names alone are needed
            with suppress(OSError):
                if str(Path(folder, name).readlink()).removeprefix("socket:[").removesuffix("]") in inodes:
                    return True
    return False


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()[1:]
    except OSError:  # it has ended
        return []
