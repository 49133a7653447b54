"""The contract as a page for people, in Markdown: what stands in the AsyncAPI document, and what values look like.

Nothing is said here that the message types say: members, bounds and descriptions are read from the document.
"""

import json
import re
from collections.abc import Callable, Iterable
from typing import Any

from token_worker.contract.codes import code_list
from token_worker.contract.messages import Op, TypeName

VALUES = {
    TypeName.INT32: ("number", "integer", "any `int32`"),
    TypeName.INT64: (
        "number or decimal text; always answered as text, since JavaScript rounds",
        "integer",
        "any `int64`",
    ),
    TypeName.STR: ("text, not empty", "text", "letters and digits, as many as the value has bytes in UTF-8"),
    TypeName.BYTES: (
        "base64: padded, no line breaks, unused bits zero; at least one byte",
        "binary",
        "bytes, as many as the value has",
    ),
    TypeName.EMAIL: ("text, 6 to 254 bytes with an `@`", "text", "a valid address of the same length, lower case"),
}
"""How a value of each type stands in JSON and in MessagePack, and what its token is."""

_TITLES = {
    "Request": "Request",
    "RequestItem": "An item of a request",
    "Reply": "Reply",
    "ReplyItem": "An item of a reply",
    "ReplyError": "An error",
}

_GENERATORS = """\
## Types for your language

Generators of types get plain objects from the schemas. These have been tried:

```console
$ npx json-schema-to-typescript request.schema.json request.ts
$ npx json-schema-to-typescript reply.schema.json reply.ts
$ npx quicktype -s schema --package contract --omit-empty -o contract.go request.schema.json reply.schema.json
$ npx quicktype -s schema --package contract -o Contract.java request.schema.json reply.schema.json
```

AsyncAPI's Modelina makes TypeScript of the [AsyncAPI document](asyncapi.json).

A `value` that is null beside `items` is refused: hence `--omit-empty` in Go, and in Java an `ObjectMapper` of Jackson
set to `JsonInclude.Include.NON_NULL`. Types do not say which members go together, nor what a value of each type looks
like: validate a request before you send it.
"""


def page(asyncapi: dict[str, Any]) -> str:
    """The page, made from the AsyncAPI document."""
    return "\n".join([*_top(asyncapi), *_messages(asyncapi), *_values(), *_codes(), *_examples(asyncapi), _GENERATORS])


def _top(asyncapi: dict[str, Any]) -> Iterable[str]:
    info = asyncapi["info"]
    yield f"# The contract, version {info['version']}\n"
    yield "Made by `token-worker schemas`, as are [request](request.schema.json) and [reply](reply.schema.json) as JSON"
    yield "Schema, the [AsyncAPI document](asyncapi.json) and the [codes](codes.json) as data. Do not edit.\n"
    yield f"{_marked(info['description'])}\n"
    yield "## Streams\n"
    written = {"receive": "producers", "send": "workers"}
    actions = {it["channel"]["$ref"].rpartition("/")[2]: it["action"] for it in asyncapi["operations"].values()}
    yield from _table(
        ("stream", "written by", ""),
        (
            (f"`{channel['address']}`", written[actions[name]], channel["description"])
            for name, channel in asyncapi["channels"].items()
        ),
    )
    yield "A request's `reply_to` names another stream for its reply. Make up a name that nobody else uses and read"
    yield "that stream from `0` with `XREAD BLOCK`: it holds your own replies only, and goes by itself after a while.\n"
    yield "## Fields of an entry\n"
    headers = asyncapi["components"]["messages"]["request"]["headers"]
    yield from _table(
        ("field", "needed", ""),
        [
            ("`payload`", "yes", "The message: one JSON object, or the same as MessagePack; the first byte tells."),
            *((f"`{name}`", "no", header["description"]) for name, header in headers["properties"].items()),
        ],
    )
    yield "Other fields are ignored.\n"


