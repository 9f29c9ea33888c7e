"""The page of a study's islands in a real browser."""

import browser
from served import csv_of, drawn, holds

pytestmark = browser.NEEDED


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
    holds(page, "trial=0")
    page.fill("#islands-trial", "999")
    page.wait_for_selector("#islands-tree >> text=no trial 999")
