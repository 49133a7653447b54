"""``token-worker keys`` list, show, verify, rotate and destroy: on keys in Redis and in Vault."""

import base64
import contextlib
import json
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from harness.direct import DirectHandler, Vectors
from harness.key_places import Fuse, InRedis, InVault, Killed, Place, fingerprint, keys_command, killed_command
from harness.servers import OpenBao, Valkey, free_port
from harness.stack import Stack
from token_worker.acra.key_name import parse_name, stamp_of
from token_worker.acra.owner import Owner
from token_worker.admin.destroy import SETTLED_SECONDS, Destruction
from token_worker.admin.entry_scan import scan_entries
from token_worker.admin.entry_store import ServerEntries
from token_worker.admin.rotate import rotate
from token_worker.admin.set_aside import KEPT_SECONDS
from token_worker.errors import CheckFailed
from token_worker.keys.cache import AGE_SECONDS, KeyCache
from token_worker.keys.keyring import Keyring
from token_worker.keys.master import MasterKeys
from token_worker.keys.store import RedisKeyStore, VaultKeyStore, unwrap, wrap
from token_worker.keys.vault_kv import VaultKv
from token_worker.redis.address import RedisSettings
from token_worker.redis.link import RedisLink
from token_worker.settings.vault import VaultSettings

OWNER = Owner("client", "shop-frontend")
NAME = OWNER.key_name
LISTING = json.loads((Path(__file__).parents[1] / "vectors" / "acra-keystore.json").read_text())["acra_listing"]


@pytest.fixture(params=["redis", "vault"])
def place(request: pytest.FixtureRequest, stack: Stack, openbao_server: OpenBao) -> Place:
    """The key storage, with the key of the stack's client."""
    if request.param == "redis":
        return InRedis(stack)
    text = stack.storage.getdel(f".acrakeys/{NAME}")
    vault = InVault(openbao_server)
    vault.put(f"{vault.folder}/{NAME}", text)
    return vault


@pytest.fixture
def acras(place: Place, stack: Stack) -> Place:
    """The key storage that Acra wrote, with every kind of key."""
    vectors = Vectors("acra-keystore")
    for name, text in vectors.redis.items():
        place.put(name.replace(".acrakeys", place.folder, 1), text)
    stack.settings["ACRA_MASTER_KEY"] = base64.b64encode(vectors.master_key).decode()
    return place


@pytest.fixture
def in_redis(stack: Stack) -> InRedis:
    return InRedis(stack)


def masters(stack: Stack) -> MasterKeys:
    return MasterKeys(stack.master_key)


def key_of(stack: Stack, place: Place, name: str = NAME) -> str:
    """The fingerprint of the key that is stored under a name."""
    text = place.get(f"{place.folder}/{name}")
    assert text is not None
    return fingerprint(unwrap(text, stack.master_key, OWNER))


def history(place: Place) -> list[str]:
    return [name for name in place.names(place.folder) if name.startswith(f"{NAME}.old/")]


def aged(seconds: float) -> str:
    """Name in the history of a key that was replaced so long ago."""
    return f"{NAME}.old/{stamp_of(int((time.time() - seconds) * 1e9))}"


