"""The published schemas: in step with the code, true of their own examples and of what the worker does."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator

from token_worker.contract.codec import decode, encode_reply
from token_worker.contract.decoded import Limits
from token_worker.contract.examples import REPLIES, REQUESTS
from token_worker.contract.messages import Format, Op, Reply, ReplyError, ReplyItem, TypeName
from token_worker.contract.schemas import documents, write
from token_worker.contract.values import decode_value, encode_value
from token_worker.errors import RETRY, Code, Refused

CHECKED_IN = Path(__file__).parents[3] / "schemas"
DOCUMENTS: dict[str, Any] = {name: json.loads(text) for name, text in documents().items() if name.endswith(".json")}
PAGE = documents()["contract.md"]
REQUEST = Draft202012Validator(DOCUMENTS["request.schema.json"])
REPLY = Draft202012Validator(DOCUMENTS["reply.schema.json"])
ASYNCAPI = DOCUMENTS["asyncapi.json"]
LIMITS = Limits(max_request_bytes=10_000, max_items=5)
BASE = {"id": "r-1", "op": "tokenize"}
ONE = BASE | {"type": "str", "value": "x"}


def is_taken(message: dict[str, Any]) -> bool:
    """Tell whether the worker takes a JSON request with its values, as far as the contract goes."""
    decoded = decode(json.dumps(message).encode(), LIMITS)
    request = decoded.request
    if request is None or decoded.broken:
        return False
    given = request.items if isinstance(request.items, list) else [request]
    try:
        for item in given:
            decode_value(str(item.type), item.value, Format.JSON, "$.value", None if item.as_ is None else request.op)
    except Refused:
        return False
    return True


def schemas_within(schema: object) -> Iterator[dict[str, Any]]:
    """Every object in a document that has examples."""
    if isinstance(schema, dict):
        if "examples" in schema:
            yield schema
        for inner in schema.values():
            yield from schemas_within(inner)
    elif isinstance(schema, list):
        for inner in schema:
            yield from schemas_within(inner)


def test_checked_in_files_are_in_step() -> None:
    """The files in ``schemas/`` are what the message types generate; ``token-worker schemas`` writes them anew."""
    files = [path for path in CHECKED_IN.iterdir() if path.is_file()]
    assert documents() == {path.name: path.read_text(encoding="utf-8") for path in files}


def test_every_document_is_written_into_the_folder(tmp_path: Path) -> None:
    """Every document is written into the folder, which is made where there is none, and again over the last."""
    folder = tmp_path / "new" / "schemas"
    for _ in range(2):
        assert [folder / name for name in documents()] == write(folder)
    assert documents() == {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["request.schema.json", "reply.schema.json"])
def test_json_schemas_are_valid_and_stand_alone(name: str) -> None:
    """Each JSON Schema keeps to 2020-12 and refers to nothing outside itself."""
    schema = DOCUMENTS[name]
    Draft202012Validator.check_schema(schema)
    assert (name, "https://json-schema.org/draft/2020-12/schema") == (schema["$id"], schema["$schema"])
    references = re.findall(r'"\$ref": "([^"]+)"', json.dumps(schema))
    assert references
    assert {f"#/$defs/{part}" for part in schema["$defs"]} == set(references)


@pytest.mark.parametrize("name", ["request.schema.json", "reply.schema.json"])
def test_examples_of_the_json_schemas_are_valid(name: str) -> None:
    """Every example anywhere in a JSON Schema is valid by the schema it stands in."""
    document = DOCUMENTS[name]
    found = list(schemas_within(document))
    assert found
    for schema in found:
        for example in schema["examples"]:
            Draft202012Validator({**document, **schema}).validate(example)


def test_examples_of_the_asyncapi_document_are_valid() -> None:
    """Every example message validates as the payload that its message announces, and every header as its header."""
    examples = 0
    for name, message in ASYNCAPI["components"]["messages"].items():
        Draft202012Validator.check_schema(message["headers"])
        for header in message["headers"]["properties"].values():
            for example in header["examples"]:
                Draft202012Validator(header).validate(example)
        payload = Draft202012Validator({**ASYNCAPI, **message["payload"]})
        for example in message["examples"]:
            payload.validate(example["payload"])
            examples += 1
        assert name == message["name"].lower()
    assert len(REQUESTS) + len(REPLIES) == examples


def test_examples_are_taken_by_the_worker() -> None:
    """Every example request is one that the worker takes; every example reply has a reply's members."""
    for example in DOCUMENTS["request.schema.json"]["examples"]:
        assert is_taken(example)
    for example in DOCUMENTS["reply.schema.json"]["examples"]:
        msgspec.convert(example, Reply)


