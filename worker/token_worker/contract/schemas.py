"""The contract for producers in any language: JSON Schemas of request and reply, and an AsyncAPI document.

All files are generated from the message types. This module adds the rules that types cannot express: which members
belong together, and the form of a value of each type in JSON. The output depends on nothing else, so that a test can
compare it with the files in ``schemas/``.

Besides people, the files have two kinds of readers.

- Validators get every check of the worker that JSON Schema can express. Patterns use only the parts of regular
  expressions that Python, Go and ECMAScript share.
- Type generators get one plain object for each message. Rules that depend on other members are below ``if``, ``then``
  and ``else``, because ``oneOf`` and ``allOf`` would make generators emit empty unions. Most generators ignore these
  rules. The generator of AsyncAPI merges ``then`` and ``else`` into the object, and has no boolean schemas. So no rule
  adds a type to a member, and ``not`` says which elements a list must not have.

Only keywords of draft 7 are used, because AsyncAPI has no later ones.
"""

import json
from pathlib import Path
from typing import Any

import msgspec

from token_worker.contract.codes import MEANINGS, code_list
from token_worker.contract.examples import REPLIES, REQUESTS
from token_worker.contract.messages import Op, Reply, Request, TypeName
from token_worker.contract.page import page
from token_worker.errors import RETRY, Code

VERSION = "1.0.0"
"""Version of the contract. The first number increases with a change that may break a producer or a consumer."""

_Schema = dict[str, Any]

_STREAM_ID = "^[0-9]{1,20}-[0-9]{1,20}$"
_INT64_TEXT = "^(0|-?[1-9][0-9]{0,18})$"
_BASE64 = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{4}|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=|[A-Za-z0-9+/][AQgw]==)$"
_INT32: _Schema = {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1}
_INT64: _Schema = {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}
_TEXT: _Schema = {"type": "string", "minLength": 1}
_BINARY: _Schema = {"type": "string", "contentEncoding": "base64", "pattern": _BASE64}
_VALUES: dict[TypeName, _Schema] = {
    TypeName.INT32: _INT32 | {"description": "A 32-bit whole number, also in MessagePack."},
    TypeName.INT64: {
        "anyOf": [_INT64, {"type": "string", "pattern": _INT64_TEXT}],
        "description": "A 64-bit whole number, as a number or as decimal text. In MessagePack an integer.",
    },
    TypeName.STR: _TEXT | {"description": "Text, not empty."},
    TypeName.BYTES: _BINARY
    | {
        "description": "Bytes, at least one, as base64: padded, without line breaks, unused bits zero. In MessagePack"
        " binary.",
    },
    TypeName.EMAIL: _TEXT | {"pattern": "@", "description": "An e-mail address."},
}
_TRACE_HEADERS: _Schema = {
    "type": "object",
    "description": "Fields of the stream entry beside 'payload'. Others are ignored.",
    "properties": {
        "traceparent": {
            "type": "string",
            "description": "W3C Trace Context. The reply has the one of its request.",
            "examples": ["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"],
        },
        "tracestate": {
            "type": "string",
            "description": "W3C Trace Context. The reply has the one of its request.",
            "examples": ["shop=00f067aa0ba902b7"],
        },
    },
}


def documents() -> dict[str, str]:
    """Return the text of each file of the contract, by file name."""
    asyncapi = _asyncapi()
    return {
        "request.schema.json": _text(_json_schema("Request", "request.schema.json", _plain(REQUESTS))),
        "reply.schema.json": _text(_json_schema("Reply", "reply.schema.json", _plain(REPLIES))),
        "asyncapi.json": _text(asyncapi),
        "codes.json": _text(code_list()),
        "contract.md": page(asyncapi),
    }


