"""The monitor answers each of its paths, over HTTP."""

import base64
import http.client
import socket
from contextlib import closing
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Gauge

from token_worker.monitor.guard import Guard, TokenFile
from token_worker.monitor.site import SECURITY_HEADERS, Site
from token_worker.settings.listen_address import ListenAddress
from token_worker.telemetry import http_server
from token_worker.telemetry.http_server import serve_pages

PASSWORD = "correct horse battery staple"


def page(refreshes: bool) -> bytes:
    return b"refreshes" if refreshes else b"stands"


def serve(guard: Guard, *, alone: bool = False) -> int:
    registry = CollectorRegistry()
    Gauge("some_figure", "A figure.", registry=registry).set(7)
    site = Site(guard, registry, None if alone else page)
    return serve_pages(ListenAddress("127.0.0.1", 0), site.handler(), "--serve").port


@pytest.fixture
def local() -> int:
    """Port of a monitor on the loopback without a password."""
    guard = Guard(None, metrics_open=False)
    guard.is_local = True
    return serve(guard)


def ask(port: int, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()


@pytest.mark.parametrize(
    ("path", "kind", "part"),
    [
        ("/", "text/html; charset=utf-8", b"refreshes"),
        ("/?refresh=off", "text/html; charset=utf-8", b"stands"),
        ("/operations", "text/html; charset=utf-8", b'<h3 id="tokenworkerfallsbehind">'),
        ("/style.css", "text/css; charset=utf-8", b"prefers-color-scheme: dark"),
        ("/script.js", "text/javascript; charset=utf-8", b'"use strict"'),
        ("/icon-act.svg", "image/svg+xml", b"<svg"),
        ("/metrics", "text/plain", b"some_figure 7.0"),
        ("/healthz", "text/plain", b"ok"),
    ],
)
def test_path_has_its_content_and_strict_headers(local: int, path: str, kind: str, part: bytes) -> None:
    """Each path has its type, and the headers that keep foreign code, frames and caches away. HEAD has no body."""
    status, headers, body = ask(local, path)
    assert status == 200
    assert headers["Content-Type"].startswith(kind)
    assert part in body
    assert SECURITY_HEADERS.items() <= headers.items()
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert ask(local, path, "HEAD")[0::2] == (200, b"")


@pytest.mark.parametrize("path", ["/no-such-path", "/../style.css", "/static/style.css", "//x", "/%2e%2e/page.html"])
def test_no_other_path(local: int, path: str) -> None:
    """Nothing else is served, whatever the path looks like."""
    assert ask(local, path)[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_page_only_reads(local: int, method: str) -> None:
    """No method but GET and HEAD is answered."""
    assert ask(local, "/", method)[0] == 501


def test_foreign_name_is_refused(local: int) -> None:
    """A browser that was led here by a foreign name gets nothing of the page."""
    status, headers, body = ask(local, "/", Host="evil.example")
    assert (status, body) == (403, b"without --token-file, only requests to localhost are answered\n")
    assert "WWW-Authenticate" not in headers


def test_password_is_asked_for(tmp_path: Path) -> None:
    """Without the password a browser is told to ask for it; health needs none."""
    (tmp_path / "token").write_text(PASSWORD)
    port = serve(Guard(TokenFile(tmp_path / "token"), metrics_open=False))
    status, headers, body = ask(port, "/")
    assert (status, headers["WWW-Authenticate"][:5]) == (401, "Basic")
    assert b"refreshes" not in body
    basic = base64.b64encode(f"me:{PASSWORD}".encode()).decode()
    assert ask(port, "/", Authorization=f"Basic {basic}")[0] == 200
    assert ask(port, "/metrics", Authorization=f"Bearer {PASSWORD}")[0] == 200
    assert ask(port, "/healthz")[0] == 200


def test_metrics_alone() -> None:
    """``lag --serve`` serves the metrics to everybody, and no page."""
    port = serve(Guard(None, metrics_open=True), alone=True)
    assert ask(port, "/metrics", Host="monitor.example")[0] == 200
    assert ask(port, "/", Host="monitor.example")[0] == 403
    assert ask(port, "/")[0] == 403


def test_connections_are_bounded(local: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that send nothing take a bounded number of threads; one more is closed."""
    monkeypatch.setattr(http_server, "CONNECTIONS_MAX", 3)
    silent = [socket.create_connection(("127.0.0.1", local), timeout=30) for _ in range(3)]
    try:
        with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
            ask(local, "/healthz")
    finally:
        for connection in silent:
            connection.close()


def test_slow_client_is_cut(local: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that never ends its request does not keep its thread."""
    with socket.create_connection(("127.0.0.1", local), timeout=30) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\n")
        monkeypatch.setattr(http_server, "CONNECTION_SECONDS", -1.0)
        assert slow.recv(1) == b""
