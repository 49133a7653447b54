"""If a stream refuses an entry, for used-up ids or another reason, no request is acknowledged without its reply."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from harness.servers import Valkey, redis_binary, valkey_binary
from harness.stack import GROUP, Stack, has_logged, wait_until
from token_worker.contract.messages import Op
from token_worker.errors import Unavailable
from token_worker.redis.address import RedisSettings
from token_worker.redis.exchange import drive
from token_worker.redis.link import RedisLink
from token_worker.streams import pending as pending_module
from token_worker.streams.delivery import Delivery
from token_worker.streams.entry import Answer, Committed, Entry
from token_worker.streams.reads import FIRST_COUNT
from token_worker.streams.routes import Route
from token_worker.streams.stream_ids import LAST_ID

CLIENT = "shop-frontend"
LAST = 2**64 - 1
USED_UP = "ids used up"
ROUTE = Route("in", "out", frozenset({Op.TOKENIZE}))
SETTINGS = {"TOKEN_WORKER_CLAIM_IDLE_MS": "1000", "TOKEN_WORKER_MAX_DELIVERIES": "2"}


@pytest.fixture(params=[valkey_binary, redis_binary], ids=["valkey", "redis 8.2"])
def server(request: pytest.FixtureRequest) -> Iterator[Valkey]:
    """A server of this test alone."""
    with Valkey(binary=request.param()) as server:
        yield server


@pytest.fixture
def stack(server: Valkey, storage_server: Valkey) -> Iterator[Stack]:
    """Workers on it, with a client's key."""
    with Stack(server, storage_server, settings=SETTINGS) as stack:
        stack.generate_key(CLIENT)
        yield stack
        for worker in stack.workers:
            worker.kill()


@pytest.fixture
def link(server: Valkey) -> Iterator[RedisLink]:
    """A link to it."""
    with closing(RedisLink("streams", RedisSettings(url=server.url), raise_server_errors=True)) as link:
        yield link


def use_up(streams: Any, name: str, left: int = 0) -> None:
    """Add an entry after which a stream has so many ids left."""
    streams.xadd(name, {"x": "y"}, id=f"{LAST}-{LAST - left}")


def request(number: int, **more: str) -> dict[str, Any]:
    return {"id": f"r{number}", "op": "tokenize", "client_id": CLIENT, "type": "int32", "value": number, **more}


def pending(stack: Stack, stream: str = "tokenize:requests") -> int:
    try:
        return int(stack.streams.xpending(stream, GROUP)["pending"])
    except redis.ResponseError:  # no group yet
        return -1


def replies(stack: Stack, stream: str) -> list[dict[str, Any]]:
    return [
        msgspec.json.decode(fields[b"payload"]) for _, fields in stack.streams.xrange(stream) if b"payload" in fields
    ]


@pytest.mark.parametrize("left", [0, 1, 3])
def test_replies_wait_where_the_ids_of_their_stream_are_used_up(stack: Stack, tmp_path: Path, left: int) -> None:
    """Entries whose replies the stream cannot take stay pending, the log says why, and later each has one reply."""
    # Given a response stream with few ids left, and more requests, as many as a new worker reads at once
    use_up(stack.streams, "tokenize:responses", left)
    stack.send([request(number) for number in range(FIRST_COUNT)])
    log = tmp_path / "log"
    worker = stack.start_worker(log=log)
    # When a worker serves them
    wait_until(lambda: has_logged(log, "cannot be written", "tokenize:responses", USED_UP), "the worker to say so")
    # Then only those are acknowledged that were answered,
    before = replies(stack, "tokenize:responses")
    assert (len(before), pending(stack)) == (left, FIRST_COUNT - left)
    assert worker.is_alive
    # and when somebody has removed the stream, the others are answered, too.
    stack.streams.delete("tokenize:responses")
    after = stack.wait_for_replies(FIRST_COUNT - left)
    assert sorted(reply["id"] for reply in [*before, *after]) == [f"r{number}" for number in range(FIRST_COUNT)]
    assert [reply["status"] for reply in after] == ["ok"] * (FIRST_COUNT - left)
    wait_until(lambda: pending(stack) == 0, "all to be acknowledged")
    assert not stack.streams.exists("tokenize:requests:dead")


