"""A study with its names resolved."""

import pytest

from atoll.methods import METHODS
from atoll.platform.study import registry
from atoll.platform.study.configuration import complete_hyperparameters, split_hyperparameters
from atoll.platform.study.effects import searched_without_effect
from atoll.platform.study.plan import Plan, search_space
from atoll.platform.study.study import Study


def study(**content):
    return Study(**({"name": "s", "workload": "digits_mlp", "method": "ddp"} | content))


@pytest.mark.parametrize("method", METHODS)
def test_every_methods_default_is_feasible(method):
    ranks = registry.method(method).max_ranks or 2
    plan = Plan.of(study(method=method, topology={"ranks": ranks}))
    assert plan.training.method is registry.method(method)
    assert plan.infeasibility(plan.space.default()) is None
    assert plan.aim == ("accuracy", "maximize")


def test_the_studys_target_takes_the_place_of_the_workloads():
    assert Plan.of(study(target=0.5)).subject.target == 0.5
    assert Plan.of(study()).subject.target == registry.workload("digits_mlp").target


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


def test_a_study_that_names_adamw_needs_nothing_else():
    """The default rate is AdamW's, its range reaches down to it, and momentum, which has no effect, is not searched."""
    plan = Plan.of(study(space={"optimizer": "adamw"}))
    default = plan.space.default()
    assert (default["optimizer"], default["learning_rate"]) == ("adamw", 1e-3)
    assert "momentum" not in plan.space.names()
    trained = plan.configuration(default, 0, threads=1, device="cpu").hyperparameters
    assert trained["learning_rate"] == 1e-3


def test_the_default_rate_of_a_training_is_its_optimizers():
    assert complete_hyperparameters("ddp", "digits_mlp", {"optimizer": "adamw"})["learning_rate"] == 1e-3
    assert complete_hyperparameters("ddp", "digits_mlp", {})["learning_rate"] == 0.1
    assert complete_hyperparameters("eamsgd", "digits_mlp", {})["learning_rate"] == 0.005  # the method's own default


def test_what_acts_on_some_optimizers_is_searched_for_these():
    space = search_space(
        study(space={"optimizer": {"choices": ["sgd", "adamw"]}, "beta2": {"low": 0.9, "high": 0.999}})
    )
    conditions = {p.name: p.only_if for p in space.parameters}
    assert conditions["beta2"] == ("optimizer", ("adamw",))
    assert conditions["momentum"] == ("optimizer", ("sgd",))
    assert conditions["learning_rate"] is None


def test_a_study_has_conditions_of_its_own():
    rate = {"low": 0.001, "high": 0.01, "log": True, "only_if": {"schedule": ["cosine", "linear"]}}
    space = search_space(
        study(space={"lr_warmup": {"low": 0.0, "high": 0.2, "only_if": {"wire": "float32"}}, "warmup_lr": rate})
    )
    conditions = {p.name: p.only_if for p in space.parameters}
    assert conditions["lr_warmup"] == ("wire", ("float32",))
    assert conditions["warmup_lr"] == ("schedule", ("cosine", "linear"))
    assert all(("lr_warmup" in h) == (h["wire"] == "float32") for h in space.extremes())
    with pytest.raises(ValueError, match=r"only_if must name one other hyperparameter; got schedule, wire"):
        study(space={"momentum": rate | {"only_if": {"schedule": "cosine", "wire": "float32"}}})


