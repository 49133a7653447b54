"""The ledger finds every request without its one right reply."""

from typing import Any

import msgspec
import pytest

from harness.ledger import LATE_SECONDS, Item, Kind, Ledger, Place, Trouble
from harness.messages import KINDS, Native, Request, value_of

CLIENT = "shop-frontend"
REQUESTS = "tokenize:requests"
RESPONSES = "tokenize:responses"
ENTRY = Place(REQUESTS, "1-0")
REPLY = Place(RESPONSES, "2-0")
LATER = Place(RESPONSES, "3-0")
LETTER = Place(f"{REQUESTS}:dead", "2-0")


def tokenize(*values: Native, kind: str = "str", **more: Any) -> Request:
    members = {"client_id": CLIENT, **more.pop("members", {})}
    return Request("r1", "tokenize", "tokenize", kind, values, members=members, **more)


def detokenize(token: Native, value: Native) -> Request:
    return Request("r1", "detokenize", "detokenize", "str", [token], [value], members={"client_id": CLIENT})


def reply_to(request: Request, entry: Place, *outcomes: Native | str, packed: bool | None = None, **more: Any) -> bytes:
    """A reply as a worker writes it; an outcome that begins with ``!`` is the code of an error."""
    items = [
        {"error": {"code": outcome[1:], "message": ""}}
        if isinstance(outcome, str) and outcome.startswith("!")
        else {"value": request._wire(outcome)}
        for outcome in outcomes
    ]
    failed = sum("error" in item for item in items)
    status = "ok" if not failed else "error" if failed == len(items) else "partial"
    body = {"items": items} if request.as_items else items[0]
    reply = {"id": request.id, "op": request.op, "request_entry": entry.id, "status": status, **body, **more}
    is_packed = request.packed if packed is None else packed
    return msgspec.msgpack.encode(reply) if is_packed else msgspec.json.encode(reply)


def troubles(ledger: Ledger) -> list[tuple[Kind, str]]:
    ledger.close()
    return [(trouble.kind, trouble.what) for trouble in ledger.troubles]


def answered(request: Request, *outcomes: Native | str, entry: Place = ENTRY, **more: Any) -> Ledger:
    """A ledger with one request and its reply."""
    ledger = Ledger()
    ledger.sent(entry, request)
    ledger.reply(Place(request.target, "2-0"), reply_to(request, entry, *outcomes, **more))
    return ledger


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_right_replies_are_no_trouble(kind: str, packed: bool) -> None:
    """One reply with tokens of the right type, in the format of its request, is no trouble, also before its request."""
    request = tokenize(value_of(kind, 1), value_of(kind, 2), kind=kind, packed=packed, as_items=True)
    ledger = answered(request, value_of(kind, 3), value_of(kind, 4))
    early = tokenize(value_of(kind, 1), kind=kind, packed=packed)
    entry = Place(REQUESTS, "1-1")
    ledger.reply(LATER, reply_to(early, entry, value_of(kind, 3)))
    ledger.sent(entry, early)
    assert troubles(ledger) == []
    assert (ledger.requests, ledger.replies, ledger.open) == (2, 2, 0)
    assert sorted(ledger.handed_out()) == [
        (Item(CLIENT, kind, value_of(kind, 3)), value_of(kind, 1)),
        (Item(CLIENT, kind, value_of(kind, 4)), value_of(kind, 2)),
    ]


def test_request_without_reply_is_lost() -> None:
    """A request that got into its stream, and has no reply when none can come any more, is found."""
    ledger = Ledger()
    ledger.sent(ENTRY, tokenize("value"))
    assert troubles(ledger) == [(Kind.LOST, "tokenize:requests 1-0")]


def test_every_further_reply_is_found() -> None:
    """A second and a third reply to one request are found, although the request itself is not kept."""
    request = tokenize("value")
    ledger = answered(request, "token")
    for number in range(2):
        ledger.reply(Place(RESPONSES, f"3-{number}"), reply_to(request, ENTRY, "token"))
    assert troubles(ledger) == [(Kind.DUPLICATE, "tokenize:requests 1-0")] * 2


def test_second_reply_is_checked_where_there_may_be_one() -> None:
    """A second reply with another token is found even where second replies are permitted."""
    ledger, request = Ledger(keep_requests=True), tokenize("value")
    ledger.sent(ENTRY, request)
    for reply, token in ((REPLY, "token"), (LATER, "other")):
        ledger.reply(reply, reply_to(request, ENTRY, token))
    assert [kind for kind, _ in troubles(ledger)] == [Kind.DUPLICATE, Kind.UNEQUAL]


@pytest.mark.parametrize(
    ("outcome", "more"),
    [
        ("!internal", {}),
        ("!token_not_found", {}),
        ("value", {}),
        (5, {}),
        ("token", {"id": "another"}),
        ("token", {"packed": True}),
        ("token", {"status": "error"}),
    ],
    ids=["error", "not found", "the value itself", "another type", "another id", "another format", "another status"],
)
def test_wrong_reply_is_found(outcome: Native | str, more: dict[str, Any]) -> None:
    """A reply with an error, a wrong value or another id is found."""
    assert troubles(answered(tokenize("value"), outcome, **more)) == [(Kind.WRONG, "tokenize:requests 1-0")]


def test_reply_on_another_stream_is_found() -> None:
    """A reply that does not come where the request wants it is found."""
    ledger, request = Ledger(), tokenize("value", members={"reply_to": "tokenize:responses:1"})
    ledger.sent(ENTRY, request)
    ledger.reply(REPLY, reply_to(request, ENTRY, "token"))
    assert troubles(ledger) == [(Kind.WRONG, "tokenize:requests 1-0")]