def test_named_stream_whose_ids_are_used_up_cannot_take_the_reply(stack: Stack) -> None:
    """The request is ``forbidden`` on its route's stream, as for a key of another type; neighbours are answered."""
    use_up(stack.streams, "tokenize:responses:mine", left=1)
    stack.send([request(number, reply_to="tokenize:responses:mine") for number in range(3)])
    stack.send([request(3)])
    stack.start_worker()
    answers = {reply["id"]: reply for reply in stack.wait_for_replies(3)}
    assert [answers[name]["error"]["message"] for name in ("r1", "r2")] == [
        "$.reply_to: this stream cannot take the reply"
    ] * 2
    assert answers["r3"]["status"] == "ok"
    assert [reply["id"] for reply in replies(stack, "tokenize:responses:mine")] == ["r0"]


def test_unreadable_entry_waits_where_the_ids_of_the_dead_letters_are_used_up(stack: Stack, tmp_path: Path) -> None:
    """It stays pending and is not lost: when the stream can be written again, it is a dead letter."""
    use_up(stack.streams, "tokenize:requests:dead")
    [entry] = stack.send([b"no message"])
    log = tmp_path / "log"
    stack.start_worker(log=log)
    wait_until(lambda: has_logged(log, "cannot be written", "tokenize:requests:dead", USED_UP), "the worker to say so")
    assert pending(stack) == 1
    stack.streams.delete("tokenize:requests:dead")
    wait_until(lambda: pending(stack) == 0, "the dead letter")
    [(_, dead)] = stack.streams.xrange("tokenize:requests:dead")
    assert dead[b"dead_entry"] == entry


def test_requests_on_a_stream_whose_ids_are_used_up_are_served(stack: Stack) -> None:
    """The entries of the stream are answered, while the server refuses producers."""
    stack.send([request(1)])
    stack.streams.xadd("tokenize:requests", {"payload": msgspec.json.encode(request(2))}, id=f"{LAST}-{LAST}")
    stack.start_worker()
    assert [reply["id"] for reply in stack.wait_for_replies(2)] == ["r1", "r2"]
    with pytest.raises(redis.ResponseError, match="exhausted"):
        stack.send([request(3)])


@pytest.mark.parametrize("stream", ["tokenize:requests", "tokenize:responses", "tokenize:requests:dead"])
def test_stream_whose_ids_are_used_up_serves_again_after_the_steps_of_the_documentation(
    stack: Stack, stream: str
) -> None:
    """``lag`` and ``doctor`` name the stream and the way out. Afterwards groups that were there read what is new."""
    # Given a stream whose last id was given, all of it answered and read
    stack.streams.xgroup_create("tokenize:responses", "readers", mkstream=True)
    stack.start_worker()
    stack.send([request(1)])
    wait_until(lambda: stack.streams.xlen("tokenize:responses") == 1, "the reply")
    use_up(stack.streams, stream)
    wait_until(lambda: pending(stack) == 0, "the last entry to be served")
    stack.streams.xreadgroup("readers", "one", {"tokenize:responses": ">"}, noack=True)
    # Then that is told,
    shown = stack.run("lag")
    assert f"{stream}: all ids are used up" in shown.stderr
    assert "XSETID" in shown.stderr
    checks = map(msgspec.json.decode, stack.run("doctor", "--json").stdout.splitlines())
    [found] = [check for check in checks if check["check"] == "tokenize:requests: ids"]
    assert found["status"] == "finding"
    assert f"{stream}: all ids are used up" in found["message"]
    assert "XSETID" in found["remedy"]
    # and after these commands it takes entries again.
    stack.streams.xtrim(stream, maxlen=0, approximate=False)
    last = f"{stack.streams.time()[0]}000-0"
    stack.streams.execute_command("XSETID", stream, last)
    for group in stack.streams.xinfo_groups(stream):
        stack.streams.xgroup_setid(stream, group["name"], last)
    stack.send([request(2)])
    stack.send([b"no message"])
    wait_until(lambda: stack.streams.xlen("tokenize:requests:dead") >= 1, "a dead letter")
    [(_, [(_, fields)])] = stack.streams.xreadgroup("readers", "one", {"tokenize:responses": ">"}, block=60_000)
    assert msgspec.json.decode(fields[b"payload"])["id"] == "r2"
    wait_until(lambda: pending(stack) == 0, "all to be acknowledged")
    assert "used up" not in stack.run("lag").stderr


