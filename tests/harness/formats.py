"""Formats and their tokens for tests: made as the settings make them, drawn with the key of a test."""

from collections.abc import Iterator
from typing import Any

import msgspec

from token_worker.acra.owner import Owner
from token_worker.tokens.derivation import Deriver
from token_worker.tokens.formats import KINDS, AnyFormat

_DERIVER = Deriver(b"key of a test, key of a test....", Owner("client", "shop-frontend"))


def make(kind: str, **parameters: Any) -> AnyFormat:
    """Make a format of a kind. Parameters are written as in the settings."""
    made = KINDS[kind]
    return made("test", msgspec.convert(parameters, made.parameters_type))


def tokens(form: AnyFormat, value: str, count: int) -> Iterator[str]:
    """Draw candidates with the counters from 0. The value must fit."""
    data = value.encode()
    assert form.problem(data) is None
    for counter in range(count):
        token = _DERIVER.token(form, data, counter)
        assert form.could_draw(data, token) is (token != data)
        yield token.decode()


def problem(form: AnyFormat, value: str) -> str | None:
    """Return what was expected instead of a value. None if it fits."""
    return form.problem(value.encode())


def could_draw(form: AnyFormat, value: str, token: str) -> bool:
    """Return True if the format could have drawn this token for the value."""
    return form.could_draw(value.encode(), token.encode())
