"""Replies to checked requests, with the facts that telemetry reports."""

from typing import Literal, NamedTuple

import structlog
from msgspec import UNSET

from token_worker.contract.codec import encode_reply
from token_worker.contract.decoded import Decoded
from token_worker.contract.messages import Op, Reply, ReplyError, ReplyItem
from token_worker.errors import Code, Refused, Unavailable
from token_worker.service.checked_request import INTERNAL, CheckedRequest
from token_worker.storage.token_item import TokenItem
from token_worker.streams.entry import Answer, Entry
from token_worker.streams.reply_facts import ReplyFacts
from token_worker.telemetry.trace_context import log_fields

log = structlog.get_logger("handler")

_STORED_UNREADABLE = Refused(Code.ENTRY_UNREADABLE, "the stored entry cannot be read")
_NOT_TEXT = Refused(Code.VALUE_NOT_TEXT, 'the value is not UTF-8 text; ask for it with "as": "bytes"')
_TARGET_REFUSED = Refused(Code.FORBIDDEN, "$.reply_to: this stream cannot take the reply")
_OP_NAMES: dict[Op | None, str] = {Op.TOKENIZE: "tokenize", Op.DETOKENIZE: "detokenize", None: "unknown"}


class DeadLettered(NamedTuple):
    """An entry that cannot be answered, because it names no request id, say. It goes to the dead letters."""

    entry: Entry
    reason: str


class Postponed(NamedTuple):
    """An entry that stays pending, because a key that it needs is unavailable."""

    entry: Entry
    why: Unavailable


Result = Answer | DeadLettered | Postponed


def build_reply(checked: CheckedRequest) -> Answer | Postponed:
    """Build the reply to a request whose values went through the engine."""
    decoded, values = checked.decoded, checked.values
    request = decoded.request
    reply = Reply(
        id=decoded.id, op=decoded.op, request_entry=checked.entry.id.decode(), status="ok", replay=decoded.replay
    )
    value = values[0] if request is not None and request.items is UNSET else None
    if isinstance(value, TokenItem) and isinstance(value.result, bytes):  # the short way of most requests
        codec = value.form
        try:
            answer = codec.decode(value.result)
        except ValueError:
            pass
        else:
            reply.value = answer if codec.write is None else codec.write(answer)
            if value.is_other:
                reply.format = "other"
            return _answer(checked, encode_reply(reply, decoded.format), _facts(checked, "ok", codec.all_ok))
    return _build_from_all(checked, reply)


def _build_from_all(checked: CheckedRequest, reply: Reply) -> Answer | Postponed:
    """Build the reply from any number of values, good or refused."""
    decoded = checked.decoded
    request = decoded.request
    answers: list[ReplyItem] = []
    outcomes: list[tuple[str, str]] = []
    failed = 0
    for value in checked.values:
        result: object
        if isinstance(value, TokenItem):
            result, type_name = value.result, value.kind.name
            if isinstance(result, bytes):
                codec = value.form
                try:
                    answer = codec.decode(result)
                except ValueError:
                    result = _STORED_UNREADABLE if value.tokenize or value.kind.is_number else _NOT_TEXT
                else:
                    other: Literal["other"] | None = "other" if value.is_other else None
                    answers.append(
                        ReplyItem(None, answer if codec.write is None else codec.write(answer), format=other)
                    )
                    outcomes.append(codec.ok)
                    continue
            elif isinstance(result, Unavailable):
                return Postponed(checked.entry, result)
        else:
            result, type_name = value.refused, value.type_name
        refused = result if isinstance(result, Refused) else INTERNAL
        _log_unreadable(checked, refused)
        failed += 1
        answers.append(ReplyItem(error=_error(refused)))
        outcomes.append((type_name, refused.code.value))
    if failed:
        reply.status = "error" if failed == len(answers) else "partial"
    if request is not None and request.items is not UNSET:
        for item, answer in zip(request.items, answers, strict=True):
            answer.ref = item.ref
        reply.items = answers
    else:
        reply.value, reply.error, reply.format = answers[0].value, answers[0].error, answers[0].format
    facts = _facts(checked, reply.status, tuple(outcomes))
    return _answer(checked, encode_reply(reply, decoded.format), facts)


def _facts(checked: CheckedRequest, status: str, outcomes: tuple[tuple[str, str], ...]) -> ReplyFacts:
    decoded, owners = checked.decoded, checked.access.owners
    zone_id = owners[1].id if len(owners) > 1 else None
    return ReplyFacts(_OP_NAMES[decoded.op], status, decoded.id, owners[0].id, zone_id, outcomes)


def _log_unreadable(checked: CheckedRequest, refused: Refused) -> None:
    """Log an error that only an operator can mend. The client is known to exist here."""
    if refused.code in (Code.ENTRY_UNREADABLE, Code.KEY_UNREADABLE):
        names = [owner.key_name for owner in checked.access.owners]
        log.error(
            "stored data cannot be read",
            code=refused.code,
            key=names[-1],
            request_id=checked.decoded.id,
            **log_fields(checked.entry),
        )


def _error(refused: Refused) -> ReplyError:
    return ReplyError(refused.code, refused.message)


def encode_error(entry: Entry, decoded: Decoded, refused: Refused) -> bytes:
    """Encode the error reply to an entry."""
    reply = Reply(
        id=decoded.id,
        op=decoded.op,
        request_entry=entry.id.decode(),
        status="error",
        error=_error(refused),
        replay=decoded.replay,
    )
    return encode_reply(reply, decoded.format)


def build_refusal(checked: CheckedRequest, refused: Refused) -> Answer:
    """Build the reply to a request that is refused as a whole."""
    facts = refused_facts(checked.decoded, refused)
    return _answer(checked, encode_error(checked.entry, checked.decoded, refused), facts)


def refused_facts(decoded: Decoded, refused: Refused) -> ReplyFacts:
    """Facts of a request that is refused as a whole."""
    return ReplyFacts(_OP_NAMES[decoded.op], "error", decoded.id, None, None, (("unknown", refused.code.value),))


def _answer(checked: CheckedRequest, payload: bytes, facts: ReplyFacts) -> Answer:
    if checked.reply_to is None:
        return Answer(checked.entry, payload, facts=facts)
    return Answer(
        checked.entry, payload, checked.reply_to, encode_error(checked.entry, checked.decoded, _TARGET_REFUSED), facts
    )
