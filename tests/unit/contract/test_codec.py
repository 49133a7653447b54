"""Requests are decoded and replies encoded in both formats; bad requests are refused by code."""
# ruff: noqa: A002 - "format" is what the contract calls it

import json
import math
import struct
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from token_worker.contract import lenient
from token_worker.contract.codec import _DECODE_REQUEST, decode, decode_all, decode_plain, encode_reply, sniff
from token_worker.contract.decoded import Decoded, Limits, Unanswerable
from token_worker.contract.examples import REPLIES, REQUESTS
from token_worker.contract.messages import Format, Op, PlainRequest, Reply, ReplyError, ReplyItem, Request, RequestItem
from token_worker.contract.values import decode_value, encode_value
from token_worker.errors import Code, Refused

LIMITS = Limits(max_request_bytes=10_000, max_items=5)
DEEP = Limits(max_request_bytes=1_000_000, max_items=5)
CANARY = "canary-4929000011112222"
BASE = {"id": "r-1", "op": "tokenize"}
ONE = BASE | {"type": "str", "value": "x"}

formats = pytest.mark.parametrize("format", list(Format))


def pack(message: object, format: Format) -> bytes:
    if format is Format.JSON:
        return json.dumps(message).encode()
    return msgspec.msgpack.encode(message)


def refusal(decoded: Decoded) -> Refused:
    assert decoded.request is None
    assert decoded.refusal is not None
    return decoded.refusal


def errors_of(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b'{"id": 1}', Format.JSON),
        (b" \t\r\n{}", Format.JSON),
        (b"\x80", Format.MSGPACK),
        (b"\x8f", Format.MSGPACK),
        (b"\xde\x00\x00", Format.MSGPACK),
        (b"\xdf\x00\x00\x00\x00", Format.MSGPACK),
        (b"", None),
        (b"[1]", None),
        (b"\x90", None),
        (b"\x7f", None),
        (b"\xef\xbb\xbf{}", Format.JSON),
        (b"\xff\xfe{\0}\0", Format.JSON),
        (b"\xfe\xff\0{\0}", Format.JSON),
        (b"\xff\xff{}", None),
        (b"id=1", None),
    ],
)
def test_first_byte_tells_the_format(payload: bytes, expected: Format | None) -> None:
    """A payload's first byte tells whether it is JSON, MessagePack or neither."""
    assert expected is sniff(payload)


@formats
@pytest.mark.parametrize("name", list(REQUESTS))
def test_request_round_trip(name: str, format: Format) -> None:
    """A request encoded from the types is decoded to an equal request, with nothing refused."""
    request = REQUESTS[name]
    decoded = decode(pack(msgspec.to_builtins(request), format), LIMITS)
    assert Decoded(format, request, request.id, request.op, None, request.replay, request.reply_to) == decoded


ITEMS: dict[str, object] = BASE | {"items": [{"type": "str", "value": 1}]}
BAD: list[dict[str, object]] = [{**BASE}, ONE | {"items": []}, {**ONE, "value": "x" * 10_000}, {"id": 1}]
OF_A_BATCH = [
    *(pack(message, its_format) for message in (ONE, ITEMS, *BAD) for its_format in Format),
    pack(BASE | {"items": [{"type": 1}, {"type": "str", "value": CANARY}]}, Format.MSGPACK),
    *(mark + pack(ONE, Format.JSON) for mark in (b" ", b"\xef\xbb\xbf", b"\xff\xfe")),
    *(b"", b"[1]", b"{", b"\x81", None),
]
"""Payloads that are good, refused, and no requests."""


@pytest.mark.parametrize("number", range(len(OF_A_BATCH)))
def test_batch_is_decoded_as_one_by_one(number: int) -> None:
    """A payload is decoded, refused or unanswerable whatever stands beside it in a batch."""

    def alone(payload: bytes | None) -> Decoded | Unanswerable:
        try:
            return decode(payload, LIMITS)
        except Unanswerable as error:
            return error

    for other in OF_A_BATCH:
        payloads = [OF_A_BATCH[number], other, OF_A_BATCH[number]]
        found = decode_all(payloads, LIMITS)
        assert repr([*map(alone, payloads)]) == repr(found)
        refusals = [it if isinstance(it, Unanswerable) else it.refusal for it in found]
        assert all([error] == list(errors_of(error)) for error in refusals if error is not None)


