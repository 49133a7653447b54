"""Acra's stored formats: known answers, data that the real binaries wrote, and damaged bytes."""

import base64
import contextlib
import hmac
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from harness import independent_reader as reader
from token_worker.acra import acra_block, secure_cell, token_entry
from token_worker.acra.owner import Owner
from token_worker.acra.value_types import TYPES
from token_worker.errors import CorruptData
from token_worker.keys.keyring import DataKeyCache, Keyring
from token_worker.keys.store import unwrap, wrap
from token_worker.storage.acra.layout import AcraLayout
from token_worker.storage.engine import Engine
from token_worker.storage.steps import Lookup, Outcome, Row, Store
from token_worker.storage.token_item import TokenItem

VECTORS = Path(__file__).parents[2] / "vectors"
KEY = b"k" * 32
OWNER = Owner("client", "shop-frontend")
FLIPS = (0x01, 0x80, 0xFF)


def vectors(name: str) -> dict[str, Any]:
    return dict(msgspec.json.decode((VECTORS / f"acra-{name}.json").read_bytes()))


def damaged(data: bytes) -> list[bytes]:
    """Every single-byte change (three each), every truncation, and some additions."""
    changed = [data[:at] + bytes((data[at] ^ flip,)) + data[at + 1 :] for at in range(len(data)) for flip in FLIPS]
    return changed + [data[:length] for length in range(len(data))] + [data + b"\x00", b"\x00" + data]


def test_secure_cell_of_the_themis_specification_opens() -> None:
    """The known answer of the specification opens to its message."""
    cell = base64.b64decode("AAEBQAwAAAAQAAAAEQAAAM5da3KkReYC7++OPbrI13UycoVi3s01Ji64WQ/KIe+3oF8cgLle19WC+tnaCg==")
    opened = secure_cell.open_cell(b"au6aimoa8Pee8wahxi4Aique6eaxai2a", cell, b"additional context")
    assert opened == b"encrypted message"


def test_cell_of_an_old_themis_opens() -> None:
    """A cell whose key was derived with the length in 64 bits is read as well."""
    message, context = b"from an old Themis", b"context"
    info = b"\x00\x00\x00\x01Themis secure cell message key\x00" + len(message).to_bytes(8, "little") + context
    sealed = AESGCM(hmac.digest(KEY, info, "sha256")).encrypt(b"i" * 12, message, context)
    header = bytes.fromhex("00010140") + b"".join(n.to_bytes(4, "little") for n in (12, 16, len(message)))
    cell = header + b"i" * 12 + sealed[-16:] + sealed[:-16]
    assert secure_cell.open_cell(KEY, cell, context) == message


@given(st.binary(min_size=1, max_size=300), st.binary(max_size=40))
def test_what_is_sealed_opens_for_both_readers(message: bytes, context: bytes) -> None:
    """A sealed message opens again, for the product and for a reader written apart; never under another context."""
    cell = secure_cell.seal(KEY, message, context)
    assert secure_cell.open_cell(KEY, cell, context) == message
    assert reader.open_secure_cell(KEY, cell, context) == message
    with pytest.raises(CorruptData):
        secure_cell.open_cell(KEY, cell, context + b"x")


def test_empty_message_is_not_sealed() -> None:
    """Secure Cell has no empty messages."""
    with pytest.raises(ValueError, match="at least one byte"):
        secure_cell.seal(KEY, b"", b"context")


def test_every_damage_of_a_cell_is_an_error() -> None:
    """No change of a byte and no truncation of a cell gives an answer."""
    cell = secure_cell.seal(KEY, b"a message", b"context")
    for bad in damaged(cell):
        with pytest.raises(CorruptData):
            secure_cell.open_cell(KEY, bad, b"context")


def test_every_damage_of_a_block_is_an_error() -> None:
    """No change of a byte and no truncation of an AcraBlock gives an answer."""
    ring = Keyring(OWNER, KEY, DataKeyCache())
    block = ring.seal(b"some data")
    assert ring.open(block) == b"some data"
    for bad in damaged(block):
        with pytest.raises(CorruptData):
            ring.open(bad)


