"""``token-worker keys rewrap``: a new master key for every key, while workers run, and after a kill."""

import base64
import contextlib
import os
import random
import secrets
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import pytest

from harness.direct import Vectors
from harness.key_places import Fuse, InRedis, InVault, Killed, Place, fingerprint, keys_command, killed_command
from harness.servers import DEPLOY_FILES, OpenBao
from harness.stack import Stack, has_logged, wait_until
from token_worker.acra.key_name import KeyName, parse_name
from token_worker.acra.owner import Owner
from token_worker.admin.access import AdminAccess
from token_worker.admin.keys import classify, open_key
from token_worker.admin.rewrap import rewrap, survey
from token_worker.admin.rotate import rotate
from token_worker.errors import CheckFailed, MasterKeyError
from token_worker.keys import master
from token_worker.keys.master import MasterKeys
from token_worker.keys.store import wrap
from token_worker.keys.vault_kv import VaultKv
from token_worker.settings import load as load_settings
from token_worker.settings.vault import VaultSettings

VECTORS = Vectors("acra-keystore")
LONG = bool(os.environ.get("LONG_TESTS"))
ROOT = Path(__file__).parents[2]
OLD = VECTORS.master_key
NEW = bytes(range(100, 132))
BOTH = MasterKeys(NEW, OLD)
OWNER = Owner("client", "shop-frontend")
SEALED = sum(".pub" not in name for name in VECTORS.redis)


def text(key: bytes) -> str:
    return base64.b64encode(key).decode()


@pytest.fixture(params=["redis", "vault"])
def place(request: pytest.FixtureRequest, stack: Stack, openbao_server: OpenBao) -> Place:
    """The key storage as Acra wrote it, with every kind of key; the settings have both master keys."""
    found: Place = InRedis(stack) if request.param == "redis" else InVault(openbao_server)
    stack.storage.flushall()
    for name, stored in VECTORS.redis.items():
        found.put(name.replace(".acrakeys", found.folder, 1), stored)
    stack.settings |= {"ACRA_MASTER_KEY": text(NEW), "ACRA_MASTER_KEY_PREVIOUS": text(OLD)}
    return found


def is_public(name: KeyName) -> bool:
    return name.kind is not None and name.kind.form == "public"


def opened(place: Place, master_key: bytes) -> dict[str, str]:
    """The fingerprint of every key by its name, sealed ones opened with this master key."""
    found = {}
    for folder in (place.folder, f"{place.folder}.retired"):
        for name in map(parse_name, place.names(folder)):
            stored = place.get(f"{folder}/{name.name}")
            assert stored is not None
            key = stored if is_public(name) else open_key(name, stored, MasterKeys(master_key))[0]
            found[name.name] = fingerprint(key)
    return found


def nothing(_seen: int, _of: int) -> None:
    """No progress bar."""


def test_every_key_is_sealed_anew(place: Place, stack: Stack) -> None:
    """Afterwards the new master key opens every key of Acra's storage, and each is the same as before."""
    place.put(f"{place.folder}.retired/{OWNER.key_name}.old/2026-01-01T00:00:00", wrap(bytes(32), OLD, OWNER))
    before = opened(place, OLD)
    assert keys_command(stack, place, "verify").returncode == 1
    dry = keys_command(stack, place, "rewrap", "--dry-run")
    assert dry.returncode == 0
    assert f"0 sealed with the master key, {SEALED + 1} with the previous one, 3 public" in dry.stdout
    unconfirmed = keys_command(stack, place, "rewrap")
    assert unconfirmed.returncode == 2
    assert "--workers-have-both" in unconfirmed.stderr
    assert opened(place, OLD) == before
    done = keys_command(stack, place, "rewrap", "--workers-have-both")
    assert done.stdout.endswith("drop the old one: unset ACRA_MASTER_KEY_PREVIOUS, and restart the workers\n")
    assert done.returncode == 0, done.stderr
    assert f"{SEALED + 1} keys" in done.stdout
    assert opened(place, NEW) == before
    assert keys_command(stack, place, "verify", ACRA_MASTER_KEY_PREVIOUS="").returncode == 0
    again = keys_command(stack, place, "rewrap", ACRA_MASTER_KEY_PREVIOUS="")
    assert again.returncode == 0
    assert "0 keys" in again.stdout


