"""``token-worker tokens migrate`` moves tokens that were drawn inconsistently: each has one entry in either layout."""

from typing import Any

import pytest

from harness.direct import DirectHandler, Message
from harness.key_places import Killed
from harness.moving import (
    CLIENT,
    FOLDER,
    SAME,
    Given,
    Kill,
    Moving,
    copied,
    drop_acra,
    finished,
    interrupt,
    layout_of,
    remove_in_dense,
    set_disabled,
    t_name,
    v_name,
    words,
)
from token_worker.admin.migrate_stages import copy, drop, finish
from token_worker.errors import CheckFailed
from token_worker.keys.layout_record import TOKENS_RECORD, LayoutName, layout_path
from token_worker.redis.link import RedisLink
from token_worker.redis.script import Script
from token_worker.storage.dense.entry import ALONE, DISABLED, FOREIGN, REMOVED
from token_worker.storage.durability import NoBarrier

NOT_FOUND = "token_not_found"


def singles(count: int, name: str = "value") -> list[Message]:
    """Requests for so many inconsistent tokens of texts. They get the same tokens if they are asked for again."""
    return [{"type": "str", "value": f"{name} {number}", "consistent": False} for number in range(count)]


def disable(moving: Moving, given: Given, *, disabled: bool = True) -> None:
    """Disable or enable an inconsistent token in Acra's layout."""
    set_disabled(moving, given, disabled=disabled, half="token")


def flags(moving: Moving) -> list[int]:
    """The flags of all entries of the dense layout."""
    return sorted(raw[0] & 15 for raw in moving.dense.values())


def is_foreign(moving: Moving) -> bool:
    """Tell whether both records tell of foreign entries; either both do, or neither does."""
    records = [moving.storage.get(TOKENS_RECORD), moving.storage.get(layout_path(FOLDER))]
    assert records[0] == records[1]
    return b'"foreign":true' in records[0]


def test_changes_between_copy_and_finish_are_moved(moving: Moving) -> None:
    """A single token disabled, enabled, removed or created after the copy is right after the finish."""
    given = moving.give(singles(5))
    disable(moving, given[1])
    copied(moving)
    disable(moving, given[0])
    disable(moving, given[1], disabled=False)
    moving.storage.delete(t_name(given[2]))
    given += moving.give(singles(1, "new"))

    tally = finished(moving)

    assert (tally.counts["copied"], tally.counts["changed"], tally.counts["twins_deleted"]) == (3, 2, 1)
    assert moving.values("dense", given) == ["token_disabled", "same", NOT_FOUND, "same", "same", "same"]
    assert flags(moving) == [ALONE | FOREIGN] * 4 + [ALONE | FOREIGN | DISABLED]


def test_changes_between_copy_and_finish_are_moved_back(moving: Moving) -> None:
    """The same holds for the way back. What was removed in the dense layout does not come back with Acra's entry."""
    given = moving.give(singles(3))
    finished(moving)
    given += moving.give(singles(3, "new"), "dense")
    copied(moving, "acra")
    assert len(moving.names("tokens/*")) == 6
    for each in (given[0], given[3]):
        remove_in_dense(moving, each)
    for each in (given[1], given[4]):
        disable_in_dense(moving, each)

    tally = finished(moving, "acra")

    assert (tally.counts["copied"], tally.counts["twins_deleted"], tally.counts["removed"]) == (2, 2, 2)
    assert moving.values("acra", given) == [NOT_FOUND, "token_disabled", "same"] * 2
    assert len(moving.names("tokens/*")) == 4
    with moving.stage() as stage:
        assert drop(stage, "dense", even_changed=False, dry_run=False).counts["dropped"] == 4
        assert drop(stage, "dense", even_changed=True, dry_run=False).counts["tombstones_dropped"] == 2
    assert moving.dense == {}


def disable_in_dense(moving: Moving, given: Given) -> None:
    with moving.admin("dense") as admin:
        assert admin.set_disabled(moving.found(admin, given), disabled=True)


