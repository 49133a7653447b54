"""Both clients: their settings, what they refuse at once, what their import loads, and the types that mypy sees."""

import subprocess
import sys
from typing import Any, assert_type

import pytest

from token_worker.client import (
    AsyncTokenClient,
    Item,
    RequestRefused,
    TokenClient,
)

MARKER = "4242-4242"


@pytest.mark.parametrize(
    "options",
    [
        *({"timeout_seconds": seconds} for seconds in (0, -1, float("nan"), float("inf"), 1e10)),
        *({"batch_ms": milliseconds} for milliseconds in (-1, float("nan"), float("inf"))),
        {"max_in_flight": 0},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", [TokenClient, AsyncTokenClient])
def test_settings_out_of_range_are_refused(kind: type[TokenClient | AsyncTokenClient], options: dict[str, Any]) -> None:
    """A time or number that a thread of the client would choke on later is a ``ValueError`` at once."""
    with pytest.raises(ValueError, match=next(iter(options))):
        kind("redis://127.0.0.1", **options)


@pytest.mark.parametrize(
    "options",
    [
        *({"timeout_seconds": seconds} for seconds in (0, -1, float("nan"), float("inf"), 1e10)),
        {"client_id": "shop\ud800"},
        {"client_id": "x" * 257},
        {"client_id": 5},
        {"zone_id": "shop\ud800"},
    ],
    ids=ascii,
)
def test_call_that_could_not_be_sent_is_refused_at_once(options: dict[str, Any]) -> None:
    """Arguments that no request can hold raise at once; no thread is started for them."""
    client = TokenClient("redis://127.0.0.1:1", client_id="shop-frontend")
    with pytest.raises(ValueError, match=next(iter(options))):
        client.submit("tokenize", [("str", MARKER)], **options)
    assert not client._engine.needs_closing


@pytest.mark.parametrize("option", ["fmt", "clientid", "timeout"])
def test_option_that_does_not_exist_is_refused(option: str) -> None:
    """A misspelt option of a call is a ``TypeError`` that lists the options. It used to be ignored."""
    client = TokenClient("redis://127.0.0.1:1", client_id="shop-frontend")
    options: Any = {option: "pan"}
    with pytest.raises(TypeError, match=f"no option '{option}'; there are client_id, consistent"):
        client.submit("tokenize", [("str", MARKER)], **options)
    with pytest.raises(TypeError, match=f"no option '{option}'"):
        client.tokenize("a value", **options)
    assert not client._engine.needs_closing


def test_client_shows_where_it_sends_to_and_no_password() -> None:
    """``repr`` has the server and the client id, and nothing secret."""
    shown = repr(TokenClient("redis://user:hush@streams.example:7000/0", client_id="shop-frontend"))
    assert shown == "TokenClient('streams.example:7000', client_id='shop-frontend')"


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an address it is the one that workers have, and so are the limits and routes."""
    monkeypatch.setenv("TOKEN_WORKER_STREAMS_URL", "redis://elsewhere:7001/0")
    monkeypatch.setenv("TOKEN_WORKER_MAX_ITEMS", "7")
    client = TokenClient(client_id="shop-frontend")
    assert repr(client) == "TokenClient('elsewhere:7001', client_id='shop-frontend')"
    assert client._engine._limits.items == 7


NOT_LOADED = ("hvac", "requests", "click", "rich", "structlog", "prometheus_client")
OF_CRYPTOGRAPHY = {"cryptography", "cryptography.__about__"}
"""The modules of cryptography that redis-py itself loads: no cipher among them."""


def test_import_loads_neither_vault_nor_ciphers() -> None:
    """A producer's process has nothing in memory of what only workers and commands need."""
    code = "import sys, token_worker.client; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = {*done.stdout.split()}
    assert not [name for name in NOT_LOADED if name in loaded]
    assert {name for name in loaded if name.startswith("cryptography")} <= OF_CRYPTOGRAPHY


def _types_follow_the_value(client: TokenClient) -> None:
    assert_type(client.tokenize("a"), str)
    assert_type(client.tokenize(1, type="int32"), int)
    assert_type(client.tokenize(b"a", zone_id="zone"), bytes)
    assert_type(client.detokenize(["a"], timeout_seconds=1), list[str])
    assert_type(client.detokenize([1]), list[int])
    assert_type(client.tokenize(["a", None]), list[str | None])
    assert_type(client.tokenize(["a"], format="pan", mark_other=True), list[str])
    assert_type(client.request("tokenize", [("str", "a")]), list[int | str | bytes | RequestRefused])
    assert_type(client.submit("tokenize", [Item("str", "a")]).result(), list[int | str | bytes | RequestRefused])


async def _types_follow_the_value_in_a_loop(client: AsyncTokenClient) -> None:
    assert_type(await client.tokenize("a"), str)
    assert_type(await client.detokenize(1), int)
    assert_type(await client.tokenize([b"a"]), list[bytes])
    assert_type(await client.tokenize("a", format="pan", mark_other=True), str)
    assert_type(await client.detokenize([None, 1]), list[int | None])
    assert_type(await client.detokenize(["a"], type="email"), list[str])
    assert_type(await client.request("tokenize", [("str", "a")]), list[int | str | bytes | RequestRefused])