def test_routes_of_the_asyncapi_document() -> None:
    """The document has the streams of the two default routes, read from and written to by the worker."""
    streams = {}
    for operation in ASYNCAPI["operations"].values():
        channel = ASYNCAPI["channels"][operation["channel"]["$ref"].removeprefix("#/channels/")]
        for message in channel["messages"].values():
            streams[channel["address"]] = (operation["action"], message["$ref"])
    request, reply = (f"#/components/messages/{name}" for name in ("request", "reply"))
    assert {
        "tokenize:requests": ("receive", request),
        "tokenize:responses": ("send", reply),
        "detokenize:requests": ("receive", request),
        "detokenize:responses": ("send", reply),
    } == streams
    assert {"traceparent", "tracestate"} == set(ASYNCAPI["components"]["messages"]["request"]["headers"]["properties"])


def test_codes_and_their_advice() -> None:
    """Schema, list and page have the closed list of codes, each with what it means and whether to send again."""
    schema = DOCUMENTS["reply.schema.json"]["$defs"]["Code"]
    codes = DOCUMENTS["codes.json"]
    assert list(Code) == schema["enum"]
    assert [(code.value, RETRY[code].value) for code in Code] == [(entry["code"], entry["retry"]) for entry in codes]
    lines = schema["description"].splitlines()[1:]
    assert [f"{entry['code']}: {entry['meaning']} Send again: {entry['retry']}." for entry in codes] == lines
    assert all(f"| `{entry['code']}` | {entry['meaning']} | {entry['retry']} |" in PAGE for entry in codes)


@pytest.mark.parametrize("name", ["Request", "RequestItem", "Reply", "ReplyItem", "ReplyError"])
def test_messages_are_plain_objects(name: str) -> None:
    """A message is an object with members: combined schemas outermost, or null by a choice, mislead generators."""
    schema = ASYNCAPI["components"]["schemas"][name]
    assert schema["type"] == "object"
    assert not {"oneOf", "anyOf", "allOf"} & schema.keys()
    for member in schema["properties"].values():
        assert "null" not in [choice.get("type") for choice in member.get("anyOf", ())]


def test_replies_have_no_null() -> None:
    """A reply leaves out what it does not have, and its schema knows no null, which types would have to cater for."""
    assert '"null"' not in documents()["reply.schema.json"]
    reply = Reply(id="r", request_entry="1-0", status="ok", items=[ReplyItem(value="x")])
    assert b"null" not in encode_reply(reply, Format.JSON)


