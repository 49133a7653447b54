"""A real browser: Chromium from the system, driven by Playwright. Nothing is downloaded."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Dialog, Page

NAMES = ("chromium", "chromium-browser", "google-chrome")
"""Names of the program."""


@contextmanager
def chromium() -> Iterator["Browser"]:
    """Start the browser. Skips the test where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next((path for name in NAMES if (path := shutil.which(name))), None)
    if program is None:
        pytest.skip("chromium is not installed")
    as_root = ["--no-sandbox"] if os.geteuid() == 0 else []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=[*as_root, "--disable-dev-shm-usage"])
        try:
            yield browser
        finally:
            browser.close()


class Complaints:
    """Complaints about a page: errors on the console, dialogs, requests to other hosts.

    Violations of the Content-Security-Policy are among the errors on the console.
    """

    def __init__(self, page: "Page") -> None:
        self.all: list[str] = []
        self.allows_failed_requests = False
        self._page = page
        page.on("console", lambda message: self._note(message.type in ("error", "warning"), message.text))
        page.on("pageerror", lambda error: self._note(True, str(error)))
        page.on("dialog", self._dismiss)
        page.on("request", lambda request: self._note(urlsplit(request.url).hostname != "127.0.0.1", request.url))

    def _dismiss(self, dialog: "Dialog") -> None:
        self._note(True, dialog.message)
        dialog.dismiss()

    def _note(self, is_one: bool, text: str) -> None:
        if is_one and not (self.allows_failed_requests and "Failed to load resource" in text):
            self.all.append(text)
