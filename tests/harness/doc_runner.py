"""Runs the examples of a page as a reader would: block after block, in one folder, on real servers.

Commands run in ``bash``, Python examples as programs, and blocks that are files are written first. Addresses such as
``redis://streams:6379`` become those of the test's servers. What a command prints is compared with what the page shows,
what a Python example prints with its comments ``# prints: …``.
"""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from harness.doc_pages import ROOT, Block, Command, Page
from harness.servers import bao_binary, free_port
from harness.stack import wait_until

COMMAND_SECONDS: Final = 120

SERVED: Final = 9300
"""The port on the pages at which ``--serve`` listens on this machine."""

ROLE_ID: Final = "the role id that was printed"
"""The text that a page shows in place of the role id that Vault made."""

_STREAM_ID: Final = r"\b\d{13}-\d+\b"

_VARYING: Final = {
    _STREAM_ID: "STREAM-ID",
    r"\bcli-[0-9a-f]{16}\b": "REQUEST-ID",
    r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)?": "TIME",
}
"""Patterns for text that differs from run to run, and the word that replaces it when outputs are compared."""

_REDIS_CLI: Final = '''#!{python}
"""The part of redis-cli that the pages need: no wheel brings one."""
import json, sys
import redis

def lines(reply):
    if isinstance(reply, list):
        for number, item in enumerate(reply, 1):
            head = f"{{number}}) "
            for index, line in enumerate(lines(item)):
                yield (" " * len(head) if index else head) + line
    elif reply is None:
        yield "(nil)"
    elif isinstance(reply, int):
        yield f"(integer) {{reply}}"
    else:
        yield json.dumps(reply, ensure_ascii=False)

client = redis.Redis.from_url(sys.argv[2], decode_responses=True, protocol=2)
client.response_callbacks.clear()
for command in [sys.argv[3:]] if sys.argv[3:] else map(str.split, sys.stdin):
    reply = client.execute_command(*command)
    print(*([reply] if reply == "OK" else lines(reply)), sep="\\n")
'''

_CURL: Final = '''#!{python}
"""The part of curl that the pages need, where it is not installed."""
import sys, urllib.request

sys.stdout.buffer.write(urllib.request.urlopen(sys.argv[-1]).read())
'''


