"""A process that imports ``token-worker``, and then only forks. ``harness.quick`` starts it, and says why.

A request brings four files: what to run, as JSON, and the standard input, output and error of the new process. The
answer is the id of that process, and one more byte as soon as its parent is gone.
"""

import gc
import io
import json
import os
import socket
import sys
from importlib import import_module
from types import ModuleType
from typing import Any

from token_worker.__main__ import main

COMMANDS = ("acl", "dead_letters", "doctor", "file", "keys", "lag", "replay", "request", "run", "tokens")


def _prepare() -> None:
    """Import what workers and commands need."""
    for name in COMMANDS:
        import_module(f"token_worker.cli.{name}")
    import_module("token_worker.keys.vault_kv")
    if len(os.listdir("/proc/self/task")) > 1:  # noqa: PTH208 - names alone are needed
        raise RuntimeError("an import has started a thread, which forks would lack")
    gc.collect()
    gc.freeze()  # what is here stays shared


def _serve(channel: socket.socket) -> dict[str, Any]:
    """Fork for each request, until nobody is there to ask. Returns in the forks alone: what they have to run."""
    while True:
        _, files, *_ = socket.recv_fds(channel, 1, 4)
        if not files:
            os._exit(0)
        between = os.fork()
        if not between:
            if number := os.fork():
                channel.sendall(number.to_bytes(4, "big"))
                os._exit(0)
            channel.close()
            return _become(*files)
        for file in files:
            os.close(file)
        os.waitpid(between, 0)
        channel.sendall(b"!")


def _anew(file: Any) -> io.TextIOWrapper:
    """The standard stream, made as Python makes it: the one that is there has looked at another file."""
    raw = io.FileIO(file.fileno(), file.mode, closefd=False)
    buffer: Any = io.BufferedReader(raw) if file.mode == "r" else raw if file.write_through else io.BufferedWriter(raw)
    is_by_line = not file.write_through and (file.line_buffering or raw.isatty())
    return io.TextIOWrapper(buffer, file.encoding, file.errors, None, is_by_line, file.write_through)


def _become(text: int, *streams: int) -> dict[str, Any]:
    """Give this fork what ``subprocess`` would have given to a new process."""
    with os.fdopen(text) as file:
        request: dict[str, Any] = json.load(file)
    if request["new_session"]:
        os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin, sys.stdout, sys.stderr = map(_anew, (sys.stdin, sys.stdout, sys.stderr))
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    return request


if __name__ == "__main__":
    _prepare()
    asked = _serve(socket.socket(fileno=int(sys.argv[1])))
    if asked["code"] is None:
        sys.argv[:] = [str(sys.modules["token_worker.__main__"].__file__), *asked["arguments"]]
        main()
    else:
        sys.argv[:] = ["-c", *asked["arguments"]]
        module = sys.modules["__main__"] = ModuleType("__main__")
        exec(asked["code"], module.__dict__)  # noqa: S102 - what Python does with -c
