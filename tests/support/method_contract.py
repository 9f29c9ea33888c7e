"""What every method must do, and the identities of methods.md, as checks over any communicator."""

from __future__ import annotations

import copy
import importlib

import problem
import pytest
import torch
from ranks import on_layouts

from atoll.communication.communicator import Communicator
from atoll.communication.ledger import Ledger
from atoll.methods import METHODS
from atoll.methods.data_parallel.daso import Daso
from atoll.methods.data_parallel.ddp import Ddp
from atoll.methods.data_parallel.diloco import Diloco
from atoll.methods.data_parallel.local_sgd import LocalSgd
from atoll.methods.data_parallel.powersgd import Powersgd
from atoll.platform.workloads.digits import DigitsMlp

SINGLE, PAIR, PLAYED_PAIR, TWO_BY_TWO = (0,), (0, 0), (0, 1), (0, 0, 1, 1)
FOUR_NODES = (0, 1, 2, 3)
# Sums of p float64 terms in another order, over 50 steps that amplify it little.
FLOAT64 = 1e-12

# For each method hyperparameters and optimizer settings that exercise its parts; defaults where it is not named.
EXERCISED = {
    "ab": ({"warmup": 0.1, "group_steps": 0.08, "group_size": 1, "cutoff": 0.3}, {"learning_rate": 0.02}),
    "adownpour": ({"tau": 2}, {"learning_rate": 0.2}),
    "admm_consensus": ({"rho": 0.5}, {"learning_rate": 0.3}),
    "admm_dual": ({"net1_lr": 0.005}, {"optimizer": "adamw", "learning_rate": 0.06}),
    "asgd": ({}, {"learning_rate": 0.3}),
    "daso": ({"B": 3, "S": 2, "warmup_epochs": 1, "cooldown_epochs": 1, "wire": "float32"}, {}),
    "ddp": ({"bucket_mib": 2**-11}, {}),
    "diloco": ({"H": 3}, {"learning_rate": 0.05, "momentum": 0.0}),
    "dni": ({"synthesizer_lr": 0.01, "conditioned": True}, {"learning_rate": 0.01}),
    "downpour": ({"tau": 2}, {"learning_rate": 0.2}),
    "eamsgd": ({"tau": 3}, {"learning_rate": 0.05, "momentum": 0.9}),
    "easgd": ({"tau": 3}, {"learning_rate": 0.3}),
    "easgd_tree": ({"degree": 2, "tau_slow": 3}, {"learning_rate": 0.05, "momentum": 0.9}),
    "local_sgd": ({"H": 3}, {}),
    "mac": (
        {"w_iterations": 3, "w_iterations_last": 3, "w_lr": 2e-2, "z_lr": 0.1, "z_iterations": 3},
        {"learning_rate": 1e-2},
    ),
    "mdownpour": ({}, {"learning_rate": 0.02, "momentum": 0.9}),
    "msgd": ({}, {"learning_rate": 0.05, "momentum": 0.9}),
    "mvadownpour": ({"tau": 2, "moving_rate": 0.1}, {"learning_rate": 0.2}),
    "mvasgd": ({"moving_rate": 0.1}, {"learning_rate": 0.3}),
    "oialr": ({"delay": 0.1, "update_period": 0.05, "beta": 0.3, "alpha": 0.5}, {"learning_rate": 0.05}),
    "powersgd": ({"rank": 2, "warmup_steps": 2}, {}),
    "sgd": ({}, {"learning_rate": 0.3}),
}
# They leave a network's first and last weights in full rank.
LOW_RANK = ("ab", "oialr")
CYCLING = {"warmup_epochs": 0, "cooldown_epochs": 0, "wire": "float32", "adaptive": False}
# Forms of the asynchronous methods in which ranks do wait for one another.
IN_STEP = [
    ("easgd", {"form": "jacobi"}),
    ("eamsgd", {"form": "gauss_seidel"}),
    ("admm_consensus", {"form": "round_robin"}),
    ("dni", {"mode": "gradient_loss"}),
    ("admm_dual", {"duals": True, "rho": 0.1, "rho_factor": 2.0}),
    ("mac", {"variant": "one_term"}),
]


