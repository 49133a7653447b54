"""Calls, requests and replies of the client, without sockets or threads: nothing is lost, mixed up or taken twice."""

import itertools
import string
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from token_worker.client import (
    BadReply,
    ClientClosed,
    OtherFormat,
    TimedOut,
    TokenClientError,
    TokenNotFound,
    UnknownClient,
)
from token_worker.client.calls import Call, CallKey, CallOutcome, Part, Requests
from token_worker.client.errors import RequestRefused
from token_worker.client.items import OVERHEAD_BYTES, RequestLimits, encode, split
from token_worker.contract.messages import Op

KEY = CallKey(Op.TOKENIZE, "shop-frontend", None, consistent=True)
MARKER = "4242-4242"


class CallThatTells(Call):
    """A call that tells its outcome to a function, once."""

    def __init__(self, finish: Callable[[CallOutcome], None]) -> None:
        self.finish: Callable[[CallOutcome], None] | None = finish

    def _finish(self, outcome: CallOutcome | None) -> None:
        finish, self.finish = self.finish, None
        assert finish is not None
        if outcome is not None:
            finish(outcome)


class Caller:
    """Makes calls, and keeps what came of them."""

    def __init__(self, limits: RequestLimits | None = None, gather_seconds: float | None = None) -> None:
        self.limits = limits or RequestLimits()
        self.requests = Requests(self.limits, gather_seconds)
        self.outcomes: dict[int, CallOutcome] = {}
        self.calls: list[Call] = []
        self.parts = self._released = 0

    def call(self, values: Sequence[Any], key: CallKey = KEY, now: float = 0.0, deadline: float = 10.0) -> Call:
        number = len(self.calls)

        def finish(outcome: CallOutcome) -> None:
            assert number not in self.outcomes
            self.outcomes[number] = outcome

        call = CallThatTells(finish)
        self.calls.append(call)
        items = [encode(("str", value), self.limits) for value in values]
        encoded = [item for item in items if isinstance(item, bytes)]
        call.start(len(encoded), deadline, lambda: TimedOut("late"))
        at = 0
        for part in split(encoded, self.limits):
            self.requests.add(Part(call, at, len(part), b"".join(part), key, None), now)
            self.parts += 1
            at += len(part)
        return call

    @property
    def released(self) -> int:
        """Number of parts that were done so far."""
        self._released += self.requests.take_done()
        return self._released

    def take(self, most: int = 1000) -> list[Part]:
        return self.requests.take(most, "replies")

    def reply(self, payload: bytes) -> None:
        self.end(self.requests.take_replies([payload]))

    def answer(self, request: Part, **more: Any) -> None:
        """Reply with tokens that are the values in capitals."""
        self.reply(reply_to(request, items=[{"value": value.upper()} for value in values_of(request)], **more))

    def end(self, over: Iterable[tuple[Call, CallOutcome]]) -> None:
        for call, outcome in over:
            call.end(outcome)


def payload_of(request: Part) -> dict[str, Any]:
    fields = request.fields(lambda at: round(at * 1000))
    payload = dict(zip(fields[::2], fields[1::2], strict=True))["payload"]
    assert isinstance(payload, bytes)
    found: dict[str, Any] = msgspec.msgpack.decode(payload)
    return found


def values_of(request: Part) -> list[str]:
    return [item["value"] for item in payload_of(request)["items"]]


def reply_to(request: Part, **members: Any) -> bytes:
    return msgspec.msgpack.encode({"id": request.id, "op": "tokenize", "request_entry": "1-0", **members})


def test_request_says_what_the_call_said() -> None:
    """The payload has the call's options, deadline, stream for the reply and items; defaults are left out."""
    caller = Caller()
    caller.call(["a"])
    caller.call(["b"], CallKey(Op.DETOKENIZE, None, "zone-one", consistent=False))
    plain, other = map(payload_of, caller.take())
    assert plain.pop("id") != other.pop("id")
    common = {"reply_to": "replies", "expires_at": 10_000}
    assert plain == {
        **common,
        "op": "tokenize",
        "client_id": "shop-frontend",
        "items": [{"type": "str", "value": "a"}],
    }
    assert other == {
        **common,
        "op": "detokenize",
        "zone_id": "zone-one",
        "consistent": False,
        "items": [{"type": "str", "value": "b"}],
    }


texts = st.lists(st.text(string.ascii_lowercase, min_size=1, max_size=40), max_size=12)


