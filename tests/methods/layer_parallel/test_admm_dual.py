"""The dual-net ADMM (Dziwulski)."""

import copy

import pytest
import torch
from on_ranks import on_ranks
from regression import SGD, STILL, network, regression, squared
from torch import nn

from atoll.communication.communicator import Communicator
from atoll.methods.layer_parallel.admm_dual import AdmmDual
from atoll.methods.method import Batch
from atoll.testing import problem
from atoll.testing.method_contract import FLOAT64
from atoll.testing.ranks import PAIR, SINGLE, TRIPLE, TWO_BY_TWO


def make(c: Communicator, hyperparameters: dict, settings: dict, model: nn.Module) -> AdmmDual:
    given = {"hyperparameters": hyperparameters, "settings": SGD | settings, "model": model}
    return problem.make(AdmmDual, c, loss=squared, inputs=regression().inputs[:2], **given)[0]


@on_ranks(SINGLE, PAIR, TWO_BY_TWO)
def test_net2_sends_no_gradient_into_net1(c: Communicator) -> None:
    """With net1's own loss switched off nothing of the trunk moves, whatever net2 does."""
    for hyperparameters in ({"freeze_net1": True}, {"net1_lr": STILL}, {"duals": True, "net1_lr": STILL}):
        model = network()
        before = problem.vector(model)
        method = make(c, {"grouping": "1,2", **hyperparameters}, {"learning_rate": 0.05}, model)
        for _ in range(3):
            method.step(regression())
        after = problem.vector(method.finalize())
        trunk = 6 * 5 + 5
        assert torch.equal(before[:trunk], after[:trunk])
        assert not torch.equal(before[trunk:], after[trunk:])


def with_dropout(kind: str) -> nn.Sequential:
    """A dual layer with dropout after it, or inside it, where attention draws it without a module."""
    if kind == "module":
        model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 3))
    else:
        encoder = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.3, batch_first=True)
        head = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
        model = nn.Sequential(nn.Unflatten(1, (3, 2)), nn.Linear(2, 4), encoder, *head)
    return problem.seeded(model.double(), 3, scale=0.5)


@on_ranks(SINGLE, PAIR, TRIPLE, TWO_BY_TWO)
@pytest.mark.parametrize("kind", ["module", "attention"])
@pytest.mark.parametrize("duals", [False, True])
def test_both_copies_of_the_dual_layer_have_one_dropout_mask(c: Communicator, kind: str, duals: bool) -> None:
    """L is a copy of L', and stays one: with a mask each, net1 would learn the mean over masks, half of a'."""
    model = with_dropout(kind)
    given = {"grouping": "1,2", "net1_lr": 0.1, "duals": duals}
    method = make(c, given, {"learning_rate": STILL}, model)
    dual = model[2:5] if kind == "module" else model[2:3]
    before = copy.deepcopy(dual)
    h = model[:2](regression().inputs).detach()
    losses = []
    for _ in range(3):
        for _ in range(10):
            method.step(regression())
        method.epoch_end(0.0)
        losses.append(method.metrics()["net1_loss"])
        assert method.metrics()["dual_norm"] > 0.1
    assert max(losses) < 1e-28
    state = method.state_dict()["copy"]
    if state is not None:
        copied = copy.deepcopy(before)
        nn.utils.vector_to_parameters(state["state"][: len(problem.vector(dual))], copied.parameters())
        a, a_prime = (layer.eval()(h).detach() for layer in (copied, before))
        assert float(a.norm() / a_prime.norm()) == pytest.approx(1, rel=1e-12)
        assert problem.close(a, a_prime, FLOAT64)
    method.finalize()


@on_ranks(SINGLE, PAIR)
def test_dropout_masks_of_the_dual_layer_continue_from_a_checkpoint(c: Communicator) -> None:
    """They change from step to step, and neither depend on torch's random state nor move it."""
    ends = []
    for interrupts in (False, True):
        model = with_dropout("module")
        method = make(c, {"grouping": "1,2", "net1_lr": 0.1}, {"learning_rate": 0.1}, model)
        losses = []
        for _ in range(6):
            state = torch.get_rng_state()
            losses.append(float(method.step(regression())))
            assert c.size > 1 or torch.equal(torch.get_rng_state(), state)  # virtual ranks share torch's random state
            if interrupts:
                saved = method.state_dict()
                method = make(c, {"grouping": "1,2", "net1_lr": 0.1}, {"learning_rate": 0.1}, with_dropout("module"))
                method.load_state_dict(saved)
        ends.append((losses, problem.vector(method.finalize())))
    assert ends[0][0] == ends[1][0]
    assert torch.equal(ends[0][1], ends[1][1])
    still = make(c, {"grouping": "1,2", "net1_lr": STILL}, {"learning_rate": STILL}, with_dropout("module"))
    c.mean(losses := torch.stack([still.step(regression()).double() for _ in range(4)]))
    assert len(set(losses.tolist())) == 4
    still.finalize()


