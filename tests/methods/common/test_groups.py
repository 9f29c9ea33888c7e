"""Parameter groups: factors of learning rate and weight decay, under every kind of method."""

import pytest
import torch
from low_rank import mixed
from on_ranks import on_ranks
from torch import nn

from atoll import ParameterGroup
from atoll.communication.communicator import Communicator
from atoll.methods.common.flat import FlatModel
from atoll.methods.common.groups import default_groups
from atoll.methods.common.optimizers import OptimizerFactory, OptimizerSettings
from atoll.methods.low_rank.factored import eligible_layers, factor, restore_layer
from atoll.methods.low_rank.factored_groups import FactoredGroups
from atoll.platform.study import registry
from atoll.testing import problem
from atoll.testing.method_contract import ADAPTIVE, FLOAT64
from atoll.testing.ranks import PAIR, SINGLE

SETTINGS = {
    "sgd": {"learning_rate": 0.05, "momentum": 0.9, "weight_decay": 0.02},
    "plain": {"learning_rate": 0.05, "momentum": 0.0, "weight_decay": 0.02},
    "clipped": {"learning_rate": 0.05, "momentum": 0.9, "weight_decay": 0.02, "gradient_clipping": 0.05},
    "adamw": {"optimizer": "adamw", "learning_rate": 0.01, "weight_decay": 0.5},
}


def apart(model: nn.Module) -> list[ParameterGroup]:
    """Three groups of the shallow network's four parameters, such that no neighbors are in one."""
    w0, b0, w2, b2 = model.parameters()
    return [
        ParameterGroup([w2, b0], rate=0.5, decay=2.0),
        ParameterGroup([b2], decay=0.0),
        ParameterGroup([w0], rate=2.0),
    ]


def torch_reference(settings: dict, steps: list) -> torch.Tensor:
    """Plain torch with the groups of `apart`, written out."""
    model = problem.make_model()
    w0, b0, w2, b2 = model.parameters()
    lr, decay = settings["learning_rate"], settings["weight_decay"]
    groups = [
        {"params": [w2, b0], "lr": 0.5 * lr, "weight_decay": 2 * decay},
        {"params": [b2], "lr": lr, "weight_decay": 0.0},
        {"params": [w0], "lr": 2 * lr, "weight_decay": decay},
    ]
    is_adamw = settings.get("optimizer") == "adamw"
    optimizer = torch.optim.AdamW(groups) if is_adamw else torch.optim.SGD(groups, lr, settings["momentum"])
    for batch in steps:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(batch.inputs), batch.targets).backward()
        if settings.get("gradient_clipping"):
            nn.utils.clip_grad_norm_(model.parameters(), settings["gradient_clipping"])
        optimizer.step()
    return problem.vector(model)


CASES = [
    *(("ddp", {}, settings) for settings in SETTINGS),
    *(("local_sgd", {}, settings) for settings in ("sgd", "adamw", "clipped")),
    ("daso", {"wire": "float32"}, "sgd"),
    ("powersgd", {"warmup": 1.0}, "sgd"),
    ("dni", {"mode": "gradient_loss"}, "sgd"),
    ("dni", {"mode": "gradient_loss"}, "adamw"),
    ("oialr", {"delay": 2.0}, "clipped"),
    ("oialr", {"delay": 2.0}, "adamw"),
    ("sgd", {}, "plain"),
    ("downpour", {}, "plain"),
    ("easgd", {"alpha": 0.0}, "plain"),
]


@on_ranks(SINGLE)
@pytest.mark.parametrize(("name", "hyperparameters", "settings"), CASES)
def test_one_rank_is_torch_with_the_same_groups(
    c: Communicator, name: str, hyperparameters: dict, settings: str
) -> None:
    method = registry.method(name)
    given = {"optimizer": "sgd", "schedule": "constant"} | SETTINGS[settings]
    steps = list(problem.batches(c, 30, method=method))
    instance, model = problem.make(method, c, hyperparameters=hyperparameters, settings=given, groups=apart)
    problem.train(instance, steps)
    instance.finalize()
    expected = torch_reference(SETTINGS[settings], steps)
    assert problem.close(problem.vector(model), expected, ADAPTIVE if settings == "adamw" else FLOAT64)


