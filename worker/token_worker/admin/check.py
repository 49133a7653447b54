"""The result of one check of the doctor."""

from typing import Literal

import msgspec

from token_worker.errors import ServerError

Status = Literal["ok", "finding", "unknown"]


class Check(msgspec.Struct, frozen=True):
    """The result of one check. Members are those of ``doctor --json``.

    Attributes:
        check: name of the check, with its server or stream.
        message: the result; it holds no value, key or password.
        remedy: what to do; empty if the status is ``ok``.
    """

    check: str
    status: Status
    message: str
    remedy: str = ""


def unknown(name: str, error: ServerError, right: str) -> Check:
    """Return a check that could not be made, because the user lacks a right."""
    return Check(name, "unknown", f"this user may not check it ({error.code})", f"give this user {right}")