def test_stream_with_few_ids_left_is_told(stack: Stack) -> None:
    """``lag`` says how many ids are left before the stream takes nothing any more."""
    use_up(stack.streams, "tokenize:responses", left=3)
    assert "tokenize:responses: only 3 ids are left" in stack.run("lag").stderr


def test_page_of_pending_entries_may_end_with_the_largest_id(link: RedisLink, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries that a consumer was given before are taken again where a full page of them ends with the last id."""
    monkeypatch.setattr(pending_module, "OWN_AT_ONCE", 2)
    for entry_id in ("1-1", LAST_ID):
        link.call("XADD", "in", entry_id, "payload", "x")
    link.call("XGROUP", "CREATE", "in", "group", "0")
    link.call("XREADGROUP", "GROUP", "group", "me", "STREAMS", "in", ">")
    subject = Delivery([ROUTE], "group", "me", batch_size=100, claim_idle_ms=60_000, max_deliveries=2)
    taken = [entry.id for _ in range(3) for entry in drive(subject.fetch(0.0, 0), link).entries]
    assert taken == [b"1-1", LAST_ID.encode()]


# -- the scripts


def delivered(link: RedisLink, count: int) -> tuple[Delivery, list[Entry]]:
    """Entries that are pending here."""
    subject = Delivery([ROUTE], "group", "me", batch_size=100, claim_idle_ms=60_000, max_deliveries=2)
    for number in range(count):
        link.call("XADD", "in", f"1-{number + 1}", "payload", "x")
    entries: list[Entry] = []
    while len(entries) < count:
        entries += drive(subject.fetch(0.0, 0), link).entries
    return subject, entries


def still_pending(link: RedisLink) -> int:
    return int(link.call("XPENDING", "in", "group")[0])


def test_given_up_entry_stays_where_its_producer_cannot_be_told(link: RedisLink) -> None:
    """No dead letter is left where the reply beside it was refused; once it can be written, there is one of each."""
    subject, [entry] = delivered(link, 1)
    internal = Answer(entry, b"internal")
    link.call("XADD", "out", f"{LAST}-{LAST}", "x", "y")
    assert drive(subject.dead_letter(entry, "why", internal, 0.0), link) == Committed(
        stuck=[entry], refused={"out": USED_UP}
    )
    assert (still_pending(link), link.call("XLEN", "in:dead"), subject.paused) == (1, 0, [ROUTE])
    link.call("DEL", "out")
    assert drive(subject.dead_letter(entry, "why", internal, 0.0), link) == Committed(written=1)
    assert drive(subject.dead_letter(entry, "why", internal, 0.0), link) == Committed(suppressed=1)
    assert (still_pending(link), link.call("XLEN", "in:dead"), link.call("XLEN", "out")) == (0, 1, 1)


@pytest.mark.parametrize("named", ["free", "used up", "text"])
def test_given_up_entry_is_answered_where_the_request_asked(link: RedisLink, named: str) -> None:
    """Its ``internal`` goes to the stream that it named, or to the route's own where that cannot take it."""
    subject, [entry] = delivered(link, 1)
    if named == "used up":
        link.call("XADD", "out:mine", f"{LAST}-{LAST}", "payload", "internal")
    elif named == "text":
        link.call("SET", "out:mine", "x")
    done = drive(subject.dead_letter(entry, "why", Answer(entry, b"internal", "out:mine", b"internal"), 0.0), link)
    assert done == Committed(written=1)
    [(_, fields)] = link.call("XRANGE", "out:mine" if named == "free" else "out", "-", "+")
    assert fields == [b"payload", b"internal"]
    assert link.call("EXISTS", "out") == (named != "free")
    ttl = ROUTE.response_seconds if named == "free" else -1
    assert ttl - 10 <= link.call("TTL", "out:mine") <= ttl


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda call: call("SET", "out", "x"), "WRONGTYPE"),
        (lambda call: call("XADD", "out", f"{LAST}-{LAST}", "x", "y"), USED_UP),
        (lambda call: call("ACL", "SETUSER", "default", "resetkeys", "~in*", "%R~out"), "NOPERM"),
        (lambda call: call("ACL", "SETUSER", "default", "-xadd"), "NOPERM"),
    ],
    ids=["another type", "ids used up", "no right to the key", "no right to the command"],
)
def test_refused_replies_leave_everything_as_it_is(link: RedisLink, spoil: Callable[[Any], Any], reason: str) -> None:
    """If the route's stream refuses replies, for any reason, the entries stay pending and the log has the reason."""
    subject, entries = delivered(link, 3)
    spoil(link.call)
    done = drive(subject.commit(subject.parts([Answer(entry, b"reply") for entry in entries]), 0.0), link)
    assert (done.written, done.suppressed, done.stuck) == (0, 0, entries)
    assert list(done.refused.values()) == [reason]
    assert (still_pending(link), subject.paused) == (3, [ROUTE])
    done = drive(subject.dead_letter(entries[0], "why", Answer(entries[0], b"internal"), 0.0), link)
    assert (done.stuck, list(done.refused.values())) == ([entries[0]], [reason])
    assert (still_pending(link), link.call("XLEN", "in:dead")) == (3, 0)


