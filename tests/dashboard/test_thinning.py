"""Thinned points keep what a reader looks for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.dashboard import thinning


@given(st.lists(st.floats(allow_nan=True, allow_infinity=False), max_size=400), st.integers(4, 60))
def test_extremes_and_ends_are_kept(values, max_points):
    array = np.array(values, dtype=float)
    shown = thinning.extremes(array, max_points)
    assert len(shown) <= max_points
    assert list(shown) == sorted(set(shown))
    if len(array):
        assert {0, len(array) - 1} <= set(shown)
    if len(array) and not np.isnan(array).all():
        assert np.nanmin(array[shown]) == np.nanmin(array)
        assert np.nanmax(array[shown]) == np.nanmax(array)


@given(st.lists(st.integers(0, 3), max_size=60))
def test_a_staircase_is_drawn_from_its_changes(values):
    array = np.array(values, dtype=float)
    shown = thinning.changes(array)
    rebuilt = [array[max(i for i in shown if i <= place)] for place in range(len(array))]
    assert rebuilt == list(array)


@pytest.mark.parametrize(("n", "most", "found"), [(0, 5, []), (3, 5, [0, 1, 2]), (11, 3, [0, 5, 10])])
def test_evenly(n, most, found):
    assert thinning.evenly(n, most).tolist() == found
