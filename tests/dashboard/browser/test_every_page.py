"""What holds for every page, in a real browser: theme, accessibility, text that stays text, editing."""

import json
from urllib.parse import quote_plus

import boards
import browser
import pytest
from served import ROWS, dashboard, drawn, num_rows, until

from atoll.storage import browse
from atoll.storage.store import Store

pytestmark = browser.NEEDED


@pytest.mark.long
def test_the_theme_is_chosen_and_kept(url, page):
    page.goto(f"{url}/study?name=daso")
    drawn(page, "study-figure")
    assert page.get_attribute("html", "data-mantine-color-scheme") == "light"
    page.click("#theme-toggle")
    until(page, "document.documentElement.dataset.mantineColorScheme === 'dark'")
    until(page, "document.querySelector('#study-figure .js-plotly-plot')._fullLayout.font.color !== '#2a3f5f'")
    page.reload()
    until(page, "document.documentElement.dataset.mantineColorScheme === 'dark'")


PAGES = [
    "/", "/study?name=daso", "/study?name=daso&tab=failures", "/islands?name=daso", "/trial?study=daso&number=3",
    "/compare?benchmark=b", "/projection?name=b", "/export?name=daso",
]  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize(("theme", "width"), [("light", 1280), ("dark", 1920)])
def test_axe_finds_nothing_serious_and_nothing_reaches_over_the_edge(url, page, theme, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-core's wrapper is missing").Axe()
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=theme)
    for path in PAGES:
        page.goto(url + path)
        page.wait_for_selector("h1")
        page.wait_for_load_state("networkidle")
        assert page.get_attribute("html", "data-mantine-color-scheme") == theme
        for _ in range(5):  # a table that is only half drawn has rows without cells
            page.wait_for_timeout(500)
            found = axe.run(page).response["violations"]
            bad = [(path, v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in ("serious", "critical")]
            if not bad:
                break
        assert bad == []
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), path


@pytest.mark.long
def test_names_and_notes_are_text_wherever_they_are_shown(tmp_path, page):
    store = boards.study(tmp_path, [0.5, 0.7, None], name=boards.NASTY)
    store.annotate(browse.trial(store, 1, 0), boards.NASTY)
    dialogs = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    name = quote_plus(boards.NASTY)
    with dashboard(str(store)) as url:
        page.goto(url)
        page.wait_for_selector("#studies-grid [col-id='study'] a")
        assert page.inner_text("#studies-grid [col-id='study'] a") == boards.NASTY
        page.click("#studies-grid [col-id='study'] a")
        page.wait_for_selector(f"{ROWS} >> nth=2")
        assert page.inner_text("h1") == boards.NASTY
        for tab in ("failures", "timeline", "parallel"):
            page.goto(f"{url}/study?name={name}&tab={tab}")
            drawn(page, "study-figure")
        for path in (
            f"islands?name={name}",
            f"trial?study={name}&number=2",
            f"trial?study={name}&number=0",
            f"compare?studies={quote_plus(json.dumps([boards.NASTY]))}",
            f"projection?name={name}",
            f"export?name={name}",
        ):
            page.goto(f"{url}/{path}")
            page.wait_for_selector("h1")
            page.wait_for_load_state("networkidle")
            assert page.locator("script:text('alert(1)')").count() == 0
        page.goto(f"{url}/trial?study={name}&number=2")
        page.wait_for_selector("#trial-facts >> text=Traceback: <script>")
    assert dialogs == []


@pytest.mark.long
def test_an_empty_store_says_what_to_do(tmp_path, page):
    store = Store(f"sqlite:///{tmp_path}/atoll.db")
    with dashboard(str(store)) as url:
        page.goto(url)
        page.wait_for_selector("text=start one with `atoll quickstart`")
        for path in ("compare", "projection", "export", "study", "islands", "trial?study=s", "nowhere"):
            page.goto(f"{url}/{path}")
            page.wait_for_selector("main >> text=/Choose|Nothing|No such|404/")


def test_nothing_can_be_edited_unless_it_is_allowed(shared, page):
    path, url = shared
    boards.study(path, [0.5], name="read-only")
    page.goto(f"{url}/study?name=read-only")
    num_rows(page, 1)
    assert page.locator("#study-rename").count() == 0
    page.goto(f"{url}/trial?study=read-only&number=0")
    page.wait_for_selector("#trial-facts table")
    assert page.locator("#trial-keep").count() == 0


def test_names_archives_and_notes_can_be_edited(tmp_path, page):
    store = boards.study(tmp_path, [0.5])
    with dashboard(str(store), allow_edit=True) as url:
        page.goto(f"{url}/study?name=s")
        page.fill("#study-new-name", " bad")
        page.click("#study-rename")
        page.wait_for_selector("#study-edited >> text=must have 1 to 200 characters")
        page.fill("#study-new-name", "better & <b>")
        page.click("#study-rename")
        page.wait_for_selector("h1 >> text=better & <b>")
        page.click("#study-archive")
        page.wait_for_selector("#study-edited >> text=Archived")
        assert store.study("better & <b>").archived
        page.goto(f"{url}/trial?study=better+%26+%3Cb%3E&number=0")
        page.fill("#trial-note", "look here")
        page.click("#trial-keep")
        page.wait_for_selector("#trial-facts >> text=look here")
        assert browse.trial(store, 1, 0).note == "look here"
