"""DASO (Coquelin 2024, chapter 3)."""

import copy

import pytest
import torch
from on_ranks import on_ranks

from atoll.communication.communicator import Communicator
from atoll.communication.threads import run_virtual_ranks, single_rank
from atoll.methods.data_parallel.daso import Daso, DasoHyperparameters, halve, merge
from atoll.methods.data_parallel.ddp import Ddp
from atoll.methods.method import NotApplicable
from atoll.platform.workloads.digits import DigitsMlp
from atoll.testing import CHECKS, Subject, problem
from atoll.testing.method_contract import FLOAT64
from atoll.testing.ranks import FOUR_NODES, SINGLE, TWO_BY_TWO, TWO_NODES

# The wire must not narrow float64, so it keeps the parameters' own dtype.
CYCLING = {"warmup_epochs": 0, "cooldown_epochs": 0, "wire": "float32", "adaptive": False}
STILL = {"learning_rate": problem.STILL, "momentum": 0.0, "weight_decay": 0.0}


# Identities.


@on_ranks(TWO_BY_TWO, FOUR_NODES)
@pytest.mark.parametrize("settings", [{"momentum": 0.0, "weight_decay": 0.0}, {}], ids=["plain", "momentum"])
def test_without_delay_it_equals_ddp(c: Communicator, settings: dict) -> None:
    steps = list(problem.batches(c, problem.NUM_STEPS))
    daso, a = problem.make(Daso, c, hyperparameters={"B": 1, "S": 0, **CYCLING}, settings=settings)
    ddp, b = problem.make(Ddp, c, settings=settings)
    problem.train(daso, steps)
    problem.train(ddp, steps)
    assert problem.close(problem.vector(daso.finalize()), problem.vector(b), FLOAT64)
    assert torch.equal(problem.vector(a), problem.vector(daso.finalize()))


@on_ranks(TWO_BY_TWO)
def test_without_delay_it_equals_ddp_on_digits_mlp_in_float32(c: Communicator) -> None:
    steps = list(problem.batches(c, problem.NUM_STEPS, dtype=torch.float32))
    model = problem.seeded(DigitsMlp().model())
    daso, a = problem.make(Daso, c, hyperparameters={"B": 1, "S": 0, **CYCLING}, model=copy.deepcopy(model))
    ddp, b = problem.make(Ddp, c, model=copy.deepcopy(model))
    problem.train(daso, steps)
    problem.train(ddp, steps)
    assert problem.close(problem.vector(a), problem.vector(b), 1e-6)


@on_ranks(TWO_NODES, TWO_BY_TWO)
def test_warm_up_and_cool_down_equal_ddp_by_default(c: Communicator) -> None:
    """Also at a rate whose updates bfloat16 would lose."""
    settings = {"momentum": 0.0, "learning_rate": 1e-4}
    ends = []
    for method, given in ((Daso, {"warmup_epochs": 1, "cooldown_epochs": 1}), (Ddp, {})):
        made, _ = problem.make(method, c, hyperparameters=given, settings=settings, num_epochs=2)
        problem.train(made, list(problem.batches(c, 20)))
        ends.append(problem.vector(made.finalize()))
    assert problem.close(*ends, FLOAT64)
    assert not problem.close(ends[0], problem.vector(problem.make_model()), 1e-5)


@on_ranks(TWO_NODES)
@pytest.mark.parametrize(("wire", "blocking"), [("bfloat16", "float32"), ("float32", "float16")])
def test_each_phase_has_its_communication_dtype(c: Communicator, wire: str, blocking: str) -> None:
    given = {"B": 1, "S": 0, "warmup_epochs": 1, "cooldown_epochs": 1, "wire": wire, "blocking_wire": blocking}
    model = problem.make_model(torch.float32)
    method, _ = problem.make(Daso, c, hyperparameters=given, num_epochs=3, model=model)
    sent = []
    for number, batch in enumerate(problem.batches(c, 30, dtype=torch.float32), 1):
        before = c.ledger.wire_bytes("global")
        method.step(batch)
        sent.append((c.ledger.wire_bytes("global") - before) / problem.vector(model).numel())
        if number % 10 == 0:
            method.epoch_end(1.0 / number)
    width = {"float32": 4.0, "float16": 2.0, "bfloat16": 2.0}
    assert sent == [width[blocking]] * 10 + [width[wire]] * 10 + [width[blocking]] * 10


