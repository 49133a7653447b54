"""``token-worker tokens`` in the dense layout: removal that revokes, halves, index keys, and owners with one tag."""

import hashlib
import itertools
import json
import os
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from harness.direct import DirectHandler
from harness.servers import Valkey
from harness.stack import Stack
from harness.stored_names import dense_names, entries_of
from token_worker.acra.owner import Owner
from token_worker.acra.value_types import STR
from token_worker.admin.entry_store import ServerEntries
from token_worker.admin.stored_tokens import Token
from token_worker.admin.tokens import TokenAdmin, TokenFilter
from token_worker.keys.cache import KeyCache
from token_worker.keys.index_key import index_path, seal_index_key
from token_worker.keys.keyring import DataKeyCache, Keyring
from token_worker.keys.store import RedisKeyStore, unwrap
from token_worker.redis.address import RedisSettings
from token_worker.redis.link import RedisLink
from token_worker.storage.dense.entry import (
    ALONE,
    DISABLED,
    FOREIGN,
    REMOVED,
    EntryNames,
    SealKey,
    check_name,
    day_of,
    read_head,
)
from token_worker.storage.dense.layout import (
    DenseLayout,
    alone_plaintext,
    foreign_plaintext,
    open_entry,
    token_plaintext,
    value_plaintext,
)
from token_worker.storage.steps import Step

CLIENT, OTHER = "shop-frontend", "shop-backoffice"
SHOP, BACK = Owner("client", CLIENT), Owner("client", OTHER)
TODAY = day_of(time.time())
NOT_FOUND = "there is no such token"


@pytest.fixture
def dense(streams_server: Valkey, storage_server: Valkey) -> Iterator[Stack]:
    """A stack in the dense layout, with a key and an index key of the client."""
    with Stack(streams_server, storage_server, layout="dense") as made:
        made.generate_key(CLIENT)
        yield made


def run(stack: Stack, *arguments: str, value: str = "", **more: str) -> tuple[int, str, str]:
    """``token-worker tokens`` with the stack's settings: exit status, output, errors."""
    done = stack.run("tokens", *arguments, value=value, **more)
    return done.returncode, done.stdout, done.stderr


def ask(stack: Stack, op: str, value: str, client: str = CLIENT, **more: Any) -> str:
    """The answer to one request: the token or value, or the code of the error."""
    request = {"id": os.urandom(4).hex(), "op": op, "client_id": client, "type": "str", "value": value, **more}
    [reply] = stack.ask([request], op).values()
    return str(reply["value"] if reply["status"] == "ok" else reply["error"]["code"])


def tokenize(stack: Stack, value: str, **more: Any) -> str:
    return ask(stack, "tokenize", value, **more)


def detokenize(stack: Stack, token: str, **more: Any) -> str:
    return ask(stack, "detokenize", token, **more)


def remove(stack: Stack, option: str, value: str) -> tuple[int, str, str]:
    return run(stack, "remove", CLIENT, "--type", "str", option, value=value)


class Writer:
    """Writes single entries of one client, as damage or an interrupted program may leave them."""

    def __init__(self, stack: Stack, owner: Owner = SHOP) -> None:
        key = unwrap(stack.storage.get(f".acrakeys/{owner.key_name}"), stack.master_key, owner)
        self.names = dense_names(stack, owner)
        self._storage = stack.storage
        self._seal_key = SealKey(key, owner)

    def value(self, value: bytes, token: bytes, flags: int = 0, next_counter: int = 1, day: int = TODAY) -> bytes:
        """Write a value entry. Returns its name."""
        name = self.names.of_value(value, STR.number)
        return self._put(name, value_plaintext(STR.number, next_counter, token), flags, day)

    def token(self, token: bytes, value: bytes, flags: int = 0, day: int = TODAY) -> bytes:
        """Write a token entry. Returns its name."""
        number = STR.number
        plaintext = alone_plaintext(number, token, value) if flags & ALONE else token_plaintext(number, value)
        return self._put(self.names.of_token(token, number), plaintext, flags, day)

    def foreign(self, token: bytes, value: bytes, flags: int = 0, day: int = TODAY) -> bytes:
        """Write the entry of a token that was drawn inconsistently in Acra's layout. Returns its name."""
        data_id = self.names.data_id(token, STR.number)
        plaintext = foreign_plaintext(STR.number, data_id, value)
        return self._put(self.names.of_data_id(data_id), plaintext, flags | ALONE | FOREIGN, day)

    def _put(self, name: bytes, plaintext: bytes, flags: int, day: int) -> bytes:
        self._storage.set(name, self._seal_key.seal(name, self._seal_key.head(flags, day), plaintext))
        return name


