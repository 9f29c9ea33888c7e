"""Figures of one study."""

import math

import numpy as np
import pandas as pd
import pytest
from frames import HYPERPARAMETERS, trace, trials, words

from atoll.dashboard.figures import study


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
    ):
        assert "complete" in words(figure)
    assert "started" in words(study.timeline(trials([]), 0.0, 1.0))


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
    assert "at least two complete trials" in words(study.importance({}, "PED-ANOVA", 0))


def test_the_front_of_two_objectives():
    frame = trials([1, 2, 3, 4]).assign(**{"objectives.e": [1.0, 2.0, 3.0, 2.5], "objectives.s": [1.0, 5.0, 4.0, 9.0]})
    objectives = [{"name": "e", "direction": "minimize"}, {"name": "s", "direction": "maximize"}]
    figure = study.pareto(frame, objectives, "e", "s")
    assert list(trace(figure, "front").x) == [1.0, 2.0, 2.5]