@on_ranks(PAIR)
@pytest.mark.parametrize("settings", ["sgd", "adamw", "clipped"])
def test_p_ranks_equal_one_rank_with_the_whole_batch(c: Communicator, settings: str) -> None:
    """Clipping at one rank is of the mean gradient, too: ddp averages first."""
    ends = []
    for ranks, batch_size in ((c, 8), (c.split(c.rank), 8 * c.size)):
        method, model = problem.make(registry.method("ddp"), ranks, settings=SETTINGS[settings], groups=apart)
        problem.train(method, list(problem.batches(ranks, 30, batch_size=batch_size)))
        ends.append(problem.vector(model))
    assert problem.close(*ends, ADAPTIVE if settings == "adamw" else FLOAT64)


@on_ranks(SINGLE)
def test_mdownpour_and_msgd_have_the_groups(c: Communicator) -> None:
    """MDOWNPOUR on one rank is MSGD, whose first step from rest is plain SGD's."""
    given = {"learning_rate": 0.05, "momentum": 0.9, "weight_decay": 0.02, "schedule": "constant"}
    steps = list(problem.batches(c, 20))
    ends = []
    for name in ("mdownpour", "msgd"):
        method, _ = problem.make(registry.method(name), c, settings=given, groups=apart)
        problem.train(method, steps[:1])
        first = problem.vector(method.evaluation_model())
        assert problem.close(first, torch_reference(SETTINGS["plain"], steps[:1]), FLOAT64), name
        problem.train(method, steps[1:])
        ends.append(problem.vector(method.finalize()))
    assert not problem.close(ends[0], torch_reference(SETTINGS["plain"], steps), 1e-3)
    # both evaluate the center, and MSGD's parameters are it
    assert problem.close(*ends, FLOAT64)


@on_ranks(SINGLE)
def test_admm_consensus_moves_each_group_at_its_rate(c: Communicator) -> None:
    """Equation 3.53 with lr times the group's rate in place of lr; the dual starts at 0, the center at x."""
    given = {"learning_rate": 0.1, "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant"}
    (batch,) = problem.batches(c, 1)
    reference = problem.make_model()
    nn.functional.cross_entropy(reference(batch.inputs), batch.targets).backward()
    rates = [0.1 * rate for rate in (2.0, 0.5, 0.5, 1.0)]
    start = [p.detach().clone() for p in reference.parameters()]
    expected = torch.cat(
        [
            ((x - lr * p.grad + lr * 3.0 * x) / (1 + lr * 3.0)).flatten()
            for x, p, lr in zip(start, reference.parameters(), rates, strict=True)
        ]
    )
    method, model = problem.make(
        registry.method("admm_consensus"), c, hyperparameters={"rho": 3.0}, settings=given, groups=apart
    )
    method.step(batch)
    assert problem.close(problem.vector(model), expected, FLOAT64)


def test_the_default_does_not_decay_biases_and_normalizations() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.LayerNorm([2, 4]), nn.Linear(4, 3, bias=False))
    attention = nn.MultiheadAttention(4, 2, add_bias_kv=True)
    weights, others = default_groups(nn.ModuleList([model, attention]))
    expected = [model[0].weight, model[3].weight, attention.in_proj_weight, attention.out_proj.weight]
    assert {id(p) for p in weights.parameters} == {id(p) for p in expected}
    assert {id(p) for p in others.parameters} == {
        id(p) for p in [*model.parameters(), *attention.parameters()] if all(p is not w for w in expected)
    }
    assert (weights.rate, weights.decay, others.rate, others.decay) == (1.0, 1.0, 1.0, 0.0)


def test_runs_are_as_long_as_possible_and_share_the_flat_memory() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1, bias=False))
    flat = FlatModel(model, default_groups(model))
    weights, others = flat.groups
    assert [len(p) for p in weights.parameters] == [6, 3]
    assert [len(p) for p in others.parameters] == [9]  # a bias, and a norm's weight and bias
    for run in (*weights.parameters, *others.parameters):
        run.detach().fill_(5.0)
        run.grad.fill_(7.0)
    assert (flat.parameters == 5.0).all()
    assert (flat.gradients == 7.0).all()
    assert flat.decay_factor.tolist() == [1.0] * 6 + [0.0] * 9 + [1.0] * 3
    assert flat.rate_factor == 1.0


