"""A study's page in a real browser: figures, table, selection, and the address that keeps them."""

import json

import boards
import browser
import pytest
from commands import wait_until
from served import ROWS, cell, csv_of, drawn, holds, points, show_tab, until

from atoll.storage.store import Store

pytestmark = browser.NEEDED

# The kind of the first trace of each tab's figure.
FIGURES = {
    "parallel": "parcoords", "importance": "bar", "slices": "scattergl", "contour": "contour", "timeline": "bar",
}  # fmt: skip
FIRST_TRACE = "(kind) => document.querySelector('#study-figure .js-plotly-plot')?._fullData?.[0]?.type === kind"


def test_a_studys_figures_and_leaderboard(url, page, searched):
    best = Store(searched).leaderboard(Store(searched).study("daso"))
    page.goto(f"{url}/study?name=daso")
    page.wait_for_selector(ROWS)
    wait_until(lambda: page.inner_text(cell(0, "objective")) == f"{best[0].objective:.4g}", 20)
    assert "14 of 14 trials ended" in page.inner_text("#study-counts")
    drawn(page, "study-figure")
    assert points(page, "study-figure") == len(best)
    for tab, kind in FIGURES.items():
        page.click(f"#study-tab [role=tab][id$='{tab}']")
        until(page, FIRST_TRACE, kind)
        holds(page, f"tab={tab}")
    page.click("#study-tab [role=tab][id$='failures']")
    page.wait_for_selector("#study-figure >> text=No trial has failed")


@pytest.mark.parametrize("milliseconds", [0, pytest.param(50, marks=pytest.mark.long)])
def test_however_fast_tabs_are_clicked_the_last_one_is_shown_and_in_the_address(url, page, milliseconds):
    page.goto(f"{url}/study?name=daso")
    page.wait_for_selector(ROWS)
    drawn(page, "study-figure")
    clicks = """async ([tabs, pause]) => {
        for (const tab of tabs) {
            document.querySelector(`#study-tab [role=tab][id$='${tab}']`).click();
            await new Promise((go) => setTimeout(go, pause));
        }
    }"""
    for last in ("contour", "parallel"):
        page.evaluate(clicks, [[*(tab for tab in FIGURES if tab != last), last], milliseconds])
        holds(page, f"tab={last}")
        until(page, FIRST_TRACE, FIGURES[last])
        page.wait_for_load_state("networkidle")  # late answers of the former tabs change nothing
        assert page.evaluate(FIRST_TRACE, FIGURES[last])
        assert f"tab={last}" in page.evaluate("location.href")


def test_columns_filter_on_the_server_and_the_address_keeps_it(url, page, searched):
    complete = Store(searched).trials(Store(searched).study("daso"))
    small = sorted(t.number for t in complete if t.hyperparameters["batch_size"] < 40)
    page.goto(f"{url}/study?name=daso&shown=%5B%22batch_size%22%5D")
    page.wait_for_selector(cell(0, "hp.batch_size"))
    assert page.locator(".ag-header-cell[col-id='hp.B']").count() == 0
    page.click(".ag-header-cell[col-id='hp.batch_size'] .ag-header-cell-filter-button")
    page.click(".ag-filter-select")
    page.click(".ag-select-list-item >> text=/^Less than$/")
    page.fill(".ag-filter-body input[type=number] >> visible=true", "40")
    until(page, "(n) => document.querySelectorAll('.ag-center-cols-container .ag-row').length === n", len(small))
    holds(page, "filter=")
    kept = page.evaluate("location.href")
    page.goto(url)
    page.goto(kept)
    until(page, "(n) => document.querySelectorAll('.ag-center-cols-container .ag-row').length === n", len(small))
    shown = page.locator(".ag-pinned-left-cols-container [col-id='number']").all_inner_texts()
    assert sorted(map(int, shown)) == small


