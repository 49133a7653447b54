"""Poisonous entries, which kill every worker or cannot be read, become dead letters; all others are answered."""

import signal
from collections.abc import Iterator

import msgspec
import pytest

from harness.producer import BatchProducer
from harness.proxy import Command, Moment, Proxy, Verdict
from harness.servers import Valkey
from harness.stack import GROUP, Stack, WorkerProcess, wait_until
from token_worker.acra.owner import Owner
from token_worker.acra.token_entry import EntryNames
from token_worker.acra.value_types import TYPES

CLIENT = "shop-frontend"
POISON = "kills whoever handles it"
OTHERS = 500
MAX_DELIVERIES = 2


class Keeper:
    """Keeps a worker running behind a proxy to the token storage, which kills it when it asks for the poison."""

    def __init__(self, stack: Stack, tokens: Proxy) -> None:
        self.deaths = 0
        self._stack = stack
        self._tokens = tokens
        self._poisonous = EntryNames(Owner("client", CLIENT)).of_value(POISON.encode(), TYPES["str"].number)
        tokens.hook = self._hook
        self._worker = self._start()

    def look(self) -> None:
        """Start the worker again if it was killed."""
        if not self._worker.is_alive:
            self.deaths += 1
            self._worker = self._start()

    def _start(self) -> WorkerProcess:
        return self._stack.start_worker(TOKEN_WORKER_TOKENS_URL=self._tokens.url)

    def _hook(self, moment: Moment, command: Command) -> Verdict:
        if moment is Moment.BEFORE and self._poisonous in command.parts:
            self._worker.signal(signal.SIGKILL)
            return Verdict.CUT
        return Verdict.PASS


@pytest.fixture
def stack(streams_server: Valkey, storage_server: Valkey) -> Iterator[Stack]:
    """Workers that give up early, to be tested in a few seconds."""
    settings = {
        "TOKEN_WORKER_CLAIM_IDLE_MS": "1000",
        "TOKEN_WORKER_MAX_DELIVERIES": str(MAX_DELIVERIES),
    }
    with Stack(streams_server, storage_server, settings=settings) as stack:
        stack.generate_key(CLIENT)
        yield stack
        for worker in stack.workers:
            worker.kill()