@on_ranks(TWO_BY_TWO)
def test_samples_of_different_ranks_have_different_dropout_masks(c: Communicator) -> None:
    """Of equal samples, each of net2's two ranks has some; with one mask for both their losses would be equal."""
    method = make(c, {"grouping": "1,2", "net1_lr": STILL}, {"learning_rate": STILL}, with_dropout("module"))
    batch = regression()
    first = torch.zeros(len(batch.indices), dtype=torch.long)
    losses = torch.zeros(c.size, dtype=torch.float64)
    losses[c.rank] = method.step(Batch(indices=batch.indices, inputs=batch.inputs[first], targets=batch.targets[first]))
    c.sum(losses)
    of_net2 = losses[losses != 0].tolist()
    assert len(of_net2) == 2
    assert of_net2[0] != of_net2[1]
    method.finalize()


def change_copy(method: AdmmDual, change) -> None:
    """Change net1's copy of the dual layer, the weights (4, 5) and biases (4,) on the ranks that hold it."""
    state = method.state_dict()
    if state["copy"] is not None:
        values = state["copy"]["state"]
        change(values[:20], values[20:])
        method.load_state_dict(state)


@on_ranks(SINGLE, PAIR, TWO_BY_TWO)
def test_a_step_is_chapter_8s(c: Communicator) -> None:
    """Against two networks in one process, for each of the losses 9.2, 9.3 and 9.4."""
    batch, num = regression(), 4
    for loss in ("euclidean", "normalised", "normalised_by_copy"):
        model = network()
        method = make(c, {"grouping": "1,2", "loss": loss, "net1_lr": 0.02}, {"learning_rate": 0.05}, model)
        net = network()
        trunk, layer, rest = net[:2], net[2:4], net[4:]
        copied = network()[2:4]
        net1 = torch.optim.SGD([*trunk.parameters(), *copied.parameters()], 0.02)
        net2 = torch.optim.SGD([*layer.parameters(), *rest.parameters()], 0.05)
        for _ in range(num):
            method.step(batch)
            h = trunk(batch.inputs)
            a, other = copied(h), layer(h.detach())
            squares = (other.detach() - a).square().sum(1)
            norms = other.detach().square().sum(1) + a.square().sum(1)
            scale = {"euclidean": 1.0, "normalised": norms.sqrt(), "normalised_by_copy": other.detach().norm(dim=1)}[
                loss
            ]
            net1.zero_grad()
            net2.zero_grad()
            (squares / scale).mean().div(2).backward()
            squared(rest(other), batch.targets).backward()
            net1.step()
            net2.step()
        assert problem.close(problem.vector(method.finalize()), problem.vector(net), FLOAT64), loss


@on_ranks(SINGLE, PAIR, TWO_BY_TWO)
def test_one_net_is_held_while_the_other_trains(c: Communicator) -> None:
    method = make(c, {"grouping": "1,2", "hold": 2, "net1_lr": 0.05}, {"learning_rate": 0.05}, network())
    trunk, seen = 6 * 5 + 5, []
    before = problem.vector(method.evaluation_model())
    for _ in range(8):
        method.step(regression())
        after = problem.vector(method.evaluation_model())
        seen.append((torch.equal(before[:trunk], after[:trunk]), torch.equal(before[trunk:], after[trunk:])))
        before = after
    net2_trains, net1_trains = (True, False), (False, True)
    assert seen == [net2_trains, net2_trains, net1_trains, net1_trains] * 2


def _convex() -> tuple[nn.Sequential, Batch, torch.Tensor]:
    """A linear dual layer on a fixed trunk, which makes the split convex; and the outputs of the joint optimum."""
    model, batch = network((6, 5, 3)), regression()
    for parameter in model[0].parameters():
        parameter.requires_grad_(False)
    model[0].register_parameter("idle", nn.Parameter(torch.zeros(1, dtype=torch.float64)))
    h = torch.cat([model[:2](batch.inputs), torch.ones(len(batch.targets), 1, dtype=torch.float64)], dim=1)
    return model, batch, h @ torch.linalg.lstsq(h, batch.targets).solution


