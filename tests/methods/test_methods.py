"""The methods' contract and identities, over virtual ranks and over MPI."""

import pytest
import ranks
import torch

from atoll.methods.communicator_threads import run_virtual_ranks
from atoll.methods.daso import Daso, DasoHyperparameters, halve, merge
from atoll.methods.method import NotApplicable

CONTRACTS = ("method_contract", "easgd_contract")
CASES = [
    pytest.param(contract, name, layout, id=ranks.case_id(name, layout))
    for contract in CONTRACTS
    for name, layout in ranks.collect(contract)
]


@pytest.mark.parametrize(("contract", "name", "layout"), CASES)
def test_virtual_ranks(contract, name, layout):
    ranks.run_on_threads(contract, name, layout)


@pytest.fixture(scope="module")
def over_mpi():
    return {(contract, size): ranks.run_on_mpi(contract, size) for contract in CONTRACTS for size in (1, 2, 4)}


@pytest.mark.mpi
@pytest.mark.parametrize(("contract", "name", "layout"), CASES)
def test_mpi(contract, name, layout, over_mpi):
    error = over_mpi[contract, len(layout)].get(ranks.case_id(name, layout), "did not run: an earlier check failed")
    assert error is None, error


@pytest.mark.mpi
def test_the_center_is_served_over_tcp_too():
    errors = ranks.run_on_mpi("easgd_contract", 2, env=ranks.TCP)
    assert errors
    assert not any(errors.values()), errors


def test_merge_is_equation_3_2():
    local, total = torch.tensor([1.0, 2.0]), torch.tensor([10.0, 20.0])
    merge(local, total, num_steps=3, num_nodes=4)
    # (2*3*x + total) / (2*3 + 4)
    assert local.tolist() == pytest.approx([1.6, 3.2], rel=1e-6)


def test_halving_stops_at_one_then_starts_again():
    assert halve(8, 4, (8, 4)) == (4, 2)
    assert halve(4, 2, (8, 4)) == (2, 1)
    assert halve(2, 1, (8, 4)) == (1, 1)
    assert halve(1, 1, (8, 4)) == (8, 4)
    assert halve(8, 0, (8, 0)) == (4, 0)


def test_daso_follows_plateaus_of_the_loss_while_cycling():
    import problem

    def trace(communicator):
        made, _ = problem.make(
            Daso,
            communicator,
            hyperparameters={"B": 8, "S": 4, "warmup_epochs": 2, "cooldown_epochs": 0, "plateau_patience": 1},
            num_epochs=20,
        )
        seen = []
        for loss in [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5]:
            made.epoch_end(loss)
            seen.append((made._B, made._S))
        return seen

    # Two warm-up epochs do not count; the first cycling epoch sets the best loss; then every second bad one halves.
    expected = [(8, 4)] * 4 + [(4, 2)] * 2 + [(2, 1)] * 3 + [(1, 1)]
    assert run_virtual_ranks(trace, (0, 1)) == [expected] * 2


def test_daso_refuses_nodes_of_different_size():
    import problem

    with pytest.raises(NotApplicable, match=r"as many ranks on each node; the worker's nodes have \[1, 2\]"):
        run_virtual_ranks(lambda c: problem.make(Daso, c), (0, 0, 1))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"B": 0}, "B must be at least 1; got 0"),
        ({"B": 2, "S": 3}, r"S must be in 0..B \(B is 2\); got 3"),
        ({"wire": "int8"}, "wire must be one of float32, float16, bfloat16; got 'int8'"),
        ({"cooldown_epochs": -1}, "cooldown_epochs must be at least 0; got -1"),
    ],
)
def test_wrong_hyperparameters_say_the_rule(wrong, message):
    with pytest.raises(ValueError, match=message):
        DasoHyperparameters(**wrong)