def test_poison_among_others_is_the_only_dead_letter(stack: Stack, storage_server: Valkey) -> None:
    """Of 501 entries only the one that kills its worker becomes a dead letter; all others are answered once."""
    # Given a poisonous request amid 500 others
    producer = BatchProducer(stack)
    producer.add_new(OTHERS // 2)
    producer.send()
    poison = {"id": "poison", "op": "tokenize", "client_id": CLIENT, "type": "str", "value": POISON}
    [entry] = stack.send([poison])
    producer.add_new(OTHERS // 2, start=OTHERS)
    producer.send()
    # When two workers, restarted whenever they die, serve the stream
    with Proxy(storage_server.port) as one, Proxy(storage_server.port) as two:
        keepers = [Keeper(stack, proxy) for proxy in (one, two)]

        def is_settled() -> bool:
            for keeper in keepers:
                keeper.look()
            return producer.is_settled()

        wait_until(is_settled, "every request to be acknowledged")
    # Then it has killed a whole batch's worker once and then, alone, as many as it may,
    assert sum(keeper.deaths for keeper in keepers) == 1 + MAX_DELIVERIES
    # becomes a dead letter,
    [(_, dead)] = stack.streams.xrange("tokenize:requests:dead")
    assert (entry, b"deliveries_exhausted") == (dead[b"dead_entry"], dead[b"dead_reason"])
    assert msgspec.json.decode(dead[b"payload"])["id"] == "poison"
    # its producer is told,
    [reply] = [reply for reply in stack.replies() if reply["id"] == "poison"]
    assert (reply["status"], reply["error"]["code"]) == ("error", "internal")
    # and all others have their reply.
    assert producer.compare() == []


def good(number: int) -> bytes:
    return msgspec.json.encode(
        {"id": f"good-{number}", "op": "tokenize", "client_id": CLIENT, "type": "int32", "value": number}
    )


UNREADABLE: list[tuple[dict[bytes, bytes], str]] = [
    ({b"some": b"field"}, "payload_missing"),
    ({b"payload": b""}, "not_json_or_msgpack"),
    ({b"payload": b"plain text"}, "not_json_or_msgpack"),
    ({b"payload": b"[" * 100_000}, "not_json_or_msgpack"),
    ({b"payload": b'{"id":"cut'}, "not_json_or_msgpack"),
    ({b"payload": msgspec.msgpack.encode({"id": "cut"})[:-1]}, "not_json_or_msgpack"),
    ({b"payload": b'{"op":"tokenize"}'}, "no_readable_id"),
    ({b"payload": b'{"id":null}'}, "no_readable_id"),
    ({b"payload": msgspec.msgpack.encode({"id": b"binary"})}, "no_readable_id"),
    ({b"payload": msgspec.json.encode({"id": "i" * 129})}, "no_readable_id"),
    ({b"payload": b"no", b"\xff\x00": b"\x00\xff", b"traceparent": b"00-ab-cd-01"}, "not_json_or_msgpack"),
    ({b"field-%d" % number: b"%d" % number for number in range(3000)}, "payload_missing"),
]


def test_unreadable_entries_are_dead_letters_with_all_their_fields(stack: Stack) -> None:
    """Each entry that cannot be answered is kept as it came, with the reason; good ones beside it are answered."""
    # Given unreadable entries, each with a good one behind it
    expected = {}
    for number, (fields, reason) in enumerate(UNREADABLE):
        entry = stack.streams.xadd("tokenize:requests", fields)
        expected[entry] = {**fields, b"dead_reason": reason.encode()}
        stack.send([good(number)])
    # When a worker serves them
    worker = stack.start_worker()
    stack.wait_for_replies(len(UNREADABLE))
    wait_until(lambda: stack.streams.xpending("tokenize:requests", GROUP)["pending"] == 0, "all to be acknowledged")
    # Then each is found among the dead letters, named by stream and entry,
    found = {}
    for _, fields in stack.streams.xrange("tokenize:requests:dead"):
        assert fields.pop(b"dead_stream") == b"tokenize:requests"
        assert fields.pop(b"dead_deliveries") == b"1"
        found[fields.pop(b"dead_entry")] = fields
    assert expected == found
    # and the good ones are answered.
    assert [reply["status"] for reply in stack.replies()] == ["ok"] * len(UNREADABLE)
    assert worker.is_alive


def test_entry_of_ten_thousand_fields_is_a_dead_letter_with_its_payload(stack: Stack) -> None:
    """Of an entry with more fields than a script can pass on, those of the contract are kept, the rest is counted."""
    fields = {b"payload": b"no", **{b"field-%d" % number: b"x" for number in range(9_999)}}
    stack.streams.xadd("tokenize:requests", fields)
    stack.send([good(1)])
    stack.start_worker()
    stack.wait_for_replies(1)
    wait_until(lambda: stack.streams.xlen("tokenize:requests:dead"), "the dead letter")
    [(_, dead)] = stack.streams.xrange("tokenize:requests:dead")
    assert (dead[b"payload"], dead[b"dead_fields"], dead[b"dead_reason"]) == (b"no", b"10000", b"not_json_or_msgpack")


def test_request_of_ten_thousand_fields_is_answered(stack: Stack) -> None:
    """Fields that are not the contract's are no concern of the worker."""
    fields = {b"payload": good(1), **{b"field-%d" % number: b"x" for number in range(9_999)}}
    stack.streams.xadd("tokenize:requests", fields)
    stack.start_worker()
    [reply] = stack.wait_for_replies(1)
    assert reply["status"] == "ok"
