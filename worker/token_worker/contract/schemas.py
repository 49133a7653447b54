"""The contract for producers in any language: JSON Schemas of request and reply, an AsyncAPI document of the routes.

All are generated from the message types. Added here is what types cannot say: which members go together, what a value
of each type looks like in JSON, and what each code of an error means. The output depends on nothing else, so that a
test can compare it with the files that are checked in. Patterns keep to what the regular expressions of Python, Go and
ECMAScript have in common.
"""

import json
from pathlib import Path
from typing import Any

import msgspec

from token_worker.contract.examples import REPLIES, REQUESTS
from token_worker.contract.messages import Op, Reply, Request, TypeName
from token_worker.errors import RETRY, Code

VERSION = "1.0.0"
"""Version of the contract: a first number higher is a change that a producer or a consumer may not survive."""

_Schema = dict[str, Any]

_CODES = {
    Code.INVALID_REQUEST: "The request, or an item's value, does not have the form it must have.",
    Code.UNKNOWN_TYPE: "There is no such type.",
    Code.VALUE_OUT_OF_RANGE: "The value is no value of its type: too large or too small a number, or empty.",
    Code.VALUE_TOO_LARGE: "The value is longer than the worker takes.",
    Code.INVALID_EMAIL: "The value is no e-mail address that a token of the same length can be made for.",
    Code.UNKNOWN_CLIENT: "The client has no key.",
    Code.UNKNOWN_ZONE: "The zone has no key.",
    Code.FORBIDDEN: "The route does not allow this operation, client, zone or stream for the reply.",
    Code.TOKEN_NOT_FOUND: "There is no such token of this client and type.",
    Code.TOKEN_DISABLED: "The token exists and has been disabled.",
    Code.TOKEN_SPACE_EXHAUSTED: "No free token was found for the value.",
    Code.KEY_UNREADABLE: "The client's key cannot be opened with the master key.",
    Code.ENTRY_UNREADABLE: "The stored entry is damaged, or sealed with a key that is not there.",
    Code.EXPIRED: "The request was read after its expires_at.",
    Code.INTERNAL: "The worker failed on this request again and again.",
}

_STREAM_ID = "^[0-9]{1,20}-[0-9]{1,20}$"
_INT64_TEXT = "^(0|-?[1-9][0-9]{0,18})$"
_BASE64 = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{4}|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=|[A-Za-z0-9+/][AQgw]==)$"
_INT32: _Schema = {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1}
_INT64: _Schema = {
    "type": ["integer", "string"],
    "minimum": -(2**63),
    "maximum": 2**63 - 1,
    "pattern": _INT64_TEXT,
}
_VALUES: dict[TypeName, _Schema] = {
    TypeName.INT32: _INT32 | {"description": "A whole number of 32 bits, also in MessagePack."},
    TypeName.INT64: _INT64
    | {"description": "A whole number of 64 bits, as number or decimal text. In MessagePack an integer."},
    TypeName.STR: {"type": "string", "minLength": 1, "description": "Text, not empty."},
    TypeName.BYTES: {
        "type": "string",
        "contentEncoding": "base64",
        "pattern": _BASE64,
        "description": "Bytes, at least one, as base64: padded, without line breaks, unused bits zero. In MessagePack"
        " binary.",
    },
    TypeName.EMAIL: {"type": "string", "minLength": 1, "pattern": "@", "description": "An e-mail address."},
}
_TRACE_HEADERS: _Schema = {
    "type": "object",
    "description": "Fields of the stream entry beside 'payload'. Others are ignored.",
    "properties": {
        "traceparent": {
            "type": "string",
            "description": "W3C Trace Context, carried over from the request to its reply.",
            "examples": ["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"],
        },
        "tracestate": {
            "type": "string",
            "description": "W3C Trace Context, carried over from the request to its reply.",
            "examples": ["shop=00f067aa0ba902b7"],
        },
    },
}


def documents() -> dict[str, str]:
    """The text of each schema file by its name."""
    return {
        "request.schema.json": _text(_json_schema("Request", "request.schema.json", _plain(REQUESTS))),
        "reply.schema.json": _text(_json_schema("Reply", "reply.schema.json", _plain(REPLIES))),
        "asyncapi.json": _text(_asyncapi()),
    }