@formats
def test_defaults_of_a_request(format: Format) -> None:
    """Members left out have their defaults, and null is the same as left out where the type allows it."""
    nulls = dict.fromkeys(("client_id", "zone_id", "reply_to", "expires_at", "replay", "replay_of"))
    expected = Request(id="r-1", op=Op.TOKENIZE, type="str", value="x")
    assert expected == decode(pack(ONE, format), LIMITS).request
    assert expected == decode(pack(ONE | nulls, format), LIMITS).request
    assert expected.consistent


@formats
def test_null_value_is_a_value(format: Format) -> None:
    """A value of null is present, so that it is refused as a value and not as a missing member."""
    decoded = decode(pack(ONE | {"value": None}, format), LIMITS)
    assert decoded.request is not None
    assert decoded.request.value is None


@formats
@pytest.mark.parametrize("name", list(REPLIES))
def test_reply_round_trip(name: str, format: Format) -> None:
    """A reply is written in the format asked for, and reads back as it was."""
    payload = encode_reply(REPLIES[name], format)
    assert format is sniff(payload)
    decoder = msgspec.json.decode if format is Format.JSON else msgspec.msgpack.decode
    assert REPLIES[name] == decoder(payload, type=Reply)


@formats
def test_reply_leaves_out_what_it_does_not_have(format: Format) -> None:
    """A reply has no member for what there is nothing to say about."""
    reply = Reply(
        id="r", request_entry="1-0", status="error", items=[ReplyItem(error=ReplyError(Code.INTERNAL, "again"))]
    )
    expected = {
        "id": "r",
        "request_entry": "1-0",
        "status": "error",
        "items": [{"error": {"code": "internal", "message": "again"}}],
    }
    decoder = msgspec.json.decode if format is Format.JSON else msgspec.msgpack.decode
    assert expected == decoder(encode_reply(reply, format))


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (None, "payload_missing"),
        (b"", "not_json_or_msgpack"),
        (b"\xff\xff", "not_json_or_msgpack"),
        (b"[1]", "not_json_or_msgpack"),
        (b"{broken", "not_json_or_msgpack"),
        (b"{'id': 'r-1'}", "not_json_or_msgpack"),
        (b'{"id":"r-', "not_json_or_msgpack"),
        (b'{"value":[],"x" "id":"a","id":"b"}', "not_json_or_msgpack"),
        (b'{"value":"5" disk","id":"r-1"}', "not_json_or_msgpack"),
        (b'[{"id":"r-1"}]', "not_json_or_msgpack"),
        (b" no object", "not_json_or_msgpack"),
        (b"\xef\xbb\xbf", "not_json_or_msgpack"),
        (b"\xff\xfe", "not_json_or_msgpack"),
        (b"\xff\xfe[\0]\0", "no_readable_id"),
        (b"\x82\xa1a\xa1a", "not_json_or_msgpack"),
        (b"\x81\xa2id\xa5cut", "not_json_or_msgpack"),
        (b" [1]", "no_readable_id"),
        (b'{"id":"a\tb"}', "no_readable_id"),
        (b'{"id":NaN,"value":1}', "no_readable_id"),
        (b"{}", "no_readable_id"),
        (b'{"id":"\\ud800"}', "no_readable_id"),
        (b'{"id":"\xff"}', "no_readable_id"),
        (b'{"id":1e400}', "no_readable_id"),
        (b'{"id":"a","id":2}', "no_readable_id"),
        (b"\x80", "no_readable_id"),
        (b"\x81\xa2id\xd6\xff\x00\x00\x00\x00", "no_readable_id"),
        (b"\x81\xa2id\xc4\x01a", "no_readable_id"),
    ],
)
def test_entry_without_readable_id_is_unanswerable(payload: bytes | None, reason: str) -> None:
    """An entry whose payload or id cannot be read goes to the dead letters, with the reason and no decoder's error."""
    with pytest.raises(Unanswerable) as caught:
        decode(payload, LIMITS)
    assert reason == caught.value.reason
    assert [caught.value] == list(errors_of(caught.value))


