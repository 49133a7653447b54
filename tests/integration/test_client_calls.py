"""Calls of the client end by time-outs, cancelling and Ctrl-C, and share the room for requests in flight."""

import asyncio
import gc
import os
import signal
import sys
import threading
import time
from concurrent.futures import CancelledError, Future, as_completed, wait
from typing import Any

import pytest

from harness.clients import (
    CLIENT,
    LONG_SECONDS,
    SHORT_SECONDS,
    FakeWorker,
    InLoop,
    Kind,
    in_loop,
    send,
    start,
    sync,
    values_of,
)
from harness.servers import Valkey
from harness.stack import wait_until
from token_worker.client import (
    BadReply,
    ClientClosed,
    NotAnswered,
    StreamsRefused,
    TimedOut,
    UnknownClient,
)

pytestmark = pytest.mark.usefixtures("all_clients_closed")


# Time-outs


def test_no_worker_is_a_time_out(streams_server: Valkey, kind: Kind, fake_worker: FakeWorker) -> None:
    """Without a worker a call ends when its time is up, its own before the client's; the request says when that is."""
    with kind(streams_server.url, client_id=CLIENT, timeout_seconds=LONG_SECONDS) as client:
        answering = start(lambda: fake_worker.answer(fake_worker.take(1)))
        assert client.tokenize("a") == "A"
        answering.join()
        before = time.time()
        with pytest.raises(TimedOut, match="does a worker run"):
            client.tokenize("b", timeout_seconds=SHORT_SECONDS)
        after = time.time()
        late: list[dict[str, Any]] = []
        answering = start(lambda: late.extend(fake_worker.take_until("c")))
        with pytest.raises(TimedOut):
            client.tokenize("c", timeout_seconds=1)
        answering.join()
        for request in late[:-1]:
            assert int(before * 1000) <= request["expires_at"] - 1000 * SHORT_SECONDS <= after * 1000
        fake_worker.answer(late)  # a reply that comes too late is passed over
        answering = start(lambda: fake_worker.answer(fake_worker.take(1)))
        assert client.tokenize("d") == "D"
        answering.join()


def test_each_caller_raises_an_error_of_its_own(streams_server: Valkey) -> None:
    """Calls whose time is up together share no exception: tracebacks would hold on to each other's callers."""
    with sync(streams_server) as client:
        futures = [send(client, "a", timeout_seconds=SHORT_SECONDS) for _ in range(20)]
        errors = [future.exception() for future in futures]
    assert all(isinstance(error, NotAnswered) for error in errors)
    assert len({id(error) for error in errors}) == 20


def test_what_is_away_is_told_of_the_route_that_it_is_on(streams_server: Valkey, fake_worker: FakeWorker) -> None:
    """A call on a route that cannot be used does not make those on another look so."""
    fake_worker.streams.set("detokenize:requests", "no stream")
    with sync(streams_server) as client:
        with pytest.raises(StreamsRefused, match="WRONGTYPE"):
            client.detokenize("a")
        answering = start(lambda: fake_worker.answer(fake_worker.take(1)))
        assert client.tokenize("a") == "A"
        answering.join()
        with pytest.raises(TimedOut):
            client.tokenize("a", timeout_seconds=SHORT_SECONDS)
        fake_worker.streams.delete("detokenize:requests")
        other_fake_worker = FakeWorker(fake_worker.streams, "detokenize:requests")
        back = start(lambda: other_fake_worker.answer(other_fake_worker.take(1)))
        assert client.detokenize("a") == "A"
        back.join()


def test_reply_that_is_none_is_told(streams_server: Valkey, kind: Kind, fake_worker: FakeWorker) -> None:
    """A reply with anything but tokens is an error, and never a result."""
    with kind(streams_server.url, client_id=CLIENT, timeout_seconds=LONG_SECONDS) as client:
        for wrong in ([{"value": None}], []):
            answering = start(lambda wrong=wrong: fake_worker.answer(fake_worker.take(1), items=wrong))  # type: ignore[misc]  # mypy knows no such lambda
            with pytest.raises(BadReply):
                client.tokenize("a")
            answering.join()


# Room


