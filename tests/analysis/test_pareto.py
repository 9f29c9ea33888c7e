"""Fronts, crowding and hypervolume, against what can be seen with the naked eye."""

import math
import random

import pytest

from atoll.analysis import pareto


def dominates(a, b):
    return all(x <= y for x, y in zip(a, b, strict=True)) and a != b


def test_the_front_is_what_nothing_dominates():
    rng = random.Random(1)
    points = [(rng.randint(0, 9), rng.randint(0, 9), rng.randint(0, 9)) for _ in range(100)]
    expected = [i for i, p in enumerate(points) if not any(dominates(q, p) for q in points)]
    assert pareto.front(points) == expected
    assert pareto.front([]) == []
    assert pareto.front([(1, math.inf), (2, math.inf), (3, 0)]) == [0, 2]


def test_order_is_by_front_then_by_crowding():
    points = [(3, 3), (0, 4), (4, 0), (1, 2), (1.1, 1.9), (2, 1)]
    # The ends of the front come first, then crowding distances of 1.2, 0.8 and 0.5; (3, 3) is dominated.
    assert pareto.order(points) == [1, 2, 5, 3, 4, 0]


def test_crowding_is_the_extent_of_the_cuboid():
    import numpy as np

    distance = pareto.crowding_distance(np.array([[0.0, 4.0], [1.0, 2.0], [2.0, 1.0], [4.0, 0.0]]))
    assert distance[0] == distance[3] == math.inf
    assert distance[1] == pytest.approx(2 / 4 + 3 / 4)
    assert distance[2] == pytest.approx(3 / 4 + 2 / 4)


def test_what_was_missed_is_infinite_and_comes_last():
    assert pareto.order([(1.0, math.inf), (1.0, 5.0), (0.5, math.inf)])[-1] == 0


def test_crowding_with_what_was_missed_stays_a_number():
    import numpy as np

    distance = pareto.crowding_distance(np.array([[0.0, math.inf], [1.0, 5.0], [2.0, 4.0], [3.0, 1.0]]))
    assert not np.isnan(distance).any()
    assert distance[2] == pytest.approx(2 / 3 + 4 / 4)


@pytest.mark.filterwarnings("error")
def test_the_share_of_the_box_that_a_front_dominates():
    # Of a box of 4 by 2, all but the corner that lies below both (1, 2) and (3, 1).
    assert pareto.dominated_share([(1, 3), (1, 2), (3, 1), (5, 3)]) == pytest.approx(6 / 8)
    assert pareto.dominated_share([(1, 3), (1, 2), (3, 1), (5, math.inf)]) == pytest.approx(6 / 8)
    assert pareto.dominated_share([(1, 7), (2, 7)]) == 1.0  # the second objective says nothing
    assert pareto.dominated_share([(2, math.inf), (1, math.inf)]) == 1.0  # without a warning
    assert pareto.dominated_share([(1, 1)]) == 1.0


def test_hypervolume_of_a_staircase():
    assert pareto.hypervolume([(1, 2), (2, 1)], (3, 3)) == 3.0
    assert pareto.hypervolume([], (3, 3)) == 0.0
