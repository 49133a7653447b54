"""Futures of a client: they end every wait, and leave little for the garbage collector."""

import gc
import threading
from concurrent.futures import Future, as_completed, wait
from concurrent.futures import TimeoutError as WaitTimeoutError
from typing import Any

import pytest

from harness.clients import CLIENT, LONG_SECONDS, start
from harness.servers import free_port
from harness.stack import wait_until
from token_worker.client import TokenClient
from token_worker.client.synchronous import CallFuture

COUNT = 1000


def tracked() -> int:
    """Number of objects that the garbage collector looks at."""
    gc.collect()
    return len(gc.get_objects())


def test_call_is_few_objects_in_flight_and_fewer_at_its_end() -> None:
    """Of a call in flight the collector sees six objects, of a future that is kept five: no full collection stalls."""
    with TokenClient(f"redis://127.0.0.1:{free_port()}", client_id=CLIENT, timeout_seconds=LONG_SECONDS) as client:
        before = tracked()
        futures = [client.submit("tokenize", [("str", "a")]) for _ in range(COUNT)]
        assert (tracked() - before) / COUNT < 6.5
    for future in futures:
        future.exception(LONG_SECONDS)
    assert (tracked() - before) / COUNT < 5.5  # with the error of each


def test_future_wakes_all_that_wait_for_it() -> None:
    """Threads in ``result``, ``exception`` and ``wait``, with and without a time-out, after others have given up."""
    future = CallFuture()
    for _ in range(2):
        with pytest.raises(WaitTimeoutError):
            future.result(0.001)
    found: list[object] = []
    waits = [
        future.result,
        lambda: future.result(LONG_SECONDS),
        lambda: future.exception() or ["A"],
        lambda: next(iter(wait([future]).done)).result(),
        lambda: next(as_completed([future])).result(),
    ]
    threads = [start(lambda wait_for=wait_for: found.append(wait_for())) for wait_for in waits]  # type: ignore[misc]
    lock = future._condition
    wait_until(lambda: len(future._waiters) == 2 and _sleeping(lock) == 3, "the waits")
    future.set_result(["A"])
    for thread in threads:
        thread.join(LONG_SECONDS)
    assert found == [["A"]] * 5
    assert _sleeping(lock) == 0


def _sleeping(lock: threading.Condition) -> int:
    """Number of threads in ``result`` and ``exception``."""
    condition = lock._condition  # type: ignore[attr-defined]
    return 0 if condition is None else len(condition._waiters)


def test_cancelling_drops_the_call_before_callbacks_run() -> None:
    """A callback of a cancelled future may wait for the room of its request."""
    with TokenClient(
        f"redis://127.0.0.1:{free_port()}", client_id=CLIENT, timeout_seconds=LONG_SECONDS, max_in_flight=1
    ) as client:
        sent: list[Future[Any]] = []
        future = client.submit("tokenize", [("str", "a")])
        future.add_done_callback(lambda _: sent.append(client.submit("tokenize", [("str", "b")])))
        cancelling = start(future.cancel)
        cancelling.join(LONG_SECONDS / 4)
        assert len(sent) == 1
        assert not sent[0].done()
