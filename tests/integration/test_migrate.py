"""``token-worker tokens migrate``: tokens are moved between the layouts of the token storage, and none differs."""

import hashlib
import json
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from harness import quick
from harness.direct import Vectors
from harness.doc_pages import page
from harness.doc_runner import Reader
from harness.key_places import InVault, Killed
from harness.moving import CLIENT, FOLDER, OF_ALL_KINDS, ZONE, Given, Kill, Moving, Token
from harness.servers import OpenBao, Valkey
from harness.stack import Stack, wait_until
from harness.terminal import Terminal
from token_worker.acra.owner import Owner
from token_worker.acra.token_entry import EntryNames, decode_entry, encode_entry, encode_token_value
from token_worker.acra.value_types import TYPES
from token_worker.admin import migrate_stages
from token_worker.admin.entry_store import ServerEntries
from token_worker.admin.layout import read_records
from token_worker.admin.migrate import Tally
from token_worker.admin.migrate_scan import Place, Walk, read_place, save_place
from token_worker.admin.migrate_sides import Content
from token_worker.admin.migrate_stages import copy, drop, finish
from token_worker.admin.stored_tokens import Token as StoredToken
from token_worker.admin.tokens import TokenAdmin, TokenFilter
from token_worker.errors import CheckFailed, CorruptData, Unavailable
from token_worker.keys.index_key import index_path, seal_index_key
from token_worker.keys.keyring import DataKeyCache, Keyring
from token_worker.keys.layout_record import TOKENS_RECORD, LayoutName, layout_path
from token_worker.keys.store import new_key, wrap
from token_worker.redis.link import RedisLink
from token_worker.redis.script import Script
from token_worker.storage.durability import Durability, DurabilityBarrier, NoBarrier

NAMES = EntryNames(CLIENT)
STR = TYPES["str"].number
SAME = Token("same", "same")
DISABLED = Token("token_disabled", "token_disabled")


@pytest.fixture
def moving(storage_server: Valkey) -> Iterator[Moving]:
    """A storage with keys and index keys, and no token yet."""
    with closing(Moving(storage_server, secrets.token_bytes(32))) as moving:
        yield moving


def words(count: int) -> list[dict[str, Any]]:
    return [{"type": "str", "value": f"value {number}"} for number in range(count)]


def t_name(given: Given) -> bytes:
    return NAMES.of_token(given.token.encode(), STR)


def v_name(given: Given) -> bytes:
    return NAMES.of_value(given.request["value"].encode(), STR)


def set_disabled(moving: Moving, given: Given, *, disabled: bool, half: str = "both") -> None:
    """Disable or enable a text of the client in Acra's layout, as the commands do."""
    for name in {"both": [t_name(given), v_name(given)], "token": [t_name(given)], "value": [v_name(given)]}[half]:
        moving.storage.set(name, encode_entry(decode_entry(moving.storage.get(name))._replace(disabled=disabled)))


def copied(moving: Moving, to: LayoutName = "dense") -> Tally:
    with moving.stage() as stage:
        return copy(stage, to, dry_run=False, resume=False)


def finished(moving: Moving, to: LayoutName = "dense", leave: Any = frozenset(), before_check: Any = None) -> Tally:
    """Finish. ``before_check`` is called just before the second scan."""
    calls = 0

    def check_workers() -> None:
        nonlocal calls
        calls += 1
        if calls == 2 and before_check is not None:
            before_check()

    with moving.stage() as stage:
        return finish(stage, to, leave=leave, check_workers=check_workers, barrier=NoBarrier(), dry_run=False).tally


def layout_of(moving: Moving) -> tuple[LayoutName, str | None]:
    """The layout in use, and the problem of the records, if there is one."""
    with moving.stage() as stage:
        found = read_records(stage.store, stage.link)
    problem = found.problem()
    return found.layout, None if problem is None else str(problem)


