"""``token-worker tokens migrate``: tokens are moved between the layouts of the token storage, and none differs."""

import hashlib
import secrets
from contextlib import closing
from typing import Any

import pytest

from harness.direct import Vectors
from harness.moving import (
    CLIENT,
    DISABLED,
    FOLDER,
    OF_ALL_KINDS,
    SAME,
    STR,
    Given,
    Moving,
    copied,
    drop_acra,
    finished,
    layout_of,
    remove_in_dense,
    set_disabled,
    t_name,
    v_name,
    words,
)
from harness.servers import Valkey
from token_worker.acra.owner import Owner
from token_worker.acra.token_entry import decode_entry, encode_entry, encode_token_value
from token_worker.admin import migrate_stages
from token_worker.admin.migrate_rows import Tally
from token_worker.admin.migrate_stages import drop, finish
from token_worker.errors import CheckFailed, Unavailable
from token_worker.keys.index_key import index_path, seal_index_key
from token_worker.keys.keyring import DataKeyCache, Keyring
from token_worker.keys.store import new_key, wrap
from token_worker.redis.link import RedisLink
from token_worker.redis.script import Script
from token_worker.storage.durability import Durability, DurabilityBarrier


@pytest.mark.parametrize("name", ["storage_server", "redis82_server"])
def test_tokens_of_every_kind_move_both_ways(name: str, request: pytest.FixtureRequest) -> None:
    """Every type, form and state answers the same after the move, and after the way back, when the old entries went."""
    with closing(Moving(request.getfixturevalue(name), secrets.token_bytes(32))) as moving:
        given = moving.give(OF_ALL_KINDS)
        off, *_ = moving.give(words(3))
        set_disabled(moving, off, disabled=True)
        days = [decode_entry(moving.storage.get(key)).created // 86400 for key in (t_name(off), v_name(off))]
        requests = [request | {"value": "y"} if request["value"] == "x" else request for request in OF_ALL_KINDS]
        lone = moving.give([request | {"consistent": False} for request in requests])  # "x" might get its token again
        count = len(given) + len(lone) + 3

        tally = copied(moving)
        assert (tally.counts["copied"], tally.counts["inconsistent"]) == (count, len(lone))
        tally = finished(moving)
        assert (tally.counts["copied"], tally.counts["same"]) == (0, count)
        assert layout_of(moving) == ("dense", None)
        assert moving.answers("dense", [*given, off]) == [*[SAME] * len(given), DISABLED]
        with moving.stage() as stage:
            assert drop(stage, "acra", even_changed=False, dry_run=False).counts["dropped"] == count
        assert moving.names("tokens/*") == []
        assert moving.answers("dense", [*given, off]) == [*[SAME] * len(given), DISABLED]
        assert moving.values("dense", lone) == ["same"] * len(lone)

        new = moving.give([{"type": "str", "value": "made in the dense layout"}], "dense")
        lone += moving.give([{"type": "str", "value": "made in the dense layout", "consistent": False}], "dense")
        copied(moving, "acra")
        finished(moving, "acra")
        with moving.stage() as stage:
            drop(stage, "dense", even_changed=False, dry_run=False)
        assert moving.dense == {}
        assert layout_of(moving) == ("acra", None)
        assert moving.answers("acra", [*given, off, *new]) == [*[SAME] * len(given), DISABLED, SAME]
        assert moving.values("acra", lone) == ["same"] * len(lone)
        assert days == [decode_entry(moving.storage.get(key)).created // 86400 for key in (t_name(off), v_name(off))]


def test_tokens_that_acra_wrote_move(storage_server: Valkey) -> None:
    """Entries that AcraServer wrote itself answer the same in the dense layout, also those without a value entry."""
    vectors = Vectors("acra-types")
    with closing(Moving(storage_server, vectors.master_key)) as moving:
        moving.storage.flushall()
        vectors.load(storage_server)
        owners = [name.decode().removeprefix(f"{FOLDER}/") for name in moving.names(f"{FOLDER}/*_storage_sym")]
        for name in owners:
            owner = Owner("client", name.removesuffix("_storage_sym"))
            moving.storage.set(index_path(FOLDER, owner), seal_index_key(new_key(), vectors.master_key, owner))
        halves = set(moving.names("tokens/*/682e*")[::3])
        moving.storage.delete(*halves)  # what AcraServer writes for a token that is not consistent
        before = {name: moving.acra_content(name) for name in moving.names("tokens/*")}
        given = [
            Given({name: case[name] for name in ("client_id", "type", "value")}, case["token"])
            for case in vectors.cases
        ]

        tally = finished(moving)

        assert (tally.counts["copied"], tally.counts["inconsistent"]) == (len(vectors.cases), len(halves))
        assert moving.values("dense", given) == ["same"] * len(given)
        assert drop_acra(moving).counts["dropped"] == len(vectors.cases)
        finished(moving, "acra")
        assert {name: moving.acra_content(name) for name in moving.names("tokens/*")} == before
        assert moving.values("acra", given) == ["same"] * len(given)


def test_token_that_changes_while_it_is_copied(moving: Moving, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of what is no longer so is not written; a drop of what was just changed is not done."""
    given = moving.give(words(3))
    changes = iter((True, False))

    def change_first(link: RedisLink, script: Script, *arguments: Any) -> Any:
        set_disabled(moving, given[0], disabled=next(changes))
        return run(link, script, *arguments)

    run = RedisLink.run
    monkeypatch.setattr(RedisLink, "run", change_first)
    tally = copied(moving)
    assert (tally.counts["copied"], tally.counts["busy"], len(moving.dense)) == (2, 1, 4)
    monkeypatch.undo()
    set_disabled(moving, given[0], disabled=False)
    finished(moving)
    monkeypatch.setattr(RedisLink, "run", change_first)
    changes = iter((True,))
    assert (drop_acra(moving).counts["busy"], len(moving.names("tokens/*"))) == (1, 2)


def test_copy_finds_nothing_to_do_when_it_is_run_again(moving: Moving) -> None:
    """A second copy writes nothing, and on another day neither: entries keep the day of their creation."""
    moving.give(words(30))
    copied(moving)
    before = moving.dense
    tally = copied(moving)
    assert (tally.counts["copied"], tally.counts["same"]) == (0, 30)
    assert moving.dense == before


def test_changes_between_copy_and_finish_are_moved(moving: Moving) -> None:
    """A token disabled, enabled, removed or created after the copy is right after the finish."""
    given = moving.give(words(6))
    set_disabled(moving, given[1], disabled=True)
    copied(moving)
    change_after_copy(moving, given)
    tally = finished(moving)
    assert (tally.counts["copied"], tally.counts["changed"], tally.counts["twins_deleted"]) == (3, 2, 1)
    assert_changes_are_moved(moving, given)


def change_after_copy(moving: Moving, given: list[Given]) -> None:
    set_disabled(moving, given[0], disabled=True)
    set_disabled(moving, given[1], disabled=False)
    moving.storage.delete(t_name(given[2]), v_name(given[2]))
    given += moving.give([{"type": "str", "value": "created later"}])


def assert_changes_are_moved(moving: Moving, given: list[Given]) -> None:
    removed = given.pop(2)
    back = {"op": "detokenize", **removed.request, "value": removed.token}
    assert moving.ask("dense", [back])[0].get("error", {}).get("code") == "token_not_found"
    assert moving.answers("dense", given) == [DISABLED, *[SAME] * 5]


def test_finish_without_the_second_scan_is_found(moving: Moving, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test before this one fails if the finish takes the first copy for the truth."""
    given = moving.give(words(6))
    set_disabled(moving, given[1], disabled=True)
    copied(moving)
    change_after_copy(moving, given)
    monkeypatch.setattr(migrate_stages, "_bring_up_to_date", lambda *_, **__: Tally())
    with pytest.raises(CheckFailed, match=r"tokens changed meanwhile \(4\)"):  # the comparison alone finds it
        finished(moving)
    monkeypatch.setattr(migrate_stages, "_check_twins", lambda *_: None)
    finished(moving)
    with pytest.raises(AssertionError):
        assert_changes_are_moved(moving, given)


def test_drop_deletes_only_what_equals(moving: Moving) -> None:
    """An entry of Acra's goes only after both entries of its twin were opened and say the same."""
    given = moving.give(words(6))
    with pytest.raises(CheckFailed, match="acra is the layout in use"), moving.stage() as stage:
        drop(stage, "acra", even_changed=True, dry_run=False)
    finished(moving)
    with moving.stage() as stage:
        names = stage.dense.names(stage.reader.ring(CLIENT))  # type: ignore[arg-type]
    twins = [
        (names.of_token(each.token.encode(), STR), names.of_value(each.request["value"].encode(), STR))
        for each in given
    ]
    damaged = bytearray(moving.storage.get(twins[0][0]))
    damaged[-1] ^= 1
    moving.storage.set(twins[0][0], bytes(damaged))
    moving.storage.delete(twins[1][1])
    moving.storage.set(twins[2][1], moving.storage.get(twins[3][1]))  # swapped in: does not open under this name
    set_disabled(moving, given[4], disabled=True)  # the source changed
    with moving.stage() as stage:
        dry = drop(stage, "acra", even_changed=False, dry_run=True)
        assert len(moving.names("tokens/*")) == 12
        tally = drop(stage, "acra", even_changed=False, dry_run=False)
    assert dry.counts == tally.counts
    assert (tally.counts["dropped"], tally.counts["different"], tally.counts["changed_since"]) == (2, 3, 1)
    kept = {name for each in (given[0], given[1], given[2], given[4]) for name in (t_name(each), v_name(each))}
    assert set(moving.names("tokens/*")) == kept
    with moving.stage() as stage:
        assert drop(stage, "acra", even_changed=True, dry_run=False).counts["dropped"] == 1
    assert set(moving.names("tokens/*")) == kept - {t_name(given[4]), v_name(given[4])}


def test_removed_tokens_do_not_come_back(moving: Moving) -> None:
    """A token removed in the dense layout is gone after the way back, though Acra's entries of it were still there."""
    given = moving.give(words(4))
    finished(moving)
    for each in given[:2]:
        remove_in_dense(moving, each)
    [new] = moving.give([given[0].request], "dense")  # the next token of a value whose token was removed
    assert new.token != given[0].token
    assert len(moving.names("tokens/*")) == 8

    tally = copied(moving, "acra")
    assert tally.counts["removed"] == 2
    finished(moving, "acra")

    assert moving.answers("acra", [new, *given[2:]]) == [SAME] * 3
    back = [{"op": "detokenize", **each.request, "value": each.token} for each in given[:2]]
    assert {reply.get("error", {}).get("code") for reply in moving.ask("acra", back)} == {"token_not_found"}
    assert set(moving.names("tokens/*")) == {
        name for each in (new, *given[2:]) for name in (t_name(each), v_name(each))
    }
    with moving.stage() as stage:
        tally = drop(stage, "dense", even_changed=False, dry_run=False)
        assert (tally.counts["dropped"], tally.counts["removed"]) == (3, 2)
        drop(stage, "dense", even_changed=True, dry_run=False)
    assert moving.dense == {}
    assert moving.names("c" + "?" * 15) == []


def test_token_that_went_to_another_value_is_moved(moving: Moving) -> None:
    """If a token was removed after the copy, and given to another value, the finish moves it to that value."""
    first, second = moving.give(words(2))
    copied(moving)
    moving.storage.delete(t_name(first), v_name(first))
    stolen = Given(first.request, second.token)
    moving.storage.rename(v_name(second), v_name(first))
    ring = Keyring(CLIENT, moving.keys[CLIENT], DataKeyCache())
    block = ring.seal(encode_token_value(first.request["value"].encode(), STR))
    moving.storage.set(
        t_name(second), encode_entry(decode_entry(moving.storage.get(t_name(second)))._replace(block=block))
    )
    finished(moving)
    assert moving.answers("dense", [stolen]) == [SAME]
    assert len(moving.dense) == 2


def test_tokens_of_replaced_keys_move(moving: Moving) -> None:
    """Entries under a key of the history are moved, and sealed with the key in use."""
    given = moving.give(words(5))
    old = f"{FOLDER}/{CLIENT.key_name}"
    moving.storage.rename(old, f"{old}.old/2026-01-01T00:00:00")
    moving.storage.set(old, wrap(new_key(), moving.master_key, CLIENT))
    given += moving.give([{"type": "str", "value": "after the rotation"}])
    finished(moving)
    assert set(moving.answers("dense", given)) == {SAME}
    moving.storage.delete(f"{old}.old/2026-01-01T00:00:00")
    assert set(moving.answers("dense", given)) == {SAME}
    assert drop_acra(moving).counts["unreadable"] == 5  # without the old key they are not compared, so they stay
    assert len(moving.names("tokens/*")) == 10


ONE_TAG = {CLIENT: b"shop-frontend 43066", Owner("client", "shop-backoffice"): b"shop-backoffice 44649"}
"""Texts whose hashes are index keys that give both clients the same tag."""


def test_clients_with_one_tag_are_kept_apart(moving: Moving) -> None:
    """Tokens of two clients whose names begin alike in the dense layout move both ways."""
    given = []
    for owner, text in ONE_TAG.items():
        index_key = hashlib.sha256(text).digest()
        key = moving.keys.get(owner) or new_key()
        moving.storage.set(f"{FOLDER}/{owner.key_name}", wrap(key, moving.master_key, owner))
        moving.storage.set(index_path(FOLDER, owner), seal_index_key(index_key, moving.master_key, owner))
        given += moving.give([{"client_id": owner.id, **request} for request in words(4)])
    finished(moving)
    assert len({name[1:5] for name in moving.dense}) == 1
    assert drop_acra(moving).counts["dropped"] == 8
    assert set(moving.answers("dense", given)) == {SAME}
    finished(moving, "acra")
    assert set(moving.answers("acra", given)) == {SAME}


def test_copies_are_as_safe_as_tokens_of_workers(moving: Moving) -> None:
    """The finish waits as ``TOKEN_WORKER_DURABILITY`` says; if replicas do not confirm, the old layout stays."""
    moving.give(words(2))
    with moving.stage() as stage:
        barrier = DurabilityBarrier(stage.link, Durability(replicas=1), 50)
        with pytest.raises(Unavailable, match="0 of 1 replicas"):
            finish(stage, "dense", leave=frozenset(), check_workers=lambda: None, barrier=barrier, dry_run=False)
    assert layout_of(moving) == ("acra", None)
