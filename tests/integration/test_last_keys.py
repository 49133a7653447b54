"""``token-worker keys destroy --last``: all keys of a client are moved aside, and a week later deleted for good."""

import contextlib
import json
import time
from typing import Any

import pytest

from harness.key_places import Fuse, InRedis, InVault, Killed, Place, keys_command
from harness.servers import Cluster, OpenBao
from harness.stack import Stack
from token_worker.acra.key_name import parse_name, stamp_of
from token_worker.acra.owner import Owner
from token_worker.admin.destroy import SETTLED_SECONDS
from token_worker.admin.entry_scan import scan_entries
from token_worker.admin.entry_store import ServerEntries
from token_worker.admin.index_keys import make_index_key
from token_worker.admin.keys import locate_keys, open_key
from token_worker.admin.last_keys import LastKeys
from token_worker.admin.set_aside import KEPT_SECONDS, SetAside
from token_worker.errors import CheckFailed
from token_worker.keys.index_key import index_name, index_path, seal_index_key
from token_worker.keys.layout_record import TOKENS_RECORD, encode_record, layout_path, new_record
from token_worker.keys.master import MasterKeys
from token_worker.keys.store import new_key, wrap
from token_worker.redis.address import RedisSettings, parse
from token_worker.redis.cluster_pipeline import ClusterPipeline
from token_worker.redis.link import RedisLink
from token_worker.storage.dense.entry import EntryNames, SealKey, check_name

OWNER = Owner("client", "shop-frontend")
OTHER = Owner("client", "other_client")
NAME = OWNER.key_name
HISTORY = f"{NAME}.old/2026-01-31T08:15:30.25"
ALL = [NAME, HISTORY, f".index/{NAME}"]
CONFIRMED = ("--confirm", OWNER.id, "--unused-elsewhere")


@pytest.fixture(params=["redis", "vault"])
def place(request: pytest.FixtureRequest, stack: Stack, openbao_server: OpenBao) -> Place:
    """The key storage of the dense layout: a client with a key, a key of the history and an index key, and another."""
    found: Place = InRedis(stack) if request.param == "redis" else InVault(openbao_server)
    stack.storage.flushall()
    record = encode_record(new_record("dense", 0))
    found.put(layout_path(found.folder), record)
    stack.storage.set(TOKENS_RECORD, record)
    for path in (NAME, HISTORY):
        found.put(f"{found.folder}/{path}", wrap(new_key(), stack.master_key, OWNER))
    found.put(f"{found.folder}/{OTHER.key_name}", wrap(new_key(), stack.master_key, OTHER))
    for owner in (OWNER, OTHER):
        found.put(index_path(found.folder, owner), seal_index_key(new_key(), stack.master_key, owner))
    stack.settings |= found.settings
    return found


def state(place: Place) -> dict[str, list[str]]:
    """The names of the client's keys by the folder that they are in."""
    folders = {"live": place.folder, "index": f"{place.folder}.index", "retired": f"{place.folder}.retired"}
    names = {where: [name for name in place.names(folder) if OWNER.id in name] for where, folder in folders.items()}
    return {where: found for where, found in names.items() if found}


LIVE = {"live": [NAME, HISTORY], "index": [NAME]}
RETIRED = {"retired": sorted(ALL)}


def destroy(stack: Stack, place: Place, *options: str) -> tuple[int, str]:
    done = keys_command(stack, place, "destroy", OWNER.id, "--last", *options)
    return done.returncode, done.stdout + done.stderr


def make_due(place: Place) -> None:
    """Move the times in the keys' records back, so that the next step is due."""
    for name in ALL:
        record = json.loads(place.get(f"{place.folder}.scans/{name}") or b"{}")
        record["retired_at"] -= KEPT_SECONDS + 1
        place.put(f"{place.folder}.scans/{name}", json.dumps(record))


def request(op: str, value: str, name: str) -> dict[str, Any]:
    return {"id": name, "op": op, "client_id": OWNER.id, "type": "str", "value": value}


