"""``token-worker doctor`` finds what is wrong with the layout of the token storage, and says what to do."""

import json

import pytest
from msgspec.structs import replace

from harness.key_places import Place
from harness.servers import Valkey
from harness.stack import Stack
from token_worker.acra.owner import Owner
from token_worker.keys.index_key import index_path, seal_index_key
from token_worker.keys.layout_record import TOKENS_RECORD, encode_record, layout_path, new_record
from token_worker.keys.store import new_key, wrap
from token_worker.storage.dense.entry import ALONE, FOREIGN, EntryNames, check_name

CLIENT, OTHER = Owner("client", "shop-frontend"), Owner("client", "other-client")
DENSE = new_record("dense", 0)
LAYOUT_CHECKS = ("layout", "layout: entries", "layout: index keys", "layout: check values")


@pytest.fixture
def place(place: Place, bare: Stack) -> Place:
    """A key storage in Redis or in Vault with the key of a client, which the stack uses."""
    place.put(f"{place.folder}/{CLIENT.key_name}", wrap(new_key(), bare.master_key, CLIENT))
    return place


def examine(stack: Stack, **more: str) -> dict[str, dict[str, str]]:
    """The checks about the layout, by their name."""
    rows = [json.loads(line) for line in stack.run("doctor", "--json", **more).stdout.splitlines()]
    return {row["check"]: row for row in rows if row["check"].startswith("layout")}


def put_index_key(place: Place, stack: Stack, owner: Owner = CLIENT) -> bytes:
    key = new_key()
    place.put(index_path(place.folder, owner), seal_index_key(key, stack.master_key, owner))
    return key


def make_dense(place: Place, stack: Stack) -> None:
    place.put(layout_path(place.folder), encode_record(DENSE))
    stack.storage.set(TOKENS_RECORD, encode_record(DENSE))


def test_good_storages_have_no_finding(place: Place, bare: Stack) -> None:
    """Acra's layout without a record, and a dense one with its index keys and check values, are fine."""
    bare.storage.set("tokens/abc/1", "an entry")
    bare.storage.set("visitors-2026-11", "somebody else's key, as long as an entry's")
    acra = examine(bare)
    assert {name: row["status"] for name, row in acra.items()} == {"layout": "ok", "layout: entries": "ok"}
    bare.storage.delete("tokens/abc/1")
    make_dense(place, bare)
    bare.storage.set(check_name(CLIENT), EntryNames(put_index_key(place, bare), CLIENT).check)
    bare.storage.set(b"t" + bytes(15), "an entry")
    dense = examine(bare)
    assert {name: row["status"] for name, row in dense.items()} == dict.fromkeys(LAYOUT_CHECKS, "ok")
    assert dense["layout: check values"]["message"] == "fit 1 index keys, chosen at random"


def test_records_that_differ_are_a_finding(place: Place, bare: Stack) -> None:
    """Records that do not fit, a record that is missing on either side, and a damaged one are found, with a remedy."""
    put = encode_record(DENSE)
    bare.storage.set(TOKENS_RECORD, put)
    assert "the key storage has no record" in examine(bare)["layout"]["message"]
    place.put(layout_path(place.folder), encode_record(new_record("dense", 0)))
    assert "different ids" in examine(bare)["layout"]["message"]
    place.put(layout_path(place.folder), put)
    setting = examine(bare, TOKEN_WORKER_LAYOUT="acra")["layout"]
    assert "TOKEN_WORKER_LAYOUT is acra" in setting["message"]
    bare.storage.delete(TOKENS_RECORD)
    lost = examine(bare)["layout"]
    assert lost["status"] == "finding"
    assert "has lost its data" in lost["message"]
    assert "backup" in lost["remedy"]
    bare.storage.set(TOKENS_RECORD, "damaged")
    assert "damaged" in examine(bare)["layout"]["message"]


