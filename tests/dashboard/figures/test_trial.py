"""Figures of trials: curves and the ledger."""

import numpy as np
import pandas as pd
from frames import words

from atoll.dashboard.figures import trial


def reports(number, n=3, **more):
    columns = {"epoch": range(1, n + 1), "step": range(10, 10 * n + 1, 10), "metric": 0.5, "learning_rate": 0.1}
    return pd.DataFrame(
        {"trial": number, **columns, "wire_bytes": 1e6, "train_loss": 1.0, "validation_loss": 2.0} | more
    )


def test_passes_have_a_panel_that_no_observed_metric_loses():
    observed = {f"observed.layer_{n:02}": [1.0, 2.0, 3.0] for n in range(trial.MAX_OBSERVED)}
    figure = trial.curves(reports(3, **observed, **{trial.PASSES: [320.0, 640.0, 960.0]}), "accuracy")
    titles = [annotation.text for annotation in figure.layout.annotations]
    assert "passes of the busiest rank (samples)" in titles
    assert {name.removeprefix("observed.") for name in observed} <= set(titles)
    assert "passes" not in titles


def test_curves_of_several_trials_and_what_was_observed():
    both = pd.concat([reports(3), reports(5, **{"observed.rank": [1.0, 2.0, 3.0]})])
    figure = trial.curves(both, "accuracy", 0.9)
    assert {t.legendgroup for t in figure.data} == {"3", "5"}
    assert [a.text for a in figure.layout.annotations][-1] == "rank"
    assert [list(t.y) for t in figure.data if list(t.y) == [1.0, 2.0, 3.0]]
    assert figure.layout.shapes[0].y0 == 0.9


def test_several_reports_in_an_epoch_are_drawn_by_step():
    by_epoch = trial.curves(reports(3), "accuracy")
    assert list(by_epoch.data[0].x) == [1, 2, 3]
    assert by_epoch.layout.xaxis3.title.text == "epoch"
    within = trial.curves(pd.concat([reports(3), reports(5, epoch=[0, 0, 1])]), "accuracy")
    assert {tuple(t.x) for t in within.data} == {(10, 20, 30)}
    assert within.layout.xaxis3.title.text == "step"
    assert within.data[0].connectgaps


def test_a_functions_curve_is_its_objective_by_step_and_nothing_else():
    nothing = dict.fromkeys(("train_loss", "validation_loss", "learning_rate", "wire_bytes"))
    figure = trial.curves(reports(3, epoch=[0, 1, 2], step=[0, 1, 2], metric=[3.0, 2.0, 1.0], **nothing), "loss", 1.5)
    assert [a.text for a in figure.layout.annotations] == ["loss"]
    (line,) = figure.data
    assert (list(line.x), list(line.y)) == ([0, 1, 2], [3.0, 2.0, 1.0])
    assert figure.layout.xaxis.title.text == "step"
    assert figure.layout.shapes[0].y0 == 1.5


def test_curves_are_drawn_against_what_was_spent():
    """A report that lacks the horizontal value is not drawn; if all do, the figure says so."""
    spent = {"seconds": [0.5, 1.0, 1.5], "wire_bytes": [1e6, 2e6, 4e6], trial.PASSES: [320.0, None, 960.0]}
    given = reports(3, metric=[0.1, 0.2, 0.3], **spent)
    expected = {
        "seconds": ("training time (s)", [0.5, 1.0, 1.5], [0.1, 0.2, 0.3]),
        "step": ("step", [10, 20, 30], [0.1, 0.2, 0.3]),
        "passes": ("passes of the busiest rank (samples)", [320.0, 960.0], [0.1, 0.3]),
        "bytes": ("sent by all ranks (MB)", [1.0, 2.0, 4.0], [0.1, 0.2, 0.3]),
    }
    for against, (title, x, y) in expected.items():
        figure = trial.curves(given, "accuracy", against=against)
        assert title in {axis.title.text for axis in figure.select_xaxes()}
        assert [list(line.x) for line in figure.data if list(line.y) == y] == [x]
    assert "do not report their passes" in words(trial.curves(reports(3), "accuracy", against="passes"))


def test_long_curves_keep_their_extremes():
    metric = np.random.default_rng(1).uniform(size=5000)
    metric[1234] = 7.0
    figure = trial.curves(reports(0, 5000, metric=metric), "accuracy")
    drawn = [t for t in figure.data if 7.0 in t.y]
    assert len(drawn) == 1
    assert len(drawn[0].y) <= 2000


def test_the_ledger_is_per_rank_and_step():
    row = {"operation": "all_reduce", "scope": "node", "overlapped": False, "wire_bytes": 8e6, "seconds_waited": 4.0}
    figure = trial.ledger(pd.DataFrame([row, row]), num_steps=100, num_ranks=4)
    assert list(figure.data[0].x) == [40.0]  # kB: 16e6 / 400 / 1e3
    assert list(figure.data[1].x) == [20.0]  # ms
    assert "sent per step (kB)" in words(figure)
    assert "sent in total (kB)" in words(trial.ledger(pd.DataFrame([row]), num_steps=0, num_ranks=4))
    assert "no communication" in words(trial.ledger(pd.DataFrame(), 1, 1))
