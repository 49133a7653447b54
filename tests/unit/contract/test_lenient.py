"""In a broken request only the broken items fail, and the producer is answered if its id can be read."""

import itertools
import json
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.tolerant import json_ids, msgpack_ids
from token_worker.contract import spans
from token_worker.contract.codec import decode, items_at_most
from token_worker.contract.decoded import Decoded, Limits, Unanswerable
from token_worker.contract.messages import Format, Op, RequestItem
from token_worker.errors import Code

LIMITS = Limits(max_request_bytes=1 << 20, max_items=1000)
GOOD = RequestItem("str", "x", "good")
JSON_GOOD = b'{"type":"str","value":"x","ref":"good"}'
MSGPACK_GOOD = msgspec.msgpack.encode(GOOD)
HEAD = b'"id":"r-1","op":"tokenize"'


def in_json(items: list[bytes], *, id_first: bool = True) -> bytes:
    parts = [HEAD, b'"items":[' + b",".join(items) + b"]"]
    return b"{" + b",".join(parts if id_first else reversed(parts)) + b"}"


def in_msgpack(items: list[bytes], *, id_first: bool = True) -> bytes:
    head = b"\xa2id\xa3r-1\xa2op\xa8tokenize"
    listed = b"\xa5items\xdc" + len(items).to_bytes(2) + b"".join(items)
    return b"\x83" + (head + listed if id_first else listed + head)


def refusal_of(decoded: Decoded) -> str:
    assert decoded.request is None
    assert decoded.refusal is not None
    assert decoded.refusal.code is Code.INVALID_REQUEST
    assert decoded.refusal.__traceback__ is None
    return decoded.refusal.message