class Reader:
    """A reader with a shell in a folder; a context manager that stops what runs on.

    Args:
        folder: where commands run; an empty one.
        environment: variables besides ``PATH`` and ``HOME``.
        places: texts of the pages, and what stands in their place here.
        programs: names of programs, and the files to use for them; by default ``redis-cli`` is a part of one.
        tell: is given each command, as it stands on the page, and then what it printed.
    """

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, str],
        places: Mapping[str, str],
        programs: Mapping[str, str] | None = None,
        tell: Callable[[str], object] = lambda _: None,
    ) -> None:
        self._folder = folder
        self._places = {f":{SERVED}": f":{free_port()}", **places}
        self._tell = tell
        self._ids: dict[str, str] = {}
        self._shown_as: dict[str, str] = {}
        self._running: list[subprocess.Popen[bytes]] = []
        self._serving: dict[int, subprocess.Popen[bytes]] = {}
        tools = folder / "bin"
        tools.mkdir()
        programs = {"vault": bao_binary(), **(programs or {})}
        for name, file in programs.items():
            (tools / name).symlink_to(file)
        ours = {"redis-cli": _REDIS_CLI} | ({} if shutil.which("curl") else {"curl": _CURL})
        for name in ours.keys() - programs.keys():
            (tools / name).write_text(ours[name].format(python=sys.executable))
            (tools / name).chmod(0o755)
        for name in ("scripts", "schemas"):
            (folder / name).symlink_to(ROOT / name)
        path = os.pathsep.join((str(tools), str(Path(sys.executable).parent), os.defpath))
        self._environment = {"PATH": path, "HOME": str(folder), "LANG": "C.UTF-8", **environment}

    def follow(self, page: Page, sections: Callable[[str], bool] = lambda _: True) -> None:
        """Run all examples of a page, or those of some sections."""
        for block in page.blocks():
            if "not run" in block.notes or not sections(block.section):
                continue
            if "file" in block.notes:
                (self._folder / block.notes["file"]).write_text(self._put_in_place(block.text))
            elif block.language == "console":
                self._run(block)
            elif block.language == "python":
                self._run_python(block)

    def export(self, variables: Mapping[str, str]) -> None:
        """Set variables for the commands that follow."""
        self._environment |= variables

    def _run(self, block: Block) -> None:
        expected = [0] * len(block.commands)
        expected[-1] = int(block.notes.get("exit status", 0))
        for command, status in zip(block.commands, expected, strict=True):
            self._do(command, status)

    def _do(self, command: Command, expected: int) -> None:
        line = self._put_in_place(command.line)
        self._tell(f"$ {command.line}")
        if line.startswith("export "):
            self._export(line)
            return
        if re.match(r"(\S+/)?token-worker\b.* run\Z", line):
            self._start(line)
            return
        if serving := re.match(r"(\S+/)?token-worker\b.* --serve '?\S*:(\d+)\b", line):
            self._serve(line, int(serving[2]))
            return
        done = self._shell(line)
        printed = done.stdout.decode()
        self._tell(self._as_on_the_page(printed))
        assert done.returncode == expected, f"{command.line} ended with {done.returncode}: {printed}"
        if line.startswith("vault read -field=role_id"):
            self._places[ROLE_ID] = printed.strip()
        if command.printed.strip():
            check_printed(command, self._as_on_the_page(printed))
            self._check_ids(command, printed)

    def _check_ids(self, command: Command, printed: str) -> None:
        """Check that equal ids on the page are equal in the output, and different ones different."""
        shown, found = (re.findall(_STREAM_ID, text) for text in (command.printed, printed))
        if len(shown) == len(found):
            for on_the_page, here in zip(shown, found, strict=True):
                is_the_same = self._ids.setdefault(on_the_page, here) == here
                is_the_same &= self._shown_as.setdefault(here, on_the_page) == on_the_page
                assert is_the_same, f"{command.line} printed {printed}"

    def _run_python(self, block: Block) -> None:
        (self._folder / "example.py").write_text(self._put_in_place(block.text))
        done = self._shell("python -W error example.py")
        assert done.returncode == 0, f"the example below {block.section!r} ended with {done.returncode}"
        promised = re.findall("# prints: (.+)", block.text)
        check_printed(Command("example.py", "\n".join(promised)), self._as_on_the_page(done.stdout.decode()))

    def _shell(self, line: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            ["/bin/bash", "-o", "pipefail", "-c", line],
            env=self._environment,
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=COMMAND_SECONDS,
            check=False,
        )

    def _export(self, line: str) -> None:
        done = self._shell(f"{line}; env -0")
        assert done.returncode == 0, f"{line} ended with {done.returncode}"
        pairs = (variable.partition("=") for variable in done.stdout.decode().split("\0") if variable)
        self._environment = {name: value for name, _, value in pairs}

    def _start(self, line: str) -> None:
        """Start a worker, which runs until the page is through, and wait until it can answer."""
        address = f"127.0.0.1:{free_port()}"
        self._run_on(line, {"TOKEN_WORKER_HTTP_ADDRESS": address}, lambda: _is_ready(address))

    def _serve(self, line: str, port: int) -> None:
        """Start a command that serves on a port, in place of one that does so already, and wait until it does."""
        if port in self._serving:
            _end(self._serving[port])
        self._serving[port] = self._run_on(line, {}, lambda: _listens(port))

    def _run_on(self, line: str, more: Mapping[str, str], is_up: Callable[[], bool]) -> subprocess.Popen[bytes]:
        with (self._folder / "running.log").open("ab") as log:
            started = subprocess.Popen(
                shlex.split(line),
                env={**self._environment, **more},
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._running.append(started)
        wait_until(lambda: started.poll() is not None or is_up(), line)
        assert started.poll() is None, f"{line} ended with {started.returncode}"
        return started

    def _put_in_place(self, text: str) -> str:
        for on_the_page, here in self._places.items():
            text = text.replace(on_the_page, here)
        return text

    def _as_on_the_page(self, text: str) -> str:
        for on_the_page, here in self._places.items():
            text = text.replace(here, on_the_page)
        return text

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for process in self._running:
            process.terminate()
        for process in self._running:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(30)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except OSError:
        return False
    return True


def _is_ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{address}/readyz", timeout=5) as answer:
            return bool(answer.status == HTTPStatus.OK)
    except OSError:  # not there yet, or not ready
        return False


def check_printed(command: Command, printed: str) -> None:
    """Compare what a command printed with what the page shows; ``…`` there stands for any text.

    JSON has to have the same members, and values of the same length: a client's key may be new, and so its tokens.

    Raises:
        AssertionError: the page shows something else.
    """
    shown = _json(command.printed)
    matches = _matches_text(command.printed, printed) if shown is None else _matches(shown, _json(printed))
    assert matches, f"{command.line} printed {printed}"


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _matches(shown: Any, printed: Any) -> bool:
    """Compare two messages, without what differs from run to run."""
    if isinstance(shown, dict) and isinstance(printed, dict):
        return shown.keys() == printed.keys() and all(
            _shape_of_value(value) == _shape_of_value(printed[name])
            if name == "value"
            else _matches(value, printed[name])
            for name, value in shown.items()
        )
    if isinstance(shown, list) and isinstance(printed, list):
        return len(shown) == len(printed) and all(map(_matches, shown, printed))
    if isinstance(shown, str) and isinstance(printed, str):
        return _matches_text(shown, printed)
    return bool(shown == printed)


def _matches_text(shown: str, printed: str) -> bool:
    pattern = re.escape(_plain(shown)).replace("…", r"(?:.|\n)*?")
    return re.fullmatch(pattern, _plain(printed)) is not None


def _shape_of_value(value: int | str) -> int | str:
    """A number is as good as another; a text has its length."""
    return "a number" if re.fullmatch(r"-?\d+", str(value)) else len(str(value))


def _plain(text: str) -> str:
    """Text whose spaces and varying parts do not count."""
    for pattern, word in _VARYING.items():
        text = re.sub(pattern, word, text)
    return "\n".join(words for line in text.splitlines() if (words := " ".join(line.split())))