# -- removal


@pytest.mark.parametrize("option", ["--value", "--token"])
def test_removal_revokes_and_the_value_gets_the_next_token(dense: Stack, option: str) -> None:
    """A removed token is not found, nor removed again; its value gets another one, and never that one again."""
    dense.start_worker()
    given: list[str] = []
    for _ in range(3):
        token = tokenize(dense, "a value")
        assert token not in given
        assert detokenize(dense, token) == "a value"
        assert remove(dense, option, "a value" if option == "--value" else token)[:2] == (0, "removed: 1 token\n")
        given.append(token)
    for token in given:
        assert detokenize(dense, token) == "token_not_found"
        assert NOT_FOUND in remove(dense, "--token", token)[2]
    status, _, errors = remove(dense, "--value", "a value")
    assert (status, NOT_FOUND in errors) == (1, True)
    assert json.loads(run(dense, "status", CLIENT, "--json")[1]) == {"types": [], "unreadable": 0}
    assert run(dense, "verify", CLIENT)[0] == 0
    held = b"".join(dense.storage.mget(entries_of(dense)))
    assert {read_head(name, dense.storage.get(name)).flags for name in entries_of(dense)} == {REMOVED}
    assert len(held) == 4 * (21 + 2) - 3  # a value entry holds its type and a counter, a token entry its type alone


def test_inconsistent_token_is_removed_alone(dense: Stack) -> None:
    """Removal of an inconsistent token leaves its value's own token, and its tombstone stays one of a lone token."""
    dense.start_worker()
    kept = tokenize(dense, "a value")
    lone = tokenize(dense, "a value", consistent=False)
    assert remove(dense, "--token", lone)[:2] == (0, "removed: 1 token\n")
    assert (detokenize(dense, lone), detokenize(dense, kept)) == ("token_not_found", "a value")
    assert tokenize(dense, "a value") == kept
    name = dense_names(dense, SHOP).of_token(lone.encode(), STR.number)
    assert read_head(name, dense.storage.get(name)).flags == ALONE | REMOVED


def test_whole_client_is_removed(dense: Stack) -> None:
    """Without a filter all tokens of a client go, whatever their type and state, and none of another client."""
    dense.start_worker()
    dense.generate_key(OTHER)
    tokens = [tokenize(dense, f"value {number}") for number in range(5)]
    theirs = tokenize(dense, "value 0", client=OTHER)
    run(dense, "disable", CLIENT, "--type", "str", "--value", value="value 3")
    assert run(dense, "remove", CLIENT, "--yes")[:2] == (0, "removed: 5 tokens\n")
    assert {detokenize(dense, token) for token in tokens} == {"token_not_found"}
    assert detokenize(dense, theirs, client=OTHER) == "value 0"
    assert run(dense, "remove", CLIENT, "--yes")[:2] == (0, "removed: 0 tokens\n")