@pytest.mark.parametrize(
    "read",
    [
        lambda data: secure_cell.open_cell(KEY, data, b"c"),
        acra_block.parse,
        Keyring(OWNER, KEY, DataKeyCache()).open,
        token_entry.decode_entry,
        lambda data: token_entry.decode_entry(data.hex().encode()),
        token_entry.decode_token_value,
        lambda data: unwrap(data, KEY, OWNER),
        lambda data: unwrap(base64.b64encode(data), KEY, OWNER),
    ],
)
def test_arbitrary_bytes_are_damaged_and_nothing_worse(read: Callable[[bytes], object]) -> None:
    """Reading arbitrary bytes from the storage gives a result or ``CorruptData``, never another error."""

    @given(st.binary(max_size=200))
    def check(data: bytes) -> None:
        with contextlib.suppress(CorruptData):
            read(data)

    check()


def test_truncated_and_repeated_fields_are_damage() -> None:
    """Every truncation of an entry's protobuf is an error, unless it is an entry of fewer fields."""
    whole = bytes.fromhex(token_entry.encode_entry(token_entry.TokenEntry(b"block", 300, 400, disabled=True)).decode())
    for length in range(len(whole)):
        try:
            entry = token_entry.decode_entry(whole[:length].hex().encode())
        except CorruptData:
            continue
        assert token_entry.encode_entry(entry) == whole[:length].hex().encode()
    with pytest.raises(CorruptData):
        token_entry.decode_entry((whole + whole[:2]).hex().encode())
    with pytest.raises(CorruptData):
        token_entry.decode_entry((whole + b"\x28\x01").hex().encode())


@pytest.mark.parametrize("name", ["types", "rotated", "zones", "disabled"])
def test_entries_of_acra_are_written_again_byte_for_byte(name: str) -> None:
    """Every entry that Acra wrote is read, opened with its key, and encoded to the very same text."""
    data = vectors(name)
    master_key = base64.b64decode(data["master_key"])
    rings = {}
    for case in data["cases"]:
        zone = case.get("zone_id")
        owner = Owner("zone", zone) if zone else Owner("client", case["client_id"])
        name_of_key = f".acrakeys/{owner.key_name}"
        keys = [
            text for key, text in data["redis"].items() if key == name_of_key or key.startswith(f"{name_of_key}.old/")
        ]
        ring = Keyring(owner, unwrap(keys[0].encode(), master_key, owner), DataKeyCache())
        for text in keys[1:]:
            ring.add(unwrap(text.encode(), master_key, owner))
        rings[owner] = ring
        assert reader.read_key(keys[0], master_key, owner.id) == ring.current
    opened = 0
    for key, text in data["redis"].items():
        if key.startswith("tokens/"):
            entry = token_entry.decode_entry(text.encode())
            assert token_entry.encode_entry(entry) == text.encode()
            for ring in rings.values():
                try:
                    inside = ring.open(entry.block)
                except CorruptData:
                    continue
                opened += 1
                if bytes.fromhex(key.split("/")[2])[:2] == b"t.":
                    value, number = token_entry.decode_token_value(inside)
                    assert token_entry.encode_token_value(value, number) == inside
    assert opened == sum(key.startswith("tokens/") for key in data["redis"])


def test_entry_names_are_those_of_acra() -> None:
    """The names of both entries of every case are among the names that Acra wrote."""
    for vector in ("types", "zones", "rotated", "disabled"):
        data = vectors(vector)
        for case in data["cases"]:
            zone = case.get("zone_id")
            owner = Owner("zone", zone) if zone else Owner("client", case["client_id"])
            kind = TYPES[case["type"]]
            value, token = (
                kind.encode(base64.b64decode(case[part]) if case["type"] == "bytes" else case[part])
                for part in ("value", "token")
            )
            names = token_entry.EntryNames(owner)
            assert names.of_value(value, kind.number).decode() in data["redis"]
            assert names.of_token(token, kind.number).decode() in data["redis"]