def test_old_dump_of_the_tokens_is_worth_nothing_afterwards(place: Place, stack: Stack) -> None:
    """After both steps, no key that is left opens an entry of an old dump, or knows a name in it.

    The id may get new keys then, and the worker answers for them; the other client is not touched.
    """
    worker = stack.start_worker()
    [reply] = stack.ask([request("tokenize", "a value of the client", "1")]).values()
    assert reply["status"] == "ok"
    dump = {key: stack.storage.get(key) for key in stack.storage.keys("[vtc]" + 15 * "?")}
    assert len(dump) == 3
    worker.kill()

    status, text = destroy(stack, place, "--dry-run")
    assert (status, state(place)) == (0, LIVE), text
    assert "entries in the token storage that will be lost for good: 2" in text
    assert f".index/{NAME}: would be: moved aside" in text
    status, text = destroy(stack, place, *CONFIRMED)
    assert (status, state(place)) == (0, RETIRED), text
    assert "next step: " in text
    assert keys_command(stack, place, "verify").returncode == 0
    status, text = destroy(stack, place, *CONFIRMED)
    assert (status, "the next step is due at" in text) == (1, True), text
    make_due(place)
    status, text = destroy(stack, place, *CONFIRMED)
    assert (status, state(place)) == (0, {}), text
    assert f".index/{NAME}: deleted" in text
    assert "entries in the token storage that are lost for good: 2" in text
    assert place.names(f"{place.folder}.scans") == []
    assert not stack.storage.exists(check_name(OWNER))
    assert destroy(stack, place, *CONFIRMED)[0] == 1

    store, masters = place.store(), MasterKeys(stack.master_key)
    left = [open_key(key.name, place.get(key.path) or b"", masters)[0] for key in locate_keys(store)]
    assert len(left) == 2
    for key in (*left, stack.master_key):
        names = EntryNames(key, OWNER)
        assert names.of_value(b"a value of the client", 3) not in dump
        assert names.of_token(reply["value"].encode(), 3) not in dump
        entries = [(name, raw) for name, raw in dump.items() if name[:1] in b"vt"]
        assert [SealKey(key, OWNER).open(name, raw) for name, raw in entries] == [None, None]

    assert keys_command(stack, place, "generate", OWNER.id).returncode == 0
    stack.start_worker()
    requests = [request("detokenize", reply["value"], "2"), request("tokenize", "a value of the client", "3")]
    replies = stack.ask(requests[:1], "detokenize") | stack.ask(requests[1:])
    assert replies["2"]["error"]["code"] == "token_not_found"
    assert replies["3"]["status"] == "ok"
    assert replies["3"]["value"] != reply["value"]
    assert index_name(OTHER).name in {row.name.name for row in locate_keys(store)}


@pytest.mark.parametrize("arguments", [("destroy", OWNER.id, "--last", *CONFIRMED), ("destroy", HISTORY, "--dry-run")])
def test_no_key_is_destroyed_because_another_token_storage_lacks_its_entries(
    place: Place, stack: Stack, arguments: tuple[str, ...]
) -> None:
    """With the address of another token storage, where no entry is, no step is done. `--restore` works all the same."""
    stack.settings["TOKEN_WORKER_TOKENS_URL"] = stack.settings["TOKEN_WORKER_STREAMS_URL"]
    done = keys_command(stack, place, *arguments)
    assert (done.returncode, state(place)) == (2, LIVE), done.stderr
    assert "the token storage has no record: it is another one" in done.stderr
    assert keys_command(stack, place, "destroy", OWNER.id, "--last", "--restore").returncode == 1


def test_keys_come_back(place: Place, stack: Stack) -> None:
    """Between the two steps the client is unknown, and `--restore` brings all of its keys back as they were."""
    stack.start_worker()
    [before] = stack.ask([request("tokenize", "a value", "1")]).values()
    stack.workers.pop().kill()
    assert destroy(stack, place, "--restore")[0] == 1
    assert destroy(stack, place, *CONFIRMED)[0] == 0

    stack.start_worker()
    [gone] = stack.ask([request("tokenize", "a value", "2")]).values()
    assert gone["error"]["code"] == "unknown_client"
    refused = keys_command(stack, place, "generate", OWNER.id)
    assert (refused.returncode, "is being destroyed" in refused.stderr) == (1, True)
    for command in (("keys", "index"), ("keys", "rotate", "--yes"), ("tokens", "status"), ("tokens", "verify")):
        refused = stack.run(*command, OWNER.id, **place.settings)
        told = f"`token-worker keys destroy {OWNER.id} --last --restore`" in refused.stderr
        assert (refused.returncode, told) == (1, True), (command, refused.stderr)
    status, text = destroy(stack, place, "--restore", "--dry-run")
    assert (status, state(place)) == (0, RETIRED), text
    status, text = destroy(stack, place, "--restore")
    assert (status, state(place)) == (0, LIVE), text
    assert place.names(f"{place.folder}.scans") == []

    stack.workers.pop().kill()
    stack.start_worker()
    [after] = stack.ask([request("tokenize", "a value", "3")]).values()
    assert after["value"] == before["value"]


