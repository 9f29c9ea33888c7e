"""Curves of a benchmark's confirmations, worked by hand."""

import math

import made_up
import numpy as np
import pytest

from atoll.analysis import comparison, training_curves
from atoll.analysis.training_curves import AXES, TrainingCurve, median_curve
from atoll.dashboard import report
from atoll.dashboard.context import Context
from atoll.dashboard.figures import training_curves as figures
from atoll.dashboard.pages import compare
from atoll.storage.store import Store


def curve(seconds, values, **changes):
    given = {"method": "x", "workload": "w", "value": "accuracy", "oversubscribed": False} | changes
    spent = {name: np.array(seconds, dtype=float) for name in AXES}
    return TrainingCurve(**given, spent=spent, values=np.array(values, dtype=float))


def drawn(curves, by="seconds"):
    found = median_curve(curves, by)
    return [list(values) for values in (found.spent, found.median, found.low, found.high)]


def test_a_training_holds_its_value_until_its_next_report():
    assert drawn([curve([1, 2], [0.5, 0.7]), curve([1.5, 2], [0.1, 0.9])]) == [
        [1.0, 1.5, 2.0],
        [0.5, pytest.approx(0.3), pytest.approx(0.8)],
        [0.5, 0.1, 0.7],
        [0.5, 0.5, 0.9],
    ]


def test_nothing_is_carried_on_behind_the_end_of_a_training():
    """Of three trainings two are over at 3: one is less than half."""
    curves = [curve([1, 2], [0.5, 0.6]), curve([1, 2], [0.7, 0.8]), curve([1, 2, 3], [0.1, 0.2, 0.99])]
    assert drawn(curves)[:2] == [[1.0, 2.0], [0.5, 0.6]]
    two = drawn(curves[1:])
    assert two[:2] == [[1.0, 2.0, 3.0], [pytest.approx(0.4), pytest.approx(0.5), 0.99]]


def test_missing_values_are_left_out():
    assert median_curve([curve([1, 2], [math.nan, math.nan])], "seconds") is None
    assert median_curve([], "seconds") is None
    assert drawn([curve([1, 2, 3], [0.1, math.nan, 0.3])])[:2] == [[1.0, 3.0], [0.1, 0.3]]


GOOD, SLOW = [0.5, 0.9, 0.95], [0.5, 0.6, 0.92]


def read(folder, table, **given):
    store, benchmark = made_up.make(folder, table, **given)
    found = comparison.compare(store, benchmark)
    return found, training_curves.read(store, benchmark, found.confirmations)


def test_confirmations_are_read_with_what_they_spent(tmp_path):
    """The compared value: the metric on test data, or a training loss; of a failed training there is no curve."""
    table = {"x": {"w": [GOOD, SLOW], "loss": [[2.0, 1.0]] * 2}, "y": {"w": [SLOW, None], "loss": [[3.0, 2.5]] * 2}}
    found, curves = read(tmp_path, table, targets={"w": 0.9, "loss": 1.5}, compared={"loss": "evaluated_train_loss"})
    of_w = [one for one in curves if one.workload == "w"]
    assert [(one.method, one.value) for one in of_w] == [("x", "test_accuracy")] * 2 + [("y", "test_accuracy")]
    first = of_w[0]
    assert first.values.tolist() == GOOD
    assert first.spent["seconds"].tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert first.spent["passes"].tolist() == [320.0, 640.0, 960.0]
    assert first.spent["step"].tolist() == [10.0, 20.0, 30.0]
    assert {one.value for one in curves if one.workload == "loss"} == {"evaluated_train_loss"}
    figure = figures.curves(found, curves, "passes")
    assert [axis.title.text for axis in figure.select_yaxes()] == ["test_accuracy", "evaluated_train_loss"]
    lines = [trace for trace in figure.data if trace.mode != "lines"]
    assert (lines[0].name, list(lines[0].y)) == ("x", [0.5, 0.75, pytest.approx(0.935)])
    assert [line.showlegend for line in lines] == [True, True, False, False]
    assert {shape.y0 for shape in figure.layout.shapes} == {0.9, 1.5}


def test_the_axis_is_logarithmic_if_one_method_needs_ten_times_as_much(tmp_path):
    table = {"x": {"w": [GOOD]}, "y": {"w": [SLOW]}}
    for times, scale in ((9, None), (11, "log")):
        given = {"targets": {"w": 0.9}, "passes": {"x": 320.0, "y": times * 320.0}}
        found, curves = read(tmp_path / str(times), table, **given)
        assert figures.curves(found, curves, "passes").layout.xaxis.type == scale
    assert figures.curves(found, [], "step").layout.annotations[0].text == "No confirmation has reported its curve yet."


def test_trainings_that_shared_cores_have_no_curve_against_seconds(tmp_path):
    table = {"x": {"w": [GOOD] * 2}, "y": {"w": [SLOW] * 2}}
    found, curves = read(tmp_path / "both", table, targets={"w": 0.9}, oversubscribed=True)
    words = figures.curves(found, curves, "seconds").layout.annotations[0].text
    assert words == "Ranks shared cores or a GPU, so seconds do not compare: see the curves against passes."
    assert {trace.name for trace in figures.curves(found, curves, "passes").data} >= {"x", "y"}
    found, curves = read(tmp_path / "one", table, targets={"w": 0.9}, shared=["y"])
    names = {trace.name for trace in figures.curves(found, curves, "seconds").data if trace.name}
    assert names == {"x"}


def test_before_the_first_report_there_is_nothing_to_draw(tmp_path):
    found, curves = read(tmp_path, {"x": {"w": [None]}}, targets={"w": 0.9})
    assert figures.curves(found, curves, "step").layout.annotations[0].text == (
        "No confirmation has reported its curve yet."
    )


def noted(context, by):
    """The notes of the page, whose comparison is computed in the background."""
    for _ in range(100):
        if (drawn := compare.of_benchmark(context, "b", f"curves_{by}")) is not None:
            return str(drawn[3])
    raise AssertionError("no comparison within 30 s")


def test_confirmations_without_a_curve_are_counted_in_words(tmp_path):
    """A failed one, one whose ranks shared cores, and one that does not report passes."""
    table = {"x": {"w": [GOOD, None]}, "y": {"w": [SLOW]}}
    given = {"targets": {"w": 0.9}, "shared": ["y"], "passes": {"x": None}}
    found, curves = read(tmp_path, table, **given)

    def told(by):
        return figures.caption(found, curves, by).removeprefix(figures.CAPTION)

    assert told("seconds") == " Confirmations left out: 1 failed, 1 shared cores or a GPU."
    assert told("passes") == " Confirmations left out: 1 failed, 1 without reports of passes and value."
    assert told("step") == " Confirmations left out: 1 failed."
    captions = {title: text for title, text, _ in report.sections(found, curves)}
    assert captions["Curves by seconds"].endswith("1 failed, 1 shared cores or a GPU.")
    assert "1 failed, 1 shared cores or a GPU." in noted(Context(Store(f"sqlite:///{tmp_path}/atoll.db")), "seconds")
    everything, whole = read(tmp_path / "whole", {"x": {"w": [GOOD]}}, targets={"w": 0.9})
    assert figures.caption(everything, whole, "seconds") == figures.CAPTION
