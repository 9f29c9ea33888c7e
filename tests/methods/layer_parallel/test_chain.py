"""Groups of a network's layers on ranks."""

import pytest
import torch
from on_ranks import on_ranks

from atoll.communication.communicator import Communicator
from atoll.methods.layer_parallel.chain import place
from atoll.methods.method import Batch
from atoll.platform.study import registry
from atoll.testing import problem
from atoll.testing.ranks import PAIR


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


GIVEN = {
    "mac": {"w_iterations": 1, "w_iterations_last": 1, "grouping": "even"},
    "admm_dual": {},
    "dni": {"conditioned": True, "start": "random"},
}


@on_ranks(PAIR)
@pytest.mark.parametrize("method", ["mac", "admm_dual", "dni"])
@pytest.mark.parametrize(
    ("workload", "shape", "labels"),
    [
        ("digits_cnn", (1, 8, 8), ()),
        ("cifar10_cnn7", (3, 28, 28), ()),
        ("speech_mlp", (40,), ()),
        ("speech_transformer", (12, 40), (12,)),
    ],
    ids=["digits_cnn", "cifar10_cnn7", "speech_mlp", "speech_transformer"],
)
def test_every_chain_trains_by_every_layer_parallel_method(
    c: Communicator, workload: str, shape: tuple, labels: tuple, method: str
) -> None:
    """A step on two ranks with noise, which changes every group."""
    workload = registry.workload(workload)
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(8, *shape, generator=generator)
    targets = torch.randint(10, (8, *labels), generator=generator)
    batch = Batch(indices=torch.arange(8), inputs=inputs, targets=targets)
    model = problem.seeded(workload.model(), scale=0.05)
    instance, _ = problem.make(
        registry.method(method), c, hyperparameters=GIVEN[method], model=model, loss=workload.loss, inputs=inputs
    )
    before = problem.vector(instance.evaluation_model())
    losses = [float(next(instance.epoch(iter([batch])))) for _ in range(2)]
    instance.epoch_end(0.0)
    change = (problem.vector(instance.finalize()) - before).abs()
    assert all(0 <= loss < 100 for loss in losses)
    assert float(change[:20].max()) > 0
    assert float(change[-20:].max()) > 0
