"""Clocks of hosts that are hours off: ``expires_at`` is judged by the clock of the Redis that all share."""

import itertools
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest

from harness import quick
from harness.clients import CLIENT, KINDS, LONG_SECONDS, FakeWorker, start
from harness.servers import Valkey
from harness.stack import Stack
from token_worker.client import Expired, TokenClient

HOUR = 3600

PROGRAM = """
import time
from token_worker.__main__ import main
clock = time.time
time.time = lambda: clock() + {seconds}
main()
"""


@contextmanager
def clock_off(seconds: float) -> Iterator[None]:
    """Have this process believe that it is so much later."""
    clock = time.time
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(time, "time", lambda: clock() + seconds)
        yield


@pytest.mark.parametrize("of_worker", [-HOUR, 0, HOUR])
def test_clocks_of_hosts_do_not_matter(stack: Stack, of_worker: int) -> None:
    """Clients and workers whose clocks are an hour behind or ahead understand each other, whichever is wrong."""
    stack.start_worker(program=("-c", PROGRAM.format(seconds=of_worker)))
    url = stack.settings["TOKEN_WORKER_STREAMS_URL"]
    for kind, of_client in itertools.product(KINDS, (-HOUR, 0, HOUR)):
        with clock_off(of_client), kind(url, client_id=CLIENT, timeout_seconds=LONG_SECONDS) as client:
            assert client.detokenize(client.tokenize("some value")) == "some value"


@pytest.mark.parametrize("seconds", [-HOUR, HOUR])
def test_command_on_a_host_whose_clock_is_off(served: Stack, seconds: int) -> None:
    """``token-worker request`` has its reply, too."""
    command = ("request", "tokenize", "--type", "str", "--client", CLIENT)
    program = [sys.executable, "-c", PROGRAM.format(seconds=seconds), *command]
    environment = served.environment()
    done = quick.run(program, env=environment, input=b"x", capture_output=True, timeout=90, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("of_worker", [-HOUR, 0, HOUR])
def test_request_that_is_late_by_the_server_is_expired(stack: Stack, of_worker: int) -> None:
    """With any clock of the worker's host, an expired request is refused, and one that has a minute is done."""
    stack.start_worker(program=("-c", PROGRAM.format(seconds=of_worker)))
    seconds, micros = stack.streams.time()
    now_ms = seconds * 1000 + micros // 1000
    whole = {"op": "tokenize", "client_id": CLIENT, "type": "str", "value": "x"}
    times = {"late": now_ms - 1, "early": now_ms + 1000 * int(LONG_SECONDS)}
    replies = stack.ask([{**whole, "id": name, "expires_at": at} for name, at in times.items()])
    assert replies["late"]["error"]["code"] == "expired"
    assert replies["early"]["status"] == "ok"


def test_client_tells_what_expired(served: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that workers read after its time is ``Expired``: here by a client that asks for the impossible."""
    monkeypatch.setattr("token_worker.streams.clock.ServerClock.unix_ms", lambda *_: 1)
    with (
        TokenClient(
            served.settings["TOKEN_WORKER_STREAMS_URL"], client_id=CLIENT, timeout_seconds=LONG_SECONDS
        ) as client,
        pytest.raises(Expired),
    ):
        client.tokenize("some value")


def test_client_that_may_not_ask_for_the_time() -> None:
    """Its first request never expires, the others by the time that the server gives to its entries."""
    with Valkey() as server, server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "narrow", "on", ">secret", "~*", "+@all", "-time")
        fake_worker = FakeWorker(admin)
        found: list[dict[str, Any]] = []

        def answer() -> None:
            found.extend(fake_worker.take(1))
            fake_worker.answer(found[-1:])

        with (
            clock_off(-HOUR),
            TokenClient(
                server.url.replace("//", "//narrow:secret@"), client_id=CLIENT, timeout_seconds=LONG_SECONDS
            ) as client,
        ):
            for _ in range(3):
                answering = start(answer)
                assert client.tokenize("a") == "A"
                answering.join()
        assert "expires_at" not in found[0]
        others: list[int] = [request["expires_at"] for request in found[1:]]
        [(last, fields), *_] = admin.xrevrange("tokenize:requests", count=1)
        assert msgspec.msgpack.decode(fields[b"payload"])["expires_at"] == others[-1]
        now_ms = int(last.partition(b"-")[0])
        assert all(now_ms <= at + 60_000 and at <= now_ms + LONG_SECONDS * 1000 + 60_000 for at in others)
        assert [row["count"] for row in admin.acl_log() if row["object"] == "time"] == [1]