def rows(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def tokenize(value: str) -> dict[str, Any]:
    return {"op": "tokenize", "client_id": OWNER.id, "type": "str", "value": value}


def test_list_is_acras_listing(acras: Place, stack: Stack) -> None:
    """Every kind of key is listed as Acra lists it, and the history with its time; it takes no master key."""
    done = keys_command(stack, acras, "list", "--json", ACRA_MASTER_KEY="")
    assert done.returncode == 0, done.stderr
    found = rows(done.stdout)
    current = [row for row in found if row["state"] == "current"]
    assert [(row["key_id"], row["purpose"], row["client_id"]) for row in current] == [
        (row["KeyID"], row["Purpose"], row.get("ClientID")) for row in LISTING
    ]
    assert {row["key_id"]: row["creation_time"] for row in found if row["state"] == "rotated"} == {
        "shop-frontend_hmac": "2026-11-23T22:38:38.607466839Z",
        "shop-frontend_storage": "2026-11-23T22:38:38.605800749Z",
        "shop-frontend_storage.pub": "2026-11-23T22:38:38.60647108Z",
        "shop-frontend_storage_sym": "2026-11-23T22:38:38.606984849Z",
    }
    table = keys_command(stack, acras, "list", ACRA_MASTER_KEY="")
    assert all(row["Purpose"] in table.stdout for row in LISTING)


def test_verify_opens_all_that_acra_wrote(acras: Place, stack: Stack) -> None:
    """The master key opens every sealed key of Acra's storage; public keys are not sealed."""
    done = keys_command(stack, acras, "verify", "--json")
    assert done.returncode == 0, done.stderr
    assert {row["sealed_with"] for row in rows(done.stdout) if ".pub" in row["name"]} == {"public"}
    assert {row["sealed_with"] for row in rows(done.stdout) if ".pub" not in row["name"]} == {"current"}


def test_verify_names_what_is_wrong(acras: Place, stack: Stack) -> None:
    """A key of another master key, one of the wrong length and one of no kind are findings, each named."""
    acras.put(f"{acras.folder}/other_client_hmac", wrap(bytes(32), bytes(range(32)), Owner("client", "other_client")))
    acras.put(f"{acras.folder}/third_client_hmac", "AAEB")
    acras.put(f"{acras.folder}/{NAME}123456", "")
    done = keys_command(stack, acras, "verify")
    assert done.returncode == 1
    assert "other_client_hmac: the master key does not open it" in done.stderr
    assert "third_client_hmac: the master key does not open it" in done.stderr
    assert f"{NAME}123456: not a key that" in done.stderr


def test_show_says_what_is_known_and_no_key(acras: Place, stack: Stack) -> None:
    """``show`` gives purpose, seal and history of a key; neither it nor other commands print any of its bytes."""
    done = keys_command(stack, acras, "show", NAME, "--json")
    assert done.returncode == 0, done.stderr
    [shown] = rows(done.stdout)
    assert (shown["purpose"], shown["sealed_with"]) == ("storage_sym_key", "current")
    assert shown["history"] == [f"{NAME}.old/2026-11-23T22:38:38.606984849"]
    text = acras.get(f"{acras.folder}/{NAME}")
    assert text is not None
    printed = done.stdout + keys_command(stack, acras, "show", NAME).stdout
    printed += keys_command(stack, acras, "verify").stdout + keys_command(stack, acras, "list", "--json").stdout
    assert NAME in printed
    assert text.decode()[:20] not in printed
    assert keys_command(stack, acras, "show", "nobody_hmac").returncode == 1


def test_list_does_not_stop_the_server(in_redis: InRedis, stack: Stack) -> None:
    """Keys are found among many other names by SCAN; KEYS is never used."""
    with stack.storage.pipeline(transaction=False) as pipe:
        for number in range(5000):
            pipe.set(f"tokens/{number}", b"x")
        pipe.execute()
    stack.storage.config_resetstat()
    assert [row["name"] for row in rows(keys_command(stack, in_redis, "list", "--json").stdout)] == [NAME]
    commands = stack.storage.info("commandstats")
    assert "cmdstat_keys" not in commands
    assert commands["cmdstat_scan"]["calls"] < 20


def test_rotation_moves_keys_as_acra_does(place: Place, stack: Stack) -> None:
    """The old key goes into the history under the time, unchanged; a new one takes its place."""
    before, old = place.get(f"{place.folder}/{NAME}"), key_of(stack, place)
    done = keys_command(stack, place, "rotate", OWNER.id, "--yes")
    assert done.returncode == 0, done.stderr
    [kept] = history(place)
    assert kept in done.stdout
    assert parse_name(kept).kind is not None
    assert abs((parse_name(kept).replaced_at or 0) - time.time()) < 60
    assert place.get(f"{place.folder}/{kept}") == before  # sealed
    assert key_of(stack, place) != old


def test_rotation_of_a_zone(in_redis: InRedis, stack: Stack) -> None:
    """``--zone`` rotates the key of a zone."""
    stack.generate_key("DDDDDDDDsomezone", "zone")
    assert keys_command(stack, in_redis, "rotate", "DDDDDDDDsomezone", "--zone", "--yes").returncode == 0
    assert len(in_redis.names(".acrakeys")) == 3


def test_rotation_of_what_is_not_there_or_not_ours(place: Place, stack: Stack) -> None:
    """Without a key, or with one that the master key does not open, nothing is done: exit status 1."""
    missing = keys_command(stack, place, "rotate", "unknown-client", "--yes")
    assert missing.returncode == 1
    assert "keys generate" in missing.stderr
    before = place.names(place.folder)
    foreign = keys_command(
        stack, place, "rotate", OWNER.id, "--yes", ACRA_MASTER_KEY=base64.b64encode(bytes(32)).decode()
    )
    assert foreign.returncode == 1
    assert place.names(place.folder) == before


def test_rotations_at_once_lose_nothing(place: Place, stack: Stack) -> None:
    """Of many rotations at the same time each is done, and every key that ever was is in the history."""
    first, made = key_of(stack, place), 12
    seen: set[str] = set()
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            seen.add(key_of(stack, place))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: rotate(place.store(), masters(stack), OWNER), range(made)))
    finally:
        stop.set()
        watcher.join()
    kept = {key_of(stack, place, name) for name in history(place)}
    assert len(kept) == made
    assert seen | {first} <= kept | {key_of(stack, place)}
    assert key_of(stack, place) not in kept


