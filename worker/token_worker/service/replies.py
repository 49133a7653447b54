"""Replies to checked requests, with the facts that telemetry reports."""

from typing import Any, Literal, NamedTuple

import structlog
from msgspec import UNSET

from token_worker.contract.codec import encode_reply, encoder
from token_worker.contract.decoded import Decoded
from token_worker.contract.messages import Reply, ReplyError, ReplyItem
from token_worker.errors import Code, Refused, Unavailable
from token_worker.service.checked_request import (
    INTERNAL,
    OP_NAMES,
    CheckedRequest,
    OwnerAccess,
    PlainRequests,
    Span,
    TypeCodec,
    Value,
)
from token_worker.storage.item_group import ItemGroup
from token_worker.storage.token_item import TokenItem
from token_worker.streams.entry import Answer, Entry
from token_worker.streams.reply_facts import ReplyFacts
from token_worker.telemetry.trace_context import log_fields

log = structlog.get_logger("handler")

_STORED_UNREADABLE = Refused(Code.ENTRY_UNREADABLE, "the stored entry cannot be read")
_NOT_TEXT = Refused(Code.VALUE_NOT_TEXT, 'the value is not UTF-8 text; ask for it with "as": "bytes"')
_TARGET_REFUSED = ReplyError(Code.FORBIDDEN, "$.reply_to: this stream cannot take the reply")


class DeadLettered(NamedTuple):
    """An entry that cannot be answered, because it names no request id, say. It goes to the dead letters."""

    entry: Entry
    reason: str


class Postponed(NamedTuple):
    """An entry that stays pending, because a key that it needs is unavailable."""

    entry: Entry
    why: Unavailable


Result = Answer | DeadLettered | Postponed


def build_replies(access: OwnerAccess) -> list[Answer | Postponed]:
    """Build the replies to the requests of an access, whose values went through the engine."""
    if access.plain is not None:
        [group] = access.groups
        return _build_plain(access, access.plain, group)
    if access.groups:
        return [
            _build_from_spans(access, checked, spans)
            for checked, spans in zip(access.requests, access.spans, strict=True)
        ]
    for item in access.formatted:  # a value may have a token since before
        access.formats.compare(item)
    replies: list[Answer | Postponed] = []
    codec: TypeCodec | None = None
    for checked, value in zip(access.requests, access.values, strict=True):
        if not isinstance(value, TokenItem) or not isinstance(value.result, bytes):
            replies.append(_build_from_all(access, checked, value if isinstance(value, list) else [value]))
            continue
        if value.form is not codec:  # mostly all have one
            codec = value.form
            decode, facts = codec.decode, access.ok_facts(codec)
        entry, decoded, request = checked
        try:
            answer = decode(value.result)
        except ValueError:
            replies.append(_build_from_all(access, checked, [value]))
            continue
        reply = Reply(
            id=request.id,
            op=request.op,
            request_entry=entry.id.decode(),
            status="ok",
            value=answer,
            format="other" if value.is_other else None,
            replay=request.replay,
        )
        replies.append(_answer(entry, decoded, reply, facts))
    return replies


def _build_plain(access: OwnerAccess, plain: PlainRequests, group: ItemGroup) -> list[Answer | Postponed]:
    """Build the replies to plain requests. Nearly all are alike but for their values."""
    replies: list[Answer | Postponed] = []
    codec: TypeCodec = group.form
    op, decode, encode, facts = access.op, codec.decode, encoder(plain.written), access.ok_facts(codec)
    for place, (entry, request, result) in enumerate(zip(plain.entries, plain.requests, group.results, strict=True)):
        if result.__class__ is bytes:
            try:
                value = decode(result)
            except ValueError:
                pass
            else:
                reply = Reply(id=request.id, op=op, request_entry=entry.id.decode(), status="ok", value=value)
                replies.append(Answer(entry, encode(reply), None, b"", facts, request.id))
                continue
        replies.append(_build_from_all(access, plain.checked(place), [group.result_item(place)]))
    return replies


