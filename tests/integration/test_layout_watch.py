"""A worker serves a token storage in the layout that both records name, and looks again on every new connection."""

import secrets
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from harness.fetching import get
from harness.key_places import InRedis, InVault, Place
from harness.servers import DEPLOY_FILES, OpenBao, Valkey, free_port
from harness.stack import Stack, has_logged, wait_until
from token_worker.acra.owner import Owner
from token_worker.keys.index_key import index_path, seal_index_key
from token_worker.keys.layout_record import TOKENS_RECORD, LayoutRecord, encode_record, layout_path, new_record
from token_worker.keys.store import new_key, wrap

CLIENT = Owner("client", "shop-frontend")
REQUEST = {"op": "tokenize", "client_id": CLIENT.id, "type": "str", "value": "any value"}
ACRA, OTHER, DENSE = (new_record(layout, 0) for layout in ("acra", "acra", "dense"))


@pytest.fixture
def place(place: Place, bare: Stack) -> Place:
    """A key storage in Redis or in Vault with a client's key, which the stack uses."""
    place.put(f"{place.folder}/{CLIENT.key_name}", wrap(new_key(), bare.master_key, CLIENT))
    return place


def record(place: Place, tokens: Any, in_keys: LayoutRecord | None, in_tokens: LayoutRecord | None) -> None:
    if in_keys is not None:
        place.put(layout_path(place.folder), encode_record(in_keys))
    if in_tokens is not None:
        tokens.set(TOKENS_RECORD, encode_record(in_tokens))


@pytest.mark.parametrize(
    ("in_keys", "in_tokens", "setting", "words"),
    [
        (None, None, "dense", "TOKEN_WORKER_LAYOUT is dense, but there is no record"),
        (DENSE, DENSE, "acra", "TOKEN_WORKER_LAYOUT is acra, but the key storage records dense"),
        (DENSE, None, "", "the token storage has no record: it is another one, or has lost its data"),
        (None, DENSE, "", "the key storage has no record"),
        (ACRA, OTHER, "", "have different ids"),
        (DENSE, replace(DENSE, unfinished=True), "", "a move is unfinished"),
        (DENSE, replace(DENSE, foreign=True), "", "only one of the layout records says"),
    ],
)
def test_worker_does_not_start_in_another_layout(
    place: Place,
    bare: Stack,
    tmp_path: Path,
    in_keys: LayoutRecord | None,
    in_tokens: LayoutRecord | None,
    setting: str,
    words: str,
) -> None:
    """If records and setting do not fit, a worker ends with exit status 2, says what to do, and has read nothing."""
    record(place, bare.storage, in_keys, in_tokens)
    log = tmp_path / "log"
    worker = bare.start_worker(log=log, TOKEN_WORKER_LAYOUT=setting)
    assert worker.wait() == 2
    assert words in log.read_text()
    assert not bare.streams.exists("tokenize:requests")


@pytest.mark.parametrize(("in_both", "setting"), [(None, ""), (None, "acra"), (ACRA, ""), (ACRA, "acra")])
def test_worker_starts_where_records_agree(
    place: Place, bare: Stack, tmp_path: Path, in_both: LayoutRecord | None, setting: str
) -> None:
    """Without records, and with equal ones, a worker serves, and its log names the layout."""
    record(place, bare.storage, in_both, in_both)
    log = tmp_path / "log"
    bare.start_worker(log=log, TOKEN_WORKER_LAYOUT=setting)
    assert bare.ask([REQUEST | {"id": "1"}])["1"]["status"] == "ok"
    assert has_logged(log, "layout of tokens", '"layout": "acra"')


