"""``token-worker tokens migrate``: a move that would lose or overwrite a token is refused, and changes nothing."""

from typing import Any

import pytest

from harness.moving import (
    CLIENT,
    FOLDER,
    SAME,
    STR,
    ZONE,
    Given,
    Moving,
    copied,
    finished,
    layout_of,
    set_disabled,
    t_name,
    v_name,
    words,
)
from token_worker.acra.owner import Owner
from token_worker.acra.token_entry import EntryNames, decode_entry, encode_entry
from token_worker.admin.migrate_findings import UNREADABLE
from token_worker.admin.migrate_sides import Content
from token_worker.errors import CheckFailed
from token_worker.keys.index_key import index_path, seal_index_key
from token_worker.keys.keyring import DataKeyCache, Keyring
from token_worker.keys.layout_record import LayoutName
from token_worker.keys.store import new_key


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
        with pytest.raises(CheckFailed, match=r"tokens changed meanwhile \(1\)"):
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
        finished(moving, leave=UNREADABLE)
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


@pytest.mark.parametrize("drawn_in", ["dense", "acra"])
def test_token_of_two_values_is_refused(moving: Moving, drawn_in: LayoutName) -> None:
    """A token that the new layout holds for another value, drawn inconsistently, is never overwritten nor deleted."""
    if drawn_in == "dense":
        finished(moving)
    [alone] = moving.give([{"type": "str", "value": "drawn before", "consistent": False}], drawn_in)
    if drawn_in == "acra":
        finished(moving)
    finished(moving, "acra")
    [other] = moving.give([{"type": "str", "value": "value two"}])
    entry = decode_entry(moving.storage.get(v_name(other)))
    ring = Keyring(CLIENT, moving.keys[CLIENT], DataKeyCache())
    moving.storage.set(v_name(other), encode_entry(entry._replace(block=ring.seal(alone.token.encode()))))
    moving.storage.rename(t_name(other), t_name(alone))
    before = moving.dense
    assert len(before) == 1
    for _ in range(2):
        with pytest.raises(CheckFailed, match="1 tokens that the new layout holds for another value"):
            finished(moving)
        assert moving.dense.items() >= before.items()
        assert layout_of(moving) == ("acra", None)
    moving.storage.delete(v_name(other), t_name(alone))  # the other token is removed: now no value has the token
    finished(moving)
    assert moving.dense == {}


def put_pair(moving: Moving, token: str) -> None:
    """Give a token to another value in the dense layout."""
    with moving.stage() as stage:
        ring = stage.reader.ring(CLIENT)
        assert ring is not None
        names = stage.dense.names(ring)
        value = b"another value"
        both = names.of_token(token.encode(), STR), names.of_value(value, STR)
        content = Content(STR, value, token.encode(), False, 20_000, 20_000)
        moving.storage.mset(dict(zip(both, stage.dense.seal(ring, content, both, 0), strict=True)))


def test_token_of_two_values_is_refused_on_the_way_back(moving: Moving) -> None:
    """The same holds for Acra's layout: such a token is not overwritten by one that was drawn consistently."""
    [alone] = moving.give([{"type": "str", "value": "drawn before", "consistent": False}])
    finished(moving)
    put_pair(moving, alone.token)
    before = {name: moving.storage.get(name) for name in moving.names("tokens/*")}
    with pytest.raises(CheckFailed, match="1 tokens that the new layout holds for another value"):
        finished(moving, "acra")
    assert before == {name: moving.storage.get(name) for name in moving.names("tokens/*")}


def test_token_that_acra_gave_to_another_value_is_refused_on_the_way_back(moving: Moving) -> None:
    """Nor does a token that was drawn inconsistently in the dense layout overwrite one of Acra's."""
    finished(moving)
    [alone] = moving.give([{"type": "str", "value": "drawn before", "consistent": False}], "dense")
    [other] = moving.give([{"type": "str", "value": "value two"}])  # a service of Acra that was not stopped
    moving.storage.rename(t_name(other), t_name(alone))
    entry = decode_entry(moving.storage.get(v_name(other)))
    ring = Keyring(CLIENT, moving.keys[CLIENT], DataKeyCache())
    moving.storage.set(v_name(other), encode_entry(entry._replace(block=ring.seal(alone.token.encode()))))
    before = {name: moving.storage.get(name) for name in moving.names("tokens/*")}
    with pytest.raises(CheckFailed, match="1 tokens that the new layout holds for another value"):
        finished(moving, "acra")
    assert before == {name: moving.storage.get(name) for name in moving.names("tokens/*")}
    assert layout_of(moving) == ("dense", None)
