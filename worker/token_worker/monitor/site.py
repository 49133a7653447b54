"""The pages of the monitor, by path.

``/`` is the page, ``/operations`` the guide for whoever is on call, and ``/metrics`` is for Prometheus. ``/healthz``
says whether the monitor itself works, to everybody.
"""

import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from importlib.resources import files
from urllib.parse import parse_qs

from prometheus_client import CollectorRegistry

from token_worker.monitor.guard import Guard
from token_worker.monitor.render import render_operations
from token_worker.telemetry.http_server import Page, Pages, metrics_page

RENDER_SECONDS = 1.0
"""The page is rendered at most so often. Whoever asks meanwhile gets the same page."""

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}

HTML = "text/html; charset=utf-8"
_STATIC = {
    "/style.css": "text/css; charset=utf-8",
    "/script.js": "text/javascript; charset=utf-8",
    **{f"/icon-{sign}.svg": "image/svg+xml" for sign in ("ok", "look", "act")},
}


class Site:
    """The answers to requests.

    Args:
        guard: who may see what.
        registry: the metrics.
        page: makes the page; takes whether it refreshes itself. None if only metrics are served.
        is_healthy: whether the monitor itself works.
    """

    def __init__(
        self,
        guard: Guard,
        registry: CollectorRegistry,
        page: Callable[[bool], bytes] | None = None,
        is_healthy: Callable[[], bool] = lambda: True,
    ) -> None:
        self._guard = guard
        self._registry = registry
        self._page = page
        self._is_healthy = is_healthy
        self._static = {name: files(__package__).joinpath(f"static{name}").read_bytes() for name in _STATIC}
        self._rendered: dict[bool, tuple[float, bytes]] = {}
        self._lock = threading.Lock()

    def handler(self) -> type[Pages]:
        """Make the handler of requests for ``http_server.listen``."""
        site = self

        class Handler(Pages):
            def page(self, path: str, query: str) -> Page:
                authorization, host = (self.headers.get(name, "") for name in ("Authorization", "Host"))
                found = site.answer(path, query, authorization, host, str(self.client_address[0]))
                return found._replace(headers={**SECURITY_HEADERS, **found.headers})

        return Handler

    def answer(self, path: str, query: str, authorization: str, host: str, peer: str) -> Page:
        """Answer a request; the last three arguments are those of ``Guard.refusal``."""
        if path == "/healthz":
            if self._is_healthy():
                return Page(HTTPStatus.OK, b"ok\n")
            return Page(HTTPStatus.SERVICE_UNAVAILABLE, b"a thread has ended\n")
        refusal = self._guard.refusal(path, authorization, host, peer)
        if refusal is not None:
            return self._refuse(refusal)
        if path == "/metrics":
            return metrics_page(self._registry)
        if self._page is not None:
            if path == "/":
                refreshes = parse_qs(query).get("refresh") != ["off"]
                return Page(HTTPStatus.OK, self._render(self._page, refreshes), HTML)
            if path == "/operations":
                return Page(HTTPStatus.OK, render_operations(), HTML)
            if path in _STATIC:
                return Page(HTTPStatus.OK, self._static[path], _STATIC[path])
        where = "/metrics" if self._page is None else "/, /operations and /metrics"
        return Page(HTTPStatus.NOT_FOUND, f"there is {where}\n".encode())

    def _refuse(self, why: str) -> Page:
        if self._guard.asks_for_password:
            asking = {"WWW-Authenticate": 'Basic realm="token-worker monitor", charset="UTF-8"'}
            return Page(HTTPStatus.UNAUTHORIZED, f"{why}\n".encode(), headers=asking)
        return Page(HTTPStatus.FORBIDDEN, f"{why}\n".encode())

    def _render(self, page: Callable[[bool], bytes], refreshes: bool) -> bytes:
        with self._lock:
            made_at, body = self._rendered.get(refreshes, (0.0, b""))
            if not body or time.monotonic() - made_at >= RENDER_SECONDS:
                body = page(refreshes)
                self._rendered[refreshes] = time.monotonic(), body
            return body