@pytest.mark.parametrize("to", ["dense", "acra"])
def test_token_that_changes_while_it_is_copied(moving: Moving, to: LayoutName, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of what is no longer so is not written; a drop of what was just changed is not done."""
    old: LayoutName = "acra" if to == "dense" else "dense"
    if to == "acra":
        finished(moving)
    given = moving.give(singles(3), old)
    change = disable if old == "acra" else disable_in_dense
    is_changed = False

    def change_first(link: RedisLink, script: Script, *arguments: Any) -> Any:
        nonlocal is_changed
        if not is_changed:
            is_changed = True
            change(moving, given[0])
        return run(link, script, *arguments)

    run = RedisLink.run
    monkeypatch.setattr(RedisLink, "run", change_first)
    tally = copied(moving, to)
    assert (tally.counts["copied"], tally.counts["busy"]) == (2, 1)
    monkeypatch.undo()
    finished(moving, to)
    assert moving.values(to, given) == ["token_disabled", "same", "same"]
    is_changed, change = False, disable_in_dense if old == "acra" else disable
    given = [given[1], *given[2:]]
    monkeypatch.setattr(RedisLink, "run", change_first)
    with moving.stage() as stage:
        tally = drop(stage, old, even_changed=False, dry_run=False)
    assert (tally.counts["dropped"], tally.counts["busy"]) == (2, 1)


def test_finish_is_refused_while_somebody_writes(moving: Moving) -> None:
    """If an entry changes, goes or comes after it was copied, the layout stays."""
    given = moving.give(singles(3))
    changes = [
        lambda: disable(moving, given[0]),
        lambda: moving.storage.delete(t_name(given[1])),
        lambda: moving.give(singles(1, "new")),
    ]
    for change in changes:
        with pytest.raises(CheckFailed, match=r"tokens changed meanwhile \(1\)"):
            finished(moving, before_check=change)
        assert layout_of(moving) == ("acra", None)
    finished(moving)
    assert layout_of(moving) == ("dense", None)


def test_record_tells_of_foreign_entries(moving: Moving) -> None:
    """The record of the dense layout says so as long as there are any, tombstones too; that of Acra's never does."""
    moving.give(words(2))
    finished(moving)
    assert not is_foreign(moving)
    finished(moving, "acra")
    [lone] = moving.give(singles(1))
    finished(moving)
    assert is_foreign(moving)
    remove_in_dense(moving, lone)
    finished(moving, "acra")
    assert not is_foreign(moving)
    finished(moving)
    assert is_foreign(moving)  # of the tombstone
    assert flags(moving) == [0] * 4 + [ALONE | FOREIGN | REMOVED]
    assert moving.values("dense", [lone]) == [NOT_FOUND]
    finished(moving, "acra")
    with moving.stage() as stage:
        drop(stage, "dense", even_changed=True, dry_run=False)
    finished(moving)
    assert not is_foreign(moving)


def test_first_foreign_entry_is_made_by_another_copy(moving: Moving) -> None:
    """If another command copies the first such token while a finish compares, the record would be wrong: refused."""
    moving.give(words(2))

    def write_and_copy() -> None:
        moving.give(singles(1))
        with moving.stage() as stage:
            stage.mover("dense", changes=True).copy(moving.names("tokens/*/742e*"))

    with pytest.raises(CheckFailed, match=r"tokens changed meanwhile \(1\)"):
        finished(moving, before_check=write_and_copy)
    assert layout_of(moving) == ("acra", None)
    finished(moving)
    assert is_foreign(moving)


def test_token_that_was_drawn_in_the_dense_layout_comes_back(moving: Moving) -> None:
    """After the way there and back again, a token has one entry: the foreign one has taken the place of the first."""
    finished(moving)
    given = moving.give(singles(3), "dense")
    assert flags(moving) == [ALONE] * 3
    finished(moving, "acra")
    disable(moving, given[0])
    moving.storage.delete(t_name(given[1]))

    finished(moving)

    assert flags(moving) == [ALONE | FOREIGN, ALONE | FOREIGN | DISABLED]
    assert moving.values("dense", given) == ["token_disabled", NOT_FOUND, "same"]
    assert drop_acra(moving).counts["dropped"] == 2
    assert moving.names("tokens/*") == []


def test_removed_token_that_is_drawn_again_comes_back(moving: Moving) -> None:
    """If a token that was removed in the dense layout is drawn again in Acra's, its tombstone does not revoke it."""
    finished(moving)
    [lone] = moving.give(singles(1), "dense")
    remove_in_dense(moving, lone)
    finished(moving, "acra")
    again = moving.give(singles(1))
    assert again == [lone]
    finished(moving)
    assert flags(moving) == [ALONE | REMOVED, ALONE | FOREIGN]
    assert moving.values("dense", [lone]) == ["same"]
    finished(moving, "acra")
    assert moving.values("acra", [lone]) == ["same"]
    with moving.stage() as stage:
        drop(stage, "dense", even_changed=False, dry_run=False)
    assert flags(moving) == [ALONE | REMOVED]
    assert moving.values("acra", [lone]) == ["same"]


def test_token_becomes_one_of_a_pair(moving: Moving) -> None:
    """If Acra's layout gives a single token to its very value consistently, the move makes a pair of it."""
    finished(moving)
    [lone, first] = moving.give([*singles(1), {"type": "str", "value": "x", "consistent": False}], "dense")
    finished(moving, "acra")
    half = moving.names("tokens/*/742e*")
    tokens = moving.give([{"type": "str", "value": "x"}])
    assert len(moving.names("tokens/*")) in (len(half) + 1, len(half) + 2)  # adopted, or another one

    finished(moving)

    assert moving.values("dense", [lone, first, *tokens]) == ["same"] * 3
    assert moving.give([{"type": "str", "value": "x"}], "dense") == tokens


def test_half_of_a_token_is_copied(moving: Moving) -> None:
    """If a copy meets a token of which AcraServer has written one entry only, the finish makes a pair of it."""
    [given] = moving.give(words(1))
    half = moving.storage.get(v_name(given))
    moving.storage.delete(v_name(given))
    copied(moving)
    assert flags(moving) == [ALONE | FOREIGN]
    moving.storage.set(v_name(given), half)

    finished(moving)

    assert flags(moving) == [0, 0]
    assert not is_foreign(moving)
    assert moving.answers("dense", [given]) == [SAME]


def test_redelivered_request_gets_its_token_again(moving: Moving) -> None:
    """A request that was answered before the move, and is delivered again after it, gets the same token."""
    request = {"op": "tokenize", "client_id": CLIENT.id, **singles(1)[0]}

    def token(layout: LayoutName) -> str:
        with DirectHandler(moving.server, moving.master_key, layout=layout) as handler:
            [reply] = handler.ask([request], first=7)
        return str(reply["value"])

    first = token("acra")
    finished(moving)
    assert token("dense") == first
    assert flags(moving) == [ALONE | FOREIGN]
    finished(moving, "acra")
    assert token("acra") == first


def test_no_value_gets_a_token_that_was_moved(moving: Moving) -> None:
    """New tokens of a value differ from all that were moved, also where there are few."""
    letters = [chr(letter) for letter in range(ord("a"), ord("z") + 1)]
    lone = moving.give([{"type": "str", "value": letter, "consistent": False} for letter in letters])
    finished(moving)
    new = moving.give([{"type": "str", "value": letter} for letter in letters], "dense")
    new += moving.give([{"type": "str", "value": letter, "consistent": False} for letter in "01234"], "dense")
    assert len({each.token for each in [*lone, *new]}) == len(lone) + len(new)
    assert moving.values("dense", [*lone, *new]) == ["same"] * (len(lone) + len(new))
    finished(moving, "acra")
    assert moving.values("acra", [*lone, *new]) == ["same"] * (len(lone) + len(new))


def test_drop_deletes_only_what_equals(moving: Moving) -> None:
    """A single token of Acra's goes only after its twin was opened and says the same."""
    given = moving.give(singles(5))
    finished(moving)
    twins = dict(zip([each.token for each in given], [moving.foreign_name(each) for each in given], strict=True))
    damaged = bytearray(moving.storage.get(twins[given[0].token]))
    damaged[-1] ^= 1
    moving.storage.set(twins[given[0].token], bytes(damaged))
    moving.storage.delete(twins[given[1].token])
    disable(moving, given[2])
    remove_in_dense(moving, given[3])
    with moving.stage() as stage:
        dry = drop(stage, "acra", even_changed=False, dry_run=True)
        tally = drop(stage, "acra", even_changed=False, dry_run=False)
        assert dry.counts == tally.counts
        assert (tally.counts["dropped"], tally.counts["different"], tally.counts["changed_since"]) == (1, 2, 2)
        assert set(moving.names("tokens/*")) == {t_name(each) for each in given[:4]}
        assert drop(stage, "acra", even_changed=True, dry_run=False).counts["dropped"] == 2
    assert set(moving.names("tokens/*")) == {t_name(each) for each in given[:2]}


def test_value_entry_that_is_unreadable_keeps_no_single_token_behind(moving: Moving) -> None:
    """A single token is moved although the entry of the token that its value got consistently cannot be read."""
    finished(moving)
    [request] = words(1)
    [lone, pair] = moving.give([{**request, "consistent": False}, request], "dense")
    [name] = [name for name in moving.dense if name.startswith(b"v")]
    raw = moving.storage.get(name)
    moving.storage.set(name, raw[:-1] + bytes((raw[-1] ^ 1,)))
    with pytest.raises(CheckFailed, match="1 entries that cannot be read"):
        finished(moving, "acra")
    finished(moving, "acra", leave={"unreadable"})
    assert moving.values("acra", [lone, pair]) == ["same", NOT_FOUND]


def test_copies_are_given_up_before_a_finish(moving: Moving) -> None:
    """Copies in a layout that never came into use are dropped, in either direction."""
    moving.give(singles(3))
    copied(moving)
    with moving.stage() as stage:
        assert drop(stage, "dense", even_changed=False, dry_run=False).counts["dropped"] == 3
    assert moving.dense == {}
    finished(moving)
    drop_acra(moving)
    given = moving.give(singles(3, "new"), "dense")
    copied(moving, "acra")
    remove_in_dense(moving, given[0])
    disable_in_dense(moving, given[1])
    tally = drop_acra(moving)
    assert (tally.counts["dropped"], tally.counts["different"]) == (4, 2)
    with moving.stage() as stage:
        tally = drop(stage, "acra", even_changed=True, dry_run=False)
    assert (tally.counts["dropped"], tally.counts["different"]) == (2, 0)
    assert moving.names("tokens/*") == []


@pytest.mark.parametrize("to", ["dense", "acra"])
def test_killed_at_any_command_and_run_again(moving: Moving, to: LayoutName) -> None:
    """Copy and finish, killed after any of their commands and run again, leave no single token that differs."""
    old: LayoutName = "acra" if to == "dense" else "dense"
    given = moving.give(singles(4))
    if to == "acra":
        finished(moving)
        with moving.stage() as stage:
            drop(stage, "acra", even_changed=False, dry_run=False)
        given += moving.give(singles(4, "new"), "dense")
    start = {name: moving.storage.get(name) for name in moving.names("*")}
    for at in range(1, 1000):
        moving.storage.flushall()
        moving.storage.mset(start)
        try:
            with moving.stage(Kill(at)) as stage:
                copy(stage, to, dry_run=False, resume=False)
                finish(stage, to, leave=frozenset(), check_workers=lambda: None, barrier=NoBarrier(), dry_run=False)
        except Killed:
            if layout_of(moving) != (to, None):
                finished(moving, to)
            assert layout_of(moving) == (to, None)
            assert is_foreign(moving) == (to == "dense")
            if at % 5 == 0:
                assert moving.values(to, given) == ["same"] * len(given)
        else:
            break
    assert at > 20
    assert layout_of(moving) == (to, None)
    assert moving.values(to, given) == ["same"] * len(given)
    with moving.stage() as stage:
        assert drop(stage, old, even_changed=False, dry_run=False).counts["dropped"] == len(given)


def test_interrupted_finish_is_taken_back(moving: Moving) -> None:
    """If a finish is killed before the new layout is recorded, and taken back, the record tells of nothing foreign."""
    given = moving.give(singles(2))

    interrupt(moving)
    assert b'"foreign":true,"unfinished":true' in moving.storage.get(TOKENS_RECORD)
    with pytest.raises(CheckFailed, match="is taken back"):
        finished(moving, "acra")
    assert not is_foreign(moving)
    assert moving.values("acra", given) == ["same"] * 2
    finished(moving)
    assert is_foreign(moving)


def test_records_that_differ_about_foreign_entries(moving: Moving) -> None:
    """If only one record tells of foreign entries, no worker starts and nothing is moved: one storage is older."""
    moving.give(singles(2))
    finished(moving)
    record = moving.storage.get(TOKENS_RECORD)
    moving.storage.set(layout_path(FOLDER), record.replace(b',"foreign":true', b""))
    assert "only one of the layout records says" in str(layout_of(moving)[1])
    for to in ("dense", "acra"):
        with pytest.raises(CheckFailed, match="only one of the layout records says"):
            finished(moving, to)
    moving.storage.set(layout_path(FOLDER), record)
    assert layout_of(moving) == ("dense", None)