@pytest.mark.parametrize(
    ("name", "stored", "why"),
    [
        ("shop-frontend_translator", wrap(bytes(32), OLD, OWNER), "is not a key that"),
        (
            "third_client_hmac",
            wrap(bytes(32), bytes(range(32)), Owner("client", "third_client")),
            "no master key opens it",
        ),
        ("third_client_hmac", b"AAEB", "no master key opens it"),
        ("client/shop-frontend/storage-sym.keyring", b"AAEB", "keystore version 2"),
    ],
)
def test_what_is_not_understood_stops_it_before_it_starts(
    place: Place, stack: Stack, name: str, stored: bytes, why: str
) -> None:
    """With a key of unknown kind, or one that neither master key opens, not a single key is changed: exit status 1."""
    before = opened(place, OLD)
    place.put(f"{place.folder}/{name}", stored)
    done = keys_command(stack, place, "rewrap", "--workers-have-both")
    assert done.returncode == 1
    assert name in done.stderr
    assert why in done.stderr
    with pytest.raises(CheckFailed, match=name):
        survey(place.store(), BOTH)
    assert all(place.get(f"{place.folder}/{key}") is not None for key in before)
    assert {status(place, key) for key in before} == {"previous", "public"}


def status(place: Place, name: str) -> str:
    stored = place.get(f"{place.folder}/{name}")
    assert stored is not None
    return classify(parse_name(name), stored, BOTH)


def test_cut_short_anywhere_and_done_again(place: Place) -> None:
    """Ended before or after any of its calls, every key is opened by one of the two; done again, by the new one."""
    before, ended = opened(place, OLD), 0
    for at in (*range(1, 8), *random.sample(range(12, 120), 100 if LONG else 3), 500):
        for name, stored in VECTORS.redis.items():
            place.put(name.replace(".acrakeys", place.folder, 1), stored)
        with contextlib.suppress(Killed):
            rewrap(place.store(Fuse(at)), BOTH, nothing)
            ended += 1
        assert set(survey(place.store(), BOTH)) <= {"current", "previous", "public"}, at
        rewrap(place.store(), BOTH, nothing)
        assert opened(place, NEW) == before, at
    assert ended >= 1


def test_passes_go_on_until_one_finds_nothing(place: Place) -> None:
    """If others seal keys with the previous master key meanwhile, the next pass finds them."""
    left = 3

    def somebody_else(seen: int, total: int) -> None:
        nonlocal left
        if seen == total and left:
            left -= 1
            place.put(f"{place.folder}/client-{left}_hmac", wrap(bytes(32), OLD, Owner("client", f"client-{left}")))

    done = rewrap(place.store(), BOTH, somebody_else)
    assert done == (SEALED + 3, 5)
    assert survey(place.store(), BOTH)["previous"] == 0


def test_killed_and_done_again(place: Place, stack: Stack) -> None:
    """SIGKILL at a random point, then the same command: the new master key opens every key, and no key has changed."""
    before, at = opened(place, OLD), random.randrange(8, 40)
    killed = killed_command(stack, place, at, "rewrap", "--workers-have-both")
    assert killed in {0, -signal.SIGKILL}, at
    assert keys_command(stack, place, "rewrap", "--workers-have-both").returncode == 0
    assert opened(place, NEW) == before, at


def test_rotation_under_both_master_keys_leaves_nothing_to_the_previous_one(place: Place) -> None:
    """A key that the previous master key seals goes to the history sealed with the current one, as the new key is."""
    before = place.get(f"{place.folder}/{OWNER.key_name}")
    assert before is not None
    history = rotate(place.store(), BOTH, OWNER)
    for name in (history, OWNER.key_name):
        assert status(place, name) == "current"
    kept = place.get(f"{place.folder}/{history}")
    assert kept is not None
    assert open_key(parse_name(history), kept, BOTH)[0] == open_key(parse_name(OWNER.key_name), before, BOTH)[0]