@on_ranks(SINGLE)
def test_one_rank_without_delay_is_torchs_sgd(c: Communicator) -> None:
    steps = list(problem.batches(c, 30))
    method, _ = problem.make(Daso, c, hyperparameters={"B": 2, "S": 0, "wire": "float32"})
    problem.train(method, steps)
    assert problem.close(problem.vector(method.finalize()), problem.torch_sgd(steps), FLOAT64)


@on_ranks(TWO_BY_TWO)
def test_equal_weights_are_a_fixed_point(c: Communicator) -> None:
    method, model = problem.make(Daso, c, hyperparameters={"B": 2, "S": 1, **CYCLING}, settings=STILL)
    before = problem.vector(model)
    problem.train(method, list(problem.batches(c, 20)))
    # (2S x + P x)/(2S + P) rounds a few times per merge, 10 merges.
    assert problem.close(problem.vector(method.finalize()), before, 20 * torch.finfo(torch.float64).eps)


# Checkpoints.


@on_ranks(TWO_BY_TWO, FOUR_NODES)
@pytest.mark.parametrize("wire", ["float32", "bfloat16"])
def test_a_pending_sum_is_saved_and_merged_at_its_own_step(c: Communicator, wire: str) -> None:
    """With B=4 and S=3 sums are sent after steps 4, 7 (merged in the same step), 11 and so on."""
    hyperparameters = {**CYCLING, "B": 4, "S": 3, "wire": wire}
    steps = list(problem.batches(c, 14))

    def make(seed: int) -> Daso:
        return problem.make(Daso, c, hyperparameters=hyperparameters, model=problem.make_normed_model(seed))[0]

    ends, num_pending = [], 0
    for saves in (False, True):
        method = make(seed=0)
        for number, batch in enumerate(steps):
            method.step(batch)
            if saves:
                state = method.state_dict()
                num_pending += state["sent"] is not None
                method = make(seed=number)
                method.load_state_dict(state)
        ends.append(problem.everything(method.finalize()))
    assert num_pending > 6
    assert torch.equal(*ends)


@on_ranks(TWO_NODES)
def test_the_adaptive_schedule_continues_from_a_checkpoint(c: Communicator) -> None:
    adaptive = {"B": 4, "S": 2, "warmup_epochs": 1, "cooldown_epochs": 0, "wire": "float32"}
    adaptive |= {"plateau_threshold": 0.99, "plateau_patience": 0}  # every epoch but the first is a plateau
    CHECKS["continues_from_a_checkpoint_at_any_step"](c, Subject(method=Daso, hyperparameters=adaptive))


@pytest.mark.parametrize(
    ("before", "after", "now", "expected"),
    [
        ((8, 4), (4, 4), (2, 1), (1, 1)),
        ((8, 4), (8, 2), (4, 1), (4, 1)),  # not 0, which would block
        ((8, 4), (8, 0), (4, 2), (4, 0)),
        ((8, 0), (8, 4), (2, 0), (2, 2)),  # S is at most B
        ((4, 4), (16, 4), (2, 2), (8, 2)),
    ],
)
def test_a_change_scales_what_plateaus_have_halved(before, after, now, expected):
    made = [problem.make(Daso, single_rank(), hyperparameters={"B": B, "S": S})[0] for B, S in (before, after)]
    state = made[0].state_dict()
    made[1].load_state_dict(state | {"counters": [*now, *state["counters"][2:]]})
    made[1].change(DasoHyperparameters(B=before[0], S=before[1]))
    assert tuple(made[1].state_dict()["counters"][:2]) == expected


