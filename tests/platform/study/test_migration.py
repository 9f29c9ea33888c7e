"""Migration: topologies, and what the choices of emigrants and of the replaced exclude."""

import random

import pytest

from atoll.platform.study.migration import Migration
from atoll.platform.study.study import Study

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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"emigrate": "worst"}, "Input should be 'best', 'random' or 'tournament'"),
        ({"emigrate": "tournament", "tournament": 1}, "Input should be greater than or equal to 2"),
        ({"tournament": 5}, "tournament needs emigrate: tournament; got 5 with emigrate: best"),
        ({"replace": "best"}, "Input should be 'none', 'worst' or 'random'"),
        (
            {"replace": "worst", "pollination": False},
            "replace must be none with pollination: false, as individuals that move leave room for others; got worst",
        ),
    ],
)
def test_options_that_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Migration(**options)


def test_nobody_is_replaced_and_the_best_emigrate_by_default():
    assert Migration().model_dump() == Migration(emigrate="best", replace="none", tournament=3).model_dump()
    chosen = Migration(emigrate="tournament", tournament=5, replace="random")
    assert Migration(**chosen.model_dump()) == chosen


def study(samplers, **migration):
    content = {"name": "s", "workload": "digits_mlp", "method": "ddp", "topology": {"islands": len(samplers)}}
    return Study(**content, sampler=samplers, migration=migration)


@pytest.mark.parametrize("replace", ["worst", "random"])
def test_to_replace_needs_a_sampler_that_breeds(replace):
    message = rf"replace needs a sampler that breeds \(.*\): the others learn from all trials; got {replace} with "
    with pytest.raises(ValueError, match=message + "optuna-tpe, random "):
        study([{"name": "optuna-tpe"}, {"name": "random"}], replace=replace)
    for name in ("evolution", "propulate", "mixed"):
        study([{"name": name}, {"name": "random"}], replace=replace)
    with pytest.raises(ValueError, match=message + "mixed "):
        study([{"name": "mixed", "samplers": [{"name": "optuna-gp"}, {"name": "random"}]}], replace=replace)
