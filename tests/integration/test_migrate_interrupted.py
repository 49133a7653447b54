"""``token-worker tokens migrate``: interrupted anywhere, or with storages of different times, it harms no token."""

import os
from contextlib import closing

import pytest

from harness.key_places import Fuse, InVault, Killed
from harness.moving import (
    DISABLED,
    FOLDER,
    OF_ALL_KINDS,
    SAME,
    Kill,
    Moving,
    MovingInVault,
    copied,
    drop_acra,
    finished,
    interrupt,
    layout_of,
    remove_in_dense,
    set_disabled,
    words,
)
from harness.servers import OpenBao, Valkey
from token_worker.admin.layout import read_records
from token_worker.admin.migrate_scan import Place, Walk, read_place, save_place
from token_worker.admin.migrate_stages import copy, drop, finish
from token_worker.errors import CheckFailed, CorruptData
from token_worker.keys.layout_record import TOKENS_RECORD, LayoutName, layout_path
from token_worker.storage.durability import NoBarrier


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


def test_killed_at_any_call_to_vault_and_run_again(storage_server: Valkey, openbao_server: OpenBao) -> None:
    """With the record in Vault, a finish may be killed before or after any call to Vault, and run again."""
    with closing(MovingInVault(storage_server, os.urandom(32), InVault(openbao_server))) as moving:
        given = moving.give(words(5))
        start = set(moving.names("*"))
        at, is_killed = 0, True
        while is_killed:
            at += 1
            moving.forget_record()
            for name in set(moving.names("*")) - start:
                moving.storage.delete(name)
            moving.fuse = Fuse(at)
            try:
                finished(moving)
                is_killed = False
            except Killed:
                pass
            moving.fuse = None
            if is_killed and layout_of(moving) != ("dense", None):
                finished(moving)
            assert layout_of(moving) == ("dense", None)
            assert set(moving.answers("dense", given)) == {SAME}
        assert at > 10


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


@pytest.mark.parametrize("is_dropped", [True, False])
def test_both_records_are_lost(moving: Moving, is_dropped: bool) -> None:
    """Without any record, tokens of the dense layout that no move has made are not taken for copies: nothing is done.

    With a new record in both storages, as docs/layouts.md says, they serve again.
    """
    given = moving.give(words(5))
    copied(moving)
    finished(moving)
    if is_dropped:
        drop_acra(moving)
    removed, off, *given = given
    remove_in_dense(moving, removed)
    record = moving.storage.get(TOKENS_RECORD)
    moving.storage.delete(layout_path(FOLDER), TOKENS_RECORD)

    assert_refused(moving, "dense", "restore the records, or write new ones")
    with moving.stage() as stage:
        for dry_run in (True, False):
            with pytest.raises(CheckFailed, match="restore the records"):
                copy(stage, "dense", dry_run=dry_run, resume=True)
            with pytest.raises(CheckFailed, match="restore the records"):
                drop(stage, "dense", even_changed=True, dry_run=dry_run)

    moving.storage.mset({layout_path(FOLDER): record, TOKENS_RECORD: record})
    assert layout_of(moving) == ("dense", None)
    assert set(moving.answers("dense", [off, *given])) == {SAME}
    [back] = moving.ask("dense", [{"op": "detokenize", **removed.request, "value": removed.token}])
    assert back["error"]["code"] == "token_not_found"


def test_copies_are_given_up_before_a_finish(moving: Moving) -> None:
    """Copies that a move has made without a record can be changed by the next run, and dropped again."""
    given = moving.give(words(5))
    copied(moving)
    set_disabled(moving, given[0], disabled=True)
    assert copied(moving).counts["changed"] == 1
    with moving.stage() as stage:
        assert drop(stage, "dense", even_changed=False, dry_run=False).counts["dropped"] == 5
    assert moving.dense == {}
    assert layout_of(moving) == ("acra", None)


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
        assert (read_place(stage.link, "dense"), read_place(stage.link, "acra")) == ("0", None)
    finished(moving)
    with moving.stage() as stage:
        assert read_place(stage.link, "dense") is None
