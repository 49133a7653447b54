"""The client while servers, workers and connections fail: every call has its result, and the right one."""

import json
import threading
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import pytest

from harness.clients import CLIENT, LONG_SECONDS, FakeWorker, Kind
from harness.load import running
from harness.proxy import Command, Moment, Proxy, Verdict
from harness.servers import Cluster, Valkey, Watched
from harness.stack import Stack, wait_until
from token_worker.client import ClientClosed, NotAnswered, StreamsRefused, StreamsUnavailable, TokenClient
from token_worker.contract.messages import Op
from token_worker.streams.routes import Route, slot_of


def sync(url: str, **options: Any) -> TokenClient:
    return TokenClient(url, client_id=CLIENT, timeout_seconds=LONG_SECONDS, **options)


class Calls:
    """Many calls in flight at once, and what is right about them.

    Args:
        client: whose.
        count: how many; each has a value of its own.
    """

    def __init__(self, client: TokenClient, count: int) -> None:
        self._client = client
        self.values = [f"value {number}" for number in range(count)]
        self.futures: list[Future[Any]] = []
        self._sending = threading.Thread(target=self._send, daemon=True)
        self._sending.start()

    def _send(self) -> None:
        with suppress(ClientClosed):
            for value in self.values:
                self.futures.append(self._client.submit("tokenize", [("str", value)]))

    def wait_for(self, count: int) -> None:
        """Wait until so many have their results."""
        wait_until(lambda: sum(future.done() for future in [*self.futures]) >= count, f"{count} results")

    def check(self) -> None:
        """All have results: tokens of their own, which give the values back, and are those of a second call."""
        self._sending.join()
        tokens = [future.result()[0] for future in self.futures]
        assert len({*tokens}) == len(self.values)
        assert self._client.detokenize(tokens) == self.values
        assert self._client.tokenize(self.values) == tokens


def test_server_that_is_away_at_first(served: Stack, streams_server: Valkey, kind: Kind) -> None:
    """A call ends with what is wrong when its time is up; one with more time gets its result after all."""
    with Proxy(streams_server.port) as proxy:
        proxy.go_away()
        with kind(proxy.url, client_id=CLIENT, timeout_seconds=LONG_SECONDS) as client:
            with pytest.raises(
                StreamsUnavailable, match=r"^Redis for streams at \S+: (connection refused|no connection yet)$"
            ):
                client.tokenize("a", timeout_seconds=0.3)
            back = threading.Thread(target=proxy.come_back)
            back.start()
            assert client.detokenize(client.tokenize("some value")) == "some value"
            back.join()


def test_wrong_password_is_told(kind: Kind) -> None:
    """An error that an operator can mend is waited for until the time-out; the error names it without the password."""
    with Valkey("requirepass right-one") as server:
        url = server.url.replace("//", "//:wrong-one@")
        with kind(url, client_id=CLIENT, timeout_seconds=LONG_SECONDS) as client:
            reasons: set[str] = set()

            def is_told() -> bool:
                with pytest.raises(NotAnswered) as caught:
                    client.tokenize("a", timeout_seconds=0.1)
                reasons.add(str(caught.value))
                return any("refuses the user or the password (WRONGPASS)" in reason for reason in reasons)

            wait_until(is_told, "the reason")
        assert "wrong-one" not in repr(reasons)


def test_right_that_is_missing_is_told_at_once(streams_server: Valkey, kind: Kind) -> None:
    """A server that refuses the request for good ends the call, with its code."""
    with Valkey() as server, server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "reader", "on", ">word", "~*", "+@all", "-xadd")
        url = server.url.replace("//", "//reader:word@")
        with kind(url, client_id=CLIENT, timeout_seconds=LONG_SECONDS) as client:
            with pytest.raises(StreamsRefused) as caught:
                client.tokenize("a")
            assert caught.value.code == "NOPERM"


def test_server_killed_and_back_with_thousands_in_flight(storage_server: Valkey) -> None:
    """All calls have their results once the server is back with its data; nobody has to send anything again."""
    options = ("appendonly yes", "appendfsync always")
    with (
        Valkey(*options) as server,
        running(Stack(server, storage_server), workers=2),
        sync(server.url, max_in_flight=2000) as client,
    ):
        calls = Calls(client, 6000)
        for count in (500, 2500):
            calls.wait_for(count)
            server.kill()
            server.start()
        calls.check()


CUTS = {
    "before the server has it": (Moment.BEFORE, Verdict.CUT),
    "in the middle of the command": (Moment.BEFORE, Verdict.CUT_IN_THE_MIDDLE),
    "before its answer": (Moment.AFTER, Verdict.CUT),
    "in the middle of its answer": (Moment.AFTER, Verdict.CUT_IN_THE_MIDDLE),
}