def test_rotations_meanwhile_lose_nothing(place: Place) -> None:
    """Keys that are rotated meanwhile, with either master key, are all kept, and sealed with the new one."""
    first = opened(place, OLD)[OWNER.key_name]
    made, seen = 30, {first}
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            name = parse_name(OWNER.key_name)
            [stored] = place.store().read([f"{place.folder}/{name.name}"])
            if stored is not None:
                seen.add(fingerprint(open_key(name, stored.text, BOTH)[0]))

    def rotate_with(number: int) -> None:
        with contextlib.suppress(CheckFailed):  # the old master key alone does not open what is sealed with the new one
            rotate(place.store(), BOTH if number % 2 else MasterKeys(OLD), OWNER)

    def keep_wrapping() -> None:
        while not stop.is_set():
            rewrap(place.store(), BOTH, nothing)

    with ThreadPoolExecutor(4) as pool:
        others = [pool.submit(watch), pool.submit(keep_wrapping)]
        try:
            list(pool.map(rotate_with, range(made)))
        finally:
            stop.set()
        for other in others:
            other.result()
    rewrap(place.store(), BOTH, nothing)
    keys = opened(place, NEW)
    kept = [key for name, key in keys.items() if name.startswith(f"{OWNER.key_name}.old/")]
    assert seen <= {*kept, keys[OWNER.key_name]}
    assert len(set(kept)) > made / 2


def tokenize(number: int) -> dict[str, Any]:
    return {"op": "tokenize", "client_id": OWNER.id, "type": "str", "value": f"a value {number}"}


class MasterKeyInVault:
    """A secret of its own with a master key and another field."""

    def __init__(self, server: OpenBao, stack: Stack) -> None:
        self.bao = InVault(server)
        self.path = f"master-{secrets.token_hex(6)}/transport"
        self.write(text(OLD))
        stack.settings |= {
            "VAULT_ADDR": server.url,
            "VAULT_TOKEN": server.root_token,
            "TOKEN_WORKER_MASTER_KEY_SOURCE": "vault",
            "TOKEN_WORKER_VAULT_SECRET": f"secret/{self.path}",
        }
        for name in ("ACRA_MASTER_KEY", "ACRA_MASTER_KEY_PREVIOUS"):
            stack.settings.pop(name, None)

    def write(self, master_key: str, **more: str) -> None:
        fields = {"acra_master_key": master_key, "somebody_elses": "field", **more}
        self.bao.api("POST", f"secret/data/{self.path}", {"data": fields})

    def fields(self, version: int = 0) -> dict[str, str]:
        return dict(self.bao.api("GET", f"secret/data/{self.path}?version={version}")["data"]["data"])


@pytest.fixture
def in_redis(stack: Stack) -> InRedis:
    stack.storage.flushall()
    stack.storage.mset(VECTORS.redis)
    return InRedis(stack)


@pytest.fixture
def secret(in_redis: InRedis, stack: Stack, openbao_server: OpenBao) -> MasterKeyInVault:
    return MasterKeyInVault(openbao_server, stack)


def test_master_key_in_vault_is_replaced_first(stack: Stack, in_redis: InRedis, secret: MasterKeyInVault) -> None:
    """A new master key is stored beside the other fields, the old one is the version before; no key is touched yet."""
    before = opened(in_redis, OLD)
    dry = keys_command(stack, in_redis, "rewrap", "--new-master-key", "--dry-run")
    assert dry.returncode == 0
    assert secret.fields()["acra_master_key"] == text(OLD)
    done = keys_command(stack, in_redis, "rewrap", "--new-master-key")
    assert done.returncode == 0, done.stderr
    assert "do not restart them" in done.stdout
    fields = secret.fields()
    new = base64.b64decode(fields.pop("acra_master_key"))
    assert len(new) == 32
    assert new != OLD
    assert text(new) not in done.stdout
    assert fields == {"somebody_elses": "field"}
    assert secret.fields(1)["acra_master_key"] == text(OLD)
    assert opened(in_redis, OLD) == before
    again = keys_command(stack, in_redis, "rewrap", "--new-master-key")  # does not make a third
    assert again.returncode == 0
    assert base64.b64decode(secret.fields()["acra_master_key"]) == new
    secret.write(text(new), another="field")  # somebody changes another field: a version with the same master key
    assert keys_command(stack, in_redis, "rewrap").returncode == 0
    assert opened(in_redis, new) == before
    assert keys_command(stack, in_redis, "rewrap").returncode == 0


