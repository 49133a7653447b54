"""``token-worker replay`` and ``dead-letters``: entries that are sent again, or not, and their replies."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness import quick
from harness.servers import Valkey
from harness.stack import Stack, wait_until
from token_worker.admin import replay as replay_module
from token_worker.admin.dead_letters import DeadLetters
from token_worker.admin.replay import Replay, Selection
from token_worker.admin.reply_comparison import ReplyComparison, ResentRequest
from token_worker.contract.messages import Op
from token_worker.redis.address import RedisSettings
from token_worker.redis.exchange import drive
from token_worker.redis.link import RedisLink
from token_worker.streams.reads import READ_BYTES
from token_worker.streams.routes import Route
from token_worker.streams.stream_ids import LAST_ID

CLIENT = "shop-frontend"
STREAM = "tokenize:requests"
ROUTE = Route(STREAM, "tokenize:responses", frozenset({Op.TOKENIZE}))


def requests(count: int, **more: Any) -> list[dict[str, Any]]:
    return [
        {"id": f"r{number}", "op": "tokenize", "client_id": CLIENT, "type": "str", "value": f"value {number}", **more}
        for number in range(count)
    ]


def payloads(stack: Stack, stream: str = STREAM) -> list[dict[str, Any]]:
    return [json.loads(fields[b"payload"]) for _, fields in stack.streams.xrange(stream)]


class Scale(RedisLink):
    """A link that tells how many bytes of entries its largest reply had."""

    most_bytes = 0

    def call(self, *command: Any) -> Any:
        reply = super().call(*command)
        if command[0] == "XRANGE":
            self.most_bytes = max(self.most_bytes, sum(len(part) for _, fields in reply for part in fields))
        return reply


@pytest.fixture
def scale(streams_server: Valkey) -> Iterator[Scale]:
    """A link to the streams' server."""
    with closing(Scale("streams", RedisSettings(url=streams_server.url), raise_server_errors=True)) as link:
        yield link


def test_replay_of_a_range_twice_gives_the_same_tokens(stack: Stack) -> None:
    """Two replays of a range are answered with the first tokens, inconsistent ones too, with counts 1 and 2."""
    stack.start_worker()
    stack.send(requests(150) + [{**request, "id": f"i{request['id']}"} for request in requests(30, consistent=False)])
    stack.wait_for_replies(180)
    last = stack.streams.xrevrange(STREAM, count=1)[0][0].decode()
    for count in (1, 2):
        done = stack.run("replay", "--from", "0-0", "--to", last)
        assert done.returncode == 0, done.stderr
        assert "sent: 180" in done.stdout
        assert "180 as before, 0 differ" in done.stdout
        replies = stack.wait_for_replies(180 * (count + 1))
        assert [reply.get("replay") for reply in replies[-180:]] == [count] * 180
    tokens: dict[str, set[str]] = {}
    for reply in stack.replies():
        tokens.setdefault(reply["id"], set()).add(reply["value"])
    assert {len(found) for found in tokens.values()} == {1}
    again = stack.run("replay", "--from", "0-0", "--json")
    totals = json.loads(again.stdout.splitlines()[-1])
    assert (totals["send"], totals["replay"]) == (180, 360)
    assert {request["replay_of"] for request in payloads(stack)[180:360]} == {
        request["replay_of"] for request in payloads(stack)[360:540]
    }


