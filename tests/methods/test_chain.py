"""Networks as chains of groups on ranks."""

import pytest
import torch
from torch import nn

from atoll.communication.threads import run_virtual_ranks
from atoll.methods.layer_parallel.chain import place
from atoll.methods.layer_parallel.grouping import parse_grouping, split_layers
from atoll.methods.layer_parallel.mac import Mac, MacHyperparameters, per_group
from atoll.methods.layer_parallel.mac_report import predicted_speedup, predicted_speedup_of_unequal
from atoll.methods.layer_parallel.mac_state import acts_in_training
from atoll.methods.layer_parallel.synthesizers import Synthesizer
from atoll.methods.method import Batch, NotApplicable
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


def test_a_group_that_cannot_be_trained_is_refused():
    import problem

    model = problem.make_model()
    model[0].requires_grad_(False)
    with pytest.raises(NotApplicable, match="each group of layers must have a parameter that is trained"):
        run_virtual_ranks(lambda c: problem.make(Mac, c, model=model), (0,))


def test_many_layers_are_balanced_at_once():
    seconds = [1.0] * 60
    assert (
        sorted(parse_grouping("balanced").sizes([str(i) for i in range(60)], 8, lambda: seconds)) == [7] * 4 + [8] * 4
    )


def test_a_state_is_of_one_grouping():
    import problem

    def work(c):
        made, _ = problem.make(Mac, c, hyperparameters={"grouping": "1,2"}, model=problem.make_deep_model())
        other, _ = problem.make(Mac, c, hyperparameters={"grouping": "2,1"}, model=problem.make_deep_model())
        other.load_state_dict(made.state_dict())

    with pytest.raises(ValueError, match=r"the state is of the grouping \(1, 2\), and the network is cut as \(2, 1\)"):
        run_virtual_ranks(work, (0,))


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


def test_groups_lie_on_ranks():
    assert place(2, 1) == [range(1), range(1)]
    assert place(4, 2) == [range(1), range(1), range(1, 2), range(1, 2)]
    assert place(3, 3) == [range(r, r + 1) for r in range(3)]
    assert place(2, 4) == [range(2), range(2, 4)]
    assert place(2, 5) == [range(3), range(3, 5)]
    for num_groups in range(1, 6):
        for num_ranks in range(1, 12):
            held = place(num_groups, num_ranks)
            assert len(held) == num_groups
            assert {r for ranks in held for r in ranks} == set(range(num_ranks))
            assert all(len(ranks) == 1 for ranks in held) or num_ranks > num_groups


def test_balanced_groups_are_measured_and_the_same_on_all_ranks():
    import problem

    def work(c):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 2000), nn.ReLU(), nn.Linear(2000, 4), nn.ReLU(), nn.Linear(4, 10)).double()
        made, _ = problem.make(Mac, c, hyperparameters={"grouping": "balanced"}, model=problem.seeded(model))
        return made.notes

    notes = run_virtual_ranks(work, (0, 0))
    assert notes[0] == notes[1]
    assert notes[0][0] == "grouping 1,2: 0 on rank 0; 2, 4 on rank 1"


def test_the_predicted_speedup_is_equation_3_25():
    # two groups, 67 and 67 passes, one of the Z-step (table 4.4)
    assert predicted_speedup(2, [67, 67], [1]) == pytest.approx(2 / 68)
    assert predicted_speedup(4, [1, 2, 3, 4], [5, 1, 1]) == pytest.approx(4 / 9)
    # with equal groups 3.20 is 3.23: W-steps of 3 passes and Z-steps of 2, each pass 1 s
    assert predicted_speedup_of_unequal([3, 3], [0, 2], [1, 1]) == predicted_speedup(2, [3, 3], [2])
    assert predicted_speedup_of_unequal([3, 6], [0, 2], [1, 2]) == pytest.approx(3 / 8)


@pytest.mark.parametrize(
    ("module", "acts"),
    [
        (nn.Dropout(0.5), True),
        (nn.Dropout(1), True),
        (nn.Dropout(0.0), False),
        (nn.BatchNorm1d(2), True),
        (nn.LayerNorm(2), False),
        (nn.MultiheadAttention(4, 2, dropout=0.1), True),
        (nn.MultiheadAttention(4, 2), False),
        (nn.Linear(2, 2), False),
    ],
)
def test_what_acts_in_training(module, acts):
    assert acts_in_training(module) == acts


