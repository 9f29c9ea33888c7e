"""The bound of the regret: identities that hold of it, and when it is computed."""

import math
import random
import time
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import stopping
import torch

from atoll.platform.launch import checks
from atoll.platform.search import regret
from atoll.platform.search.regret import FEWEST, Bounding, bound, confidence, next_after
from atoll.platform.study.plan import Plan
from atoll.platform.study.study import Study

FUNCTIONS = Path(stopping.__file__)


@pytest.fixture(scope="module")
def space():
    content = {"space": {"learning_rate": {"low": 0.01, "high": 1.0, "log": True}}}
    return Plan.of(Study(name="s", workload="digits_mlp", method="ddp", **content)).space


def results(space, count, loss=lambda genes: (genes["learning_rate"] - 0.3) ** 2):
    draw = random.Random(count)
    genes = [{name: draw.random() if isinstance(one, float) else one for name, one in default.items()}
             for default in [space.encode(space.default())] * count]  # fmt: skip
    return genes, [loss(one) for one in genes]


@pytest.fixture(scope="module")
def quadratic():
    """A space of eight variables, results at random, and their objective, whose optimum is 0."""
    content = {"objective": f"{FUNCTIONS}:falls", "space": {f"x{n}": {"low": 0.0, "high": 1.0} for n in range(8)}}
    return Plan.of(Study(name="s", **content)).space, lambda genes: sum((x - 0.3) ** 2 for x in genes.values())


@pytest.mark.parametrize("count", [20, 60, 150])
def test_it_is_above_the_regret_of_a_smooth_function(quadratic, count):
    """Also after many trials, when the process knows the function, and few random points are near its optimum."""
    space, loss = quadratic
    draw = random.Random(count)
    genes = [{parameter.name: draw.random() for parameter in space.parameters} for _ in range(count)]
    losses = [loss(one) for one in genes]
    assert min(losses) < bound(genes, losses, space, seed=0).value < 3.0


def test_the_width_of_the_confidence_bounds_is_that_of_the_theorem():
    assert 5 * confidence(3, 40, delta=0.05) / 2 == pytest.approx(math.log(3 * 1600 * math.pi**2 / 0.3), rel=1e-15)


def test_it_scales_with_the_objective_and_does_not_move_with_it(space):
    """The results are standardized, so the bound of a + b * loss is b times that of the loss, up to rounding."""
    genes, losses = results(space, 12)
    first = bound(genes, losses, space, seed=1)
    scaled = bound(genes, [3.0 + 8.0 * loss for loss in losses], space, seed=1)
    assert scaled.value == pytest.approx(8.0 * first.value, rel=1e-3)  # the fit ends at a tolerance
    assert (first.incumbent, first.num_trials) == (min(losses), 12)
    assert bound(genes, losses, space, seed=1).value == first.value


def test_results_that_are_too_large_have_no_bound_and_equal_ones_have(space):
    genes, losses = results(space, 20)
    found = bound(genes, [1e300 * loss for loss in losses], space, seed=0)
    assert (found.value, found.incumbent) == (None, 1e300 * min(losses))
    assert 0 < bound(genes, [2.0] * 20, space, seed=0).value < 1e-9  # the results are divided by 1e-10 at least


def test_a_singular_matrix_is_no_bound_and_no_error(space, monkeypatch):
    errors = [np.linalg.LinAlgError("singular"), torch.linalg.LinAlgError("not positive-definite")]
    genes, losses = results(space, 20)
    monkeypatch.setattr("optuna._gp.gp.fit_kernel_params", Mock(side_effect=errors))
    assert [bound(genes, losses, space, seed=0).value for _ in errors] == [None, None]


def test_another_optuna_is_refused_before_anything_starts(monkeypatch):
    rule = {"name": "s", "objective": f"{FUNCTIONS}:falls", "space": {"x": {"low": 0.0, "high": 1.0}}, "trials": 9}
    checks.check(Study(**rule, stop={"regret": "1 %"}))
    monkeypatch.delattr("optuna._gp.acqf.LCB")
    checks.check(Study(**rule, stop={"target": 1}))
    with pytest.raises(ValueError, match=r"stop\.regret needs the Gaussian process of Optuna 5\.0, which .*LCB"):
        checks.check(Study(**rule, stop={"regret": "1 %"}))


def test_it_is_computed_from_the_incumbent_and_others_at_random_if_there_are_many(space, monkeypatch):
    genes, losses = results(space, 30)
    monkeypatch.setattr(regret, "MOST", 10)
    first, again, other = (bound(genes, losses, space, seed=seed) for seed in (0, 0, 1))
    assert first.value == again.value != other.value
    assert (first.incumbent, first.num_trials) == (min(losses), 30)


def test_it_is_due_after_twenty_trials_and_then_after_a_tenth_more():
    due = [FEWEST]
    while due[-1] < 60:
        due.append(next_after(due[-1]))
    assert due == [20, 22, 24, 26, 28, 30, 33, 36, 39, 42, 46, 50, 55, 60]


def test_a_thread_computes_one_at_a_time(space, monkeypatch):
    monkeypatch.setattr(regret, "FEWEST", 3)
    genes, losses = results(space, 6)
    bounding = Bounding(space, seed=0)
    bounding.start()
    assert not bounding.is_busy
    for number in (2, 0, 1):
        bounding.add(number, genes[number], losses[number])
        bounding.start()
    bounding.add(3, genes[3], math.inf)  # such as of a target that was missed
    bounding.add(4, genes[4], losses[4])
    bounding.start()
    while bounding.is_busy:
        time.sleep(0.01)
    found = bounding.take()
    assert found.value == bound(genes[:3], losses[:3], space, seed=3).value
    assert bounding.take() is None
    bounding.start()
    assert bounding.is_busy  # 4 is the next number
    while bounding.is_busy:
        time.sleep(0.01)
    assert bounding.take().num_trials == 4


def test_a_resumed_search_goes_on_with_the_schedule(space):
    genes, losses = results(space, 21)
    bounding = Bounding(space, seed=0, num_before=20)
    for number in range(21):
        bounding.add(number, genes[number], losses[number])
    bounding.start()
    assert not bounding.is_busy  # the next one is due at 22
