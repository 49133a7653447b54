"""``token-worker doctor``: silent about a good set-up, and a finding with a remedy for each thing that is wrong."""

import base64
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hvac
import pytest

from harness.servers import DEPLOY_FILES, OpenBao, Valkey, free_port
from harness.stack import Stack, wait_until
from token_worker.acra.owner import Owner
from token_worker.keys.store import new_key, wrap

CLIENT = "shop-frontend"
POLICY = DEPLOY_FILES / "vault" / "master-key-only.hcl"


def examine(stack: Stack, **more: str) -> tuple[int, dict[str, dict[str, str]]]:
    """Exit status and the checks by their name."""
    done = stack.run("doctor", "--json", **more)
    assert "uncaught" not in done.stderr, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    for row in rows:
        assert bool(row["remedy"]) == (row["status"] != "ok"), row
    return done.returncode, {row["check"]: row for row in rows}


@pytest.fixture
def good(tmp_path: Path) -> Iterator[Stack]:
    """Servers with append-only files, and a worker that runs as a user of its own."""
    with Valkey("appendonly yes") as streams, Valkey("appendonly yes") as storage, Stack(streams, storage) as stack:
        stack.generate_key(CLIENT)
        folder = tmp_path / "passwords"
        done = stack.run("acl", "--passwords", str(folder), "--json")
        assert done.returncode == 0, done.stderr
        for line in done.stdout.splitlines():
            row = json.loads(line)
            client = stack.streams if row["server"] == "streams" else stack.storage
            client.execute_command("ACL", "SETUSER", row["user"], *row["rules"])
        for use, server in (("STREAMS", streams), ("KEYS", storage)):
            url = server.url.replace("redis://", "redis://token-worker@")
            stack.settings[f"TOKEN_WORKER_{use}_URL"] = url
            stack.settings[f"TOKEN_WORKER_{use}_PASSWORD_FILE"] = str(folder / f"{use.lower()}-token-worker")
        stack.start_worker()
        wait_until(lambda: stack.streams.exists("tokenize:requests"), "the group")
        wait_until(lambda: stack.streams.exists("detokenize:requests"), "the other group")
        yield stack


def test_good_set_up_has_no_finding(good: Stack) -> None:
    """There is no finding. Checks for which the worker's user lacks a right are unknown, and name that right."""
    wait_until(lambda: good.streams.xinfo_consumers("detokenize:requests", "token-workers"), "the worker's consumer")
    status, checks = examine(good)
    assert status == 0, checks
    unknown = {name for name, row in checks.items() if row["status"] == "unknown"}
    assert "detokenize:requests: who may detokenize" in unknown
    assert "+acl" in checks["detokenize:requests: who may detokenize"]["remedy"]
    assert checks["detokenize:requests: clients apart"]["status"] == "ok"
    assert checks["master key"]["message"] == "opens 1 keys of 1, chosen at random"
    assert "token-worker acl" not in checks["streams: user"]["remedy"]


def findings(stack: Stack, **more: str) -> dict[str, str]:
    status, checks = examine(stack, **more)
    found = {name: row["message"] for name, row in checks.items() if row["status"] == "finding"}
    assert status == (1 if found else 0)
    return found


def test_bare_servers_are_full_of_findings(stack: Stack) -> None:
    """User default, no append-only file, nobody reading, and anybody may ask for values: each is found."""
    for client in (CLIENT, "another-client"):
        stack.generate_key(client)
    found = findings(stack)
    for use in ("streams", "keys", "tokens"):
        assert "default" in found[f"{use}: user"]
        assert "append-only" in found[f"{use}: persistence"]
    assert "detokenize:requests: group" in found
    assert "anyone" in found["detokenize:requests: who may detokenize"]
    assert "anyone" in found["detokenize:responses: who may read values"]
    assert "anyone" in found["keys: who may read"]
    assert "anyone" in found["tokens: who may read"]
    assert found["detokenize:requests: clients apart"].startswith("2 clients share it")