@formats
@pytest.mark.parametrize("bad_id", ["", "x" * 129, 7, None, True, ["a"], {"a": "b"}, 1.5])
def test_bad_id_is_unanswerable(bad_id: object, format: Format) -> None:
    """An id that is empty, too long or no text names nobody to answer."""
    with pytest.raises(Unanswerable, match=r"^no_readable_id$"):
        decode(pack(ONE | {"id": bad_id}, format), LIMITS)
    with pytest.raises(Unanswerable, match=r"^no_readable_id$"):
        decode(pack(ONE | {"id": bad_id, "value": "x" * LIMITS.max_request_bytes}, format), LIMITS)


@formats
@pytest.mark.parametrize("good_id", ["x", "x" * 128, "\N{GRINNING FACE}" * 128, "a\0b"])
def test_bounds_of_the_id(good_id: str, format: Format) -> None:
    """Any text of 1 to 128 characters is an id, also on a request that is refused."""
    for message in (ONE | {"id": good_id}, ONE | {"id": good_id, "extra": 1}):
        assert good_id == decode(pack(message, format), LIMITS).id


UNKNOWN = (
    "$: unknown member; there are id, op, client_id, zone_id, type, value, as, format, items, consistent, reply_to,"
    " expires_at, replay, replay_of"
)

STRUCTURAL: list[tuple[dict[str, Any], str]] = [
    (BASE, "$: expected type and value, or items"),
    (BASE | {"type": "str"}, "$: expected type and value, or items"),
    (BASE | {"value": "x"}, "$: expected type and value, or items"),
    (ONE | {"items": [{"type": "str", "value": "x"}]}, "$: expected type and value, or items, not both"),
    (BASE | {"value": "x", "items": [{"type": "str", "value": "x"}]}, "$: expected type and value, or items, not both"),
    (
        BASE | {"type": "str", "items": [{"type": "str", "value": "x"}]},
        "$: expected type and value, or items, not both",
    ),
    (BASE | {"items": []}, "$.items: expected at least 1 item"),
    (BASE | {"items": {}}, "$.items: expected a list"),
    (BASE | {"items": None}, "$.items: expected a list"),
    (BASE | {"items": [{"type": "str", "value": "x"}] * 6}, "$.items: more than 5 items"),
    (BASE | {"items": [{}] * 6}, "$.items: more than 5 items"),
    (BASE | {"items": [{"type": "str", "value": "x"}, 7]}, "$.items[1]: expected an object"),
    (ONE | {CANARY: 1}, UNKNOWN),
    (ONE | {"op": "redact"}, "$.op: expected tokenize or detokenize"),
    (ONE | {"op": "TOKENIZE"}, "$.op: expected tokenize or detokenize"),
    (ONE | {"op": 1}, "$.op: expected tokenize or detokenize"),
    ({"id": "r-1", "type": "str", "value": "x"}, "$.op: expected tokenize or detokenize"),
    (ONE | {"type": None}, "$.type: expected text of at most 16 characters"),
    (ONE | {"type": "x" * 17}, "$.type: expected text of at most 16 characters"),
    (ONE | {"client_id": 1}, "$.client_id: expected text of at most 256 characters"),
    (ONE | {"client_id": "x" * 257}, "$.client_id: expected text of at most 256 characters"),
    (ONE | {"zone_id": ["z"]}, "$.zone_id: expected text of at most 256 characters"),
    (ONE | {"consistent": 1}, "$.consistent: expected true or false"),
    (ONE | {"consistent": None}, "$.consistent: expected true or false"),
    (ONE | {"reply_to": ""}, "$.reply_to: expected text of 1 to 512 characters"),
    (ONE | {"reply_to": "x" * 513}, "$.reply_to: expected text of 1 to 512 characters"),
    (ONE | {"expires_at": -1}, "$.expires_at: expected a whole number, 0 or more"),
    (ONE | {"expires_at": "1767225600000"}, "$.expires_at: expected a whole number, 0 or more"),
    (ONE | {"expires_at": 1.5}, "$.expires_at: expected a whole number, 0 or more"),
    (ONE | {"expires_at": True}, "$.expires_at: expected a whole number, 0 or more"),
    (ONE | {"replay": 0}, "$.replay: expected a whole number, 1 or more"),
    (ONE | {"replay_of": "yesterday"}, "$.replay_of: expected a stream id"),
    (ONE | {"replay_of": "1-0\n"}, "$.replay_of: expected a stream id"),
    (ONE | {"replay_of": "1-" + "0" * 21}, "$.replay_of: expected a stream id"),
]