MALFORMED = "expected well-formed JSON"
NO_TYPE = "expected text of at most 16 characters"
NO_MEMBER = "unknown member; there are type, value, ref, as, format"
NO_FORMAT = "expected text of 1 to 64 characters"
JSON_ITEMS: list[tuple[bytes, str, str | None]] = [
    (b'{"type":"int64","value":NaN,"ref":"bad"}', f".value: {MALFORMED}", "bad"),
    (b'{"type":"int64","value":Infinity}', f".value: {MALFORMED}", None),
    (b'{"ref":"bad","type":"int64","value":-Infinity}', f".value: {MALFORMED}", "bad"),
    (b'{"type":"str","value":"a\tb","ref":"bad"}', f".value: {MALFORMED}", "bad"),
    (b'{"type":"str","value":"a\r\nb"}', f".value: {MALFORMED}", None),
    (b'{"type":"str","value":"a\x00b"}', f".value: {MALFORMED}", None),
    (b'{"type":"str","value":"\\x41"}', f".value: {MALFORMED}", None),
    (b'{"type":"str","value":\'x\'}', f".value: {MALFORMED}", None),
    (b'{"type":"str","value":undefined}', f".value: {MALFORMED}", None),
    (b'{"type":"int32","value":007}', f".value: {MALFORMED}", None),
    (b'{"type":"int32","value":+1}', f".value: {MALFORMED}", None),
    (b'{"type":"int32","value":[1,NaN]}', f".value: {MALFORMED}", None),
    (b'{"type":"str","value":"say "x" now"}', f": {MALFORMED}", None),
    (b'{"type":"str","value":"x",}', f": {MALFORMED}", None),
    (b'{"type":"str" "value":"x"}', f": {MALFORMED}", None),
    (b'{"type":"str","value"}', f": {MALFORMED}", None),
    (b'{"type":"str","value":}', f": {MALFORMED}", None),
    (b'{"type":"str","value":1 2}', f": {MALFORMED}", None),
    (b"{'type':'str','value':'x'}", f": {MALFORMED}", None),
    (b'{"type":"str","value":"x","value":NaN}', f".value: {MALFORMED}", None),
    (b'{"type":"str","value":NaN,"value":"x"}', f": {MALFORMED}", None),
    (b'{"type":"str","value":"x","more":NaN}', f": {MALFORMED}", None),
    (b'{"type":NaN,"value":"x"}', f".type: {NO_TYPE}", None),
    (b'{"type":"str","value":"x","ref":"a\tb"}', ".ref: expected text of at most 128 characters", None),
    (b'{"type":"str","value":' + b"[" * 30_000 + b"]" * 30_000 + b"}", ".value: nested too deeply", None),
    (b'{"type":"str","value":"x","more":' + b"[" * 30_000 + b"]" * 30_000 + b"}", ": nested too deeply", None),
    # Well-formed, and no item
    (b"{}", f".type: {NO_TYPE}", None),
    (b'{"value":"x","ref":"bad"}', f".type: {NO_TYPE}", "bad"),
    (b'{"type":5,"value":"x"}', f".type: {NO_TYPE}", None),
    (b'{"type":"xxxxxxxxxxxxxxxxx","value":"x"}', f".type: {NO_TYPE}", None),
    (b'{"type":"str","ref":"bad"}', ".value: expected a value", "bad"),
    (b'{"type":"str","value":"x","ref":5}', ".ref: expected text of at most 128 characters", None),
    (b'{"type":"str","value":"x","ref":"' + b"x" * 129 + b'"}', ".ref: expected text of at most 128 characters", None),
    (b'{"type":"str","value":"x","ref":"\\ud800"}', ".ref: expected text of at most 128 characters", None),
    (b'{"type":"str","value":"x","as":"hex"}', ".as: expected bytes", None),
    (b'{"type":"str","value":"x","format":5,"ref":"bad"}', f".format: {NO_FORMAT}", "bad"),
    (b'{"type":"str","value":"x","format":""}', f".format: {NO_FORMAT}", None),
    (b'{"type":"str","value":"x","format":"' + b"x" * 65 + b'"}', f".format: {NO_FORMAT}", None),
    (b'{"type":"str","value":"x","format":"\\ud800"}', f".format: {NO_FORMAT}", None),
    (b'{"type":"str","value":"x","ref":"bad","more":1}', f": {NO_MEMBER}", "bad"),
    (b'{"type":"str","value":"x","\xff":1}', f": {NO_MEMBER}", None),
]
NOT_PACKED = "expected well-formed MessagePack"
MSGPACK_ITEMS: list[tuple[bytes, str, str | None]] = [
    (b"\x82\xa4type\xa3str\xa5value\xa1\xff", f".value: {NOT_PACKED}", None),
    (b"\x83\xa3ref\xa3bad\xa4type\xa3str\xa5value\xd9\x01\xff", f".value: {NOT_PACKED}", "bad"),
    (b"\x82\xa4type\xa3str\xa5value\xc1", f".value: {NOT_PACKED}", None),
    (b"\x82\xa4type\xa3str\xa5value\xc7\x0c\xff" + b"\xff" * 12, f".value: {NOT_PACKED}", None),
    (b"\x82\xa4type\xa3str\xa5value\x81\x81\x01\x02\x02", f".value: {NOT_PACKED}", None),
    (b"\x82\xa4type\xa3str\xa5value" + b"\x91" * 30_000 + b"\xc0", ".value: nested too deeply", None),
    (b"\x82\xa4type\xa3\xff\xff\xff\xa5value\xa1x", f".type: {NO_TYPE}", None),
    (b"\x83\xa4type\xa3str\xa5value\xa1x\x05\x01", f": {NO_MEMBER}", None),
    (b"\x83\xa4type\xa3str\xa5value\xa1x\xa1\xff\x01", f": {NO_MEMBER}", None),
    (b"\x83\xa4type\xa3str\xa5value\xa1x\xa6format\xa0", f".format: {NO_FORMAT}", None),
    (b"\x80", f".type: {NO_TYPE}", None),
    (b"\x81\xa4type\xa3str", ".value: expected a value", None),
]
ITEMS = [(Format.JSON, *row) for row in JSON_ITEMS] + [(Format.MSGPACK, *row) for row in MSGPACK_ITEMS]