GATHER = st.sampled_from([None, 0.0, 0.001])


@given(calls=st.lists(texts, max_size=8), gather=GATHER, items=st.integers(1, 7), data=st.data())
def test_each_value_gets_its_own_answer(
    calls: list[list[str]], gather: float | None, items: int, data: st.DataObject
) -> None:
    """For any split into requests and any order of replies, each call has its answers in order."""
    caller = Caller(RequestLimits(items, OVERHEAD_BYTES + 200), gather)
    keys = [KEY, KEY._replace(client_id="other-client")]
    of: dict[str, CallKey] = {}
    for number, values in enumerate(calls):
        key = of[str(number)] = data.draw(st.sampled_from(keys))
        caller.call([f"{number}:{value}" for value in values], key)
    requests = caller.take()
    for request in requests:
        values = values_of(request)
        assert 0 < len(values) <= items
        assert len(request.fields(lambda at: round(at * 1000))[1]) <= caller.limits.bytes
        assert {of[value.partition(":")[0]].client_id for value in values} == {payload_of(request)["client_id"]}
    for request in data.draw(st.permutations(requests)):
        if data.draw(st.booleans()) and request.joined:
            caller.reply(reply_to(request, error=INTERNAL))
            for again in caller.take():
                assert not again.joined
                caller.answer(again)
        caller.answer(request)
        caller.answer(request)  # a second one does nothing
    assert caller.outcomes == {
        number: [f"{number}:{value}".upper() for value in values] for number, values in enumerate(calls) if values
    }
    assert caller.released == caller.parts
    assert caller.requests.is_idle


@given(sizes=st.lists(st.integers(1, 60), max_size=40), items=st.integers(1, 10))
def test_split_takes_each_once_in_order(sizes: list[int], items: int) -> None:
    """Pieces follow on each other, keep both limits, and none could have taken the next one's first item."""
    limits = RequestLimits(items, OVERHEAD_BYTES + 60)
    encoded = [bytes([number]) * size for number, size in enumerate(sizes)]
    pieces = [*split(encoded, limits)]
    assert [item for piece in pieces for item in piece] == encoded
    for piece in pieces:
        assert 0 < len(piece) <= items
        assert len(b"".join(piece)) <= 60
    for piece, after in itertools.pairwise(pieces):
        assert len(piece) == items or len(b"".join(piece)) + len(after[0]) > 60


def test_calls_share_requests_within_their_time_only() -> None:
    """With None for its time to gather each call is a request of its own. Else it waits no longer than that."""
    alone = Caller()
    for value in "abc":
        alone.call([value])
    assert alone.requests.next_at() == 0.0
    assert [*map(values_of, alone.take())] == [["a"], ["b"], ["c"]]
    at_once = Caller(gather_seconds=0.0)
    for value in "abc":
        at_once.call([value], now=5.0)
    assert at_once.requests.next_at() == 5.0
    assert [*map(values_of, at_once.take())] == [["a", "b", "c"]]
    together = Caller(gather_seconds=2.0)
    together.call(["a"], now=5.0)
    together.call(["b"], now=6.0)
    assert together.requests.next_at() == 7.0
    assert [*map(values_of, together.take())] == [["a", "b"]]
    assert together.requests.next_at() is None


def test_calls_that_do_not_wait_share_requests_of_a_hundred() -> None:
    """Calls that are sent at the same moment leave some for other workers: a request has at most 100 of them."""
    caller = Caller(gather_seconds=0.0)
    for number in range(250):
        caller.call([f"{number}"])
    caller.call([f"of a list {number}" for number in range(101)])
    assert [request.count + len(request.joined) for request in caller.take()] == [100, 100, 50, 101]


INTERNAL = {"code": "internal", "message": "the worker failed"}


@pytest.mark.parametrize("code", ["invalid_request", "internal"])
def test_refused_request_of_several_calls_is_sent_again_as_one_of_each(code: str) -> None:
    """A reason that may lie in one call costs only that call: each gets a request of its own, ahead of newer ones."""
    caller = Caller(gather_seconds=0.0)
    for value in "abc":
        caller.call([value])
    caller.calls[1].end(None)
    [shared] = caller.take()
    late = reply_to(shared, items=[{"value": "A"}, {"value": "C"}])
    for value in "de":
        caller.call([value], now=5.0)
    caller.reply(reply_to(shared, error={"code": code, "message": "refused"}))
    assert caller.requests.next_at() == 0.0
    first, second, third = caller.take()
    assert [*map(values_of, (first, second, third))] == [["a"], ["c"], ["d", "e"]]
    caller.reply(late)
    assert caller.outcomes == {}
    caller.reply(reply_to(first, error={"code": code, "message": "refused"}))
    caller.answer(second)
    caller.answer(third)
    refused = caller.outcomes.pop(0)
    assert isinstance(refused, RequestRefused)
    assert refused.code == code
    assert caller.outcomes == {2: ["C"], 3: ["D"], 4: ["E"]}
    assert caller.released == caller.parts == 5
    assert caller.requests.is_idle


