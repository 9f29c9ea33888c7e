"""Migration topologies."""

import random

import pytest

from atoll.platform.study.migration import Migration

RNG = random.Random(0)


def targets(topology, island, num_islands=4, **options):
    return Migration(topology=topology, **options).targets(island, num_islands, RNG)


def test_named_topologies():
    assert targets("full", 1) == {0: 1, 2: 1, 3: 1}
    assert targets("ring", 3) == {0: 1}
    assert targets("star", 0, migrants=2) == {1: 2, 2: 2, 3: 2}
    assert targets("star", 2) == {0: 1}
    drawn = {next(iter(targets("random", 1))) for _ in range(100)}
    assert drawn == {0, 2, 3}


def test_a_matrix_says_how_many_go_where():
    matrix = [[0, 2, 0], [1, 0, 3], [0, 0, 0]]
    assert targets(matrix, 1, 3) == {0: 1, 2: 3}
    assert targets(matrix, 2, 3) == {}
    Migration(topology=matrix).check(3)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ([[0, 1], [1, 0]], "must be a matrix of 3 x 3, one row per island; got 2 rows of 2"),
        ([[0, 1, 1], [1, 0], [1, 1, 0]], "got 3 rows of 2 or 3"),
        ([[0, 1, 1], [1, 0, -1], [1, 1, 0]], "integers of at least 0"),
        ([[1, 1, 1], [1, 0, 1], [1, 1, 0]], "a zero diagonal"),
    ],
)
def test_matrices_that_are_refused(matrix, message):
    with pytest.raises(ValueError, match=message):
        Migration(topology=matrix).check(3)