def test_a_condition_without_values_is_refused():
    with pytest.raises(ValueError, match="only_if must give a value of the other hyperparameter"):
        study(space={"momentum": {"low": 0.1, "high": 0.9, "only_if": {"schedule": []}}})


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            {"optimizer": "adamw", "momentum": {"low": 0.1, "high": 0.9}},
            "momentum would be searched without effect: momentum acts if optimizer is sgd or lars or rmsprop or muon",
        ),
        (
            {"schedule": "constant", "min_lr": {"low": 1e-5, "high": 1e-3}},
            "min_lr acts if schedule is cosine or linear or polynomial or one_cycle or plateau; got constant",
        ),
        ({"optimizer": "adam_w"}, "optimizer must be one of sgd, adamw"),
    ],
)
def test_a_range_without_effect_is_refused(space, message):
    with pytest.raises(ValueError, match=message):
        search_space(study(space=space))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"method": "ddp", "topology": {"ranks": 1}}, ["wire has no effect: one rank sends nothing"]),
        ({"method": "ddp", "topology": {"ranks": 2}}, []),
        (
            {"method": "daso", "topology": {"ranks": 2}},
            [
                "B, S, adaptive, warmup_epochs, cooldown_epochs, wire have no effect: all ranks are on one node, where "
                "daso is ddp; a smaller ranks_per_node makes more nodes"
            ],
        ),
        ({"method": "daso", "topology": {"ranks": 2, "ranks_per_node": 1}}, []),
        (
            {"method": "daso", "topology": {"ranks": 2, "ranks_per_node": 1}, "epochs": 8},
            [
                "in the first trial, B, S, adaptive, wire have no effect: warmup_epochs (4) and cooldown_epochs (4) "
                "cover all 8 epochs, in which every batch is blocking"
            ],
        ),
        ({"method": "ab", "topology": {"ranks": 2}}, ["group_size has no effect: 2 ranks make two groups of one"]),
        ({"method": "ab", "topology": {"ranks": 4}}, []),
    ],
)
def test_what_would_be_searched_without_effect_is_told(content, expected):
    plan = Plan.of(study(**content))
    assert searched_without_effect(plan, num_nodes=1) == expected


def test_on_nodes_that_are_not_known_nothing_is_claimed():
    assert searched_without_effect(Plan.of(study(method="daso", topology={"ranks": 2})), num_nodes=None) == []


def test_a_batch_held_in_total_takes_the_place_of_that_of_a_rank():
    plan = Plan.of(study(space={"global_batch_size": {"choices": [64, 128]}}, topology={"ranks": 4}))
    assert "batch_size" not in plan.space.names()
    default = plan.space.default()
    trained = plan.configuration(default, 0, threads=1, device="cpu").hyperparameters
    assert trained["global_batch_size"] == 64
    assert "batch_size" not in trained
    assert split_hyperparameters("ddp", "digits_mlp", trained, 4)[1].batch_size == 16
    assert plan.infeasibility({"global_batch_size": 66}) == "global_batch_size must be divisible by the 4 ranks; got 66"
    with pytest.raises(ValueError, match=r"batch_size .* and global_batch_size .* exclude each other; got 8 and 64"):
        search_space(study(space={"global_batch_size": 64, "batch_size": 8}))


def test_the_rate_is_scaled_by_the_ranks_once():
    given = complete_hyperparameters("ddp", "digits_mlp", {"learning_rate": 0.1, "scale_rate": "ranks"})
    assert given["learning_rate"] == 0.1  # what is recorded is what was searched
    assert split_hyperparameters("ddp", "digits_mlp", given, 4)[1].learning_rate == 0.4


def test_a_length_in_steps_is_not_taken_for_epochs():
    content = {"method": "daso", "steps": 9000, "space": {"warmup_epochs": 10, "cooldown_epochs": 10}}
    plan = Plan.of(study(**content, topology={"ranks": 2, "ranks_per_node": 1}))
    assert not any("cover all" in note for note in searched_without_effect(plan, num_nodes=2))


def test_the_best_of_the_curve_needs_the_metric_as_objective():
    study(objective_from="best", objectives=["accuracy"])
    with pytest.raises(
        ValueError, match="objective_from: best needs the objective accuracy or validation_error; got tr"
    ):
        study(objective_from="best", objectives=["train_loss"])


def test_layers_are_observed_after_epochs():
    study(observe=2, report_every="1 epochs")
    with pytest.raises(ValueError, match=r"observe compares layers after every epoch.*got 10 steps"):
        study(observe=2, report_every="10 steps")
