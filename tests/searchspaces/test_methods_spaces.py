"""The methods' search spaces: ranges, and agreement with the methods' hyperparameters."""

from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.methods import METHODS
from atoll.methods.common.optimizers import (
    OPTIMIZERS,
    SCHEDULES,
    OptimizerFactory,
    OptimizerSettings,
)
from atoll.platform.study import registry
from atoll.platform.study.configuration import split_hyperparameters
from atoll.searchspaces.optimizer import EFFECTS
from atoll.searchspaces.optimizer import SPACE as OPTIMIZER_SPACE

WHOLE = {name: registry.whole_space(name) for name in METHODS}


@pytest.mark.parametrize("name", METHODS)
def test_parameters_are_the_methods_hyperparameters_with_their_defaults(name):
    method = registry.method(name)
    defaults = {field.name: field.default for field in (*fields(OptimizerSettings), *fields(method.Hyperparameters))}
    defaults |= {"learning_rate": OptimizerSettings().learning_rate} | dict(method.optimizer_defaults)
    for parameter in registry.search_space(name).parameters:
        assert parameter.default == defaults[parameter.name], parameter.name
        assert parameter.contains(parameter.default)


def test_optimizer_space_matches_the_optimizer_settings():
    for parameter in OPTIMIZER_SPACE.parameters:
        assert parameter.default == getattr(OptimizerSettings(), parameter.name)


@pytest.mark.parametrize("name", METHODS)
def test_a_space_fixes_its_methods_optimizer(name):
    default = registry.method(name).optimizer_defaults.get("optimizer", "sgd")
    assert dict(WHOLE[name].fixed)["optimizer"] == default


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_space_follows_the_optimizer(name):
    """The default rate is that of the settings, and what is searched acts."""
    space = registry.whole_space("ddp", None, [name])
    assert dict(space.fixed)["optimizer"] == name
    default = space.default()
    assert default["learning_rate"] == OptimizerSettings(optimizer=name).learning_rate
    rate = next(p for p in space.parameters if p.name == "learning_rate")
    expected = {"sgd": (1e-3, 1.0), "adamw": (1e-5, 1e-1)}.get(name)
    assert expected in (None, (rate.distribution.low, rate.distribution.high))
    assert ("momentum" in default) is (name in ("sgd", "lars", "rmsprop", "muon"))


EFFECTS_ON_OPTIMIZERS = sorted(name for name, (other, _) in EFFECTS.items() if other == "optimizer")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("setting", EFFECTS_ON_OPTIMIZERS)
def test_settings_act_on_the_optimizers_that_the_table_names(setting, optimizer):
    """By training: a setting changes the result exactly where the table says so."""
    ends = []
    for value in {"nesterov": (False, True), "l1": (0.0, 0.5)}.get(setting, (0.3, 0.8)):
        settings = OptimizerSettings(optimizer=optimizer, **{setting: value})
        trained = [torch.nn.Parameter(torch.linspace(-1, 1, 6).view(2, 3)), torch.nn.Parameter(torch.ones(2))]
        made = OptimizerFactory(settings, 10)(trained)
        for number in range(12):  # radam takes some to use its second moments
            for parameter in trained:
                parameter.grad = torch.sin(parameter.detach() + number)
            made.step()
        ends.append(torch.cat([parameter.detach().flatten() for parameter in trained]))
    assert (not torch.equal(*ends)) is (optimizer in EFFECTS[setting][1])


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("setting", sorted(name for name, (other, _) in EFFECTS.items() if other == "schedule"))
def test_settings_act_on_the_schedules_that_the_table_names(setting, schedule):
    values = {"milestones": ("0.2", "0.7"), "lr_patience": (0, 3)}.get(setting, (0.02, 0.5))
    ends = []
    for value in values:
        factory = OptimizerFactory(OptimizerSettings(schedule=schedule, **{setting: value}), 40)
        rates = []
        for epoch in range(20):
            for step in (0, 1):
                factory.set_step(2 * epoch + step)
                rates.append(factory.learning_rate)
            factory.epoch_end(0.95 ** min(epoch, 10))  # better by a twentieth, then no more
        ends.append(rates)
    assert (ends[0] != ends[1]) is (schedule in EFFECTS[setting][1])


def test_several_optimizers_are_searched_with_what_acts_on_each():
    space = registry.whole_space("ddp", None, ["adamw", "sgd"])
    by_name = {p.name: p for p in space.parameters}
    assert space.parameters[0].name == "optimizer"
    rate = by_name["learning_rate"]
    assert (rate.distribution.low, rate.distribution.high, rate.default) == (1e-5, 1.0, 1e-3)
    assert by_name["momentum"].only_if == ("optimizer", ("sgd",))
    assert "momentum" not in space.default()


@pytest.mark.parametrize("name", METHODS)
@settings(deadline=None)  # the first call imports the method
@given(data=st.data())
def test_every_gene_decodes_to_valid_hyperparameters_and_back(name, data):
    space = WHOLE[name]
    genes = {
        key: data.draw(st.floats(0, 1) if isinstance(limits[0], float) else st.integers(*limits))
        for key, limits in space.limits().items()
    }
    hyperparameters = space.decode(genes)
    split_hyperparameters(name, "digits_mlp", hyperparameters, max(1, registry.method(name).min_ranks))
    again = space.decode(space.encode(hyperparameters))
    for key, value in hyperparameters.items():
        # log and exp of a float64 lose a few units in the last place
        assert again[key] == (pytest.approx(value, rel=1e-12) if isinstance(value, float) else value)


def test_the_easgd_family_has_the_ranges_of_tables_4_1_to_4_3():
    rates = {
        "easgd": (0.005, 0.1),
        "eamsgd": (0.001, 0.01),
        "downpour": (0.0005, 0.02),
        "adownpour": (0.0005, 0.005),
        "mvadownpour": (0.0005, 0.005),
        "mdownpour": (0.000005, 0.00005),
        "sgd": (0.005, 0.05),
        "asgd": (0.005, 0.05),
        "mvasgd": (0.005, 0.05),
        "msgd": (0.0001, 0.001),
    }
    for name, (low, high) in rates.items():
        rate = next(p for p in WHOLE[name].parameters if p.name == "learning_rate")
        assert (rate.distribution.low, rate.distribution.high) == (low, high), name
    for name in ("easgd", "eamsgd", "downpour"):
        tau = next(p for p in WHOLE[name].parameters if p.name == "tau")
        assert (tau.distribution.low, tau.distribution.high) == (1, 64)


def test_a_methods_space_replaces_and_excludes_shared_settings():
    assert "momentum" not in WHOLE["easgd"].names()
    (momentum,) = [p for p in WHOLE["eamsgd"].parameters if p.name == "momentum"]
    assert momentum.source == "Zhang 2016, sections 4.2 and 6.1.2"
    assert WHOLE["easgd"].names().count("learning_rate") == 1
    assert {"weight_decay", "batch_size"} <= set(WHOLE["easgd"].names())


def test_daso_has_table_3_1s_ranges():
    daso = {p.name: p for p in registry.search_space("daso").parameters}
    assert (daso["B"].distribution.low, daso["B"].distribution.high) == (1, 32)
    assert (daso["S"].distribution.low, daso["S"].distribution.high, daso["S"].at_most) == (0, 32, "B")