def test_removal_that_was_interrupted_is_completed(dense: Stack) -> None:
    """If a removal stopped between its steps, the same command by the value completes it; so does ``verify``."""
    writer = Writer(dense)
    for value in (b"one", b"two"):
        writer.token(b"token " + value, b"", REMOVED)
        writer.value(value, b"token " + value, DISABLED)
    status, output, _ = run(dense, "verify", CLIENT, "--json")
    assert (status, json.loads(output)["removed_alone"]) == (1, 2)
    assert NOT_FOUND in run(dense, "enable", CLIENT, "--type", "str", "--value", value="one")[2]
    assert remove(dense, "--value", "one")[:2] == (0, "removed: 1 token\n")
    assert NOT_FOUND in remove(dense, "--value", "one")[2]
    assert json.loads(run(dense, "verify", CLIENT, "--repair", "--json")[1])["repaired"] == 1
    assert run(dense, "verify", CLIENT)[0] == 0
    dense.start_worker()
    assert tokenize(dense, "two") not in {"token two", "token_disabled"}


# -- filters and findings


def test_last_use_is_refused_and_creation_chosen_by_day(dense: Stack) -> None:
    """``--older-than`` means the last use, which this layout does not keep: refused, not ignored."""
    writer = Writer(dense)
    writer.token(b"old token", b"old value", day=TODAY - 10)
    writer.value(b"old value", b"old token", day=TODAY - 10)
    writer.token(b"new token", b"new value")
    writer.value(b"new value", b"new token")
    for command in ("status", "show", "disable", "remove"):
        confirmed = ["--yes"] * (command not in {"status", "show"})
        status, _, errors = run(dense, command, CLIENT, "--older-than", "1", *confirmed)
        assert (status, "does not keep when a token was last used" in errors) == (2, True)
    status, _, errors = run(dense, "verify", CLIENT, "--repair", "--min-age-seconds", "0")
    assert (status, "--min-age-seconds" in errors) == (2, True)
    shown = [json.loads(line) for line in run(dense, "show", CLIENT)[1].splitlines()]
    assert {(row["created"], row["accessed"]) for row in shown} == {
        ((TODAY - 10) * 86400, None),
        (TODAY * 86400, None),
    }
    assert {len(bytes.fromhex(row["entry"])) for row in shown} == {16}
    yesterday = time.strftime("%Y-%m-%d", time.gmtime((TODAY - 1) * 86400))
    assert run(dense, "remove", CLIENT, "--created-before", yesterday, "--yes")[1] == "removed: 1 token\n"
    assert json.loads(run(dense, "status", CLIENT, "--json")[1])["types"][0]["enabled"] == 1


def counts_of(output: str) -> dict[str, int]:
    """The counts of ``verify --json``, without names."""
    return {name: count for name, count in json.loads(output).items() if name != "entries"}


def test_halves_are_told_apart_and_repaired(dense: Stack) -> None:
    """``verify`` names each kind of half, and repairs those of which the right half is known."""
    writer = Writer(dense)
    writer.value(b"alone", b"token 1")
    writer.value(b"half disabled", b"token 2", DISABLED)
    writer.token(b"token 2", b"half disabled")
    writer.value(b"mismatch", b"token 3")
    writer.token(b"token 3", b"of another")
    writer.value(b"of another", b"token 3")
    writer.value(b"half removed", b"token 4")
    writer.token(b"token 4", b"", REMOVED)
    writer.value(b"removed half", b"", REMOVED)
    writer.token(b"token 5", b"removed half")
    writer.token(b"token 6", b"half disabled")
    writer.token(b"token 7", b"without token")
    writer.token(b"token 8", b"half disabled", ALONE)
    dense.storage.set(writer.names.of_value(b"broken", 3), b"no entry")
    dense.storage.set(b"t" + writer.names.tag + b"\n" * 11, bytes(40))
    wanted = {
        "value_alone": 1,
        "disabled_alone": 1,
        "mismatch": 1,
        "removed_alone": 2,
        "unreadable": 2,
        "not_given": 2,
        "not_text": 0,
        "repaired": 0,
    }
    status, output, _ = run(dense, "verify", CLIENT, "--json")
    found = json.loads(output)
    names = found.pop("entries")
    assert (status, found) == (1, wanted)
    unreadable = [(b"t" + writer.names.tag + b"\n" * 11).hex(), writer.names.of_value(b"broken", 3).hex()]
    assert (names["unreadable"], names["mismatch"]) == (unreadable, [writer.names.of_value(b"mismatch", 3).hex()])
    assert {kind: len(each) for kind, each in names.items()} == {
        kind: wanted[kind] for kind in ("value_alone", "disabled_alone", "mismatch", "removed_alone", "unreadable")
    }
    assert f"2 entries that cannot be read\n  {unreadable[0]}\n  {unreadable[1]}\n" in run(dense, "verify", CLIENT)[1]
    repaired = wanted | {"value_alone": 0, "removed_alone": 0, "repaired": 3}
    before = dict(zip(entries_of(dense), dense.storage.mget(entries_of(dense)), strict=True))
    assert counts_of(run(dense, "verify", CLIENT, "--json", "--repair", "--dry-run")[1]) == repaired
    assert before == dict(zip(entries_of(dense), dense.storage.mget(entries_of(dense)), strict=True))
    assert counts_of(run(dense, "verify", CLIENT, "--json", "--repair")[1]) == repaired
    assert counts_of(run(dense, "verify", CLIENT, "--json")[1]) == repaired | {"repaired": 0}
    assert run(dense, "disable", CLIENT, "--type", "str", "--token", value="token 2")[1] == "disabled: 1 token\n"
    assert counts_of(run(dense, "verify", CLIENT, "--json")[1]) == repaired | {"repaired": 0, "disabled_alone": 0}


