"""A closed client leaves no thread, no stream and no value behind."""

import asyncio
import gc
import os
import subprocess
import sys
import threading
import warnings
from typing import Any

import pytest

from harness.clients import CLIENT, LONG_SECONDS, SHORT_SECONDS, FakeWorker, Kind, in_loop, send, start, sync, threads
from harness.servers import Valkey
from harness.stack import wait_until
from token_worker.client import (
    ClientClosed,
    NotAnswered,
    StreamsUnavailable,
    TimedOut,
    TokenClient,
    UnknownClient,
)

pytestmark = pytest.mark.usefixtures("all_clients_closed")


def test_closing_ends_calls_that_wait(streams_server: Valkey, fake_worker: FakeWorker) -> None:
    """Calls in flight, and threads that wait for room, get ``ClientClosed``; nothing is left of the client."""
    client = sync(streams_server, max_in_flight=2)
    futures = [send(client, value) for value in "ab"]
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            client.tokenize("c")
        except ClientClosed as error:
            errors.append(error)

    waiting = [start(wait) for _ in range(5)]
    fake_worker.take(2)
    wait_until(lambda: len(client._engine._open._by_tick) and client._room.waiting == 5, "all to wait for room")
    client.close()
    for thread in waiting:
        thread.join()
    assert [type(error) for error in errors] == [ClientClosed] * 5
    for future in futures:
        with pytest.raises(ClientClosed):
            future.result()
    with pytest.raises(ClientClosed):
        client.tokenize("d")
    client.close()
    assert fake_worker.streams.xlen("tokenize:requests") == 2


def test_closing_ends_calls_that_wait_in_a_loop(streams_server: Valkey, fake_worker: FakeWorker) -> None:
    """Tasks get ``ClientClosed`` when the client closes, also tasks that wait for room."""

    async def main() -> None:
        client = in_loop(streams_server, max_in_flight=2)
        tasks = [asyncio.create_task(client.tokenize(f"v{number}")) for number in range(50)]
        await asyncio.to_thread(fake_worker.take, 2)
        await client.close()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(error) for error in found} == {ClientClosed}
        with pytest.raises(ClientClosed):
            await client.tokenize("a")

    asyncio.run(main())


def test_closing_while_threads_begin_calls(streams_server: Valkey, fake_worker: FakeWorker) -> None:
    """Calls that race with closing have an outcome each, and no thread of the client outlives it."""
    for _ in range(20):
        client = sync(streams_server, max_in_flight=5)
        outcomes: list[str] = []
        began = threading.Barrier(4)

        def call(client: TokenClient = client, outcomes: list[str] = outcomes, began: Any = began) -> None:
            began.wait()
            for op in ("tokenize", "detokenize"):
                try:
                    client.request(op, [("str", "a")])
                except ClientClosed:
                    outcomes.append(op)

        calling = [start(call) for _ in range(3)]
        began.wait()
        client.close()
        for thread in calling:
            thread.join()
        assert len(outcomes) == 6
        wait_until(lambda: not threads(), "the threads to end")


def test_own_stream_is_made_with_a_time_to_live_and_removed(
    streams_server: Valkey, kind: Kind, fake_worker: FakeWorker
) -> None:
    """While it lives it is trimmed up to what was read; at the end it is gone."""
    with kind(streams_server.url, client_id=CLIENT, timeout_seconds=LONG_SECONDS) as client:
        client_of = client if isinstance(client, TokenClient) else client.client
        names: list[str] = []

        def answer(count: int) -> None:
            for _ in range(count):
                [request] = fake_worker.take(1)
                names.append(request["reply_to"])
                fake_worker.answer([request])

        answering = start(lambda: answer(5))
        for value in "abcd":
            assert client.tokenize(value) == value.upper()
        [channel] = client_of._engine._channels.values()
        assert fake_worker.streams.xlen(names[0]) == 4
        channel._replies._trimmed_at = -1e9  # as if the time for it had come
        assert client.tokenize("e") == "E"
        answering.join()
        wait_until(lambda: fake_worker.streams.xlen(names[0]) == 1, "what was read to be trimmed")
        wait_until(lambda: 0 < fake_worker.streams.ttl(names[0]) <= 86_400, "its time to live")
        assert {*names} == {names[0]}
        assert names[0].startswith("tokenize:responses:client-")
    assert not fake_worker.streams.exists(names[0])