def test_full_request_does_not_wait_after_a_refused_one() -> None:
    """Items that were sent again are counted once: those of later calls fill a request as before."""
    caller = Caller(RequestLimits(items=3), gather_seconds=60.0)
    for value in "abc":
        caller.call([value])
    [shared] = caller.take()
    caller.reply(reply_to(shared, error=INTERNAL))
    assert [*map(values_of, caller.take())] == [["a"], ["b"], ["c"]]
    caller.call(["d", "e"], now=1.0)
    assert caller.requests.next_at() == 61.0
    caller.call(["f"], now=1.0)
    assert caller.requests.next_at() == 0.0


def test_refused_request_of_one_call_is_not_sent_again() -> None:
    """A reason that concerns all calls alike, and the refusal of one call alone, are final."""
    caller = Caller(gather_seconds=0.0)
    for value in "ab":
        caller.call([value])
    [shared] = caller.take()
    caller.reply(reply_to(shared, error={"code": "unknown_client", "message": "who"}))
    assert [type(caller.outcomes[number]) for number in (0, 1)] == [UnknownClient, UnknownClient]
    caller.call(["c"])
    [single] = caller.take()
    caller.reply(reply_to(single, error=INTERNAL))
    assert isinstance(caller.outcomes[2], RequestRefused)
    assert caller.requests.is_idle


@pytest.mark.parametrize("ends", [(5.0, 9.0, 7.0), (9.0, 5.0, 7.0)])
def test_shared_request_is_good_as_long_as_any_of_its_calls(ends: tuple[float, ...]) -> None:
    """A call that gives up early takes no time from those that share its request."""
    caller = Caller(gather_seconds=1.0)
    for value, deadline in zip("abc", ends, strict=True):
        caller.call([value], deadline=deadline)
    [request] = caller.take()
    assert (values_of(request), payload_of(request)["expires_at"]) == (["a", "b", "c"], 9_000)


def test_full_request_does_not_wait() -> None:
    """Items that fill a request are sent at once, without waiting for ``batch_ms``."""
    caller = Caller(RequestLimits(items=3), gather_seconds=60.0)
    caller.call(["a", "b"], now=1.0)
    assert caller.requests.next_at() == 61.0
    caller.call(["c"], now=1.0)
    assert caller.requests.next_at() == 0.0


def test_call_answered_in_parts_ends_with_the_last() -> None:
    """A list of several requests has one outcome, when all of it is there."""
    caller = Caller(RequestLimits(items=1))
    caller.call(["a", "b", "c"])
    first, second, third = caller.take()
    caller.answer(third)
    caller.answer(first)
    assert caller.outcomes == {}
    caller.answer(second)
    assert caller.outcomes == {0: ["A", "B", "C"]}


def test_refused_item_is_an_answer_of_its_own() -> None:
    """A value that was refused costs the others nothing."""
    caller = Caller()
    caller.call(["a", "b"])
    [request] = caller.take()
    refused = {"code": "token_not_found", "message": "there is no such token"}
    caller.reply(reply_to(request, items=[{"error": refused}, {"value": "B"}]))
    answers = caller.outcomes[0]
    assert isinstance(answers, list)
    assert isinstance(answers[0], TokenNotFound)
    assert (answers[0].message, answers[1]) == ("there is no such token", "B")


MIXED = [
    {"value": "A", "format": "other"},
    {"value": "B"},
    {"error": {"code": "token_not_found", "message": "m"}},
    {"value": 5, "format": "other"},
    {"value": "C", "format": "a newer word"},
]
"""Items of a reply. Number 3 is not of the contract, for only text has a format. Number 4 is of a newer one."""