def test_rotation_under_a_name_that_is_taken(in_redis: InRedis, stack: Stack) -> None:
    """Two rotations within the clock's step never write over an entry of the history."""
    times = iter([10**18, 10**18, 10**18 + 1])
    first = key_of(stack, in_redis)
    for _ in range(2):
        rotate(in_redis.store(), masters(stack), OWNER, lambda: next(times))
    assert len(history(in_redis)) == 2
    assert key_of(stack, in_redis, history(in_redis)[0]) == first


def test_rotation_cut_short_anywhere_and_done_again(place: Place, stack: Stack) -> None:
    """If it ends before or after any call, and is run again, there is a new key, and each old key is kept once."""
    ended = 0
    for at in range(1, 20):
        known = {key_of(stack, place, name) for name in history(place)}
        before = key_of(stack, place)
        with contextlib.suppress(Killed):
            rotate(place.store(Fuse(at)), masters(stack), OWNER)
            ended += 1
        between = key_of(stack, place)
        rotate(place.store(), masters(stack), OWNER)
        kept = {key_of(stack, place, name) for name in history(place)}
        assert kept == {*known, before, between}
        assert len(history(place)) == len(kept)
        assert key_of(stack, place) not in kept
    assert 0 < ended < 19


def test_rotation_killed_and_done_again(place: Place, stack: Stack) -> None:
    """SIGKILL at a random point, then the same command: a new key, the old one kept, no key lost."""
    at, first = random.randrange(1, 9), key_of(stack, place)
    assert killed_command(stack, place, at, "rotate", OWNER.id, "--yes") in {0, -signal.SIGKILL}
    between = key_of(stack, place)
    assert keys_command(stack, place, "rotate", OWNER.id, "--yes").returncode == 0
    assert {key_of(stack, place, name) for name in history(place)} == {first, between}, at


def test_running_cache_sees_rotation_within_its_age(in_redis: InRedis, stack: Stack) -> None:
    """A cached key serves for its age at most; then the new one seals, and the old one still opens."""
    clock = [1000.0]
    link = RedisLink("keys", RedisSettings(url=stack.settings["TOKEN_WORKER_KEYS_URL"]))
    cache = KeyCache(RedisKeyStore(link, ".acrakeys"), stack.master_key, clock=lambda: clock[0])
    before = cache.rings([OWNER])[OWNER]
    assert isinstance(before, Keyring)
    sealed = before.seal(b"old entry")
    rotate(in_redis.store(), masters(stack), OWNER)
    clock[0] += AGE_SECONDS
    after = cache.rings([OWNER])[OWNER]
    assert isinstance(after, Keyring)
    assert fingerprint(after.current) == key_of(stack, in_redis)
    assert after.open(sealed) == b"old entry"
    link.close()