# -- keys


def test_reencrypt_seals_tombstones_and_disabled_ones_too(dense: Stack) -> None:
    """After a rotation every entry is sealed with the newest key; day, flags, tokens and next counters stay."""
    dense.start_worker()
    removed, disabled, kept = (tokenize(dense, value) for value in ("removed", "disabled", "kept"))
    tokenize(dense, "alone", consistent=False)
    remove(dense, "--token", removed)
    run(dense, "disable", CLIENT, "--type", "str", "--token", value=disabled)

    def heads() -> dict[bytes, tuple[int, int]]:
        return {name: read_head(name, dense.storage.get(name))[:2] for name in entries_of(dense)}

    before = heads()
    assert dense.run("keys", "rotate", CLIENT, "--yes").returncode == 0
    dry = run(dense, "reencrypt", CLIENT, "--dry-run", "--json")[1]
    assert json.loads(dry) == {"dry_run": True, "sealed": 7, "passes": 1, "unreadable": 0}
    status, output, _ = run(dense, "reencrypt", CLIENT)  # nobody to ask about AcraServer
    assert (status, output.splitlines()) == (0, [output.strip()])
    assert heads() == before
    newest = unwrap(dense.storage.get(f".acrakeys/{SHOP.key_name}"), dense.master_key, SHOP)
    index = os.urandom(32)  # of no use for opening
    ring = Keyring(SHOP, newest, DataKeyCache(), index, "present")
    owner = DenseLayout().prepare(ring)
    for name in entries_of(dense):
        open_entry(owner, ring, name, dense.storage.get(name))
    assert (tokenize(dense, "kept"), detokenize(dense, kept)) == (kept, "kept")
    assert (tokenize(dense, "disabled"), detokenize(dense, removed)) == ("token_disabled", "token_not_found")
    assert tokenize(dense, "removed") != removed


COMMANDS = (("status",), ("verify",), ("disable", "--yes"), ("remove", "--yes"), ("reencrypt", "--yes"))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("absent", "there is no index key of this client"),
        ("unreadable", "does not open the index key"),
        ("another", "another index key made the names"),
    ],
)
def test_wrong_index_key_stops_every_command(dense: Stack, damage: str, words: str) -> None:
    """Without the index key that made the names, nothing is read or changed, and the error names the reason."""
    dense.start_worker()
    tokenize(dense, "a value")
    path = index_path(".acrakeys", SHOP)
    if damage == "absent":
        dense.storage.delete(path)
    else:
        dense.storage.set(
            path,
            seal_index_key(os.urandom(32), dense.master_key if damage == "another" else os.urandom(32), SHOP),
        )
    before = dense.storage.mget(entries_of(dense))
    for command, *more in COMMANDS:
        status, output, errors = run(dense, command, CLIENT, *more)
        assert (status, output, words in errors) == (1, "", True), errors
    assert dense.storage.mget(entries_of(dense)) == before