@pytest.mark.parametrize("way", ["xread", "xreadgroup", "xrange", "xrevrange"])
def test_user_who_may_read_replies_in_any_way_is_named(stack: Stack, way: str) -> None:
    """Whoever may read the replies of a route that detokenizes is named, by whatever command; and no other user."""
    name = "detokenize:responses: who may read values"
    for user, right in (("peeper", f"+{way}"), ("counter", "+xlen")):
        stack.streams.execute_command("ACL", "SETUSER", user, "reset", "on", ">a password", "~detokenize:*", right)
    try:
        _, checks = examine(stack)
    finally:
        stack.streams.acl_deluser("peeper", "counter")
    assert "peeper" in checks[name]["message"]
    assert "counter" not in checks[name]["message"]


def test_append_only_file_is_turned_on_without_a_loss(streams_server: Valkey) -> None:
    """The remedy for a server without an append-only file keeps its data. A restart alone would lose them."""
    with Valkey() as storage, Stack(streams_server, storage) as stack:
        stack.generate_key(CLIENT)
        _, checks = examine(stack)
        remedy = checks["keys: persistence"]["remedy"]
        assert "a restart with appendonly yes before that loses all data" in remedy
        done = re.search("run (CONFIG SET appendonly yes),", remedy)
        assert done is not None
        stack.storage.execute_command(*done[1].split())
        wait_until(lambda: not storage.info("persistence")["aof_rewrite_in_progress"], "the file to be written")
        assert storage.info("persistence")["aof_last_bgrewrite_status"] == "ok"
        names = stack.storage.keys("*")
        storage.kill()
        with Valkey("appendonly yes", f"dir {storage.folder}") as restarted, restarted.client() as client:
            assert client.keys("*") == names


def test_eviction_is_a_finding(stack: Stack) -> None:
    """A storage that may evict entries is a finding, under any policy but noeviction."""
    stack.storage.config_set("maxmemory-policy", "allkeys-lru")
    try:
        found = findings(stack)
    finally:
        stack.storage.config_set("maxmemory-policy", "noeviction")
    assert "allkeys-lru" in found["keys: eviction"]
    assert "allkeys-lru" in found["tokens: eviction"]


def test_servers_out_of_reach_are_findings_of_their_own(stack: Stack) -> None:
    """A server that is away is a finding, and the other servers are checked all the same."""
    found = findings(stack, TOKEN_WORKER_TOKENS_URL=f"redis://127.0.0.1:{free_port()}/0")
    assert "connection refused" in found["tokens: reachable"]
    assert "keys: user" in found
    away = findings(stack, TOKEN_WORKER_KEYS_URL=f"redis://127.0.0.1:{free_port()}/0")
    assert "streams: user" in away


def test_one_server_for_all_is_a_finding(stack: Stack) -> None:
    """Streams and storage that share a server are found."""
    url = stack.settings["TOKEN_WORKER_STREAMS_URL"]
    assert "servers apart" in findings(stack, TOKEN_WORKER_KEYS_URL=url)


def test_way_without_tls_and_password_is_a_finding(stack: Stack) -> None:
    """A server that is not on this machine wants TLS and a password; neither name nor password is sent anywhere."""
    found = findings(stack, TOKEN_WORKER_TOKENS_URL="redis://no-such-host.invalid:6379/0")
    assert "without TLS and a password" in found["tokens: TLS and password"]


def test_ids_ahead_of_the_clock_are_a_finding(stack: Stack) -> None:
    """The doctor tells for each stream of a route how far its ids are ahead of the server's clock."""
    _, checks = examine(stack)
    assert checks["tokenize:requests: ids"]["status"] == "ok"
    seconds, _ = stack.streams.time()
    stack.streams.xadd("tokenize:requests:dead", {"payload": "x"}, id=f"{(seconds + 86_400) * 1000}-0")
    status, checks = examine(stack)
    assert status == 1
    assert checks["tokenize:requests: ids"]["status"] == "finding"
    assert "tokenize:requests:dead: ids are ahead of the server's clock" in checks["tokenize:requests: ids"]["message"]
    assert checks["detokenize:requests: ids"]["status"] == "ok"