def test_nothing_happens_without_the_typed_id(place: Place, stack: Stack) -> None:
    """Without a terminal, both confirmations are needed, and the id has to be the same: exit status 2."""
    for options in ((), CONFIRMED[:2], CONFIRMED[2:], ("--confirm", OTHER.id, "--unused-elsewhere")):
        status, text = destroy(stack, place, *options)
        assert (status, state(place)) == (2, LIVE), text
    assert destroy(stack, place, *CONFIRMED, "--acra-restarted")[0] == 2
    assert destroy(stack, place, "--restore", *CONFIRMED)[0] == 2
    assert keys_command(stack, place, "destroy", HISTORY, "--confirm", OWNER.id).returncode == 2


def last_keys(place: Place, stack: Stack, fuse: Fuse | None = None) -> LastKeys:
    tokens = RedisLink("tokens", RedisSettings(url=stack.settings["TOKEN_WORKER_KEYS_URL"]), raise_server_errors=True)
    return LastKeys(place.store(fuse), MasterKeys(stack.master_key), ServerEntries(tokens), OWNER)


def texts(place: Place, stack: Stack) -> set[bytes]:
    """Every key of the client that is anywhere, opened."""
    masters, store = MasterKeys(stack.master_key), place.store()
    found = [key for key in locate_keys(store) if key.name.owner == OWNER]
    stored = store.read([key.path for key in found])
    return {open_key(key.name, one.text, masters)[0] for key, one in zip(found, stored, strict=True) if one is not None}


def test_cut_short_anywhere_and_done_again(place: Place, stack: Stack) -> None:
    """Ended before or after any call, no key is lost before its time, and a key in use has its index key beside it.

    Done again, the step is done.
    """
    before, cut = texts(place, stack), 0
    for at in range(1, 60, 1 if isinstance(place, InRedis) else 6):
        for step in ("step", "restore"):
            done = False
            with contextlib.suppress(Killed):
                getattr(last_keys(place, stack, Fuse(at)), step)()
                done = True
            cut += not done
            assert texts(place, stack) == before, at
            [key, index] = place.store().read([f"{place.folder}/{NAME}", index_path(place.folder, OWNER)])
            assert key is None or index is not None, at
            with contextlib.suppress(CheckFailed):  # it was done
                getattr(last_keys(place, stack), step)()
            assert state(place) == (RETIRED if step == "step" else LIVE), at
        assert place.names(f"{place.folder}.scans") == []
    assert cut > 5


def retire_again(place: Place, stack: Stack) -> None:
    """Give the client new keys and a check value, and move the keys aside for more than a week."""
    for path, text in (
        (f"{place.folder}/{NAME}", wrap(new_key(), stack.master_key, OWNER)),
        (f"{place.folder}/{HISTORY}", wrap(new_key(), stack.master_key, OWNER)),
        (index_path(place.folder, OWNER), seal_index_key(new_key(), stack.master_key, OWNER)),
    ):
        place.put(path, text)
    stack.storage.set(check_name(OWNER), bytes(16))
    assert last_keys(place, stack).step().what == "retired"
    make_due(place)


def test_deletion_cut_short_anywhere_and_done_again(place: Place, stack: Stack) -> None:
    """The last step, ended before or after any call and done again, leaves no key, no record and no check value."""
    cut = 0
    for at in range(2, 70, 2):
        retire_again(place, stack)
        done = False
        with contextlib.suppress(Killed):
            last_keys(place, stack, Fuse(at)).step()
            done = True
        cut += not done
        with contextlib.suppress(CheckFailed):  # it was done
            last_keys(place, stack).step()
        assert state(place) == {}, at
        assert place.names(f"{place.folder}.scans") == [], at
        assert not stack.storage.exists(check_name(OWNER))
        if done:
            break
    assert done
    assert cut > 2