def rows(heading: str) -> list[list[str]]:
    """The rows of the first table below a heading of the page."""
    [section] = re.findall(rf"^#+ {heading}\n(.*?)(?=^#|\Z)", PAGE, re.DOTALL | re.MULTILINE)
    return [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `")]


@pytest.mark.parametrize(
    ("heading", "name"),
    [
        ("Request", "Request"),
        ("An item of a request", "RequestItem"),
        ("Reply", "Reply"),
        ("An item of a reply", "ReplyItem"),
        ("An error", "ReplyError"),
    ],
)
def test_page_has_every_member(heading: str, name: str) -> None:
    """The page has every member of every message in a row that says whether it is needed and what it is for."""
    schema = ASYNCAPI["components"]["schemas"][name]
    table = rows(heading)
    assert list(schema["properties"]) == [member.strip("`") for member, *_ in table]
    assert schema["required"] == [member.strip("`") for member, _, needed, _ in table if needed == "yes"]
    assert all(meaning for *_, meaning in table)


def test_page_has_every_bound() -> None:
    """The page's text about a member has the bounds of the schema, and says where null is allowed."""
    said = {member.strip("`"): kind for member, kind, *_ in rows("Request")}
    for name, schema in ASYNCAPI["components"]["schemas"]["Request"]["properties"].items():
        bounds = [schema[bound] for bound in ("minLength", "maxLength", "minimum", "minItems") if bound in schema]
        assert [str(bound) for bound in bounds] == re.findall(r"\b\d+\b(?!-)", said[name].partition("`")[0]), name
        assert ("null" in schema.get("type", "")) is said[name].endswith(", or null"), name


def test_page_has_streams_fields_and_values() -> None:
    """The page has the streams of the default routes, the fields of an entry, and the forms of every type."""
    assert [channel["address"] for channel in ASYNCAPI["channels"].values()] == [
        row[0].strip("`") for row in rows("Streams")
    ]
    writers = [row[1] for row in rows("Streams")]
    assert writers == ["producers", "workers"] * 2
    assert [row[0].strip("`") for row in rows("Fields of an entry")] == ["payload", "traceparent", "tracestate"]
    assert [*TypeName] == [row[0].strip("`") for row in rows("Values")]


def test_page_has_every_example() -> None:
    """The examples of the page are those of the schemas, whatever their lines look like."""
    shown = [json.loads(text) for text in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)]
    assert DOCUMENTS["request.schema.json"]["examples"] + DOCUMENTS["reply.schema.json"]["examples"] == shown


def test_members_have_descriptions() -> None:
    """Every member of a message says what it is for."""
    schemas = ASYNCAPI["components"]["schemas"]
    for name in ("Request", "RequestItem", "Reply", "ReplyItem", "ReplyError"):
        for member, schema in schemas[name]["properties"].items():
            assert schema.get("description") or "$ref" in schema, (name, member)


ITEM = {"type": "str", "value": "x"}
BAD_REQUESTS: list[dict[str, Any]] = [
    BASE,
    {},
    {"op": "tokenize", "type": "str", "value": "x"},
    ONE | {"id": ""},
    ONE | {"id": "x" * 129},
    ONE | {"id": 1},
    BASE | {"type": "str"},
    BASE | {"value": "x"},
    ONE | {"items": [ITEM]},
    BASE | {"value": "x", "items": [ITEM]},
    BASE | {"type": "str", "items": [ITEM]},
    ONE | {"items": None},
    BASE | {"value": None, "items": [ITEM]},
    BASE | {"type": None, "items": [ITEM]},
    BASE | {"items": []},
    BASE | {"items": {}},
    BASE | {"items": None},
    BASE | {"items": [7]},
    BASE | {"items": [{"value": "x"}]},
    BASE | {"items": [{"type": "str"}]},
    BASE | {"items": [ITEM | {"ref": 1}]},
    BASE | {"items": [ITEM | {"ref": "x" * 129}]},
    BASE | {"items": [ITEM | {"extra": 1}]},
    ONE | {"extra": 1},
    ONE | {"op": "redact"},
    ONE | {"op": None},
    ONE | {"type": 5},
    ONE | {"type": "float"},
    ONE | {"client_id": 1},
    ONE | {"client_id": "x" * 257},
    ONE | {"zone_id": "x" * 257},
    ONE | {"consistent": 1},
    ONE | {"consistent": None},
    ONE | {"reply_to": ""},
    ONE | {"reply_to": "x" * 513},
    ONE | {"expires_at": -1},
    ONE | {"expires_at": "0"},
    ONE | {"expires_at": 1.5},
    ONE | {"replay": 0},
    ONE | {"replay_of": "yesterday"},
    ONE | {"replay_of": "1-" + "0" * 21},
]
NO_NUMBERS: list[Any] = [1.5, True, None, [], {}, "x", 2**63, -(2**63) - 1]
NO_TEXTS: list[Any] = ["", 1, None, True, [], {}]
BAD_VALUES: list[tuple[str, Any]] = [
    *[(t, v) for t in ("int32", "int64") for v in NO_NUMBERS],
    ("int32", 2**31),
    ("int32", -(2**31) - 1),
    ("int32", "5"),
    *[("int64", v) for v in ("12abc", "", "-0", "+1", "01", " 1", "1.0", "9" * 20)],
    *[(t, v) for t in ("str", "email", "bytes") for v in NO_TEXTS],
    *[("bytes", v) for v in ("AB==", "AAB=", "AA=", "AA", "A A=", "AA==AA==", "-_8=")],
]
GOOD_VALUES: list[tuple[str, Any]] = [
    *[("int32", v) for v in (0, 2**31 - 1, -(2**31))],
    *[("int64", v) for v in (0, 2**63 - 1, -(2**63), "0", str(2**63 - 1), str(-(2**63)))],
    *[("bytes", v) for v in ("AA==", "+/8=", "YWJj", "YWJjAA==")],
    ("str", "é"),
    ("email", "a@b.cd"),
]


