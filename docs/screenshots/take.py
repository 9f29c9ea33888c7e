"""Takes the screenshots of all pages, in both themes, at 1280 and 1920 pixels.

python docs/screenshots/take.py URL STUDY BENCHMARK

URL is that of a dashboard whose store holds both; `atoll quickstart` and `atoll benchmark tiny` make them.
"""

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

FOLDER = Path(__file__).parent
# Every figure is in its place (curves only where trials are selected), and none says that it will be in a moment.
DRAWN = """() => [...document.querySelectorAll("[id$='-place']")].every((place) => place.querySelector(".main-svg")
    || (place.id === "study-curves-place" && !location.search.includes("trials=")))
  && !/appears here by itself|being replayed/.test(document.body.textContent)"""
FLAGS = ["--no-sandbox", "--headless", "--disable-gpu", "--disable-background-networking", "--disable-sync"]


def main(url: str, study: str, benchmark: str) -> None:
    """Take them."""
    pages = {
        "studies": "/",
        "study": f"/study?name={study}&trials=[[13,0],[23,0]]",
        "parallel": f"/study?name={study}&tab=parallel",
        "importance": f"/study?name={study}&tab=importance",
        "timeline": f"/study?name={study}&tab=timeline",
        "islands": f"/islands?name={study}&trial=31",
        "trial": f"/trial?study={study}&number=12",
        "compare": f"/compare?benchmark={benchmark}&figure=profiles",
        "projection": f"/projection?name={benchmark}",
        "export": f"/export?name={study}",
    }
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        for theme in ("light", "dark"):
            for width in (1280, 1920):
                page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=theme)
                for name, path in pages.items():
                    page.goto(url + path)
                    page.wait_for_selector("h1")
                    page.wait_for_load_state("networkidle")
                    page.wait_for_function(DRAWN)
                    page.wait_for_timeout(1500)
                    page.screenshot(path=FOLDER / f"{name}_{theme}_{width}.png", full_page=True)
                page.close()
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
