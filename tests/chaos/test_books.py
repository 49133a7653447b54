"""The books of ``scripts/chaos`` find whatever goes wrong, and explain no more than the data that was lost does."""

import random
from collections import Counter
from typing import Any

import msgspec
import pytest

from chaos.judge import Count, Outcome, Permit, groups_gone, judge, nothing, streams_behind, streams_gone, tokens_behind
from chaos.ledger import LATE_SECONDS, Item, Kind, Ledger, Place, Trouble
from chaos.plan import Fault, Plan
from chaos.report import report
from harness.messages import KINDS, Native, Request, value_of
from token_worker.acra.owner import Owner
from token_worker.acra.token_entry import EntryNames
from token_worker.acra.value_types import STR

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
    """Books with one request and its reply."""
    ledger = Ledger()
    ledger.sent(entry, request)
    ledger.reply(Place(request.target, "2-0"), reply_to(request, entry, *outcomes, **more))
    return ledger


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_right_replies_are_no_trouble(kind: str, packed: bool) -> None:
    """One reply with tokens of the right type, in the format of its request, whoever hears of it first."""
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
    assert troubles(ledger) == [(Kind.AGAIN, "tokenize:requests 1-0")] * 2
    assert judge("act", ledger, None).counts["request answered twice"] == Count(promised=2)


def test_second_reply_is_checked_where_there_may_be_one() -> None:
    """Where second replies are permitted, one with another token is found all the same."""
    ledger, request = Ledger(keep_requests=True), tokenize("value")
    ledger.sent(ENTRY, request)
    for reply, token in ((REPLY, "token"), (LATER, "other")):
        ledger.reply(reply, reply_to(request, ENTRY, token))
    assert [kind for kind, _ in troubles(ledger)] == [Kind.AGAIN, Kind.UNEQUAL]


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
    """A reply that is not what was asked for is found."""
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


def test_loss_explains_one_change_of_a_token() -> None:
    """Where the loss of its entry permits a value a second token, that one has to stay: a third is unexplained."""
    ledger = answered(tokenize("text"), "first")
    for number, token in enumerate(["second", "second", "third"], 1):
        entry, request = Place(REQUESTS, f"1-{number}"), tokenize("text")
        ledger.sent(entry, request)
        ledger.reply(Place(RESPONSES, f"3-{number}"), reply_to(request, entry, token))
    outcome = judge("act", ledger, tokens_behind(set()))
    assert outcome.counts["value with two tokens"] == Count(permitted=1, unexplained=1)
    assert outcome.entries == ["act: value with two tokens: tokenize:requests 1-3"]


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [("value", []), ("other", [Kind.WRONG]), ("!token_not_found", [Kind.FORGOTTEN]), ("!internal", [Kind.WRONG])],
)
def test_token_that_does_not_turn_back_is_found(outcome: str, expected: list[Kind]) -> None:
    """A token has to turn into its value; one that is not known any more is told from a wrong answer."""
    ledger = answered(detokenize("token", "value"), outcome, entry=Place("detokenize:requests", "1-0"))
    assert [kind for kind, _ in troubles(ledger)] == expected
    assert ledger.turned_back == (not expected)


def test_reply_that_nobody_asked_for_is_found() -> None:
    """A reply to an entry that no producer knows of is found at the end."""
    ledger = Ledger()
    ledger.reply(REPLY, reply_to(tokenize("value"), ENTRY, "token"))
    assert troubles(ledger) == [(Kind.UNASKED, "tokenize:responses 2-0")]


def test_request_given_up_is_found() -> None:
    """A dead letter of a request that can be read is found, and so is the reply that comes with it."""
    ledger, request = Ledger(), tokenize("value")
    ledger.sent(ENTRY, request)
    ledger.dead_letter(LETTER, {b"dead_stream": REQUESTS.encode(), b"dead_entry": b"1-0"})
    ledger.reply(REPLY, reply_to(request, ENTRY, "!internal"))
    assert [kind for kind, _ in troubles(ledger)] == [Kind.DEAD_LETTERED, Kind.AGAIN]


@pytest.mark.parametrize(("letters", "expected"), [(0, [Kind.LOST]), (1, []), (2, [Kind.AGAIN])])
def test_entry_that_cannot_be_read_becomes_one_dead_letter(letters: int, expected: list[Kind]) -> None:
    """An unreadable entry has to end as exactly one dead letter."""
    ledger = Ledger()
    ledger.sent(ENTRY, None)
    for number in range(letters):
        letter = Place(LETTER.stream, f"2-{number}")
        ledger.dead_letter(letter, {b"dead_stream": REQUESTS.encode(), b"dead_entry": b"1-0"})
    assert [kind for kind, _ in troubles(ledger)] == expected


def test_late_replies_are_counted() -> None:
    """A reply that took longer than a minute is late, which is told and is no trouble."""
    now = [0.0]
    ledger, request = Ledger(clock=lambda: now[0]), tokenize("value")
    ledger.sent(ENTRY, request)
    now[0] = LATE_SECONDS + 1
    ledger.reply(REPLY, reply_to(request, ENTRY, "token"))
    assert troubles(ledger) == []
    assert (ledger.late, ledger.slowest_seconds) == (1, LATE_SECONDS + 1)


# -- what is permitted


def lost(entry_id: str) -> Trouble:
    return Trouble(Kind.LOST, "", Place(REQUESTS, entry_id))


def again(entry_id: str, reply: Place = REPLY) -> Trouble:
    return Trouble(Kind.AGAIN, "", Place(REQUESTS, entry_id), reply)


