"""One trace from a caller through a client and a worker, on real servers."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry import trace

from harness.servers import free_port
from harness.stack import Stack, wait_until
from harness.traces import Sdk, lines_of, start_traced_worker
from token_worker.client import AsyncTokenClient, ClientClosed, StreamsRefused, StreamsUnavailable, TokenClient

CLIENT = "shop-frontend"
SEND = "send tokenize:requests"


@pytest.fixture
def sdk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sdk]:
    """An SDK that is the process' tracer provider for this test: by rights that can be set only once."""
    with Sdk() as sdk:
        monkeypatch.setattr(trace, "get_tracer_provider", lambda: sdk.provider)
        yield sdk


def tokenize(url: str) -> None:
    with TokenClient(url, client_id=CLIENT) as client:
        client.tokenize("grace", timeout_seconds=60)


def tokenize_in_a_loop(url: str) -> None:
    async def main() -> None:
        async with AsyncTokenClient(url, client_id=CLIENT) as client:
            await client.tokenize("grace", timeout_seconds=60)

    asyncio.run(main())


@pytest.mark.parametrize("call", [tokenize, tokenize_in_a_loop])
def test_trace_goes_from_the_caller_through_the_client_to_the_worker(
    stack: Stack, sdk: Sdk, tmp_path: Path, call: type
) -> None:
    """The client's span is below the caller's, the worker's below the client's, and both name the same message."""
    file = tmp_path / "spans"
    start_traced_worker(stack, file)
    with sdk.provider.get_tracer("shop").start_as_current_span("import") as caller:
        call(stack.settings["TOKEN_WORKER_STREAMS_URL"])
    wait_until(lambda: lines_of(file), "the worker's span")
    [process] = lines_of(file)
    [send] = sdk.named(SEND)
    assert send.parent == caller.get_span_context()
    assert send.context is not None
    assert process["parent_id"] == f"0x{send.context.span_id:016x}"
    assert process["context"]["trace_id"] == f"0x{send.context.trace_id:032x}"
    expected = send.attributes or {}
    for name in ("messaging.message.id", "messaging.message.conversation_id", "server.address", "server.port"):
        assert process["attributes"][name] == expected[name]


def test_request_that_the_server_refuses_is_an_error_in_its_span(stack: Stack, sdk: Sdk) -> None:
    """The span has the server's error."""
    stack.streams.set("tokenize:requests", "a text")
    with (
        TokenClient(stack.settings["TOKEN_WORKER_STREAMS_URL"], client_id=CLIENT) as client,
        pytest.raises(StreamsRefused),
    ):
        client.tokenize("grace", timeout_seconds=60)
    [send] = sdk.named(SEND)
    assert (send.attributes or {})["error.type"] == "WRONGTYPE"


def test_request_that_never_got_to_a_server_is_unconfirmed(sdk: Sdk) -> None:
    """A call that is given up while no server is there ends its span."""
    with (
        TokenClient(f"redis://127.0.0.1:{free_port()}", client_id=CLIENT) as client,
        pytest.raises(StreamsUnavailable),
    ):
        client.tokenize("grace", timeout_seconds=1)
    wait_until(lambda: sdk.named(SEND), "the span")
    [send] = sdk.named(SEND)
    assert (send.attributes or {})["error.type"] == "unconfirmed"


def test_span_of_a_request_ends_with_its_client(sdk: Sdk) -> None:
    """A client that is closed while no server is there leaves no span open."""
    with TokenClient(f"redis://127.0.0.1:{free_port()}", client_id=CLIENT) as client:
        future = client.submit("tokenize", [("str", "grace")], timeout_seconds=60)
        [channel] = client._engine._channels.values()
        wait_until(lambda: channel._away["send"].endswith("connection refused"), "a try to send")
    assert isinstance(future.exception(), ClientClosed)
    [send] = sdk.named(SEND)
    assert (send.attributes or {})["error.type"] == "unconfirmed"