def test_rotation_under_load_fails_no_request(place: Place, stack: Stack) -> None:
    """While workers serve, old and new ones, rotations fail no request and change no token."""
    stack.settings |= {**place.settings, "TOKEN_WORKER_CLAIM_IDLE_MS": "1000"}
    tokens: dict[str, str] = {}
    rotated = threading.Event()

    def load() -> None:
        turn = 0
        while not rotated.is_set() or turn < 5:
            turn += 1
            values = [f"known value {number}" for number in range(100)] + [f"{turn}-{number}" for number in range(100)]
            requests = [
                {"id": f"{turn}-{number}", **tokenize(value)} for number, value in enumerate([*values, *values])
            ]
            replies = stack.ask(requests)
            assert not [reply["error"] for reply in replies.values() if reply["status"] != "ok"]
            for request in requests:
                token = replies[request["id"]]["value"]
                assert tokens.setdefault(request["value"], token) == token

    for _ in range(2):
        stack.start_worker()
    with ThreadPoolExecutor(1) as pool:
        served = pool.submit(load)
        try:
            for _ in range(3):
                done = keys_command(stack, place, "rotate", OWNER.id, "--yes")
                assert done.returncode == 0, done.stderr
                stack.workers.pop(0).kill()  # one more with the newest key at once; the other meets its entries
                stack.start_worker()
        finally:
            rotated.set()
        served.result()
    back = stack.ask(
        [
            {"id": value, "op": "detokenize", "client_id": OWNER.id, "type": "str", "value": token}
            for value, token in tokens.items()
        ],
        "detokenize",
    )
    assert all(reply["value"] == value for value, reply in back.items())
    assert len(history(place)) == 3
    for worker in stack.workers:
        worker.kill()


@pytest.fixture
def old_key(place: Place, stack: Stack) -> str:
    """Name of a key in the history, old enough, that seals nothing."""
    name = aged(SETTLED_SECONDS + 60)
    place.put(f"{place.folder}/{name}", wrap(bytes(range(32)), stack.master_key, OWNER))
    return name


def make_due(place: Place, name: str, *, retired: bool = False) -> None:
    """Move the times in a key's record back, so that its next step is due."""
    path = f"{place.folder}.scans/{name}"
    record = json.loads(place.get(path) or b"{}")
    record["scanned_at"] -= SETTLED_SECONDS + 1
    if retired:
        record["retired_at"] -= KEPT_SECONDS + 1
    place.put(path, json.dumps(record))


CONFIRMED = ("--acra-restarted", "--unused-elsewhere")


def test_key_is_destroyed_step_by_step(place: Place, stack: Stack, old_key: str) -> None:
    """Scanned, then scanned again and moved aside, then deleted: no step before it is due, each dry at first."""
    before = place.get(f"{place.folder}/{old_key}")

    def destroy(*options: str) -> tuple[int, str]:
        done = keys_command(stack, place, "destroy", old_key, *options)
        return done.returncode, done.stdout + done.stderr

    status, text = destroy("--dry-run")
    assert (status, "would be: no token entry" in text) == (0, True), text
    assert place.names(f"{place.folder}.scans") == []
    status, text = destroy()
    assert (status, "next step: " in text) == (0, True), text
    assert destroy(*CONFIRMED)[0] == 1  # not yet due
    make_due(place, old_key)
    status, text = destroy()
    assert (status, "--acra-restarted" in text) == (2, True), text
    status, text = destroy("--acra-restarted")
    assert (status, "--unused-elsewhere" in text) == (2, True), text
    assert destroy("--dry-run")[0] == 0
    assert place.get(f"{place.folder}/{old_key}") == before
    status, text = destroy(*CONFIRMED)
    assert (status, "moved aside" in text) == (0, True), text
    assert history(place) == []
    assert [row["state"] for row in rows(keys_command(stack, place, "list", "--json").stdout)] == ["current", "retired"]
    assert keys_command(stack, place, "verify").returncode == 0
    assert destroy(*CONFIRMED)[0] == 1  # it is kept for a while
    make_due(place, old_key, retired=True)
    assert destroy("--dry-run")[0] == 0
    assert place.names(f"{place.folder}.retired") == [old_key]
    status, text = destroy(*CONFIRMED)
    assert (status, "deleted" in text) == (0, True), text
    assert place.names(place.folder) == [NAME]
    assert place.names(f"{place.folder}.retired") == place.names(f"{place.folder}.scans") == []
    assert destroy(*CONFIRMED)[0] == 1