# Equation 3.2.


def test_merge_is_equation_3_2():
    local, total = torch.tensor([1.0, 2.0]), torch.tensor([10.0, 20.0])
    merge(local, total, num_steps=3, num_nodes=4)
    # (2*3*x + total) / (2*3 + 4)
    assert local.tolist() == pytest.approx([1.6, 3.2], rel=1e-6)


def reference(c: Communicator, periods: list[tuple[int, int]]) -> list[float]:
    """One parameter of this node by equation 3.2, with learning rate 0; node P starts at P + 1.

    `periods` are B and S at each step.
    """
    nodes = sorted(set(c.nodes))
    x = {node: float(node + 1) for node in nodes}
    history, due, total, last_send = [], None, 0.0, 0
    for step, (period, wait) in enumerate(periods, 1):
        if due == step:
            waited = step - last_send
            x = {node: (2 * waited * x[node] + total) / (2 * waited + len(nodes)) for node in nodes}
            due = None
        if due is None and step >= last_send + period:
            total, last_send = sum(x.values()), step
            if wait == 0:
                x = dict.fromkeys(nodes, total / len(nodes))
            else:
                due = step + wait
        history.append(x[c.nodes[c.rank]])
    return history


@on_ranks(TWO_NODES, TWO_BY_TWO, FOUR_NODES)
@pytest.mark.parametrize(("period", "wait"), [(1, 0), (1, 1), (3, 0), (3, 1), (3, 2), (3, 3), (5, 5)], ids=str)
def test_merges_follow_equation_3_2_after_S_steps(c: Communicator, period: int, wait: int) -> None:
    """With learning rate 0 nothing but the merges moves the parameters."""
    method, model = problem.make(Daso, c, hyperparameters={"B": period, "S": wait, **CYCLING}, settings=STILL)
    problem.fill(model, float(c.nodes[c.rank] + 1))
    seen = []
    for batch in problem.batches(c, 20):
        method.step(batch)
        seen.append(float(problem.vector(model)[0]))
    method.finalize()
    # A handful of float64 operations per merge, up to 20 merges.
    assert seen == pytest.approx(reference(c, [(period, wait)] * 20), rel=1e-14)


# Its schedule.


def test_halving_stops_at_one_then_starts_again():
    assert halve(8, 4, (8, 4)) == (4, 2)
    assert halve(4, 2, (8, 4)) == (2, 1)
    assert halve(2, 1, (8, 4)) == (1, 1)
    assert halve(1, 1, (8, 4)) == (8, 4)
    assert halve(8, 0, (8, 0)) == (4, 0)


@on_ranks(TWO_NODES)
def test_plateaus_of_the_loss_halve_the_periods_while_cycling(c: Communicator) -> None:
    """Warm-up epochs do not count; the first cycling epoch sets the best loss; then every second bad one halves."""
    hyperparameters = {"B": 8, "S": 4, "warmup_epochs": 2, "cooldown_epochs": 0, "wire": "float32"}
    method, model = problem.make(
        Daso, c, hyperparameters=hyperparameters | {"plateau_patience": 1}, settings=STILL, num_epochs=20
    )
    losses = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5]
    periods = [(8, 4)] * 4 + [(4, 2)] * 2 + [(2, 1)] * 3 + [(1, 1)]  # after each of them
    batch = next(problem.batches(c, 1))
    for loss in losses[:2]:
        method.epoch_end(loss)
    # The replicas part here, and are followed through 8 steps of each of the other epochs.
    problem.fill(model, float(c.nodes[c.rank] + 1))
    seen, steps = [], []
    for loss, before in zip(losses[2:], periods[1:], strict=False):
        for _ in range(8):
            method.step(batch)
            seen.append(float(problem.vector(model)[0]))
        steps += [before] * 8
        method.epoch_end(loss)
    assert seen == pytest.approx(reference(c, steps), rel=1e-13)
    assert len({*seen[:8]}) == 1  # B = 8: nothing before the eighth step has merged
    method.finalize()