def test_entries_of_the_other_layout_are_a_finding(place: Place, bare: Stack) -> None:
    """Dense entries in Acra's layout, and Acra's entries in a dense storage, are found and counted."""
    bare.storage.set(b"v" + bytes(15), "an entry")
    found = examine(bare)["layout: entries"]
    assert found["status"] == "finding"
    assert found["message"].startswith("1 dense entries in Acra's layout")
    bare.storage.delete(b"v" + bytes(15))
    make_dense(place, bare)
    bare.storage.mset({f"tokens/abc/{number}": "an entry" for number in range(3)})
    found = examine(bare)["layout: entries"]
    assert found["status"] == "finding"
    assert found["message"].startswith("3 entries of Acra's layout in a dense storage")


def test_foreign_entries_without_a_record_are_a_finding(place: Place, bare: Stack) -> None:
    """Entries of inconsistent tokens that were moved are found if the record does not tell workers of them."""
    make_dense(place, bare)
    bare.storage.set(b"t" + bytes(15), bytes((1 << 4 | ALONE | FOREIGN,)) + bytes(60))
    found = examine(bare)["layout: foreign entries"]
    assert found["status"] == "finding"
    assert '"foreign":true' in found["remedy"]
    record = encode_record(replace(DENSE, foreign=True))
    place.put(layout_path(place.folder), record)
    bare.storage.set(TOKENS_RECORD, record)
    assert "layout: foreign entries" not in examine(bare)


def test_index_keys_that_do_not_fit_are_findings(place: Place, bare: Stack) -> None:
    """A missing index key, a lost one, and one that did not make the stored names are told apart."""
    make_dense(place, bare)
    place.put(f"{place.folder}/{OTHER.key_name}", wrap(new_key(), bare.master_key, OTHER))
    missing = examine(bare)["layout: index keys"]
    assert "2 clients or zones have a key, but no index key" in missing["message"]
    assert "keys index --all" in missing["remedy"]
    bare.storage.set(check_name(OTHER), bytes(16))
    lost = examine(bare)["layout: index keys"]
    assert f"{OTHER.key_name}: the index key is gone, and there are tokens" in lost["message"]
    assert "do not make another" in lost["remedy"]
    for owner in (CLIENT, OTHER):
        put_index_key(place, bare, owner)
    found = examine(bare)
    assert found["layout: index keys"]["status"] == "ok"
    assert found["layout: check values"]["status"] == "finding"
    assert OTHER.key_name in found["layout: check values"]["message"]
    assert CLIENT.key_name not in found["layout: check values"]["message"]
    place.put(index_path(place.folder, OTHER), seal_index_key(new_key(), bytes(32), OTHER))
    closed = examine(bare)["layout: check values"]
    assert OTHER.key_name in closed["message"]
    assert "keys verify" in closed["remedy"]
    assert "backup" not in closed["remedy"]


def test_missing_rights_are_named() -> None:
    """A user without the right to look gets ``unknown`` with that right, never ``ok``."""
    with Valkey() as streams, Valkey() as storage, Stack(streams, storage) as stack:
        stack.generate_key(CLIENT.id)
        rights = ["~.acrakeys/*", "+mget", "+info", "+time"]
        stack.storage.execute_command("ACL", "SETUSER", "worker", "on", ">secret", *rights)
        url = storage.url.replace("redis://", "redis://worker:secret@")
        found = examine(stack, TOKEN_WORKER_KEYS_URL=url)["layout"]
        assert found["status"] == "unknown"
        assert ".acrakeys.layout" in found["remedy"]
        stack.storage.execute_command("ACL", "SETUSER", "worker", "~.acrakeys.layout")
        found = examine(stack, TOKEN_WORKER_KEYS_URL=url)["layout"]
        assert found["status"] == "unknown"
        assert TOKENS_RECORD in found["remedy"]
        stack.storage.execute_command("ACL", "SETUSER", "worker", f"~{TOKENS_RECORD}", "+get")
        entries = examine(stack, TOKEN_WORKER_KEYS_URL=url)["layout: entries"]
        assert entries["status"] == "unknown"
        assert "+scan" in entries["remedy"]