def test_destroyed_key_is_restored(place: Place, stack: Stack, old_key: str) -> None:
    """A key that was moved aside comes back as it was, and has to be scanned twice again."""
    assert keys_command(stack, place, "destroy", old_key, "--restore").returncode == 1
    assert keys_command(stack, place, "destroy", old_key).returncode == 0
    make_due(place, old_key)
    assert keys_command(stack, place, "destroy", old_key, *CONFIRMED).returncode == 0
    assert keys_command(stack, place, "destroy", old_key, "--restore", "--dry-run").returncode == 0
    assert history(place) == []
    done = keys_command(stack, place, "destroy", old_key, "--restore")
    assert done.returncode == 0, done.stderr
    assert key_of(stack, place, old_key) == fingerprint(bytes(range(32)))
    assert place.names(f"{place.folder}.retired") == place.names(f"{place.folder}.scans") == []


def test_key_that_is_needed_is_not_destroyed(in_redis: InRedis, stack: Stack, storage_server: Valkey) -> None:
    """A token entry that is sealed with the key stops the first and the second scan. Then the scans begin again."""
    text = in_redis.get(f".acrakeys/{NAME}")
    assert text is not None
    name = aged(SETTLED_SECONDS + 60)
    with DirectHandler(storage_server, stack.master_key) as handler:
        handler.ask([tokenize("sealed with the old key"), tokenize("another")])
    in_redis.put(f".acrakeys/{name}", text)
    stack.generate_key(OWNER.id)
    done = keys_command(stack, in_redis, "destroy", name)
    assert done.returncode == 1
    assert "4 of 4 token entries" in done.stderr
    assert in_redis.names(".acrakeys.scans") == []
    entries = {key: stack.storage.getdel(key) for key in stack.storage.keys("tokens/*")}
    assert keys_command(stack, in_redis, "destroy", name).returncode == 0
    stack.storage.mset(entries)
    make_due(in_redis, name)
    assert keys_command(stack, in_redis, "destroy", name, *CONFIRMED).returncode == 1
    assert in_redis.names(".acrakeys.scans") == []
    assert history(in_redis) == [name]


def test_key_that_is_needed_again_is_not_deleted(place: Place, stack: Stack, storage_server: Valkey) -> None:
    """An entry that turns up when the key was moved aside stops the last step: the key is kept, and can come back."""
    key = bytes(range(32))
    name = aged(SETTLED_SECONDS + 60)
    in_redis = InRedis(stack)
    current = place.get(f"{place.folder}/{NAME}")
    assert current is not None
    in_redis.put(f".acrakeys/{NAME}", wrap(key, stack.master_key, OWNER))
    with DirectHandler(storage_server, stack.master_key) as handler:
        [reply] = handler.ask([tokenize("sealed with the old key")])
    in_redis.put(f".acrakeys/{NAME}", current)
    entries = {entry: stack.storage.getdel(entry) for entry in stack.storage.keys("tokens/*")}
    place.put(f"{place.folder}/{name}", wrap(key, stack.master_key, OWNER))
    assert keys_command(stack, place, "destroy", name).returncode == 0
    make_due(place, name)
    assert keys_command(stack, place, "destroy", name, *CONFIRMED).returncode == 0
    stack.storage.mset(entries)
    make_due(place, name, retired=True)
    for options in (("--dry-run",), CONFIRMED):
        done = keys_command(stack, place, "destroy", name, *options)
        assert done.returncode == 1
        assert "2 of 2 token entries" in done.stderr
        assert "--restore" in done.stderr
        assert place.names(f"{place.folder}.retired") == [name]
    assert keys_command(stack, place, "destroy", name, "--restore").returncode == 0
    assert key_of(stack, place, name) == fingerprint(key)
    if isinstance(place, InRedis):
        with DirectHandler(storage_server, stack.master_key) as handler:
            back = handler.ask([{**tokenize(reply["value"]), "op": "detokenize"}])
        assert back[0]["value"] == "sealed with the old key"