def _methods(size: int) -> dict[str, type]:
    """The methods that can use `size` ranks."""
    found = {}
    for name, location in METHODS.items():
        module, _, attribute = location.partition(":")
        method = getattr(importlib.import_module(module), attribute)
        if method.min_ranks <= size <= (method.max_ranks or size):
            found[name] = method
    return found


def _exercised(name: str, c: Communicator, **changes) -> tuple:
    """A method as EXERCISED says, and its model; `changes` are further arguments of problem.make."""
    hyperparameters, settings = EXERCISED.get(name, ({}, {}))
    hyperparameters = hyperparameters | changes.pop("hyperparameters", {})
    settings = settings | changes.pop("settings", {})
    make_model = problem.make_deep_model if name in LOW_RANK else problem.make_model
    changes.setdefault("model", make_model(seed=changes.pop("seed", 0)))
    return problem.make(_methods(c.size)[name], c, hyperparameters=hyperparameters, settings=settings, **changes)


# The contract of every method.


@on_layouts(SINGLE, PAIR, PLAYED_PAIR, TWO_BY_TWO)
def check_lowers_the_loss_and_replicas_agree(c: Communicator) -> None:
    for name in _methods(c.size):
        made, _ = _exercised(name, c, num_epochs=5)
        losses = torch.tensor(problem.train(made, list(problem.batches(c, 50, method=made)), meet=c.barrier))
        c.mean(losses)
        # The dual nets spend half of their step on agreeing.
        share = 0.7 if name == "admm_dual" else 0.6
        assert losses[-10:].sum() < share * losses[:10].sum(), name
        mine = problem.vector(made.finalize())
        theirs = mine.clone()
        c.broadcast(theirs)
        assert torch.equal(mine, theirs), name


@on_layouts(SINGLE)
def check_one_rank_equals_its_serial_reference(c: Communicator) -> None:
    steps = list(problem.batches(c, 30))
    model = problem.make_model()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9, weight_decay=1e-3)
    for batch in steps:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(batch.inputs), batch.targets).backward()
        optimizer.step()
    # Those that one rank makes SGD with the optimizer's own momentum; DASO mixes with its own past unless S is 0, and
    # PowerSGD compresses unless its rank is high. The others have their references in test_theory.py.
    hyperparameters = {
        "daso": {"B": 2, "S": 0, "wire": "float32"},
        "ddp": {},
        "diloco": {"H": 3, "outer_learning_rate": 1.0, "outer_momentum": 0.0},
        "local_sgd": {},
        "powersgd": {"rank": 64},
    }
    for name, given in hyperparameters.items():
        made, _ = problem.make(_methods(1)[name], c, hyperparameters=given)
        problem.train(made, steps)
        assert problem.close(problem.vector(made.finalize()), problem.vector(model), FLOAT64), name


def _in_step(size: int) -> list[tuple[str, dict]]:
    """Methods and forms whose ranks do not race, so that the same seed gives the same numbers."""
    methods = _methods(size)
    return [(name, {}) for name in methods if size == 1 or not methods[name].asynchronous] + IN_STEP


@on_layouts(SINGLE, PAIR, TWO_BY_TWO)
def check_continues_from_saved_state_bit_for_bit(c: Communicator) -> None:
    for name, form in _in_step(c.size):
        made, _ = _exercised(name, c, hyperparameters=form, num_epochs=4, model=problem.make_normed_model())
        steps = list(problem.batches(c, 40, method=made))
        problem.train(made, steps[:20])
        state = made.state_dict()
        kept = copy.deepcopy(state)
        problem.train(made, steps[20:])
        torch.testing.assert_close(state, kept, rtol=0, atol=0, msg=f"{name}: training changed a saved state")
        again, _ = _exercised(name, c, hyperparameters=form, num_epochs=4, model=problem.make_normed_model(seed=5))
        again.load_state_dict(state)
        problem.train(again, steps[20:])
        torch.testing.assert_close(state, kept, rtol=0, atol=0, msg=f"{name}: training changed a loaded state")
        assert torch.equal(problem.everything(made.finalize()), problem.everything(again.finalize())), name


