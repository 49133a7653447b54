"""Requests through a ``Handler`` on storage in memory: values as bytes, broken items, bounded units."""

import base64
from typing import Any

import msgspec
import pytest
import structlog

from fuzz.world import ROUTE, SHOP, World
from token_worker.acra.token_entry import EntryNames, decode_entry, encode_entry
from token_worker.acra.value_types import TYPES
from token_worker.contract.messages import Format
from token_worker.service.handler import Handler
from token_worker.service.worker import UNIT_ITEMS, _units
from token_worker.streams.entry import Answer, Entry
from token_worker.testing.memory import MemoryTokens

LATIN = "André Marie Ampère".encode("latin-1")
LATIN_EMAIL = "andré@navy.example".encode("latin-1")
formats = pytest.mark.parametrize("form", Format)


class HandlerInMemory:
    """A handler on token storage in memory."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.tokens: MemoryTokens = world.tokens()
        self._handler: Handler = world.handler(self.tokens)

    def send(self, payload: bytes) -> Answer:
        [result] = self._handler.handle([self._world.next_entry({b"payload": payload})])
        assert isinstance(result, Answer)
        return result

    def ask(self, op: str, form: Format, **members: Any) -> dict[str, Any]:
        message = {"id": "r-1", "op": op, "client_id": SHOP.id, **members}
        written: Any = msgspec.json if form is Format.JSON else msgspec.msgpack
        reply: dict[str, Any] = written.decode(self.send(written.encode(message)).payload)
        return reply

    def token(self, value: bytes, kind: str) -> str:
        """The token of a value as AcraServer stores one of another encoding."""
        reply = self.ask("tokenize", Format.MSGPACK, type=kind, value=value, **{"as": "bytes"})
        return str(reply["value"])


@pytest.fixture(scope="module")
def world() -> World:
    return World("handler")


@pytest.fixture
def handler(world: World) -> HandlerInMemory:
    return HandlerInMemory(world)


def wire(value: bytes, form: Format) -> object:
    return base64.b64encode(value).decode() if form is Format.JSON else value


@formats
@pytest.mark.parametrize(("kind", "value"), [("str", LATIN), ("email", LATIN_EMAIL)])
def test_value_that_is_no_text_has_a_code_of_its_own(
    handler: HandlerInMemory, kind: str, value: bytes, form: Format
) -> None:
    """A stored text that is no UTF-8 is ``value_not_text``, no damage; asked for as bytes, it is answered."""
    token = handler.token(value, kind)
    with structlog.testing.capture_logs() as lines:
        reply = handler.ask("detokenize", form, type=kind, value=token)
        assert reply["error"]["code"] == "value_not_text"
        assert '"as": "bytes"' in reply["error"]["message"]
        reply = handler.ask("detokenize", form, type=kind, value=token, **{"as": "bytes"})
        assert (reply["status"], reply["value"]) == ("ok", wire(value, form))
        items = [{"type": kind, "value": token}, {"type": kind, "value": token, "as": "bytes"}]
        reply = handler.ask("detokenize", form, items=items)
        assert reply["status"] == "partial"
        assert reply["items"][0]["error"]["code"] == "value_not_text"
        assert reply["items"][1] == {"value": wire(value, form)}
    assert lines == []


@formats
@pytest.mark.parametrize(("kind", "text"), [("str", "grün"), ("email", "grün@navy.example")])
def test_value_as_bytes_is_the_same_value(handler: HandlerInMemory, kind: str, text: str, form: Format) -> None:
    """A text given as bytes has the token that it has as text, and its token gives either back."""
    given = handler.ask("tokenize", form, type=kind, value=text)["value"]
    as_bytes = {"type": kind, "value": wire(text.encode(), form), "as": "bytes"}
    assert handler.ask("tokenize", form, **as_bytes)["value"] == given
    assert handler.ask("tokenize", form, items=[as_bytes])["items"] == [{"value": given}]
    assert handler.ask("detokenize", form, type=kind, value=given)["value"] == text
    assert handler.ask("detokenize", form, type=kind, value=given, **{"as": "bytes"})["value"] == as_bytes["value"]


@formats
@pytest.mark.parametrize(("kind", "value"), [("str", LATIN), ("email", LATIN_EMAIL)])
def test_inconsistent_value_as_bytes(handler: HandlerInMemory, kind: str, value: bytes, form: Format) -> None:
    """Bytes of a text get inconsistent tokens, too, which are text of their length."""
    reply = handler.ask("tokenize", form, type=kind, value=wire(value, form), consistent=False, **{"as": "bytes"})
    assert len(reply["value"].encode()) == len(value)
    again = handler.ask("detokenize", form, type=kind, value=reply["value"], **{"as": "bytes"})
    assert again["value"] == wire(value, form)


@formats
def test_as_bytes_is_refused_where_it_has_no_meaning(handler: HandlerInMemory, form: Format) -> None:
    """``as`` beside a number is refused by its path; beside ``bytes`` it says what is so anyway."""
    refused = "expected only with str, email or bytes"
    for kind in ("int32", "int64"):
        for op in ("tokenize", "detokenize"):
            error = handler.ask(op, form, type=kind, value=5, **{"as": "bytes"})["error"]
            assert error == {"code": "invalid_request", "message": f"$.as: {refused}"}
            reply = handler.ask(op, form, items=[{"type": kind, "value": 5, "as": "bytes"}])
            assert reply["items"][0]["error"]["message"] == f"$.items[0].as: {refused}"
    plain = handler.ask("tokenize", form, type="bytes", value=wire(b"\xff\0", form))["value"]
    assert handler.ask("tokenize", form, type="bytes", value=wire(b"\xff\0", form), **{"as": "bytes"})["value"] == plain
    error = handler.ask("tokenize", form, type="float", value=5, **{"as": "bytes"})["error"]
    assert error["code"] == "unknown_type"


@formats
@pytest.mark.parametrize("kind", ["str", "email"])
def test_bad_values_as_bytes(handler: HandlerInMemory, kind: str, form: Format) -> None:
    """A value as bytes keeps to the form of bytes and to the bounds of its type; a token stays text."""
    error = handler.ask("tokenize", form, type=kind, value="é", **{"as": "bytes"})["error"]
    assert error["message"] == f"$.value: expected {'base64 text' if form is Format.JSON else 'binary'}"
    error = handler.ask("tokenize", form, type=kind, value=wire(b"", form), **{"as": "bytes"})["error"]
    assert error["code"] == "value_out_of_range"
    error = handler.ask("detokenize", form, type=kind, value=5, **{"as": "bytes"})["error"]
    assert error["message"] == "$.value: expected text"
    error = handler.ask("tokenize", form, type="email", value=wire(b"no address", form), **{"as": "bytes"})["error"]
    assert error["code"] == "invalid_email"


def test_damaged_entries_are_still_told(handler: HandlerInMemory) -> None:
    """An entry of another type, or one that is cut, is damage, also where bytes are asked for, and told in the log."""
    names = EntryNames(SHOP)
    token = handler.ask("tokenize", Format.JSON, type="str", value="some text")["value"]
    as_number = int.from_bytes(token.encode()[:4], "little", signed=True)
    t_key = names.of_token(token.encode(), TYPES["str"].number)
    entry = decode_entry(handler.tokens.entries[t_key])
    cut = entry._replace(block=entry.block[:-1])
    handler.tokens.entries[names.of_token(TYPES["int32"].encode(as_number), 1)] = encode_entry(entry)
    with structlog.testing.capture_logs() as lines:
        error = handler.ask("detokenize", Format.JSON, type="int32", value=as_number)["error"]
        assert error["code"] == "entry_unreadable"
        handler.tokens.entries[t_key] = encode_entry(cut)
        error = handler.ask("detokenize", Format.JSON, type="str", value=token, **{"as": "bytes"})["error"]
        assert error["code"] == "entry_unreadable"
    assert [line["code"] for line in lines] == ["entry_unreadable"] * 2


# Broken items


@pytest.mark.parametrize(
    "value", [b"NaN", b"Infinity", b'"a\tb"', b"nul", b'"\xff"', b"1e400", b"[" * 3000 + b"]" * 3000]
)
def test_broken_item_costs_itself(handler: HandlerInMemory, value: bytes) -> None:
    """One broken item among a hundred: 99 have their tokens, and it has an error with its path and its ref."""
    items = [b'{"type":"int64","value":%d,"ref":"%d"}' % (n, n) for n in range(100)]
    items[7] = b'{"type":"int64","value":%s,"ref":"7"}' % value
    payload = b'{"items":[%s],"client_id":"%s","op":"tokenize","id":"r-1"}' % (b",".join(items), SHOP.id.encode())
    answer = handler.send(payload)
    reply = msgspec.json.decode(answer.payload)
    assert (reply["id"], reply["status"]) == ("r-1", "partial")
    assert [item["ref"] for item in reply["items"]] == [str(number) for number in range(100)]
    failed = [item for item in reply["items"] if "error" in item]
    assert [(item["ref"], item["error"]["code"]) for item in failed] == [("7", "invalid_request")]
    assert failed[0]["error"]["message"].startswith("$.items[7].value: ")
    assert [outcome for _, outcome in answer.facts.outcomes].count("ok") == 99


def test_only_broken_items(handler: HandlerInMemory) -> None:
    """A request whose items are all broken is an error, with a reason for each."""
    reply = msgspec.json.decode(
        handler.send(
            b'{"id":"r-1","op":"detokenize","client_id":"shop-frontend","items":[{"type":"str","value":NaN},{}]}'
        ).payload
    )
    assert (reply["status"], "error" in reply) == ("error", False)
    assert [item["error"]["message"].partition(":")[0] for item in reply["items"]] == [
        "$.items[0].value",
        "$.items[1].type",
    ]


# Units


def test_units_are_bounded_whatever_the_spelling() -> None:
    """Entries are handled so many items at a time, however the names of their members are spelt."""
    message = {"id": "r", "op": "tokenize", "items": [{"type": "str", "value": "x"}] * 1000}
    plain = msgspec.json.encode(message)
    escaped = plain.replace(b'"value"', b'"\\u0076alue"')
    packed = msgspec.msgpack.encode(message)
    without = msgspec.msgpack.encode({**message, "items": [{}] * 1000})
    assert b"value" not in escaped
    for payload in (plain, escaped, packed, without):
        entries = [Entry(ROUTE, b"%d-0" % number, payload) for number in range(29)]
        units = list(_units(entries))
        assert [len(unit) for unit in units] == [UNIT_ITEMS // 1000] * 14 + [1]
        assert [entry for unit in units for entry in unit] == entries