def test_keys_of_acra_are_the_known_ones() -> None:
    """Keys of Acra's key storage open to the bytes that Acra exports. The other reader opens our keys."""
    data = vectors("keystore")
    master_key = base64.b64decode(data["master_key"])
    for case in data["cases"]:
        owner = Owner("client", case["client_id"])
        key = unwrap(data["redis"][f".acrakeys/{owner.key_name}"].encode(), master_key, owner)
        assert key.hex() == case["current_key_hex"]
        assert reader.read_key(wrap(key, master_key, owner).decode(), master_key, owner.id) == key


@pytest.mark.parametrize(
    ("kind", "value", "encoded"),
    [
        ("int32", -2, b"\xfe\xff\xff\xff"),
        ("int64", 258, b"\x02\x01" + bytes(6)),
        ("str", "żółć", "żółć".encode()),
        ("bytes", b"\x00\xff", b"\x00\xff"),
        ("email", "grace@navy.example", b"grace@navy.example"),
    ],
)
@pytest.mark.parametrize("owner", [OWNER, Owner("zone", "DDDDDDDDzoneone")])
def test_what_we_write_is_read_field_by_field_by_another_reader(
    kind: str, value: int | str | bytes, encoded: bytes, owner: Owner
) -> None:
    """Check both entries of a token: names, metadata, key, data key, and content."""
    ring = Keyring(owner, KEY, DataKeyCache())
    token_type = TYPES[kind]
    item = TokenItem(ring, token_type, token_type.encode(value), tokenize=True)
    rows: list[Row] = []
    steps = Engine(AcraLayout()).run([item], 1_800_000_000)
    step: Any = next(steps)
    try:
        while True:
            if isinstance(step, Store):
                rows += step.rows
            answer = [None] * len(step.keys) if isinstance(step, Lookup) else [Outcome("written")] * len(step.rows)
            step = steps.send(answer)
    except StopIteration:
        pass
    [row] = rows
    assert isinstance(item.result, bytes)
    number = token_type.number
    assert row.h_key == reader.entry_name("h.", encoded, number, owner.kind, owner.id)
    assert row.t_key == reader.entry_name("t.", item.result, number, owner.kind, owner.id)
    h_entry = reader.read_entry(row.h_value, KEY, owner.id)
    t_entry = reader.read_entry(row.t_value, KEY, owner.id)
    assert h_entry.inside == item.result
    assert reader.protobuf(t_entry.inside) == {1: encoded, 2: number}
    assert (h_entry.created, h_entry.accessed, h_entry.disabled) == (1_800_000_000, 1_800_000_000, False)
    assert t_entry[3:] == h_entry[3:]
    assert h_entry.key_id == t_entry.key_id == acra_block.key_id(KEY, owner.context)
    assert h_entry.sealed_data_key == t_entry.sealed_data_key  # one data key serves many blocks


@given(st.binary(max_size=300), st.integers(0, 7), st.integers(0, 7))
def test_value_of_a_type(value: bytes, number: int, asked: int) -> None:
    """A token value gives its value to who asks for its type, and nothing to others."""
    message = token_entry.encode_token_value(value, number)
    assert token_entry.value_of_type(message, asked) == (value if asked == number else b"")


@given(st.binary(max_size=12), st.integers(0, 7))
def test_value_of_a_type_in_any_bytes(message: bytes, asked: int) -> None:
    """Any other bytes are read as ``decode_token_value`` reads them."""
    try:
        value, number = token_entry.decode_token_value(message)
    except CorruptData:
        with pytest.raises(CorruptData):
            token_entry.value_of_type(message, asked)
    else:
        assert token_entry.value_of_type(message, asked) == (value if asked == number else b"")