SOON = pytest.param(20, 1e-5, id="1000_steps")
LATE = pytest.param(40, FLOAT64, id="2000_steps", marks=pytest.mark.long)


@on_ranks(SINGLE, PAIR)
@pytest.mark.parametrize(("num_epochs", "tolerance"), [SOON, LATE])
def test_duals_reach_the_joint_optimum_of_a_convex_split(c: Communicator, num_epochs: int, tolerance: float) -> None:
    """With a constant rho."""
    assert distance_to_the_joint_optimum(c, 1.0, num_epochs) < tolerance


@on_ranks(SINGLE, PAIR)
def test_duals_do_not_follow_a_tenfold_growth_of_rho(c: Communicator) -> None:
    """The steps of a gradient method do not follow the schedule of Dziwulski, section 5.5."""
    assert not distance_to_the_joint_optimum(c, 10.0, 8) < 1e-2  # or it has diverged


def distance_to_the_joint_optimum(c: Communicator, factor: float, num_epochs: int) -> float:
    """Relative distance of the outputs after epochs of 50 steps."""
    model, batch, optimum = _convex()
    hyperparameters = {"grouping": "1,1", "duals": True, "rho": 1.0, "rho_factor": factor, "rho_max": 1e4}
    method = make(c, hyperparameters | {"net1_lr": 0.3}, {"learning_rate": 0.3}, model)
    for _ in range(num_epochs):
        for _ in range(50):
            method.step(batch)
        method.epoch_end(0.0)
    assert method.metrics()["rho_reached"] == min(factor**num_epochs, 1e4)
    with torch.no_grad():
        outputs = method.finalize()(batch.inputs)
    return float((outputs - optimum).norm() / optimum.norm())


@on_ranks(SINGLE, PAIR, TWO_BY_TWO)
def test_duals_add_the_residuals_up(c: Communicator) -> None:
    hyperparameters = {"grouping": "1,2", "duals": True, "net1_lr": STILL, "rho_factor": 10.0}
    method = make(c, hyperparameters, {"learning_rate": STILL}, network())
    change_copy(method, lambda weights, biases: biases.add_(0.5))  # the nets differ by as much in every step
    batch, net = regression(), network()
    h = net[:2](batch.inputs)
    after = torch.tanh(net[2](h) + 0.5) - torch.tanh(net[2](h))
    for number in range(1, 4):
        method.step(batch)
        assert_duals(method, number * after)
    method.epoch_end(1.0)  # rho grows tenfold, and the scaled dual shrinks by as much
    assert method.metrics()["rho_reached"] == 10
    assert_duals(method, 0.3 * after)
    method.finalize()


def assert_duals(method: AdmmDual, expected: torch.Tensor) -> None:
    """The duals of the samples that this rank keeps, in the rows that it has given them."""
    state = method.state_dict()
    rows = state["rows"]
    mine = torch.nonzero(rows >= 0).flatten()
    assert len(mine) == 0 or problem.close(state["u"][rows[mine]], expected[mine], FLOAT64)
    assert bool(len(mine)) == (state["copy"] is not None)


@on_ranks(PAIR, TWO_BY_TWO)
def test_bytes(c: Communicator) -> None:
    """4b(d_in + d_out) an iteration in float32, 8 bytes here; d_out more with duals."""
    for duals in (False, True):
        method = make(c, {"grouping": "1,2", "duals": duals}, {"learning_rate": 0.01}, network((6, 5, 4, 3)))
        before = _sent(c)
        for _ in range(3):
            method.step(regression())
        method.finalize()
        sent = torch.tensor(_sent(c) - before)
        c.sum(sent)
        assert float(sent) == 3 * 8 * len(regression().targets) * (5 + 4 + 4 * duals)
        added = [row for row in c.ledger.rows() if row["operation"] == "all_reduce" and row["payload_bytes"] > 100]
        assert bool(added) == (c.size > 2)  # gradients of nets that lie on two ranks each


