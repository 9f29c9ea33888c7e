"""The page that compares methods in a real browser."""

import browser
from served import csv_of, drawn, until

pytestmark = browser.NEEDED


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
    for figure in ("seconds", "curves_passes", "wire_bytes", "tuning", "scores", "difference"):
        page.goto(f"{url}/compare?benchmark=b&figure={figure}")
        until(page, "document.querySelector('#compare-figure .js-plotly-plot')?._fullLayout")


def test_studies_are_compared_with_a_warning(url, page):
    page.goto(f"{url}/compare?studies=%5B%22daso%22%2C%22broken%22%5D")
    drawn(page, "compare-figure")
    assert "These are searches, not a benchmark" in page.inner_text("#compare-notes")
    until(page, "document.querySelectorAll('#compare-grid .ag-center-cols-container .ag-row').length === 2")