def test_numbers_for_each_group():
    assert per_group("w_lrs", "", [1, 2]) == [1, 2]
    assert per_group("w_lrs", "0.5,2", [1, 2]) == [0.5, 2]
    with pytest.raises(NotApplicable, match=r"w_lrs must list 2 numbers above 0, one for each group; got '0\.5'"):
        per_group("w_lrs", "0.5", [1, 2])
    with pytest.raises(NotApplicable, match="must list 2 integers above 0"):
        per_group("w_iterations_each", "1.5,2", [1, 2], counts=True)
    with pytest.raises(NotApplicable, match="got 'a,2'"):
        per_group("w_lrs", "a,2", [1, 2])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"variant": "three_term"}, "variant must be one of coupled, two_term, one_term; got 'three_term'"),
        ({"w_iterations": 0}, "w_iterations must be at least 1; got 0"),
        ({"z_lr": 0.0}, "z_lr must be above 0; got 0.0"),
        ({"mu": 10.0, "mu_max": 1.0}, r"mu_max must be at least mu \(10.0\); got 1.0"),
        ({"coordinates": "int8"}, "coordinates must be one of float32, float16, bfloat16; got 'int8'"),
    ],
)
def test_wrong_hyperparameters_of_mac(wrong, message):
    with pytest.raises(ValueError, match=message):
        MacHyperparameters(**wrong)


def test_coordinates_that_move_together_take_equally_many_iterations():
    import problem

    hyperparameters = {"variant": "coupled", "grouping": "1,1,1", "z_iterations_each": "1,2"}
    with pytest.raises(NotApplicable, match="z_iterations_each must be equal numbers; got '1,2'"):
        run_virtual_ranks(
            lambda c: problem.make(Mac, c, hyperparameters=hyperparameters, model=problem.make_deep_model()), (0,)
        )


@pytest.mark.parametrize(
    ("shape_in", "shape_out", "labels", "num_parameters"),
    [
        ((5,), (5,), None, 5 * 8 + 8 + 8 * 5 + 5),
        ((5,), (5,), (4,), 8 * 8 + 8 + 8 * 5 + 5),
        ((7, 5), (7, 5), (4, 7), 8 * 8 + 8 + 8 * 5 + 5),
        ((7, 5), (7, 5), (4,), 8 * 8 + 8 + 8 * 5 + 5),
        ((2, 6, 6), (2, 6, 6), (4,), 5 * 9 * 8 + 8 + 8 * 9 * 2 + 2),
        ((1, 8, 8), (2, 4, 4), None, 1 * 9 * 8 + 8 + 8 * 9 * 2 + 2),
        ((2, 6, 6), (5,), None, 72 * 8 + 8 + 8 * 5 + 5),
    ],
)
def test_synthesizers_of_vectors_sequences_and_images(shape_in, shape_out, labels, num_parameters):
    for zero in (True, False):
        classes = 0 if labels is None else 3
        made = Synthesizer(shape_in, shape_out, num_classes=classes, depth=1, width=8, zero=zero, seed=0)
        given = None if labels is None else torch.zeros(labels, dtype=torch.int64)
        predicted = made(torch.randn(4, *shape_in), given)
        assert predicted.shape == (4, *shape_out)
        assert bool((predicted == 0).all()) == zero
        assert sum(p.numel() for p in made.parameters()) == num_parameters


def test_labels_matter_to_a_conditioned_synthesizer():
    made = Synthesizer((5,), (5,), num_classes=3, depth=0, width=1, zero=False, seed=0)
    values = torch.randn(1, 5).expand(2, 5)
    a, b = made(values, torch.tensor([0, 1]))
    assert not torch.equal(a, b)


@pytest.mark.parametrize("method", ["mac", "admm_dual", "dni"])
@pytest.mark.parametrize(
    ("workload", "shape", "labels"),
    [
        ("digits_cnn", (1, 8, 8), ()),
        ("cifar10_cnn7", (3, 28, 28), ()),
        ("speech_mlp", (40,), ()),
        ("speech_transformer", (12, 40), (12,)),
    ],
)
def test_every_chain_trains_by_every_layer_parallel_method(workload, shape, labels, method):
    """A step on two ranks with noise, which changes every group."""
    import problem

    found = registry.workload(workload)

    def work(c):
        generator = torch.Generator().manual_seed(3)
        inputs = torch.randn(16, *shape, generator=generator)
        targets = torch.randint(10, (16, *labels), generator=generator)
        batch = Batch(indices=torch.arange(16), inputs=inputs, targets=targets)
        model = problem.seeded(found.model(), scale=0.05)
        given = {
            "mac": {"w_iterations": 1, "w_iterations_last": 1, "grouping": "even"},
            "admm_dual": {},
            "dni": {"conditioned": True, "start": "random"},
        }[method]
        made, _ = problem.make(
            registry.method(method), c, hyperparameters=given, model=model, loss=found.loss, inputs=inputs
        )
        before = problem.vector(made.evaluation_model())
        losses = [float(next(made.epoch(iter([batch])))) for _ in range(2)]
        made.epoch_end(0.0)
        change = (problem.vector(made.finalize()) - before).abs()
        return losses, float(change[:20].max()), float(change[-20:].max())

    for losses, first, last in run_virtual_ranks(work, (0, 0)):
        assert all(0 <= loss < 100 for loss in losses)
        assert first > 0
        assert last > 0