def test_no_more_requests_are_in_flight_than_may_be(streams_server: Valkey, fake_worker: FakeWorker) -> None:
    """Further calls wait, in threads, until a reply makes room; each list takes room for each of its requests."""
    with sync(streams_server, max_in_flight=3) as client:
        for value in "abc":
            send(client, value)
        sent: list[Future[Any]] = []
        waiting = start(lambda: sent.append(client.submit("tokenize", [("str", "x" * 30_000)] * 70)))
        first = fake_worker.take(3)
        assert waiting.is_alive()
        assert not sent
        fake_worker.answer(first[:1])
        assert len(fake_worker.take(1)[0]["items"]) == 34
        assert fake_worker.streams.xlen("tokenize:requests") == 4
        assert waiting.is_alive()
        fake_worker.answer(first[1:])
        fake_worker.take(2)
        waiting.join()
        assert len(sent) == 1


def test_no_more_requests_are_in_flight_than_may_be_in_a_loop(streams_server: Valkey, fake_worker: FakeWorker) -> None:
    """Tasks wait for room, too: of a thousand calls at once, never more than three are sent."""

    async def main() -> None:
        async with in_loop(streams_server, max_in_flight=3) as client:
            calls = asyncio.gather(*(client.tokenize(f"v{number}") for number in range(100)))
            for _ in range(33):
                requests = await asyncio.to_thread(fake_worker.take, 3)
                assert fake_worker.streams.xlen("tokenize:requests") % 3 == 0
                await asyncio.to_thread(fake_worker.answer, requests)
            await asyncio.to_thread(lambda: fake_worker.answer(fake_worker.take(1)))
            assert await calls == [f"V{number}" for number in range(100)]

    asyncio.run(main())


def test_time_outs_make_room(streams_server: Valkey, kind: Kind, fake_worker: FakeWorker) -> None:
    """Requests that nobody waits for hold up no others, and who waits for room waits no longer than its time."""
    with kind(streams_server.url, client_id=CLIENT, timeout_seconds=LONG_SECONDS, max_in_flight=1) as client:
        for value in "abc":
            with pytest.raises(NotAnswered):
                client.tokenize(value, timeout_seconds=SHORT_SECONDS)
        with pytest.raises(NotAnswered):  # the second of its requests has no room in all the time
            client.tokenize(["x" * 60_000] * 40, timeout_seconds=SHORT_SECONDS)
        answering = start(lambda: fake_worker.answer(fake_worker.take_until("d")[-1:]))
        assert client.tokenize("d") == "D"
        answering.join()


def test_room_of_a_list_that_was_refused_in_part(streams_server: Valkey, fake_worker: FakeWorker) -> None:
    """One request of a list is refused as a whole, and the others are never answered: they take up no room."""
    with sync(streams_server, max_in_flight=2) as client:
        future = client.submit("tokenize", [("str", "x" * 60_000)] * 30)
        one, _ = fake_worker.take(2)
        fake_worker.answer([one], error={"code": "unknown_client", "message": "there is no key"})
        with pytest.raises(UnknownClient):
            future.result()
        both = [send(client, value) for value in "ab"]
        fake_worker.answer(fake_worker.take(2))
        assert [future.result() for future in both] == [["A"], ["B"]]


@pytest.mark.parametrize("turns", range(8))
def test_room_that_comes_as_a_task_is_cancelled_is_not_lost(
    streams_server: Valkey, fake_worker: FakeWorker, turns: int
) -> None:
    """At whichever turn of the loop a task is cancelled that waits for room: somebody else gets it."""

    async def main() -> None:
        async with in_loop(streams_server, max_in_flight=1) as client:
            one = asyncio.create_task(client.tokenize("one"))
            requests = await asyncio.to_thread(fake_worker.take, 1)
            other = asyncio.create_task(client.tokenize("other"))
            await asyncio.to_thread(wait_until, lambda: client._room._waiters, "the other to wait for room")
            events = client._events
            work_off, events._handle = events._handle, lambda: None  # type: ignore[method-assign]  # at our word alone
            fake_worker.answer(requests)
            await asyncio.to_thread(wait_until, lambda: len(events._waiting) == 2, "room, and its end")
            work_off()
            events._handle = work_off  # type: ignore[method-assign]
            for _ in range(turns):
                await asyncio.sleep(0)
            other.cancel()
            await asyncio.wait([other])
            last = asyncio.create_task(client.tokenize("last"))
            while not last.done():
                requests = await asyncio.to_thread(fake_worker.take, 1)
                await asyncio.to_thread(fake_worker.answer, requests)
                if values_of(requests) == ["last"]:
                    break
            assert (await one, await last) == ("ONE", "LAST")

    asyncio.run(main())