def test_replay_of_a_replay_names_the_first_request(stack: Stack) -> None:
    """A replay that is itself replayed, by its id or as a dead letter, names the request that was sent first.

    Its inconsistent token is then the same again.
    """
    stack.start_worker()
    first = stack.send(requests(1, consistent=False))[0].decode()
    stack.wait_for_replies(1)
    named = first
    for count in (1, 2, 3):
        assert stack.run("replay", "--ids", named, "--stream", STREAM).returncode == 0
        named = stack.streams.xrevrange(STREAM, count=1)[0][0].decode()
        assert (payloads(stack)[-1]["replay_of"], payloads(stack)[-1]["replay"]) == (first, count)
    fields = stack.streams.xrevrange(STREAM, count=1)[0][1]
    dead = {"dead_reason": "deliveries_exhausted", "dead_stream": STREAM, "dead_entry": named, "dead_deliveries": 6}
    letter = stack.streams.xadd(f"{STREAM}:dead", {**dead, **fields}).decode()
    done = stack.run("dead-letters", "replay", letter)
    assert done.returncode == 0, done.stderr
    assert (payloads(stack)[-1]["replay_of"], payloads(stack)[-1]["replay"]) == (first, 4)
    assert len({reply["value"] for reply in stack.wait_for_replies(5)}) == 1


def test_replay_in_messagepack_loses_its_expiry(stack: Stack) -> None:
    """A request in MessagePack that has expired meanwhile is answered again, with the same trace context."""
    stack.start_worker()
    request = {**requests(1)[0], "expires_at": int(time.time() * 1000) + 5000, "type": "bytes", "value": b"\x00\xff"}
    fields = {"payload": msgspec.msgpack.encode(request), "traceparent": "00-a-b-01", "tracestate": "x=y"}
    first = stack.streams.xadd(STREAM, fields)
    stack.wait_for_replies(1)
    done = stack.run("replay", "--ids", first.decode(), "--stream", STREAM)
    assert done.returncode == 0, done.stderr
    [_, (_, sent)] = stack.streams.xrange(STREAM)
    message = msgspec.msgpack.decode(sent[b"payload"])
    assert message == {
        **{name: member for name, member in request.items() if name != "expires_at"},
        "replay": 1,
        "replay_of": first.decode(),
    }
    assert (sent[b"traceparent"], sent[b"tracestate"]) == (b"00-a-b-01", b"x=y")


def test_what_will_be_answered_anyway_is_not_sent(stack: Stack) -> None:
    """Undelivered and pending entries are sent only with --force. --dry-run sends nothing."""
    ids = stack.send(requests(6))
    stack.streams.xgroup_create(STREAM, "token-workers", id="0")
    stack.streams.xreadgroup("token-workers", "somebody", {STREAM: ">"}, count=4)
    stack.streams.xack(STREAM, "token-workers", ids[0], ids[2])
    dry = stack.run("replay", "--from", "0-0", "--dry-run")
    assert dry.returncode == 0, dry.stderr
    decisions = [line.split()[0] for line in dry.stdout.splitlines()[:6]]
    assert decisions == ["send", "pending", "send", "pending", "undelivered", "undelivered"]
    assert stack.streams.xlen(STREAM) == 6
    assert not stack.streams.exists(f"{STREAM}:replay")
    assert stack.run("replay", "--from", "0-0", "--no-wait").stdout.startswith("sent: 2\n")
    assert [request["id"] for request in payloads(stack)[6:]] == ["r0", "r2"]
    forced = stack.run("replay", "--ids", ids[5].decode(), "--stream", STREAM, "--force", "--no-wait")
    assert forced.stdout.startswith("sent: 1\n")


def test_nothing_is_sent_without_a_group(stack: Stack) -> None:
    """If the group does not exist, every entry is undelivered."""
    stack.send(requests(3))
    done = stack.run("replay", "--from", "0-0", "--no-wait")
    assert "not sent: 3 still undelivered" in done.stdout
    assert stack.streams.xlen(STREAM) == 3


