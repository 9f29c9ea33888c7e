"""A headless Chromium, and pages in it that note their errors.

The fixture `chromium` of tests/conftest.py starts one browser for the whole session.
"""

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
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@contextmanager
def opened(chromium, width: int = 1280, height: int = 900, **options) -> Iterator:
    """A page in a context of its own: it shares no cookies, storage or cache with other tests' pages.

    Its attribute `failures` holds errors of its programs and addresses that the server failed to answer.
    """
    context = chromium.new_context(viewport={"width": width, "height": height}, **options)
    try:
        yield new_page(context)
    finally:
        context.close()


@contextmanager
def warm(context) -> Iterator:
    """A page in a context that others share: the cache is kept, as loading the libraries takes seconds.

    Cookies go with the page, and so does what it stored in the browser.
    """
    page = new_page(context)
    try:
        yield page
        if page.url.startswith("http"):
            page.evaluate("localStorage.clear(), sessionStorage.clear()")
    finally:
        page.close()
        context.clear_cookies()


def new_page(context):
    """A page that notes its failures."""
    page = context.new_page()
    page.set_default_timeout(30_000)
    page.failures = []
    page.on("pageerror", lambda error: page.failures.append(str(error)))
    # A callback's own mistake is answered as a malformed request is: with 400.
    page.on("response", lambda a: (a.status >= 500 or a.status == 400) and page.failures.append(f"{a.status} {a.url}"))
    return page
