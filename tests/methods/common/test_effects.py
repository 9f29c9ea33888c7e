"""What is said to have no effect has none: the same training, whatever the value."""

from typing import Any

import pytest
import torch
from on_ranks import on_ranks

from atoll.communication.communicator import Communicator
from atoll.methods.common.effects import TrainingShape
from atoll.platform.study import registry
from atoll.testing import problem
from atoll.testing.ranks import PAIR, SINGLE, TWO_NODES

NUM_EPOCHS, STEPS_PER_EPOCH = 3, 4
# Method, hyperparameters, other values of those without effect, values with which they have one.
ON_ONE_RANK = [
    ("ddp", {}, {"wire": "bfloat16", "overlap": False, "bucket_mib": 1e-5}, None),
    ("local_sgd", {"H": 2}, {"H": 3, "warmup": 0.5}, None),
]
ON_ONE_NODE = [
    (
        "daso",
        # not adaptive, as each rank of this loop would follow its own loss
        {"B": 2, "S": 1, "warmup_epochs": 0, "cooldown_epochs": 0, "adaptive": False},
        {"B": 3, "S": 0, "warmup_epochs": 1, "cooldown_epochs": 1, "wire": "float32", "blocking_wire": "float16"},
        None,
    ),
    ("local_sgd", {"H": 2, "warmup": 1.0}, {"H": 5}, {"warmup": 0.25}),
    ("local_sgd", {"H": 12}, {"H": 40}, {"H": 2}),
    ("slowmo", {"H": 13}, {"H": 40, "slow_rate": 0.5, "slow_momentum": 0.1, "buffers": "reset"}, {"H": 12}),
    ("sgp", {}, {"graph": "ring"}, None),
    ("diloco", {"H": 13}, {"H": 40, "outer_learning_rate": 0.5, "outer_momentum": 0.5}, {"H": 12}),
    (
        "powersgd",
        {"rank": 1, "warmup": 1.0},
        {"rank": 2, "min_compression_rate": 9.0, "error_feedback": False},
        {"warmup": 0.25},
    ),
    ("easgd", {"tau": 12, "form": "jacobi"}, {"tau": 50, "beta": 0.2, "alpha": 0.7}, {"tau": 2}),
    ("easgd", {"tau": 2, "form": "jacobi", "stale_replicas": False}, {"stale_replicas": True}, None),
    ("easgd", {"tau": 2, "form": "gauss_seidel", "server": "dedicated"}, {"server": "shared"}, None),
    ("admm_consensus", {"form": "round_robin", "server": "dedicated"}, {"server": "shared"}, None),
    ("oialr", {"delay": 1.1}, {"update_period": 0.5, "beta": 0.9, "full_rank_last": False}, {"delay": 0.5}),
    ("oialr", {"delay": 1.0, "update_period": 0.5}, {"alpha": 0.9, "beta": 0.9}, {"delay": 0.25}),
    ("ab", {"warmup": 1.0, "group_size": 1}, {"group_steps": 0.5, "cutoff": 0.5}, {"warmup": 0.0}),
    ("ab", {"warmup": 1.0, "group_size": 1}, {"cutoff": 0.5}, {"low_rank_result": True}),
    ("ab", {"warmup": 0.1, "group_steps": 0.3, "group_size": 1}, {"group_size": 4}, None),
    ("ab", {"warmup": 0.1, "group_steps": 0.3, "merge": "only_b"}, {"group_size": 1}, None),
]
ON_TWO_NODES = [
    (
        "daso",
        {"B": 2, "S": 1, "warmup_epochs": 2, "cooldown_epochs": 1},
        {"B": 3, "S": 0, "adaptive": False, "plateau_patience": 0, "wire": "float16"},
        {"warmup_epochs": 0, "cooldown_epochs": 0},
    ),
    (
        "daso",
        {"B": 2, "adaptive": False, "warmup_epochs": 0, "cooldown_epochs": 0},
        {"plateau_threshold": 0.9, "plateau_patience": 0},
        None,
    ),
]


def idle(c: Communicator, name: str, hyperparameters: dict[str, Any]) -> set[str]:
    """The names that the method tells for this training."""
    shape = TrainingShape(
        num_ranks=c.size,
        num_nodes=len(set(c.nodes)),
        num_epochs=NUM_EPOCHS,
        steps_per_epoch=STEPS_PER_EPOCH,
    )
    method = registry.method(name)
    return set(method.without_effect(method.Hyperparameters(**hyperparameters), shape))


def trained(c: Communicator, name: str, hyperparameters: dict[str, Any]) -> torch.Tensor:
    method, _ = problem.make(
        registry.method(name),
        c,
        hyperparameters=hyperparameters,
        model=problem.make_deep_model(),
        num_epochs=NUM_EPOCHS,
        steps_per_epoch=STEPS_PER_EPOCH,
    )
    steps = list(problem.batches(c, NUM_EPOCHS * STEPS_PER_EPOCH))
    problem.train(method, steps, steps_per_epoch=STEPS_PER_EPOCH)
    return problem.vector(method.finalize())


def check(c: Communicator, name: str, given: dict, others: dict, acting: dict | None) -> None:
    told = idle(c, name, given)
    assert told
    assert set(others) <= told
    expected = trained(c, name, given)
    for one, value in others.items():
        # DASO's own constraint is S <= B
        changed = given | {one: value} | ({"S": 0} if one == "B" and "S" in others else {})
        assert torch.equal(trained(c, name, changed), expected), one
    if acting is not None:
        assert not set(others) & idle(c, name, given | acting)


@on_ranks(SINGLE)
@pytest.mark.parametrize(("name", "given", "others", "acting"), ON_ONE_RANK)
def test_one_rank(c: Communicator, name: str, given: dict, others: dict, acting: dict | None) -> None:
    check(c, name, given, others, acting)


@on_ranks(PAIR)
@pytest.mark.parametrize(("name", "given", "others", "acting"), ON_ONE_NODE)
def test_two_ranks_on_a_node(c: Communicator, name: str, given: dict, others: dict, acting: dict | None) -> None:
    check(c, name, given, others, acting)


@on_ranks(TWO_NODES)
@pytest.mark.parametrize(("name", "given", "others", "acting"), ON_TWO_NODES)
def test_two_nodes(c: Communicator, name: str, given: dict, others: dict, acting: dict | None) -> None:
    check(c, name, given, others, acting)


@on_ranks(TWO_NODES)
def test_what_acts_is_not_told(c: Communicator) -> None:
    assert idle(c, "daso", {"B": 2, "warmup_epochs": 1, "cooldown_epochs": 1}) == set()
    assert idle(c, "ddp", {}) == set()
    assert idle(c, "oialr", {"delay": 0.5, "update_period": 0.25}) == set()
