"""A store of 100,000 trials and 2,000,000 reports is shown, paged and filtered in time, with little memory.

benchmarks/dashboard.py measures the times. The wide bounds here only detect a page that reads everything, also on a
loaded machine.
"""

import time
from pathlib import Path

import browser
import large
import psutil
import pytest
from served import cell, dashboard_command, drawn, until

pytestmark = [*browser.NEEDED, pytest.mark.long, pytest.mark.alone]
PATIENCE = 4.0  # a factor on the limits in benchmarks/dashboard.py


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("large") / "atoll.db"
    large.make(path, 100_000, 20)
    return path


def seconds(act):
    begun = time.monotonic()
    act()
    return time.monotonic() - begun


def test_a_large_study_is_shown_in_time(store, chromium):
    with dashboard_command(f"sqlite:///{store}", "--insecure") as url, browser.opened(chromium, 1280, 900) as page:
        (server,) = [p for p in psutil.Process().children() if str(store) in " ".join(p.cmdline())]
        page.goto(url)
        page.wait_for_selector("#studies-grid [col-id='study'] a")
        found = {
            "rows": seconds(lambda: (page.goto(f"{url}/study?name=large"), page.wait_for_selector(cell(0, "state"))))
        }
        found["figure"] = found["rows"] + seconds(lambda: drawn(page, "study-figure"))
        assert "100,000 of 100,000 trials ended" in page.inner_text("#study-counts")
        for tab in ("parallel", "slices", "contour", "timeline", "failures"):
            page.click(f"#study-tab [role=tab][id$='{tab}']")
            drawn(page, "study-figure")
        page.click("#study-tab [role=tab][id$='parallel']")
        page.wait_for_selector("#study-figure >> text=/5,000 of [0-9,]+ complete trials/")
        grid = "dash_ag_grid.getApiAsync('study-grid').then((api) => {})"
        page.evaluate(grid.replace("{}", "{ api.ensureIndexVisible(50000, 'middle') }"))
        found["page"] = seconds(lambda: page.wait_for_selector(cell(50000, "state")))
        few = "{number: {filterType: 'number', type: 'lessThan', filter: 3}}"
        page.evaluate(grid.replace("{}", f"{{ api.setFilterModel({few}) }}"))
        found["filter"] = seconds(
            lambda: until(page, "document.querySelectorAll('.ag-center-cols-container .ag-row').length === 3")
        )
        peak = next(line for line in Path(f"/proc/{server.pid}/status").read_text().splitlines() if "VmHWM" in line)
        found["megabytes"] = int(peak.split()[1]) / 1000
        assert page.failures == []
    print(found)
    assert found["rows"] < PATIENCE * 1.5
    assert found["figure"] < PATIENCE * 2.5
    assert max(found["page"], found["filter"]) < PATIENCE * 0.5
    assert found["megabytes"] < 500
