"""Figures from frames, without a store or a browser."""

import math

import numpy as np
import pandas as pd
import pytest

from atoll.dashboard.figures import islands, parallel, several, study, style, trial
from atoll.dashboard.figures.islands import Relative
from atoll.dashboard.figures.several import Compared


def trials(objectives, states=None, **columns):
    """Trials of a second each on one worker, one after another."""
    n = len(objectives)
    frame = pd.DataFrame(
        {
            "number": range(n),
            "island": 0,
            "worker": 0,
            "state": states or ["complete" if o is not None else "failed" for o in objectives],
            "objective": np.array(objectives, dtype=float),
            "seconds": 1.0,
            "wire_bytes": 1e6,
            "started": 100.0 + 2.0 * np.arange(n),
            "finished": 101.0 + 2.0 * np.arange(n),
        }
    )
    return frame.assign(place=frame["objective"].rank(method="first"), **columns)


def words(figure):
    return " ".join(a.text for a in figure.layout.annotations)


def trace(figure, name):
    (found,) = [t for t in figure.data if t.name == name]
    return found


def test_best_so_far_never_gets_worse_on_any_axis():
    frame = trials([0.9, None, 0.95, 0.85])
    figure = study.best_so_far(frame, "accuracy", "maximize", 0.97)
    assert list(trace(figure, "best so far").y) == [0.9, 0.95, 0.95]
    assert list(trace(figure, "best so far").x) == [1, 3, 4]
    assert figure.layout.shapes[0].y0 == 0.97
    busy = study.best_so_far(frame, "accuracy", "maximize", None, "busy seconds")
    assert list(trace(busy, "trial").x) == [1, 3, 4]
    wall = study.best_so_far(frame, "accuracy", "maximize", None, "wall seconds", started=100.0)
    assert list(trace(wall, "trial").x) == [1, 5, 7]


def test_many_trials_are_thinned_and_the_figure_says_so():
    objectives = np.random.default_rng(0).uniform(size=30_000)
    objectives[12_345] = -5.0
    figure = study.best_so_far(trials(list(objectives)), "loss", "minimize", None)
    points = figure.data[0]
    assert "of 30,000 drawn" in points.name
    assert len(points.x) <= 2000
    assert min(points.y) == -5.0
    assert trace(figure, "best so far").y[-1] == -5.0


def test_words_of_hyperparameters_are_no_html():
    frame = pd.DataFrame({"a": ["<b>x</b>", "y"], "c": ["<i>", "<u>"]})
    figure = study.slices(trials([1, 2]), frame, ["a"], "e")
    assert list(figure.data[0].x) == ["&lt;b&gt;x&lt;/b&gt;", "y"]
    found = study.contour(trials([1, 2]), frame, "a", "c", "e", "minimize")
    assert "<" not in str(found.data[0].x) + str(found.data[0].y)


def test_nothing_complete_is_said():
    for figure in (
        study.best_so_far(trials([None]), "a", "maximize", None),
        study.slices(trials([]), pd.DataFrame(), ["x"], "a"),
        study.contour(trials([]), pd.DataFrame(), "x", "y", "a", "minimize"),
        parallel.figure(trials([]), [], {}, 0, "minimize"),
        islands.populations(trials([None]), "a", "maximize", 0.0),
    ):
        assert "complete" in words(figure)
    assert "started" in words(study.timeline(trials([]), 0.0, 1.0))


HYPERPARAMETERS = pd.DataFrame(
    {
        "lr": [1e-4, 1e-2, 1e-3, 1.0],
        "wire": ["a", "b", "a", None],
        "B": [1.0, 2.0, np.nan, 4.0],
        "fixed": [7, 7, 7, 7],
    }
)


def axes():
    return parallel.dimensions(trials([0.4, 0.3, 0.2, 0.1]), HYPERPARAMETERS, "error")


def test_parallel_axes():
    lr, wire, b, error = axes()
    assert [axis.column for axis in (lr, wire, b, error)] == ["hp.lr", "hp.wire", "hp.B", "objective"]
    assert lr.log
    assert lr.values.tolist() == [-4, -2, -3, 0]
    assert wire.words == ("a", "b", None)
    assert wire.values.tolist() == [0, 1, 0, 2]
    assert b.values[2] == b.missing < 1  # what is missing lies below
    odd = parallel.dimensions(trials([1, 2, 3]), pd.DataFrame({"c": ["", [1, 2], True]}), "e")[0]
    assert odd.words == ("", "[1, 2]", "true")


def test_the_best_are_drawn_last_and_on_top():
    figure = parallel.figure(trials([0.1, 0.2, 0.3, 0.4]), axes(), {}, 10, "minimize")
    assert list(figure.data[0].line.color) == [0.4, 0.3, 0.2, 0.1]
    assert list(figure.data[0].dimensions[0]["values"]) == [0, -3, -2, -4]
    assert "4 of 10" in figure.layout.title.text


