"""A loss of data explains the troubles that it can have caused, and no others. Unexplained trouble fails a run."""

import random
from collections import Counter

import pytest

from chaos.judge import Count, Outcome, Permit, groups_gone, judge, nothing, streams_behind, streams_gone, tokens_behind
from chaos.plan import Fault, Plan
from chaos.report import report
from harness.ledger import Item, Kind, Ledger, Place, Trouble
from token_worker.acra.owner import Owner
from token_worker.acra.token_entry import EntryNames
from token_worker.acra.value_types import STR

CLIENT = "shop-frontend"
REQUESTS = "tokenize:requests"
ENTRY = Place(REQUESTS, "1-0")
REPLY = Place("tokenize:responses", "2-0")


def lost(entry_id: str) -> Trouble:
    return Trouble(Kind.LOST, "", Place(REQUESTS, entry_id))


def again(entry_id: str, reply: Place = REPLY) -> Trouble:
    return Trouble(Kind.DUPLICATE, "", Place(REQUESTS, entry_id), reply)


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
        (tokens_behind(set(), EntryNames), Trouble(Kind.UNKNOWN_TOKEN, "", ENTRY, item=ITEM), True),
        (tokens_behind({OF_TOKEN}, EntryNames), Trouble(Kind.UNKNOWN_TOKEN, "", ENTRY, item=ITEM), False),
        (tokens_behind({OF_TOKEN}, EntryNames), Trouble(Kind.UNEQUAL, "", ENTRY, item=ITEM), True),
        (tokens_behind({OF_VALUE}, EntryNames), Trouble(Kind.UNEQUAL, "", ENTRY, item=ITEM), False),
        (tokens_behind(set(), EntryNames), lost("1-0"), False),
        (tokens_behind(set(), EntryNames), Trouble(Kind.WRONG, "", ENTRY), False),
        (nothing, Trouble(Kind.UNKNOWN_TOKEN, "", ENTRY, item=ITEM), False),
    ],
)
def test_loss_explains_what_it_took_and_no_more(permit: Permit, trouble: Trouble, expected: bool) -> None:
    """A permit excuses the troubles of the very entries that were lost."""
    assert permit(trouble) == expected


def ledger_with(*found: Trouble) -> Ledger:
    ledger = Ledger()
    ledger.troubles += found
    return ledger


def test_trouble_where_nothing_was_lost_is_a_promise_broken() -> None:
    """In the act in which every server keeps its data nothing is explained away."""
    outcome = judge("act", ledger_with(lost("1-0"), again("1-1")), None)
    assert outcome.counts["request lost"] == Count(promised=1)
    assert outcome.counts["request answered twice"] == Count(promised=1)


def test_loss_explains_one_second_reply() -> None:
    """Of three replies to a request, the third is unexplained; a token that was asked for twice is one token."""
    permit = streams_behind(set())
    outcome = judge("act", ledger_with(again("1-0"), again("1-0")), permit)
    assert outcome.counts["request answered twice"] == Count(permitted=1, unexplained=1)
    forgotten = [Trouble(Kind.UNKNOWN_TOKEN, "", Place(REQUESTS, entry_id), item=ITEM) for entry_id in ("1-0", "2-0")]
    outcome = judge("act", ledger_with(*forgotten), tokens_behind(set(), EntryNames))
    assert outcome.counts["token that cannot be detokenized"] == Count(permitted=1)


def test_loss_explains_one_change_of_a_token() -> None:
    """If the loss of its entry permits a value a second token, it has to keep that one: a third is unexplained."""
    changes = [Trouble(Kind.UNEQUAL, f"{REQUESTS} {entry_id}", ENTRY, item=ITEM) for entry_id in ("1-1", "1-3")]
    outcome = judge("act", ledger_with(*changes), tokens_behind(set(), EntryNames))
    assert outcome.counts["value with two tokens"] == Count(permitted=1, unexplained=1)
    assert outcome.entries == ["act: value with two tokens: tokenize:requests 1-3"]


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
    """Unexplained trouble fails the run, permitted trouble does not; entries are named by stream and id alone."""
    wrong = Trouble(Kind.WRONG, str(ENTRY), ENTRY, item=Item(CLIENT, "str", "secret value"))
    assert problems([judge("act", ledger_with(wrong), None)], commit=1) == [
        "promised, and broken 1 times: wrong reply",
        "act: wrong reply: tokenize:requests 1-0",
    ]
    lossy = ledger_with(lost("1-0"), lost("100-0"))
    assert problems([judge("act", lossy, streams_gone(LAST))], commit=1)[0] == "unexplained 1 times: request lost"
    assert problems([judge("act", ledger_with(lost("1-0")), streams_gone(LAST))], commit=1) == []


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
