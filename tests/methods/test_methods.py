"""The methods' contract and identities, over virtual ranks and over MPI."""

import gc
import itertools
import weakref

import pytest
import ranks
import torch

from atoll.communication.threads import run_virtual_ranks
from atoll.methods.common.buckets import Bucket, make_buckets
from atoll.methods.data_parallel.daso import Daso, DasoHyperparameters, halve, merge
from atoll.methods.data_parallel.diloco import outer_step
from atoll.methods.data_parallel.powersgd import Powersgd
from atoll.methods.method import NotApplicable
from atoll.methods.parameter_server.easgd_tree import EasgdTree, plant
from atoll.platform.study import registry
from atoll.platform.study.configuration import split_hyperparameters

CONTRACTS = ("method_contract", "easgd_contract", "low_rank_contract", "mac_contract", "admm_contract", "dni_contract")
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
    sizes = sorted({(contract, len(layout)) for contract in CONTRACTS for _, layout in ranks.collect(contract)})
    return {(contract, size): ranks.run_on_mpi(contract, size) for contract, size in sizes}


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


def test_buckets_are_filled_from_the_last_parameter_to_the_first():
    ends = [0, 10, 12, 40, 45]
    slices = [slice(a, b) for a, b in itertools.pairwise(ends)]
    assert make_buckets(slices, 8) == [Bucket(2, 3, slice(12, 45)), Bucket(0, 1, slice(0, 12))]
    assert make_buckets(slices, 1) == [Bucket(i, i, slices[i]) for i in (3, 2, 1, 0)]
    assert make_buckets(slices, 1000) == [Bucket(0, 3, slice(0, 45))]


@pytest.mark.parametrize(
    ("name", "hyperparameters"),
    [("ddp", {}), ("easgd", {}), ("downpour", {}), ("mdownpour", {}), ("oialr", {"full_rank_warmup": False})],
)
def test_a_trial_that_is_over_leaves_nothing_behind(name, hyperparameters):
    """Autograd's hooks are invisible to the garbage collector: one that holds its method keeps the model for ever."""
    import problem

    def work(c):
        method = registry.method(name)
        made, model = problem.make(method, c, hyperparameters=hyperparameters, settings={"learning_rate": 1e-3})
        problem.train(made, list(problem.batches(c, 2)))
        made.finalize()
        return weakref.ref(made), weakref.ref(model)

    ((made, model),) = run_virtual_ranks(work, (0,))
    gc.collect()
    assert made() is None
    assert model() is None


def test_the_outer_step_is_torchs_nesterov():
    start, velocity = torch.tensor([1.0, -2.0], dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    reference = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.SGD([reference], 0.7, 0.9, nesterov=True)
    for mean in torch.tensor([[0.5, -1.0], [0.25, 0.0], [1.0, 1.0]], dtype=torch.float64):
        reference.grad = reference.detach() - mean
        outer_step(start, mean, velocity, 0.7, 0.9)
        optimizer.step()
    assert start.tolist() == pytest.approx(reference.tolist(), rel=1e-15)


def test_powersgd_is_torchs_hook(tmp_path):
    """torch's communication hook on one gloo rank, against ours from its factor and error on, step by step."""
    import problem
    import torch.distributed as dist
    from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook as hook
    from torch.nn.parallel import DistributedDataParallel

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:

        def work(c):
            model = problem.seeded(torch.nn.Linear(64, 16, bias=False).double())
            mine = problem.seeded(torch.nn.Linear(64, 16, bias=False).double())
            wrapped = DistributedDataParallel(model)
            state = hook.PowerSGDState(None, matrix_approximation_rank=2, start_powerSGD_iter=2)
            wrapped.register_comm_hook(state, hook.powerSGD_hook)
            optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9, weight_decay=1e-3)
            made, _ = problem.make(Powersgd, c, hyperparameters={"rank": 2, "warmup_steps": 3}, model=mine)
            for number, batch in enumerate(problem.batches(c, 20)):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(wrapped(batch.inputs), batch.targets).backward()
                optimizer.step()
                if number < 3:  # two whole steps, and the one from which torch's factor comes
                    mine.weight.data.copy_(model.weight.data)
                    saved = made.state_dict() | {"num_steps": 3}
                    momentum = optimizer.state[model.weight]["momentum_buffer"]
                    saved["optimizer"]["state"] = {0: {"momentum_buffer": momentum.reshape(-1).clone()}}
                    if number == 2:
                        saved["factors"] = [state.q_memory_dict[0].view(64, 2)]
                        saved["errors"] = [state.error_dict[0].view(16, 64)]
                    made.load_state_dict(saved)
                else:
                    made.step(batch)
                    # a QR and two products a step, over 17 steps that amplify little
                    assert problem.close(problem.vector(mine), problem.vector(model), 1e-12), number

        run_virtual_ranks(work, (0,))
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize(
    ("method", "settings", "num_ranks", "message"),
    [
        ("sgd", {"momentum": 0.0}, 2, "sgd is sequential: it trains on 1 rank per worker; got 2"),
        ("asgd", {"momentum": 0.0}, 4, "asgd is sequential"),
        ("easgd_tree", {"momentum": 0.0}, 1, "easgd_tree needs at least 2 ranks per worker; got 1"),
        ("eamsgd", {"optimizer": "adamw"}, 2, "SGD's own update and momentum .* which adamw does not have"),
        ("mdownpour", {"optimizer": "adamw"}, 2, "which adamw does not have; optimizer must be sgd"),
        ("easgd", {"momentum": 0.5}, 2, "easgd has no momentum, its form with momentum is eamsgd; .* got 0.5"),
        ("downpour", {"momentum": 0.5}, 2, "its form with momentum is mdownpour"),
        ("msgd", {"momentum": 0.5, "nesterov": True}, 1, "nesterov must be false; got true"),
    ],
)
def test_what_a_method_cannot_do_is_refused_with_a_reason(method, settings, num_ranks, message):
    with pytest.raises(NotApplicable, match=message):
        split_hyperparameters(method, "digits_mlp", settings, num_ranks)


def test_the_tree_puts_every_node_on_the_rank_of_its_first_leaf():
    places = plant(5, 2, "multi_scale", 1, 10)
    assert [p.rank for p in places] == [0, 1, 2, 3, 4, 0, 2, 4, 0, 4, 0]
    assert [p.parent for p in places] == [5, 5, 6, 6, 7, 8, 8, 9, 10, 10, None]
    assert places[8].children == (5, 6)
    leaf, parent, inner, root = places[0], places[5], places[8], places[10]
    assert (leaf.tau_up, parent.tau_up, parent.tau_down) == (1, 10, 1)
    assert (inner.tau_up, inner.tau_down, root.tau_down) == (10, 10, 10)
    assert {(p.tau_up, p.tau_down) for p in plant(5, 2, "fast_up", 8, 80)} == {(8, 80)}
    # 16 parents of 16 leaves each on 256 ranks, as in the source
    assert [len(plant(256, 16, "fast_up", 1, 10)), len(plant(16, 16, "fast_up", 1, 10))] == [273, 17]


def test_the_tree_says_that_it_has_a_level_less():
    import problem

    notes = run_virtual_ranks(
        lambda c: [problem.make(EasgdTree, c, hyperparameters={"degree": d})[0].notes for d in (2, 4)], (0, 0, 0)
    )
    assert notes[0][0] == ()
    assert "the leaves' parent is the root, one level less than the source's tree" in notes[0][1][0]


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
