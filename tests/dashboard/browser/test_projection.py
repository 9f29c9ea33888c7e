"""The page of predictions in a real browser."""

import browser
import pytest
from served import drawn, until

pytestmark = browser.NEEDED


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
