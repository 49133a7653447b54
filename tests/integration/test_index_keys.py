"""Index keys in ``token-worker keys``: made, never replaced, listed, verified, sealed anew; in Redis and in Vault."""

import base64
import contextlib
import json
import secrets
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from harness.key_places import Fuse, InRedis, InVault, Killed, Place, fingerprint, keys_command
from harness.servers import OpenBao
from harness.stack import Stack
from token_worker.acra.owner import Owner
from token_worker.admin.index_keys import generate_keys, make_index_key
from token_worker.admin.rewrap import rewrap, survey
from token_worker.errors import CheckFailed
from token_worker.keys.index_key import index_path, open_index_key, seal_index_key
from token_worker.keys.layout_record import TOKENS_RECORD, LayoutName, encode_record, layout_path, new_record
from token_worker.keys.master import MasterKeys
from token_worker.keys.store import unwrap, wrap
from token_worker.redis.address import RedisSettings
from token_worker.redis.link import RedisLink
from token_worker.storage.dense.entry import check_name

OWNER = Owner("client", "shop-frontend")
ZONE = Owner("zone", "DDDDDDDDsomezone")
NEW_CLIENT = Owner("client", "new-client")
NEW_MASTER_KEY = bytes(range(100, 132))


@pytest.fixture(params=["redis", "vault"])
def place(request: pytest.FixtureRequest, stack: Stack, openbao_server: OpenBao) -> Place:
    """The key storage, with the key of the stack's client and of a zone."""
    found: Place = InRedis(stack) if request.param == "redis" else InVault(openbao_server)
    stack.storage.flushall()
    for owner in (OWNER, ZONE):
        found.put(f"{found.folder}/{owner.key_name}", wrap(bytes(range(32)), stack.master_key, owner))
    return found


@pytest.fixture
def dense(place: Place, stack: Stack) -> Place:
    """The same, and the records say that tokens have the dense layout."""
    record = encode_record(new_record("dense", 0))
    place.put(layout_path(place.folder), record)
    stack.storage.set(TOKENS_RECORD, record)
    return place


def index_key(stack: Stack, place: Place, owner: Owner = OWNER) -> str | None:
    """The fingerprint of an owner's index key, which the master key has to open; None if there is none."""
    text = place.get(index_path(place.folder, owner))
    return None if text is None else fingerprint(open_index_key(text, stack.master_key, owner))


def tokens_of(stack: Stack) -> RedisLink:
    """A connection to the token storage."""
    return RedisLink("tokens", RedisSettings(url=stack.settings["TOKEN_WORKER_KEYS_URL"]), raise_server_errors=True)