@on_layouts(PAIR, TWO_BY_TWO)
def check_state_round_trips(c: Communicator) -> None:
    """Of every method: what is saved, loaded and saved again is the same, and so is the model it evaluates."""
    for name in _methods(c.size):
        made, _ = _exercised(name, c)
        problem.train(made, list(problem.batches(c, 20, method=made)), meet=c.barrier)
        state = copy.deepcopy(made.state_dict())
        again, _ = _exercised(name, c, seed=5)
        again.load_state_dict(state)
        torch.testing.assert_close(again.state_dict(), state, rtol=0, atol=0, equal_nan=True, msg=name)
        shown = [problem.vector(method.evaluation_model()) for method in (made, again)]
        assert torch.equal(*shown), name


@on_layouts(PLAYED_PAIR, TWO_BY_TWO)
def check_a_nan_reaches_every_rank(c: Communicator) -> None:
    """A rank that sees NaN must not leave the others waiting, and the trial's summed loss shows it everywhere.

    The ranks keep pace: NaN climbs the tree only as long as the ranks above still take steps.
    """
    for name in _methods(c.size):
        made, _ = _exercised(name, c, num_epochs=3)
        steps = list(problem.batches(c, 30, method=made))
        if c.rank == c.size - 1 or made.layer_parallel:
            steps[5] = type(steps[5])(
                indices=steps[5].indices, inputs=steps[5].inputs * float("nan"), targets=steps[5].targets
            )
        problem.train(made, steps, pace=c.barrier)
        assert torch.isnan(problem.vector(made.finalize())).any(), name


@on_layouts(PAIR, TWO_BY_TWO)
def check_evaluation_is_no_traffic_and_does_not_disturb(c: Communicator) -> None:
    """Whoever asks how training goes changes neither the training nor what it is said to have sent."""
    for name, form in _in_step(c.size):
        results = []
        for evaluates in (False, True):
            made, model = _exercised(name, c, hyperparameters=form, model=problem.make_normed_model())
            before = c.ledger.wire_bytes()
            for epoch in range(2):
                problem.train(made, list(problem.batches(c, 10, method=made)))
                if evaluates:
                    shown = made.evaluation_model()
                    expected = int(model[1].num_batches_tracked)
                    num_passes = 3 if name == "mac" else 1
                    assert int(shown[1].num_batches_tracked) == expected == num_passes * 10 * (epoch + 1), name
            trained = made.finalize()
            results.append((problem.vector(trained), problem.everything(trained), c.ledger.wire_bytes() - before))
        assert torch.equal(results[0][0], results[1][0]), name
        # Means over ranks of what the statistics were in between add up to the same, in another order.
        assert problem.close(results[1][1], results[0][1], FLOAT64), name
        assert results[0][2] == results[1][2], name


# Data-parallel SGD.


@on_layouts(PAIR, TWO_BY_TWO)
def check_ddp_of_p_ranks_equals_one_rank_with_the_whole_batch(c: Communicator) -> None:
    for settings in ({}, {"optimizer": "adamw", "learning_rate": 0.01}):
        made, model = problem.make(Ddp, c, settings=settings)
        problem.train(made, list(problem.batches(c, 30, batch_size=8)))
        alone = c.split(c.rank)
        serial, reference = problem.make(Ddp, alone, settings=settings)
        problem.train(serial, list(problem.batches(alone, 30, batch_size=8 * c.size)))
        # AdamW divides by the root of a second moment of 1e-8 and less: rounding is amplified.
        assert problem.close(problem.vector(model), problem.vector(reference), 1e-12 if not settings else 1e-9)