def test_master_key_is_not_replaced_under_what_is_not_understood(
    stack: Stack, in_redis: InRedis, secret: MasterKeyInVault
) -> None:
    """A key of unknown kind stops it before the new master key is stored."""
    in_redis.put(".acrakeys/shop-frontend_server", "AAEB")
    assert keys_command(stack, in_redis, "rewrap", "--new-master-key").returncode == 1
    assert secret.fields()["acra_master_key"] == text(OLD)


def test_new_master_key_is_stored_by_check_and_set(
    stack: Stack, openbao_server: OpenBao, secret: MasterKeyInVault
) -> None:
    """If several replace the master key at once, one succeeds. All others change nothing, and their result is False."""
    vaults = [
        VaultKv(
            VaultSettings(address=openbao_server.url, token=openbao_server.root_token, secret=f"secret/{secret.path}")
        )
        for _ in range(6)
    ]
    with ThreadPoolExecutor(6) as pool:
        done = list(pool.map(lambda vault: master.store_in_vault(vault, OLD, os.urandom(32)), vaults))
    assert sum(done) == 1
    assert secret.bao.api("GET", f"secret/metadata/{secret.path}")["data"]["current_version"] == 2
    [vault, *_] = vaults
    current = master.from_vault(vault)
    assert master.previous_from_vault(vault, current) == OLD
    assert not master.store_in_vault(vault, OLD, NEW)


def test_kv_1_is_refused(stack: Stack, in_redis: InRedis, secret: MasterKeyInVault) -> None:
    """On KV version 1, which has no check-and-set, the master key is not replaced: exit status 2 and what to do."""
    mount = f"kv1-{secrets.token_hex(4)}"
    secret.bao.api("POST", f"sys/mounts/{mount}", {"type": "kv", "options": {"version": "1"}})
    secret.bao.api("POST", f"{mount}/transport", {"acra_master_key": text(OLD)})
    stack.settings["TOKEN_WORKER_VAULT_SECRET"] = f"{mount}/transport"
    assert keys_command(stack, in_redis, "rewrap").returncode == 0
    done = keys_command(stack, in_redis, "rewrap", "--new-master-key")
    assert done.returncode == 2
    assert "enable-versioning" in done.stderr
    assert secret.bao.api("GET", f"{mount}/transport")["data"] == {"acra_master_key": text(OLD)}


def test_new_master_key_killed_and_done_again(stack: Stack, in_redis: InRedis, secret: MasterKeyInVault) -> None:
    """SIGKILL at a random point, then the same commands: there is one new master key, and it opens every key."""
    before, at = opened(in_redis, OLD), random.randrange(1, 24)
    assert killed_command(stack, in_redis, at, "rewrap", "--new-master-key") in {0, -signal.SIGKILL}
    assert keys_command(stack, in_redis, "rewrap", "--new-master-key").returncode == 0, at
    assert secret.bao.api("GET", f"secret/metadata/{secret.path}")["data"]["current_version"] == 2
    assert keys_command(stack, in_redis, "rewrap").returncode == 0, at
    assert opened(in_redis, base64.b64decode(secret.fields()["acra_master_key"])) == before, at