@pytest.mark.parametrize("id_first", [True, False])
@pytest.mark.parametrize(("form", "item", "problem", "ref"), ITEMS)
def test_what_is_wrong_inside_an_item_costs_that_item(
    form: Format, item: bytes, problem: str, ref: str | None, id_first: bool
) -> None:
    """A broken item is refused by its path, and keeps its ref; its neighbours are read, and the id wherever it is."""
    good, join = (JSON_GOOD, in_json) if form is Format.JSON else (MSGPACK_GOOD, in_msgpack)
    decoded = decode(join([good, item, good, item, good], id_first=id_first), LIMITS)
    assert (decoded.id, decoded.op, decoded.refusal) == ("r-1", Op.TOKENIZE, None)
    assert decoded.request is not None
    bad = RequestItem("", None, ref)
    assert decoded.request.items == [GOOD, bad, GOOD, bad, GOOD]
    assert decoded.broken is not None
    messages = {index: refused.message for index, refused in decoded.broken.items()}
    assert messages == {index: f"$.items[{index}]{problem}" for index in (1, 3)}
    assert all((error.__traceback__, error.__context__) == (None, None) for error in decoded.broken.values())


def test_batch_of_a_thousand_with_one_nan() -> None:
    """A thousand items as Python's ``json`` writes them, one of them NaN: 999 are read."""
    items = [{"type": "int64", "value": number} for number in range(1000)]
    items[500]["value"] = float("nan")
    decoded = decode(json.dumps({"id": "r-1", "op": "tokenize", "items": items}).encode(), LIMITS)
    assert decoded.request is not None
    assert isinstance(decoded.request.items, list)
    assert [item.value for item in decoded.request.items] == [None if n == 500 else n for n in range(1000)]
    assert list(decoded.broken or ()) == [500]


OUTSIDE: list[tuple[bytes, str]] = [
    (b'{"id":"r-1","value":NaN}', "$.op: expected tokenize or detokenize"),
    (b'{"id":"r-1","op":"tokenize","type":"str","value":Infinity}', f"$.value: {MALFORMED}"),
    (b'{"id":"r-1","op":"tokenize","type":"str","value":"a\tb"}', f"$.value: {MALFORMED}"),
    (b'{"id":"r-1","op":NaN,"type":"str","value":"x"}', "$.op: expected tokenize or detokenize"),
    (b'{"id":"r-1","op":"tokenize","client_id":"a\tb"}', "$.client_id: expected text of at most 256 characters"),
    (b'{"id":"r-1","op":"tokenize","expires_at":NaN}', "$.expires_at: expected a whole number, 0 or more"),
    (b'{"id":"r-1","op":"tokenize","type":"str","value":"x","format":""}', f"$.format: {NO_FORMAT}"),
    (
        b'{"id":"r-1","op":"tokenize","format":"pan","items":[' + JSON_GOOD + b"]}",
        "$.format: expected only with a value; each item has its own format",
    ),
    (b'{"id":"r-1","op":"tokenize","items":NaN}', "$.items: expected a list"),
    (b'{"id":"r-1","op":"tokenize","items":[' + JSON_GOOD + b",]}", f"$.items: {MALFORMED}"),
    (b'{"id":"r-1","op":"tokenize","items":[' + JSON_GOOD + b" " + JSON_GOOD + b"]}", f"$.items: {MALFORMED}"),
    (b'{"id":"r-1","op":"tokenize","items":[' + JSON_GOOD + b",," + JSON_GOOD + b"]}", f"$.items: {MALFORMED}"),
    (b'{"id":"r-1","op":"tokenize","items":[' + JSON_GOOD + b",NaN]}", "$.items[1]: expected an object"),
    (b'{"id":"r-1","op":"tokenize","more":NaN}', f"payload: {MALFORMED}"),
    (b'{"id":"r-1","op":"tokenize","value":NaN,"value":"x"}', f"payload: {MALFORMED}"),
    (b'{"op":"tokenize","value":[1},"id":"r-1"}', f"payload: {MALFORMED}"),
    (b'{"op":"tokenize","items":[{"value":[1}],"id":"r-1"}', f"payload: {MALFORMED}"),
    (b'{"op":"tokenize","items":[{"value":"x"],"id":"r-1"}', f"payload: {MALFORMED}"),
    (b'{"op":"tokenize","items":[{"value":"x"}},{}],"id":"r-1"}', f"payload: {MALFORMED}"),
    (b'{"op":"tokenize","value":"say "x" now","id":"r-1"}', f"payload: {MALFORMED}"),
    (b'{"op":"tokenize" "id":"r-1"}', f"payload: {MALFORMED}"),
    (b'{"id":"r-1",}', f"payload: {MALFORMED}"),
    (b'{,"id":"r-1"}', f"payload: {MALFORMED}"),
    (b'{"id":"r-1"', f"payload: {MALFORMED}"),
    (b'{"id":"r-1","value":"cut', f"payload: {MALFORMED}"),
    (b'{"id":"r-1","value":"cut\\', f"payload: {MALFORMED}"),
    (b'{"id":"r-1"} trailing', f"payload: {MALFORMED}"),
    (b'{"id":"r-1"}{"id":"r-2"}', f"payload: {MALFORMED}"),
    (b'{"id":"r-1"}\0', f"payload: {MALFORMED}"),
    (b'{"id":"r-1"}\x0c', f"payload: {MALFORMED}"),
    (b'{"id":"r-1",\x0b"op":"tokenize"}', f"payload: {MALFORMED}"),
    (b'{"id":"r-1","value":"say "id":"x"}', f"payload: {MALFORMED}"),
    (b'\xef\xbb\xbf{"id":"r-1"', f"payload: {MALFORMED}"),
    ('{"id":"r-1","op":"tokenize","type":"str","value":"x"}'.encode("utf-16"), "payload: expected UTF-8"),
    (b"\xfe\xff" + '{"id":"r-1","op":"x"'.encode("utf-16-be"), "payload: expected UTF-8"),
    (b"\x82\xa2id\xa3r-1", f"payload: {NOT_PACKED}"),
    (b"\x81\xa2id\xa3r-1trailing", f"payload: {NOT_PACKED}"),
    (b"\xdf\xff\xff\xff\xff\xa2id\xa3r-1", f"payload: {NOT_PACKED}"),
    (b"\x82\xa2id\xa3r-1\xa1k\xc1", f"payload: {NOT_PACKED}"),
    (b"\x82\xa2id\xa3r-1\xa2op\xa1\xff", "$.op: expected tokenize or detokenize"),
    (b"\x83\xa2id\xa3r-1\xa2op\xa8tokenize\xa5items\xdd\xff\xff\xff\xff", f"payload: {NOT_PACKED}"),
    (b"\x83\xa2id\xa3r-1\xa2op\xa8tokenize\xa5items\xa1x", "$.items: expected a list"),
    (b"\x83\xa2id\xa3r-1\xa2op\xa8tokenize\xa5items\x92\x80\x05", "$.items[1]: expected an object"),
]