@pytest.mark.parametrize("marks", [True, False])
def test_token_of_another_format_is_marked_where_the_call_says_so(marks: bool) -> None:
    """With ``marks_other`` text with ``format: other`` is an ``OtherFormat``; else each token is a plain ``str``."""
    caller = Caller()
    caller.call(["a", "b", "c", "d", "e"], KEY._replace(marks_other=marks))
    [request] = caller.take()
    assert payload_of(request).keys() == {"id", "op", "client_id", "reply_to", "expires_at", "items"}
    caller.reply(reply_to(request, items=MIXED))
    answers = caller.outcomes[0]
    assert isinstance(answers, list)
    assert [type(answer) for answer in answers] == [OtherFormat if marks else str, str, TokenNotFound, int, str]
    assert [answers[0], answers[1], answers[3], answers[4]] == ["A", "B", 5, "C"]


def test_calls_with_marks_share_no_request_with_others() -> None:
    """A request is of calls that all want marks, or of calls that all want none."""
    caller = Caller(gather_seconds=1.0)
    for marks in (False, True, True, False):
        caller.call(["a"], KEY._replace(marks_other=marks))
    requests = caller.take()
    assert [len(request.parts) for request in requests] == [1, 2, 1]
    for request in requests:
        caller.reply(reply_to(request, items=[{"value": "A", "format": "other"}] * len(request.parts)))
    kinds = [type(answer) for number in range(4) for answer in caller.outcomes[number]]  # type: ignore[union-attr]
    assert kinds == [str, OtherFormat, OtherFormat, str]


def test_refused_request_ends_all_its_calls_each_with_an_error_of_its_own() -> None:
    """Calls that share a request share its refusal, but no exception: what is raised holds on to its caller."""
    caller = Caller(gather_seconds=1.0)
    caller.call(["a"])
    caller.call(["b"])
    [request] = caller.take()
    caller.reply(reply_to(request, error={"code": "unknown_client", "message": "there is no key"}))
    one, other = caller.outcomes[0], caller.outcomes[1]
    assert isinstance(one, UnknownClient)
    assert isinstance(other, UnknownClient)
    assert one is not other
    assert (one.code, str(one)) == (other.code, str(other))
    assert caller.released == 2


def test_rest_of_a_call_that_failed_is_let_go_of() -> None:
    """If one of a call's requests was refused, the next sweep frees the room of the others."""
    caller = Caller(RequestLimits(items=1))
    caller.call(["a", "b", "c"])
    first, _ = caller.take(2)
    caller.reply(reply_to(first, error={"code": "internal", "message": "failed"}))
    caller.requests.sweep()
    assert caller.released == 3
    assert caller.requests.is_idle
    assert caller.take() == []


def test_request_in_doubt_is_sent_again_as_it_was_while_somebody_waits() -> None:
    """A request in doubt goes before new ones, with the same id, so that the first reply to either sending counts."""
    caller = Caller()
    caller.call(["a"])
    caller.call(["b"])
    one, other = caller.take()
    caller.call(["c"])
    caller.requests.requeue([one, other])
    assert caller.requests.next_at() == 0.0
    caller.answer(other)
    again, new = caller.take()
    assert again is one
    assert values_of(new) == ["c"]
    caller.answer(again)
    caller.requests.requeue([one, other])
    assert caller.requests.next_at() is None
    assert [caller.outcomes[number] for number in (0, 1)] == [["A"], ["B"]]


def test_swept_request_is_not_sent_again_nor_kept() -> None:
    """A request that waited to be sent again is forgotten when its call ends, with its payload."""
    caller = Caller()
    call = caller.call([MARKER])
    caller.requests.requeue(caller.take())
    call.end(TimedOut("late"))
    caller.requests.sweep()
    assert caller.requests.next_at() is None
    assert not caller.requests._requeued
    assert caller.released == 1


def test_call_that_is_over_is_not_sent() -> None:
    """A part whose caller gave up before it was sent never is; the others go on."""
    caller = Caller()
    caller.call(["a"]).end(ClientClosed("closed"))
    caller.call(["b"])
    assert [*map(values_of, caller.take())] == [["b"]]
    assert caller.released == 1
    caller.call(["c"]).end(None)
    caller.requests.sweep()
    assert caller.released == 2
    assert caller.requests.next_at() is None


def test_sweep_keeps_what_somebody_waits_for() -> None:
    """A request that several calls share stays as long as one of them waits."""
    caller = Caller(gather_seconds=1.0)
    gone = caller.call(["a"])
    caller.call(["b"])
    [request] = caller.take()
    gone.end(None)
    caller.requests.sweep()
    caller.answer(request)
    assert caller.outcomes == {1: ["B"]}
    assert caller.released == 2