def test_wrong_master_key_is_a_finding(stack: Stack) -> None:
    """A key that the master key does not open is a finding, and so is an invalid master key."""
    stack.storage.set(
        f".acrakeys/{Owner('client', 'other-client').key_name}",
        wrap(new_key(), bytes(32), Owner("client", "other-client")),
    )
    assert "1 of 2 keys" in findings(stack)["master key"]
    assert "master key" in findings(stack, ACRA_MASTER_KEY="bm90IGEga2V5")


def vault_settings(server: OpenBao, policy: str | None, **token: Any) -> dict[str, str]:
    """A secret with a master key, and a token with this policy (None: root)."""
    client = hvac.Client(server.url, server.root_token)
    key = base64.b64encode(os.urandom(32)).decode()
    client.secrets.kv.v2.create_or_update_secret("acra/transport", {"acra_master_key": key}, mount_point="secret")
    text = server.root_token
    if policy is not None:
        client.sys.create_or_update_policy("doctor-test", policy)
        text = client.auth.token.create(policies=["doctor-test"], **token)["auth"]["client_token"]
    return {"VAULT_ADDR": server.url, "VAULT_TOKEN": text, "TOKEN_WORKER_MASTER_KEY_SOURCE": "vault"}


def test_vault_token_is_looked_at(stack: Stack, openbao_server: OpenBao) -> None:
    """A token with the policy that is published is fine; a mighty one, and one about to end, are findings."""
    fine = findings(stack, **vault_settings(openbao_server, POLICY.read_text()))
    assert not [name for name in fine if name.startswith("Vault")]
    root = findings(stack, **vault_settings(openbao_server, None))
    assert "root" in root["Vault token: rights"]
    wide = POLICY.read_text() + 'path "secret/*" { capabilities = ["read", "update"] }\n'
    assert "more than read" in findings(stack, **vault_settings(openbao_server, wide))["Vault token: rights"]
    beside = POLICY.read_text() + 'path "secret/data/*" { capabilities = ["read"] }\n'
    assert "Vault token: rights" in findings(stack, **vault_settings(openbao_server, beside))
    ending = vault_settings(openbao_server, POLICY.read_text(), ttl="60s", renewable=False)
    assert "cannot be renewed" in findings(stack, **ending)["Vault token: time"]
    _, silent = examine(stack, **vault_settings(openbao_server, POLICY.read_text(), no_default_policy=True))
    assert silent["Vault token: rights"]["status"] == "unknown"


def test_table_is_for_people(stack: Stack) -> None:
    """Without --json it is a table, with the same exit status."""
    done = stack.run("doctor")
    assert done.returncode == 1
    assert "FINDING" in done.stdout
    assert "what to do" in done.stdout


def test_no_keys_is_a_finding_that_says_where_they_may_be(stack: Stack) -> None:
    """Without any key, doctor names folder, database number, files and keystore version 2, and the way to move keys."""
    _, checks = examine(stack, TOKEN_WORKER_KEYS_FOLDER="another-folder")
    assert checks["keys"]["status"] == "finding"
    for word in ("KEYS_FOLDER", "database number", "files", "version 2", "acra-keys export", "acra-keys import"):
        assert word in checks["keys"]["remedy"]


def test_keystore_version_2_is_named(stack: Stack) -> None:
    """Keys of Acra's keystore version 2 are called so by doctor and by keys verify."""
    for name in ("version", "client/shop-frontend/storage-sym.keyring"):
        stack.storage.set(f"version-2/{name}", "x")
    folder = {"TOKEN_WORKER_KEYS_FOLDER": "version-2"}
    assert "keystore version 2" in findings(stack, **folder)["keys"]
    verified = stack.run("keys", "verify", **folder)
    assert verified.returncode == 1
    assert "storage-sym.keyring: keystore version 2" in verified.stderr
    assert "not a key that" not in verified.stderr
