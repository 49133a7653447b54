"""Names of the key storage and the state of keys, compared with data of the real Acra."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from token_worker.acra.key_name import parse_name, seconds_of, stamp_of
from token_worker.acra.owner import Owner
from token_worker.admin.keys import classify, open_key, seal_key
from token_worker.keys.master import MasterKeys

VECTORS = Path(__file__).parents[2] / "vectors"
FOLDER = ".acrakeys/"
NAMES = ("acra-keystore", "acra-types", "acra-rotated", "acra-disabled", "acra-zones")


def vectors(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((VECTORS / f"{name}.json").read_text())
    return found


def keys_of(data: dict[str, Any]) -> dict[str, bytes]:
    return {name.removeprefix(FOLDER): text.encode() for name, text in data["redis"].items() if name.startswith(FOLDER)}


def test_every_kind_is_listed_as_acra_lists_it() -> None:
    """Id, purpose and client of each current key are the same as in Acra's own listing."""
    data = vectors("acra-keystore")
    ours = [
        {"KeyID": name.key_id, "Purpose": name.kind.purpose} | ({"ClientID": name.owner.id} if name.owner else {})
        for name in map(parse_name, sorted(keys_of(data)))
        if name.stamp is None and name.kind is not None
    ]
    assert ours == [
        {member: row[member] for member in ("KeyID", "Purpose", "ClientID") if member in row}
        for row in data["acra_listing"]
    ]


@pytest.mark.parametrize("vector", NAMES)
def test_master_key_opens_what_acra_wrote(vector: str) -> None:
    """The name of a key says with which context the master key opens it, for every kind, current and history."""
    data = vectors(vector)
    master_keys = MasterKeys(base64.b64decode(data["master_key"]))
    for name, text in keys_of(data).items():
        verdict = classify(parse_name(name), text, master_keys)
        assert verdict == ("public" if ".pub" in name else "current"), name


@pytest.mark.parametrize("vector", NAMES)
def test_sealing_again_changes_nothing_but_the_seal(vector: str) -> None:
    """A key sealed with another master key is opened by that one, and is the same key."""
    data = vectors(vector)
    old = MasterKeys(base64.b64decode(data["master_key"]))
    new = MasterKeys(bytes(range(32)), old.current)
    for text_name, text in keys_of(data).items():
        name = parse_name(text_name)
        if name.kind is None or name.kind.form == "public":
            continue
        key, is_current = open_key(name, text, new)
        assert not is_current
        assert open_key(name, seal_key(name, key, new), new) == (key, True)
        assert classify(name, seal_key(name, key, new), old) == "unreadable"


@pytest.mark.parametrize(
    "name",
    [
        "shop-frontend",
        "shop-frontend_server",
        "shop-frontend_translator",
        "auth_key",
        "shop-frontend_storage_sym123456",
        "shop-frontend_storage_sym.old/yesterday",
        "shop-frontend_storage_sym.old/2026-13-01T00:00:00",
        "shop-frontend_storage_sym.old/2026-11-23T22:36:01.21151373/more",
        "abc_storage_sym",
        "a/b/c/d_storage_sym",
        "_storage_sym",
        "",
    ],
)
def test_other_names_are_unknown(name: str) -> None:
    """A name that Acra 0.96 does not give to a key is of no kind."""
    assert parse_name(name).kind is None


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        ("shop_zone_sym_storage_sym", Owner("client", "shop_zone_sym")),
        ("shop_storage_hmac", Owner("client", "shop_storage")),
        ("Client With Spaces_zone_sym.old/2026-11-23T22:36:01", Owner("zone", "Client With Spaces")),
    ],
)
def test_owner_is_what_stands_before_the_last_ending(name: str, owner: Owner) -> None:
    """Ids that look like an ending do not confuse whose key it is."""
    assert parse_name(name).owner == owner


def test_keys_of_tokens_are_told_from_others() -> None:
    """Only the symmetric storage keys of clients and zones seal token entries."""
    names = [*keys_of(vectors("acra-keystore")), *keys_of(vectors("acra-zones"))]
    assert {name for name in names if parse_name(name).seals_tokens} == {
        name for name in names if "_storage_sym" in name or "_zone_sym" in name
    }


@pytest.mark.parametrize(
    ("nanoseconds", "stamp"),
    [
        (0, "1970-01-01T00:00:00"),
        (1, "1970-01-01T00:00:00.000000001"),
        (1_795_473_361_211_513_730, "2026-11-23T22:36:01.21151373"),
        (1_795_473_360_000_000_000, "2026-11-23T22:36:00"),
    ],
)
def test_times_are_written_as_acra_does(nanoseconds: int, stamp: str) -> None:
    """UTC to the nanosecond, zeros at the end dropped; read back it is the same time."""
    assert stamp_of(nanoseconds) == stamp
    assert seconds_of(stamp) == pytest.approx(nanoseconds / 1e9)


def test_times_of_acra_are_written_the_same() -> None:
    """Every time in the names that Acra made is formatted as we would have done."""
    for vector in NAMES:
        for name in map(parse_name, keys_of(vectors(vector))):
            if name.stamp is not None:
                whole, _, fraction = name.stamp.partition(".")
                nanoseconds = int(seconds_of(whole) or 0) * 10**9 + int(fraction.ljust(9, "0"))
                assert stamp_of(nanoseconds) == name.stamp


def test_master_keys_are_not_shown() -> None:
    """The representation of a pair of master keys has none of their bytes."""
    shown = repr(MasterKeys(b"k" * 32, b"p" * 32))
    assert "kk" not in shown
    assert "pp" not in shown