@pytest.mark.parametrize(("payload", "problem"), OUTSIDE)
def test_what_is_wrong_outside_the_id_is_answered_to_it(payload: bytes, problem: str) -> None:
    """A request that is broken anywhere but in its id is refused as a whole, and its producer is told where."""
    decoded = decode(payload, LIMITS)
    assert decoded.id == "r-1"
    assert refusal_of(decoded) == problem


def test_id_before_the_fault_counts() -> None:
    """In a malformed payload an id before the fault is sure; one behind may be of something else."""
    assert decode(b'{"id":"r-1","value":"a" "id":"r-2"}', LIMITS).id == "r-1"
    assert decode(b'{"id":"r-0","id":"r-1","value":["id":5}', LIMITS).id == "r-1"
    with pytest.raises(Unanswerable, match=r"^not_json_or_msgpack$"):
        decode(b'{"value":"a" "id":"r-1","id":"r-2"}', LIMITS)


@pytest.mark.parametrize("request_", [b'"type":"str","value":"x"', b'"items":[' + JSON_GOOD + b"]"])
def test_byte_order_mark_is_skipped(request_: bytes) -> None:
    """JSON behind a byte order mark is read as if there was none."""
    plain = b"{" + HEAD + b"," + request_ + b"}"
    marked = b"\xef\xbb\xbf" + plain
    assert decode(marked, LIMITS) == decode(plain, LIMITS)
    assert decode(marked, Limits(len(plain), 5)).refusal is None