AS: dict[str, Any] = {"as": "bytes"}
BAD_AS_BYTES: list[dict[str, Any]] = [
    ONE | {"as": "hex"},
    ONE | {"as": 1},
    BASE | AS | {"items": [ITEM]},
    *[BASE | AS | {"type": t, "value": 1} for t in ("int32", "int64")],
    *[BASE | AS | {"type": t, "value": v} for t in ("str", "bytes", "email") for v in ("", "AA=", "a@b.cd", 1, None)],
    *[BASE | AS | {"op": "detokenize", "type": t, "value": v} for t in ("str", "email") for v in ("", 1, None)],
    BASE | AS | {"op": "detokenize", "type": "bytes", "value": "token"},
]
GOOD_AS_BYTES: list[dict[str, Any]] = [
    *[BASE | AS | {"type": t, "value": "AA=="} for t in ("str", "bytes", "email")],
    *[BASE | AS | {"op": "detokenize", "type": t, "value": "token"} for t in ("str", "email")],
    BASE | AS | {"op": "detokenize", "type": "bytes", "value": "AA=="},
    ONE | {"as": None},
]


BAD_FORMATS: list[dict[str, Any]] = [
    *[ONE | {"format": name} for name in ("", "x" * 65, 1, ["pan"])],
    BASE | {"format": "pan", "items": [ITEM]},
    BASE | {"format": "pan", "items": [ITEM | {"format": "pan"}]},
]
GOOD_FORMATS: list[dict[str, Any]] = [
    *[ONE | {"format": name} for name in ("x", "x" * 64, "pan", "no such format")],
    {**ONE, "format": None},
    ONE | {"op": "detokenize", "format": "pan"},
    BASE | {"type": "int32", "value": 1, "format": "pan"},
    BASE | AS | {"type": "str", "value": "AA==", "format": "pan"},
    BASE | {"format": None, "items": [ITEM | {"format": "pan"}]},
]


def both_ways(message: dict[str, Any]) -> list[dict[str, Any]]:
    """A request for one value, and the same as one of a list."""
    if "items" in message:
        return [message]
    item = {name: message[name] for name in ("type", "value", "as", "format") if name in message}
    return [message, {name: message[name] for name in BASE} | {"items": [ITEM | {"value": "AA=="}, item]}]


@pytest.mark.parametrize("message", [form for message in BAD_AS_BYTES for form in both_ways(message)])
def test_bad_value_as_bytes_is_refused_by_worker_and_schema(message: dict[str, Any]) -> None:
    """Worker and schema refuse a wrong use of ``as``, in a single request and in a list."""
    assert not is_taken(message)
    assert not REQUEST.is_valid(message)


