"""The list of studies in a real browser."""

import json

import boards
import browser
from commands import wait_until
from served import ROWS, holds, until

from atoll.storage.events import StudyEnded
from atoll.storage.folder import StudyFolder
from atoll.storage.journal import JournalWriter
from atoll.storage.recorder import Recorder
from atoll.storage.store import Store

pytestmark = browser.NEEDED


def test_studies_are_listed_searched_and_opened(url, page):
    page.goto(url)
    page.wait_for_selector(ROWS)
    names = page.locator("#studies-grid [col-id='study'] a")
    until(page, "document.querySelectorAll('#studies-grid .ag-center-cols-container .ag-row').length === 7")
    assert {"daso", "front", "broken"} <= set(names.all_inner_texts())
    assert "7 studies, 0 running" in page.inner_text("#studies-summary")
    assert page.inner_text("#studies-benchmarks .ag-row [col-id='progress']") == "4 of 4"
    page.fill("#studies-search", "easgd")
    until(page, "document.querySelectorAll('#studies-grid .ag-center-cols-container .ag-row').length === 1")
    holds(page, "?search=easgd")
    page.fill("#studies-search", "")
    only = "{method: {filterType: 'text', type: 'equals', filter: 'easgd'}}"
    page.evaluate(f"dash_ag_grid.getApiAsync('studies-grid').then((api) => api.setFilterModel({only}))")
    holds(page, "?filter=")
    page.reload()  # the address holds it
    until(page, "document.querySelectorAll('#studies-grid .ag-center-cols-container .ag-row').length === 1")
    holds(page, "?filter=")
    wait_until(lambda: names.all_inner_texts() == ["front"], 20)
    page.click("#studies-grid [col-id='study'] a")
    holds(page, "/study?name=front")
    page.wait_for_selector("h1 >> text=front")


RED = "rgb(201, 42, 42)"


def test_a_failed_study_stands_out_in_the_list(shared, page):
    path, url = shared
    folder = StudyFolder(boards.study(path, [None], name="failed-study").study("failed-study").folder)
    JournalWriter(folder.launcher_journal()).append(StudyEnded(state="failed", reason="its only trial failed"))
    Recorder(folder, lambda: Store(f"sqlite:///{path}/atoll.db"), json.loads(folder.definition.read_text())).catch_up()
    page.goto(f"{url}/?search=failed-study")
    page.wait_for_selector(".state-failed")
    assert page.inner_text(".state-failed") == "failed"
    assert page.evaluate("getComputedStyle(document.querySelector('.state-failed')).backgroundColor") == RED