@on_layouts(PAIR, TWO_BY_TWO)
def check_ddp_bytes(c: Communicator) -> None:
    for wire, width in (("float32", 4), ("bfloat16", 2)):
        made, model = problem.make(Ddp, c, hyperparameters={"wire": wire}, model=problem.make_model(torch.float32))
        before = c.ledger.wire_bytes()
        problem.train(made, list(problem.batches(c, 20, dtype=torch.float32)))
        expected = 20 * 2 * (c.size - 1) / c.size * width * problem.vector(model).numel()
        assert c.ledger.wire_bytes() - before == pytest.approx(expected, rel=1e-12)


@on_layouts(PAIR, TWO_BY_TWO)
def check_overlapped_ddp_equals_classic(c: Communicator) -> None:
    """In one bucket, in one for each parameter, and with a parameter that has no part in the loss."""
    steps = list(problem.batches(c, 30))
    for unused in (False, True):
        expected = None
        for hyperparameters in ({"overlap": False}, {"bucket_mib": 1.0}, {"bucket_mib": 2**-20}):
            model = problem.make_model()
            if unused:
                model.register_parameter("idle", torch.nn.Parameter(torch.ones(3, dtype=torch.float64)))
            made, _ = problem.make(Ddp, c, hyperparameters=hyperparameters, model=model)
            problem.train(made, steps)
            got = problem.vector(made.finalize())
            expected = got if expected is None else expected
            assert problem.close(got, expected, FLOAT64), hyperparameters


@on_layouts(PLAYED_PAIR)
def check_ddp_averages_running_statistics(c: Communicator) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(64, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 10)).double()
    for parameter in model.parameters():
        c.broadcast(parameter.data)
    made, _ = problem.make(Ddp, c, model=model)
    problem.train(made, list(problem.batches(c, 5)))
    own = model[1].running_mean.clone()
    expected = own.clone()
    c.mean(expected)
    made.evaluation_model()
    assert torch.equal(model[1].running_mean, expected)
    assert not torch.equal(own, expected)


@on_layouts(PAIR, PLAYED_PAIR, TWO_BY_TWO)
def check_finalize_averages_running_statistics(c: Communicator) -> None:
    """The mean over all replicas, whatever the method; at learning rate 0 every method sees the same statistics."""
    for name in (name for name, method in _methods(c.size).items() if not method.layer_parallel):
        hyperparameters = {"daso": {"B": 100, "S": 0, **CYCLING}, "local_sgd": {"H": 100}, "diloco": {"H": 100}}
        model = torch.nn.Sequential(torch.nn.Linear(64, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 10)).double()
        for parameter in model.parameters():
            c.broadcast(parameter.data)
        settings = {"learning_rate": 1e-300, "momentum": 0.0, "weight_decay": 0.0}
        made, _ = _exercised(name, c, model=model, hyperparameters=hyperparameters.get(name, {}), settings=settings)
        problem.train(made, list(problem.batches(c, 5)))
        expected = model[1].running_mean.clone()
        c.mean(expected)
        # a few additions in another order
        assert problem.close(made.finalize()[1].running_mean, expected, 1e-15), name


# Local SGD.


@on_layouts(PAIR, TWO_BY_TWO)
def check_local_sgd_with_one_local_step_equals_ddp(c: Communicator) -> None:
    for settings in ({"momentum": 0.0}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}):
        steps = list(problem.batches(c, problem.NUM_STEPS))
        local, a = problem.make(LocalSgd, c, hyperparameters={"H": 1}, settings=settings)
        ddp, b = problem.make(Ddp, c, settings=settings)
        problem.train(local, steps)
        problem.train(ddp, steps)
        assert problem.close(problem.vector(a), problem.vector(b), FLOAT64), settings