@formats
@pytest.mark.parametrize(("message", "expected"), STRUCTURAL)
def test_bad_request_is_refused_with_the_path_and_what_was_expected(
    message: dict[str, Any], expected: str, format: Format
) -> None:
    """A request of the wrong form is refused as a whole, in words that hold nothing of the payload."""
    decoded = decode(pack(message, format), LIMITS)
    refused = refusal(decoded)
    assert Code.INVALID_REQUEST is refused.code
    assert expected == refused.message
    assert decoded.id == "r-1"
    assert format is decoded.format
    assert [refused] == list(errors_of(refused))
    assert refused.__traceback__ is None


@formats
def test_refused_request_keeps_what_its_answer_needs(format: Format) -> None:
    """A refusal keeps operation, replay count and reply stream where they can be read, and leaves out what is none."""
    for extra in (1, "x" * LIMITS.max_request_bytes):
        message = ONE | {"extra": extra, "op": "detokenize", "replay": 3, "reply_to": "s"}
        decoded = decode(pack(message, format), LIMITS)
        assert (decoded.op, decoded.replay, decoded.reply_to) == (Op.DETOKENIZE, 3, "s")
        for bad in (True, 0, 1.5, [1], "", "x" * 513):
            decoded = decode(pack(message | {"op": bad, "replay": bad, "reply_to": bad}, format), LIMITS)
            assert (decoded.op, decoded.replay, decoded.reply_to) == (None, None, None)


@formats
def test_payload_over_the_limit(format: Format) -> None:
    """A payload over the limit is refused by its length, and its producer still gets an answer."""
    payload = pack(ONE | {"value": "x" * LIMITS.max_request_bytes}, format)
    decoded = decode(payload, LIMITS)
    assert refusal(decoded).message == "payload: longer than 10000 bytes"
    assert (decoded.id, decoded.op) == ("r-1", Op.TOKENIZE)
    assert decode(payload, Limits(len(payload), 5)).refusal is None
    assert refusal(decode(payload[:-2], Limits(100, 5))).message == "payload: longer than 100 bytes"


@formats
def test_items_up_to_the_limit(format: Format) -> None:
    """A request with the largest allowed number of items is accepted."""
    payload = pack(BASE | {"items": [{"type": "str", "value": "x"}] * 5}, format)
    decoded = decode(payload, LIMITS)
    assert decoded.request is not None
    assert [RequestItem("str", "x")] * 5 == decoded.request.items


