"""Results of decoding a payload: a request, a refusal that can be answered, or no id to answer."""

from dataclasses import dataclass
from typing import Literal, get_args

import msgspec

from token_worker.contract.messages import Format, Op, Request
from token_worker.errors import Code, Refused, TokenWorkerError

UnanswerableReason = Literal["payload_missing", "not_json_or_msgpack", "no_readable_id"]
UNANSWERABLE_REASONS: tuple[str, ...] = get_args(UnanswerableReason)


class Unanswerable(TokenWorkerError):  # noqa: N818 - "except Unanswerable" reads well
    """An entry has no id to answer, so it becomes a dead letter.

    Attributes:
        reason: ``payload_missing``; ``not_json_or_msgpack`` (the payload is neither, or is malformed and no ``id`` was
            found); or ``no_readable_id`` (the payload is well-formed, but has no valid ``id``).
    """

    def __init__(self, reason: UnanswerableReason) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a request: bytes of its payload, and number of items."""

    max_request_bytes: int
    max_items: int


class Decoded(msgspec.Struct, gc=False):
    """A payload that can be answered.

    Attributes:
        format: format of the payload, and therefore of the reply.
        request: the request, or None if ``refusal`` says what is wrong with it.
        id: the producer's id.
        op: the operation, if it is a known one.
        refusal: the reason why the whole request is refused, or None.
        replay: the replay count of a replayed request.
        reply_to: the stream that the request names for its reply, if it could be read. The route may not allow it.
        broken: the refusals of malformed items, by position. Such an item has only its ``ref`` in ``request.items``.
            None if all items are well-formed.
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
    """Make the refusal for a problem at a path."""
    return Refused(Code.INVALID_REQUEST, f"{path}: {problem}")


def too_many(limits: Limits) -> Refused:
    """Make the refusal for a request with too many items."""
    return invalid("$.items", f"more than {limits.max_items} items")
