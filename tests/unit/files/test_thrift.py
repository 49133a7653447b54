"""Thrift's compact protocol: data is written again byte for byte, and noise is refused."""

from pathlib import Path

import pytest

from harness.parquet_files import MADE
from token_worker.files import thrift
from token_worker.files.thrift import Items, Malformed, Struct

FILES = sorted((Path(__file__).parents[2] / "parquet").glob("*.parquet"))


def kept(data: bytes) -> bool:
    """Tell if the footer of a file is the same when it is read and written again."""
    footer = data[-8 - int.from_bytes(data[-8:-4], "little") : -8]
    struct, end = thrift.read(footer)
    return thrift.write(struct) == footer[:end]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_footers_of_any_writer_are_written_as_they_were(path: Path) -> None:
    """Every field is kept, also fields that the code has no name for."""
    assert kept(path.read_bytes())


@pytest.mark.parametrize("name", ["duckdb", "geometry", "pyarrow", "sorted"])
def test_footers_of_duckdb_and_pyarrow_are_written_as_they_were(tmp_path: Path, name: str) -> None:
    """Every field is kept, also numbers with a fraction (boxes around shapes) and the order of rows."""
    MADE[name](tmp_path / "in")
    assert kept((tmp_path / "in").read_bytes())


def test_every_kind_of_value() -> None:
    """Numbers of either sign and any size, texts, lists long and short, fields that are far apart, and both truths."""
    struct = Struct()
    struct.set(1, thrift.TRUE, True)
    struct.set(2, thrift.TRUE, False)
    struct.set(3, thrift.I8, 255)
    struct.set(4, thrift.I16, -1)
    struct.set(40, thrift.I64, -(2**63))
    struct.set(400, thrift.I64, 2**63 - 1)
    struct.set(401, thrift.DOUBLE, bytes(8))
    struct.set(402, thrift.BINARY, b"x" * 300)
    struct.set(403, thrift.LIST, Items(thrift.I32, range(14)))
    struct.set(404, thrift.SET, Items(thrift.I32, range(-300, 300)))
    struct.set(405, thrift.LIST, Items(thrift.STRUCT, [struct.copy(1), struct.copy(4, 40)]))
    struct.set(406, thrift.LIST, Items(thrift.TRUE, [1, 2]))
    data = thrift.write(struct)
    read, end = thrift.read(data + b"more")
    assert end == len(data)
    assert thrift.write(read) == data
    assert read.fields.keys() == struct.fields.keys()
    assert (read.flag(1), read.flag(2), read.number(40), read.number(400)) == (True, False, -(2**63), 2**63 - 1)
    assert read.items(403, thrift.I32) == [*range(14)]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x15",
        b"\x18\xff\xff\xff\xff\x0f",
        b"\x19\xf5\xff\xff\xff\xff\x0f",
        b"\x1b\x01\x55\x00\x00\x00",
        b"\x15" + b"\xff" * 12,
        b"\x1c" * 5000,
        b"\x19" + b"\x19" * 5000,
    ],
    ids=["nothing", "no value", "no text", "no items", "a map", "an endless number", "too deep", "too deep lists"],
)
def test_noise_is_told(data: bytes) -> None:
    """Noise is refused without memory for absent data, and without use of the stack."""
    with pytest.raises(Malformed):
        thrift.read(data)


def test_a_field_of_another_kind_is_told() -> None:
    """A field is taken for what it is said to be, or not at all."""
    struct = Struct({1: (thrift.BINARY, b"x"), 2: (thrift.I32, 1), 3: (thrift.LIST, Items(thrift.I32, [1]))})
    for wrong in (
        lambda: struct.number(1),
        lambda: struct.text(2),
        lambda: struct.struct(2),
        lambda: struct.items(3, thrift.STRUCT),
        lambda: struct.number(9),
    ):
        with pytest.raises(Malformed):
            wrong()
