"""A real Chromium, where one is installed, on a page of ours: every request is written down, the network is cut."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WAIT_MS = 60_000  # on a busy machine; nothing waits that long otherwise

# Names resolve nowhere: a request to another host fails instead of leaving the machine.
ARGUMENTS = [
    "--no-sandbox",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]


@contextmanager
def chromium() -> Iterator[Browser]:
    """Skips the test where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install -e '.[dev]'")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine; Debian's package is called chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Visit:
    """An open page. requests: every address that was asked for. complaints: the console's errors, and uncaught ones."""

    page: Page
    origin: str
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    @property
    def strays(self) -> list[str]:
        """Requests that left the origin."""
        return [
            url for url in self.requests if not url.startswith((f"{self.origin}/", f"blob:{self.origin}/"))
        ]

    def shot(self, path: Path) -> None:
        self.page.screenshot(path=path, full_page=True)


@contextmanager
def visit(
    browser: Browser,
    origin: str,
    path: str = "/",
    width: int = 1440,
    dark: bool = False,
) -> Iterator[Visit]:
    """A page in a profile of its own, as one who comes for the first time has it."""
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light"
    )
    context.set_default_timeout(WAIT_MS)
    page = context.new_page()
    seen = Visit(page, origin)
    page.on("request", lambda request: seen.requests.append(request.url))
    page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    page.on(
        "console",
        lambda message: (
            seen.complaints.append(message.text) if message.type in ("error", "warning") else None
        ),
    )
    try:
        page.goto(f"{origin}{path}")
        yield seen
    finally:
        context.close()
