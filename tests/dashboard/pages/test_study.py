"""The page of one study: its figures, controls and address."""

import math
import time

import boards
import journals
import pytest

from atoll.dashboard import components, controls, tabs
from atoll.dashboard.context import Context
from atoll.dashboard.pages import study, trial
from atoll.storage import browse
from atoll.storage.store import StoreError

OPTIONS = {"against": "trials", "method": "PED-ANOVA", "x": "B", "y": "learning_rate", "shown": ["B"], "brush": {}}


@pytest.mark.parametrize("tab", tabs.TABS)
def test_every_figure_can_be_drawn(context, tab):
    board = context.boards.of(context.store.study().name)
    deadline = time.monotonic() + 30
    while tabs.draw(context, board, tab, OPTIONS) is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_addresses_that_somebody_broke_still_open(tmp_path):
    context = Context(boards.study(tmp_path, [0.5, 0.7]))
    board = context.boards.of("s")
    broken = {"tab": "<b>", "brush": "{", "filter": "[1]", "sort": "3", "trials": "x", "shown": '{"a": 1}', "x": "no"}
    study.layout(context, board.study, broken)
    assert components.parsed("{", []) == []
    assert components.parsed("3", []) == []
    for number, attempt in (("x", None), ("99", None), ("0", "7"), ("-1", None), ("9" * 30, None)):
        with pytest.raises(StoreError):
            trial.read(context, board.study, number, attempt)


def test_figures_of_a_board_that_is_known_need_not_wait_for_it(tmp_path):
    context = Context(boards.study(tmp_path, [0.5]))

    def revisions():
        page = study.layout(context, context.store.study(), {})
        return page["study-revision"].data, page["study-reloaded"].data

    assert revisions() == (None, None)
    board = context.boards.of("s")
    assert revisions() == (board.revision, board.revision)


def test_numbers_that_are_missing(tmp_path):
    """A metric that was not a number is null in the store."""
    store, lines, recorder = boards.record(tmp_path)
    journals.start_trial(lines, 0)
    journals.report(lines, 0, 1, metric=math.nan, train_loss=math.inf, validation_loss=None)
    journals.end_trial(lines, 0, None, state="complete", metrics={"validation_loss": math.nan}, seconds=None)
    recorder.catch_up()
    context = Context(store)
    board = context.boards.of("s")
    for tab in tabs.TABS:
        tabs.draw(context, board, tab, OPTIONS)
    tabs.curves(context, board, [[0, 0]])
    row = browse.trial(store, board.study.id, 0)
    trial.draw(context, board.study, row)
    assert "–" in str(trial.facts(context, board.study, row))


def test_every_control_is_on_the_page_and_visible_on_tabs_that_exist(tmp_path):
    context = Context(boards.study(tmp_path, [0.5, 0.7]))
    shown = study.layout(context, context.store.study(), {})
    for control in controls.CONTROLS:
        assert shown[control.input.component_id] is not None
        assert set(control.tabs) <= set(tabs.TABS)
        assert bool(control.tabs) == (control.build is not None)
    assert "brush" not in controls.DRAWING  # drawing the figure anew would end a reader's brush


def test_an_address_chooses_what_the_study_has(tmp_path):
    context = Context(boards.study(tmp_path, [0.5, 0.7]))
    asked = {"tab": "contour", "against": "wall seconds", "method": "fANOVA", "x": "learning_rate", "y": "B"}
    shown = study.layout(context, context.store.study(), asked)
    assert {key: shown[controls.ADDRESS[key].component_id].value for key in asked} == asked
    usual = study.layout(context, context.store.study(), {"tab": "pareto", "against": "x", "method": ""})
    found = [usual[f"study-{key}"].value for key in ("tab", "against", "method", "x", "y")]
    assert found == ["best", "trials", "PED-ANOVA", "B", "learning_rate"]
