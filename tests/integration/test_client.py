"""The client with real workers and servers: types, long lists and refusals, in threads and in an event loop.

What depends on neither delivery nor scripts is tested in ``unit/client``, with a worker in the test's own process.
"""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from harness.clients import CLIENT, LONG_SECONDS, Kind
from harness.stack import Stack
from token_worker.acra.owner import Owner
from token_worker.acra.token_entry import EntryNames
from token_worker.acra.value_types import TYPES
from token_worker.client import (
    EntryUnreadable,
    InvalidEmail,
    InvalidRequest,
    Item,
    KeyUnreadable,
    RequestRefused,
    TokenClient,
    TokenDisabled,
    TokenNotFound,
    UnknownClient,
    UnknownType,
    UnknownZone,
    ValueOutOfRange,
    ValueTooLarge,
)
from token_worker.contract.messages import Op

VALUES: list[tuple[Any, Any]] = [
    ("int32", -(2**31)),
    ("int64", 2**63 - 1),
    ("str", "Grace Hopper, née Murray"),
    ("bytes", b"\x00\xff"),
    ("email", "grace@navy.example"),
]


@pytest.fixture
def client(served: Stack, kind: Kind) -> Iterator[Any]:
    """A client of either kind, whose worker runs."""
    with kind(served.settings["TOKEN_WORKER_STREAMS_URL"], client_id=CLIENT, timeout_seconds=LONG_SECONDS) as client:
        yield client


def test_every_type_goes_there_and_back(client: Any, served: Stack) -> None:
    """A token has the type of its value and gives it back; alone, in a list, and in a record of many types."""
    for type_name, value in VALUES:
        token = client.tokenize(value, type=type_name)
        assert type(token) is type(value)
        assert token != value
        assert client.detokenize(token, type=type_name) == value
        assert client.tokenize([value, value], type=type_name) == [token, token]
    tokens = client.request("tokenize", [Item(type_name, value) for type_name, value in VALUES])
    names = [type_name for type_name, _ in VALUES]
    assert client.request(Op.DETOKENIZE, [*zip(names, tokens, strict=True)]) == [value for _, value in VALUES]
    # and it is the contract's own token: that of a request of somebody else
    asked = {"id": "1", "op": "tokenize", "client_id": CLIENT, "type": "email", "value": "grace@navy.example"}
    assert served.ask([asked])["1"]["value"] == tokens[-1]


def test_list_longer_than_a_request(client: Any, served: Stack) -> None:
    """A list of any length is one call, its tokens in order; no request is longer than workers take."""
    values = [f"value {number}" for number in range(2500)]
    tokens = client.tokenize(values)
    assert len({*tokens}) == 2500
    assert served.streams.xlen("tokenize:requests") == 3
    assert client.detokenize(tokens) == values
    large = [f"{number}".ljust(50_000, "x") for number in range(50)]
    assert client.detokenize(client.tokenize(large)) == large
    assert client.tokenize([]) == []
    assert not served.streams.exists("tokenize:requests:dead")


SECRET = "4242-4242-4242"

REFUSED: list[tuple[type[RequestRefused], Callable[[Any], Any]]] = [
    (InvalidRequest, lambda client: client.tokenize(SECRET, type="int64")),
    (UnknownType, lambda client: client.tokenize(SECRET, type="text")),
    (ValueOutOfRange, lambda client: client.tokenize(2**31, type="int32")),
    (ValueOutOfRange, lambda client: client.tokenize("")),
    (ValueTooLarge, lambda client: client.tokenize("x" * 100_000)),
    (ValueTooLarge, lambda client: client.tokenize("x" * 2_000_000)),
    (InvalidEmail, lambda client: client.tokenize(SECRET, type="email")),
    (UnknownClient, lambda client: client.tokenize(SECRET, client_id="nobody-here")),
    (UnknownClient, lambda client: client.tokenize([SECRET] * 3, client_id="nobody-here")),
    (UnknownZone, lambda client: client.tokenize(SECRET, zone_id="no-such-zone")),
    (TokenNotFound, lambda client: client.detokenize(SECRET)),
    (KeyUnreadable, lambda client: client.tokenize(SECRET, client_id="damaged-key")),
]


def test_refusals_have_the_classes_of_their_codes(client: Any, served: Stack) -> None:
    """A refusal of a worker raises the error of its code, with a message that does not show the value."""
    served.storage.set(".acrakeys/damaged-key_storage_sym", b"x" * 100)
    raised: list[type] = []
    for _, call in REFUSED:
        with pytest.raises(RequestRefused) as caught:
            call(client)
        raised.append(type(caught.value))
        assert SECRET not in f"{caught.value} {caught.value!r}"
    assert [error for error, _ in REFUSED] == raised


def test_disabled_and_damaged_tokens(client: Any, served: Stack) -> None:
    """A token that somebody disabled and one whose entry is damaged are different errors."""
    disabled, damaged = client.tokenize(["one value", "other value"])
    done = served.run("tokens", "disable", CLIENT, "--type", "str", "--token", value=disabled)
    assert done.returncode == 0, done.stderr
    served.storage.set(EntryNames(Owner("client", CLIENT)).of_token(damaged.encode(), TYPES["str"].number), b"damaged")
    for token, error in ((disabled, TokenDisabled), (damaged, EntryUnreadable)):
        with pytest.raises(error):
            client.detokenize(token)


def test_two_clients_at_once(served: Stack, kind: Kind) -> None:
    """Each client gets its own replies, beside the other one and producers that read the route's response stream."""
    url = served.settings["TOKEN_WORKER_STREAMS_URL"]

    def asked(number: int) -> dict[str, Any]:
        return {"id": f"{number}", "op": "tokenize", "client_id": CLIENT, "type": "str", "value": f"json {number}"}

    served.ask([asked(number) for number in range(50)])
    with TokenClient(url, client_id=CLIENT, timeout_seconds=LONG_SECONDS) as beside:
        futures = [beside.submit("tokenize", [("str", f"beside {number}")]) for number in range(200)]
        with kind(url, client_id=CLIENT, timeout_seconds=LONG_SECONDS) as client:
            served.send([asked(number) for number in range(50, 100)])
            tokens = client.tokenize([f"value {number}" for number in range(1500)])
            assert client.detokenize(tokens) == [f"value {number}" for number in range(1500)]
            found: list[Any] = [future.result()[0] for future in futures]
            assert beside.detokenize(found) == [f"beside {number}" for number in range(200)]
    names = {name for name in served.streams.keys("*") if b"client-" in name}
    assert not names
    assert served.streams.ttl("tokenize:responses") == -1


def test_calls_share_requests_whatever_workers_take(stack: Stack) -> None:
    """Calls that wait to be sent share requests. If these have more items than workers take, no call fails for that."""
    stack.start_worker(TOKEN_WORKER_MAX_ITEMS="2")
    values = [f"value {number}" for number in range(300)]
    url = stack.settings["TOKEN_WORKER_STREAMS_URL"]
    with TokenClient(url, client_id=CLIENT, timeout_seconds=LONG_SECONDS) as client:
        futures = [client.submit("tokenize", [("str", value)]) for value in values]
        tokens: list[Any] = [future.result()[0] for future in futures]
        assert client.request("detokenize", [("str", tokens[0]), ("str", tokens[299])]) == [values[0], values[299]]
    requests = [fields[b"payload"] for _, fields in stack.streams.xrange("tokenize:requests")]
    counts = [len(msgspec.msgpack.decode(payload)["items"]) for payload in requests]
    assert len({*tokens}) == 300
    assert max(counts) == 100
    assert counts.count(1) >= 100