@pytest.mark.parametrize("name", CUTS)
def test_every_call_has_its_one_result_when_connections_are_cut(
    served: Stack, streams_server: Valkey, name: str
) -> None:
    """Every call has its right result once, also if the connections for sending or reading are cut."""
    moment, verdict = CUTS[name]
    seen = {b"TIME": 0, b"XADD": 0, b"XREAD": 0, b"XREVRANGE": 0}
    cut = {b"TIME": {1, 3}, b"XADD": {1, 7, 100, 101, 350}, b"XREAD": {1, 2, 4, 6}, b"XREVRANGE": {1}}
    done: list[bytes] = []

    def hook(now: Moment, command: Command) -> Verdict:
        kind = command.parts[0]
        if now is not moment or kind not in seen:
            return Verdict.PASS
        seen[kind] += 1
        if seen[kind] not in cut[kind]:
            return Verdict.PASS
        done.append(kind)
        return verdict

    with Proxy(streams_server.port, hook) as proxy, sync(proxy.url, max_in_flight=200, batch_ms=None) as client:
        Calls(client, 500).check()
    if_late = {b"XREVRANGE"}  # only if a reply is late, it is looked for on the shared stream
    assert {*done} | if_late == {*cut}
    sent = served.streams.xlen("tokenize:requests")
    assert sent >= 501


def test_request_sent_twice_has_one_result(streams_server: Valkey, kind: Kind) -> None:
    """If the answer to XADD is lost, the request is sent twice with one id; of two replies the first counts."""
    cut: list[bytes] = []

    def hook(moment: Moment, command: Command) -> Verdict:
        if moment is Moment.AFTER and command.name == "XADD" and not cut:
            cut.append(command.reply)
            return Verdict.CUT
        return Verdict.PASS

    with streams_server.client() as streams, Proxy(streams_server.port, hook) as proxy:
        fake_worker = FakeWorker(streams)

        def answer_both() -> None:
            one, other = fake_worker.take(2)
            for request in (one, other):
                del request["expires_at"]  # by the clock of the server that it is sent to
            assert one == other
            fake_worker.answer([one])
            fake_worker.answer([other], error={"code": "internal", "message": "x"})
            fake_worker.answer(fake_worker.take(1))

        answering = threading.Thread(target=answer_both, daemon=True)
        answering.start()
        with kind(proxy.url, client_id=CLIENT, timeout_seconds=LONG_SECONDS) as client:
            assert client.tokenize("a") == "A"
            assert client.tokenize("b") == "B"
        answering.join()


def test_workers_killed_under_load(stack: Stack) -> None:
    """Workers that are killed cost no call its result: others take over what they had."""
    for _ in range(2):
        stack.start_worker(TOKEN_WORKER_CLAIM_IDLE_MS="1000", TOKEN_WORKER_BATCH_SIZE="50")
    with sync(stack.settings["TOKEN_WORKER_STREAMS_URL"]) as client:
        calls = Calls(client, 4000)
        for count in (300, 1500):
            calls.wait_for(count)
            stack.workers[-1].kill()
            stack.start_worker(TOKEN_WORKER_CLAIM_IDLE_MS="1000", TOKEN_WORKER_BATCH_SIZE="50")
        calls.check()
    for worker in stack.workers:
        worker.kill()


def test_fail_over_behind_sentinels(storage_server: Valkey) -> None:
    """Calls that the promoted replica does not know of may be lost with it; all others have their results."""
    with Watched() as watched, running(Stack(watched, storage_server), workers=2), sync(watched.url) as client:
        before = Calls(client, 500)
        before.check()
        old = watched.primary()
        during = Calls(client, 3000)
        during.wait_for(300)
        wait_until(watched.are_replicas_in_step, "the replicas to be in step")
        old.kill()
        wait_until(lambda: watched.primary() is not old, "another primary")
        after = Calls(client, 700)
        after.check()


def test_slot_of_a_cluster_moves_under_load(storage_server: Valkey) -> None:
    """While a route's streams go to another server, and the client's own with them: every call has its result."""
    name = "{shop-1}"
    route = Route(f"{name}:requests", f"{name}:responses", frozenset(Op))
    listed = json.dumps([{"requests": route.requests, "responses": route.responses, "ops": [*Op]}])
    with Cluster(replicas=0) as cluster:
        stack = Stack(cluster, storage_server, settings={"TOKEN_WORKER_ROUTES": listed})
        with running(stack, workers=2), sync(cluster.url, routes=[route]) as client:
            calls = Calls(client, 2000)
            calls.wait_for(200)
            source = cluster.primary_of(slot_of(name))
            target = next(member for member in cluster.members if member is not source)
            cluster.move_slot(slot_of(name), target)
            calls.check()
            assert not {key for key in stack.streams.keys("*", target_nodes="primaries") if b"client-" in key} - {
                client._engine._channels[route]._replies.name.encode()
            }
        assert cluster.primary_of(slot_of(name)) is target
