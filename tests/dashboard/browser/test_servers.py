"""Access to the dashboard, and its servers, with a real browser."""

import json
from urllib.parse import quote_plus

import boards
import browser
import pytest
from served import dashboard, dashboard_command, drawn, gunicorn, holds, num_rows, points, show_tab

pytestmark = browser.NEEDED


def test_an_address_that_others_reach_asks_for_the_printed_token(tmp_path, page):
    store = boards.study(tmp_path, [0.5])
    with dashboard_command(str(store), "--host", "0.0.0.0") as url:
        assert "?token=" in url
        port, token = url.split(":")[2].split("/")[0], url.split("token=")[1]
        local = f"http://127.0.0.1:{port}"
        page.goto(f"{local}/study?name=s")
        assert "needs a token" in page.inner_text("body")
        page.goto(f"{local}/?token=wrong")
        assert "is not this dashboard's" in page.inner_text("body")
        page.goto(f"{local}/study?name=s&token={token}")
        num_rows(page, 1)
        assert "token" not in page.evaluate("location.href")
        page.goto(local)
        page.wait_for_selector("#studies-grid [col-id='study'] a")


def test_a_printed_link_opens_on_this_machine_too_and_an_open_page_says_that_it_needs_a_new_one(tmp_path, page):
    store = boards.study(tmp_path, [0.5])
    with dashboard_command(str(store)) as url:
        assert "?token=" in url
        page.goto(url)
        page.click("#studies-grid [col-id='study'] a")
        num_rows(page, 1)
        port = int(url.split(":")[2].split("/")[0])
    with dashboard(str(store), port=port, token="another"):
        page.wait_for_selector("h1 >> text=This dashboard needs a token.")
        holds(page, "/study?name=s")
    page.failures.clear()  # the refusals


def test_without_a_token_only_when_it_is_said(tmp_path, page):
    store = boards.study(tmp_path, [0.5])
    with dashboard_command(str(store), "--host", "0.0.0.0", "--insecure", "--base-path", "/lab/atoll") as url:
        assert "token" not in url
        assert url.endswith("/lab/atoll")
        page.goto(f"http://127.0.0.1:{url.split(':')[2]}/")
        page.click("#studies-grid [col-id='study'] a")
        num_rows(page, 1)
        holds(page, "/lab/atoll/study?name=s")
        page.click("nav >> text=Export")
        page.wait_for_selector("#export-yaml >> text=workload:")


@pytest.mark.long
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_it_runs_under_gunicorn(tmp_path, page, database, request):
    url = request.getfixturevalue("postgresql_url") if database == "postgresql" else f"sqlite:///{tmp_path}/atoll.db"
    boards.study(tmp_path, [0.5, 0.7, None], url=url)
    with gunicorn(url, ATOLL_DASHBOARD_TOKEN="t") as address:
        page.goto(f"{address}/study?name=s")
        assert "needs a token" in page.inner_text("body")
        page.goto(f"{address}/study?name=s&token=t")
        num_rows(page, 3)
        drawn(page, "study-figure")
        assert points(page, "study-figure") == 2
        if database == "sqlite":  # whose pages other tests visit
            return
        for tab in ("parallel", "importance", "slices", "contour", "timeline", "failures"):
            show_tab(page, tab)
        for path, found in (  # each of the store
            ("", "#studies-grid [col-id='study'] a >> text=s"),
            ("islands?name=s", "#islands-populations .js-plotly-plot .scatterlayer"),
            ("trial?study=s&number=2", "#trial-facts >> text=Traceback"),
            (f"compare?studies={quote_plus(json.dumps(['s']))}", "main >> text=Tuning only"),
            ("projection?name=s", "main >> text=Not projected"),
            ("export?name=s", "#export-yaml >> text=objective: 0.7"),
        ):
            page.goto(f"{address}/{path}")
            page.wait_for_selector(f"{found} >> nth=0")
            page.wait_for_load_state("networkidle")