@pytest.mark.parametrize("name", ["storage_server", "redis82_server"])
def test_tokens_of_every_kind_move_both_ways(name: str, request: pytest.FixtureRequest) -> None:
    """Every type, form and state answers the same after the move, and after the way back, when the old entries went."""
    with closing(Moving(request.getfixturevalue(name), secrets.token_bytes(32))) as moving:
        given = moving.give(OF_ALL_KINDS)
        off, *_ = moving.give(words(3))
        set_disabled(moving, off, disabled=True)
        days = [decode_entry(moving.storage.get(key)).created // 86400 for key in (t_name(off), v_name(off))]
        [alone] = moving.give([{"type": "int64", "value": 5, "consistent": False}])

        tally = copied(moving)
        assert (tally.counts["copied"], tally.counts["inconsistent"]) == (len(given) + 3, 1)
        with pytest.raises(CheckFailed, match="1 tokens that were drawn inconsistently"):
            finished(moving)
        tally = finished(moving, leave=migrate_stages.INCONSISTENT)
        assert (tally.counts["copied"], tally.counts["same"]) == (0, len(given) + 3)
        assert layout_of(moving) == ("dense", None)
        assert moving.answers("dense", [*given, off]) == [*[SAME] * len(given), DISABLED]
        with moving.stage() as stage:
            assert drop(stage, "acra", even_changed=False, dry_run=False).counts["dropped"] == len(given) + 3
        [left] = moving.names("tokens/*")  # the token that cannot be moved
        assert moving.answers("dense", [*given, off]) == [*[SAME] * len(given), DISABLED]

        new = moving.give([{"type": "str", "value": "made in the dense layout"}], "dense")
        copied(moving, "acra")
        finished(moving, "acra")
        with moving.stage() as stage:
            drop(stage, "dense", even_changed=False, dry_run=False)
        assert moving.dense == {}
        assert layout_of(moving) == ("acra", None)
        assert moving.answers("acra", [*given, off, *new]) == [*[SAME] * len(given), DISABLED, SAME]
        [back] = moving.ask("acra", [{"op": "detokenize", "type": "int64", "value": alone.token}])
        assert back["value"] == "5"
        assert left in moving.names("tokens/*")
        assert days == [decode_entry(moving.storage.get(key)).created // 86400 for key in (t_name(off), v_name(off))]


def test_tokens_that_acra_wrote_move(storage_server: Valkey) -> None:
    """Entries that AcraServer wrote itself answer the same in the dense layout."""
    vectors = Vectors("acra-types")
    with closing(Moving(storage_server, vectors.master_key)) as moving:
        moving.storage.flushall()
        vectors.load(storage_server)
        owners = [name.decode().removeprefix(f"{FOLDER}/") for name in moving.names(f"{FOLDER}/*_storage_sym")]
        for name in owners:
            owner = Owner("client", name.removesuffix("_storage_sym"))
            moving.storage.set(index_path(FOLDER, owner), seal_index_key(new_key(), vectors.master_key, owner))
        tally = finished(moving, leave=migrate_stages.INCONSISTENT)
        assert tally.counts["copied"] > 0
        given = [
            Given({name: case[name] for name in ("client_id", "type", "value")}, case["token"])
            for case in vectors.cases
            if case.get("consistent", True)
        ]
        assert set(moving.answers("dense", given)) == {SAME}


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


@pytest.mark.parametrize("before", [False, True])
def test_killed_at_any_command_and_run_again(moving: Moving, before: bool) -> None:
    """Copy and finish, killed before or after any of their commands and run again, leave no token that differs."""
    given = moving.give([*words(20), *OF_ALL_KINDS])
    set_disabled(moving, given[3], disabled=True)
    expected = [DISABLED if number == 3 else SAME for number in range(len(given))]
    start = set(moving.names("*"))
    for at in range(1, 1000, 3 if before else 2):
        for name in set(moving.names("*")) - start:
            moving.storage.delete(name)
        try:
            with moving.stage(Kill(at, before=before)) as stage:
                copy(stage, "dense", dry_run=False, resume=False)
                finish(
                    stage, "dense", leave=frozenset(), check_workers=lambda: None, barrier=NoBarrier(), dry_run=False
                )
        except Killed:
            if layout_of(moving) != ("dense", None):
                finished(moving)
            assert layout_of(moving) == ("dense", None)
            assert len(moving.dense) == 2 * len(given)
            if at % 5 == 0:
                assert moving.answers("dense", given) == expected
        else:
            break
    assert at > 20
    assert moving.answers("dense", given) == expected


def test_killed_way_back_and_run_again(moving: Moving) -> None:
    """The way back, and the drop after it, may be killed and run again as well."""
    given = moving.give(words(20))
    finished(moving)
    with moving.stage() as stage:
        drop(stage, "acra", even_changed=False, dry_run=False)
    for at in range(1, 200):
        try:
            with moving.stage(Kill(at)) as stage:
                if layout_of(moving) != ("acra", None):
                    finish(
                        stage, "acra", leave=frozenset(), check_workers=lambda: None, barrier=NoBarrier(), dry_run=False
                    )
                drop(stage, "dense", even_changed=False, dry_run=False)
        except Killed:
            continue
        break
    assert layout_of(moving) == ("acra", None)
    assert moving.dense == {}
    assert set(moving.answers("acra", given)) == {SAME}


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
    with pytest.raises(CheckFailed, match="4 tokens changed meanwhile"):  # the comparison alone finds it
        finished(moving)
    monkeypatch.setattr(migrate_stages, "_check_twins", lambda *_: None)
    finished(moving)
    with pytest.raises(AssertionError):
        assert_changes_are_moved(moving, given)


def test_no_worker_starts_during_the_comparison(moving: Moving) -> None:
    """While the second scan runs the records differ, so what it has compared does not change any more."""
    moving.give(words(2))
    problems = []
    finished(moving, before_check=lambda: problems.append(layout_of(moving)[1]))
    assert problems
    assert "records layout acra, the token storage dense" in str(problems[0])


def test_finish_is_refused_while_somebody_writes(moving: Moving) -> None:
    """If an entry of Acra's changes after it was copied, the layout stays, and workers can start in it."""
    given = moving.give(words(5))
    changes = [
        lambda: set_disabled(moving, given[0], disabled=True),
        lambda: moving.storage.delete(t_name(given[1]), v_name(given[1])),
        lambda: moving.give([{"type": "str", "value": "written meanwhile"}]),
    ]
    for change in changes:
        with pytest.raises(CheckFailed, match="1 tokens changed meanwhile"):
            finished(moving, before_check=change)
        assert layout_of(moving) == ("acra", None)
    finished(moving)
    assert layout_of(moving) == ("dense", None)


def unreadable(moving: Moving, given: list[Given]) -> None:
    entry = decode_entry(moving.storage.get(t_name(given[0])))
    moving.storage.set(t_name(given[0]), encode_entry(entry._replace(block=entry.block[:-1])))


def unreadable_value(moving: Moving, given: list[Given]) -> None:
    moving.storage.set(v_name(given[0]), "no entry")


def of_nobody(moving: Moving, _given: list[Given]) -> None:
    other = EntryNames(Owner("client", "without-key"))
    moving.storage.set(other.of_value(b"x", STR), "anything")


def value_alone(moving: Moving, given: list[Given]) -> None:
    moving.storage.delete(t_name(given[0]))


def disabled_alone(moving: Moving, given: list[Given]) -> None:
    set_disabled(moving, given[0], disabled=True, half="token")


def mismatch(moving: Moving, given: list[Given]) -> None:
    moving.storage.set(v_name(given[0]), moving.storage.get(v_name(given[1])))


@pytest.mark.parametrize(
    ("plant", "text"),
    [
        (unreadable, "1 entries that cannot be read"),
        (unreadable_value, "1 entries that cannot be read"),
        (of_nobody, "1 entries of clients or zones without a key"),
        (value_alone, "1 value entries whose token entry is gone"),
        (disabled_alone, "1 tokens with one entry disabled"),
        (mismatch, "1 value entries that name the token of another value"),
    ],
)
def test_finish_is_refused_with_entries_that_cannot_be_moved(moving: Moving, plant: Any, text: str) -> None:
    """A finish names what cannot be moved, and leaves the layout as it is."""
    given = moving.give(words(4))
    plant(moving, given)
    before = {name: moving.storage.get(name) for name in moving.names("tokens/*")}
    with pytest.raises(CheckFailed, match=text):
        finished(moving)
    assert layout_of(moving) == ("acra", None)
    assert before == {name: moving.storage.get(name) for name in moving.names("tokens/*")}
    if plant in (unreadable, unreadable_value, of_nobody):
        finished(moving, leave=migrate_stages.UNREADABLE | migrate_stages.INCONSISTENT)
        assert layout_of(moving) == ("dense", None)
        assert before == {name: moving.storage.get(name) for name in moving.names("tokens/*")}
        assert set(moving.answers("dense", given[1:])) == {SAME}


def test_without_index_keys_nothing_is_moved(moving: Moving) -> None:
    """Every client and zone needs an index key; the error names the command."""
    moving.give(words(2))
    moving.storage.delete(index_path(FOLDER, ZONE))
    with pytest.raises(CheckFailed, match=r"DDDDDDDDzoneone_zone_sym; make them with `token-worker keys index --all`"):
        copied(moving)
    moving.storage.set(index_path(FOLDER, ZONE), "no key")
    with pytest.raises(CheckFailed, match="does not open the index key of DDDDDDDDzoneone_zone_sym"):
        copied(moving)
    assert moving.dense == {}


def test_another_index_key_is_refused(moving: Moving) -> None:
    """If the names in the storage were made with another index key, nothing is moved: it would not be found."""
    moving.give(words(2))
    copied(moving)
    before = moving.dense
    moving.storage.set(index_path(FOLDER, CLIENT), seal_index_key(new_key(), moving.master_key, CLIENT))
    with pytest.raises(CheckFailed, match="another index key"):
        copied(moving)
    assert moving.dense == before


def interrupt(moving: Moving) -> None:
    """Kill a finish into the dense layout when no worker starts any more, before the new layout is recorded."""

    def kill() -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(migrate_stages, "_open_door", lambda *_: None)
        with pytest.raises(Killed):
            finished(moving, before_check=kill)


def test_interrupted_between_the_records(moving: Moving) -> None:
    """If only the token storage has the new record, no worker starts; the same command completes the move."""
    given = moving.give(words(5))
    interrupt(moving)
    layout, problem = layout_of(moving)
    assert layout == "acra"
    assert problem is not None
    assert "tokens migrate --to dense --finish" in problem
    with pytest.raises(CheckFailed, match="already"):
        finished(moving, "acra")  # takes the move back
    assert layout_of(moving) == ("acra", None)
    interrupt(moving)
    finished(moving)
    assert layout_of(moving) == ("dense", None)
    assert set(moving.answers("dense", given)) == {SAME}


def test_interrupted_before_the_last_write(moving: Moving) -> None:
    """If both storages record the new layout, but one as unfinished, no worker starts; the move can only be ended."""
    given = moving.give(words(5))
    interrupt(moving)
    unfinished = moving.storage.get(TOKENS_RECORD)
    finished(moving)
    new = moving.storage.get(TOKENS_RECORD)
    moving.storage.set(TOKENS_RECORD, unfinished)
    assert layout_of(moving)[0] == "dense"
    assert "tokens migrate --to dense --finish" in str(layout_of(moving)[1])
    with pytest.raises(CheckFailed, match="a move is unfinished"):
        finished(moving, "acra")
    finished(moving)
    assert (moving.storage.get(TOKENS_RECORD), moving.storage.get(layout_path(FOLDER))) == (new, new)
    assert set(moving.answers("dense", given)) == {SAME}


def test_interrupted_with_keys_of_another_time(moving: Moving) -> None:
    """A finish is not gone on with if the key storage records its layout from an earlier move: nothing was compared."""
    moving.give(words(2))
    finished(moving)
    older = moving.storage.get(layout_path(FOLDER)).replace(b'"since":"2', b'"since":"1')
    finished(moving, "acra")
    interrupt(moving)
    moving.storage.set(layout_path(FOLDER), older)
    for to in ("dense", "acra"):
        assert_refused(moving, to, "restore the newer one")
    moving.storage.set(layout_path(FOLDER), moving.storage.get(TOKENS_RECORD))
    with moving.stage() as stage, pytest.raises(CorruptData, match="copied from an unfinished move"):
        read_records(stage.store, stage.link)


def assert_refused(moving: Moving, to: LayoutName, text: str) -> None:
    """Both stages of a move are refused, and change nothing."""

    def stored() -> dict[bytes, bytes]:
        return {name: moving.storage.get(name) for name in moving.names("*")}

    before = stored()
    with pytest.raises(CheckFailed, match=text):
        finished(moving, to)
    with pytest.raises(CheckFailed, match=text), moving.stage() as stage:
        copy(stage, to, dry_run=False, resume=False)
    assert stored() == before


@pytest.mark.parametrize("is_gone", [True, False])
@pytest.mark.parametrize("is_dropped", [True, False])
def test_key_storage_from_before_the_move(moving: Moving, is_gone: bool, is_dropped: bool) -> None:
    """If the key storage is older than the move, or lost its record, no token goes, and none gets an older state."""
    given = moving.give(words(5))
    path = layout_path(FOLDER)
    finished(moving)
    if is_dropped:
        drop_acra(moving)
    removed, *given = given
    remove_in_dense(moving, removed)
    new = moving.storage.get(path)
    if is_gone:
        moving.storage.delete(path)
    else:
        moving.storage.set(path, new.replace(b"dense", b"acra"))
    for to in ("dense", "acra"):
        assert_refused(moving, to, r"copy the record \(docs/layouts.md\)")
    moving.storage.set(path, moving.storage.get(TOKENS_RECORD))  # as docs/layouts.md says
    assert layout_of(moving) == ("dense", None)
    assert set(moving.answers("dense", given)) == {SAME}
    [back] = moving.ask("dense", [{"op": "detokenize", **removed.request, "value": removed.token}])
    assert back["error"]["code"] == "token_not_found"


def test_token_storage_from_before_the_move(moving: Moving) -> None:
    """If the token storage is older than the move, its record is not replaced: that takes the newer storage."""
    moving.give(words(2))
    finished(moving)
    finished(moving, "acra")
    old = moving.storage.get(TOKENS_RECORD)
    finished(moving)
    moving.storage.set(TOKENS_RECORD, old)
    for to in ("dense", "acra"):
        assert_refused(moving, to, "restored from an older backup")


def test_move_that_is_taken_back_meanwhile_is_not_recorded(moving: Moving) -> None:
    """If another command takes a finish back, workers may start in the old layout: the finish must not end."""
    moving.give(words(2))
    calls = 0

    def take_back() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:  # before the record in the key storage
            with pytest.raises(CheckFailed, match="is taken back"):
                finished(moving, "acra")

    with pytest.raises(CheckFailed, match="took the move back"), moving.stage() as stage:
        finish(stage, "dense", leave=frozenset(), check_workers=take_back, barrier=NoBarrier(), dry_run=False)
    assert layout_of(moving) == ("acra", None)


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
    moving.storage.set(twins[0][0], moving.storage.get(twins[0][0])[:-1] + b"?")  # damaged
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


def remove_in_dense(moving: Moving, given: Given) -> None:
    with moving.stage() as stage:
        keys = stage.reader.keys
        admin = TokenAdmin(ServerEntries(stage.link), keys, CLIENT, layout="dense", rate=1e9)
        found = admin.of_token(given.token.encode(), TYPES["str"])
        assert isinstance(found, StoredToken)
        assert admin.remove(found, TokenFilter())


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


def drop_acra(moving: Moving) -> Tally:
    with moving.stage() as stage:
        return drop(stage, "acra", even_changed=False, dry_run=False)


ONE_TAG = {CLIENT: b"shop-frontend 17596", Owner("client", "shop-backoffice"): b"shop-backoffice 33649"}
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


def test_token_of_two_values_is_refused(moving: Moving) -> None:
    """A token that the new layout holds for another value, drawn inconsistently there, is never overwritten."""
    [alone] = moving.give([{"type": "str", "value": "drawn before", "consistent": False}], "dense")
    [other] = moving.give([{"type": "str", "value": "value two"}])
    entry = decode_entry(moving.storage.get(v_name(other)))
    ring = Keyring(CLIENT, moving.keys[CLIENT], DataKeyCache())
    moving.storage.set(v_name(other), encode_entry(entry._replace(block=ring.seal(alone.token.encode()))))
    moving.storage.rename(t_name(other), t_name(alone))
    before = moving.dense
    with pytest.raises(CheckFailed, match="1 tokens that the new layout holds for another value"):
        finished(moving)
    assert moving.dense == before
    assert layout_of(moving) == ("acra", None)


def test_token_of_two_values_is_refused_on_the_way_back(moving: Moving) -> None:
    """The same holds for Acra's layout, where such a token stayed behind."""
    [alone] = moving.give([{"type": "str", "value": "drawn before", "consistent": False}])
    finished(moving, leave=migrate_stages.INCONSISTENT)
    with moving.stage() as stage:
        ring = stage.reader.ring(CLIENT)
        assert ring is not None
        names = stage.dense.names(ring)
        value, token = b"another value", alone.token.encode()
        both = names.of_token(token, STR), names.of_value(value, STR)
        sealed = stage.dense.seal(ring, Content(STR, value, token, False, 20_000, 20_000), both, 0)
        moving.storage.mset(dict(zip(both, sealed, strict=True)))
    before = {name: moving.storage.get(name) for name in moving.names("tokens/*")}
    with pytest.raises(CheckFailed, match="1 tokens that the new layout holds for another value"):
        finished(moving, "acra")
    assert before == {name: moving.storage.get(name) for name in moving.names("tokens/*")}


def test_copies_are_as_safe_as_tokens_of_workers(moving: Moving) -> None:
    """The finish waits as ``TOKEN_WORKER_DURABILITY`` says; if replicas do not confirm, the old layout stays."""
    moving.give(words(2))
    with moving.stage() as stage:
        barrier = DurabilityBarrier(stage.link, Durability(replicas=1), 50)
        with pytest.raises(Unavailable, match="0 of 1 replicas"):
            finish(stage, "dense", leave=frozenset(), check_workers=lambda: None, barrier=barrier, dry_run=False)
    assert layout_of(moving) == ("acra", None)


def test_copy_goes_on_where_it_was_stopped(moving: Moving) -> None:
    """With ``--resume`` a copy begins at the place that was saved last; a copy into the other layout does not."""
    moving.give(words(700))
    with moving.stage() as stage:
        walk = Walk(stage.link, rate=float("inf"))
        walk._saved_at = float("-inf")
        first = next(walk.pages(stage.acra, to="dense"))
        assert len(first.tokens) < 700
        save_place(stage.link, Place(to="dense", cursor=stage.link.call("SCAN", "0", "COUNT", 1000)[0].decode()))
        rest = copy(stage, "dense", dry_run=True, resume=True).counts["tokens"]
        assert 0 < rest < 700
        save_place(stage.link, Place(to="acra", cursor="5"))
        assert copy(stage, "dense", dry_run=False, resume=True).counts["tokens"] == 700
        assert read_place(stage.link, "dense") == "0"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "give --to or --drop"),
        (("--to", "dense", "--drop", "acra"), "give --to or --drop"),
        (("--drop", "acra", "--finish"), "--finish needs --to"),
        (("--to", "dense", "--finish", "--resume"), "--resume is for a copy"),
        (("--to", "dense", "--changed"), "--changed is only for --drop"),
        (("--to", "dense", "--leave-unreadable"), "only for --finish"),
        (("--to", "dense", "--finish"), "Confirm with --yes"),
        (("--drop", "acra"), "Confirm with --yes"),
    ],
)
def test_options_that_do_not_fit(stack: Stack, arguments: tuple[str, ...], text: str) -> None:
    """Options without effect are refused, and a finish or drop wants a confirmation."""
    done = stack.run("tokens", "migrate", *arguments)
    assert done.returncode == 2
    assert text in done.stderr


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ({"TOKEN_WORKER_LAYOUT": "acra"}, "TOKEN_WORKER_LAYOUT is acra: no worker would start afterwards"),
        ({"TOKEN_WORKER_TOKENS_URL": "redis+cluster://127.0.0.1:1"}, "tokens are moved on one server"),
    ],
)
def test_settings_that_do_not_fit(stack: Stack, setting: dict[str, str], text: str) -> None:
    """Nothing is begun if no worker could start afterwards, or where Acra's layout cannot be."""
    done = stack.run("tokens", "migrate", "--to", "dense", "--finish", "--yes", **setting)
    assert done.returncode == 1, done.stderr
    assert text in done.stderr


