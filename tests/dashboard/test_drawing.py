"""The figures of a study by name, over unusual stores too; pages draw by the same functions."""

import boards
import pytest

from atoll.dashboard import drawing, tabs
from atoll.dashboard.context import Context


@pytest.mark.parametrize("name", drawing.FIGURES)
def test_every_figure_can_be_drawn(context, name):
    study = context.store.study()
    assert drawing.figure(context.store, study, name).layout.height


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("histogram", {}, "the figure must be one of history, importance, parallel,"),
        ("history", {"aginst": "trials"}, "the option of the figure history must be one of against; got 'aginst'"),
        ("timeline", {"x": 1}, "must be one of none; got 'x'"),
        ("history", {"against": "hours"}, "against must be one of trials, busy seconds, wall seconds; got 'hours'"),
        ("importance", {"method": "SHAP"}, "method must be one of PED-ANOVA, fANOVA; got 'SHAP'"),
        ("slices", {"hyperparameters": ["B", "lr"]}, "a hyperparameter must be one of B, learning_rate; got 'lr'"),
        ("contour", {"x": "lr"}, "a hyperparameter must be one of B, learning_rate; got 'lr'"),
        ("pareto", {"x": "loss"}, "an objective must be one of accuracy; got 'loss'"),
        ("curves", {"trials": [0, 9]}, "trials must be in the study, which has 2; got 9"),
        ("curves", {"against": "hours"}, "against must be one of epoch, step, seconds, passes, bytes; got 'hours'"),
        ("ledger", {"trial": 9}, "trials must be in the study, which has 2; got 9"),
    ],
)
def test_what_does_not_exist_is_refused_with_the_valid_choices(tmp_path, name, options, told):
    store = boards.study(tmp_path, [0.5, 0.7])
    with pytest.raises(ValueError, match="must be") as raised:
        drawing.figure(store, store.study("s"), name, **options)
    assert told in str(raised.value)


def test_options_change_the_figure(tmp_path):
    store = boards.study(tmp_path, [0.5, 0.7, 0.6])

    def figure(name, **options):
        return drawing.figure(store, store.study("s"), name, **options)

    assert figure("history", against="busy seconds").data[0].x.tolist() == [2.0, 4.0, 6.0]
    assert {trace.name for trace in figure("curves", trials=[2]).data} == {"trial 2"}
    by_seconds = figure("curves", trials=[2], against="seconds")
    assert "training time (s)" in {axis.title.text for axis in by_seconds.select_xaxes()}
    assert {trace.name for trace in figure("slices", hyperparameters=["B"]).data} == {"B"}
    assert figure("contour", x="learning_rate", y="B").layout.xaxis.title.text == "learning_rate"


def test_a_figure_of_the_page_is_that_of_the_same_name(tmp_path):
    store = boards.study(tmp_path, [0.5, 0.7, None, 0.6])
    context = Context(store)
    board = context.boards.of("s")
    options = {"against": "trials", "method": "PED-ANOVA", "x": "B", "y": "learning_rate", "shown": ["B"], "brush": {}}
    for name, given in (("failures", {}), ("slices", {"hyperparameters": ["B"]}), ("contour", {}), ("parallel", {})):
        drawn = drawing.figure(store, store.study("s"), name, **given)
        assert tabs.draw(context, board, name, options).to_json() == drawn.to_json()
    assert (
        tabs.draw(context, board, "best", options).to_json() == drawing.figure(store, board.study, "history").to_json()
    )