@formats
@pytest.mark.parametrize("depth", [20_000, 100_000])  # Python 3.13 reads some 10,000
@pytest.mark.parametrize("id_first", [True, False])
def test_deep_nesting_is_answered(depth: int, id_first: bool, format: Format) -> None:
    """A payload nested too deeply for a decoder is refused, and its producer found without recursion."""
    opening, member = b'{"id":"r-1","op":"tokenize","replay":2', b'"a,b:]\\"":' + b"[" * depth + b"]" * depth
    payload = opening + b"," + member + b"}" if id_first else b"{" + member + b"," + opening[1:] + b"}"
    if format is Format.MSGPACK:
        members = b"\xa2id\xa3r-1\xa2op\xa8tokenize\xa6replay\x02"
        nested = b"\xd9\x01v" + b"\x81\x01" * (depth // 2) + b"\x91" * (depth // 2) + b"\xc0"
        payload = b"\x84" + (members + nested if id_first else nested + members)
    decoded = decode(payload, DEEP)
    assert refusal(decoded).message == "payload: nested too deeply"
    assert (decoded.id, decoded.op, decoded.replay) == ("r-1", Op.TOKENIZE, 2)


def test_deep_nesting_beside_every_kind_of_object() -> None:
    """The walk over MessagePack passes over objects of every encoding to find the id behind them."""
    deep = b"\x91" * 5_000 + b"\xc0"
    others = [
        b"\x05", b"\xff", b"\xc0", b"\xc2", b"\xc3", b"\xca" + bytes(4), b"\xcb" + bytes(8), b"\xcc" + bytes(1),
        b"\xcd" + bytes(2), b"\xce" + bytes(4), b"\xcf" + bytes(8), b"\xd0" + bytes(1), b"\xd1" + bytes(2),
        b"\xd2" + bytes(4), b"\xd3" + bytes(8), b"\xd4\x05" + bytes(1), b"\xd5\x05" + bytes(2), b"\xd6\x05" + bytes(4),
        b"\xd7\x05" + bytes(8), b"\xd8\x05" + bytes(16), b"\xc4\x02ab", b"\xc5\x00\x02ab", b"\xc6\x00\x00\x00\x02ab",
        b"\xc7\x02\x05ab", b"\xc8\x00\x02\x05ab", b"\xc9\x00\x00\x00\x02\x05ab", b"\xa2ab", b"\xd9\x02ab",
        b"\xda\x00\x02ab", b"\xdb\x00\x00\x00\x02ab", b"\x92\x01\x02", b"\xdc\x00\x01\x01", b"\xdd\x00\x00\x00\x01\x01",
        b"\x81\x01\x02", b"\xde\x00\x01\x01\x02", b"\xdf\x00\x00\x00\x01\x01\x02",
    ]  # fmt: skip
    members = b"".join(b"\xa1k" + other + b"\x07\x07" for other in others)
    payload = struct.pack(">BH", 0xDE, 2 * len(others) + 2) + b"\xa1d" + deep + members + b"\xa2id\xa3r-1"
    assert decode(payload, DEEP).id == "r-1"


@pytest.mark.parametrize(
    "payload",
    [
        b'{"v":' + b"[" * 5_000,
        b'{"v":' + b"[" * 5_000 + b'"' + b'\\"' * 100_000,
        b'{"v":' + b"[" * 5_000 + b'"' + b"\\" * 100_001,
        b"\x82\xa1v" + b"\x91" * 5_000,
        b"\x82\xa1v" + b"\x91" * 5_000 + b"\xdd\xff\xff\xff\xff",
        b"\x82\xa1v" + b"\x91" * 5_000 + b"\xdb\xff\xff\xff\xff\xa2id\xa3r-1",
        b"\xdf\xff\xff\xff\xff\xa1v" + b"\x91" * 5_000 + b"\x01",
    ],
)
def test_deep_nesting_without_end_is_unanswerable(payload: bytes) -> None:
    """A deeply nested payload that breaks off before its id is a dead letter, found out in linear time."""
    with pytest.raises(Unanswerable, match=r"^not_json_or_msgpack$"):
        decode(payload, DEEP)


@pytest.mark.parametrize(
    ("value", "type_name", "code"),
    [
        (b"1e400", "int32", Code.INVALID_REQUEST),
        (b"-1e400", "int64", Code.INVALID_REQUEST),
        (b"9" * 5_000, "int32", Code.VALUE_OUT_OF_RANGE),
        (b"-" + b"9" * 5_000, "int64", Code.VALUE_OUT_OF_RANGE),
        (b'"\\ud800"', "str", Code.INVALID_REQUEST),
        (b'"a\\udfffb"', "email", Code.INVALID_REQUEST),
        (b'"\xff"', "str", Code.INVALID_REQUEST),
        (b'"\xed\xa0\x80"', "bytes", Code.INVALID_REQUEST),
    ],
)
def test_value_that_the_decoder_refuses_costs_its_item_alone(value: bytes, type_name: str, code: Code) -> None:
    """A number out of every range or a broken text in JSON is refused for its item; the neighbours are read."""
    good = b'{"type":"str","value":"x"}'
    bad = b'{"type":"%s","value":%s}' % (type_name.encode(), value)
    decoded = decode(b'{"id":"r-1","op":"tokenize","items":[%s,%s]}' % (good, bad), LIMITS)
    assert decoded.request is not None
    assert decoded.op is Op.TOKENIZE
    assert decoded.request.op is Op.TOKENIZE
    assert isinstance(decoded.request.items, list)
    assert RequestItem("str", "x") == decoded.request.items[0]
    item = decoded.request.items[1]
    with pytest.raises(Refused) as caught:
        decode_value(item.type, item.value, Format.JSON, "$.items[1].value")
    assert code is caught.value.code


@pytest.mark.parametrize("member", ["client_id", "zone_id", "reply_to", "type"])
def test_lone_surrogates_are_no_text(member: str) -> None:
    """A text that cannot be written as UTF-8 is refused in every member, not passed on."""
    decoded = decode(json.dumps(ONE | {member: "a\ud800"}).encode(), LIMITS)
    assert refusal(decoded).message.startswith(f"$.{member}: expected text")


@pytest.mark.parametrize(
    "value",
    [
        b"\xa1\xff",  # text that is no UTF-8
        b"\x81\x81\x01\x02\x02",  # a map as the key of a map
        b"\xc7\x0c\xff" + b"\xff" * 12,  # a timestamp out of range
    ],
)
def test_malformed_msgpack_with_a_readable_id_is_answered(value: bytes) -> None:
    """MessagePack that cannot be built as a whole is refused by its path, and its producer gets an answer."""
    decoded = decode(b"\x83\xa2id\xa3r-1\xa2op\xa8tokenize\xa5value" + value, LIMITS)
    assert refusal(decoded).message == "$.value: expected well-formed MessagePack"


def test_member_names_that_are_no_text_are_unknown_members() -> None:
    """MessagePack allows anything as a member's name; what is no text is an unknown member."""
    for name in (1, b"type", None, (1, 2)):
        assert refusal(decode(msgspec.msgpack.encode(ONE | {name: 1}), LIMITS)).message == UNKNOWN


@formats
@pytest.mark.parametrize("value", [CANARY, [CANARY], {CANARY: CANARY}, [[{CANARY: [CANARY] * 3}]]])
@pytest.mark.parametrize("member", [*lenient.EXPECTED, CANARY])
def test_nothing_of_the_payload_is_in_a_message(member: str, value: object, format: Format) -> None:
    """A canary in any member, of the request or of an item, is in no message and in no error that hangs on it."""
    item = {"type": "str", "value": "x"}
    for message in (
        ONE | {member: value},
        ONE | {member: value, "extra": CANARY},
        BASE | {"items": [item | {member: value}]},
    ):
        payload = pack(message, format)
        for limits in (LIMITS, Limits(10, 1)):
            try:
                decoded = decode(payload, limits)
            except Unanswerable as unanswerable:
                seen: list[object] = [*errors_of(unanswerable)]
            else:
                seen = [*errors_of(decoded.refusal), decoded.op, decoded.replay]
            assert CANARY not in repr(seen)


def test_every_member_has_its_expectation_in_words() -> None:
    """No member of a request is without words for what it may be."""
    members = {field.encode_name for message in (Request, RequestItem) for field in msgspec.structs.fields(message)}
    assert members == set(lenient.EXPECTED)


@given(
    st.binary(max_size=200)
    | st.builds(
        bytes.__add__,
        st.sampled_from([b"{", b" {", b'{"id":"a",', b"\x81\xa2id", b"\x82\xa2id\xa1a", b"\xdf", b"\xde"]),
        st.binary(max_size=200),
    )
)
@example(b"\x81\xa2id\xc7\x0c\xff" + b"\x00" * 4 + b"\x7f" + b"\xff" * 7)
def test_arbitrary_bytes_are_answered_or_unanswerable(payload: bytes) -> None:
    """No payload raises anything but that it cannot be answered."""
    try:
        decoded = decode(payload, LIMITS)
    except Unanswerable:
        return
    assert (decoded.request is None) != (decoded.refusal is None)
    assert 1 <= len(decoded.id) <= 128


odd_values: st.SearchStrategy[object] = st.sampled_from(
    [
        None,
        True,
        0,
        1,
        -1,
        2**63 - 1,
        1.0,
        0.5,
        "",
        "x",
        "x" * 16,
        "x" * 17,
        "x" * 600,
        "str",
        "tokenize",
        "1-0",
        [],
        {},
    ]
)
odd_members = st.dictionaries(st.sampled_from([*lenient.EXPECTED, "extra"]), odd_values, max_size=3)
odd_items = st.lists(st.builds(dict[str, Any].__or__, st.just({"type": "str", "value": "x"}), odd_members), max_size=6)


@given(st.sampled_from([BASE, ONE]), odd_members, odd_items | st.none(), st.sampled_from(Format))
def test_both_readings_agree(
    base: dict[str, Any], changes: dict[str, Any], items: list[dict[str, Any]] | None, format: Format
) -> None:
    """The lenient reading takes what the typed decode takes, to the same request, and refuses what it refuses."""
    message = base | changes | ({} if items is None else {"items": items}) | {"id": "r-1"}
    payload = pack(message, format)
    second = lenient.read(payload, format, LIMITS)
    try:
        typed = _DECODE_REQUEST[format](payload)
    except msgspec.ValidationError:
        assert second.refusal is not None or second.broken
    else:
        assert decode(payload, LIMITS).request == second.request
        assert (second.request is None) or typed == second.request


@given(odd_members, st.sampled_from(Format))
def test_plain_request_is_a_request(changes: dict[str, Any], format: Format) -> None:
    """A plain request has the members that any request has; and a request without other members is a plain one."""
    message = ONE | changes | {"id": "r-1"}
    payload = pack(message, format)
    request = decode(payload, LIMITS).request

    found = decode_plain([payload], LIMITS)

    if found is None:
        assert request is None or not message.keys() <= set(PlainRequest.__struct_fields__)
    else:
        its_format, [plain] = found
        assert (its_format, Request(**msgspec.structs.asdict(plain))) == (format, request)


@pytest.mark.parametrize("number", range(len(OF_A_BATCH)))
def test_batch_is_plain_if_all_of_it_is(number: int) -> None:
    """A batch has plain requests only if each payload is one, in the format of the first, and none is too long."""
    plain, other = pack(ONE, Format.JSON), OF_A_BATCH[number]
    for payloads in ([plain, other], [other, plain]):
        assert (decode_plain(payloads, LIMITS) is not None) == (other in (plain, b" " + plain))
    assert decode_plain([plain], Limits(len(plain) - 1, 1)) is None
    assert decode_plain([], LIMITS) is None


GOOD_VALUES: list[tuple[str, Format, object, int | str | bytes]] = [
    *[("int32", f, n, n) for f in Format for n in (0, -1, 2**31 - 1, -(2**31))],
    *[("int64", f, n, n) for f in Format for n in (0, -1, 2**63 - 1, -(2**63))],
    *[("int64", Format.JSON, str(n), n) for n in (0, 7, -7, 2**63 - 1, -(2**63))],
    *[(t, f, v, v) for t in ("str", "email") for f in Format for v in ("x", "\N{GRINNING FACE}", "é@x", "\0")],
    ("bytes", Format.JSON, "AA==", b"\0"),
    ("bytes", Format.JSON, "+/8=", b"\xfb\xff"),
    ("bytes", Format.JSON, "YWJj", b"abc"),
    ("bytes", Format.MSGPACK, b"\xff\0", b"\xff\0"),
]


@pytest.mark.parametrize(("type_name", "format", "value", "expected"), GOOD_VALUES)
def test_every_form_of_a_value_is_read(type_name: str, format: Format, value: object, expected: object) -> None:
    """Every value of a type is read from the forms its format has for it."""
    read = decode_value(type_name, value, format, "$.value")
    assert expected == read
    assert type(expected) is type(read)


@formats
@pytest.mark.parametrize(
    ("type_name", "value"),
    [("int32", -5), ("int64", 2**63 - 1), ("int64", -(2**63)), ("str", "é"), ("bytes", b"\xff\0"), ("email", "a@b.cd")],
)
def test_value_out_round_trip(type_name: str, value: int | str | bytes, format: Format) -> None:
    """A value written into a reply reads back as the same value, and survives the reply's encoding as it is."""
    written = encode_value(type_name, value, format)
    assert value == decode_value(type_name, written, format, "$.value")
    payload = encode_reply(Reply(id="r", request_entry="1-0", status="ok", value=written), format)
    decoder = msgspec.json.decode if format is Format.JSON else msgspec.msgpack.decode
    assert written == decoder(payload, type=Reply).value


def test_value_out_in_json() -> None:
    """In JSON an int64 goes out as decimal text, an int32 as number, bytes as base64."""
    assert encode_value("int64", -9, Format.JSON) == "-9"
    assert encode_value("int32", -9, Format.JSON) == -9
    assert encode_value("bytes", b"\xfb\xff", Format.JSON) == "+/8="
    assert encode_value("int64", -9, Format.MSGPACK) == -9
    assert encode_value("bytes", b"\xfb\xff", Format.MSGPACK) == b"\xfb\xff"


INT32_RANGE = "expected -2147483648 to 2147483647"
INT64_RANGE = "expected -9223372036854775808 to 9223372036854775807"
INT64_TEXT = "expected a whole number, or one as decimal text"
NO_NUMBERS: list[object] = [1.0, math.inf, True, False, None, [1], {"a": 1}, b"1"]
NO_TEXTS: list[object] = [1, 1.5, True, None, ["x"], {}, b"x"]
NO_BINARIES: list[object] = ["AA==", 1, None, []]
NO_BASE64: list[object] = [
    *("AB==", "AAB=", "AA=", "AA", "A", "AA==\n", "A A=", "AA==AA==", "=", "-_8=", "é===", "\ud800"),
    *(1, None, []),
]
BAD_VALUES: list[tuple[str, Format, object, Code, str]] = [
    *[("int32", f, n, Code.VALUE_OUT_OF_RANGE, INT32_RANGE) for f in Format for n in (2**31, -(2**31) - 1, 2**64)],
    *[("int64", f, n, Code.VALUE_OUT_OF_RANGE, INT64_RANGE) for f in Format for n in (2**63, -(2**63) - 1)],
    *[("int64", Format.JSON, str(n), Code.VALUE_OUT_OF_RANGE, INT64_RANGE) for n in (2**63, -(2**63) - 1, 10**99)],
    *[
        ("int64", Format.JSON, text, Code.INVALID_REQUEST, INT64_TEXT)
        for text in (
            "12abc",
            "",
            "-0",
            "+1",
            " 1",
            "1 ",
            "1\n",
            "01",
            "1.0",
            "1e3",
            "0x1",
            "1_0",
            "\N{ARABIC-INDIC DIGIT ONE}",
            "9" * 101,
        )
    ],
    ("int64", Format.MSGPACK, "12", Code.INVALID_REQUEST, "expected a whole number"),
    ("int32", Format.JSON, "12", Code.INVALID_REQUEST, "expected a whole number"),
    *[
        (t, f, v, Code.INVALID_REQUEST, "expected a whole number")
        for t in ("int32", "int64")
        for f in Format
        for v in NO_NUMBERS
    ],
    *[(t, f, v, Code.INVALID_REQUEST, "expected text") for t in ("str", "email") for f in Format for v in NO_TEXTS],
    *[(t, Format.JSON, "a\ud800", Code.INVALID_REQUEST, "expected valid Unicode text") for t in ("str", "email")],
    *[("bytes", Format.JSON, v, Code.INVALID_REQUEST, "expected base64 text") for v in NO_BASE64],
    *[("bytes", Format.MSGPACK, v, Code.INVALID_REQUEST, "expected binary") for v in NO_BINARIES],
    *[("str", f, "", Code.VALUE_OUT_OF_RANGE, "expected at least 1 byte") for f in Format],
    ("bytes", Format.JSON, "", Code.VALUE_OUT_OF_RANGE, "expected at least 1 byte"),
    ("bytes", Format.MSGPACK, b"", Code.VALUE_OUT_OF_RANGE, "expected at least 1 byte"),
    *[("email", f, "", Code.INVALID_EMAIL, "expected an e-mail address") for f in Format],
]


@pytest.mark.parametrize(("type_name", "format", "value", "code", "expected"), BAD_VALUES)
def test_bad_value_is_refused(type_name: str, format: Format, value: object, code: Code, expected: str) -> None:
    """A wrong value is refused with its path and the expected form; it is never cut and never quoted."""
    with pytest.raises(Refused) as caught:
        decode_value(type_name, value, format, "$.items[3].value")
    assert code is caught.value.code
    assert f"$.items[3].value: {expected}" == caught.value.message
    assert [caught.value] == list(errors_of(caught.value))


@formats
@pytest.mark.parametrize("type_name", [CANARY, "", "INT32", "int", "float"])
def test_unknown_type_is_refused_by_its_path(type_name: str, format: Format) -> None:
    """A type that is none of the five is refused by the path of the type, whatever the value."""
    with pytest.raises(Refused) as caught:
        decode_value(type_name, CANARY, format, "$.items[3].value")
    assert Code.UNKNOWN_TYPE is caught.value.code
    assert caught.value.message == "$.items[3].type: expected int32, int64, str, bytes or email"