def test_calls_gather_in_few_requests(streams_server: Valkey, kind: Kind, fake_worker: FakeWorker) -> None:
    """With ``batch_ms`` small calls for one owner share requests, calls of others and with other options never."""
    options: list[dict[str, Any]] = [{}, {"client_id": "other-client"}, {"zone_id": "zone-one"}, {"consistent": False}]

    def take_all() -> None:
        left = 4 * 50
        while left:
            [request] = fake_worker.take(1)
            seen.append(request)
            left -= len(request["items"])
        fake_worker.answer(seen)

    seen: list[dict[str, Any]] = []
    answering = start(take_all)
    expected = [f"V{number}" for number in range(50)]
    if kind is InLoop:

        async def main() -> None:
            async with in_loop(streams_server, batch_ms=500) as client:
                for more in options:
                    calls = [client.tokenize(f"v{number}", **more) for number in range(50)]
                    found.append(asyncio.gather(*calls))
                assert [await calls for calls in found] == [expected] * 4

        found: list[Any] = []
        asyncio.run(main())
    else:
        with sync(streams_server, batch_ms=500) as client:
            futures = [[send(client, f"v{number}", **more) for number in range(50)] for more in options]
            assert [[future.result()[0] for future in of_one] for of_one in futures] == [expected] * 4
    answering.join()
    assert len(seen) < 60
    owners = [(request["client_id"], request.get("zone_id"), request.get("consistent", True)) for request in seen]
    assert {*owners} == {
        (CLIENT, None, True),
        ("other-client", None, True),
        (CLIENT, "zone-one", True),
        (CLIENT, None, False),
    }


# Cancelling, callbacks and signals


def test_cancelled_future_lets_go_of_its_request(streams_server: Valkey, fake_worker: FakeWorker) -> None:
    """A cancelled future frees its room at once, drops its reply, and raises if a caller waits for it."""
    with sync(streams_server, max_in_flight=1) as client:
        future = send(client, "a")
        requests = fake_worker.take(1)
        assert future.cancel()
        with pytest.raises(CancelledError):
            future.result()
        other = send(client, "b")
        requests += fake_worker.take(1)
        fake_worker.answer(requests)
        assert other.result() == ["B"]


def test_cancelled_future_is_over_for_who_waits_for_several(streams_server: Valkey, fake_worker: FakeWorker) -> None:
    """``wait`` and ``as_completed`` take it for done, whether it was cancelled before or while they wait."""
    with sync(streams_server) as client:
        before, meanwhile, answered = (send(client, value) for value in "abc")
        requests = fake_worker.take(3)
        before.cancel()
        found: list[Any] = []
        waiting = start(lambda: found.append(wait([before, meanwhile], timeout=LONG_SECONDS)))
        wait_until(lambda: meanwhile._waiters, "the wait")
        meanwhile.cancel()
        waiting.join()
        assert found == [({before, meanwhile}, set())]
        fake_worker.answer(requests)
        assert {*as_completed([before, meanwhile, answered], timeout=LONG_SECONDS)} == {before, meanwhile, answered}
        assert answered.result() == ["C"]


def test_cancelled_tasks_let_go_of_their_requests(streams_server: Valkey, fake_worker: FakeWorker) -> None:
    """Thousands of tasks that are cancelled at once, sent or waiting for room, leave room for the next."""

    async def main() -> None:
        async with in_loop(streams_server, max_in_flight=500) as client:
            tasks = [asyncio.create_task(client.tokenize(f"v{number}")) for number in range(2000)]
            requests = await asyncio.to_thread(fake_worker.take, 500)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            assert all(task.cancelled() for task in tasks)
            calls = asyncio.gather(*(client.tokenize(f"w{number}") for number in range(500)))
            requests += await asyncio.to_thread(fake_worker.take, 500)
            await asyncio.to_thread(fake_worker.answer, requests)
            assert await calls == [f"W{number}" for number in range(500)]

    asyncio.run(main())


def test_cancelling_as_the_time_is_up_leaves_no_stray_error(streams_server: Valkey) -> None:
    """A task that is cancelled while its call's error is on the way: the loop complains of nothing."""
    complaints: list[Any] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        async with in_loop(streams_server) as client:
            task = asyncio.create_task(client.tokenize("a", timeout_seconds=SHORT_SECONDS))
            events = client._events
            work_off, events._handle = events._handle, lambda: None  # type: ignore[method-assign]  # at our word alone
            await asyncio.to_thread(wait_until, lambda: any(events._waiting), "its end")
            events._handle = work_off  # type: ignore[method-assign]
            work_off()
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()

    asyncio.run(main())
    gc.collect()
    assert complaints == []


