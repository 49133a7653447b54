"""Plans of a test for the next requests: an error, or no reply at all."""

from collections.abc import Iterable
from typing import Final

import msgspec
from msgspec import UNSET

from token_worker.contract.codec import encode_reply
from token_worker.contract.decoded import Decoded
from token_worker.contract.messages import Format, Op, Reply, ReplyError, ReplyItem
from token_worker.errors import Code
from token_worker.testing.received import ReceivedRequest

MESSAGE: Final = "the test asked for this error"

_OF_A_VALUE: Final = frozenset(
    {
        Code.UNKNOWN_TYPE,
        Code.VALUE_OUT_OF_RANGE,
        Code.VALUE_TOO_LARGE,
        Code.INVALID_EMAIL,
        Code.FORMAT_NOT_ALLOWED,
        Code.FORMAT_CONFLICT,
        Code.TOKEN_NOT_FOUND,
        Code.TOKEN_DISABLED,
        Code.TOKEN_SPACE_EXHAUSTED,
        Code.ENTRY_UNREADABLE,
        Code.VALUE_NOT_TEXT,
    }
)
"""Codes that a worker answers for single values. It refuses the request as a whole with the others."""

_OF_EITHER: Final = frozenset({Code.INVALID_REQUEST, Code.KEY_UNREADABLE})
"""Codes that a worker answers for single values, too."""

_DECODE: Final = {
    Format.JSON: msgspec.json.Decoder(Reply).decode,
    Format.MSGPACK: msgspec.msgpack.Decoder(Reply).decode,
}


class Plan:
    """One call of ``refuse_next`` or ``drop_next``.

    Args:
        code: the error; None: no reply.
        op, client_id: the requests that are meant; None: of any.
        items: positions of the values that are refused; None: the whole request, or each value.
        count: requests that are left to be refused or dropped.

    Raises:
        ValueError: an argument has no meaning.
    """

    def __init__(
        self,
        code: Code | str | None,
        *,
        op: Op | str | None,
        client_id: str | None,
        items: Iterable[int] | None,
        count: int,
    ) -> None:
        self.code = None if code is None else Code(code)
        self.op = None if op is None else Op(op)
        self.client_id = client_id
        self.items = None if items is None else frozenset(items)
        self.count = count
        if count < 1:
            raise ValueError("count: expected at least 1")
        if self.items is not None:
            if not self.items or min(self.items) < 0:
                raise ValueError("items: expected positions from 0 on")
            if self.code not in _OF_A_VALUE | _OF_EITHER:
                raise ValueError(f"items: {self.code} is an error of a whole request, never of a value")

    def __repr__(self) -> str:
        name = "drop_next" if self.code is None else "refuse_next"
        arguments = [] if self.code is None else [repr(self.code.value)]
        given = {
            "op": None if self.op is None else self.op.value,
            "client_id": self.client_id,
            "items": None if self.items is None else sorted(self.items),
            "count": self.count,
        }
        arguments += [f"{key}={value!r}" for key, value in given.items() if value is not None]
        return f"{name}({', '.join(arguments)})"

    def is_for(self, request: ReceivedRequest) -> bool:
        """Tell whether the plan is for this request, which has to have a value at each of the positions."""
        return (
            self.op in (None, request.op)
            and self.client_id in (None, request.client_id)
            and (self.items is None or max(self.items) < len(request.values))
        )

    def change(self, payload: bytes, decoded: Decoded) -> bytes:
        """Put the error into a reply."""
        if self.code is None:
            raise ValueError("a request that is dropped has no reply")
        reply = _DECODE[decoded.format](payload)
        error = ReplyError(self.code, MESSAGE)
        if reply.items is UNSET or (self.items is None and self.code not in _OF_A_VALUE):
            reply.value = reply.items = UNSET
            reply.format = None
            reply.error, reply.status = error, "error"
        else:
            answers = [*enumerate(reply.items)]
            reply.items = [
                ReplyItem(item.ref, error=error) if self.items is None or at in self.items else item
                for at, item in answers
            ]
            failed = sum(item.error is not UNSET for item in reply.items)
            reply.status = "error" if failed == len(reply.items) else "partial"
        return encode_reply(reply, decoded.format)
