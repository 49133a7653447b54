"""Items of a request: the client encodes good values, and refuses others before it sends anything."""

from enum import IntEnum
from typing import Any

import msgspec
import pytest

from token_worker.client import (
    Item,
    RequestRefused,
)
from token_worker.client.items import OVERHEAD_BYTES, RequestLimits, encode, type_of
from token_worker.contract.messages import TypeName
from token_worker.errors import Code

MARKER = "4242-4242"


class Number(IntEnum):
    ONE = 1


@pytest.mark.parametrize(("value", "name"), [(1, "int64"), ("a", "str"), (b"a", "bytes")])
def test_type_follows_from_the_value(value: object, name: str) -> None:
    """Without a named type, the type follows from the value in Python; ``int32`` or ``email`` would be a guess."""
    assert type_of(value) == name


@pytest.mark.parametrize("value", [True, None, 1.5, [], bytearray(b"a"), Number.ONE], ids=repr)
def test_value_of_no_type_is_a_mistake_in_the_program(value: Any) -> None:
    """A value of any other type is a ``TypeError`` at the call, without the value in its text."""
    with pytest.raises(TypeError, match="expected int, str or bytes, got"):
        encode(Item("str", value), RequestLimits())


@pytest.mark.parametrize(
    ("item", "code"),
    [
        (("text", MARKER), Code.UNKNOWN_TYPE),
        (("str", f"{MARKER}\ud800"), Code.INVALID_REQUEST),
        (("int64", 2**64), Code.VALUE_OUT_OF_RANGE),
        (("int64", -(2**63) - 1), Code.VALUE_OUT_OF_RANGE),
        (("str", MARKER * 1000), Code.VALUE_TOO_LARGE),
    ],
)
def test_value_that_no_request_can_carry_is_refused(item: tuple[Any, Any], code: Code) -> None:
    """Such a value is refused with the code that a worker would use, and the error shows nothing of it."""
    found = encode(item, RequestLimits(bytes=OVERHEAD_BYTES + 5000))
    assert isinstance(found, RequestRefused)
    assert found.code == code
    assert MARKER not in repr(found)


def test_item_is_encoded_as_the_contract_has_it() -> None:
    """Numbers of 64 bits and bytes are what they are in MessagePack."""
    for type_name, value in (("int64", -(2**63)), ("int64", 2**64 - 1), ("bytes", b"\xff\x00"), ("str", "ü")):
        encoded = encode((type_name, value), RequestLimits())  # type: ignore[arg-type]  # a literal in a tuple is a str
        assert isinstance(encoded, bytes)
        assert msgspec.msgpack.decode(encoded) == {"type": type_name, "value": value}


def test_item_asks_for_bytes() -> None:
    """An item may say that its value stands as bytes; anything else it says of that is a mistake in the program."""
    for kind in (TypeName.STR, TypeName.EMAIL):
        encoded = encode(Item(kind, b"\xff", "bytes"), RequestLimits())
        assert isinstance(encoded, bytes)
        assert msgspec.msgpack.decode(encoded) == {"type": kind, "as": "bytes", "value": b"\xff"}
    with pytest.raises(TypeError):
        encode(Item("str", "x", "hex"), RequestLimits())  # type: ignore[arg-type]  # the mistake