def test_client_in_another_loop_is_a_mistake_that_is_told(streams_server: Valkey, fake_worker: FakeWorker) -> None:
    """A client that was used in a loop that is gone raises, rather than to wait for it forever."""
    client = in_loop(streams_server)

    async def call() -> str:
        return await client.tokenize("a")

    answering = start(lambda: fake_worker.answer(fake_worker.take(1)))
    assert asyncio.run(call()) == "A"
    answering.join()
    with pytest.raises(RuntimeError, match="another event loop"):
        asyncio.run(call())
    asyncio.run(client.close())


def test_callback_may_send_but_not_wait(streams_server: Valkey, fake_worker: FakeWorker) -> None:
    """In a callback, which runs on the client's own thread, waiting is a ``RuntimeError``; sending is not."""
    outcomes: list[Any] = []
    with sync(streams_server, max_in_flight=1) as client:

        def callback(_: Future[Any]) -> None:
            try:
                client.tokenize("b")
            except RuntimeError as error:
                outcomes.append(str(error))
            outcomes.append(send(client, "c"))
            outcomes.append(send(client, "d"))

        future = send(client, "a")
        future.add_done_callback(callback)
        fake_worker.answer(fake_worker.take(1))
        wait_until(lambda: len(outcomes) == 3, "the callback")
        assert "must not wait" in outcomes[0]
        fake_worker.answer(fake_worker.take(1))
        assert outcomes[1].result() == ["C"]
        with pytest.raises(TimedOut):  # there is room for one, and no waiting for it
            outcomes[2].result()


def test_callbacks_may_close_the_client(streams_server: Valkey, fake_worker: FakeWorker) -> None:
    """Two callbacks that close the client at once, on the threads for deadlines and for replies, wait for neither."""
    client = sync(streams_server)
    both = threading.Barrier(2)
    closed: list[str] = []

    def callback(_: Future[Any]) -> None:
        both.wait()
        client.close()
        closed.append(threading.current_thread().name)

    futures = [send(client, "a", timeout_seconds=SHORT_SECONDS), send(client, "b"), send(client, "c")]
    for future in futures[:2]:
        future.add_done_callback(callback)
    fake_worker.answer(fake_worker.take_until("b")[-1:])
    wait_until(lambda: len(closed) == 2, "both callbacks")
    assert {*closed} == {"token-client clock", "token-client read"}
    assert isinstance(futures[0].exception(), NotAnswered)
    assert futures[1].result() == ["B"]
    assert isinstance(futures[2].exception(), ClientClosed)


def test_callbacks_that_exit_cost_no_other_call_its_end(
    streams_server: Valkey, fake_worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The threads for deadlines and replies live on, and closing ends all that there is before it raises."""
    failures: list[Any] = []
    monkeypatch.setattr(
        threading, "excepthook", lambda failure: failures.append((failure.exc_type, failure.thread.name))
    )
    with sync(streams_server) as client:
        late, answered = send(client, "a", timeout_seconds=SHORT_SECONDS), send(client, "b")
        for future in (late, answered):
            future.add_done_callback(lambda _: sys.exit("of a callback"))
        fake_worker.answer(fake_worker.take_until("b")[-1:])
        assert isinstance(late.exception(LONG_SECONDS), NotAnswered)
        assert answered.result(LONG_SECONDS) == ["B"]
        late, answered = send(client, "c", timeout_seconds=SHORT_SECONDS), send(client, "d")
        fake_worker.answer(fake_worker.take_until("d")[-1:])
        assert answered.result(LONG_SECONDS) == ["D"]
        assert isinstance(late.exception(LONG_SECONDS), NotAnswered)
        assert {*failures} == {(SystemExit, "token-client clock"), (SystemExit, "token-client read")}
        left = [send(client, value) for value in "ef"]
        for future in left:
            future.add_done_callback(lambda _: sys.exit("of a callback"))
        with pytest.raises(SystemExit):
            client.close()
        assert [type(future.exception(0)) for future in left] == [ClientClosed] * 2


def test_interrupted_call_leaves_the_client_usable(streams_server: Valkey, fake_worker: FakeWorker) -> None:
    """Ctrl-C while a call waits for its reply, or for room: it ends, holds no room, and the next call works."""
    with sync(streams_server, max_in_flight=1) as client:

        def interrupt() -> None:
            fake_worker.take(1)
            os.kill(os.getpid(), signal.SIGINT)

        for values in ("a", ["x" * 60_000] * 40):
            interrupting = start(interrupt)
            with pytest.raises(KeyboardInterrupt):
                client.tokenize(values)
            interrupting.join()
        answering = start(lambda: fake_worker.answer(fake_worker.take(1)))
        assert client.tokenize("b") == "B"
        answering.join()