def write(folder: Path) -> list[Path]:
    """Write the files, and create the folder if necessary. Return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, text in documents().items():
        path = folder / name
        path.write_text(text, encoding="utf-8")
        paths.append(path)
    return paths


def _text(document: _Schema | list[_Schema]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _plain(messages: dict[str, Any]) -> dict[str, _Schema]:
    return {name: msgspec.to_builtins(message) for name, message in messages.items()}


def _json_schema(name: str, file_name: str, examples: dict[str, _Schema]) -> _Schema:
    components = _components("#/$defs/{name}", name)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": file_name,
        **components.pop(name),
        "examples": list(examples.values()),
        "$defs": components,
    }


def _components(ref_template: str, *roots: str) -> dict[str, _Schema]:
    """Return the schemas of the named messages and of everything that they refer to, by name."""
    types = {"Request": Request, "Reply": Reply}
    _, components = msgspec.json.schema_components([types[root] for root in roots], ref_template=ref_template)
    for schema in components.values():
        # The first paragraph of a docstring is for everyone, the rest for readers of the code.
        paragraph = schema["description"].partition("\n\n")[0]
        schema["description"] = " ".join(paragraph.replace("``", "'").split())
    for name, refine in _REFINEMENTS.items():
        if name in components:
            refine(components[name])
    return components


def _refine_request(schema: _Schema) -> None:
    properties = schema["properties"]
    _plain_null(properties, may_be_null=True)
    properties["items"]["minItems"] = 1
    properties["replay_of"]["pattern"] = _STREAM_ID
    items = _list(items=_when(_is("as", "bytes"), _having(value=_BINARY), {}))
    its_format = _with("format") | _having(format={"not": {"const": None}})
    several = {"not": {"anyOf": [_with("type"), _with("value"), _is("as", "bytes"), its_format]}}
    several |= _when(_is("op", "tokenize"), _having(items=items), {})
    as_bytes = _when(_is("op", "tokenize"), _having(value=_BINARY), _having(value=_TEXT))
    schema |= _when(_with("items"), several, _with("type", "value") | _valued(properties, as_bytes))


def _refine_request_item(schema: _Schema) -> None:
    _plain_null(schema["properties"], may_be_null=True)
    schema |= _valued(schema["properties"], _having(value=_TEXT))


def _valued(properties: _Schema, as_bytes: _Schema) -> _Schema:
    """Describe the form of a value by its type. The properties themselves get the parts that all types share.

    ``as_bytes`` is the form of a ``str`` or ``email`` with ``as``: bytes, or the text of its token.
    """
    properties["as"] = {"description": properties["as"]["description"], "type": ["string", "null"]}
    properties["as"]["enum"] = ["bytes", None]
    properties["type"] = {"description": properties["type"]["description"], "type": "string", "enum": [*TypeName]}
    properties["value"]["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    chain: _Schema = {}
    for type_name, value in reversed(_VALUES.items()):
        chain = _when(_is("type", type_name), _having(value=value), chain)
    never = {"not": _with("as")}
    for type_name, then in (
        (TypeName.BYTES, _having(value=_BINARY)),
        (TypeName.STR, as_bytes),
        (TypeName.EMAIL, as_bytes),
    ):
        never = _when(_is("type", type_name), then, never)
    return _when(_is("as", "bytes"), never, chain)


def _refine_reply(schema: _Schema) -> None:
    properties = schema["properties"]
    _refine_answer(properties)
    properties["items"]["minItems"] = 1
    properties["request_entry"]["pattern"] = _STREAM_ID
    properties["status"] = {"type": "string", **properties["status"]}
    mixed = {"not": {"anyOf": [_list(items=_with("value")), _list(items=_with("error"))]}}
    in_part = _with("items") | _having(items=mixed) | _without("value", "error", "format")
    failed = _one_or_items("error", without="value")
    schema |= _when(
        _is("status", "ok"),
        _one_or_items("value", without="error"),
        _when(_is("status", "partial"), in_part, failed),
    )


def _refine_reply_item(schema: _Schema) -> None:
    _refine_answer(schema["properties"])
    schema |= _when(_with("error"), _without("value", "format"), _with("value"))


def _refine_answer(properties: _Schema) -> None:
    _plain_null(properties, may_be_null=False)  # the worker leaves members out instead of writing null
    del properties["error"]["description"]  # with a description beside a reference, generators emit a second type
    properties["format"] |= {"type": "string"}
    properties["value"] = {
        "description": "The token, or the detokenized value, in the form of a request; but an int64 is always decimal"
        " text, because JavaScript rounds the number. In MessagePack an int64 is an integer, bytes are binary.",
        "anyOf": [_INT32, {"type": "string", "minLength": 1}],
    }


def _refine_op(schema: _Schema) -> None:
    schema |= {"type": "string", "enum": [*Op]}


def _refine_code(schema: _Schema) -> None:
    meanings = [f"{code}: {MEANINGS[code]} Send again: {RETRY[code]}." for code in Code]
    schema["description"] = "\n".join([schema["description"], *meanings])
    schema |= {"type": "string", "enum": [*Code]}


def _plain_null(properties: _Schema, *, may_be_null: bool) -> None:
    """Express by its type, and not by a choice of schemas, that an optional member may be null."""
    for schema in properties.values():
        if schema.get("default", False) is None:
            del schema["default"]
            kind, _null = schema.pop("anyOf")
            schema.update(kind)
            if may_be_null and "type" in kind:
                schema["type"] = [kind["type"], "null"]


def _when(condition: _Schema, then: _Schema, otherwise: _Schema) -> _Schema:
    """Make a choice. Only the condition has a type: an object type in a merged part would allow any other member."""
    return {"if": {"type": "object", **condition}, "then": then, **({"else": otherwise} if otherwise else {})}


def _is(member: str, value: str) -> _Schema:
    return _with(member) | _having(**{member: {"const": value}})


def _having(**properties: _Schema) -> _Schema:
    return {"properties": properties}


def _with(*members: str) -> _Schema:
    return {"required": [*members]}


def _without(*members: str) -> _Schema:
    each = [_with(member) for member in members]
    return {"not": {"anyOf": each} if len(each) > 1 else each[0]}


def _one_or_items(member: str, *, without: str) -> _Schema:
    """Require either this member, or items of which none has the other member. Only a value has a format."""
    parts = {"value": ("value", "format"), "error": ("error",)}
    items = {"not": _list(contains=_with(without))}
    several = _having(items=items) | _without(*parts[member])
    return _without(*parts[without]) | _when(_with("items"), several, _with(member))


def _list(**of: _Schema) -> _Schema:
    return {"type": "array", **{keyword: {"type": "object", **schema} for keyword, schema in of.items()}}


_REFINEMENTS = {
    "Request": _refine_request,
    "RequestItem": _refine_request_item,
    "Reply": _refine_reply,
    "ReplyItem": _refine_reply_item,
    "Op": _refine_op,
    "Code": _refine_code,
}


def _asyncapi() -> _Schema:
    channels: _Schema = {}
    operations: _Schema = {}
    for op in Op:
        requests, responses = f"{op}Requests", f"{op}Responses"
        channels[requests] = _channel(f"{op}:requests", "request", f"Requests to {op}; one entry is one request.")
        channels[responses] = _channel(
            f"{op}:responses", "reply", "One reply for each request entry, in no particular order."
        )
        operations[f"receive{op.title()}Request"] = {
            "action": "receive",
            "channel": {"$ref": f"#/channels/{requests}"},
            "summary": f"A worker reads a request to {op}, through a consumer group.",
            "bindings": {"redis": {}},
        }
        operations[f"send{op.title()}Reply"] = {
            "action": "send",
            "channel": {"$ref": f"#/channels/{responses}"},
            "summary": "The worker writes the reply when it acknowledges the request. A request can name another"
            " stream: 'reply_to'.",
            "bindings": {"redis": {}},
        }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Token worker",
            "version": VERSION,
            "description": "Tokenize and detokenize requests over Redis Streams. These are the default routes. An"
            " operator may set up others with the same messages. A message is the field 'payload' of a stream entry"
            " (XADD): JSON, or the same object in MessagePack. A reply has the format of its request.",
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": {
                "request": _message("Request", _plain(REQUESTS)),
                "reply": _message("Reply", _plain(REPLIES)),
            },
            "schemas": _components("#/components/schemas/{name}", "Request", "Reply"),
        },
    }


def _channel(stream: str, message: str, description: str) -> _Schema:
    return {
        "address": stream,
        "description": description,
        "messages": {message: {"$ref": f"#/components/messages/{message}"}},
        "bindings": {"redis": {}},
    }


def _message(name: str, examples: dict[str, _Schema]) -> _Schema:
    return {
        "name": name,
        "contentType": "application/json",
        "headers": _TRACE_HEADERS,
        "payload": {"$ref": f"#/components/schemas/{name}"},
        "bindings": {"redis": {}},
        "examples": [{"name": example, "payload": payload} for example, payload in examples.items()],
    }
