"""A headless Chromium, and pages in it whose errors fail the test."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--no-sandbox", "--headless", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
# .ci/run installs chromium, and in CI a skip is a failure.
NEEDED = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH: apt-get install chromium"),
]


def needed(test: Callable) -> Callable:
    """The same marks, for one test."""
    for mark in NEEDED:
        test = mark(test)
    return test


@contextmanager
def launched() -> Iterator:
    """A browser without a page."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser; it is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def opened(width: int = 1280, height: int = 900, **options) -> Iterator:
    """A page; what its programs raise, and callbacks that fail, are in its attribute `failures`."""
    with launched() as browser:
        page = browser.new_page(viewport={"width": width, "height": height}, **options)
        page.set_default_timeout(30_000)
        page.failures = []
        page.on("pageerror", lambda error: page.failures.append(str(error)))
        page.on("response", lambda answer: answer.status >= 500 and page.failures.append(answer.url))
        yield page