def test_scan_counts_what_the_key_opens(stack: Stack, storage_server: Valkey) -> None:
    """A scan counts the entries that the key opens, only of its own client, and the damaged entries."""
    other = stack.generate_key("other_client")
    with DirectHandler(storage_server, stack.master_key) as handler:
        handler.ask([tokenize("a value"), {**tokenize("a value"), "client_id": "other_client"}])
    some = stack.storage.keys("tokens/*")[0]
    stack.storage.set(some.rsplit(b"/", 1)[0] + b"/damaged", b"no entry")
    link = RedisLink("tokens", RedisSettings(url=stack.settings["TOKEN_WORKER_KEYS_URL"]), raise_server_errors=True)
    scans = [
        scan_entries(ServerEntries(link), OWNER, other),
        scan_entries(ServerEntries(link), Owner("client", "other_client"), other),
    ]
    assert [scan.opened for scan in scans] == [0, 2]
    assert sum(scan.damaged for scan in scans) == 1
    link.close()


def test_key_too_short_in_the_history(in_redis: InRedis, stack: Stack) -> None:
    """A key that a running worker may still hold is not even scanned."""
    assert keys_command(stack, in_redis, "rotate", OWNER.id, "--yes").returncode == 0
    [name] = history(in_redis)
    done = keys_command(stack, in_redis, "destroy", name)
    assert done.returncode == 1
    assert "next step is due at" in done.stderr
    assert in_redis.names(".acrakeys.scans") == []


def destruction(place: Place, stack: Stack, fuse: Fuse | None = None) -> Destruction:
    tokens = RedisLink("tokens", RedisSettings(url=stack.settings["TOKEN_WORKER_KEYS_URL"]), raise_server_errors=True)
    return Destruction(place.store(fuse), masters(stack), ServerEntries(tokens))


def test_destruction_cut_short_anywhere_and_done_again(place: Place, stack: Stack, old_key: str) -> None:
    """Ended before or after any of its calls, the key is at one of its places; done again, the step is done."""
    name, cut = parse_name(old_key), 0
    for at in range(1, 40):
        place.put(f"{place.folder}.scans/{old_key}", json.dumps({"scanned_at": time.time() - SETTLED_SECONDS - 1}))
        for step in ("step", "restore"):
            done = False
            with contextlib.suppress(Killed):
                getattr(destruction(place, stack, Fuse(at)), step)(name)
                done = True
            cut += not done
            stored = place.store().read([f"{place.folder}/{old_key}", f"{place.folder}.retired/{old_key}"])
            texts = [key.text for key in stored if key is not None]
            assert texts
            assert {fingerprint(unwrap(text, stack.master_key, OWNER)) for text in texts} == {
                fingerprint(bytes(range(32)))
            }
            with contextlib.suppress(CheckFailed):  # it was done
                getattr(destruction(place, stack), step)(name)
            folder = f"{place.folder}.retired" if step == "step" else place.folder
            assert old_key in place.names(folder), at
            assert len(history(place) + place.names(f"{place.folder}.retired")) == 1
        assert place.names(f"{place.folder}.scans") == []
    assert 0 < cut < 78


def test_key_on_its_way_is_none_for_workers(stack: Stack, openbao_server: OpenBao) -> None:
    """Between the two steps of a move, the secret in Vault is not a key for a worker, nor a damaged key."""
    vault = InVault(openbao_server)
    vault.api("POST", f"secret/data/{vault.folder}/{NAME}", {"data": {"moved_to": "elsewhere"}})
    session = VaultKv(VaultSettings(address=openbao_server.url, token=openbao_server.root_token))
    assert VaultKeyStore(session, "secret", vault.folder).current([OWNER]) == [None]
    assert vault.store().read([f"{vault.folder}/{NAME}"]) == [None]


