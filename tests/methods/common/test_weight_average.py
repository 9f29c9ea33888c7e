"""The moving average of the weights: its closed formula, torch's own, running statistics, and what is refused.

`atoll.testing` compares it with the steps of every method, and continues it from checkpoints.
"""

import copy
import math

import pytest
import torch
from exercised import EXERCISED
from torch import nn
from torch.optim.swa_utils import AveragedModel

from atoll.communication.threads import run_virtual_ranks
from atoll.methods import METHODS
from atoll.methods.common.optimizers import OptimizerSettings
from atoll.methods.common.weight_average import WeightAverage, rate, replicas
from atoll.methods.method import Context
from atoll.platform.study import registry
from atoll.testing import problem

OWN = ("adownpour", "asgd", "mvadownpour", "mvasgd")
PRODUCTS = ("ab", "oialr")


def context_of(model, decay):
    return Context.on_one_rank(model, nn.functional.mse_loss, settings=OptimizerSettings(ema=decay))


class Still:
    """A method whose network changes by hand."""

    def evaluated(self, model, num_ranks):
        return [replicas(model, range(num_ranks))]


def followed(model, decay):
    average = WeightAverage(context_of(model, decay))
    average.follow(Still())
    return average


@pytest.mark.parametrize("decay", [0.3, 0.9, 0.999])
@pytest.mark.parametrize("num_steps", [1, 2, 50])
def test_it_is_the_closed_formula(decay, num_steps):
    """x_i = i gives (1 - d) sum_i d^(t-i) i / (1 - d^t) = t / (1 - d^t) - d / (1 - d)."""
    model = problem.make_model()
    problem.fill(model, 1e9)  # the weights before training have no part
    average = followed(model, decay)
    for step in range(1, num_steps + 1):
        problem.fill(model, float(step))
        average.update()
    d, t = decay, num_steps
    expected = t / (1 - d**t) - d / (1 - d)
    # 1 - d^t loses digits where d^t is near 1.
    assert problem.vector(average.model(model)).tolist() == pytest.approx([expected] * 1210, rel=1e-9)
    assert problem.vector(model)[0] == num_steps


def test_a_short_training_has_the_mean_of_its_steps_and_a_long_one_the_moving_average_of_torch():
    """Polyak and Juditsky's 1/t for t below 1/(1-d); then Tarvainen and Valpola's, which torch starts at x_1."""
    assert rate(1 - 1e-9, 100) == pytest.approx(1 / 100, rel=1e-6)
    assert rate(0.9, 500) == pytest.approx(0.1, rel=1e-12)
    model = problem.make_model()
    average = followed(model, 0.9)
    theirs = AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        average.update()
        theirs.update_parameters(model)
    # 0.9^300 = 2e-14 is left of where they start.
    assert problem.close(problem.vector(average.model(model)), problem.vector(theirs.module), 1e-12)


def test_running_statistics_are_averaged_and_counts_are_the_networks():
    model = problem.make_normed_model()
    average = followed(model, 0.5)
    seen = []
    for step in range(3):
        model[1].running_mean.fill_(step)
        model[1].num_batches_tracked.fill_(10 * step)
        seen.append(copy.deepcopy(model.state_dict()))
        average.update()
    shown = average.model(model)
    weights = [0.25 * 0.5 / 0.875, 0.5 * 0.5 / 0.875, 0.5 / 0.875]
    mean = sum(w * state["1.running_mean"] for w, state in zip(weights, seen, strict=True))
    assert problem.close(shown[1].running_mean, mean, 1e-15)
    assert int(shown[1].num_batches_tracked) == 20
    assert int(shown[1].running_mean.max()) == 1
    assert shown is not model


def test_frozen_parameters_are_those_of_the_network():
    model = problem.make_model()
    model[0].weight.requires_grad_(False)
    average = followed(model, 0.5)
    average.update()
    assert torch.equal(average.model(model)[0].weight, model[0].weight)


def test_the_mean_of_replicas_that_differ_is_averaged():
    def rank(communicator):
        method, model = problem.make(
            registry.method("local_sgd"),
            communicator,
            hyperparameters={"H": 100},
            settings={"ema": 0.5},
            averages=(averages := []),
        )
        for step in (1.0, 2.0):
            problem.fill(model, step + 10 * communicator.rank)
            averages[0].update()
        return problem.vector(averages[0].model(method.evaluation_model()))

    for found in run_virtual_ranks(rank, (0, 0)):
        assert found.tolist() == pytest.approx([5 + (1 * 0.5 + 2 * 1) / 1.5] * 1210)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_averages_or_says_why_not(name):
    method = registry.method(name)
    hyperparameters, settings = EXERCISED[name]
    given = dict(method.optimizer_defaults) | settings | {"ema": 0.9}
    ranks = 1 if method.max_ranks == 1 else 2
    if name not in (*OWN, *PRODUCTS):
        method.check(method.Hyperparameters(**hyperparameters), OptimizerSettings(**given), ranks)
        return
    why = "evaluates an average of its own" if name in OWN else "average of (such )?products"
    with pytest.raises(ValueError, match=rf"{name} .*{why}.*; ema must be 0\.0; got 0\.9"):
        method.check(method.Hyperparameters(**hyperparameters), OptimizerSettings(**given), ranks)


def test_a_center_that_is_averaged_is_not_averaged_again():
    easgd = registry.method("easgd")
    settings = OptimizerSettings(**easgd.optimizer_defaults, ema=0.5)
    easgd.check(easgd.Hyperparameters(), settings, 2)
    with pytest.raises(ValueError, match="easgd evaluates an average of its own; ema must be"):
        easgd.check(easgd.Hyperparameters(report="average"), settings, 2)


@pytest.mark.parametrize("decay", [1.0, -0.1, math.nan])
def test_a_decay_is_in_its_range(decay):
    with pytest.raises(ValueError, match=r"ema must be in \[0, 1\); got"):
        OptimizerSettings(ema=decay)