def test_command_writes_no_check_value(dense: Stack) -> None:
    """A command on a client without tokens leaves the storage as it was: check values are the workers'."""
    assert run(dense, "status", CLIENT)[0] == 0
    assert dense.storage.exists(check_name(SHOP)) == 0


# -- owners with one tag


ONE_TAG = {SHOP: 43_066, BACK: 44_649}
"""Numbers of index keys with which both clients have the same tag."""


def index_key(owner: Owner, number: int) -> bytes:
    """An index key of which the test knows the names that it makes."""
    return hashlib.sha256(f"{owner.id} {number}".encode()).digest()


def use_index_key(stack: Stack, owner: Owner, key: bytes) -> None:
    stack.storage.set(index_path(".acrakeys", owner), seal_index_key(key, stack.master_key, owner))


@pytest.fixture
def sharing(dense: Stack) -> Stack:
    """A stack with two clients whose tags are equal."""
    dense.generate_key(OTHER)
    for owner, number in ONE_TAG.items():
        use_index_key(dense, owner, index_key(owner, number))
    assert dense_names(dense, SHOP).tag == dense_names(dense, BACK).tag
    return dense


def counted(stack: Stack, client: str) -> tuple[int, int]:
    """Tokens of texts, and entries that cannot be read."""
    found = json.loads(run(stack, "status", client, "--json")[1])
    return sum(row["enabled"] for row in found["types"]), found["unreadable"]


def test_owners_with_one_tag_keep_their_tokens_apart(sharing: Stack) -> None:
    """Commands on one client count, change and encrypt no entry of another one with the same tag."""
    sharing.start_worker()
    ours = [tokenize(sharing, f"value {number}") for number in range(3)]
    theirs = [tokenize(sharing, f"value {number}", client=OTHER) for number in range(4)]
    assert (counted(sharing, CLIENT), counted(sharing, OTHER)) == ((3, 0), (4, 0))
    assert run(sharing, "verify", CLIENT)[0] == run(sharing, "verify", OTHER)[0] == 0
    assert sharing.run("keys", "rotate", OTHER, "--yes").returncode == 0
    assert json.loads(run(sharing, "reencrypt", CLIENT, "--json")[1])["sealed"] == 0
    assert json.loads(run(sharing, "reencrypt", OTHER, "--json")[1])["sealed"] == 8
    assert run(sharing, "remove", CLIENT, "--yes")[:2] == (0, "removed: 3 tokens\n")
    assert [detokenize(sharing, token) for token in ours] == ["token_not_found"] * 3
    assert [detokenize(sharing, token, client=OTHER) for token in theirs] == [f"value {number}" for number in range(4)]


def test_entry_that_no_sharer_opens_is_told_and_left(sharing: Stack) -> None:
    """An entry under a shared tag that no key opens cannot be read, and no command removes it."""
    writer = Writer(sharing, BACK)
    name = writer.token(b"token", b"value")
    assert (counted(sharing, CLIENT), counted(sharing, OTHER)) == ((0, 0), (1, 0))
    raw = sharing.storage.get(name)
    sharing.storage.delete(f".acrakeys/{BACK.key_name}")  # now it may be anybody's
    assert counted(sharing, CLIENT) == (0, 1)
    for command in ("remove", "disable", "reencrypt"):
        status, _, errors = run(sharing, command, CLIENT, *["--yes"] * (command != "reencrypt"))
        assert (status, "1 entry cannot be read; it stays as it is" in errors) == (1, True)
    assert sharing.storage.get(name) == raw