def test_changed_key_is_neither_moved_nor_deleted(place: Place, stack: Stack, old_key: str) -> None:
    """A key that was sealed again since it was read is not moved, replaced or deleted."""
    store, path = place.store(), f"{place.folder}/{old_key}"
    to, record = f"{place.folder}.retired/{old_key}", f"{place.folder}.scans/{old_key}"
    [stale] = store.read([path])
    assert stale is not None
    changed = wrap(bytes(range(32)), stack.master_key, OWNER)
    place.put(path, changed)
    assert not store.move(path, stale, to, stale.text, record, b"{}")
    assert not store.remove(path, stale, record)
    assert not store.replace(path, stale, b"other")
    assert not store.rotate(path, stale, f"{path}.old/2026-01-01T00:00:00", stale.text, b"other")
    assert not store.create(path, b"other")
    assert place.get(path) == changed
    assert place.names(f"{place.folder}.scans") == []


def test_nothing_is_moved_over_another_key(in_redis: InRedis, stack: Stack) -> None:
    """A key is not restored if there is another key with its name."""
    old_key = aged(SETTLED_SECONDS + 60)
    in_redis.put(f".acrakeys/{old_key}", wrap(bytes(range(32)), stack.master_key, OWNER))
    assert destruction(in_redis, stack).step(parse_name(old_key)).what == "scanned"
    make_due(in_redis, old_key)
    assert destruction(in_redis, stack).step(parse_name(old_key)).what == "retired"
    in_redis.put(f".acrakeys/{old_key}", wrap(bytes(32), stack.master_key, OWNER))
    with pytest.raises(CheckFailed, match="another key"):
        destruction(in_redis, stack).restore(parse_name(old_key))
    assert in_redis.names(".acrakeys.retired") == [old_key]


def test_destruction_killed_and_done_again(place: Place, stack: Stack, old_key: str) -> None:
    """SIGKILL at a random point, then the same command: the key is moved aside, and can be restored."""
    at = random.randrange(1, 24)
    place.put(f"{place.folder}.scans/{old_key}", json.dumps({"scanned_at": time.time() - SETTLED_SECONDS - 1}))
    assert killed_command(stack, place, at, "destroy", old_key, *CONFIRMED) in {0, -signal.SIGKILL}
    again = keys_command(stack, place, "destroy", old_key, *CONFIRMED)
    assert again.returncode == 0 or "moved aside" in again.stderr, (at, again.stderr)
    assert place.names(f"{place.folder}.retired") == [old_key]
    assert keys_command(stack, place, "destroy", old_key, "--restore").returncode == 0
    assert key_of(stack, place, old_key) == fingerprint(bytes(range(32)))


@pytest.mark.parametrize(
    "arguments",
    [
        ("show",),
        ("rotate",),
        ("rotate", "a/b*c"),
        ("destroy", NAME),
        ("destroy", f"{OWNER.id}_hmac.old/2026-01-01T00:00:00"),
        ("destroy", "nonsense"),
        ("rewrap", "--new-master-key"),
        ("list", "more"),
    ],
)
def test_wrong_usage_is_exit_status_2_and_changes_nothing(
    in_redis: InRedis, stack: Stack, arguments: tuple[str, ...]
) -> None:
    """Wrong arguments are exit status 2 with a hint; nothing is changed."""
    before = stack.storage.dbsize()
    done = keys_command(stack, in_redis, *arguments)
    assert done.returncode == 2
    assert "Error" in done.stderr
    assert "Traceback" not in done.stderr
    assert stack.storage.dbsize() == before


@pytest.mark.parametrize(
    "command", [("list",), ("verify",), ("show", NAME), ("rotate", OWNER.id, "--yes"), ("rewrap",)]
)
def test_server_out_of_reach(in_redis: InRedis, stack: Stack, command: tuple[str, ...]) -> None:
    """Without the key storage every command ends with exit status 3 and says which server is away."""
    done = keys_command(stack, in_redis, *command, TOKEN_WORKER_KEYS_URL=f"redis://127.0.0.1:{free_port()}/0")
    assert done.returncode == 3
    assert "connection refused" in done.stderr