def test_equal_factors_leave_one_vector() -> None:
    model = problem.make_model()
    parameters = list(model.parameters())
    flat = FlatModel(model, [ParameterGroup(parameters[:1], 0.5, 2.0), ParameterGroup(parameters[1:], 0.5, 2.0)])
    (group,) = flat.groups
    assert group.parameters == [flat.vector]
    assert (group.rate, group.decay) == (0.5, 2.0)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (lambda m: [ParameterGroup([m[0].weight])], "each trained parameter in one group; in none: 0.bias, 2.weight"),
        (
            lambda m: [ParameterGroup(m.parameters()), ParameterGroup([m[2].bias])],
            "in one group; in more than one group: 2.bias",
        ),
        (lambda m: [ParameterGroup(m.parameters(), rate=0.0)], "rate must be above 0; got 0.0"),
        (lambda m: [ParameterGroup(m.parameters(), decay=-1.0)], "decay must be at least 0; got -1.0"),
    ],
)
def test_groups_that_are_refused(groups, message: str) -> None:
    model = problem.make_model()
    with pytest.raises(ValueError, match=message):
        FlatModel(model, groups(model))


def test_the_schedule_moves_each_group_by_its_rate() -> None:
    model = problem.make_model()
    factory = OptimizerFactory(OptimizerSettings(learning_rate=0.3, schedule="linear"), 10)
    optimizer = factory(FlatModel(model, apart(model)), 0.6)
    factory.set_step(5)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.6, 0.3, 0.15])  # of w0; b2; w2 and b0
    assert [group["weight_decay"] for group in optimizer.param_groups] == [1e-4, 0.0, 2e-4]
    factory.slow(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.3, 0.15, 0.075])


def test_factors_belong_to_their_weights_group() -> None:
    """Through conversion and back, for linear layers, convolutions and attention."""
    model = mixed()

    def groups_of(model: nn.Module) -> list[ParameterGroup]:
        own = [model.conv.weight, model.encoder.self_attn.in_proj_weight]
        return [
            ParameterGroup(own, rate=3.0),
            ParameterGroup([p for p in model.parameters() if all(p is not o for o in own)], decay=0.0),
        ]

    groups = FactoredGroups(model, groups_of(model))
    layers = eligible_layers(model, full_rank_first=True, full_rank_last=True)
    for layer in layers.values():
        weight = layer.in_proj_weight if isinstance(layer, nn.MultiheadAttention) else layer.weight
        u, s, vt = torch.linalg.svd(weight.detach().flatten(1), full_matrices=False)
        factor(layer, {"U": u, "S": torch.diag(s), "Vt": vt}, trained=["S"])
    threefold, others = sorted(groups.of(model), key=lambda group: -group.rate)
    assert [id(p) for p in threefold.parameters] == [id(model.conv.S), id(model.encoder.self_attn.S)]
    assert any(p is model.encoder.linear1.S for p in others.parameters)
    for layer in layers.values():
        restore_layer(layer)
    threefold, _ = sorted(groups.of(model), key=lambda group: -group.rate)
    assert [id(p) for p in threefold.parameters] == [id(model.conv.weight), id(model.encoder.self_attn.in_proj_weight)]


@on_ranks(PAIR)
@pytest.mark.parametrize("name", ["oialr", "ab"])
def test_low_rank_methods_train_factors_at_their_weights_rate(c: Communicator, name: str) -> None:
    """With a rate next to nothing for the hidden weight, its factors stay while the others move."""

    def still(model: nn.Module) -> list[ParameterGroup]:
        hidden = model[2].weight
        return [
            ParameterGroup([hidden], rate=1e-200),
            ParameterGroup([p for p in model.parameters() if p is not hidden]),
        ]

    own = {"delay": 0.1, "beta": 0.0} if name == "oialr" else {"warmup": 0.1, "group_size": 1, "cutoff": 0.0}
    given = {"optimizer": "adamw", "weight_decay": 0.1}
    method, model = problem.make(
        registry.method(name), c, hyperparameters=own, settings=given, model=problem.make_deep_model(), groups=still
    )
    before = model[2].weight.detach().clone(), model[4].weight.detach().clone()
    problem.train(method, list(problem.batches(c, 40)))
    assert method.inner_ranks()["2"] == 16
    after = method.finalize()
    assert problem.close(after[2].weight, before[0], 1e-12)
    assert not problem.close(after[4].weight, before[1], 1e-2)
