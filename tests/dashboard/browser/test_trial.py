"""A trial's page in a real browser."""

import browser
import yaml
from served import drawn

from atoll.storage.store import Store

pytestmark = browser.NEEDED


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