def test_worker_serves_a_dense_storage(place: Place, bare: Stack) -> None:
    """With dense records and an index key, a worker stores tokens in the dense layout, and in no other."""
    record(place, bare.storage, DENSE, DENSE)
    place.put(index_path(place.folder, CLIENT), seal_index_key(new_key(), bare.master_key, CLIENT))
    bare.start_worker(TOKEN_WORKER_LAYOUT="dense")
    token = bare.ask([REQUEST | {"id": "1"}])["1"]["value"]
    again = REQUEST | {"id": "2", "op": "detokenize", "value": token}
    assert bare.ask([again], "detokenize")["2"]["value"] == REQUEST["value"]
    names = set(bare.storage.scan_iter("*")) - set(bare.storage.scan_iter(".acrakeys*"))
    assert sorted(bytes(name[:1]) for name in names if len(name) == 16) == [b"c", b"t", b"v"]
    assert {name for name in names if len(name) != 16} == {TOKENS_RECORD.encode()}


def test_unreadable_record_is_named(bare: Stack, tmp_path: Path) -> None:
    """A damaged record, and one of a newer version, stop the start in words."""
    log = tmp_path / "log"
    bare.storage.set(TOKENS_RECORD, '{"layout":')
    assert bare.start_worker(log=log).wait() == 2
    assert "layout record in the token storage: damaged" in log.read_text()
    bare.storage.set(layout_path(".acrakeys"), encode_record(ACRA).replace(b"acra", b"tiny"))
    assert bare.start_worker(log=log).wait() == 2
    assert "layout record in the key storage: written by a newer version" in log.read_text()


def test_running_worker_stops_reading_while_another_token_storage_answers(bare: Stack, tmp_path: Path) -> None:
    """If another token storage, or an empty one, answers, nothing is read or written; then the worker goes on."""
    place, port = InRedis(bare), free_port()
    place.put(f".acrakeys/{CLIENT.key_name}", wrap(new_key(), bare.master_key, CLIENT))
    with Valkey() as tokens_server, tokens_server.client() as tokens:
        bare.settings["TOKEN_WORKER_TOKENS_URL"] = tokens_server.url
        record(place, tokens, ACRA, ACRA)
        log = tmp_path / "log"
        bare.start_worker(log=log, TOKEN_WORKER_HTTP_ADDRESS=f"127.0.0.1:{port}")
        assert bare.ask([REQUEST | {"id": "1"}])["1"]["status"] == "ok"
        for number, (another, words) in enumerate([(OTHER, "different ids"), (None, "has lost its data")]):
            tokens.delete(TOKENS_RECORD)
            record(place, tokens, None, another)
            held = tokens.dbsize()
            tokens.client_kill_filter(_type="normal", skipme=True)
            bare.send([REQUEST | {"id": f"waits {number}", "value": f"new {number}"}])
            wait_until(lambda words=words: words in get(f"http://127.0.0.1:{port}/readyz")[1], words)  # type: ignore[misc]
            assert tokens.dbsize() == held
            assert bare.streams.xlen("tokenize:responses") == 1 + number
            assert has_logged(log, "server unavailable", '"code": "LAYOUT"', words)
            record(place, tokens, None, ACRA)
            assert len(bare.wait_for_replies(2 + number)) == 2 + number
        assert all(reply["status"] == "ok" for reply in bare.replies())


def test_running_worker_notices_that_its_token_storage_was_emptied(bare: Stack, tmp_path: Path) -> None:
    """A FLUSHALL closes no connection. A busy worker stops soon all the same, and goes on when the data is back."""
    place, port, log = InRedis(bare), free_port(), tmp_path / "log"
    place.put(f".acrakeys/{CLIENT.key_name}", wrap(new_key(), bare.master_key, CLIENT))
    with Valkey() as tokens_server, tokens_server.client() as tokens:
        bare.settings["TOKEN_WORKER_TOKENS_URL"] = tokens_server.url
        record(place, tokens, ACRA, ACRA)
        bare.start_worker(log=log, TOKEN_WORKER_HTTP_ADDRESS=f"127.0.0.1:{port}")
        assert bare.ask([REQUEST | {"id": "0"}])["0"]["status"] == "ok"
        sent = 1

        def is_noticed() -> bool:
            nonlocal sent
            bare.send([REQUEST | {"id": str(sent), "value": f"new {sent}"}])
            sent += 1
            return "has lost its data" in get(f"http://127.0.0.1:{port}/readyz")[1]

        tokens.flushall()
        wait_until(is_noticed, "the worker to say so")
        held, answered = tokens.dbsize(), bare.streams.xlen("tokenize:responses")
        assert answered < sent
        is_noticed()
        assert (tokens.dbsize(), bare.streams.xlen("tokenize:responses")) == (held, answered)
        record(place, tokens, None, ACRA)
        assert len(bare.wait_for_replies(sent)) == sent
        assert has_logged(log, "server unavailable", '"code": "LAYOUT"', "has lost its data")


