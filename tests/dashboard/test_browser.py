"""The dashboard in a real browser, while a search's journal grows."""

import subprocess
import sys

import browser
import journals
import pytest
from commands import wait_until

from atoll.storage.journal import JournalWriter
from atoll.storage.recorder import Recorder, RecorderThread
from atoll.storage.store import Store

pytestmark = browser.NEEDED


@pytest.fixture
def live_search(tmp_path):
    """A search under way: its journal's writer, and the URL of a dashboard over its store."""
    folder = journals.start_folder(tmp_path / "s")
    lines = JournalWriter(folder.root_journal(0))
    for number, objective in enumerate([0.8, 0.9]):
        journals.start_trial(lines, number)
        for epoch in (1, 2, 3):
            journals.report(lines, number, epoch)
        journals.end_trial(lines, number, objective)
    url = f"sqlite:///{tmp_path}/atoll.db"
    recorder = Recorder(folder, lambda: Store(url), journals.study_row(folder.path))
    recorder.catch_up()
    thread = RecorderThread(recorder)
    thread.start()
    command = [sys.executable, "-m", "atoll.platform.cli", "dashboard", "--port", "0", "--store", url]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield lines, server.stdout.readline().split()[-1]
    finally:
        server.kill()
        server.communicate()
        thread.finish(20)


@pytest.fixture
def page():
    with browser.opened(1500, 1100) as opened:
        yield opened


def test_from_the_study_list_to_a_trials_curve_while_the_search_runs(live_search, page):
    lines, url = live_search
    page.goto(url)
    page.click(".ag-cell a")
    page.wait_for_url("**/study/s")
    assert page.inner_text("h2") == "s"
    rows = ".ag-center-cols-container .ag-row"
    page.wait_for_selector(rows)
    assert page.locator(rows).count() == 2
    assert page.inner_text(f"{rows}[row-index='0'] [col-id='accuracy']") == "0.9"
    # filter by nothing, choose the best trial: its curve appears
    assert page.locator("#study-curves .scatterlayer .trace").count() == 0
    page.click(f"{rows}[row-index='0'] [col-id='trial']")
    page.wait_for_selector("#study-curves .scatterlayer .trace")
    assert page.locator("#study-curves .scatterlayer .trace").count() == 3
    assert "trial 1" in page.inner_text("#study-curves")
    # a running trial's curve grows
    journals.start_trial(lines, 3)
    journals.report(lines, 3, 1)
    page.wait_for_function(f'document.querySelectorAll("{rows}").length == 3')
    page.click(f"{rows}[row-index='2'] [col-id='trial']", modifiers=["Control"])
    points = "#study-curves .scatterlayer .trace .point"
    page.wait_for_function(f'document.querySelectorAll("{points}").length == 12')
    journals.report(lines, 3, 2)
    page.wait_for_function(f'document.querySelectorAll("{points}").length == 15')
    page.click(f"{rows}[row-index='2'] [col-id='trial']", modifiers=["Control"])
    # a new trial appears by itself, above, and the choice stays
    journals.start_trial(lines, 2)
    journals.report(lines, 2, 1)
    journals.end_trial(lines, 2, 0.99)
    page.wait_for_function(f'document.querySelectorAll("{rows}").length == 4')
    assert page.inner_text(f"{rows}[row-index='0'] [col-id='accuracy']") == "0.99"
    assert page.locator(f"{rows}.ag-row-selected [col-id='trial']").inner_text() == "1"
    assert "3 complete" in page.inner_text("#study-summary")
    assert page.failures == []


def test_columns_sort_and_filter(live_search, page):
    _, url = live_search
    page.goto(f"{url}/study/s")
    rows = ".ag-center-cols-container .ag-row"
    page.wait_for_selector(rows)
    page.click(".ag-header-cell[col-id='trial'] .ag-header-cell-label")
    wait_until(lambda: page.inner_text(f"{rows}[row-index='0'] [col-id='trial']") == "0", timeout=10)
    page.click(".ag-header-cell[col-id='trial'] .ag-header-cell-label")
    wait_until(lambda: page.inner_text(f"{rows}[row-index='0'] [col-id='trial']") == "1", timeout=10)


def test_an_unknown_study_is_told(live_search, page):
    _, url = live_search
    page.goto(f"{url}/study/nothing")
    page.wait_for_selector("text=it holds s")
