"""The dashboard in a real browser: every page on a store that real searches filled."""

import csv
import io
import json

import browser
import pytest
import yaml
from commands import wait_until
from served import ROWS, cell, drawn, points, until

from atoll.storage.store import Store

pytestmark = browser.NEEDED


def csv_of(page, figure):
    with page.expect_download() as waiting:
        page.click(f"[id*='\"figure\":\"{figure}\"'][id*='csv']")
    return list(csv.reader(io.StringIO(waiting.value.path().read_text())))


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
    wait_until(lambda: page.url.endswith("?search=easgd"), 10)
    page.fill("#studies-search", "")
    only = "{method: {filterType: 'text', type: 'equals', filter: 'easgd'}}"
    page.evaluate(f"dash_ag_grid.getApiAsync('studies-grid').then((api) => api.setFilterModel({only}))")
    until(page, "location.search.startsWith('?filter=')")
    page.reload()  # the address holds it
    until(page, "document.querySelectorAll('#studies-grid .ag-center-cols-container .ag-row').length === 1")
    until(page, "location.search.startsWith('?filter=')")
    wait_until(lambda: names.all_inner_texts() == ["front"], 20)
    page.click("#studies-grid [col-id='study'] a")
    page.wait_for_url("**/study?name=front")
    page.wait_for_selector("h1 >> text=front")


def test_a_studys_figures_and_leaderboard(url, page, searched):
    best = Store(searched).leaderboard(Store(searched).study("daso"))
    page.goto(f"{url}/study?name=daso")
    page.wait_for_selector(ROWS)
    wait_until(lambda: page.inner_text(cell(0, "objective")) == f"{best[0].objective:.4g}", 20)
    assert "14 of 14 trials ended" in page.inner_text("#study-counts")
    drawn(page, "study-figure")
    assert points(page, "study-figure") == len(best)
    for tab in ("parallel", "importance", "slices", "contour", "timeline"):
        page.click(f"#study-tab [role=tab][id$='{tab}']")
        drawn(page, "study-figure")
        wait_until(lambda tab=tab: f"tab={tab}" in page.url, 10)
    page.click("#study-tab [role=tab][id$='failures']")
    page.wait_for_selector("#study-figure >> text=No trial has failed")


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
    wait_until(lambda: "filter=" in page.url, 10)
    kept = page.url
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
    until(page, "document.querySelector('#study-curves .js-plotly-plot')._fullData.length === 10")
    wait_until(lambda: "trials=" in page.url, 10)
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
    assert "colId" in page.url
    wait_until(lambda: "trials=" in page.get_attribute("#study-export", "href"), 10)
    page.click("#study-export")
    page.wait_for_selector("#export-yaml >> text=trial: 4")


def test_islands_and_a_family_tree(url, page):
    page.goto(f"{url}/islands?name=daso&trial=13")
    for figure in ("islands-populations", "islands-migrations", "islands-diversity", "islands-tree"):
        drawn(page, figure)
    page.wait_for_selector("text=Trial 13 was bred on island")
    rows = csv_of(page, "islands-migrations")
    assert rows[0] == ["from", "to", "count"]
    assert rows[1][0].startswith("from island")
    page.fill("#islands-trial", "0")
    page.wait_for_selector("text=/Trial 0 was bred on island \\d by default/")
    wait_until(lambda: "trial=0" in page.url, 10)
    page.fill("#islands-trial", "999")
    page.wait_for_selector("#islands-tree >> text=no trial 999")


def test_a_trial_and_its_configuration(url, page, searched):
    page.goto(f"{url}/trial?study=daso&number=3")
    drawn(page, "trial-curves")
    drawn(page, "trial-ledger")
    assert "incumbent" in page.inner_text("main")
    assert "gene from" in page.inner_text("main")
    assert "Hosts and devices" in page.inner_text("#trial-facts")
    with page.expect_download() as waiting:
        page.click("#trial-save")
    assert waiting.value.suggested_filename == "daso-trial-3.yaml"
    content = yaml.safe_load(waiting.value.path().read_text())
    assert content["origin"]["trial"] == 3
    assert content["method"] == "daso"


def test_a_failed_trial_shows_why(url, page, searched):
    failed = [t for t in Store(searched).trials(Store(searched).study("broken")) if t.state == "failed"]
    page.goto(f"{url}/trial?study=broken&number={failed[0].number}")
    page.wait_for_selector("#trial-facts >> text=broken on purpose")
    assert "Traceback" in page.inner_text("#trial-facts")
    page.goto(f"{url}/study?name=broken&tab=failures")
    drawn(page, "study-figure")
    assert page.evaluate("document.querySelector('#study-figure .js-plotly-plot')._fullData[0].x[0]") == len(failed)


