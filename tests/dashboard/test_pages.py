"""All pages without a browser: what they show for unusual stores."""

import boards
import dash
import pytest

from atoll.dashboard import app
from atoll.dashboard.context import Context
from atoll.dashboard.pages import PAGES, compare, export, islands, projection, studies, study, trial
from atoll.storage import browse
from atoll.storage.store import Store, StoreError


def empty(path):
    return Store(f"sqlite:///{path}/atoll.db")


def test_every_page_has_a_layout(context):
    board = context.boards.of(context.store.study().name)
    study.layout(context, board.study, {})
    islands.layout(context, board, None)
    compare.layout(context, None, [board.study.name], None)
    projection.layout(context, board.study.name, {})
    export.layout(context, board.study.name, 1, False)
    if len(board.trials):
        row = browse.trial(context.store, board.study.id, 0)
        trial.layout(context, board.study, row)
        trial.draw(context, board.study, row)
        trial.facts(context, board.study, row)
    (only,) = studies.rows(context, context.store.studies(), [], archived=False)
    assert only["study"] == board.study.name


def test_islands_and_comparisons_can_be_drawn(context):
    board = context.boards.of(context.store.study().name)
    assert len(islands.draw(context, board)) == 3
    for kind in compare.TUNED:
        assert compare.of_studies(context, [board.study.name], kind)[2] == kind


def test_an_empty_store_says_what_to_do(tmp_path):
    context = Context(empty(tmp_path))
    assert "atoll quickstart" in studies.summary(context.store.studies(), False)
    compare.layout(context, None, [], None)
    export.layout(context, None, 1, False)
    with pytest.raises(StoreError, match="does not hold a study"):
        export.content(context, context.store.study(), 1)


def test_nothing_can_be_written_unless_it_is_allowed(tmp_path):
    store = boards.study(tmp_path, [0.5])

    def callbacks(**options):
        return set(app.create_app(store, **options).callback_map) | {
            str(one["output"]) for one in app.create_app(store, **options)._callback_list
        }

    writing = callbacks(allow_edit=True) - callbacks()
    assert any("study-edited" in one for one in writing)
    assert any("trial-noted" in one for one in writing)
    board = Context(store).boards.of("s")
    assert "study-new-name" not in str(study.layout(Context(store), board.study, {}).to_plotly_json())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_listed_page_is_served_and_its_addresses_may_hold_anything(tmp_path, page):
    app.create_app(boards.study(tmp_path, [0.5, 0.7]))
    (registered,) = [entry for entry in dash.page_registry.values() if entry["module"] == page.module]
    assert (registered["path"], registered["title"]) == (page.path, f"{page.title} · atoll")
    assert registered["layout"](context="anything") is not None


def test_the_navigation_links_the_pages_that_ask_for_it(tmp_path):
    shown = str(app.frame(Context(empty(tmp_path), base_path="/p/")))
    linked = [page.link for page in PAGES if page.link]
    assert linked == ["Studies", "Compare methods", "Projection", "Export"]
    for page in PAGES:
        if page.link:
            assert f"Link(children='{page.link}', href='/p{page.path}'" in shown
