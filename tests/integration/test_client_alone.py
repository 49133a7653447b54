"""The client works where only the packages are installed that it needs, as docs/clients.md lists them."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from harness.clients import CLIENT
from harness.stack import Stack

ROOT = Path(__file__).parents[2]

NEEDED = {"hiredis", "msgspec", "redis"}

ALONE = """
import sys
from importlib.metadata import packages_distributions

needed = {needed} | {{"token_worker"}}
absent = packages_distributions().keys() - needed - sys.stdlib_module_names

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name in absent:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
assert {{"click", "cryptography", "hvac", "requests"}} <= absent - sys.modules.keys()
"""
"""Beginning of a program: no third-party module can be imported but those that the client needs."""

SYNCHRONOUS = """
from token_worker.client import TokenClient, TokenNotFound
with TokenClient(client_id="{client}") as client:
    print(client.detokenize(client.tokenize("grace@navy.example", type="email"), type="email"))
    try:
        client.detokenize("no token")
    except TokenNotFound as error:
        print(error.code)
"""

ASYNCHRONOUS = """
import asyncio
from token_worker.client import AsyncTokenClient, TokenNotFound
async def main():
    async with AsyncTokenClient(client_id="{client}") as client:
        print(await client.detokenize(await client.tokenize("grace@navy.example", type="email"), type="email"))
        try:
            await client.detokenize("no token")
        except TokenNotFound as error:
            print(error.code)
asyncio.run(main())
"""


def python(code: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    program = ALONE.format(needed=NEEDED) + code.format(client=CLIENT)
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=100, check=False
    )


@pytest.mark.parametrize("code", [SYNCHRONOUS, ASYNCHRONOUS], ids=["threads", "event loop"])
def test_client_needs_few_packages(served: Stack, code: str) -> None:
    """Values are tokenized and detokenized, and errors told, without the packages of workers and commands."""
    done = python(code, served.environment())
    assert done.stdout.splitlines() == ["grace@navy.example", "token_not_found"], done.stderr


def test_list_of_packages_is_in_step() -> None:
    """The page for producers asks for the packages that the client needs, in the versions of the package itself."""
    [line] = re.findall(r"^\$ pip install ('.*')$", (ROOT / "docs" / "clients.md").read_text(), re.MULTILINE)
    listed = set(re.findall(r"'(.*?)'", line))
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert listed == {dependency for dependency in dependencies if re.split(r"[^a-z-]", dependency)[0] in NEEDED}
    assert len(listed) == len(NEEDED)


def test_command_says_what_is_missing() -> None:
    """``token-worker`` without its packages names the first that is missing and what to do, without a traceback."""
    done = python("from token_worker.__main__ import main\nmain()", dict(os.environ))
    assert done.returncode == 2
    assert done.stderr == (
        "token-worker: the package click is missing; commands need all dependencies: pip install token-worker\n"
    )