def _messages(asyncapi: dict[str, Any]) -> Iterable[str]:
    schemas = asyncapi["components"]["schemas"]
    for name, title in _TITLES.items():
        schema = schemas[name]
        yield f"{'##' if name in ('Request', 'Reply') else '###'} {title}\n"
        yield f"{_marked(schema['description'])}\n"
        yield from _table(
            ("member", "is", "needed", ""),
            (
                (
                    f"`{member}`",
                    _kind(it),
                    "yes" if member in schema.get("required", ()) else "no",
                    _marked(it.get("description") or schemas[it["$ref"].rpartition("/")[2]]["description"]),
                )
                for member, it in schema["properties"].items()
            ),
        )


def _values() -> Iterable[str]:
    yield "## Values\n"
    yield "A token has the type of its value.\n"
    yield "A `str` or `email` that AcraServer stored for a client of another encoding may be no UTF-8. Asked for such a"
    yield 'value, the worker answers `value_not_text`. With `"as": "bytes"` beside `type` it answers the value as one'
    yield "of type `bytes`, and takes it so to tokenize. The token is text all the same.\n"
    rows = ((f"`{type_name}`", *forms) for type_name, forms in VALUES.items())
    yield from _table(("type", "in JSON", "in MessagePack", "its token"), rows)


def _codes() -> Iterable[str]:
    yield "## Codes\n"
    yield "A closed list. The message beside a code is for people; it holds nothing of your data.\n"
    rows = ((f"`{it['code']}`", it["meaning"], it["retry"]) for it in code_list())
    yield from _table(("code", "meaning", "send again?"), rows)


def _examples(asyncapi: dict[str, Any]) -> Iterable[str]:
    yield "## Examples\n"
    for message in asyncapi["components"]["messages"].values():
        for example in message["examples"]:
            yield f"{message['name']}: {example['name']}\n"
            yield f"```json\n{_lines(example['payload'])}\n```\n"


def _lines(message: dict[str, Any]) -> str:
    """A message as JSON, each item on a line of its own."""
    text = json.dumps(message, ensure_ascii=False)
    for item in message.get("items", ()):
        line = json.dumps(item, ensure_ascii=False)
        text = text.replace(line, f"\n  {line}", 1)
    return text.replace(", \n", ",\n")


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterable[str]:
    for row in (head, ("---",) * len(head), *rows):
        yield f"| {' | '.join(row)} |"
    yield ""


def _marked(description: str) -> str:
    """The first line of a description, with the names of members marked."""
    return re.sub(r"'(\w+)'", r"`\1`", description.partition("\n")[0])


def _kind(schema: dict[str, Any]) -> str:
    """What a member is and within which bounds, in words."""
    kinds = schema.get("type", [])
    kind, *others = [kinds] if isinstance(kinds, str) else kinds or [None]
    if "$ref" in schema:
        words = _REFERENCES[schema["$ref"].rpartition("/")[2]]
    elif "enum" in schema:
        words = _choice(name for name in schema["enum"] if name is not None)
    elif "pattern" in schema:
        words = "stream id, as `1767222000000-0`"
    else:
        words = _KINDS[kind](schema)
    return f"{words}, or null" if others else words


def _choice(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _text(schema: dict[str, Any]) -> str:
    if "maxLength" not in schema:
        return "text"
    shortest = f"{schema['minLength']} to" if "minLength" in schema else "at most"
    return f"text of {shortest} {schema['maxLength']} characters"


_REFERENCES = {
    "Op": _choice(Op),
    "Code": "one of the [codes](#codes)",
    "ReplyError": "[an error](#an-error)",
}
_KINDS: dict[str | None, Callable[[dict[str, Any]], str]] = {
    None: lambda _: "[a value](#values)",
    "string": _text,
    "integer": lambda it: f"whole number, {it['minimum']} or more",
    "boolean": lambda it: f"true or false, by default {json.dumps(it['default'])}",
    "array": lambda it: f"list, {it['minItems']} or more",
}
