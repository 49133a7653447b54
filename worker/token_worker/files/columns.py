"""Columns of a file, and conversion between values and text. Pure.

A cell is accepted only if writing its value gives exactly the same cell. A number with a leading zero or a plus, or
base64 with other characters in it, would come back in another form, so it is refused.
"""

import binascii
import re
from collections.abc import Callable, Iterable
from enum import StrEnum
from itertools import islice
from typing import Any, NamedTuple

from token_worker.client import Item, Value
from token_worker.contract.messages import TypeName
from token_worker.errors import Code, TokenWorkerError

SentItem = Item | tuple[TypeName, Value]
"""An item of a request."""

_WHOLE_NUMBER = re.compile("0|-?[1-9][0-9]{0,99}")

_ITEM_PATH = re.compile(r"\$\.items\[[0-9]+\][.\w]*: ")
"""Path of an item or its member at the beginning of a message, such as ``$.items[3].value: ``."""

NAMES_SHOWN = 50
"""Most names in a message."""


class Column(NamedTuple):
    """A column to change.

    Attributes:
        name: its name, or its number from 1 in a file without a header.
        type: type of its values.
        format: format of its new tokens. None: the tokens of the type.
    """

    name: str
    type: str
    format: str | None = None


class RowCode(StrEnum):
    """Reasons why a row cannot be done, in addition to the codes of the contract."""

    WRONG_FIELDS = "wrong_fields"
    """The columns are unknown: the number of fields differs from the header, or from the first row, or a quote that was
    meant as a character may have joined rows."""
    WRONG_FORM = "wrong_form"
    """The cell does not have the form of a value of this type."""
    WRONG_ENCODING = "wrong_encoding"
    """The cell is not valid in the encoding of the file, or this encoding cannot hold the answer."""
    WRONG_JSON = "wrong_json"
    """The line is not a JSON object, or has a member twice."""


class RowError(TokenWorkerError):
    """A row or a cell cannot be done. The message contains nothing of its values."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


def format_names(names: Iterable[str]) -> str:
    """List names of columns in a message. Characters that would control a terminal are replaced."""
    shown = islice(names, NAMES_SHOWN)
    return ", ".join("".join(char if char.isprintable() else "?" for char in name) for name in shown)


def without_path(message: str) -> str:
    """Return the message of an answer without the path in the request. Users of files know rows and columns instead."""
    path = _ITEM_PATH.match(message)
    return message if path is None else message[path.end() :]


def check_number(value: int, type_name: str) -> int:
    """Return the number if it is in the range of its type. Raises ``RowError``."""
    limit = 1 << (31 if type_name == TypeName.INT32 else 63)
    if not -limit <= value < limit:
        raise RowError(Code.VALUE_OUT_OF_RANGE, f"not {type_name}: expected {-limit} to {limit - 1}")
    return value


def _number(type_name: str) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not _WHOLE_NUMBER.fullmatch(text):
            raise RowError(RowCode.WRONG_FORM, "expected a whole number in decimal digits, without a leading 0")
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
"""For each type, a function that converts a text, which is not empty, to a value. Raises ``RowError``."""

WRITE: dict[str, Callable[[Any], str]] = {
    TypeName.INT32.value: str,
    TypeName.INT64.value: str,
    TypeName.STR.value: str,
    TypeName.BYTES.value: _to_base64,
    TypeName.EMAIL.value: str,
}
"""For each type, a function that converts a value to text."""
