"""The page that exports configurations in a real browser."""

import browser
import yaml

from atoll.storage.store import Store

pytestmark = browser.NEEDED


def test_the_best_are_exported(url, page, searched):
    best = Store(searched).leaderboard(Store(searched).study("daso"))
    page.goto(f"{url}/export?name=daso&best=2")
    page.wait_for_selector("#export-yaml >> text=configurations:")
    with page.expect_download() as waiting:
        page.click("#export-save")
    found = yaml.safe_load(waiting.value.path().read_text())["configurations"]
    assert [one["origin"]["trial"] for one in found] == [trial.number for trial in best[:2]]
    assert "atoll export daso --best 2" in page.inner_text("#export-command")