def test_unclosed_client_of_a_loop_is_told_and_closed(streams_server: Valkey, fake_worker: FakeWorker) -> None:
    """A client whose event loop is gone warns, ends its threads and removes its stream."""

    async def main() -> None:
        client = in_loop(streams_server)
        calling = asyncio.create_task(client.tokenize("a"))
        await asyncio.to_thread(lambda: fake_worker.answer(fake_worker.take(1)))
        assert await calling == "A"

    def is_gone() -> bool:
        gc.collect()  # its threads may just have had it in hand
        return not threads()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        asyncio.run(main())
        wait_until(is_gone, "its threads to end")
    assert "unclosed AsyncTokenClient" in "".join(
        str(warning.message) for warning in caught if warning.category is ResourceWarning
    )


def test_program_ends_that_leaves_a_client_unclosed(streams_server: Valkey) -> None:
    """A client that lives to the end of the program, and was used, does not keep it from ending."""
    code = f"""
from token_worker.client import NotAnswered, TokenClient
client = TokenClient("{streams_server.url}", client_id="{CLIENT}")
try:
    client.tokenize("x", timeout_seconds=0.01)
except NotAnswered:
    print("the end")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=90, check=False)
    assert (done.returncode, done.stdout) == (0, "the end\n")


def test_unclosed_client_is_told_and_closed(streams_server: Valkey, fake_worker: FakeWorker) -> None:
    """A client that nobody has any more warns, ends its threads and removes its stream; others are quiet."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        client = sync(streams_server)
        answering = start(lambda: fake_worker.answer(fake_worker.take(1)))
        assert client.tokenize("a") == "A"
        answering.join()
        [channel] = client._engine._channels.values()
        with channel._lock, client._engine._open._lock:  # a collection can come at any time, in any thread
            del client
        wait_until(lambda: not threads(), "its threads to end")
        wait_until(lambda: fake_worker.streams.keys("*client-*") == [], "its stream to go")
        assert [(warning.category, "unclosed TokenClient" in str(warning.message)) for warning in caught] == [
            (ResourceWarning, True)
        ]
        caught.clear()
        sync(streams_server)
        with sync(streams_server) as closed:
            send(closed, "b").cancel()
        del closed
        gc.collect()
        assert [
            warning
            for warning in caught
            if warning.category is ResourceWarning and "TokenClient" in str(warning.message)
        ] == []


FORKING = """
import os, signal, sys
from token_worker.client import NotAnswered, TokenClient
url = sys.stdin.read()
client, unused = (TokenClient(url, client_id="shop-frontend", timeout_seconds=0.1) for _ in range(2))
for process in ("parent", "child"):
    try:
        client.tokenize("a")
    except (NotAnswered, RuntimeError) as error:
        print(process, type(error).__name__, flush=True)
    if process == "parent" and (child := os.fork()):
        break
    signal.alarm(60)
else:
    client.close()
    try:
        unused.tokenize("a")
    except NotAnswered:
        print("unused NotAnswered", flush=True)
    unused.close()
    os._exit(0)
print(os.waitpid(child, 0)[1])
client.close()
"""


def test_client_that_was_used_before_a_fork_is_a_mistake_that_is_told(streams_server: Valkey) -> None:
    """In the other process, where none of its threads are, a call raises and never waits for ever; closing is free.

    A client that was not used before works there.
    """
    done = subprocess.run(
        [sys.executable, "-c", FORKING],
        input=streams_server.url,
        capture_output=True,
        text=True,
        timeout=LONG_SECONDS,
        check=True,
    )
    found = done.stdout.split("\n")
    assert found[1:] == ["child RuntimeError", "unused NotAnswered", "0", ""]
    assert found[0] in {"parent TimedOut", "parent StreamsUnavailable"}


