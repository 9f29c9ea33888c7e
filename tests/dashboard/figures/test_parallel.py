"""Parallel coordinates and their brushes."""

import numpy as np
import pandas as pd
import pytest
from frames import HYPERPARAMETERS, trials, words

from atoll.dashboard.figures import parallel


def test_nothing_complete_is_said():
    assert "complete" in words(parallel.figure(trials([]), [], {}, 0, "minimize"))


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