@pytest.mark.parametrize("message", [form for message in GOOD_AS_BYTES for form in both_ways(message)])
def test_good_value_as_bytes_is_taken_by_worker_and_schema(message: dict[str, Any]) -> None:
    """A value as bytes to tokenize, and a token whose value is wanted as bytes, are taken by worker and schema."""
    assert is_taken(message)
    REQUEST.validate(message)


@pytest.mark.parametrize("message", [form for message in BAD_FORMATS for form in both_ways(message)])
def test_bad_format_is_refused_by_worker_and_schema(message: dict[str, Any]) -> None:
    """Worker and schema refuse a format that is no name, and one beside ``items``."""
    assert not is_taken(message)
    assert not REQUEST.is_valid(message)


@pytest.mark.parametrize("message", [form for message in GOOD_FORMATS for form in both_ways(message)])
def test_good_format_is_taken_by_worker_and_schema(message: dict[str, Any]) -> None:
    """The contract takes every name of a format, with each operation and type: the route decides what it means."""
    assert is_taken(message)
    REQUEST.validate(message)


def test_format_is_read_for_each_item() -> None:
    """A request has the format of its one value, an item its own; null is the same as none."""
    items: list[dict[str, Any]] = [ITEM | {"format": "pan"}, ITEM, ITEM | {"format": None}]
    for message, expected in ((ONE | {"format": "pan"}, ["pan"]), (BASE | {"items": items}, ["pan", None, None])):
        for encode in (msgspec.json.encode, msgspec.msgpack.encode):
            request = decode(encode(message), LIMITS).request
            assert request is not None
            given = request.items if isinstance(request.items, list) else [request]
            assert expected == [item.format for item in given]


@pytest.mark.parametrize("message", BAD_REQUESTS)
def test_bad_request_is_refused_by_worker_and_schema(message: dict[str, Any]) -> None:
    """A request that the worker refuses as a whole is refused by a producer's validator too."""
    assert not REQUEST.is_valid(message)
    if message.get("id") == "r-1":
        assert not is_taken(message)


@pytest.mark.parametrize(("type_name", "value"), BAD_VALUES)
def test_bad_value_is_refused_by_worker_and_schema(type_name: str, value: object) -> None:
    """A value that is none of its type is refused by a producer's validator too, alone and in a list."""
    for message in (ONE | {"type": type_name, "value": value}, BASE | {"items": [{"type": type_name, "value": value}]}):
        assert not is_taken(message)
        assert not REQUEST.is_valid(message)


@pytest.mark.parametrize(("type_name", "value"), GOOD_VALUES)
def test_good_value_is_taken_by_worker_and_schema(type_name: str, value: object) -> None:
    """The schema refuses nothing that the worker takes."""
    for message in (ONE | {"type": type_name, "value": value}, BASE | {"items": [{"type": type_name, "value": value}]}):
        assert is_taken(message)
        REQUEST.validate(message)


def test_null_members_are_taken_by_worker_and_schema() -> None:
    """Null is the same as left out for those members that the schema says so of, and for no other."""
    nullable = {"as", "format", "client_id", "zone_id", "reply_to", "expires_at", "replay", "replay_of"}
    for name in DOCUMENTS["request.schema.json"]["properties"]:
        message = ONE | {name: None}
        assert (name in nullable) is REQUEST.is_valid(message), name
        if name != "id":
            assert (name in nullable) is is_taken(message), name


@pytest.mark.parametrize(
    ("type_name", "value"),
    [("int32", -5), ("int64", 2**63 - 1), ("str", "é"), ("bytes", b"\xff"), ("email", "a@b.cd")],
)
def test_replies_of_the_worker_are_valid(type_name: str, value: int | str | bytes) -> None:
    """Replies that the worker encodes are valid: with a value, with items of every outcome, with an error."""
    written = encode_value(type_name, value, Format.JSON)
    good, bad = (
        ReplyItem("r", written),
        ReplyItem(error=ReplyError(Code.TOKEN_NOT_FOUND, "$.items[1].value: no such token")),
    )
    other = ReplyItem("r", written, format="other")
    for reply in (
        Reply(id="r", op=Op.TOKENIZE, request_entry="1-0", status="ok", value=written),
        Reply(id="r", op=Op.TOKENIZE, request_entry="1-0", status="ok", value=written, format="other"),
        Reply(id="r", request_entry="1-0", status="ok", items=[good, other]),
        Reply(id="r", request_entry="1-0", status="partial", items=[other, bad]),
        Reply(id="r", request_entry="1-0", status="ok", items=[good, good], replay=2),
        Reply(id="r", request_entry="1-0", status="partial", items=[good, bad]),
        Reply(id="r", request_entry="1-0", status="error", items=[bad, bad]),
    ):
        REPLY.validate(json.loads(encode_reply(reply, Format.JSON)))


