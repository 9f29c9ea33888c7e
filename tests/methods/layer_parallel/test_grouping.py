"""Networks as chains of layers, cut into groups."""

import pytest
from torch import nn

from atoll.methods.layer_parallel.grouping import parse_grouping, split_layers
from atoll.methods.method import NotApplicable
from atoll.platform.study import registry

SIX = ["0", "2", "4", "6", "8", "10"]


@pytest.mark.parametrize(
    ("workload", "layers"),
    [
        ("digits_mlp", ["0", "2", "4"]),
        ("digits_cnn", ["0", "3", "8"]),
        ("cifar10_cnn7", ["0", "3", "6", "9", "12"]),
    ],
)
def test_workloads_are_chains(workload, layers):
    model = registry.workload(workload).model()
    found = split_layers(model)
    assert [layer.name for layer in found] == layers
    assert [m for layer in found for m in layer.modules] == list(model)


def test_normalisation_and_what_stands_before_belong_to_a_layer():
    inner = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU())
    found = split_layers(nn.Sequential(nn.Identity(), inner, nn.Flatten(), nn.Linear(8, 2)))
    assert [(layer.name, len(layer.modules)) for layer in found] == [("1.0", 5), ("3", 1)]


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


def test_an_activation_may_stand_in_the_network_twice():
    act = nn.ReLU()
    model = nn.Sequential(nn.Linear(2, 2), act, nn.Linear(2, 2), act, nn.Linear(2, 2))
    assert [len(layer.modules) for layer in split_layers(model)] == [2, 2, 1]


def test_what_is_no_chain_is_refused_with_a_reason():
    with pytest.raises(NotApplicable, match=r"must be an nn.Sequential.*got Linear, whose forward may do anything"):
        split_layers(nn.Linear(2, 2))
    with pytest.raises(NotApplicable, match="at least one weight; it has none"):
        split_layers(nn.Sequential(nn.ReLU()))
    twice = nn.Linear(2, 2)
    with pytest.raises(NotApplicable, match="layers 0 and 2 share a parameter"):
        split_layers(nn.Sequential(twice, nn.ReLU(), twice))
    with pytest.raises(NotApplicable, match="got Residual, whose forward may do anything"):
        split_layers(Residual(nn.Linear(2, 2)))
    inside = nn.Sequential(nn.Linear(2, 2), Residual(nn.Linear(2, 2)))
    assert [layer.name for layer in split_layers(inside)] == ["0", "1"]
    tied = nn.Linear(2, 2)
    other = nn.Linear(2, 2)
    other.weight = tied.weight
    with pytest.raises(NotApplicable, match="layers 0 and 1 share a parameter"):
        split_layers(nn.Sequential(tied, other))


def test_many_layers_are_balanced_at_once():
    seconds = [1.0] * 60
    assert (
        sorted(parse_grouping("balanced").sizes([str(i) for i in range(60)], 8, lambda: seconds)) == [7] * 4 + [8] * 4
    )


@pytest.mark.parametrize(
    ("grouping", "num_groups", "sizes"),
    [
        ("1,5", 2, [1, 5]),
        ("2,3,1", 2, [2, 3, 1]),
        ("first", 2, [1, 5]),
        ("first", 3, [1, 1, 4]),
        ("last", 2, [5, 1]),
        ("even", 2, [3, 3]),
        ("even", 4, [1, 2, 1, 2]),
        ("at:2,8", 2, [1, 3, 2]),
        ("balanced", 2, [5, 1]),
        ("balanced", 3, [4, 1, 1]),
        ("even", 1, [6]),
    ],
)
def test_groupings(grouping, num_groups, sizes):
    assert parse_grouping(grouping).sizes(SIX, num_groups, lambda: [1, 1, 1, 1, 4, 9]) == sizes


@pytest.mark.parametrize(
    ("grouping", "num_groups", "message"),
    [
        ("3,4", 2, r"the network has 6 layers \(0, 2, 4, 6, 8, 10\).*got the grouping '3,4' of 7"),
        ("0,6", 2, "each of which belongs to one group of at least one"),
        ("even", 7, "so at most 6 groups; got 7"),
        ("at:0", 2, "groups may begin with the layers 2, 4, 6, 8, 10, in this order; got 'at:0'"),
        ("at:8,2", 2, "in this order"),
        ("at:3", 2, "groups may begin with the layers"),
    ],
)
def test_groupings_that_do_not_fit_the_network(grouping, num_groups, message):
    with pytest.raises(NotApplicable, match=message):
        parse_grouping(grouping).sizes(SIX, num_groups)


@pytest.mark.parametrize("grouping", ["", "odd", "1,", "1;5", "at:", "-1,7"])
def test_groupings_that_say_nothing(grouping):
    with pytest.raises(ValueError, match="grouping must be one of even, first, last, balanced, or the"):
        parse_grouping(grouping)
