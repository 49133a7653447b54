"""Items of a request: the client encodes good values, and refuses others before it sends anything."""

import copy
import pickle
from enum import IntEnum, StrEnum
from typing import Any

import msgspec
import pytest

from token_worker.client import (
    InvalidRequest,
    Item,
    OtherFormat,
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


class Formats(StrEnum):
    PAN = "pan"


@pytest.mark.parametrize("name", ["x", "pan", "x" * 64, "ü" * 64, Formats.PAN])
def test_item_asks_for_a_format(name: str) -> None:
    """The name of a format stands in the encoded item, also beside ``as``; without a name, nothing does."""
    for _ in range(2):
        for kind, value, as_ in (("str", "x", None), (TypeName.EMAIL, b"\xff", "bytes")):
            encoded = encode(Item(kind, value, as_, name), RequestLimits())  # type: ignore[arg-type]  # as above
            assert isinstance(encoded, bytes)
            expected = {"type": kind, "value": value, "format": name} | ({"as": as_} if as_ else {})
            assert msgspec.msgpack.decode(encoded) == expected
            plain = encode(Item(kind, value, as_), RequestLimits())  # type: ignore[arg-type]
            assert isinstance(plain, bytes)
            assert "format" not in msgspec.msgpack.decode(plain)


@pytest.mark.parametrize("name", ["", "x" * 65, "\ud800"], ids=["empty", "long", "surrogate"])
def test_name_that_no_format_can_have_is_refused(name: str) -> None:
    """A name outside the bounds of the contract is refused as a worker would refuse it, and nothing is sent."""
    found = encode(Item("str", MARKER, None, name), RequestLimits())
    assert isinstance(found, InvalidRequest)
    assert found.message == "format: expected text of 1 to 64 characters"


@pytest.mark.parametrize("name", [1, b"pan", ["pan"], True])
def test_name_of_a_format_that_is_no_text_is_a_mistake_in_the_program(name: Any) -> None:
    """Anything but text is a ``TypeError`` at the call."""
    with pytest.raises(TypeError, match="expected format to be a str"):
        encode(Item("str", MARKER, None, name), RequestLimits())


def test_token_of_another_format_is_text_in_every_respect() -> None:
    """A marked token equals its text, can be a key, is copied and pickled with its mark, and can be sent."""
    token = OtherFormat(MARKER)
    assert (token, hash(token), f"{token}", repr(token)) == (MARKER, hash(MARKER), MARKER, repr(MARKER))
    assert {MARKER: 1}[token] == 1
    assert type(str(token)) is str
    assert not hasattr(token, "__dict__")
    copies = [copy.copy(token), copy.deepcopy(token), *(pickle.loads(pickle.dumps(token, n)) for n in range(2, 6))]  # noqa: S301
    for same in copies:
        assert (type(same), same) == (OtherFormat, MARKER)
    assert type_of(token) is TypeName.STR
    assert encode(("str", token), RequestLimits()) == encode(("str", MARKER), RequestLimits())