@pytest.mark.parametrize("code", list(Code))
def test_error_replies_are_valid(code: Code) -> None:
    """An error of every code validates as a reply."""
    reply = Reply(id="r", request_entry="1-0", status="error", error=ReplyError(code, "$: expected something"))
    REPLY.validate(json.loads(encode_reply(reply, Format.JSON)))


REPLIED = {"id": "r", "request_entry": "1-0"}
ERROR = {"code": "internal", "message": "m"}


@pytest.mark.parametrize(
    "message",
    [
        REPLIED | {"status": "ok"},
        REPLIED | {"status": "fine", "value": "x"},
        REPLIED | {"status": "ok", "value": "x", "items": [{"value": "x"}]},
        REPLIED | {"status": "ok", "value": "x", "error": ERROR},
        REPLIED | {"status": "ok", "value": 2**31},
        REPLIED | {"status": "ok", "items": [{"error": ERROR}]},
        REPLIED | {"status": "ok", "items": []},
        REPLIED | {"status": "partial", "value": "x"},
        REPLIED | {"status": "partial", "items": [{"error": ERROR}]},
        REPLIED | {"status": "partial", "items": [{"value": "x"}]},
        REPLIED | {"status": "partial"},
        REPLIED | {"status": "partial", "error": ERROR},
        REPLIED | {"status": "partial", "items": [{"value": "x"}, {"error": ERROR}], "error": ERROR},
        REPLIED | {"status": "partial", "items": [{"value": "x"}, {"error": ERROR}], "value": "x"},
        REPLIED | {"status": "error"},
        REPLIED | {"status": "error", "items": [{"error": ERROR}], "error": ERROR},
        REPLIED | {"status": "error", "items": [{"error": ERROR}], "value": "x"},
        REPLIED | {"status": "error", "error": ERROR, "value": "x"},
        REPLIED | {"status": "ok", "items": [{"value": "x"}], "error": ERROR},
        REPLIED | {"status": "ok", "items": [{"value": "x"}, {}]},
        REPLIED | {"status": "ok", "value": "x", "format": "pan"},
        REPLIED | {"status": "ok", "value": "x", "format": None},
        REPLIED | {"status": "ok", "items": [{"value": "x"}], "format": "other"},
        REPLIED | {"status": "partial", "items": [{"value": "x"}, {"error": ERROR}], "format": "other"},
        REPLIED | {"status": "partial", "items": [{"value": "x"}, {"error": ERROR, "format": "other"}]},
        REPLIED | {"status": "error", "error": ERROR, "format": "other"},
        REPLIED | {"status": "error", "items": [{"error": ERROR}], "format": "other"},
        REPLIED | {"status": "ok", "value": None},
        REPLIED | {"status": "ok", "value": "x", "op": None},
        REPLIED | {"status": "ok", "value": "x", "extra": 1},
        REPLIED | {"status": "error", "value": "x"},
        REPLIED | {"status": "error", "items": [{"value": "x"}]},
        REPLIED | {"status": "error", "error": {"code": "oops", "message": "m"}},
        REPLIED | {"status": "error", "items": [{"value": "x", "error": ERROR}]},
    ],
)
def test_contradictory_reply_is_refused_by_the_schema(message: dict[str, Any]) -> None:
    """A reply whose status and members contradict each other is no reply."""
    assert not REPLY.is_valid(message)
