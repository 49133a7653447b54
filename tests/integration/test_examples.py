"""The example producers in other languages: run against real servers and a real worker, each in its own tool chain."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from harness.stack import Stack, wait_until
from harness.toolchains import Done, SharedFolders, go_download, go_environment, npm_install, run

SCHEMAS = Path(__file__).parents[2] / "schemas"
SECRET = "grace@navy.example"


class Program(NamedTuple):
    """An example, ready to run."""

    command: list[str]
    folder: Path

    def run(self, stack: Stack, value: str, *arguments: str) -> Done:
        return run([*self.command, *arguments], self.folder, value=value, environment=stack.environment())


def _go(folder: Path) -> None:
    shutil.copytree(SCHEMAS, folder, dirs_exist_ok=True)
    example = folder / "examples" / "go"
    go_download(example)
    done = run(["go", "build", "-o", "producer", "."], example, environment=go_environment())
    assert done.returncode == 0, done.stderr


def _node(folder: Path) -> None:
    shutil.copytree(SCHEMAS, folder, dirs_exist_ok=True)
    npm_install(folder / "examples" / "node")


LANGUAGES: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    "go": (_go, ["./producer"]),
    "node": (_node, ["node", "index.mjs"]),
}


@pytest.fixture(params=LANGUAGES)
def program(request: pytest.FixtureRequest, shared_folders: SharedFolders) -> Program:
    """The example in each language, built from a copy of ``schemas/``."""
    make, command = LANGUAGES[request.param]
    folder = shared_folders.folder(f"example-{request.param}", make)
    return Program(command, folder / "examples" / request.param)


@pytest.mark.parametrize(
    ("type_name", "value"),
    [("email", SECRET), ("str", "Grace Höpper"), ("int64", "-9223372036854775808"), ("bytes", "kAERJv8=")],
)
def test_value_is_tokenized_and_turned_back(program: Program, stack: Stack, type_name: str, value: str) -> None:
    """The program prints the token that every client gets for the value, and ends well once it is detokenized."""
    stack.start_worker()
    done = program.run(stack, f"{value}\n", "shop-frontend", type_name)
    assert (done.returncode, done.stderr) == (0, "")
    same = {"id": "same", "op": "tokenize", "client_id": "shop-frontend", "type": type_name, "value": value}
    assert stack.ask([same])["same"]["value"] == done.stdout.strip()
    assert stack.streams.xlen("detokenize:requests") == 1


def test_value_is_made_up_at_a_terminal(program: Program, stack: Stack) -> None:
    """Without anything on standard input the program does not wait for somebody to type."""
    stack.start_worker()
    ours, its = os.openpty()
    try:
        done = subprocess.run(
            [*program.command, "shop-frontend"],
            cwd=program.folder,
            env=stack.environment(),
            stdin=its,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(ours)
        os.close(its)
    assert (done.returncode, done.stderr) == (0, "")
    assert "@" in done.stdout


def test_error_reply_ends_the_program(program: Program, stack: Stack) -> None:
    """A reply that is an error ends the program with its code on standard error, no token and no value."""
    stack.start_worker()
    done = program.run(stack, SECRET, "nobody", "email")
    assert done.returncode == 1
    assert done.stderr.startswith("unknown_client: ")
    assert done.stdout == ""
    assert SECRET not in done.stderr


@pytest.mark.parametrize(("type_name", "value"), [("float", SECRET), ("bytes", SECRET), ("email", "")])
def test_invalid_request_is_not_sent(program: Program, stack: Stack, type_name: str, value: str) -> None:
    """A request that the schema refuses never reaches the stream, and the program does not print its value."""
    done = program.run(stack, value, "shop-frontend", type_name)
    assert done.returncode == 1
    assert done.stderr.startswith("request")
    assert not stack.streams.exists("tokenize:requests")
    assert SECRET not in done.stderr + done.stdout


def test_invalid_reply_is_not_used(program: Program, stack: Stack) -> None:
    """A reply that the schema refuses ends the program, and nothing of it is printed."""
    with subprocess.Popen(
        [*program.command, "shop-frontend"],
        cwd=program.folder,
        env=stack.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdin is not None
            process.stdin.write(SECRET)
            process.stdin.close()
            process.stdin = None  # communicate() would flush it
            wait_until(lambda: stack.streams.xlen("tokenize:requests"), "the request")
            [(entry, fields)] = stack.streams.xrange("tokenize:requests")
            request = json.loads(fields[b"payload"])
            reply = {"id": request["id"], "request_entry": entry.decode(), "status": "partial", "value": SECRET}
            stack.streams.xadd(request["reply_to"], {"payload": json.dumps(reply)})
            stdout, stderr = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 1
    assert stdout == ""
    assert stderr.startswith("reply")
    assert SECRET not in stderr