def test_brushes_go_to_the_store_and_back():
    def one(key, limits, before=None):
        return parallel.brush([axis.axis for axis in axes()], before or {}, {key: limits})

    ranged = one("dimensions[0].constraintrange", [[-3.5, -1.0]])
    assert ranged["hp.lr"]["ranges"] == [pytest.approx([10**-3.5, 0.1])]
    chosen = one("dimensions[1].constraintrange", [[[0.9, 2.1]]], ranged)
    assert chosen["hp.wire"] == {"words": ["b", None]}
    assert set(chosen) == {"hp.lr", "hp.wire"}
    assert one("dimensions[0].constraintrange", None, chosen) == {"hp.wire": {"words": ["b", None]}}
    assert one("dimensions[9].constraintrange", [[0, 1]]) == {}
    assert one("line.color", [[0, 1]]) == {}
    drawn = parallel.figure(trials([1, 2, 3, 4]), axes(), chosen, 4, "minimize").data[0].dimensions
    assert np.ravel(drawn[0].constraintrange) == pytest.approx([-3.5, -1.0])
    assert len(drawn[1].constraintrange) == 2
    assert parallel.describe(chosen, "error") == "lr: 0.000316 to 0.1; wire: b, none"
    assert parallel.describe({"objective": {"ranges": [[0, 1]]}}, "error") == "error: 0 to 1"


def test_slices_and_contours():
    figure = study.slices(trials([4, 3, 2, 1]), HYPERPARAMETERS, ["lr", "wire"], "error")
    assert figure.layout.xaxis.type == "log"
    assert figure.layout.xaxis2.type == "category"
    found = study.contour(trials([4, 3, 2, 1]), HYPERPARAMETERS, "lr", "wire", "error", "minimize")
    assert found.layout.xaxis.type == "log"
    assert set(found.data[0].y) == {"a", "b"}
    best = study.contour(
        trials([4, 3, 2, 1]), HYPERPARAMETERS.assign(lr=[1, 1, 1, 2], B=[1, 1, 1, 9]), "lr", "B", "error", "minimize"
    )
    assert np.nanmin(np.array(best.data[0].z, dtype=float)) == 1
    assert np.nanmax(np.array(best.data[0].z, dtype=float)) == 2  # of the three in a cell the best
    assert "two different" in words(study.contour(trials([1]), HYPERPARAMETERS, "lr", "lr", "e", "minimize"))


def test_the_timeline_shows_training_waiting_and_what_was_lost():
    frame = trials([1.0, None, 1.0], states=["complete", "failed", "lost"])
    figure = study.timeline(frame, 100.0, 110.0)
    assert [t.name for t in figure.data] == ["training, complete", "training, failed", "waiting", "lost"]
    assert list(trace(figure, "waiting").base) == [1.0, 3.0]
    assert list(trace(figure, "waiting").x) == [1.0, 1.0]
    running = study.timeline(trials([1.0], states=["running"]).assign(finished=math.nan), 100.0, 110.0)
    assert list(trace(running, "running").x) == [10.0]


def test_a_crowded_timeline_keeps_what_was_lost():
    n = 9000
    frame = trials([1.0] * n, states=["lost" if i == 5000 else "complete" for i in range(n)])
    figure = study.timeline(frame.assign(finished=frame["started"] + 2.0), 100.0, 1e6)
    assert [t.name for t in figure.data] == ["training", "lost"]
    assert sum(len(t.x) for t in figure.data) < 10
    assert trace(figure, "lost").base[0] == pytest.approx(10_000)


def test_failures_are_grouped_and_harmless():
    figure = study.failures([("Diverged: <script>", 5, 9), ("x" * 500, 2, 3)])
    assert list(figure.data[0].x) == [5, 2]
    labels = figure.layout.yaxis.ticktext
    assert labels[0] == "Diverged: &lt;script&gt;"
    assert len(labels[1]) == 70
    assert "No trial has failed" in words(study.failures([]))


def test_importance_is_in_order():
    figure = study.importance({"a": 0.2, "b": 0.8}, "PED-ANOVA", 1000)
    assert list(figure.data[0].y) == ["b", "a"]
    assert "two complete trials" in words(study.importance({}, "PED-ANOVA", 0))


def test_the_front_of_two_objectives():
    frame = trials([1, 2, 3, 4]).assign(**{"objectives.e": [1.0, 2.0, 3.0, 2.5], "objectives.s": [1.0, 5.0, 4.0, 9.0]})
    objectives = [{"name": "e", "direction": "minimize"}, {"name": "s", "direction": "maximize"}]
    figure = study.pareto(frame, objectives, "e", "s")
    assert list(trace(figure, "front").x) == [1.0, 2.0, 2.5]