@pytest.mark.parametrize(
    ("setting", "value", "reason"), [("min-replicas-to-write", 1, "NOREPLICAS"), ("maxmemory", 1, None)]
)
def test_server_that_refuses_writes_gets_the_commit_again(
    link: RedisLink, setting: str, value: int, reason: str | None
) -> None:
    """A server that wants replicas does nothing of a commit; one that is at its memory limit does all of it."""
    subject, entries = delivered(link, 3)
    answers = [Answer(entry, b"reply", "out:mine" if entry is entries[2] else None, b"no") for entry in entries]
    link.call("CONFIG", "SET", setting, value)
    if reason is None:
        assert drive(subject.commit(subject.parts(answers[1:]), 0.0), link) == Committed(written=2)
        assert drive(subject.dead_letter(entries[0], "why", Answer(entries[0], b"internal"), 0.0), link) == Committed(
            written=1
        )
        assert (link.call("XLEN", "out"), link.call("XLEN", "out:mine"), link.call("XLEN", "in:dead")) == (2, 1, 1)
        return
    for protocol in (
        subject.commit(subject.parts(answers), 0.0),
        subject.dead_letter(entries[0], "why", answers[0], 0.0),
    ):
        with pytest.raises(Unavailable, match=reason):
            drive(protocol, link)
    assert (still_pending(link), link.call("EXISTS", "out", "out:mine", "in:dead")) == (3, 0)
    link.call("CONFIG", "SET", setting, 0)
    assert drive(subject.commit(subject.parts(answers), 0.0), link) == Committed(written=3)


def test_entry_of_another_worker_is_neither_answered_nor_moved(link: RedisLink) -> None:
    """Of a batch that was answered before nothing is written, and no stream is made for it."""
    subject, entries = delivered(link, 2)
    answers = [Answer(entry, b"reply", "out:mine", b"no") for entry in entries]
    link.call("XACK", "in", "group", *(entry.id for entry in entries))
    assert drive(subject.commit(subject.parts(answers), 0.0), link) == Committed(suppressed=2)
    assert drive(subject.dead_letter(entries[0], "why", answers[0], 0.0), link) == Committed(suppressed=1)
    link.call("XGROUP", "DESTROY", "in", "group")
    assert drive(subject.commit(subject.parts(answers), 0.0), link) == Committed(suppressed=2)
    assert link.call("EXISTS", "out", "out:mine", "in:dead") == 0