def test_commands_beside_workers(stack: Stack, tmp_path: Path) -> None:
    """A copy runs while workers serve; the finish waits until they are stopped; then all answers are the same.

    The command has the rights of the operator that ``acl`` prints, and is audited.
    """
    stack.restrict(tmp_path)
    settings = stack.settings_as("token-operator", tmp_path)
    audited = {"TOKEN_WORKER_AUDIT_FILE": str(tmp_path / "audit.log"), **settings}
    worker = stack.start_worker()
    requests = [
        {"id": str(number), "op": "tokenize", "client_id": CLIENT.id, "type": "str", "value": f"value {number}"}
        for number in range(900)
    ]
    before = {number: reply["value"] for number, reply in stack.ask(requests[:600]).items()}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return stack.run("tokens", "migrate", *arguments, **audited)

    done = run("--to", "dense")
    assert (done.returncode, "keys index --all" in done.stderr) == (1, True)
    assert stack.run("keys", "index", "--all").returncode == 0
    command = [sys.executable, "-m", "token_worker", "tokens", "migrate", "--to", "dense", "--rate", "400"]
    environment = stack.environment(**settings)
    with quick.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        before |= {number: reply["value"] for number, reply in stack.ask(requests[600:]).items()}
        assert process.wait(60) == 0
    done = run("--to", "dense", "--finish", "--yes")
    assert (done.returncode, "workers are running" in done.stderr) == (1, True)
    worker.stop()
    waiting = stack.send([{**requests[0], "id": "waits"}])
    assert len(waiting) == 1
    done = run("--to", "dense", "--finish", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["copied"] + shown["same"] == 900
    assert shown["pause_seconds"] > 0

    stack.start_worker()
    wait_until(lambda: any(reply["id"] == "waits" for reply in stack.replies()), "the request that waited")
    after = stack.ask([{**each, "id": f"again {each['id']}"} for each in requests])
    assert all(after[f"again {number}"].get("value") == token for number, token in before.items())
    back = [
        {**each, "id": f"back {each['id']}", "op": "detokenize", "value": before[str(each["id"])]} for each in requests
    ]
    values = stack.ask(back, "detokenize")
    assert all(values[f"back {each['id']}"].get("value") == each["value"] for each in requests)

    assert "900 tokens deleted" in run("--drop", "acra", "--yes").stdout
    assert run("--to", "dense").returncode == 1  # this is the layout already
    [audit] = tmp_path.glob("audit-commands-*.log")
    lines = [json.loads(line) for line in audit.read_text().splitlines()]
    ended = [line["outcome"] for line in lines if line["event"] == "change ended"]
    assert ended == ["failed", "done", "done", "failed"]
    assert not any(token in audit.read_text() for token in before.values())


def test_keys_and_record_in_vault(stack: Stack, openbao_server: OpenBao) -> None:
    """With keys in Vault, the index keys and the record of the layout are there, and the move is the same."""
    place = InVault(openbao_server)
    place.put(f"{place.folder}/{CLIENT.key_name}", wrap(bytes(range(32)), stack.master_key, CLIENT))
    stack.storage.flushall()
    stack.settings |= place.settings
    worker = stack.start_worker()
    request = {"op": "tokenize", "client_id": CLIENT.id, "type": "str", "value": "a value"}
    before = stack.ask([{**request, "id": "1"}])["1"]["value"]
    worker.stop()
    assert stack.run("keys", "index", "--all").returncode == 0
    done = stack.run("tokens", "migrate", "--to", "dense", "--finish", "--yes")
    assert done.returncode == 0, done.stderr
    assert place.get(layout_path(place.folder)) == stack.storage.get(TOKENS_RECORD)
    stack.start_worker()
    assert stack.ask([{**request, "id": "2"}])["2"].get("value") == before


def test_progress_on_a_terminal(stack: Stack) -> None:
    """On a terminal a bar shows how many tokens were seen, how many a second, and a place for the time that is left."""
    stack.start_worker()
    stack.ask(
        [
            {"id": str(number), "op": "tokenize", "client_id": CLIENT.id, "type": "int32", "value": number}
            for number in range(600)
        ]
    )
    assert stack.run("keys", "index", "--all").returncode == 0
    command = [sys.executable, "-m", "token_worker", "tokens", "migrate", "--to", "dense", "--rate", "200"]
    with Terminal(command, stack.environment()) as terminal:
        terminal.wait_for(" tokens, ", "/s ", "-:--:--")


def test_page_runs_as_printed(stack: Stack, tmp_path: Path) -> None:
    """An operator can run every command of the page, with the workers stopped for the finish."""
    worker = stack.start_worker()
    stack.ask([{"id": "1", "op": "tokenize", "client_id": CLIENT.id, "type": "str", "value": "before"}])
    settings = {**stack.settings, "TOKEN_WORKER_AUDIT_FILE": str(tmp_path / "audit.log")}
    with Reader(tmp_path, settings, {}) as reader:
        reader.follow(page("docs/migrate.md"), lambda section: section in ("1. Prepare", "2. Copy"))
        worker.stop()
        reader.follow(page("docs/migrate.md"), lambda section: section not in ("1. Prepare", "2. Copy"))
    assert stack.storage.keys("tokens/*") == []