@on_ranks(TWO_BY_TWO)
def test_bytes_of_ranks_that_share_a_net(c: Communicator) -> None:
    """Each of r ranks sends 2(r-1)/r 4n (here 8n) more whenever its net trains; net1's parameters include L."""
    num = 4
    for given, net1_trains, net2_trains in (
        ({}, num, num),
        ({"hold": 1}, num / 2, num / 2),
        ({"freeze_net1": True}, 0, num),
    ):
        method = make(c, {"grouping": "1,2", **given}, {"learning_rate": 0.01}, network((6, 5, 4, 3)))
        before = c.ledger.wire_bytes()
        for _ in range(num):
            method.step(regression())
        sent = torch.tensor(c.ledger.wire_bytes() - before, dtype=torch.float64)
        c.split(0).sum(sent)
        trunk, dual, rest = 6 * 5 + 5, 5 * 4 + 4, 4 * 3 + 3
        of_gradients = 2 * 8 * ((trunk + dual) * net1_trains + (dual + rest) * net2_trains)
        assert float(sent) == num * 8 * len(regression().targets) * (5 + 4) + of_gradients, given
        method.finalize()


def _sent(c: Communicator) -> float:
    return sum(row["wire_bytes"] for row in c.ledger.rows() if row["operation"] == "send")


@on_ranks(SINGLE, PAIR)
def test_collapse_is_named(c: Communicator) -> None:
    """To zero, and to the same output for all inputs."""
    for kind in ("small", "constant"):
        method = make(c, {"grouping": "1,2"}, {"learning_rate": STILL}, network())
        method.step(regression())
        method.epoch_end(1.0)
        before = method.metrics()
        assert before["collapsed"] == 0
        assert before["dual_norm"] > before["dual_spread"] > 0.1

        def collapse(weights, biases, share=1e-5 if kind == "small" else 1.0):
            weights.mul_(1e-5)
            biases.mul_(share)

        change_copy(method, collapse)
        method.step(regression())
        method.epoch_end(1.0)
        after = method.metrics()
        assert after["collapsed"] == 1
        assert (after["dual_norm"] < 1e-3 * before["dual_norm"]) == (kind == "small")
        assert after["dual_spread"] < 1e-3 * before["dual_spread"]
        assert sum("net1 has collapsed" in note for note in method.notes) == 1
        method.finalize()


@on_ranks(SINGLE, PAIR)
def test_reports_continue_from_checkpoints_within_an_epoch(c: Communicator) -> None:
    """A collapse is measured from the first batch, and named once."""
    ends = []
    for interrupts in (False, True):
        method = make(c, {"grouping": "1,2"}, {"learning_rate": 0.01}, network())
        for number in range(9):
            if number == 3:
                change_copy(method, lambda *values: [value.mul_(1e-5) for value in values])
            method.step(regression())
            if number % 3 == 2:
                method.epoch_end(1.0)
            if interrupts:
                state = method.state_dict()
                method = make(c, {"grouping": "1,2"}, {"learning_rate": 0.01}, network(seed=8))
                method.load_state_dict(state)
        metrics = {name: value for name, value in method.metrics().items() if "memory" not in name}
        ends.append((metrics, method.notes))
        method.finalize()
    assert ends[0] == ends[1]
    assert sum("net1 has collapsed" in note for note in ends[0][1]) == 1


@on_ranks(SINGLE, PAIR, TWO_BY_TWO)
def test_both_losses_and_the_norm_are_reported(c: Communicator) -> None:
    method = make(c, {"grouping": "1,2", "freeze_net1": True}, {"learning_rate": STILL}, network())
    change_copy(method, lambda weights, biases: biases.add_(0.5))
    batch, net = regression(), network()
    for _ in range(2):
        method.step(batch)
    method.epoch_end(1.0)
    with torch.no_grad():
        h = net[:2](batch.inputs)
        a, other = torch.tanh(net[2](h) + 0.5), torch.tanh(net[2](h))
        task = squared(net(batch.inputs), batch.targets)
    said = method.metrics()
    assert said["net1_loss"] == pytest.approx(float((a - other).square().sum(1).mean() / 2), rel=1e-12)
    assert said["net2_loss"] == pytest.approx(float(task), rel=1e-12)
    assert all(said[f"peak_memory/rank_{rank}"] > 2**20 for rank in range(c.size))
    if c.size < 4:  # of the samples of one rank
        assert said["dual_spread"] == pytest.approx(float((a - a.mean(dim=0)).norm(dim=1).mean()), rel=1e-12)
    assert said["dual_norm"] == pytest.approx(float(a.norm(dim=1).mean()), rel=1e-12)
    method.finalize()
