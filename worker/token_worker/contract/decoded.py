"""What comes of reading a payload: a request, a refusal that can be answered, or nobody to answer."""

from dataclasses import dataclass

import msgspec

from token_worker.contract.messages import Format, Op, Request
from token_worker.errors import Code, Refused, TokenWorkerError


class Unanswerable(TokenWorkerError):  # noqa: N818 - reads as what it says, as the errors it stands beside
    """An entry that nobody can be answered for: it goes to the dead letters.

    Attributes:
        reason: ``payload_missing``; ``not_json_or_msgpack``: neither of the two, or malformed, and no ``id`` can be
            told; ``no_readable_id``: well-formed, without an ``id`` that is one.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Limits:
    """How large a request may be: bytes of its payload, and items."""

    max_request_bytes: int
    max_items: int


class Decoded(msgspec.Struct, gc=False):
    """A payload that can be answered.

    Attributes:
        format: the format of the payload, and so of the reply.
        request: the request, or None where ``refusal`` says what is wrong with it.
        id: the producer's id.
        op: the operation, where it is a known one.
        refusal: why the request as a whole is refused, else None.
        replay: the replay count of a replayed request.
        reply_to: the stream named for the reply, where it could be read; whether it is allowed is the route's matter.
        broken: items of the request that are none, by their place: each is answered with its refusal, and has nothing
            in ``request.items`` but its ``ref``. None where all items are well.
    """

    format: Format
    request: Request | None
    id: str
    op: Op | None
    refusal: Refused | None = None
    replay: int | None = None
    reply_to: str | None = None
    broken: dict[int, Refused] | None = None


def invalid(path: str, problem: str) -> Refused:
    """The refusal of what stands at this path."""
    return Refused(Code.INVALID_REQUEST, f"{path}: {problem}")


def too_many(limits: Limits) -> Refused:
    """The refusal of a request with more items than may be."""
    return invalid("$.items", f"more than {limits.max_items} items")