@on_layouts(PAIR, TWO_BY_TWO)
def check_local_sgd_bytes_fall_with_H(c: Communicator) -> None:
    num_parameters = problem.vector(problem.make_model()).numel()
    for period in (1, 2, 5):
        before = c.ledger.wire_bytes()
        made, _ = problem.make(LocalSgd, c, hyperparameters={"H": period})
        problem.train(made, list(problem.batches(c, 20)))
        expected = 20 / period * 2 * (c.size - 1) / c.size * 8 * num_parameters
        assert c.ledger.wire_bytes() - before == pytest.approx(expected, rel=1e-12)


@on_layouts(PAIR)
def check_post_local_sgd_starts_as_ddp(c: Communicator) -> None:
    steps = list(problem.batches(c, 20))
    local, a = problem.make(LocalSgd, c, hyperparameters={"H": 100, "warmup_steps": 20})
    ddp, b = problem.make(Ddp, c)
    problem.train(local, steps)
    problem.train(ddp, steps)
    assert torch.equal(problem.vector(a), problem.vector(b))
    local.step(next(problem.batches(c, 1)))
    mine, theirs = problem.vector(a), problem.vector(a)
    c.broadcast(theirs)
    assert c.rank == 0 or not torch.equal(mine, theirs)


# DiLoCo.


@on_layouts(PAIR, TWO_BY_TWO)
def check_diloco_with_outer_rate_1_and_momentum_0_equals_local_sgd(c: Communicator) -> None:
    steps = list(problem.batches(c, 32))  # with a rest: 32 is no multiple of 5
    outer = {"H": 5, "outer_learning_rate": 1.0, "outer_momentum": 0.0}
    for settings in ({}, {"optimizer": "adamw", "learning_rate": 0.01}):
        diloco, _ = problem.make(Diloco, c, hyperparameters=outer, settings=settings)
        local, _ = problem.make(LocalSgd, c, hyperparameters={"H": 5}, settings=settings)
        before = c.ledger.wire_bytes()
        problem.train(local, steps)
        sent = c.ledger.wire_bytes() - before
        problem.train(diloco, steps)
        assert c.ledger.wire_bytes() - before == 2 * sent
        # AdamW divides by the root of a second moment of 1e-8 and less: rounding is amplified.
        tolerance = 1e-9 if settings else FLOAT64
        assert problem.close(problem.vector(diloco.finalize()), problem.vector(local.finalize()), tolerance)


# PowerSGD.


@on_layouts(PAIR, TWO_BY_TWO)
def check_powersgd_is_exact_for_gradients_of_low_rank(c: Communicator) -> None:
    """One sample a rank: a linear layer's mean gradient has rank p, and a product of rank p holds it.

    Without error feedback: the ranks' errors add up to 0 here, and what rounding leaves of their sum would grow.
    """
    steps = list(problem.batches(c, 30, batch_size=1))
    compressed, _ = problem.make(Powersgd, c, hyperparameters={"rank": c.size, "error_feedback": False})
    ddp, _ = problem.make(Ddp, c)
    before = c.ledger.wire_bytes()
    problem.train(compressed, steps)
    # (16, 64) + (10, 16) as thin products, two biases whole, in float64
    rank = c.size
    thin = rank * (16 + 64) + (rank * (10 + 16) if rank * (10 + 16) < 160 else 160) + 26
    assert c.ledger.wire_bytes() - before == pytest.approx(30 * 2 * (c.size - 1) / c.size * 8 * thin, rel=1e-12)
    problem.train(ddp, steps)
    assert problem.close(problem.vector(compressed.finalize()), problem.vector(ddp.finalize()), FLOAT64)


