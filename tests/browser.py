"""A headless Chromium for tests of pages, and what went on in it: errors, messages, requests."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser, Page, sync_playwright

VARIABLE = "FASTFACE_TUNER_CHROMIUM"
"""Names another browser than the first of these that is installed."""
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


def chromium() -> str | None:
    """Return the path of the installed browser."""
    found = os.environ.get(VARIABLE) or next(filter(None, map(shutil.which, NAMES)), None)
    return shutil.which(found) if found else None


@dataclass
class Heard:
    """What a page did besides showing itself."""

    messages: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@contextmanager
def running() -> Iterator[Browser]:
    """Start the installed browser, and hand it out."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=list(ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(
    browser: Browser,
    path: Path,
    *,
    width: int = 1180,
    theme: Literal["light", "dark"] = "light",
    wait: Literal["first", "all"] = "all",
    heard: Heard | None = None,
) -> Iterator[Page]:
    """Open a report, wait until its first or all of its figures are drawn, and hand the page out."""
    heard = heard or Heard()
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=theme)
    try:
        page.on("console", lambda message: heard.messages.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: heard.errors.append(str(error)))
        page.on("request", lambda request: heard.requests.append(request.url))
        page.goto(path.absolute().as_uri())
        # The page's policy forbids evaluated code, so an attribute is waited for, not a function.
        state = "html[data-drawn]" if wait == "first" else "html[data-drawn=all]"
        page.wait_for_selector(state, state="attached", timeout=120_000)
        yield page
    finally:
        page.close()