def test_item_that_failed_is_found() -> None:
    """Of several items, one that failed makes the reply wrong."""
    request = tokenize("one", "two", as_items=True)
    assert troubles(answered(request, "token", "!internal")) == [(Kind.WRONG, "tokenize:requests 1-0")]


def test_second_token_of_a_value_is_found() -> None:
    """A value that got another token than before is found, unless it was to have one of its own."""
    ledger = answered(tokenize("value"), "token")
    for number, (token, consistent) in enumerate([("own", False), ("token", True), ("other", True)], 1):
        entry, request = Place(REQUESTS, f"1-{number}"), tokenize("value", members={"consistent": consistent})
        ledger.sent(entry, request)
        ledger.reply(Place(RESPONSES, f"3-{number}"), reply_to(request, entry, token))
    assert troubles(ledger) == [(Kind.UNEQUAL, "tokenize:requests 1-3")]
    assert sorted(str(token.content) for token, _ in ledger.handed_out()) == ["other", "own", "token"]


def test_every_change_of_a_token_is_found() -> None:
    """A value that got a second token has to keep that one: a third token is found, too."""
    ledger = answered(tokenize("text"), "first")
    for number, token in enumerate(["second", "second", "third"], 1):
        entry, request = Place(REQUESTS, f"1-{number}"), tokenize("text")
        ledger.sent(entry, request)
        ledger.reply(Place(RESPONSES, f"3-{number}"), reply_to(request, entry, token))
    assert troubles(ledger) == [(Kind.UNEQUAL, "tokenize:requests 1-1"), (Kind.UNEQUAL, "tokenize:requests 1-3")]
    assert [trouble.item for trouble in ledger.troubles] == [Item(CLIENT, "str", "text")] * 2


def test_other_token_than_expected_is_found() -> None:
    """If a request to tokenize names the token that it expects, any other token is wrong."""
    assert troubles(answered(tokenize("value", expected=["token"]), "token")) == []
    found = troubles(answered(tokenize("value", expected=["token"]), "other"))
    assert found == [(Kind.WRONG, "tokenize:requests 1-0")]


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [("value", []), ("other", [Kind.WRONG]), ("!token_not_found", [Kind.UNKNOWN_TOKEN]), ("!internal", [Kind.WRONG])],
)
def test_token_that_does_not_turn_back_is_found(outcome: str, expected: list[Kind]) -> None:
    """A token has to give its value back; an unknown token is another kind of trouble than a wrong reply."""
    ledger = answered(detokenize("token", "value"), outcome, entry=Place("detokenize:requests", "1-0"))
    assert [kind for kind, _ in troubles(ledger)] == expected
    assert ledger.detokenized == (not expected)


def test_reply_that_nobody_asked_for_is_found() -> None:
    """A reply to an entry that no producer knows of is found at the end."""
    ledger = Ledger()
    ledger.reply(REPLY, reply_to(tokenize("value"), ENTRY, "token"))
    assert troubles(ledger) == [(Kind.UNEXPECTED, "tokenize:responses 2-0")]


def test_request_given_up_is_found() -> None:
    """A dead letter of a readable request is found, and so is the reply that comes with it."""
    ledger, request = Ledger(), tokenize("value")
    ledger.sent(ENTRY, request)
    ledger.dead_letter(LETTER, {b"dead_stream": REQUESTS.encode(), b"dead_entry": b"1-0"})
    ledger.reply(REPLY, reply_to(request, ENTRY, "!internal"))
    assert [kind for kind, _ in troubles(ledger)] == [Kind.DEAD_LETTERED, Kind.DUPLICATE]


@pytest.mark.parametrize(("letters", "expected"), [(0, [Kind.LOST]), (1, []), (2, [Kind.DUPLICATE])])
def test_entry_that_cannot_be_read_becomes_one_dead_letter(letters: int, expected: list[Kind]) -> None:
    """An unreadable entry has to end as exactly one dead letter."""
    ledger = Ledger()
    ledger.sent(ENTRY, None)
    for number in range(letters):
        letter = Place(LETTER.stream, f"2-{number}")
        ledger.dead_letter(letter, {b"dead_stream": REQUESTS.encode(), b"dead_entry": b"1-0"})
    assert [kind for kind, _ in troubles(ledger)] == expected


def test_late_replies_are_counted() -> None:
    """A reply that took longer than a minute is counted as late, and is no trouble."""
    now = [0.0]
    ledger, request = Ledger(clock=lambda: now[0]), tokenize("value")
    ledger.sent(ENTRY, request)
    now[0] = LATE_SECONDS + 1
    ledger.reply(REPLY, reply_to(request, ENTRY, "token"))
    assert troubles(ledger) == []
    assert (ledger.late, ledger.slowest_seconds) == (1, LATE_SECONDS + 1)


def test_reply_is_matched_by_the_stream_of_its_request() -> None:
    """Entries of two streams may have the same id: the caller names the stream that a reply belongs to."""
    ledger, request = Ledger(), tokenize("value")
    ledger.sent(Place("other:requests", "1-0"), request)
    ledger.reply(REPLY, reply_to(request, ENTRY, "token"), "other:requests")
    assert troubles(ledger) == []


def test_trouble_shows_no_value() -> None:
    """A failed assertion shows the kind and the entry of a trouble, and not its value."""
    trouble = Trouble(Kind.UNEQUAL, str(ENTRY), ENTRY, REPLY, Item(CLIENT, "str", "secret value"))
    assert repr([trouble]) == "[<value with two tokens: tokenize:requests 1-0>]"
