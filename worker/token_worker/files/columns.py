"""Columns of a file, and their values as text. Pure.

A cell stands for a value only where writing the value gives that very cell: a number with a leading zero or a plus, or
base64 with other characters in it, would not come back as it was, and is refused.
"""

import binascii
import re
from collections.abc import Callable, Iterable
from enum import StrEnum
from itertools import islice
from typing import Any, NamedTuple

from token_worker.contract.messages import TypeName
from token_worker.errors import Code, TokenWorkerError

Value = int | str | bytes

SentItem = tuple[TypeName, Value]
"""An item of a request."""

_WHOLE_NUMBER = re.compile("0|-?[1-9][0-9]{0,99}")

NAMES_SHOWN = 50
"""How many names a message has at most."""


class Column(NamedTuple):
    """A column to be changed: its name, or its number from 1 in a file without a header, and the type of its values."""

    name: str
    type: str


class RowCode(StrEnum):
    """Why a row cannot be done, besides the codes of the contract."""

    WRONG_FIELDS = "wrong_fields"
    """It has not as many fields as the header, or as the first row: there is no telling which is which."""
    WRONG_FORM = "wrong_form"
    """The cell is not how a value of the type is written."""
    WRONG_ENCODING = "wrong_encoding"
    """The cell is not in the encoding of the file, or the answer cannot be written in it."""
    WRONG_JSON = "wrong_json"
    """The line is no JSON object, or it has a member twice."""


class RowError(TokenWorkerError):
    """A row or a cell that cannot be done; the message holds nothing of it."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


def format_names(names: Iterable[str]) -> str:
    """Names of columns for a message; what a terminal would obey is not among them."""
    return ", ".join("".join(it if it.isprintable() else "?" for it in name) for name in islice(names, NAMES_SHOWN))


def check_number(value: int, type_name: str) -> int:
    """The number itself, if its type holds it."""
    bits = 32 if type_name == TypeName.INT32 else 64
    if not -(1 << bits - 1) <= value < 1 << bits - 1:
        raise RowError(Code.VALUE_OUT_OF_RANGE, f"no {type_name}: expected {-(1 << bits - 1)} to {(1 << bits - 1) - 1}")
    return value


def _number(type_name: str) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not _WHOLE_NUMBER.fullmatch(text):
            raise RowError(RowCode.WRONG_FORM, "expected a whole number, in decimal digits without leading 0")
        return check_number(int(text), type_name)

    return read


def _base64(text: str) -> bytes:
    try:
        value = binascii.a2b_base64(text.encode("ascii"), strict_mode=True)
    except ValueError:  # binascii.Error and UnicodeEncodeError
        value = b""
    if not value or _to_base64(value) != text:
        raise RowError(RowCode.WRONG_FORM, "expected base64")
    return value


def _to_base64(value: bytes) -> str:
    return binascii.b2a_base64(value, newline=False).decode("ascii")


READ: dict[str, Callable[[str], Value]] = {
    TypeName.INT32.value: _number(TypeName.INT32),
    TypeName.INT64.value: _number(TypeName.INT64),
    TypeName.STR.value: str,
    TypeName.BYTES.value: _base64,
    TypeName.EMAIL.value: str,
}
"""What gives the value of a text that is not empty; raises ``RowError``."""

WRITE: dict[str, Callable[[Any], str]] = {
    TypeName.INT32.value: str,
    TypeName.INT64.value: str,
    TypeName.STR.value: str,
    TypeName.BYTES.value: _to_base64,
    TypeName.EMAIL.value: str,
}
"""What gives the text of a value."""
