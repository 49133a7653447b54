"""The small HTTP server listens on IPv4 and IPv6, and says why where it cannot."""

import http.client
import socket
from collections.abc import Iterator
from http import HTTPStatus

import pytest
import structlog

from token_worker.errors import SettingsError
from token_worker.settings.listen_address import ListenAddress
from token_worker.telemetry import http_server
from token_worker.telemetry.http_server import Page, Pages, serve_pages


class Hello(Pages):
    """Answers each path alike."""

    def page(self, path: str, query: str) -> Page:
        """Say which path and query arrived."""
        return Page(HTTPStatus.OK, f"{path} {query}".encode(), headers={"X-Extra": "yes"})


def get(host: str, port: int, path: str = "/") -> str:
    """Return the body at a path."""
    connection = http.client.HTTPConnection(host, port, timeout=30)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        assert answer.getheader("X-Extra") == "yes"
        return answer.read().decode()
    finally:
        connection.close()


@pytest.fixture
def no_ipv6(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine without IPv6, for the server under test."""
    real = socket.socket

    def refuse(family: int = socket.AF_INET, *rest: object, **more: object) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(97, "Address family not supported by protocol")
        return real(family, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "socket", refuse)
    yield
    monkeypatch.undo()


def with_ipv6() -> bool:
    """Tell whether this machine has IPv6."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not with_ipv6(), reason="this machine has no IPv6")


@needs_ipv6
def test_loopback_of_ipv6_is_served() -> None:
    """``[::1]:0`` gets a port of the system's choice and answers there."""
    address = serve_pages(ListenAddress.parse("[::1]:0"), Hello, "--serve")
    assert address.host == "::1"
    assert get("::1", address.port, "/a?b=c?d") == "/a b=c?d"


@needs_ipv6
def test_all_addresses_are_those_of_ipv4_too() -> None:
    """``[::]`` answers on IPv6 and on IPv4."""
    port = serve_pages(ListenAddress.parse("[::]:0"), Hello, "--serve").port
    assert get("::1", port) == get("127.0.0.1", port) == "/ "


def test_all_addresses_of_a_machine_without_ipv6(no_ipv6: None) -> None:
    """``[::]`` answers on IPv4 where the machine has no IPv6, so that one file serves all machines."""
    port = serve_pages(ListenAddress.parse("[::]:0"), Hello, "--serve").port
    assert get("127.0.0.1", port) == "/ "


def test_name_is_an_address_of_ipv4_first() -> None:
    """``localhost`` listens where most clients look for it."""
    address = serve_pages(ListenAddress.parse("localhost:0"), Hello, "--serve")
    assert address.host == "127.0.0.1"


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("192.0.2.1", "Cannot assign requested address"),
        ("nowhere.invalid", "no address of that name"),
        ("x" * 64, "no address of that name"),
    ],
)
def test_address_of_no_machine_is_refused(host: str, why: str) -> None:
    """An address that is not of this machine is refused with the option, the address and the reason."""
    with pytest.raises(SettingsError, match=rf"^--serve: cannot listen on {host}:0 \({why}\)"):
        serve_pages(ListenAddress(host, 0), Hello, "--serve")


def test_page_that_cannot_be_made_is_an_error_of_the_server() -> None:
    """A defect behind a page is answered by 500 without details, and logged."""

    class Broken(Pages):
        def page(self, path: str, query: str) -> Page:
            raise RuntimeError("a detail")

    served = serve_pages(ListenAddress("127.0.0.1", 0), Broken, "--serve")
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    with structlog.testing.capture_logs() as logs:
        connection.request("GET", "/any")
        answer = connection.getresponse()
    assert answer.status == HTTPStatus.INTERNAL_SERVER_ERROR
    assert b"a detail" not in answer.read()
    connection.close()
    assert [(line["event"], line["path"]) for line in logs] == [("a page could not be made", "/any")]


def test_port_that_is_taken_is_refused() -> None:
    """A port that is taken is refused, on IPv4 and on all addresses."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for host in ("127.0.0.1", "::"):
            with pytest.raises(SettingsError, match="Address already in use"):
                serve_pages(ListenAddress(host, port), Hello, "--serve")


def test_silent_client_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that never sends its request loses its connection, and keeps no thread."""

    class Hasty(Hello):
        timeout = 0.05

    address = serve_pages(ListenAddress("127.0.0.1", 0), Hasty, "--serve")
    with socket.create_connection(address, timeout=30) as silent:
        assert silent.recv(1) == b""
    assert http_server.CLIENT_SECONDS > 1
