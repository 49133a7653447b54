"""Every example of README and docs runs as printed, on real servers, and prints what the page shows."""

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.doc_pages import README, page, page_names
from harness.doc_runner import Reader
from harness.servers import OpenBao
from harness.stack import Stack
from harness.walk import SET_UP, new_servers, places, walk
from token_worker.acra.owner import Owner
from token_worker.keys.index_key import index_path, seal_index_key
from token_worker.keys.layout_record import TOKENS_RECORD, LayoutName, encode_record, layout_path, new_record
from token_worker.keys.store import new_key, wrap

DEMO_KEY = base64.b64decode("ZG9jcyBoYXZlIHRoZSB0b2tlbnMgb2YgdGhpcyBrZXk=")
"""Key of ``demo-client`` while pages are run: tokens on the pages are those of this key."""

FOR_REAL = "Run it for real"
"""The section of README that does, too."""

TESTED_ELSEWHERE = {
    "docs/backup.md",
    "docs/compose.md",
    "docs/kubernetes.md",
    "docs/logs.md",
    "docs/migrate.md",
    "docs/testing.md",
    "docs/upgrade.md",
}
"""Pages of tests with these names, and of ``test_deployment`` and ``test_testing_project``."""

OF_OPERATORS = {
    "docs/keys.md",
    "docs/layouts.md",
    "docs/replay.md",
    "docs/routes.md",
    "docs/tokens.md",
    "docs/troubleshooting.md",
}
"""Pages for those who may use the master key."""

IN_ACRAS_LAYOUT = {"docs/keys.md", "docs/tokens.md"}
"""Pages on which a command prints something else in the dense layout, or has options that are only in Acra's."""

ERASURE = "docs/erasure.md"

OF_OTHERS = {SET_UP, ERASURE, *TESTED_ELSEWHERE, *OF_OPERATORS}

FIRST_REQUEST = {
    "id": "1", "op": "tokenize", "client_id": "demo-client", "type": "email", "value": "grace@navy.example",
}  # fmt: skip


def has_examples(name: str) -> bool:
    """Tell whether a page has a block to run."""
    blocks = page(name).blocks()
    return any(block.language in {"console", "python"} and "not run" not in block.notes for block in blocks)


@pytest.fixture
def layout() -> LayoutName:
    """The layout of tokens in ``demo``."""
    return "dense"


@pytest.fixture
def demo(stack: Stack, layout: LayoutName) -> Stack:
    """Servers and a worker as after ``scripts/demo --keep``."""
    stack.storage.flushall()
    owner = Owner("client", "demo-client")
    stack.storage.set(f".acrakeys/{owner.key_name}", wrap(DEMO_KEY, stack.master_key, owner))
    if layout == "dense":
        record = encode_record(new_record("dense", 0))
        stack.storage.mset({layout_path(".acrakeys"): record, TOKENS_RECORD: record})
        stack.storage.set(index_path(".acrakeys", owner), seal_index_key(new_key(), stack.master_key, owner))
    stack.start_worker()
    stack.ask([FIRST_REQUEST])  # from here on it answers at once
    return stack


@pytest.fixture
def reader(demo: Stack, tmp_path: Path) -> Iterator[Reader]:
    """Somebody who sends requests, and has no key."""
    streams, storage = (demo.settings[f"TOKEN_WORKER_{name}_URL"] for name in ("STREAMS", "KEYS"))
    with Reader(tmp_path, {"TOKEN_WORKER_STREAMS_URL": streams}, places(streams, storage)) as reader:
        yield reader


@pytest.fixture
def operator(demo: Stack, openbao_server: OpenBao, tmp_path: Path) -> Iterator[Reader]:
    """Somebody who may read and replace the master key, which is in Vault; a client has a token."""
    master_key = demo.settings.pop("ACRA_MASTER_KEY")
    openbao_server.call("POST", "secret/data/acra/transport", data={"acra_master_key": master_key})
    vault = {"VAULT_ADDR": openbao_server.url, "VAULT_TOKEN": openbao_server.root_token}
    vault["TOKEN_WORKER_AUDIT_FILE"] = str(tmp_path / "audit.log")
    streams, storage = (demo.settings[f"TOKEN_WORKER_{name}_URL"] for name in ("STREAMS", "KEYS"))
    with Reader(tmp_path, {**demo.settings, **vault}, places(streams, storage)) as reader:
        yield reader
    openbao_server.call("DELETE", "secret/metadata/acra/transport")


@pytest.fixture
def beginner(tmp_path: Path) -> Iterator[Reader]:
    """Somebody with two new servers."""
    with new_servers(tmp_path) as servers, Reader(tmp_path, {}, servers) as reader:
        yield reader


def test_every_page_is_run() -> None:
    """A page with examples is followed by a test."""
    assert {name for name in page_names() if has_examples(name)} >= OF_OTHERS


@pytest.mark.parametrize("name", [name for name in page_names() if has_examples(name) and name not in OF_OTHERS])
def test_page_runs_as_printed(name: str, reader: Reader) -> None:
    """A reader gets the tokens, replies and files that the page shows."""
    reader.follow(page(name), lambda section: section != FOR_REAL)


@pytest.mark.parametrize(
    ("name", "layout"), [(name, "acra" if name in IN_ACRAS_LAYOUT else "dense") for name in sorted(OF_OPERATORS)]
)
def test_page_for_operators_runs_as_printed(name: str, operator: Reader) -> None:
    """An operator can run every command of the page, one after the other."""
    operator.follow(page(name))


@pytest.mark.parametrize("layout", ["acra"])
def test_erasure_leaves_no_entry(operator: Reader, demo: Stack) -> None:
    """The page removes both entries of the token from the token storage."""
    assert demo.storage.keys("tokens/*")
    operator.follow(page(ERASURE))
    assert not demo.storage.keys("tokens/*")


def test_beginner_gets_a_token(beginner: Reader) -> None:
    """Two empty servers and the section of README are enough for a worker that answers."""
    beginner.follow(page(README), lambda section: section == FOR_REAL)


def test_operator_walks_from_nothing_to_a_monitored_worker(tmp_path: Path) -> None:
    """The commands of the pages alone set up servers, Vault, users, keys and workers, watch them, and rotate a key.

    The worker, the operator, the monitor and the client each have the rights of a Redis user of their own, and no more.
    """
    walk(tmp_path, lambda _: None)
    assert (tmp_path / "secret-id").stat().st_mode & 0o077 == 0
