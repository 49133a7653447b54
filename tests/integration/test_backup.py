"""Keys, tokens and the master key come back from a backup as the page on backups says."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.doc_pages import page
from harness.doc_runner import Reader
from harness.openbao import KeptOpenBao
from harness.servers import DEPLOY_FILES, SYNC_AT_ONCE, Valkey, free_port, redis_binary
from harness.stack import Stack, wait_until

PAGE = "docs/backup.md"
CLIENT = "demo-client"
REDIS_CLI = shutil.which("redis-cli")


@contextmanager
def trial_stopped(port: int) -> Iterator[None]:
    """Stop the server that the page starts, also if the page is not followed to its end."""
    try:
        yield
    finally:
        subprocess.run([str(REDIS_CLI), "-p", str(port), "SHUTDOWN", "NOSAVE"], capture_output=True, check=False)


OUT_OF_REACH = 3
"""Exit status of a command that a server does not answer."""


@pytest.mark.skipif(REDIS_CLI is None, reason="redis-cli is not installed")
def test_everything_comes_back(streams_server: Valkey, tmp_path: Path) -> None:
    """After the keys, the tokens and the master key are lost, the page brings back every token of the backup.

    It also brings back the append-only file: a crash after the restoration loses nothing.
    """
    port, binary = free_port(), redis_binary()
    tools = {"redis-cli": str(REDIS_CLI), "redis-server": binary}
    with (
        KeptOpenBao() as bao,
        Valkey("appendonly yes", "appendfsync always", SYNC_AT_ONCE, binary=binary) as storage,
        Stack(streams_server, storage) as stack,
        trial_stopped(port),
    ):
        master_key = stack.settings.pop("ACRA_MASTER_KEY")
        bao.admit_workers(DEPLOY_FILES / "vault" / "master-key-only.hcl", master_key)
        stack.settings |= {"VAULT_ADDR": bao.url, "VAULT_TOKEN": bao.root_token}
        stack.generate_key(CLIENT)
        stack.start_worker()
        request = {"id": "1", "op": "tokenize", "client_id": CLIENT, "type": "str", "value": "Grace"}
        token = stack.ask([request])["1"]["value"]
        before = dump(stack)
        places = {"keys:6379": f"127.0.0.1:{storage.port}", "7000": str(port)}
        with Reader(tmp_path, stack.settings, places, tools) as operator:
            operator.follow(page(PAGE), {"Back up"}.__contains__)
            stack.workers.pop().stop()
            stack.storage.flushall()
            stack.generate_key("made-since")
            bao.call("DELETE", "secret/metadata/acra/transport")
            assert stack.run("keys", "verify").returncode != 0
            operator.follow(page(PAGE), {"Restore Vault"}.__contains__)
            wait_until(lambda: stack.run("keys", "verify").returncode != OUT_OF_REACH, "Vault to answer again")
            operator.follow(page(PAGE), {"Try a backup", "Bring back one key"}.__contains__)
            stack.storage.set("made since", "a token")
            assert before.keys() & dump(stack).keys() == {f".acrakeys/{CLIENT}_storage_sym".encode()}
            operator.follow(page(PAGE), {"Bring back what is missing"}.__contains__)
            assert dump(stack).items() >= before.items()
            assert stack.storage.getdel("made since") == b"a token"
            operator.follow(page(PAGE), {"Restore keys and tokens"}.__contains__)
        storage.kill()
        storage.start()
        assert dump(stack) == before
        stack.start_worker()
        request = {"id": "2", "op": "detokenize", "client_id": CLIENT, "type": "str", "value": token}
        assert stack.ask([request], "detokenize")["2"]["value"] == "Grace"


def dump(stack: Stack) -> dict[bytes, bytes]:
    """All keys of the storage with their content."""
    return {key: stack.storage.get(key) for key in stack.storage.keys("*")}