def test_too_long_and_broken_is_answered() -> None:
    """A payload over the limit is answered as too long, also if it is malformed."""
    for payload in (
        b'{"id":"r-1","value":NaN}',
        b'{"value":NaN,"id":"r-1"}',
        b'{"id":"r-1","value":"cut',
        b"\x82\xa2id\xa3r-1\xa5value\xa1\xff",
        b"\xef\xbb\xbf" + b'{"id":"r-1"     }',
    ):
        assert refusal_of(decode(payload, Limits(10, 5))) == "payload: longer than 10 bytes"


# Bounds of the work


MIB = 1 << 20
EXPENSIVE = {
    "escapes": b'{"id":"r-1","value":"' + b'\\"' * (MIB // 2) + b'"',
    "open lists": b'{"id":"r-1","value":' + b"[" * MIB,
    "other kind": b'{"id":"r-1","value":' + b"{" * (MIB // 2) + b"]" * (MIB // 2),
    "crossed": b'{"id":"r-1","value":' + b"{[" * (MIB // 4) + b"}]" * (MIB // 4),
    "no text ends": b'{"id":"r-1","value":' + b'{"' * (MIB // 2 - 1) + b'{"\\',
    "many members": b'{"id":"r-1"' + b',"a":1' * (MIB // 6) + b',"b":NaN}',
    "commas": b'{"id":"r-1"' + b"," * MIB,
    "empty lists": b'{"id":"r-1","items":[' + b"[]," * (MIB // 3) + b"NaN]}",
    "empty items": b'{"id":"r-1","op":"tokenize","items":[' + b"{}," * (MIB // 3) + b"{}]}",
    "texts": b'{"id":"r-1","op":"tokenize","items":[' + b'"a",' * (MIB // 4) + b"NaN]}",
    "maps in maps": b"\x82\xa2id\xa3r-1\xa5value" + b"\x81\xc0" * (MIB // 2),
    "lists in lists": b"\x82\xa2id\xa3r-1\xa5value" + b"\x91" * MIB,
    "packed nils": b"\x82\xa2id\xa3r-1\xa5items\xdd" + (MIB - 1).to_bytes(4) + b"\xc0" * MIB,
}


@pytest.mark.parametrize("name", EXPENSIVE)
def test_expensive_payloads_are_answered_in_linear_time(name: str) -> None:
    """A mebibyte of anything is answered: were the time quadratic, the time-out of a test would not do."""
    assert refusal_of(decode(EXPENSIVE[name], Limits(2 * MIB, 1000)))


def test_steps_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A walk over a payload stops at the bound of tokens: the rest counts as cut off."""
    monkeypatch.setattr(spans, "STEPS_MAX", 1000)
    for count, op in ((300, Op.TOKENIZE), (600, None)):
        payload = b'{"id":"r-1","value":[' + b"[],a" * count + b'],"op":"tokenize"}'
        assert (decode(payload, LIMITS).id, decode(payload, LIMITS).op) == ("r-1", op)
        payload = (
            b"\x83\xa2id\xa3r-1\xa5value\xdc" + (2 * count).to_bytes(2) + b"\xc1" * 2 * count + b"\xa2op\xa8tokenize"
        )
        assert (decode(payload, LIMITS).id, decode(payload, LIMITS).op) == ("r-1", op)


# The same as a reader of its own makes of them


def answered_to(payload: bytes) -> str | None:
    try:
        return decode(payload, LIMITS).id
    except Unanswerable:
        return None


members = st.sampled_from(
    [b'"id":"r-1"', b'"op":"tokenize"', b'"type":"str"', b'"value":"x"', b'"items":[' + JSON_GOOD + b"]", b'"id":5']
)
damage = st.sampled_from(
    [
        b"",
        b"NaN",
        b",",
        b":",
        b'"',
        b"[",
        b"]",
        b"{",
        b"}",
        b"\\",
        b"\t",
        b"\xff",
        b'"id"',
        b'"a":',
        b" ",
        b"\x00",
        b"1",
    ]
)


@given(
    st.lists(members, min_size=1, max_size=5),
    st.lists(st.tuples(st.floats(0, 1), damage, st.integers(0, 3)), max_size=4),
)
@settings(max_examples=300, deadline=None)
def test_one_readable_id_is_answered(parts: list[bytes], changes: list[tuple[float, bytes, int]]) -> None:
    """If another reader finds a single id at the top of damaged JSON, the producer is answered."""
    payload = b"{" + b",".join(parts) + b"}"
    for where, new, cut in changes:
        at = 1 + int(where * (len(payload) - 1))
        payload = payload[:at] + new + payload[at + cut :]
    found = json_ids(payload)
    if len(found) == 1 and found[0]:
        assert answered_to(payload) == found[0]


@given(
    st.permutations([b"\xa2id\xa3r-1", b"\xa2op\xa8tokenize", b"\xa5items\x91" + MSGPACK_GOOD]),
    st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=2), st.integers(0, 3)), max_size=3),
)
@settings(max_examples=300, deadline=None)
def test_one_readable_id_is_answered_in_msgpack(parts: list[bytes], changes: list[tuple[float, bytes, int]]) -> None:
    """If another reader finds a single id at the top of damaged MessagePack, the producer is answered."""
    payload = b"\x83" + b"".join(parts)
    for where, new, cut in changes:
        at = 1 + int(where * (len(payload) - 1))
        payload = payload[:at] + new + payload[at + cut :]
    found = msgpack_ids(payload)
    if len(found) == 1 and found[0]:
        assert answered_to(payload) == found[0]


@settings(deadline=None)
@given(st.binary(max_size=300), st.sampled_from([b"{", b'{"id":"r-1",', b"\x83\xa2id\xa3r-1", b"\xef\xbb\xbf{"]))
def test_nothing_malformed_is_taken(tail: bytes, start: bytes) -> None:
    """A payload that the second reading takes for a request is one by Python's own ``json``, but for its items."""
    try:
        decoded = decode(start + tail, LIMITS)
    except Unanswerable:
        return
    if decoded.request is not None and not decoded.broken and decoded.format is Format.JSON:
        json.loads((start + tail).decode("utf-8-sig", "surrogateescape"))


# How many items a payload may have


def with_items(count: int, form: Format, **more: Any) -> bytes:
    message = {"id": "r-1", "op": "tokenize", **more, "items": [{"type": "str", "value": "x"}] * count}
    return msgspec.json.encode(message) if form is Format.JSON else msgspec.msgpack.encode(message)


@pytest.mark.parametrize("form", Format)
@pytest.mark.parametrize("count", [1, 15, 16, 1000, 70_000])
def test_items_are_counted_without_decoding(form: Format, count: int) -> None:
    """The bound of a request's items is exact where its texts have no braces, or do not say ``items``."""
    assert items_at_most(with_items(count, form)) == count
    assert items_at_most(with_items(count, form, reply_to="items\x92{")) >= count


def test_bound_of_items_holds_for_any_spelling() -> None:
    """For any spelling of the names in a request, the bound of its items is not below their number."""
    escaped = with_items(1000, Format.JSON).replace(b'"value"', b'"\\u0076alue"').replace(b'"items"', b'"i\\u0074ems"')
    decoded = decode(escaped, LIMITS)
    assert decoded.request is not None
    assert items_at_most(escaped) == 1000
    listed = msgspec.msgpack.encode([{"type": "str", "value": "x"}] * 20)
    for name in (b"\xa5items", b"\xd9\x05items", b"\xda\x00\x05items", b"\xdb\x00\x00\x00\x05items", b"\xc4\x05items"):
        for head in (listed[:3], b"\xdd\x00\x00\x00\x14"):
            assert items_at_most(b"\x81" + name + head + listed[3:]) == 20
    assert items_at_most(b"\x81\xa5items") == 1
    assert [items_at_most(payload) for payload in (b"", b"{", b" [", b"\xef\xbb\xbf{", b"\x80")] == [1] * 5


def test_bound_of_items_holds_for_broken_items() -> None:
    """Items that are none count, too: each is answered with an error."""
    rng = random.Random(1)
    for form, rows in itertools.groupby(ITEMS, key=lambda row: row[0]):
        kinds = [item for _, item, *_ in rows]
        for _ in range(5):
            items = rng.choices(kinds, k=rng.randrange(1, 60))
            payload = (in_json if form is Format.JSON else in_msgpack)(items)
            assert decode(payload, LIMITS).request is not None
            assert items_at_most(payload) >= len(items)