def _build_from_spans(access: OwnerAccess, checked: CheckedRequest, spans: list[Span]) -> Answer | Postponed:
    """Build the reply from values that were handled in groups. Nearly all are good."""
    entry, decoded, request = checked
    answers = _good_answers(spans)
    if answers is None:
        items: list[Value] = [group.result_item(place) for group, start, stop in spans for place in range(start, stop)]
        return _build_from_all(access, checked, items)
    reply = Reply(id=request.id, op=request.op, request_entry=entry.id.decode(), status="ok", replay=request.replay)
    if request.items is UNSET:
        [reply.value] = answers
    else:
        reply.items = [ReplyItem(item.ref, answer) for item, answer in zip(request.items, answers, strict=True)]
    if len(spans) == 1:
        facts = access.ok_facts(spans[0].group.form, len(answers))
    else:
        outcomes = [group.form.ok for group, start, stop in spans for _ in range(start, stop)]
        facts = access.facts("ok", tuple(outcomes))
    return _answer(entry, decoded, reply, facts)


def _good_answers(spans: list[Span]) -> list[Any] | None:
    """Return the results in spans as members of a reply; None if not all are good."""
    answers: list[Any] = []
    for group, start, stop in spans:
        results = group.results[start:stop]
        if {*map(type, results)} != {bytes}:
            return None
        try:
            answers += map(group.form.decode, results)
        except ValueError:
            return None
    return answers


def _build_from_all(access: OwnerAccess, checked: CheckedRequest, values: list[Value]) -> Answer | Postponed:
    """Build the reply from any number of values, good or refused."""
    entry, decoded, request = checked
    answers: list[ReplyItem] = []
    outcomes: list[tuple[str, str]] = []
    failed = 0
    for value in values:
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
                    answers.append(ReplyItem(None, answer, format=other))
                    outcomes.append(codec.ok)
                    continue
            elif isinstance(result, Unavailable):
                return Postponed(entry, result)
        else:
            result, type_name = value.refused, value.type_name
        refused = result if isinstance(result, Refused) else INTERNAL
        _log_unreadable(access, checked, refused)
        failed += 1
        answers.append(ReplyItem(error=_error(refused)))
        outcomes.append((type_name, refused.code.value))
    reply = Reply(id=request.id, op=request.op, request_entry=entry.id.decode(), status="ok", replay=request.replay)
    if failed:
        reply.status = "error" if failed == len(answers) else "partial"
    if request.items is UNSET:
        reply.value, reply.error, reply.format = answers[0].value, answers[0].error, answers[0].format
    else:
        for item, made in zip(request.items, answers, strict=True):
            made.ref = item.ref
        reply.items = answers
    return _answer(entry, decoded, reply, access.facts(reply.status, tuple(outcomes)))


def _log_unreadable(access: OwnerAccess, checked: CheckedRequest, refused: Refused) -> None:
    """Log an error that only an operator can mend. The client is known to exist here."""
    if refused.code in (Code.ENTRY_UNREADABLE, Code.KEY_UNREADABLE):
        entry, decoded, _ = checked
        names = [owner.key_name for owner in access.owners]
        log.error(
            "stored data cannot be read",
            code=refused.code,
            key=names[-1],
            request_id=decoded.id,
            **log_fields(entry),
        )


def _error(refused: Refused) -> ReplyError:
    return ReplyError(refused.code, refused.message)


def encode_error(entry: Entry, decoded: Decoded, refused: Refused) -> bytes:
    """Encode the error reply to an entry."""
    return encode_reply(_error_reply(entry, decoded, _error(refused)), decoded.format)


def _error_reply(entry: Entry, decoded: Decoded, error: ReplyError) -> Reply:
    return Reply(
        id=decoded.id,
        op=decoded.op,
        request_entry=entry.id.decode(),
        status="error",
        error=error,
        replay=decoded.replay,
    )


def build_refusal(entry: Entry, decoded: Decoded, refused: Refused) -> Answer:
    """Build the reply to a request that is refused as a whole."""
    return _answer(entry, decoded, _error_reply(entry, decoded, _error(refused)), refused_facts(decoded, refused))


def refused_facts(decoded: Decoded, refused: Refused) -> ReplyFacts:
    """Facts of a request that is refused as a whole."""
    return ReplyFacts(OP_NAMES[decoded.op], "error", None, None, (("unknown", refused.code.value),))


def _answer(entry: Entry, decoded: Decoded, reply: Reply, facts: ReplyFacts) -> Answer:
    payload, reply_to = encode_reply(reply, decoded.format), decoded.reply_to
    forbidden = b""
    if reply_to is not None:
        forbidden = encode_reply(_error_reply(entry, decoded, _TARGET_REFUSED), decoded.format)
    return Answer(entry, payload, reply_to, forbidden, facts, decoded.id)