@on_ranks(TWO_NODES)
def test_every_batch_is_synchronized_in_warmup_and_cooldown(c: Communicator) -> None:
    hyperparameters = {"B": 4, "S": 2, "warmup_epochs": 1, "cooldown_epochs": 1, "wire": "float32"}
    method, model = problem.make(Daso, c, hyperparameters=hyperparameters, num_epochs=3)
    agree = []
    for number, batch in enumerate(problem.batches(c, 30), 1):
        method.step(batch)
        mine = problem.vector(model)
        agree.append(all(torch.equal(mine, theirs) for theirs in problem.gathered(c, mine)))
        if number % 10 == 0:
            method.epoch_end(1.0 / number)
    assert agree == [True] * 10 + [False] * 10 + [True] * 10


# Traffic.


@on_ranks(TWO_NODES, TWO_BY_TWO, FOUR_NODES)
@pytest.mark.parametrize("period", [1, 2, 4, 8])
@pytest.mark.parametrize(("wire", "width"), [("float32", 4), ("bfloat16", 2)])
def test_bytes_fall_by_the_closed_formula(c: Communicator, wire: str, width: int, period: int) -> None:
    num_nodes, per_node = len(set(c.nodes)), c.size // len(set(c.nodes))
    num_parameters, num_steps = problem.vector(problem.make_model()).numel(), 16
    hyperparameters = CYCLING | {"B": period, "S": 0, "wire": wire}
    method, _ = problem.make(Daso, c, hyperparameters=hyperparameters, model=problem.make_model(torch.float32))
    problem.train(method, list(problem.batches(c, num_steps, dtype=torch.float32)))
    in_node, between = (problem.worker_bytes(c, scope) / c.size / num_steps for scope in ("node", "global"))
    gradients = 2 * (per_node - 1) / per_node * 4 * num_parameters
    broadcast = 4 * num_parameters * (per_node - 1) / (per_node * period)
    expected = 2 * (num_nodes - 1) / num_nodes * width * num_parameters / (period * per_node)
    assert between == pytest.approx(expected, rel=1e-12)
    assert in_node == pytest.approx(gradients + broadcast, rel=1e-12)


@on_ranks(TWO_BY_TWO)
def test_groups_take_turns(c: Communicator) -> None:
    method, _ = problem.make(Daso, c, hyperparameters={"B": 1, "S": 0, **CYCLING})
    for number, batch in enumerate(problem.batches(c, 4)):
        before = c.ledger.wire_bytes("global")
        method.step(batch)
        assert (c.ledger.wire_bytes("global") > before) == (c.rank % 2 == number % 2)


# Refusals.


def test_nodes_of_different_size_are_refused():
    with pytest.raises(NotApplicable, match=r"as many ranks on each node; the worker's nodes have \[1, 2\]"):
        run_virtual_ranks(lambda c: problem.make(Daso, c), (0, 0, 1))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"B": 0}, "B must be at least 1; got 0"),
        ({"B": 2, "S": 3}, r"S must be in 0..B \(B is 2\); got 3"),
        ({"wire": "int8"}, "wire must be one of float32, float16, bfloat16; got 'int8'"),
        ({"blocking_wire": "int8"}, "blocking_wire must be one of float32, float16, bfloat16; got 'int8'"),
        ({"cooldown_epochs": -1}, "cooldown_epochs must be at least 0; got -1"),
    ],
)
def test_wrong_hyperparameters_say_the_rule(wrong, message):
    with pytest.raises(ValueError, match=message):
        DasoHyperparameters(**wrong)
