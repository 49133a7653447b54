"""``token-worker tokens layout`` records the layout of an empty token storage, and of no other."""

import secrets
import subprocess
from pathlib import Path

import msgspec
import pytest

from harness.key_places import Fuse, InRedis, InVault, Killed, Place
from harness.servers import DEPLOY_FILES, Cluster, OpenBao
from harness.stack import Stack
from token_worker.acra.owner import Owner
from token_worker.admin.layout import plan_change, read_records, write_records
from token_worker.keys.layout_record import (
    TOKENS_RECORD,
    LayoutName,
    LayoutRecord,
    decode_keys_record,
    encode_record,
    layout_path,
    new_record,
)
from token_worker.keys.store import new_key, wrap
from token_worker.redis.address import RedisSettings
from token_worker.redis.link import RedisLink

CLIENT = Owner("client", "shop-frontend")
ID = "0123456789abcdef" * 2
DENSE, OTHER = new_record("dense", 0, ID), new_record("dense", 0)
ACRA = new_record("acra", 0, ID)


def put(place: Place, stack: Stack, in_keys: LayoutRecord | None, in_tokens: LayoutRecord | None) -> None:
    if in_keys is not None:
        place.put(layout_path(place.folder), encode_record(in_keys))
    if in_tokens is not None:
        stack.storage.set(TOKENS_RECORD, encode_record(in_tokens))


def held(place: Place, stack: Stack) -> tuple[LayoutRecord | None, LayoutRecord | None]:
    """The records as they are stored."""
    in_keys, in_tokens = place.get(layout_path(place.folder)), stack.storage.get(TOKENS_RECORD)
    return decode_keys_record(in_keys), decode_keys_record(in_tokens)