ITEM = Item(CLIENT, "str", "text")
NAMES = EntryNames(Owner("client", CLIENT))
OF_VALUE, OF_TOKEN = NAMES.of_value(b"text", STR.number), NAMES.of_token(b"text", STR.number)
LAST, MARKS = {REQUESTS: "10-5"}, {REQUESTS: "9-7"}


@pytest.mark.parametrize(
    ("permit", "trouble", "expected"),
    [
        (streams_gone(LAST), lost("10-5"), True),
        (streams_gone(LAST), lost("9-99"), True),
        (streams_gone(LAST), lost("10-6"), False),
        (streams_gone(LAST), lost("100-0"), False),
        (streams_gone(LAST), again("10-5"), False),
        (groups_gone(LAST, MARKS), again("9-8"), True),
        (groups_gone(LAST, MARKS), again("10-5"), True),
        (groups_gone(LAST, MARKS), again("9-7"), False),
        (groups_gone(LAST, MARKS), again("10-6"), False),
        (groups_gone(LAST, MARKS), lost("10-0"), False),
        (streams_behind({ENTRY}), lost("1-1"), True),
        (streams_behind({ENTRY}), lost("1-0"), False),
        (streams_behind({ENTRY}), again("1-0"), True),
        (streams_behind({ENTRY, REPLY}), again("1-0"), False),
        (tokens_behind(set()), Trouble(Kind.FORGOTTEN, "", ENTRY, item=ITEM), True),
        (tokens_behind({OF_TOKEN}), Trouble(Kind.FORGOTTEN, "", ENTRY, item=ITEM), False),
        (tokens_behind({OF_TOKEN}), Trouble(Kind.UNEQUAL, "", ENTRY, item=ITEM), True),
        (tokens_behind({OF_VALUE}), Trouble(Kind.UNEQUAL, "", ENTRY, item=ITEM), False),
        (tokens_behind(set()), lost("1-0"), False),
        (tokens_behind(set()), Trouble(Kind.WRONG, "", ENTRY), False),
        (nothing, Trouble(Kind.FORGOTTEN, "", ENTRY, item=ITEM), False),
    ],
)
def test_loss_explains_what_it_took_and_no_more(permit: Permit, trouble: Trouble, expected: bool) -> None:
    """What is permitted goes by the very entries that were lost."""
    assert permit(trouble) == expected


def books(*found: Trouble) -> Ledger:
    ledger = Ledger()
    ledger.troubles += found
    return ledger


def test_trouble_where_nothing_was_lost_is_a_promise_broken() -> None:
    """In the act in which every server keeps its data nothing is explained away."""
    outcome = judge("act", books(lost("1-0"), again("1-1")), None)
    assert outcome.counts["request lost"] == Count(promised=1)
    assert outcome.counts["request answered twice"] == Count(promised=1)


def test_loss_explains_one_second_reply() -> None:
    """Of three replies to a request, the third is unexplained; a token that was asked for twice is one token."""
    permit = streams_behind(set())
    outcome = judge("act", books(again("1-0"), again("1-0")), permit)
    assert outcome.counts["request answered twice"] == Count(permitted=1, unexplained=1)
    forgotten = [Trouble(Kind.FORGOTTEN, "", Place(REQUESTS, entry_id), item=ITEM) for entry_id in ("1-0", "2-0")]
    outcome = judge("act", books(*forgotten), tokens_behind(set()))
    assert outcome.counts["token that cannot be turned back"] == Count(permitted=1)


# -- the run


FAULT = Fault("kill", "streams COMMIT", "before it")


def problems(acts: list[Outcome], **counts: int) -> list[str]:
    faults = Counter({FAULT._replace(place=place): number for place, number in counts.items()})
    return report(1, 1.0, faults, acts).problems


def test_fault_that_never_happened_fails_the_run() -> None:
    """Every kind has to happen: one that did not is named."""
    clean = judge("act", Ledger(), None)
    assert problems([clean], commit=1) == []
    assert problems([clean], commit=1, claim=0) == ["never happened: kill: claim, before it"]


def test_run_tells_what_went_wrong_and_shows_no_value() -> None:
    """What is unexplained fails the run, what is permitted does not; entries are named by stream and id alone."""
    ledger = answered(tokenize("secret value"), "!internal")
    ledger.close()
    assert problems([judge("act", ledger, None)], commit=1) == [
        "promised, and broken 1 times: wrong answer",
        "act: wrong answer: tokenize:requests 1-0",
    ]
    lossy = books(lost("1-0"), lost("100-0"))
    assert problems([judge("act", lossy, streams_gone(LAST))], commit=1)[0] == "unexplained 1 times: request lost"
    assert problems([judge("act", books(lost("1-0")), streams_gone(LAST))], commit=1) == []


def test_each_fault_comes_once_before_any_comes_twice() -> None:
    """A plan brings every fault, and one that did not happen again after the others."""
    faults = {FAULT._replace(place=str(number)): 1.0 for number in range(20)}
    plan = Plan(faults, random.Random())
    first = plan.take(lambda _fault: True)
    plan.failed(first)
    taken = [plan.take(lambda _fault: True) for _ in faults]
    assert sorted(taken) == sorted(faults)
    assert taken[-1] == first
    for fault in taken:
        assert fault in plan.missing
        plan.happened(fault)
    assert plan.missing == []
    assert plan.take(lambda fault: fault.place == "7").place == "7"