def test_policy_for_key_admins_permits_every_command(stack: Stack, openbao_server: OpenBao) -> None:
    """With the policy for key admins, and no other, each command works on keys and a master key in Vault."""
    secret = MasterKeyInVault(openbao_server, stack)
    place = InVault(openbao_server)
    policy = (DEPLOY_FILES / "vault" / "key-admin.hcl").read_text()
    policy = policy.replace("acra/transport", secret.path).replace(".acrakeys", place.folder)
    name = f"key-admin-{secrets.token_hex(4)}"
    place.api("POST", f"sys/policies/acl/{name}", {"policy": policy})
    made = place.api("POST", "auth/token/create", {"policies": [name], "no_default_policy": True, "ttl": "1h"})
    place.settings |= {"VAULT_TOKEN": made["auth"]["client_token"], "TOKEN_WORKER_MASTER_KEY_SOURCE": "vault"}
    stack.storage.flushall()
    old_key = f"{OWNER.key_name}.old/2026-01-01T00:00:00"
    for arguments in (
        ("generate", OWNER.id),
        ("index", OWNER.id),
        ("rotate", OWNER.id, "--yes"),
        ("list",),
        ("show", OWNER.key_name),
        ("rewrap", "--new-master-key"),
        ("rewrap",),
        ("verify",),
        ("drop-previous", "--yes"),
    ):
        done = keys_command(stack, place, *arguments)
        assert done.returncode == 0, (arguments, done.stderr)
    place.put(f"{place.folder}/{old_key}", wrap(bytes(32), base64.b64decode(secret.fields()["acra_master_key"]), OWNER))
    place.put(f"{place.folder}.scans/{old_key}", '{"scanned_at": 0}')
    for more in (("--acra-restarted", "--unused-elsewhere"), ("--restore",)):
        done = keys_command(stack, place, "destroy", old_key, *more)
        assert done.returncode == 0, (more, done.stderr)
    confirmed = ("--last", "--confirm", OWNER.id, "--unused-elsewhere")
    for options in (confirmed, ("--last", "--restore"), confirmed):
        done = keys_command(stack, place, "destroy", OWNER.id, *options)
        assert done.returncode == 0, (options, done.stderr)
    for name in place.names(f"{place.folder}.scans"):
        place.put(f"{place.folder}.scans/{name}", '{"scanned_at": 0, "retired_at": 0}')
    done = keys_command(stack, place, "destroy", OWNER.id, *confirmed)
    assert done.returncode == 0, done.stderr
    for folder in ("", ".index", ".retired", ".scans"):
        assert place.names(f"{place.folder}{folder}") == []


@pytest.fixture
def load(stack: Stack) -> Iterator["RequestRounds"]:
    with RequestRounds(stack) as load:
        yield load