def test_deletion_cut_short_anywhere_and_taken_back(place: Place, stack: Stack) -> None:
    """If what an interrupted deletion has left is restored, no index key is made in place of the one of the tokens."""
    tokens = RedisLink("tokens", RedisSettings(url=stack.settings["TOKEN_WORKER_KEYS_URL"]), raise_server_errors=True)
    for at in range(2, 70, 4):
        retire_again(place, stack)
        done = False
        with contextlib.suppress(Killed):
            last_keys(place, stack, Fuse(at)).step()
            done = True
        if done:
            break
        with contextlib.suppress(CheckFailed):  # all of them were deleted
            last_keys(place, stack).restore()
        index_key = place.get(index_path(place.folder, OWNER))
        made = make_index_key(place.store(), MasterKeys(stack.master_key), OWNER, tokens)
        assert made == ("lost" if index_key is None else "present"), at
        assert stack.storage.exists(check_name(OWNER))
    assert done
    tokens.close()


def test_two_keys_with_one_name(place: Place, stack: Stack) -> None:
    """If another key has the name of one that was moved aside, neither takes the other's place; no key moves."""
    assert last_keys(place, stack).step().what == "retired"
    place.put(index_path(place.folder, OWNER), seal_index_key(new_key(), stack.master_key, OWNER))
    before, names = texts(place, stack), state(place)
    for step in ("step", "restore"):
        with pytest.raises(CheckFailed, match=f".index/{NAME}: another key with this name was moved aside"):
            getattr(last_keys(place, stack), step)()
        assert (texts(place, stack), state(place)) == (before, names)


def test_no_index_key_is_made_beside_one_that_was_moved_aside(place: Place, stack: Stack) -> None:
    """Two operators who destroy and restore at once can leave an index key aside, and the key in its place."""
    assert last_keys(place, stack).step().what == "retired"
    SetAside(place.store(), MasterKeys(stack.master_key)).restore(parse_name(NAME))
    refused = keys_command(stack, place, "index", OWNER.id)
    assert refused.returncode == 1
    assert "`token-worker keys destroy --last --restore` brings it back" in refused.stdout
    assert destroy(stack, place, "--restore")[0] == 0
    assert (state(place), keys_command(stack, place, "index", OWNER.id).returncode) == (LIVE, 0)


def test_key_that_does_not_open_stops_it(place: Place, stack: Stack) -> None:
    """If the master key does not open one of the keys, none is moved."""
    place.put(index_path(place.folder, OWNER), seal_index_key(new_key(), bytes(32), OWNER))
    status, text = destroy(stack, place, "--dry-run")
    assert (status, state(place)) == (1, LIVE)
    assert f".index/{NAME}: the master key does not open it; nothing was changed" in text


def test_client_whose_keys_were_lost_may_get_new_ones(place: Place, stack: Stack) -> None:
    """A check value without any key is deleted after the same confirmation; then the client may get new keys."""
    assert last_keys(place, stack).step().what == "retired"
    make_due(place)
    assert last_keys(place, stack).step().what == "deleted"
    stack.storage.set(check_name(OWNER), bytes(16))
    assert keys_command(stack, place, "generate", OWNER.id).returncode == 1

    assert destroy(stack, place, "--dry-run")[0] == 0
    assert destroy(stack, place)[0] == 2
    assert stack.storage.exists(check_name(OWNER))
    status, text = destroy(stack, place, "--confirm", OWNER.id)
    assert (status, "had no key" in text) == (0, True), text
    assert keys_command(stack, place, "generate", OWNER.id).returncode == 0


def test_tokens_that_cannot_be_counted_are_not_told_as_none(place: Place, stack: Stack) -> None:
    """Without the index key nobody can count the tokens that the check value tells of; then no number is told."""
    store, path = place.store(), index_path(place.folder, OWNER)
    [stored] = store.read([path])
    assert stored is not None
    assert store.remove(path, stored, f"{place.folder}.scans/none")
    status, text = destroy(stack, place, "--dry-run")
    assert (status, "will be lost for good: 0" in text) == (0, True), text
    stack.storage.set(check_name(OWNER), bytes(16))
    status, text = destroy(stack, place, "--dry-run")
    told = "will be lost for good: cannot be counted, because the index key is gone" in text
    assert (status, told) == (0, True), text


