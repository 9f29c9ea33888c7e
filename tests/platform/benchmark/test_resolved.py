"""What a benchmark trains, before anything trains."""

import pytest

from atoll.platform.benchmark.benchmark_file import Benchmark
from atoll.platform.benchmark.resolved import resolve

CONTENT = {
    "name": "b",
    "methods": [
        {"method": "ddp", "name": "fixed", "untuned": True, "ranks": 1, "space": {"batch_size": 64}},
        {"method": "daso", "space": {"B": {"choices": [1, 4]}, "S": 0, "wire": "float32", "adaptive": False}},
    ],
    "workloads": [{"workload": "digits_mlp", "target": 0.9, "epochs": 2}, {"workload": "digits_cnn", "name": "cnn"}],
    "tuning": {"trials": 4, "repeats": 2},
    "ranks": 4,
    "ranks_per_node": 2,
    "space": {"optimizer": "sgd", "learning_rate": 0.01, "scale_rate": "ranks", "batch_size": 16, "momentum": 0.9},
}


def make(**changes):
    return resolve(Benchmark.model_validate(CONTENT | changes))


def test_every_method_on_every_workload_once():
    assert [(one.workload, one.method) for one in make()] == [
        ("digits_mlp", "fixed"),
        ("digits_mlp", "daso"),
        ("cnn", "fixed"),
        ("cnn", "daso"),
    ]
    assert [one.trains for one in make()][2:] == [("digits_cnn", "ddp"), ("digits_cnn", "daso")]


def test_the_settings_are_those_on_the_entrys_ranks():
    fixed, daso, *_ = make()
    assert (fixed.ranks, fixed.ranks_per_node, fixed.batch) == (1, 1, 64)
    assert (daso.ranks, daso.ranks_per_node, daso.batch) == (4, 2, 64)
    assert fixed.settings["optimizer"]["learning_rate"] == 0.01
    assert daso.settings["optimizer"]["learning_rate"] == 0.04  # scaled by the ranks
    assert (fixed.unit, fixed.length, fixed.target, fixed.metric) == ("epochs", 2, 0.9, "accuracy")
    assert make()[2].length == 20  # the workload's own


def test_a_batch_that_is_held_in_total_is_shared_out():
    space = {name: value for name, value in CONTENT["space"].items() if name != "batch_size"}
    held = make(space=space | {"global_batch_size": 128}, methods=["ddp"])[0]
    assert (held.batch, held.batch_per_rank) == (128, 32)
    assert held.settings["optimizer"]["batch_size"] == 32
    (whole, *_) = make(methods=["mac"])
    assert (whole.batch, whole.batch_per_rank) == (64, 64)  # every rank holds a part of the network
    served = make(space=CONTENT["space"] | {"momentum": 0.0, "server": "dedicated"}, methods=["easgd"])[0]
    assert (served.batch, served.batch_per_rank) == (48, 16)  # one of the four ranks only serves
    searched = make(space=space | {"batch_size": {"choices": [8, 16]}}, methods=["ddp"])[0]
    assert (searched.batch, searched.batch_per_rank) == (None, None)


def test_what_is_searched_and_what_an_untuned_entry_trains():
    fixed, daso, *_ = make()
    assert (fixed.is_tuned, fixed.searched, fixed.trials) == (False, [], 1)
    assert fixed.settings["optimizer"]["weight_decay"] == 1e-4  # searched, if it were tuned
    searched = {one.name: (one.domain, one.default) for one in daso.searched}
    assert searched["B"] == ("{1, 4}", 4)
    assert searched["weight_decay"] == ("1e-06 to 0.01, log", 1e-4)
    assert daso.num_configurations is None
    assert daso.trials == 4


def test_the_size_of_a_space_without_ranges_of_real_numbers():
    space = CONTENT["space"] | {"weight_decay": 0.0, "schedule": "constant"}
    (fixed, daso) = make(space=space, workloads=["digits_mlp"])
    assert daso.num_configurations == 2 * 5 * 5  # B, warmup_epochs, cooldown_epochs
    assert fixed.num_configurations == 1


def test_what_has_no_effect():
    fixed, daso, *_ = make()
    assert {"wire", "overlap", "bucket_mib"} <= set(fixed.without_effect)  # on one rank
    assert {"beta1", "warmup_lr", "decay_rate"} <= set(fixed.without_effect)
    assert {"beta1", "warmup_lr"} <= set(daso.without_effect)
    assert "decay_rate" in daso.without_effect  # which no searched schedule has
    assert "wire" in daso.without_effect  # its warm-up and cool-down cover all epochs
    assert not {"momentum", "blocking_wire", "min_lr", "schedule"} & set(daso.without_effect)
    adam = make(space=CONTENT["space"] | {"optimizer": "adamw", "schedule": "exponential", "lr_warmup": 0.1})[1]
    assert "momentum" in adam.without_effect
    assert not {"beta1", "decay_rate", "warmup_lr"} & set(adam.without_effect)


def test_what_has_an_effect_with_one_of_the_searched_optimizers():
    space = CONTENT["space"] | {"optimizer": {"choices": ["sgd", "adamw"]}, "schedule": {"choices": ["cosine", "step"]}}
    (one,) = make(methods=["ddp"], workloads=["digits_mlp"], space=space)
    assert {"trust", "smoothing", "lr_decay", "lr_patience"} <= set(one.without_effect)
    assert not {"momentum", "nesterov", "beta1", "min_lr", "milestones"} & set(one.without_effect)


def test_an_invalid_study_names_its_part():
    with pytest.raises(ValueError, match=r"digits_mlp\.daso\.tune-0: .*wurst"):
        make(methods=[{"method": "daso", "space": {"wurst": 3}}])