def reports(number, n=3, **more):
    columns = {"epoch": range(1, n + 1), "step": range(10, 10 * n + 1, 10), "metric": 0.5, "learning_rate": 0.1}
    return pd.DataFrame(
        {"trial": number, **columns, "wire_bytes": 1e6, "train_loss": 1.0, "validation_loss": 2.0} | more
    )


def test_curves_of_several_trials_and_what_was_observed():
    both = pd.concat([reports(3), reports(5, **{"observed.rank": [1.0, 2.0, 3.0]})])
    figure = trial.curves(both, "accuracy", 0.9)
    assert {t.legendgroup for t in figure.data} == {"3", "5"}
    assert [a.text for a in figure.layout.annotations][-1] == "rank"
    assert [list(t.y) for t in figure.data if list(t.y) == [1.0, 2.0, 3.0]]
    assert figure.layout.shapes[0].y0 == 0.9


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
    assert "sent in a step (kB)" in words(figure)
    assert "sent in all (kB)" in words(trial.ledger(pd.DataFrame([row]), num_steps=0, num_ranks=4))
    assert "no communication" in words(trial.ledger(pd.DataFrame(), 1, 1))


def test_populations_and_migrations():
    frame = trials([0.5, 0.9, 0.7, 0.6]).assign(island=[0, 1, 0, 1])
    figure = islands.populations(frame, "accuracy", "maximize", 100.0)
    assert [t.name for t in figure.data if t.showlegend] == ["island 0", "island 1"]
    flows = islands.migrations({(0, 1): 3, (1, 0): 2}, [0, 1])
    assert list(flows.data[0].link.value) == [3, 2]
    assert list(flows.data[0].link.target) == [3, 2]
    assert "nobody" in words(islands.migrations({}, [0]))


def test_distance_is_gowers():
    frame = pd.DataFrame({"x": [0.0, 1.0], "lr": [1e-4, 1e-2], "wire": ["a", "b"], "same": [1, 1]})
    whole = {"x": (0.0, 2.0, False), "lr": (-4.0, 0.0, True), "same": (1.0, 1.0, False)}
    assert islands.mean_distance(frame, whole) == pytest.approx((0.5 + 0.5 + 1.0 + 0.0) / 4)
    assert islands.mean_distance(frame.iloc[[0, 0]], whole) == 0.0
    assert islands.extents(frame)["lr"] == (-4.0, -2.0, True)


def test_a_family_tree_leads_back_to_the_founders():
    family = {
        5: Relative(5, 0, "crossover", (3, 1), 0.9),
        3: Relative(3, 1, "crossover", (1,), None),
        1: Relative(1, 0, "random", (), 0.5),
    }
    figure = islands.family_tree(family, 5, "accuracy")
    dots = figure.data[1]
    assert dict(zip((row[0] for row in dots.customdata), dots.y, strict=True)) == {5: 0, 3: 1, 1: 2}
    assert "none: a founder" in [row[3] for row in dots.customdata]
    assert "no trial 7" in words(islands.family_tree(family, 7, "accuracy"))
    assert islands.gene_sources({"a": 3, "b": 3, "c": "mutation"}) == {"trial 3": 2, "mutation": 1}


def compared(name, objectives, **changes):
    fields = {"metric": "accuracy", "direction": "maximize", "target": 0.8, "started": 100.0} | changes
    return Compared(name, trials=trials(objectives), **fields)


def test_studies_side_by_side():
    both = [compared("a", [0.5, 0.9]), compared("b", [0.7, None, 0.75])]
    figure = several.best_so_far(both, "trials")
    assert [(list(t.x), list(t.y)) for t in figure.data] == [([1, 2], [0.5, 0.9]), ([1, 3], [0.7, 0.75])]
    met, missed = several.times_to_target(both)
    assert (met["trials"], met["busy seconds"], met["wall seconds"]) == (2, 2, 3)
    assert missed["trials"] is None
    assert list(several.objectives(both).data[0].median) == [0.7]
    frame = trials([0.9, 0.5, 0.7]).assign(seconds=[3.0, 1.0, 2.5])
    front = several.tradeoff([Compared("a", "loss", "minimize", None, 0.0, frame)], "seconds").data[0]
    assert (list(front.x), list(front.y)) == ([1.0], [0.5])
    assert "None of these" in words(several.best_so_far([compared("c", [None])], "trials"))


@pytest.mark.parametrize("theme", ["light", "dark", None])
def test_both_themes(theme):
    figure = style.themed(style.message("a <b>"), theme)
    assert figure.layout.annotations[0].text == "a &lt;b&gt;"
    assert figure.layout.template.layout.font.color