def rows(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_generate_makes_both_keys(dense: Place, stack: Stack) -> None:
    """In the dense layout a new client gets a key and an index key. Neither is ever replaced."""
    done = keys_command(stack, dense, "generate", NEW_CLIENT.id)
    assert done.returncode == 0, done.stderr
    assert "with its index key" in done.stdout
    text, made = dense.get(f"{dense.folder}/{NEW_CLIENT.key_name}"), index_key(stack, dense, NEW_CLIENT)
    assert text is not None
    assert made not in (None, fingerprint(unwrap(text, stack.master_key, NEW_CLIENT)))

    again = keys_command(stack, dense, "generate", NEW_CLIENT.id)

    assert again.returncode == 1
    assert "there is a key already" in again.stderr
    assert dense.get(f"{dense.folder}/{NEW_CLIENT.key_name}") == text
    assert index_key(stack, dense, NEW_CLIENT) == made


@pytest.mark.parametrize("arguments", [("generate", NEW_CLIENT.id), ("index", "--all")])
def test_no_index_key_is_made_beside_another_token_storage(
    dense: Place, stack: Stack, arguments: tuple[str, ...]
) -> None:
    """With the address of another token storage nobody can tell whether an index key was lost, so none is made."""
    stack.settings["TOKEN_WORKER_TOKENS_URL"] = stack.settings["TOKEN_WORKER_STREAMS_URL"]
    done = keys_command(stack, dense, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "the token storage has no record: it is another one" in done.stderr
    assert dense.names(f"{dense.folder}.index") == []
    assert dense.get(f"{dense.folder}/{NEW_CLIENT.key_name}") is None


@pytest.mark.parametrize("layout", ["acra", "dense"])
def test_generate_with_another_master_key_makes_nothing(place: Place, stack: Stack, layout: LayoutName) -> None:
    """If the master key opens none of the keys that are there, no key is made: workers could not open it."""
    record = encode_record(new_record(layout, 0))
    place.put(layout_path(place.folder), record)
    stack.storage.set(TOKENS_RECORD, record)
    stack.settings["ACRA_MASTER_KEY"] = base64.b64encode(NEW_MASTER_KEY).decode()
    done = keys_command(stack, place, "generate", NEW_CLIENT.id)
    assert done.returncode == 1, done.stdout
    assert "wrong master key: ACRA_MASTER_KEY opens none of the 2 keys" in done.stderr
    assert place.get(f"{place.folder}/{NEW_CLIENT.key_name}") is None
    assert place.names(f"{place.folder}.index") == []


def test_generate_makes_no_index_key_in_acras_layout(place: Place, stack: Stack) -> None:
    """Without a record the layout is Acra's, which needs no index keys: none is made."""
    assert keys_command(stack, place, "generate", NEW_CLIENT.id).returncode == 0
    assert place.names(f"{place.folder}.index") == []


def test_generate_for_a_client_that_has_a_key_makes_nothing(dense: Place, stack: Stack) -> None:
    """A client that has a key, but no index key, is refused, and stays without one: `keys index` makes it."""
    assert keys_command(stack, dense, "generate", OWNER.id).returncode == 1
    assert dense.names(f"{dense.folder}.index") == []


def test_generate_cut_short_anywhere_and_done_again(dense: Place, stack: Stack) -> None:
    """Ended before or after any of its calls, and run again, there is one pair of keys; never a key alone."""
    masters, tokens, ended = MasterKeys(stack.master_key), tokens_of(stack), 0
    for at in range(1, 14):
        owner = Owner("client", f"client-{at}")
        with contextlib.suppress(Killed):
            generate_keys(dense.store(Fuse(at)), masters, owner, tokens)
            ended += 1
        between = index_key(stack, dense, owner)
        is_made = dense.get(f"{dense.folder}/{owner.key_name}") is not None
        assert between is not None or not is_made
        with contextlib.suppress(CheckFailed):
            generate_keys(dense.store(), masters, owner, tokens)
            assert not is_made
        assert dense.get(f"{dense.folder}/{owner.key_name}") is not None
        assert index_key(stack, dense, owner) == (between or index_key(stack, dense, owner))
    assert 0 < ended < 13
    tokens.close()


def test_generate_stops_at_an_index_key_that_does_not_open(dense: Place, stack: Stack) -> None:
    """An index key of another master key is left as it is, and no key is made beside it."""
    dense.put(index_path(dense.folder, NEW_CLIENT), seal_index_key(bytes(32), NEW_MASTER_KEY, NEW_CLIENT))
    done = keys_command(stack, dense, "generate", NEW_CLIENT.id)
    assert done.returncode == 1
    assert ".index/new-client_storage_sym: the master key does not open the index key" in done.stderr
    assert dense.get(f"{dense.folder}/{NEW_CLIENT.key_name}") is None


def test_damaged_record_stops_generate(place: Place, stack: Stack) -> None:
    """If nobody knows the layout, no key is made: exit status 2, as of all commands that need the layout."""
    place.put(layout_path(place.folder), "damaged")
    done = keys_command(stack, place, "generate", NEW_CLIENT.id)
    assert done.returncode == 2
    assert "layout record in the key storage: damaged" in done.stderr
    assert place.get(f"{place.folder}/{NEW_CLIENT.key_name}") is None


def test_index_makes_what_is_missing(place: Place, stack: Stack) -> None:
    """``keys index`` makes the index keys that are missing, in any layout, each once; a dry run makes none."""
    dry = keys_command(stack, place, "index", "--all", "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert f"{OWNER.id}: would be: index key made" in dry.stdout
    assert "2 would be made, 0 exist" in dry.stdout
    assert place.names(f"{place.folder}.index") == []

    one = keys_command(stack, place, "index", OWNER.id)
    assert (one.returncode, one.stdout) == (0, f"{OWNER.id}: index key made\n")
    made = index_key(stack, place)

    done = keys_command(stack, place, "index", "--all", "--json")
    assert done.returncode == 0, done.stderr
    assert rows(done.stdout) == [
        {"client_id": None, "zone_id": ZONE.id, "state": "made"},
        {"client_id": OWNER.id, "zone_id": None, "state": "present"},
    ]
    assert index_key(stack, place) == made
    assert index_key(stack, place, ZONE) not in (None, made)
    again = keys_command(stack, place, "index", ZONE.id, "--zone")
    assert (again.returncode, again.stdout) == (0, f"{ZONE.id}: has an index key\n")


def test_index_for_whom_there_is_no_key(place: Place, stack: Stack) -> None:
    """An owner without a key gets no index key: exit status 1, and what to do."""
    done = keys_command(stack, place, "index", NEW_CLIENT.id)
    assert done.returncode == 1
    assert "keys generate" in done.stderr
    assert place.names(f"{place.folder}.index") == []


def test_index_reports_a_key_that_does_not_open(place: Place, stack: Stack) -> None:
    """An index key that the master key does not open is a finding, and stays; the others are made all the same."""
    text = seal_index_key(bytes(32), NEW_MASTER_KEY, ZONE)
    place.put(index_path(place.folder, ZONE), text)
    done = keys_command(stack, place, "index", "--all")
    assert done.returncode == 1
    assert f"{ZONE.id}: the master key does not open the index key" in done.stdout
    assert place.get(index_path(place.folder, ZONE)) == text
    assert index_key(stack, place) is not None


def test_index_makes_nothing_with_a_master_key_that_is_not_the_keys(place: Place, stack: Stack) -> None:
    """A wrong master key, or one that was replaced since the command began, seals no index key; it is a finding."""
    place.put(f"{place.folder}/{OWNER.key_name}", wrap(bytes(range(32)), NEW_MASTER_KEY, OWNER))
    done = keys_command(stack, place, "index", "--all")
    assert done.returncode == 1
    assert f"{OWNER.id}: the master key does not open the key\n" in done.stdout
    assert (index_key(stack, place), index_key(stack, place, ZONE) is None) == (None, False)


def test_index_key_that_is_gone_is_not_replaced(dense: Place, stack: Stack) -> None:
    """If tokens were named by an index key that is gone, no other is made: a worker would refuse it."""
    for owner in (OWNER, NEW_CLIENT):
        stack.storage.set(check_name(owner), bytes(16))

    done = keys_command(stack, dense, "index", "--all", "--json")
    assert done.returncode == 1
    assert [row["state"] for row in rows(done.stdout)] == ["made", "lost"]
    assert dense.get(index_path(dense.folder, OWNER)) is None

    done = keys_command(stack, dense, "generate", NEW_CLIENT.id)
    assert done.returncode == 1
    assert "bring it back from a backup" in done.stderr
    assert dense.get(f"{dense.folder}/{NEW_CLIENT.key_name}") is None


def test_index_keys_made_at_once_are_one(place: Place, stack: Stack) -> None:
    """Of many commands at the same time one makes the index key; the others find it."""
    masters = MasterKeys(stack.master_key)
    with ThreadPoolExecutor(6) as pool:
        states = list(pool.map(lambda _: make_index_key(place.store(), masters, OWNER, tokens_of(stack)), range(6)))
    assert sorted(states) == ["made", *["present"] * 5]
    assert index_key(stack, place) is not None


def test_index_is_in_the_audit_log(place: Place, stack: Stack) -> None:
    """The audit log says who made index keys and how many; a dry run leaves no line."""
    assert '"logger":"audit"' not in keys_command(stack, place, "index", "--all", "--dry-run").stderr
    begun, ended = rows(keys_command(stack, place, "index", "--all").stderr)
    assert (begun["command"], begun["event"], begun["all"]) == ("keys index", "change begins", True)
    assert (ended["outcome"], ended["made"]) == ("done", 2)


def test_list_verify_and_show_know_index_keys(place: Place, stack: Stack) -> None:
    """Index keys are listed with their owner, verified with the master key, and shown by name; never their bytes."""
    assert keys_command(stack, place, "index", "--all").returncode == 0
    name = f".index/{OWNER.key_name}"
    listed = rows(keys_command(stack, place, "list", "--json", ACRA_MASTER_KEY="").stdout)
    [row] = [row for row in listed if row["name"] == name]
    assert (row["purpose"], row["client_id"], row["state"]) == ("index_key", OWNER.id, "current")
    assert len(listed) == 4

    verified = keys_command(stack, place, "verify", "--json")
    assert verified.returncode == 0, verified.stderr
    assert {row["sealed_with"] for row in rows(verified.stdout)} == {"current"}
    [shown] = rows(keys_command(stack, place, "show", name, "--json").stdout)
    assert (shown["purpose"], shown["zone_id"], shown["sealed_with"]) == ("index_key", None, "current")

    place.put(index_path(place.folder, OWNER), wrap(bytes(32), stack.master_key, OWNER))  # a symmetric key in its place
    place.put(f"{place.folder}.index/nonsense", "AAEB")
    found = keys_command(stack, place, "verify")
    assert found.returncode == 1
    assert f"{name}: the master key does not open it" in found.stderr
    assert ".index/nonsense: not a key" in found.stderr


def test_verify_finds_clients_without_an_index_key(dense: Place, stack: Stack) -> None:
    """In the dense layout, a client without an index key is a finding; with one it is none."""
    found = keys_command(stack, dense, "verify")
    assert found.returncode == 1
    assert (
        f"{OWNER.key_name}: has no index key; bring it back from a backup if there are tokens, or make" in found.stderr
    )
    assert keys_command(stack, dense, "index", "--all").returncode == 0
    done = keys_command(stack, dense, "verify")
    assert done.returncode == 0, done.stderr


def test_index_keys_are_sealed_anew(place: Place, stack: Stack) -> None:
    """`keys rewrap` seals index keys, too, also one that was moved aside; until then the previous one is needed."""
    assert keys_command(stack, place, "index", "--all").returncode == 0
    retired = f"{place.folder}.retired/.index/{NEW_CLIENT.key_name}"
    place.put(retired, seal_index_key(bytes(32), stack.master_key, NEW_CLIENT))
    before = index_key(stack, place)
    both = MasterKeys(NEW_MASTER_KEY, stack.master_key)
    for owner in (OWNER, ZONE):
        place.put(f"{place.folder}/{owner.key_name}", wrap(bytes(range(32)), NEW_MASTER_KEY, owner))
    assert survey(place.store(), both) == {"previous": 3, "current": 2}

    done = rewrap(place.store(), both, lambda _seen, _total: None)

    assert done == (3, 2)
    assert survey(place.store(), both) == {"current": 5}
    stack.master_key = NEW_MASTER_KEY
    assert index_key(stack, place) == before
    assert open_index_key(place.get(retired) or b"", NEW_MASTER_KEY, NEW_CLIENT) == bytes(32)


def test_previous_master_key_is_not_dropped_under_an_index_key(stack: Stack, openbao_server: OpenBao) -> None:
    """As long as an index key is sealed with the previous master key, `drop-previous` changes nothing."""
    vault, path = InVault(openbao_server), f"master-{secrets.token_hex(6)}/transport"
    for key in (stack.master_key, NEW_MASTER_KEY):
        text = base64.b64encode(key).decode()
        vault.api("POST", f"secret/data/{path}", {"data": {"acra_master_key": text}})
    vault.put(f"{vault.folder}/{OWNER.key_name}", wrap(bytes(32), NEW_MASTER_KEY, OWNER))
    vault.put(index_path(vault.folder, OWNER), seal_index_key(bytes(32), stack.master_key, OWNER))
    stack.settings.pop("ACRA_MASTER_KEY")
    vault.settings |= {"TOKEN_WORKER_MASTER_KEY_SOURCE": "vault", "TOKEN_WORKER_VAULT_SECRET": f"secret/{path}"}

    refused = keys_command(stack, vault, "drop-previous", "--yes")
    assert refused.returncode == 1
    assert "1 keys are sealed with the previous master key" in refused.stderr
    assert keys_command(stack, vault, "rewrap").returncode == 0
    assert keys_command(stack, vault, "drop-previous", "--yes").returncode == 0


def test_kv_1_is_refused(stack: Stack, openbao_server: OpenBao) -> None:
    """On KV version 1, which has no check-and-set, no index key is made: exit status 2 and what to do."""
    vault, mount = InVault(openbao_server), f"kv1-{secrets.token_hex(4)}"
    vault.api("POST", f"sys/mounts/{mount}", {"type": "kv", "options": {"version": "1"}})
    vault.settings["TOKEN_WORKER_VAULT_SECRET"] = f"{mount}/transport"
    assert keys_command(stack, vault, "generate", OWNER.id).returncode == 0
    record = encode_record(new_record("dense", 0)).decode()
    vault.api("POST", f"{mount}/{layout_path(vault.folder)}", {"key": record})
    stack.storage.set(TOKENS_RECORD, record)
    for arguments in (("index", OWNER.id), ("generate", NEW_CLIENT.id)):
        done = keys_command(stack, vault, *arguments)
        assert done.returncode == 2, done.stderr
        assert "enable-versioning" in done.stderr


@pytest.mark.parametrize("arguments", [(), (OWNER.id, "--all"), ("--all", "--zone"), ("a/b*c",)])
def test_wrong_usage(stack: Stack, arguments: tuple[str, ...]) -> None:
    """Either one client or all: anything else is exit status 2, and nothing is changed."""
    done = keys_command(stack, InRedis(stack), "index", *arguments)
    assert done.returncode == 2
    assert "Error" in done.stderr
    assert InRedis(stack).names(".acrakeys.index") == []
