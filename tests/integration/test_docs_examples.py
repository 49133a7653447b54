"""Every example of README and docs runs as printed, on real servers, and prints what the page shows."""

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import OpenBao
from stack import Stack

from doc_pages import README, page
from doc_runner import Reader
from token_worker.keys.owner import Owner
from token_worker.keys.store import wrap

DEMO_KEY = base64.b64decode("ZG9jcyBoYXZlIHRoZSB0b2tlbnMgb2YgdGhpcyBrZXk=")
"""Key of ``demo-client`` while pages are run: tokens on the pages are those of this key."""

PEOPLE = b'name,email,card\r\n"Hopper, Grace",grace@navy.example,4242 4242 4242 4242\r\nAda,,5105\r\n'


def places(stack: Stack) -> dict[str, str]:
    """Addresses on the pages, and those of the test's servers."""
    return {
        "redis://streams:6379": stack.settings["TOKEN_WORKER_STREAMS_URL"],
        "redis://keys:6379": stack.settings["TOKEN_WORKER_KEYS_URL"],
    }


@pytest.fixture
def reader(stack: Stack, tmp_path: Path) -> Iterator[Reader]:
    """Somebody who has started ``scripts/demo --keep``, and has a file ``people.csv``."""
    owner = Owner("client", "demo-client")
    stack.storage.set(f".acrakeys/{owner.key_name}", wrap(DEMO_KEY, stack.master_key, owner))
    stack.start_worker()
    (tmp_path / "people.csv").write_bytes(PEOPLE)
    environment = {"TOKEN_WORKER_STREAMS_URL": stack.settings["TOKEN_WORKER_STREAMS_URL"]}
    with Reader(tmp_path, environment, places(stack)) as reader:
        yield reader


def test_readme_runs_as_printed(reader: Reader, tmp_path: Path) -> None:
    """A reader of the README gets the tokens, replies and files that it shows."""
    reader.follow(page(README), lambda section: section != "Run it")
    tokens = (tmp_path / "tokens.csv").read_text()
    assert '"Hopper, Grace"' in tokens
    assert "grace@navy.example" not in tokens
    assert (tmp_path / "left-out.jsonl").read_text() == ""


def test_set_up_runs_as_printed(stack: Stack, tmp_path: Path) -> None:
    """What is to be done in Vault gives a worker its master key by the settings that are shown, and it serves."""
    stack.storage.flushall()
    with OpenBao() as bao:
        operator = {"VAULT_ADDR": bao.url, "VAULT_TOKEN": bao.root_token}
        with Reader(tmp_path, operator, {**places(stack), "https://vault:8200": bao.url}) as reader:
            reader.follow(page(README), lambda section: section == "Run it")
            request = {"id": "1", "op": "tokenize", "client_id": "shop-frontend", "type": "str", "value": "x"}
            [reply] = stack.ask([request]).values()
    assert reply["status"] == "ok"
    assert (tmp_path / "secret-id").stat().st_mode & 0o077 == 0