def test_scan_finds_entries_of_the_dense_layout(stack: Stack) -> None:
    """A key of the history that seals entries of the dense layout is found in use, with and without the index key."""
    tokens = RedisLink("tokens", RedisSettings(url=stack.settings["TOKEN_WORKER_KEYS_URL"]), raise_server_errors=True)
    key, index = new_key(), b"\\x2a" + bytes(31)
    names = EntryNames(index, OWNER)
    for number in range(3):
        name = names.of_value(b"value %d" % number, 3)
        sealed_with = SealKey(key if number else new_key(), OWNER)
        stack.storage.set(name, sealed_with.seal(name, sealed_with.head(0, 1), b"\\3\\0token"))
    stack.storage.set(names.of_token(b"damaged", 3), b"x")
    stack.storage.set(names.of_token(b"another length", 3) + b"x", b"x")

    assert scan_entries(ServerEntries(tokens), OWNER, key, index) == (4, 2, 1)
    assert scan_entries(ServerEntries(tokens), OWNER, key).opened == 2
    assert scan_entries(ServerEntries(tokens), OTHER, key, index).opened == 0
    tokens.close()


def test_key_that_seals_dense_entries_is_not_destroyed(place: Place, stack: Stack) -> None:
    """`keys destroy` of a key of the history scans the dense layout, too, and says that the index key stays."""
    name = f"{NAME}.old/{stamp_of(int((time.time() - SETTLED_SECONDS - 60) * 1e9))}"
    key, index = new_key(), new_key()
    place.put(f"{place.folder}/{name}", wrap(key, stack.master_key, OWNER))
    place.put(index_path(place.folder, OWNER), seal_index_key(index, stack.master_key, OWNER))
    free = keys_command(stack, place, "destroy", name, "--dry-run")
    assert (free.returncode, "the index key of the client stays" in free.stdout) == (0, True), free.stderr
    entry, seal_key = EntryNames(index, OWNER).of_token(b"token", 3), SealKey(key, OWNER)
    stack.storage.set(entry, seal_key.seal(entry, seal_key.head(0, 1), b"\\3value"))

    done = keys_command(stack, place, "destroy", name)

    assert done.returncode == 1
    assert "1 of 1 token entries are sealed with it" in done.stderr


def test_tokens_in_a_cluster(stack: Stack) -> None:
    """Entries on all nodes are scanned and counted, and the check value is deleted from the node that has it."""
    in_redis, index, key = InRedis(stack), new_key(), new_key()
    old = f"{NAME}.old/{stamp_of(int((time.time() - SETTLED_SECONDS - 60) * 1e9))}"
    for name, one in ((NAME, new_key()), (old, key)):
        in_redis.put(f".acrakeys/{name}", wrap(one, stack.master_key, OWNER))
    in_redis.put(index_path(".acrakeys", OWNER), seal_index_key(index, stack.master_key, OWNER))
    names, seal_key = EntryNames(index, OWNER), SealKey(key, OWNER)
    record = encode_record(new_record("dense", 0))
    in_redis.put(layout_path(".acrakeys"), record)
    with Cluster(replicas=0) as cluster:
        stack.settings["TOKEN_WORKER_TOKENS_URL"] = cluster.url
        pipeline = ClusterPipeline("tokens", parse(cluster.url))
        pipeline.call("SET", TOKENS_RECORD, record)
        for number in range(30):
            entry = names.of_token(b"%d" % number, 3)
            pipeline.call("SET", entry, seal_key.seal(entry, seal_key.head(0, 1), b"\3value"))
        pipeline.call("SET", check_name(OWNER), names.check)

        used = keys_command(stack, in_redis, "destroy", old)
        assert (used.returncode, "30 of 30 token entries" in used.stderr) == (1, True), used.stderr
        status, text = destroy(stack, in_redis, *CONFIRMED)
        assert (status, "will be lost for good: 30" in text) == (0, True), text
        for name in (NAME, old, f".index/{NAME}"):
            in_redis.put(f".acrakeys.scans/{name}", '{"scanned_at": 0, "retired_at": 0}')
        status, text = destroy(stack, in_redis, *CONFIRMED)
        assert (status, pipeline.call("GET", check_name(OWNER))) == (0, None), text
        assert in_redis.names(".acrakeys.retired") == []
        pipeline.close()