def test_brushing_the_parallel_coordinates_filters_the_table(url, page, searched):
    page.goto(f"{url}/study?name=daso&tab=parallel")
    drawn(page, "study-figure")
    page.wait_for_selector(ROWS)
    axis = page.locator("#study-figure .axis-brush .background").last.bounding_box()
    middle = axis["x"] + axis["width"] / 2
    page.mouse.move(middle, axis["y"] + 2)
    page.mouse.down()
    page.mouse.move(middle, axis["y"] + axis["height"] / 4, steps=5)
    page.mouse.up()
    page.wait_for_selector("#study-brushed >> text=accuracy:")
    data = csv_of(page, "study-figure")
    assert {"B", "learning_rate", "wire", "accuracy"} <= set(data[0])
    rates = sorted(float(row[data[0].index("learning_rate")]) for row in data[1:])
    known = [t.hyperparameters["learning_rate"] for t in Store(searched).leaderboard(Store(searched).study("daso"))]
    assert rates == pytest.approx(sorted(known))
    low, high = json.loads(page.evaluate("new URLSearchParams(location.search).get('brush')") or "{}").get(
        "objective", {"ranges": [[0, 0]]}
    )["ranges"][0]
    trials = Store(searched).trials(Store(searched).study("daso"))
    inside = [t.number for t in trials if t.objective is not None and low <= t.objective <= high]
    assert 0 < len(inside) < 14
    until(page, "(n) => document.querySelectorAll('.ag-center-cols-container .ag-row').length === n", len(inside))
    page.click("#study-unbrush")
    until(page, "document.querySelectorAll('.ag-center-cols-container .ag-row').length === 14")
    assert page.inner_text("#study-brushed") == ""


def test_selected_trials_are_drawn_and_hyperparameters_picked(url, page):
    page.goto(f"{url}/study?name=daso")
    page.wait_for_selector(cell(0, "state"))
    page.click(cell(0, "state"))
    drawn(page, "study-curves")
    page.click(cell(1, "state"), modifiers=["Control"])
    until(page, "document.querySelector('#study-curves .js-plotly-plot')._fullData.length === 12")
    holds(page, "trials=")
    page.reload()
    until(page, "document.querySelectorAll('.ag-center-cols-container .ag-row-selected').length === 2")
    page.fill("#study-shown", "weight_decay")
    page.click("[role=option]:visible >> text=weight_decay")
    # What lies beyond the edge is not in the page: ask the table.
    until(page, "!!dash_ag_grid.getApi('study-grid').getColumn('hp.weight_decay')")


@pytest.mark.long
def test_the_order_is_kept_in_the_address_and_the_selection_exported(url, page, searched):
    slowest = max(Store(searched).trials(Store(searched).study("daso")), key=lambda t: t.seconds)
    sort = "%5B%7B%22colId%22%3A%22seconds%22%2C%22sort%22%3A%22desc%22%7D%5D"
    page.goto(f"{url}/study?name=daso&sort={sort}&trials=%5B%5B4%2C0%5D%5D")
    until(
        page,
        "(n) => document.querySelector(\".ag-row[row-index='0'] [col-id='number']\")?.innerText === n",
        str(slowest.number),
    )
    holds(page, "colId")
    wait_until(lambda: "trials=" in page.get_attribute("#study-export", "href"), 10)
    page.click("#study-export")
    page.wait_for_selector("#export-yaml >> text=trial: 4")


@pytest.mark.long
def test_a_pareto_front(url, page):
    page.goto(f"{url}/study?name=front&tab=pareto")
    drawn(page, "study-figure")
    assert page.locator(".ag-header-cell[col-id='objectives.bytes_sent']").count() == 1
    page.goto(f"{url}/export?name=front&pareto=true")
    page.wait_for_selector("#export-yaml >> text=configurations:")


SMALL = {"no-trials": [], "one-complete": [0.5], "two-failed": [None, None]}


@pytest.mark.parametrize(
    "name", [name if name == "two-failed" else pytest.param(name, marks=pytest.mark.long) for name in SMALL]
)
def test_small_studies_have_a_sensible_view(shared, page, name):
    path, url = shared
    boards.study(path, SMALL[name], name=name)
    page.goto(f"{url}/study?name={name}")
    page.wait_for_selector("#study-counts")
    for tab in ("parallel", "importance", "slices", "contour", "timeline", "failures", "best"):
        show_tab(page, tab)
    page.goto(f"{url}/islands?name={name}")
    until(page, "!document.querySelector('#islands-diversity')?.innerText.includes('…')")
    assert "Traceback" not in page.inner_text("body")


@pytest.mark.long
def test_the_keyboard_reaches_a_trial(url, page):
    page.goto(f"{url}/study?name=daso")
    page.wait_for_selector(cell(0, "number"))
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        where = page.evaluate("document.activeElement.textContent.slice(0, 30) + '|' + document.activeElement.id")
        reached.append(where)
        if page.evaluate("document.activeElement.closest('.ag-root') !== null"):
            break
    assert any("theme-toggle" in one for one in reached)
    assert any("Best so far" in one for one in reached)
    page.locator(cell(0, "number")).focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("h1 >> text=/^Trial/")