@pytest.mark.long
def test_a_pareto_front(url, page):
    page.goto(f"{url}/study?name=front&tab=pareto")
    drawn(page, "study-figure")
    assert page.locator(".ag-header-cell[col-id='objectives.bytes_sent']").count() == 1
    page.goto(f"{url}/export?name=front&pareto=true")
    page.wait_for_selector("#export-yaml >> text=configurations:")


def test_a_benchmark_is_compared_and_its_figures_downloaded(url, page):
    page.goto(f"{url}/compare?benchmark=b")
    drawn(page, "compare-figure")
    page.wait_for_selector(".ag-row[row-id] [col-id='metric on test data']")
    assert page.locator("#compare-grid .ag-center-cols-container .ag-row").count() == 2
    rows = csv_of(page, "compare-figure")
    assert rows[0] == ["trace", "x", "y", "z", "from", "low", "high", "trial", "text"]
    assert {row[0] for row in rows[1:]} >= {"ddp", "local_sgd"}
    for kind, head in (("png", b"\x89PNG"), ("svg", b"<svg")):
        with page.expect_download() as waiting:
            page.click(f"[id*='\"figure\":\"compare-figure\"'][id*='{kind}']")
        assert waiting.value.suggested_filename.endswith(f".{kind}")
        assert waiting.value.path().read_bytes().startswith(head)
    for figure in ("seconds", "wire_bytes", "tuning", "scores", "difference"):
        page.goto(f"{url}/compare?benchmark=b&figure={figure}")
        until(page, "document.querySelector('#compare-figure .js-plotly-plot')?._fullLayout")


def test_studies_are_compared_with_a_warning(url, page):
    page.goto(f"{url}/compare?studies=%5B%22daso%22%2C%22broken%22%5D")
    drawn(page, "compare-figure")
    assert "These are searches, not a benchmark" in page.inner_text("#compare-notes")
    until(page, "document.querySelectorAll('#compare-grid .ag-center-cols-container .ag-row').length === 2")


@pytest.mark.long
def test_predictions_are_marked_and_clusters_can_be_edited(url, page):
    page.goto(f"{url}/projection?name=b&nodes=1,2,4")
    drawn(page, "projection-figure")
    assert "Predictions, not measurements" in page.inner_text("#projection-notes")
    assert "Predictions, not measurements" in page.inner_text("#projection-figure")
    dashes = page.evaluate(
        "document.querySelector('#projection-figure .js-plotly-plot')._fullData.map(t => t.line.dash)"
    )
    assert set(dashes) == {"dash"}
    until(page, "document.querySelectorAll('#projection-grid .ag-center-cols-container .ag-row').length === 6")
    text = page.input_value("#projection-text")
    page.fill("#projection-text", text.replace("ranks_per_node: 4", "ranks_per_node: none"))
    page.wait_for_selector("#projection-problem >> text=ranks_per_node")
    page.fill("#projection-text", text.replace("ranks_per_node: 4", "ranks_per_node: 8"))
    page.wait_for_selector("#projection-grid [col-id='num_ranks'] >> text=/^32$/")


def test_the_best_are_exported(url, page, searched):
    best = Store(searched).leaderboard(Store(searched).study("daso"))
    page.goto(f"{url}/export?name=daso&best=2")
    page.wait_for_selector("#export-yaml >> text=configurations:")
    with page.expect_download() as waiting:
        page.click("#export-save")
    found = yaml.safe_load(waiting.value.path().read_text())["configurations"]
    assert [one["origin"]["trial"] for one in found] == [trial.number for trial in best[:2]]
    assert "atoll export daso --best 2" in page.inner_text("#export-command")


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
def test_axe_finds_nothing_serious_and_nothing_reaches_over_the_edge(url, chromium, theme, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-core's wrapper is missing").Axe()
    with browser.opened(chromium, width, 900, color_scheme=theme) as page:
        for path in PAGES:
            page.goto(url + path)
            page.wait_for_selector("h1")
            page.wait_for_load_state("networkidle")
            for _ in range(5):  # a table that is only half drawn has rows without cells
                page.wait_for_timeout(500)
                found = axe.run(page).response["violations"]
                bad = [(path, v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in ("serious", "critical")]
                if not bad:
                    break
            assert bad == []
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), path
        assert page.failures == []


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