@on_layouts(SINGLE, PAIR, TWO_BY_TWO)
def check_powersgd_loses_nothing_but_the_last_error(c: Communicator) -> None:
    """With SGD the steps add up to the mean gradients less the mean error: what one step lacks the next brings."""
    settings = {"momentum": 0.0, "weight_decay": 0.0, "learning_rate": 0.1}
    made, model = problem.make(Powersgd, c, hyperparameters={"rank": 1}, settings=settings)
    start, total = problem.vector(model), torch.zeros_like(problem.vector(model))
    for batch in problem.batches(c, 30):
        loss = torch.nn.functional.cross_entropy(model(batch.inputs), batch.targets)
        total += torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(model.parameters()))])
        made.step(batch)
    errors = made.state_dict()["errors"]
    (first, second), hidden = errors, torch.zeros(16, dtype=torch.float64)
    error = torch.cat([first.reshape(-1), hidden, second.reshape(-1), torch.zeros(10, dtype=torch.float64)])
    c.mean(total)
    c.mean(error)
    assert float(error.abs().max()) > 1e-3
    assert problem.close(problem.vector(model) - start, 0.1 * (error - total), FLOAT64)


# DASO.


@on_layouts(TWO_BY_TWO, FOUR_NODES)
def check_daso_without_delay_equals_ddp(c: Communicator) -> None:
    for settings in ({"momentum": 0.0, "weight_decay": 0.0}, {"momentum": 0.9, "weight_decay": 1e-3}):
        steps = list(problem.batches(c, problem.NUM_STEPS))
        # The wire must not narrow float64, so it keeps the parameters' own dtype.
        daso, a = problem.make(Daso, c, hyperparameters={"B": 1, "S": 0, **CYCLING}, settings=settings)
        ddp, b = problem.make(Ddp, c, settings=settings)
        problem.train(daso, steps)
        problem.train(ddp, steps)
        assert problem.close(problem.vector(daso.finalize()), problem.vector(b), FLOAT64), settings
        assert torch.equal(problem.vector(a), problem.vector(daso.finalize()))


@on_layouts(TWO_BY_TWO)
def check_daso_without_delay_equals_ddp_on_digits_mlp_in_float32(c: Communicator) -> None:
    steps = list(problem.batches(c, problem.NUM_STEPS, dtype=torch.float32))
    model = problem.seeded(DigitsMlp().model())
    settings = {"learning_rate": 0.05, "momentum": 0.9}
    daso, a = problem.make(
        Daso, c, hyperparameters={"B": 1, "S": 0, **CYCLING}, settings=settings, model=copy.deepcopy(model)
    )
    ddp, b = problem.make(Ddp, c, settings=settings, model=copy.deepcopy(model))
    problem.train(daso, steps)
    problem.train(ddp, steps)
    assert problem.close(problem.vector(a), problem.vector(b), 1e-6)


def _reference_daso(c: Communicator, start: float, num_steps: int, period: int, wait: int) -> list[float]:
    """One parameter of node P's replicas with learning rate 0 by equation 3.2, written out for all nodes at once."""
    nodes = sorted(set(c.nodes))
    x = {node: start * (node + 1) for node in nodes}
    history, sent_at, total = [], None, 0.0
    last_send = 0
    for step in range(1, num_steps + 1):
        if sent_at is not None and step == sent_at + wait:
            x = {node: (2 * wait * x[node] + total) / (2 * wait + len(nodes)) for node in nodes}
            sent_at = None
        if step == last_send + period:
            total, sent_at, last_send = sum(x.values()), step, step
            if wait == 0:
                x = dict.fromkeys(nodes, total / len(nodes))
                sent_at = None
        history.append(x[c.nodes[c.rank]])
    return history


@on_layouts(PLAYED_PAIR, TWO_BY_TWO, FOUR_NODES)
def check_daso_merges_by_equation_3_2_after_S_steps(c: Communicator) -> None:
    """With learning rate 0 nothing but the merges moves the parameters."""
    for period, wait in ((1, 0), (1, 1), (3, 0), (3, 1), (3, 2), (3, 3), (5, 5)):
        made, model = problem.make(
            Daso,
            c,
            hyperparameters={"B": period, "S": wait, **CYCLING},
            settings={"learning_rate": 1e-300, "momentum": 0.0, "weight_decay": 0.0},
        )
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(float(c.nodes[c.rank] + 1))
        seen = []
        for batch in problem.batches(c, 20):
            made.step(batch)
            seen.append(float(problem.vector(model)[0]))
        made.finalize()
        # A handful of float64 operations per merge, up to 20 merges.
        assert seen == pytest.approx(_reference_daso(c, 1.0, 20, period, wait), rel=1e-14), (period, wait)