def write(folder: Path) -> list[Path]:
    """Write the schema files, and the folder if there is none; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, text in documents().items():
        path = folder / name
        path.write_text(text, encoding="utf-8")
        paths.append(path)
    return paths


def _text(document: _Schema) -> str:
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
    """Schemas of the named messages and all that they refer to, by name."""
    types = {"Request": Request, "Reply": Reply}
    _, components = msgspec.json.schema_components([types[root] for root in roots], ref_template=ref_template)
    for schema in components.values():
        # The first paragraph of a docstring is for everybody, the rest for readers of the code.
        paragraph = schema["description"].partition("\n\n")[0]
        schema["description"] = " ".join(paragraph.replace("``", "'").split())
    for name, refine in _REFINEMENTS.items():
        if name in components:
            refine(components[name])
    return components


def _refine_request(schema: _Schema) -> None:
    schema["properties"]["items"]["minItems"] = 1
    schema["properties"]["replay_of"]["anyOf"][0]["pattern"] = _STREAM_ID
    _refine_valued(schema)
    schema["oneOf"] = [
        {"required": ["type", "value"], "not": {"required": ["items"]}},
        {"required": ["items"], "not": {"anyOf": [{"required": ["type"]}, {"required": ["value"]}]}},
    ]


def _refine_valued(schema: _Schema) -> None:
    """What a value looks like for each type."""
    schema["properties"]["type"] = {
        "description": schema["properties"]["type"]["description"],
        "enum": [*TypeName],
    }
    schema["allOf"] = [
        {
            "if": {"properties": {"type": {"const": type_name}}, "required": ["type"]},
            "then": {"properties": {"value": value}},
        }
        for type_name, value in _VALUES.items()
    ]


def _refine_reply(schema: _Schema) -> None:
    _refine_answer(schema)
    schema["properties"]["items"]["minItems"] = 1
    schema["properties"]["request_entry"]["pattern"] = _STREAM_ID
    one_of: list[tuple[str, str, _Schema]] = [
        ("ok", "value", {}),
        ("ok", "items", {"items": {"items": {"required": ["value"]}}}),
        ("partial", "items", {"items": {"allOf": [{"contains": {"required": [some]}} for some in ("value", "error")]}}),
        ("error", "items", {"items": {"items": {"required": ["error"]}}}),
        ("error", "error", {}),
    ]
    schema["oneOf"] = [
        {
            "properties": {"status": {"const": status}, **more},
            "required": [member],
            "not": {"anyOf": [{"required": [other]} for other in ("value", "items", "error") if other != member]},
        }
        for status, member, more in one_of
    ]


def _refine_reply_item(schema: _Schema) -> None:
    _refine_answer(schema)
    schema["oneOf"] = [{"required": ["value"]}, {"required": ["error"]}]


def _refine_answer(schema: _Schema) -> None:
    schema["properties"]["value"] = {
        "description": "The token, or the value turned back, in the form it has in a request; but an int64 is always"
        " decimal text, since JavaScript rounds the number. In MessagePack an int64 is an integer, bytes are binary.",
        "anyOf": [_INT32, {"type": "string", "minLength": 1}],
    }


def _refine_code(schema: _Schema) -> None:
    del schema["enum"]
    schema["oneOf"] = [{"const": code, "description": f"{_CODES[code]} Send again: {RETRY[code]}."} for code in Code]


_REFINEMENTS = {
    "Request": _refine_request,
    "RequestItem": _refine_valued,
    "Reply": _refine_reply,
    "ReplyItem": _refine_reply_item,
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
            "summary": "The worker writes the reply as it acknowledges the request. A request's 'reply_to'"
            " names another stream.",
            "bindings": {"redis": {}},
        }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Token worker",
            "version": VERSION,
            "description": "Tokenize and detokenize requests over Redis Streams. These are the default routes; an"
            " operator may set up others with the same messages. A message is the field 'payload' of a stream entry"
            " (XADD): JSON, or the same as MessagePack; a reply has the format of its request.",
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