class RequestRounds:
    """Rounds of requests without a pause, from a thread. Every reply must be ok, and a value must keep its token."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(1)
        self.rounds = 0
        self.tokens: dict[str, str] = {}

    def start(self) -> None:
        self._served = self._pool.submit(self._serve)

    def stop(self) -> None:
        """Stop; raise the error of a round that failed."""
        self._stop.set()
        self._served.result()

    def wait_for_round(self) -> None:
        """Wait until the round under way is answered, and a whole further one."""
        rounds = self.rounds
        wait_until(lambda: self.rounds > rounds + 1 or self._served.done(), "two rounds of requests")

    def _serve(self) -> None:
        while not self._stop.is_set():
            numbers = [*range(100), *range(100 * self.rounds, 100 * self.rounds + 100)]
            requests = [{"id": f"{self.rounds}-{index}", **tokenize(number)} for index, number in enumerate(numbers)]
            replies = self._stack.ask(requests)
            assert not [reply["error"] for reply in replies.values() if reply["status"] != "ok"]
            for request in requests:
                token = replies[request["id"]]["value"]
                assert self.tokens.setdefault(request["value"], token) == token
            self.rounds += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown()


QUICK = """
import sys
from token_worker.cli import main
from token_worker.keys import cache, live_master_keys
cache.REFRESH_SECONDS = 0.2
live_master_keys.FIRST_SECONDS = live_master_keys.READ_SECONDS = live_master_keys.DROP_SECONDS = 1.0
sys.argv[0] = "token-worker"
main()
"""
"""A worker whose times are shorter, so that the test need not last for minutes."""


def test_master_key_is_replaced_under_load(
    stack: Stack, in_redis: InRedis, secret: MasterKeyInVault, load: RequestRounds, tmp_path: Path
) -> None:
    """No worker is restarted, no request fails, no token changes; at the end the old master key is gone everywhere."""
    stack.settings["TOKEN_WORKER_CLAIM_IDLE_MS"] = "1000"
    logs = [tmp_path / f"log-{number}" for number in range(2)]
    for log in logs:
        stack.start_worker(log=log, program=("-c", QUICK))

    def all_logged(words: str) -> None:
        wait_until(lambda: all(has_logged(log, words) for log in logs), words)

    load.start()
    load.wait_for_round()
    assert keys_command(stack, in_redis, "rewrap", "--new-master-key").returncode == 0
    load.wait_for_round()
    assert keys_command(stack, in_redis, "drop-previous", "--yes").returncode == 1
    assert keys_command(stack, in_redis, "rotate", OWNER.id, "--yes").returncode == 0
    assert keys_command(stack, in_redis, "rewrap").returncode == 0
    all_logged("new master key read")
    assert keys_command(stack, in_redis, "generate", "new-client").returncode == 0
    load.wait_for_round()
    request = {"id": "a client that is not cached", **tokenize(1), "client_id": "new-client"}
    assert stack.ask([request], "tokenize")[request["id"]]["status"] == "ok"
    assert keys_command(stack, in_redis, "verify").returncode == 0
    dropped = keys_command(stack, in_redis, "drop-previous", "--yes")
    assert dropped.returncode == 0, dropped.stderr
    assert "versions deleted: 1;" in dropped.stdout
    all_logged("previous master key dropped")
    load.wait_for_round()
    load.stop()
    again = keys_command(stack, in_redis, "drop-previous", "--yes")
    assert (again.returncode, "there is no previous master key" in again.stderr) == (1, True)
    for worker in stack.workers:
        assert worker.is_alive
        worker.kill()


def test_previous_master_key_stays_if_another_one_comes_meanwhile(stack: Stack, secret: MasterKeyInVault) -> None:
    """If the secret holds another master key than the one that was looked for, no version is deleted."""
    secret.write(text(NEW))
    secret.write(text(os.urandom(32)))  # of another operator, after the look
    with AdminAccess(load_settings(stack.environment())) as access:
        access.connect_admin()
        with pytest.raises(MasterKeyError, match="changed meanwhile"):
            access.drop_previous_master_keys(NEW)
    assert [secret.fields(version)["acra_master_key"] for version in (1, 2)] == [text(OLD), text(NEW)]


def test_commands_say_who_may_replace_the_master_key(stack: Stack, openbao_server: OpenBao) -> None:
    """With the settings of a worker, commands that change keys name the operator's policy and the operator's user."""
    secret = MasterKeyInVault(openbao_server, stack)
    place = InVault(openbao_server)
    policy = (DEPLOY_FILES / "vault" / "all-keys.hcl").read_text()
    policy = policy.replace("acra/transport", secret.path).replace(".acrakeys", place.folder)
    name = f"worker-{secrets.token_hex(4)}"
    place.api("POST", f"sys/policies/acl/{name}", {"policy": policy})
    made = place.api("POST", "auth/token/create", {"policies": [name], "no_default_policy": True, "ttl": "1h"})
    token = made["auth"]["client_token"]
    for in_vault, arguments in (
        (False, ("rewrap", "--new-master-key")),
        (True, ("generate", OWNER.id)),
    ):
        stack.storage.flushall()
        where = place if in_vault else InRedis(stack)
        settings = {**where.settings, "VAULT_TOKEN": token, "TOKEN_WORKER_MASTER_KEY_SOURCE": "vault"}
        done = stack.run("keys", *arguments, **settings)
        assert done.returncode == 2, done.stderr
        assert "run this as an operator, with a Vault token of the policy key-admin.hcl" in done.stderr


def test_worker_serves_keys_of_both_master_keys(stack: Stack, tmp_path: Path) -> None:
    """With ACRA_MASTER_KEY_PREVIOUS a worker opens keys sealed with either master key, and its log says so."""
    stack.storage.set(".acrakeys/other_client_storage_sym", wrap(bytes(32), NEW, Owner("client", "other_client")))
    stack.settings |= {"ACRA_MASTER_KEY": text(NEW), "ACRA_MASTER_KEY_PREVIOUS": text(stack.master_key)}
    stack.start_worker(log=tmp_path / "log")
    requests = [{"id": "1", **tokenize(1)}, {"id": "2", **tokenize(1), "client_id": "other_client"}]
    assert {reply["status"] for reply in stack.ask(requests).values()} == {"ok"}
    log = (tmp_path / "log").read_text()
    assert "two master keys loaded" in log
    assert f'"key": "{OWNER.key_name}"' in log.replace('":"', '": "')
    assert text(NEW) not in log


def test_wrong_previous_master_key_is_named_and_not_shown(stack: Stack, in_redis: InRedis) -> None:
    """A previous master key that is not base64 is exit status 2, and the message names it without its text."""
    done = keys_command(stack, in_redis, "verify", ACRA_MASTER_KEY_PREVIOUS="hunter2canary")
    assert done.returncode == 2
    assert "ACRA_MASTER_KEY_PREVIOUS" in done.stderr
    assert "hunter2canary" not in done.stderr
