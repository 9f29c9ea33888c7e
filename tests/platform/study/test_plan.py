"""A study with its names resolved."""

import pytest

from atoll.methods import METHODS
from atoll.platform.study import registry
from atoll.platform.study.plan import Plan, search_space
from atoll.platform.study.study import Study


def study(**content):
    return Study(**({"name": "s", "workload": "digits_mlp", "method": "ddp"} | content))


@pytest.mark.parametrize("method", METHODS)
def test_every_methods_default_is_feasible(method):
    ranks = registry.method(method).max_ranks or 2
    plan = Plan.of(study(method=method, topology={"ranks": ranks}))
    assert plan.method is registry.method(method)
    assert plan.infeasibility(plan.space.default()) is None
    assert plan.aim == ("accuracy", "maximize")


def test_the_studys_target_takes_the_place_of_the_workloads():
    assert Plan.of(study(target=0.5)).workload.target == 0.5
    assert Plan.of(study()).workload.target == registry.workload("digits_mlp").target


def test_the_space_has_the_studys_changes():
    space = search_space(study(space={"momentum": 0.5, "learning_rate": {"low": 0.25, "high": 0.5}}))
    assert "momentum" not in space.limits()
    assert space.default()["momentum"] == 0.5
    assert 0.25 <= space.default()["learning_rate"] <= 0.5
    assert all(0.25 <= h["learning_rate"] <= 0.5 for h in space.extremes())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"space": {"nothing": 1.0}}, "nothing"),
        ({"constraints": ["momentum < 0.5"]}, "the default configuration must satisfy the constraint 'momentum < 0.5'"),
        ({"objectives": [{"name": "nothing"}]}, "an objective must be one of accuracy, "),
    ],
    ids=["unknown_hyperparameter", "default_violates_constraint", "unknown_objective"],
)
def test_what_cannot_be_resolved_is_refused(content, message):
    with pytest.raises(ValueError, match=message):
        Plan.of(study(**content))


def test_infeasible_hyperparameters_say_why():
    plan = Plan.of(study(method="daso", constraints=["momentum < 0.95"], topology={"ranks": 2}))
    default = plan.space.default()
    assert plan.infeasibility(default | {"momentum": 0.96}) == "it violates momentum < 0.95"
    assert "S must be in 0..B" in plan.infeasibility(default | {"B": 2, "S": 3})


def test_a_trials_seed_is_its_number_and_a_confirmations_that_of_its_repetition():
    plan = Plan.of(study(seed=100, epochs=3, topology={"ranks": 2, "ranks_per_node": 1}))
    configuration = plan.configuration(plan.space.default(), 7, threads=1, device="cuda:1")
    assert (configuration.seed, configuration.epochs, configuration.ranks) == (107, 3, 2)
    assert (configuration.ranks_per_node, configuration.device, configuration.threads) == (1, "cuda", 1)
    default = plan.space.default()
    confirm = {"configurations": [default, default | {"momentum": 0.5}], "seeds": 2}
    confirming = Plan.of(study(seed=100, confirm=confirm))
    assert [confirming.configuration(default, n, 1, "cpu").seed for n in range(4)] == [100, 100, 101, 101]


@pytest.mark.parametrize(
    ("method", "pruning", "rule"),
    [("ddp", {}, ("asha", True)), ("mac", {}, ("median", False)), ("ddp", {"rule": "median"}, ("median", True))],
    ids=["default", "the_methods_own", "the_studys"],
)
def test_the_pruning_rule(method, pruning, rule):
    assert Plan.of(study(method=method, pruning=pruning)).pruning_rule() == rule