def layout(stack: Stack, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return stack.run("tokens", "layout", *arguments, **more)


def test_layout_of_an_empty_storage_is_chosen_and_changed_back(place: Place, bare: Stack, tmp_path: Path) -> None:
    """Both records are written with one id, each run is noted, and running the command again does nothing."""
    bare.storage.set("users/1", "somebody")
    bare.storage.xadd("tokenize:replies", {"payload": b"a stream whose name is as long as an entry's"})
    audit = tmp_path / "audit.log"
    assert "would be recorded" in layout(bare, "dense", "--dry-run").stdout
    assert held(place, bare) == (None, None)
    done = layout(bare, "dense", TOKEN_WORKER_AUDIT_FILE=str(audit))
    assert (done.returncode, done.stdout) == (0, "dense: recorded in token storage and key storage\n")
    in_keys, in_tokens = held(place, bare)
    assert in_keys is not None
    assert (in_keys.layout, in_keys) == ("dense", in_tokens)
    [written] = [path for path in tmp_path.iterdir() if "audit" in path.name]
    lines = [msgspec.json.decode(line) for line in written.read_text().splitlines()]
    assert [(line["event"], line["command"]) for line in lines] == [
        ("change begins", "tokens layout"),
        ("change ended", "tokens layout"),
    ]
    assert layout(bare, "dense").stdout == "dense: this is the layout already\n"
    done = bare.run("tokens", "migrate", "--to", "dense", "--finish", "--yes")
    assert (done.returncode, done.stdout) == (0, "dense: this is the layout already\n"), done.stderr
    for options, told in (
        (("--to", "acra"), "there are no tokens to move: nothing to do"),
        (("--to", "acra", "--finish"), "there are no tokens to move: layout acra would be recorded"),
        (("--drop", "acra"), "there are no tokens to drop: nothing to do"),
    ):
        done = bare.run("tokens", "migrate", *options, "--dry-run")
        assert (done.returncode, done.stdout) == (0, f"dry run, nothing was changed; {told}\n"), done.stderr
    shown = layout(bare, "--json")
    assert shown.returncode == 0
    decoded = msgspec.json.decode(shown.stdout)
    assert (decoded["layout"], decoded["problem"]) == ("dense", None)
    assert decoded["key_storage"] == decoded["token_storage"] == msgspec.to_builtins(in_keys)
    assert layout(bare, "acra").returncode == 0
    back, also = held(place, bare)
    assert back is not None
    assert (back.layout, back.storage, back) == ("acra", in_keys.storage, also)


@pytest.mark.parametrize(
    ("in_keys", "in_tokens", "name", "ends_with"),
    [
        (None, DENSE, "dense", DENSE),
        (DENSE, ACRA, "acra", ACRA),
        (DENSE, ACRA, "dense", DENSE),
    ],
)
def test_interrupted_change_is_completed_or_taken_back(
    place: Place,
    bare: Stack,
    in_keys: LayoutRecord | None,
    in_tokens: LayoutRecord,
    name: LayoutName,
    ends_with: LayoutRecord,
) -> None:
    """If only one of two records was written, the same command writes the other, and the other command undoes it."""
    put(place, bare, in_keys, in_tokens)
    found = layout(bare)
    assert found.returncode == 1
    assert "tokens layout" in found.stderr
    assert layout(bare, name).returncode == 0
    assert held(place, bare) == (ends_with, ends_with)


def test_change_that_is_killed_anywhere_is_completed(place: Place, bare: Stack) -> None:
    """Wherever a change was killed, running it again gives both storages the same record."""
    settings = RedisSettings(url=bare.settings["TOKEN_WORKER_TOKENS_URL"])

    def change(fuse: Fuse) -> None:
        link, store = RedisLink("tokens", settings, raise_server_errors=True), place.store(fuse)
        fuse.wire(link, "call")
        found = read_records(store, link)
        planned = plan_change(found, "dense")
        assert planned is not None
        write_records(store, link, found, planned.record)

    at, is_killed = 0, True
    while is_killed:
        at += 1
        bare.storage.delete(TOKENS_RECORD)
        put(place, bare, ACRA, ACRA)
        try:
            change(Fuse(at))
        except Killed:
            if held(place, bare)[0] == ACRA:
                change(Fuse())
        else:
            is_killed = False
        in_keys, in_tokens = held(place, bare)
        assert in_keys == in_tokens
        assert in_keys is not None
        assert (in_keys.layout, in_keys.storage) == ("dense", ID)
    assert at > 6


@pytest.mark.parametrize("entry", ["tokens/abc/1", "v" + "\x01" * 15, "t" + "\x7f" * 15])
def test_storage_with_tokens_keeps_its_layout(bare: Stack, entry: str) -> None:
    """A token of either layout forbids the change, and the text says what to do: move tokens, or copy the record."""
    bare.storage.set(entry, "entry")
    bare.storage.mset({f"other:{number}": "" for number in range(3000)})
    done = layout(bare, "dense")
    assert done.returncode == 1
    assert ("tokens migrate --to dense" if entry.startswith("tokens/") else "copy its record") in done.stderr
    assert bare.storage.get(TOKENS_RECORD) is None


@pytest.mark.parametrize(("in_keys", "in_tokens"), [(DENSE, None), (DENSE, OTHER), (ACRA, OTHER), (None, DENSE)])
def test_other_records_are_kept(bare: Stack, in_keys: LayoutRecord | None, in_tokens: LayoutRecord | None) -> None:
    """Records of another storage are not replaced, and the text says what differs."""
    place = InRedis(bare)
    put(place, bare, in_keys, in_tokens)
    done = layout(bare, "acra")
    assert (done.returncode, done.stdout) == (1, "")
    assert "there is another record" in done.stderr
    assert held(place, bare) == (in_keys, in_tokens)


def test_policy_for_key_admins_permits_the_command(bare: Stack, openbao_server: OpenBao) -> None:
    """With the policy for key admins, and no other, both layouts can be recorded beside keys in Vault."""
    place = InVault(openbao_server)
    policy = (DEPLOY_FILES / "vault" / "key-admin.hcl").read_text().replace(".acrakeys", place.folder)
    name = f"key-admin-{secrets.token_hex(4)}"
    place.api("POST", f"sys/policies/acl/{name}", {"policy": policy})
    made = place.api("POST", "auth/token/create", {"policies": [name], "no_default_policy": True, "ttl": "1h"})
    tokens_url = {"TOKEN_WORKER_TOKENS_URL": bare.settings["TOKEN_WORKER_KEYS_URL"]}
    bare.settings |= {**place.settings, **tokens_url, "VAULT_TOKEN": made["auth"]["client_token"]}
    for arguments in (["dense"], ["acra"], []):
        done = layout(bare, *arguments)
        assert done.returncode == 0, (arguments, done.stderr)


def test_cluster_that_holds_tokens_gets_a_record(bare: Stack) -> None:
    """In a cluster the record is on one node, and tokens on any node forbid a change."""
    with Cluster(replicas=0) as cluster, cluster.client() as client:
        bare.settings["TOKEN_WORKER_TOKENS_URL"] = cluster.url
        assert layout(bare, "dense").returncode == 0
        assert decode_keys_record(client.get(TOKENS_RECORD)) == held(InRedis(bare), bare)[0]
        rows = [msgspec.json.decode(line) for line in bare.run("doctor", "--json").stdout.splitlines()]
        assert [row["status"] for row in rows if row["check"] in ("layout", "layout: entries")] == ["ok", "ok"]
        for last in range(3):  # on nodes of their own, or not: the scan looks at all
            name = b"v" + bytes(14) + bytes([last])
            client.set(name, "entry")
            assert "tokens migrate --to acra" in layout(bare, "acra").stderr
            client.delete(name)
        assert layout(bare, "acra").returncode == 0


def test_layout_is_not_changed_while_workers_run(bare: Stack) -> None:
    """A running worker forbids the change, and is named; so does TOKEN_WORKER_LAYOUT if it says otherwise."""
    bare.storage.set(f".acrakeys/{CLIENT.key_name}", wrap(new_key(), bare.master_key, CLIENT))
    bare.start_worker(TOKEN_WORKER_CONSUMER="worker-7")
    request = {"id": "1", "op": "detokenize", "client_id": CLIENT.id, "type": "str", "value": "no token"}
    bare.ask([request], "detokenize")
    done = layout(bare, "dense")
    assert done.returncode == 1
    assert "workers are running" in done.stderr
    assert "worker-7" in done.stderr
    done = layout(bare, "dense", TOKEN_WORKER_LAYOUT="acra")
    assert done.returncode == 1
    assert "TOKEN_WORKER_LAYOUT is acra" in done.stderr
    assert bare.storage.get(TOKENS_RECORD) is None


def test_records_are_shown_with_what_is_wrong(bare: Stack) -> None:
    """Without an argument the command shows both records; if they do not fit, it says why with exit status 1."""
    assert "acra: without a record" in layout(bare).stdout
    put(InRedis(bare), bare, DENSE, OTHER)
    done = layout(bare)
    assert done.returncode == 1
    assert ID in done.stdout
    assert "different ids" in done.stderr
    assert msgspec.json.decode(layout(bare, "--json").stdout)["layout"] is None
    bare.storage.set(TOKENS_RECORD, "damaged")
    done = layout(bare)
    assert done.returncode == 1
    assert "layout record in the token storage: damaged" in done.stderr
    assert layout(bare, "--dry-run").returncode == 2
