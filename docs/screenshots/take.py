"""Takes the screenshots that README.md and docs/dashboard.md show, as compressed PNG.

python docs/screenshots/take.py 'URL'

URL is the link that `atoll dashboard` prints, over the store of `atoll quickstart`. Needs chromium, playwright and
Pillow.
"""

import io
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

FOLDER = Path(__file__).parent
PAGES = {
    "study": "/study?name=quickstart&trials=[[13,0],[23,0]]",
    "parallel": "/study?name=quickstart&tab=parallel",
    "islands": "/islands?name=quickstart&trial=31",
}
# Every figure is drawn (curves only if trials are selected), and none is still being computed.
DRAWN = """() => [...document.querySelectorAll("[id$='-place']")].every((place) => place.querySelector(".main-svg")
    || (place.id === "study-curves-place" && !location.search.includes("trials=")))
  && !document.body.textContent.includes("the figure appears when it is ready")"""
FLAGS = ["--no-sandbox", "--headless", "--disable-gpu", "--disable-background-networking", "--disable-sync"]


def main(url: str) -> None:
    """Take them."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="light")
        page.goto(url)  # its token becomes a cookie
        for name, path in PAGES.items():
            page.goto(url.partition("?")[0].rstrip("/") + path)
            page.wait_for_selector("h1")
            page.wait_for_load_state("networkidle")
            page.wait_for_function(DRAWN)
            page.wait_for_timeout(1500)
            save(page.screenshot(full_page=True), FOLDER / f"{name}_light_1280.png")
        browser.close()


def save(content: bytes, path: Path) -> None:
    """Save a screenshot with a palette of 256 colors: about half the size, and hard to tell from the original."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    palette = image.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    palette.save(path, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