# What is left of values


def _holders(marker: bytes) -> list[object]:
    """Objects in memory that hold the marker in bytes or text."""
    text = marker.decode()

    def is_marked(found: object) -> bool:
        return (isinstance(found, (bytes, bytearray)) and marker in found) or (isinstance(found, str) and text in found)

    gc.collect()
    return [holder for holder in gc.get_objects() if any(map(is_marked, gc.get_referents(holder)))]


def test_nothing_is_kept_of_a_call_that_is_over(streams_server: Valkey, kind: Kind, fake_worker: FakeWorker) -> None:
    """No object of the client has value or token after a reply, a refusal, a time-out or cancelling."""
    marker = os.urandom(8).hex().encode()

    def use(client: Any) -> Any:
        def serve() -> None:
            fake_worker.answer(fake_worker.take(1))
            fake_worker.answer(fake_worker.take(1), error={"code": "unknown_client", "message": "there is no key"})

        value = f"value {marker.decode()}"
        serving = start(serve)
        assert client.tokenize(value) == value.upper()
        with pytest.raises(UnknownClient):
            client.tokenize([value, value])
        serving.join()
        with pytest.raises(TimedOut):
            client.tokenize(value, timeout_seconds=SHORT_SECONDS)
        if isinstance(client, TokenClient):
            kept = send(client, f"kept {value}")
            fake_worker.take_until(f"kept {value}")
            kept.cancel()
            return kept
        return None

    with kind(streams_server.url, client_id=CLIENT, timeout_seconds=LONG_SECONDS) as client:
        future = use(client)
        wait_until(
            lambda: [holder for holder in _holders(marker) if not _is_of_the_test(holder)] == [], "the values to go"
        )
        del future  # until here, cancelled


def _is_of_the_test(holder: object) -> bool:
    """True for objects of the test, and for redis-py's buffer, which keeps what was read last until the next read."""
    return type(holder).__name__ in {"frame", "cell", "function", "_HiredisParser"}


@pytest.mark.parametrize("is_of_the_request", [False, True])
@pytest.mark.parametrize("has_loop", [False, True])
def test_errors_hold_no_cycle(
    streams_server: Valkey, fake_worker: FakeWorker, has_loop: bool, is_of_the_request: bool
) -> None:
    """A value is free as soon as the error of its call is: no cycle keeps it until there is a collection."""
    error = {"code": "unknown_client", "message": "there is no key"}
    answer: dict[str, Any] = {"error": error} if is_of_the_request else {"items": [{"error": error}]}
    value = f"some {os.urandom(4).hex()}"

    async def main() -> None:
        async with in_loop(streams_server) as client:
            with pytest.raises(UnknownClient):
                await client.tokenize(value)

    answering = start(lambda: fake_worker.answer(fake_worker.take(1), **answer))
    gc.collect()
    gc.disable()
    try:
        before = sys.getrefcount(value)
        if has_loop:
            asyncio.run(main())
        else:
            with sync(streams_server) as client, pytest.raises(UnknownClient):
                client.tokenize(value)
        assert sys.getrefcount(value) == before
    finally:
        gc.enable()
    answering.join()


def test_closing_without_the_server(kind: Kind) -> None:
    """A client whose server is away closes, and says why its calls failed."""
    with Valkey() as server:
        client = kind(server.url, client_id=CLIENT, timeout_seconds=SHORT_SECONDS)
        with server.client() as streams:
            fake_worker = FakeWorker(streams)
            answering = start(lambda: fake_worker.answer(fake_worker.take_until("a")[-1:]))
            assert client.tokenize("a", timeout_seconds=LONG_SECONDS) == "A"
            answering.join()
        server.kill()
        wait_until(lambda: isinstance(_error_of(client), StreamsUnavailable), "what is wrong to be known")
        client.close()


def _error_of(client: Any) -> NotAnswered:
    with pytest.raises(NotAnswered) as caught:
        client.tokenize("b")
    return caught.value