def test_reply_that_comes_too_late_is_passed_over() -> None:
    """A call that is over takes no answer, and nothing of it is kept."""
    caller = Caller()
    call = caller.call(["a"])
    [request] = caller.take()
    call.end(call.timeout_error())
    caller.answer(request)
    assert isinstance(caller.outcomes[0], TimedOut)
    assert call._answers is None


def test_request_that_cannot_be_sent_fails_once() -> None:
    """A final refusal by the server ends the call; a later reply to it belongs to no call."""
    caller = Caller()
    caller.call(["a"])
    [request] = caller.take()
    caller.end(caller.requests.fail(request, ClientClosed("closed")))
    caller.end(caller.requests.fail(request, ClientClosed("closed")))
    caller.answer(request)
    assert isinstance(caller.outcomes[0], ClientClosed)
    assert caller.released == 1


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"items": []},
        {"items": [{"value": "A"}, {"value": "B"}]},
        {"items": ["value"]},
        {"items": [{"value": None}]},
        {"items": [{"value": True}]},
        {"items": [{"value": 1.5}]},
        {"items": [{"value": ["A"]}]},
        {"items": [{}]},
        {"items": [{"error": None}]},
        {"items": [{"error": {"code": 7, "message": "x"}}]},
        {"items": 5},
        {"items": {"a": 1}},
        {"error": {"code": "internal"}},
        {"error": {"code": "internal", "message": b"x"}},
        {"error": ["code", "message"]},
        {"value": "A"},
    ],
    ids=str,
)
def test_reply_that_is_none_of_the_contract_is_an_error(members: dict[str, Any]) -> None:
    """A reply to one's own request that cannot be right ends the call with ``BadReply``, never with a wrong token."""
    caller = Caller()
    caller.call(["a"])
    [request] = caller.take()
    caller.reply(reply_to(request, **members))
    assert isinstance(caller.outcomes[0], BadReply)
    assert caller.requests.is_idle


def test_code_of_a_newer_worker_is_told_as_it_is() -> None:
    """A code that is not known here is an error with that code, for which nothing is promised."""
    caller = Caller()
    caller.call(["a"])
    [request] = caller.take()
    caller.reply(reply_to(request, error={"code": "brand_new", "message": "x"}, more=1))
    error = caller.outcomes[0]
    assert isinstance(error, RequestRefused)
    assert (type(error), error.code, error.retry) == (RequestRefused, "brand_new", "after a fix")


anything: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.just("id"), inner, max_size=3),
    max_leaves=6,
)


@given(payload=st.binary(max_size=60) | anything.map(msgspec.msgpack.encode) | anything.map(str).map(str.encode))
def test_what_others_wrote_is_passed_over(payload: bytes) -> None:
    """Any foreign entry on a shared stream raises no error, and ends no call."""
    caller = Caller()
    caller.call(["a"])
    [request] = caller.take()
    caller.reply(payload)
    assert caller.outcomes == {}
    caller.answer(request)
    assert caller.outcomes == {0: ["A"]}


HOSTILE = {
    "empty": b"",
    "text that is no UTF-8": b"\x81\xa2id\xa1\xff",
    "a list nested deeply": b"\x91" * 100_000,
    "a list of 4 billion": b"\xdd\xff\xff\xff\xff",
    "an id that is a list": b"\x81\xa2id\x91\x01",
    "an id that is a map": b"\x81\xa2id\x81\x01\x01",
    "a time that is none": b"\xc7\x0c\xff" + b"\xff" * 12,
    "our reply as JSON": b'{"id": "%s"}',
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bytes_are_passed_over(name: str) -> None:
    """Bytes that break decoders, or that look like ours, do not break the client."""
    caller = Caller()
    caller.call(["a"])
    [request] = caller.take()
    caller.reply(HOSTILE[name].replace(b"%s", request.id.encode()))
    assert caller.outcomes == {}


@given(members=st.dictionaries(st.sampled_from(["items", "error", "value", "status"]), anything))
def test_any_reply_with_our_id_ends_the_call(members: dict[str, Any]) -> None:
    """Any reply to a call's own request ends the call, with the right number of answers or with an error."""
    caller = Caller()
    caller.call(["a"])
    [request] = caller.take()
    caller.reply(reply_to(request, **members))
    outcome = caller.outcomes[0]
    assert isinstance(outcome, TokenClientError) or len(outcome) == 1