def test_client_op_and_times_choose_requests(stack: Stack) -> None:
    """--client, --op and ISO times choose among the requests."""
    stack.generate_key("other-client")
    stack.start_worker()
    stack.send(requests(3) + [{**request, "client_id": "other-client"} for request in requests(2)])
    stack.wait_for_replies(5)
    only = stack.run("replay", "--from", "2020-01-01", "--client", "other-client", "--dry-run")
    assert "would be sent: 2" in only.stdout
    assert "would be sent: 0" in stack.run("replay", "--to", "2020-01-01T00:00:00Z", "--dry-run").stdout
    assert "would be sent: 0" in stack.run("replay", "--from", "0-0", "--op", "detokenize", "--dry-run").stdout


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--from", "yesterday"),
        ("--ids", "1-x", "--stream", STREAM),
        ("--ids", "1-0"),
        ("--ids", "1-0", "--from", "0"),
        ("--from", "0", "--reason", "x"),
        ("--resume", "--from", "0"),
        ("--from", "0", "--stream", "no-such-route"),
        ("--from", "0", "--rate", "0"),
        ("--from", "0", "--op", "encrypt"),
    ],
)
def test_wrong_arguments_are_wrong_usage(stack: Stack, arguments: tuple[str, ...]) -> None:
    """Wrong arguments get exit status 2 and a hint, and nothing is sent."""
    done = stack.run("replay", *arguments)
    assert done.returncode == 2
    assert done.stderr
    assert not stack.streams.exists(STREAM)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_replay_that_was_cut_short_goes_on_where_it_stopped(stack: Stack, number: int) -> None:
    """After Ctrl-C, or a kill at any point, --resume sends the rest: everything once, nothing twice."""
    stack.start_worker()
    stack.send(requests(400))
    stack.wait_for_replies(400)
    command = [sys.executable, "-m", "token_worker", "replay", "--from", "0-0", "--no-wait"]
    paced = [*command, "--rate", "20"]  # far from its end when it is stopped
    sent = 400
    with quick.Popen(paced, env=stack.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        wait_until(lambda: stack.streams.xlen(STREAM) > sent + 20, "some replayed requests")
        os.kill(process.pid, number)
        process.wait(90)
        assert process.returncode == (1 if number == signal.SIGINT else -number)
    assert stack.streams.xlen(STREAM) < 800
    refused = stack.run("replay", "--from", "0-0", "--no-wait")
    assert refused.returncode == 1
    assert "--resume" in refused.stderr
    done = stack.run("replay", "--resume", "--no-wait")
    assert done.returncode == 0, done.stderr
    assert [request["id"] for request in payloads(stack)[400:]] == [f"r{index}" for index in range(400)]
    assert stack.run("replay", "--resume").returncode == 1


def test_forgotten_replay_is_over(stack: Stack) -> None:
    """--forget takes the record away, so that another replay can begin; one still running stops."""
    stack.start_worker()
    stack.send(requests(100))
    stack.wait_for_replies(100)
    command = [sys.executable, "-m", "token_worker", "replay", "--from", "0-0", "--rate", "20"]
    with quick.Popen(command, env=stack.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        wait_until(lambda: stack.streams.xlen(STREAM) > 100, "a replayed request")
        assert stack.run("replay", "--forget").stdout.startswith(f"forgotten: {STREAM}")
        _, errors = process.communicate(timeout=90)
    assert process.returncode == 1
    assert b"or forgot it" in errors
    assert stack.run("replay", "--forget").returncode == 1


def test_lost_token_storage_is_made_again_by_a_replay(stack: Stack) -> None:
    """After the token storage was emptied a replay brings back every consistent token, and each can be detokenized.

    A value first tokenized under an older key gets another token, and is listed as different.
    """
    stack.start_worker()
    old = stack.ask([{**requests(1)[0], "id": "old", "value": "before the rotation"}])["old"]
    assert stack.run("keys", "rotate", CLIENT, "--yes").returncode == 0
    for worker in stack.workers:
        worker.stop()
    stack.start_worker()
    before = stack.ask(requests(200))
    stack.storage.delete(*stack.storage.keys("tokens/*"))
    done = stack.run("replay", "--from", "0-0")
    assert done.returncode == 1
    assert "200 as before, 1 differ" in done.stdout
    [line] = [line for line in done.stdout.splitlines() if line.startswith("differs:")]
    assert line.startswith(f"differs: {old['request_entry']} ")
    assert line.endswith("request old")
    back = stack.ask(
        [
            {"id": name, "op": "detokenize", "client_id": CLIENT, "type": "str", "value": reply["value"]}
            for name, reply in before.items()
        ],
        "detokenize",
    )
    assert {name: reply["value"] for name, reply in back.items()} == {
        request["id"]: request["value"] for request in requests(200)
    }


def test_reply_to_streams_are_compared(stack: Stack) -> None:
    """A reply that went to a stream of its own is compared there."""
    stack.start_worker()
    stack.send([{**requests(1)[0], "reply_to": "tokenize:responses:mine"}])
    stack.wait_for_replies(1, "tokenize:responses:mine")
    done = stack.run("replay", "--from", "0-0")
    assert done.returncode == 0, done.stderr
    assert "1 as before" in done.stdout


def dead_letter(
    stack: Stack, request: dict[str, Any], reason: str = "deliveries_exhausted", entry: str = "5-0"
) -> bytes:
    """A dead letter as ``dead_letter.lua`` writes it."""
    fields: dict[str, Any] = {"dead_reason": reason, "dead_stream": STREAM, "dead_entry": entry, "dead_deliveries": 6}
    letter: bytes = stack.streams.xadd(f"{STREAM}:dead", {**fields, "payload": json.dumps(request)})
    return letter


def test_dead_letters_are_listed_shown_and_replayed(stack: Stack) -> None:
    """A dead letter is listed and shown without its value, and sent again under the id it first had."""
    stack.start_worker()
    letter = dead_letter(stack, {**requests(1)[0], "value": "a canary", "expires_at": 1}).decode()
    said = {"id": "r0", "request_entry": "5-0", "status": "error", "error": {"code": "internal", "message": "-"}}
    stack.streams.xadd("tokenize:responses", {"payload": json.dumps(said)})
    unreadable = stack.streams.xadd(
        f"{STREAM}:dead",
        {"dead_reason": "id_missing", "dead_stream": STREAM, "dead_entry": "6-0", "dead_deliveries": 1, "payload": "{"},
    ).decode()
    listed = stack.run("dead-letters", "list", "--json")
    rows = [json.loads(line) for line in listed.stdout.splitlines()]
    assert [(row["id"], row["reason"], row["deliveries"], row["entry"]) for row in rows] == [
        (letter, "deliveries_exhausted", 6, "5-0"),
        (unreadable, "id_missing", 1, "6-0"),
    ]
    assert rows[0]["request_id"] == "r0"
    for arguments in (("list",), ("show", letter), ("show", letter, "--json")):
        shown = stack.run("dead-letters", *arguments)
        assert shown.returncode == 0, shown.stderr
        assert "deliveries_exhausted" in shown.stdout
        assert "canary" not in shown.stdout + shown.stderr
    done = stack.run("dead-letters", "replay", "--all")
    assert done.returncode == 1  # one cannot be read, and stays
    assert "sent: 1" in done.stdout
    assert "0 differ" in done.stdout
    _, reply = stack.wait_for_replies(2)
    assert (reply["status"], reply["replay"]) == ("ok", 1)
    assert payloads(stack)[0]["replay_of"] == "5-0"
    assert [entry_id.decode() for entry_id, _ in stack.streams.xrange(f"{STREAM}:dead")] == [unreadable]


def test_age_of_a_dead_letter_whose_id_is_ahead_of_the_clock(stack: Stack) -> None:
    """An id ahead of the clock has no age of 0: the command says so, or tells the age by the noted arrival."""
    seconds = stack.streams.time()[0]
    dead = {"dead_reason": "a reason", "dead_stream": STREAM, "dead_entry": "5-0", "dead_deliveries": 6, "payload": "{"}
    ids = ["5-0", f"{(seconds - 100) * 1000}-0", f"{(seconds + 86_400) * 1000}-0", f"{(seconds + 86_400) * 1000}-1"]
    for entry_id in ids[:3]:
        stack.streams.xadd(f"{STREAM}:dead", dead, id=entry_id)
    rows = [json.loads(line) for line in stack.run("dead-letters", "list", "--json").stdout.splitlines()]
    assert [row["age_seconds"] is None for row in rows] == [True, False, True]
    assert 100 <= rows[1]["age_seconds"] < 200
    assert (rows[0]["ahead_seconds"], rows[1]["ahead_seconds"]) == (0, 0)
    assert 86_000 < rows[2]["ahead_seconds"] <= 86_400
    table = stack.run("dead-letters", "list", COLUMNS="200").stdout
    assert ("ahead of the clock" in table, "unknown" in table) == (True, True)
    # With a note that all was there before that last one arrived, an age is told.
    stack.streams.set(f"{STREAM}:arrivals:dead-letters", f"{(seconds - 50) * 1000} {ids[2]}")
    stack.streams.xadd(f"{STREAM}:dead", dead, id=ids[3])
    shown = json.loads(stack.run("dead-letters", "show", ids[3], "--json").stdout)
    assert 50 <= shown["age_seconds"] < 150


def test_revealed_payload_is_audited_first(stack: Stack, tmp_path: Path) -> None:
    """--reveal asks, leaves a line without the value in the audit log, and only then shows the payload."""
    letter = dead_letter(stack, {**requests(1)[0], "value": "a canary"}).decode()
    setting = str(tmp_path / "audit.log")
    options = ("dead-letters", "show", letter, "--reveal")
    unasked = stack.run(*options, TOKEN_WORKER_AUDIT_FILE=setting)
    assert unasked.returncode == 2
    assert "canary" not in unasked.stdout + unasked.stderr
    shown = stack.run(*options, "--yes", TOKEN_WORKER_AUDIT_FILE=setting)
    assert "a canary" in shown.stdout
    [audit] = tmp_path.glob("audit-commands-*.log")
    line = json.loads(audit.read_text())
    assert (line["event"], line["logger"], line["entry"], line["request_id"]) == ("reveal", "audit", letter, "r0")
    assert "canary" not in audit.read_text()
    for refused in (str(tmp_path), ""):  # a folder, and no file at all
        unaudited = stack.run(*options, "--yes", TOKEN_WORKER_AUDIT_FILE=refused)
        assert unaudited.returncode == 2
        assert "canary" not in unaudited.stdout + unaudited.stderr


def test_dropped_dead_letters_are_gone(stack: Stack) -> None:
    """``drop`` deletes those that were named, asks before, and says when one is not there."""
    kept = dead_letter(stack, requests(1)[0], "id_missing").decode()
    gone = dead_letter(stack, requests(1)[0]).decode()
    assert stack.run("dead-letters", "drop", gone, "--dry-run").stdout == "would be dropped: 1\n"
    assert stack.run("dead-letters", "drop", gone).returncode == 2
    assert stack.streams.xlen(f"{STREAM}:dead") == 2
    assert stack.run("dead-letters", "drop", gone, "--yes").stdout == "dropped: 1\n"
    assert [entry_id.decode() for entry_id, _ in stack.streams.xrange(f"{STREAM}:dead")] == [kept]
    missing = stack.run("dead-letters", "drop", gone, "--yes")
    assert missing.returncode == 1
    assert gone in missing.stderr
    assert stack.run("dead-letters", "drop").returncode == 2
    assert stack.run("dead-letters", "drop", "--reason", "id_missing", "--yes").stdout == "dropped: 1\n"


def test_replayed_dead_letters_may_be_kept(stack: Stack) -> None:
    """With --keep a dead letter is sent and stays; `replay --dead-letters` does the same without."""
    stack.start_worker()
    letter = dead_letter(stack, requests(1)[0]).decode()
    assert stack.run("dead-letters", "replay", letter, "--keep").returncode == 0
    assert stack.streams.xlen(f"{STREAM}:dead") == 1
    done = stack.run("replay", "--dead-letters", "--reason", "deliveries_exhausted")
    assert done.returncode == 0, done.stderr
    assert stack.streams.xlen(f"{STREAM}:dead") == 0
    assert [reply["replay"] for reply in stack.wait_for_replies(2)] == [1, 1]


def test_dead_letter_that_cannot_be_sent_stays(stack: Stack) -> None:
    """If the request stream cannot take a dead letter, it stays where it is, and the command says so."""
    letter = dead_letter(stack, requests(1)[0]).decode()
    stack.streams.set(STREAM, "no stream")
    done = stack.run("dead-letters", "replay", letter, "--no-wait")
    assert done.returncode == 2
    assert "UNFIT" in done.stderr
    assert [entry_id.decode() for entry_id, _ in stack.streams.xrange(f"{STREAM}:dead")] == [letter]
    stack.streams.delete(STREAM)
    assert stack.run("replay", "--resume", "--no-wait").stdout == "sent: 1\n"
    assert stack.streams.xlen(f"{STREAM}:dead") == 0


@pytest.mark.parametrize("left", [0, 2])
def test_dead_letters_stay_where_the_ids_of_their_stream_are_used_up(stack: Stack, left: int) -> None:
    """Sent requests are not sent again, and the others are still there; --resume sends them when that is possible."""
    letters = [dead_letter(stack, request).decode() for request in requests(4)]
    stack.streams.xadd(STREAM, {"x": "y"}, id=f"{2**64 - 1}-{2**64 - 1 - left}")
    done = stack.run("dead-letters", "replay", "--all", "--no-wait")
    assert done.returncode == 2
    assert "UNFIT" in done.stderr
    assert [entry_id.decode() for entry_id, _ in stack.streams.xrange(f"{STREAM}:dead")] == letters[left:]
    sent = [request["id"] for request in map(json.loads, _payloads_there(stack))]
    stack.streams.delete(STREAM)
    assert stack.run("replay", "--resume", "--no-wait").stdout == f"sent: {4 - left}\n"
    sent += [request["id"] for request in payloads(stack)]
    assert sent == [f"r{number}" for number in range(4)]
    assert stack.streams.xlen(f"{STREAM}:dead") == 0


def test_count_of_a_replay_is_one_more_than_the_largest(scale: Scale) -> None:
    """Earlier replays are counted by the largest count among them, in whatever order they are in the stream."""
    first = scale.call("XADD", STREAM, "*", "payload", json.dumps(requests(1)[0])).decode()
    for count in (1, 3, 2):
        again = {**requests(1)[0], "replay": count, "replay_of": first}
        scale.call("XADD", STREAM, "*", "payload", json.dumps(again))
    replay = Replay([ROUTE], "token-workers", Selection(stream=STREAM, force=True))
    drive(replay.prepare(), scale)
    page = drive(replay.next_page(), scale)
    assert page is not None
    assert (page[0].decision, json.loads(page[0].payload)["replay"]) == ("send", 4)


def test_all_that_is_pending_is_left_however_much_lies_between(scale: Scale, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of entries that are named, those at the end of many pending ones are found to be pending, too."""
    monkeypatch.setattr(replay_module, "PAGE_ENTRIES", 2)
    ids = [scale.call("XADD", STREAM, "*", "payload", json.dumps(request)).decode() for request in requests(7)]
    scale.call("XGROUP", "CREATE", STREAM, "token-workers", "0")
    scale.call("XREADGROUP", "GROUP", "token-workers", "me", "STREAMS", STREAM, ">")
    replay = Replay([ROUTE], "token-workers", Selection(stream=STREAM, ids=(ids[0], ids[6])))
    decisions: dict[str, str] = {}
    while page := drive(replay.next_page(), scale):
        decisions |= {row.entry: row.decision for row in page}
    assert decisions == {ids[0]: "pending", ids[6]: "pending"}


LARGE = "x" * (1 << 20)
PAYLOADS = [json.dumps({"id": f"r{number}", "value": LARGE if number % 5 else "x"}) for number in range(60)]
"""Small ones among the large ones: COUNT grows in between."""


def test_pages_of_a_replay_are_bounded_in_bytes(scale: Scale) -> None:
    """A replay holds a few of many large requests at a time, also while it looks for earlier replays."""
    for payload in PAYLOADS:
        scale.call("XADD", STREAM, "*", "payload", payload)
    replay = Replay([ROUTE], "token-workers", Selection(stream=STREAM, force=True))
    drive(replay.prepare(), scale)
    found = []
    while page := drive(replay.next_page(), scale):
        assert sum(len(row.payload) for row in page) <= READ_BYTES
        found += [row.request_id for row in page]
    assert found == [f"r{number}" for number in range(60)]
    assert scale.most_bytes <= READ_BYTES


def test_named_entries_of_a_replay_are_bounded_in_bytes(scale: Scale) -> None:
    """Large requests that are named by their ids are read and sent a few at a time."""
    ids = [scale.call("XADD", STREAM, "*", "payload", payload).decode() for payload in PAYLOADS]
    replay = Replay([ROUTE], "token-workers", Selection(stream=STREAM, force=True, ids=(*ids, "7-7")))
    found = []
    while page := drive(replay.next_page(), scale):
        assert sum(len(row.payload) for row in page) <= READ_BYTES
        found += [row.request_id for row in page]
    assert found == [f"r{number}" for number in range(60)]
    assert replay.missing == {"7-7"}


def test_pages_of_replies_are_bounded_in_bytes(scale: Scale) -> None:
    """The replies to replayed requests are compared a few at a time."""
    for number in range(60):
        reply = {"id": f"r{number}", "request_entry": f"{number}-1", "status": "ok", "value": LARGE}
        scale.call("XADD", "tokenize:responses", f"{number}-2", "payload", json.dumps(reply))
    sent = [
        ResentRequest("1-0", "0-1", f"{number}-1", f"r{number}", ("tokenize:responses",), was_answered=True)
        for number in range(60)
    ]
    assert drive(ReplyComparison(sent).read_replies(), scale) == 0
    assert scale.most_bytes <= READ_BYTES


def test_pages_of_dead_letters_are_bounded_in_bytes(scale: Scale) -> None:
    """Large dead letters are listed a few at a time."""
    for payload in PAYLOADS:
        scale.call("XADD", f"{STREAM}:dead", "*", "dead_reason", "a reason", "payload", payload)
    letters, found = DeadLetters(ROUTE), []
    while page := drive(letters.next_page(), scale):
        found += [letter.request_id for letter, _ in page]
    assert found == [f"r{number}" for number in range(60)]
    assert scale.most_bytes <= READ_BYTES


def test_entries_with_the_largest_id_are_read_like_others(stack: Stack) -> None:
    """A request, a reply and a dead letter with the last id of all end a range, a comparison and a list."""
    stack.streams.xadd(STREAM, {"payload": json.dumps(requests(1)[0])}, id=LAST_ID)
    stack.start_worker()
    stack.wait_for_replies(1)
    stack.streams.xadd(f"{STREAM}:dead", {"dead_reason": "a reason", "payload": json.dumps(requests(1)[0])}, id=LAST_ID)
    dry = stack.run("replay", "--from", "0-0", "--dry-run", "--json")
    assert (dry.returncode, json.loads(dry.stdout.splitlines()[-1])["send"]) == (0, 1), dry.stderr
    listed = stack.run("dead-letters", "list", "--json")
    assert (listed.returncode, json.loads(listed.stdout)["id"]) == (0, LAST_ID), listed.stderr
    reply = {"id": "r0", "request_entry": "2-0", "status": "ok", "value": "x"}
    stack.streams.xadd("tokenize:responses", {"payload": json.dumps(reply)}, id=LAST_ID)
    comparison = ReplyComparison([ResentRequest("1-0", "1-0", "2-0", "r0", ("tokenize:responses",), was_answered=True)])
    with closing(RedisLink("streams", RedisSettings(url=stack.settings["TOKEN_WORKER_STREAMS_URL"]))) as link:
        assert [drive(comparison.read_replies(), link) for _ in range(2)] == [0, 0]


def _payloads_there(stack: Stack) -> list[bytes]:
    return [fields[b"payload"] for _, fields in stack.streams.xrange(STREAM) if b"payload" in fields]


def test_named_entries_that_are_not_there_are_told(stack: Stack) -> None:
    """An id that was named and is not there is a finding that names it; the others are sent."""
    letter = dead_letter(stack, requests(1)[0]).decode()
    done = stack.run("dead-letters", "replay", letter, "1-1", "--no-wait")
    assert done.returncode == 1
    assert "sent: 1" in done.stdout
    assert "no such entries: 1-1" in done.stderr
    assert stack.streams.xlen(f"{STREAM}:dead") == 0
    stack.streams.xgroup_create(STREAM, "token-workers", "$", mkstream=True)
    done = stack.run("replay", "--stream", STREAM, "--ids", "7-7", "--no-wait")
    assert done.returncode == 1
    assert "no such entries: 7-7" in done.stderr


def test_dead_letters_of_one_request_stream_alone(stack: Stack) -> None:
    """If routes share a dead-letter stream, --stream sends only the dead letters of that request stream."""
    routes = [
        {"requests": name, "responses": "out", "ops": ["tokenize"], "dead_letters": "dead"} for name in ("one", "two")
    ]
    for name in ("one", "two"):
        fields: dict[str, Any] = {"dead_reason": "id_missing", "dead_stream": name, "dead_entry": "5-0"}
        stack.streams.xadd("dead", {**fields, "dead_deliveries": 6, "payload": json.dumps(requests(1)[0])})
    options = ("replay", "--dead-letters", "--stream", "one", "--no-wait")
    done = stack.run(*options, TOKEN_WORKER_ROUTES=json.dumps(routes))
    assert done.returncode == 0, done.stderr
    assert "sent: 1" in done.stdout
    assert (stack.streams.xlen("one"), stack.streams.xlen("two")) == (1, 0)
    [(_, left)] = stack.streams.xrange("dead")
    assert left[b"dead_stream"] == b"two"


def test_full_server_loses_no_dead_letter(redis82_server: Valkey, storage_server: Valkey) -> None:
    """At the server's memory limit nothing is sent and nothing deleted; with memory again --resume continues."""
    with Stack(redis82_server, storage_server) as stack:
        letter = dead_letter(stack, requests(1)[0]).decode()
        begun = stack.run("dead-letters", "replay", letter, "--dry-run")
        assert "would be sent: 1" in begun.stdout
        stack.streams.config_set("maxmemory", 1)
        try:
            assert stack.run("dead-letters", "replay", letter, "--no-wait").returncode == 3
        finally:
            stack.streams.config_set("maxmemory", 0)
        assert stack.streams.xlen(f"{STREAM}:dead") == 1
        assert stack.streams.xlen(STREAM) == 0


def test_ids_that_are_none_break_nothing(stack: Stack) -> None:
    """A ``replay_of`` or ``dead_entry`` that is no stream id, as anybody may write it, is no reason to fail."""
    stack.start_worker()
    odd = stack.send([{**requests(1)[0], "replay_of": "0x1", "replay": 1}])[0].decode()
    stack.wait_for_replies(1)  # it is refused
    done = stack.run("replay", "--ids", odd, "--stream", STREAM)
    assert done.returncode == 1
    assert f"differs: {odd} replayed as" in done.stdout  # a first entry like any other, and now well formed
    dead_letter(stack, requests(1)[0], entry="first")
    done = stack.run("dead-letters", "replay", "--all")
    assert done.returncode == 1
    assert "1 entry cannot be read" in done.stderr
    assert stack.streams.xlen(f"{STREAM}:dead") == 1