@pytest.mark.parametrize("special", [b"*", b"?", b"[", b"]", b"\\", b"\n", b"^"])
def test_tag_of_special_bytes_finds_its_own_entries_only(dense: Stack, special: bytes) -> None:
    """A tag with a byte that has a meaning in patterns finds the entries of its owner, and no others."""
    number = next(n for n in itertools.count() if special in EntryNames(index_key(SHOP, n), SHOP).tag)
    use_index_key(dense, SHOP, index_key(SHOP, number))
    writer = Writer(dense)
    writer.token(b"token", b"value")
    writer.value(b"value", b"token")
    tag = writer.names.tag
    others = [b"t" + tag.replace(special, b"x") + bytes(11), b"t" + tag + bytes(12), b"t" + tag + bytes(10)]
    dense.storage.mset(dict.fromkeys(others, b"no entry"))
    assert counted(dense, CLIENT) == (1, 0)
    assert run(dense, "verify", CLIENT)[0] == 0


# -- against workers


@pytest.mark.parametrize("command", ["remove", "disable"])
@pytest.mark.parametrize("is_known", [True, False], ids=["known value", "new value"])
def test_command_between_any_two_steps_of_a_worker(
    dense: Stack, storage_server: Valkey, command: str, *, is_known: bool
) -> None:
    """Between any two steps of a worker on the value, a token that the command finds is gone for good, or disabled."""
    url = dense.settings["TOKEN_WORKER_KEYS_URL"]
    done: set[str] = set()
    with (
        closing(RedisLink("keys", RedisSettings(url=url))) as keys,
        closing(RedisLink("tokens", RedisSettings(url=url))) as link,
        DirectHandler(storage_server, dense.master_key, layout="dense") as other,
    ):
        cache = KeyCache(RedisKeyStore(keys, ".acrakeys"), dense.master_key, with_index=True)
        admin = TokenAdmin(ServerEntries(link), cache, SHOP, layout="dense", rate=1e9)

        def act(value: str) -> None:
            found = admin.of_value(value.encode(), STR)
            if isinstance(found, Token):
                done.add(answered(other, "detokenize", (found.token or b"").decode(), value))
                if command == "remove":
                    assert admin.remove(found, TokenFilter())
                else:
                    assert admin.set_disabled(found, disabled=True)
                token = (found.token or b"").decode()
                wanted = "token_not_found" if command == "remove" else "token_disabled"
                assert answered(other, "detokenize", token) == wanted

        for number in range(8):
            value = f"value {number}"
            if is_known:
                answered(other, "tokenize", value)
            seen = itertools.count()

            def before(_: Step, number: int = number, seen: Iterator[int] = seen, value: str = value) -> None:
                if next(seen) == number // 2:
                    if number % 2:
                        answered(other, "tokenize", value)  # another worker is faster
                    act(value)

            with DirectHandler(storage_server, dense.master_key, before=before, layout="dense") as slow:
                ours = answered(slow, "tokenize", value)
            now = answered(other, "tokenize", value)
            if command == "remove":
                assert now == ours or answered(other, "detokenize", ours) == "token_not_found"
                assert answered(other, "detokenize", now) == value
    assert done
    assert run(dense, "verify", CLIENT)[0] == 0


def answered(handler: DirectHandler, op: str, value: str, expected: str | None = None) -> str:
    """The answer of one worker's handler: the token or value, or the code of the error."""
    [reply] = handler.ask([{"op": op, "client_id": CLIENT, "type": "str", "value": value}])
    found = str(reply["value"] if reply["status"] == "ok" else reply["error"]["code"])
    assert expected in (None, found)
    return found


def test_operator_has_the_rights_that_commands_need(dense: Stack, tmp_path: Path) -> None:
    """The user that ``token-worker acl`` prints for operators may run every command on tokens."""
    dense.restrict(tmp_path)
    dense.start_worker()
    tokenize(dense, "a value")
    operator = dense.settings_as("token-operator", tmp_path)
    for command, *more in COMMANDS:
        status, _, errors = run(dense, command, CLIENT, *more, **operator)
        assert status == 0, errors
    assert run(dense, "verify", CLIENT, "--repair", **operator)[0] == 0