@on_layouts(TWO_BY_TWO)
def check_equal_weights_are_a_fixed_point_of_daso(c: Communicator) -> None:
    made, model = problem.make(
        Daso,
        c,
        hyperparameters={"B": 2, "S": 1, **CYCLING},
        settings={"learning_rate": 1e-300, "momentum": 0.0, "weight_decay": 0.0},
    )
    before = problem.vector(model)
    problem.train(made, list(problem.batches(c, 20)))
    # (2S x + P x)/(2S + P) rounds a few times per merge, 10 merges.
    assert problem.close(problem.vector(made.finalize()), before, 20 * torch.finfo(torch.float64).eps)


@on_layouts(PLAYED_PAIR, TWO_BY_TWO, FOUR_NODES)
def check_daso_bytes_fall_by_the_closed_formula(c: Communicator) -> None:
    num_nodes, per_node = len(set(c.nodes)), c.size // len(set(c.nodes))
    num_parameters = problem.vector(problem.make_model()).numel()
    num_steps = 16
    for wire, width in (("float32", 4), ("bfloat16", 2)):
        for period in (1, 2, 4, 8):
            before = {scope: _everyones_bytes(c, scope) for scope in ("node", "global")}
            hyperparameters = CYCLING | {"B": period, "S": 0, "wire": wire}
            made, _ = problem.make(Daso, c, hyperparameters=hyperparameters, model=problem.make_model(torch.float32))
            problem.train(made, list(problem.batches(c, num_steps, dtype=torch.float32)))
            sent = {scope: (_everyones_bytes(c, scope) - before[scope]) / c.size / num_steps for scope in before}
            globally = 2 * (num_nodes - 1) / num_nodes * width * num_parameters / (period * per_node)
            gradients = 2 * (per_node - 1) / per_node * 4 * num_parameters
            broadcast = 4 * num_parameters * (per_node - 1) / (per_node * period)
            assert sent["global"] == pytest.approx(globally, rel=1e-12), (wire, period)
            assert sent["node"] == pytest.approx(gradients + broadcast, rel=1e-12), (wire, period)


def _everyones_bytes(c: Communicator, scope: str) -> float:
    untracked = c.split(0, ledger=Ledger())
    total = torch.tensor([c.ledger.wire_bytes(scope)], dtype=torch.float64)
    untracked.sum(total)
    return float(total)


@on_layouts(TWO_BY_TWO)
def check_daso_groups_take_turns(c: Communicator) -> None:
    made, _ = problem.make(Daso, c, hyperparameters={"B": 1, "S": 0, **CYCLING})
    for number, batch in enumerate(problem.batches(c, 4)):
        before = c.ledger.wire_bytes("global")
        made.step(batch)
        assert (c.ledger.wire_bytes("global") > before) == (c.rank % 2 == number % 2)


@on_layouts(PLAYED_PAIR)
def check_daso_synchronises_every_batch_in_warmup_and_cooldown(c: Communicator) -> None:
    made, model = problem.make(
        Daso,
        c,
        hyperparameters={"B": 4, "S": 2, "warmup_epochs": 1, "cooldown_epochs": 1, "wire": "float32"},
        num_epochs=3,
        steps_per_epoch=10,
    )
    agree = []
    for number, batch in enumerate(problem.batches(c, 30), 1):
        made.step(batch)
        mean = problem.vector(model)
        c.mean(mean)
        differ = torch.tensor([float((mean - problem.vector(model)).abs().max())], dtype=torch.float64)
        c.sum(differ)
        # The mean of two equal float64 numbers is exact.
        agree.append(float(differ) == 0.0)
        if number % 10 == 0:
            made.epoch_end(1.0 / number)
    assert agree == [True] * 10 + [False] * 10 + [True] * 10