def test_missing_right_is_named(tmp_path: Path) -> None:
    """A worker that may not read a record is not ready, and names the right; TOKEN_WORKER_LAYOUT=acra does without."""
    with Valkey() as streams, Valkey() as storage, Stack(streams, storage) as stack:
        stack.generate_key(CLIENT.id)
        rights = [
            "~.acrakeys/*",
            "~tokens/*",
            "+mget",
            "+msetnx",
            "+get",
            "+set",
            "+scan",
            "+evalsha",
            "+eval",
            "+ping",
        ]
        stack.storage.execute_command("ACL", "SETUSER", "worker", "on", ">secret", *rights)
        url = storage.url.replace("redis://", "redis://worker:secret@")
        log = tmp_path / "log"
        first = stack.start_worker(log=log, TOKEN_WORKER_KEYS_URL=url)
        told = ('"code": "LAYOUT"', "may not read the layout record (NOPERM)", "token-worker acl")
        wait_until(lambda: has_logged(log, *told), "the right")
        stack.storage.execute_command("ACL", "SETUSER", "worker", "~.acrakeys.layout")
        wait_until(lambda: has_logged(log, f"may not read {TOKENS_RECORD} (NOPERM)"), "the other right")
        first.kill()
        stack.start_worker(TOKEN_WORKER_KEYS_URL=url, TOKEN_WORKER_LAYOUT="acra")
        assert stack.ask([REQUEST | {"id": "1"}])["1"]["status"] == "ok"
        for worker in stack.workers:
            worker.kill()


def test_missing_right_in_vault_is_named(bare: Stack, openbao_server: OpenBao, tmp_path: Path) -> None:
    """The same holds for a record in Vault: the path is named that the policy lacks."""
    place = InVault(openbao_server)
    place.put(f"{place.folder}/{CLIENT.key_name}", wrap(new_key(), bare.master_key, CLIENT))
    policy = (DEPLOY_FILES / "vault" / "all-keys.hcl").read_text().replace(".acrakeys.layout", "another-record")
    name = f"no-record-{secrets.token_hex(4)}"
    place.api("POST", f"sys/policies/acl/{name}", {"policy": policy.replace(".acrakeys", place.folder)})
    made = place.api("POST", "auth/token/create", {"policies": [name], "no_default_policy": True, "ttl": "1h"})
    tokens_url = {"TOKEN_WORKER_TOKENS_URL": bare.settings["TOKEN_WORKER_KEYS_URL"]}
    bare.settings |= {**place.settings, **tokens_url, "VAULT_TOKEN": made["auth"]["client_token"]}
    log = tmp_path / "log"
    first = bare.start_worker(log=log)
    words = f"`read` on secret/data/{place.folder}.layout; or set TOKEN_WORKER_LAYOUT=acra"
    wait_until(lambda: has_logged(log, "server unavailable", words), words)
    assert first.is_alive
    first.kill()
    bare.start_worker(TOKEN_WORKER_LAYOUT="acra")
    assert bare.ask([REQUEST | {"id": "1"}])["1"]["status"] == "ok"
