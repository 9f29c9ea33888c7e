"""The identities of methods.md for the dual-net ADMM, as checks over any communicator."""

from __future__ import annotations

import problem
import pytest
import torch
from mac_contract import network, regression, squared
from ranks import on_layouts
from torch import nn

from atoll.communication.communicator import Communicator
from atoll.methods.layer_parallel.admm_dual import AdmmDual
from atoll.methods.method import Batch

SINGLE, PAIR, TWO_BY_TWO = (0,), (0, 0), (0, 0, 1, 1)
SGD = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0}
STILL = 1e-300
FLOAT64 = 1e-12


def make(c: Communicator, hyperparameters: dict, settings: dict, model: nn.Module) -> AdmmDual:
    given = {"hyperparameters": hyperparameters, "settings": SGD | settings, "model": model}
    return problem.make(AdmmDual, c, loss=squared, inputs=regression().inputs[:2], **given)[0]


@on_layouts(SINGLE, PAIR, TWO_BY_TWO)
def check_net2_sends_no_gradient_into_net1(c: Communicator) -> None:
    """With net1's own loss switched off nothing of the trunk moves, whatever net2 does."""
    for hyperparameters in ({"freeze_net1": True}, {"net1_lr": STILL}, {"duals": True, "net1_lr": STILL}):
        model = network()
        before = problem.vector(model)
        made = make(c, {"grouping": "1,2", **hyperparameters}, {"learning_rate": 0.05}, model)
        for _ in range(3):
            made.step(regression())
        after = problem.vector(made.finalize())
        trunk = 6 * 5 + 5
        assert torch.equal(before[:trunk], after[:trunk])
        assert not torch.equal(before[trunk:], after[trunk:])


@on_layouts(SINGLE, PAIR, TWO_BY_TWO)
def check_a_step_is_chapter_8s(c: Communicator) -> None:
    """Against two networks in one process, for each of the losses 9.2, 9.3 and 9.4."""
    batch, num = regression(), 4
    for loss in ("euclidean", "normalised", "normalised_by_copy"):
        model = network()
        made = make(c, {"grouping": "1,2", "loss": loss, "net1_lr": 0.02}, {"learning_rate": 0.05}, model)
        net = network()
        trunk, layer, rest = net[:2], net[2:4], net[4:]
        copied = network()[2:4]
        net1 = torch.optim.SGD([*trunk.parameters(), *copied.parameters()], 0.02)
        net2 = torch.optim.SGD([*layer.parameters(), *rest.parameters()], 0.05)
        for _ in range(num):
            made.step(batch)
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
        assert problem.close(problem.vector(made.finalize()), problem.vector(net), FLOAT64), loss


@on_layouts(SINGLE, PAIR, TWO_BY_TWO)
def check_one_net_is_held_while_the_other_trains(c: Communicator) -> None:
    made = make(c, {"grouping": "1,2", "hold": 2, "net1_lr": 0.05}, {"learning_rate": 0.05}, network())
    trunk, seen = 6 * 5 + 5, []
    before = problem.vector(made.evaluation_model())
    for _ in range(8):
        made.step(regression())
        after = problem.vector(made.evaluation_model())
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


@on_layouts(SINGLE, PAIR)
def check_duals_reach_the_joint_optimum_of_a_convex_split(c: Communicator) -> None:
    """With constant rho; the steps of a gradient method do not follow 5.5's tenfold schedule."""
    errors = {}
    for factor, num_epochs in ((1.0, 40), (10.0, 8)):
        model, batch, optimum = _convex()
        hyperparameters = {"grouping": "1,1", "duals": True, "rho": 1.0, "rho_factor": factor, "rho_max": 1e4}
        made = make(c, hyperparameters | {"net1_lr": 0.3}, {"learning_rate": 0.3}, model)
        for _ in range(num_epochs):
            for _ in range(50):
                made.step(batch)
            made.epoch_end(0.0)
        assert made.metrics()["rho_reached"] == min(factor**num_epochs, 1e4)
        with torch.no_grad():
            outputs = made.finalize()(batch.inputs)
        errors[factor] = float((outputs - optimum).norm() / optimum.norm())
    assert errors[1.0] < FLOAT64
    assert not errors[10.0] < 1e-2  # or it has diverged


@on_layouts(SINGLE, PAIR, TWO_BY_TWO)
def check_duals_add_the_residuals_up(c: Communicator) -> None:
    hyperparameters = {"grouping": "1,2", "duals": True, "net1_lr": STILL, "rho_factor": 10.0}
    made = make(c, hyperparameters, {"learning_rate": STILL}, network())
    made._copy[0].bias.data.add_(0.5)  # so that the nets differ, by as much in every step
    batch, net = regression(), network()
    h = net[:2](batch.inputs)
    after = torch.tanh(net[2](h) + 0.5) - torch.tanh(net[2](h))
    for number in range(1, 4):
        made.step(batch)
        if made.state_dict()["groups"]["groups"].keys() & {0}:
            mine = made._chain.owned(0, batch.indices)
            assert problem.close(made._u[: len(mine)], number * after[mine], FLOAT64)
    made.epoch_end(1.0)  # rho grows tenfold, and the scaled dual shrinks by as much
    assert made.metrics()["rho_reached"] == 10
    if made.state_dict()["groups"]["groups"].keys() & {0}:
        assert problem.close(made._u[: len(mine)], 0.3 * after[mine], FLOAT64)
    made.finalize()


@on_layouts(PAIR, TWO_BY_TWO)
def check_bytes(c: Communicator) -> None:
    """4b(d_in + d_out) an iteration in float32, 8 bytes here; d_out more with duals."""
    for duals in (False, True):
        made = make(c, {"grouping": "1,2", "duals": duals}, {"learning_rate": 0.01}, network((6, 5, 4, 3)))
        before = _sent(c)
        for _ in range(3):
            made.step(regression())
        made.finalize()
        sent = torch.tensor(_sent(c) - before)
        c.sum(sent)
        assert float(sent) == 3 * 8 * len(regression().targets) * (5 + 4 + 4 * duals)
        added = [row for row in c.ledger.rows() if row["operation"] == "all_reduce" and row["payload_bytes"] > 100]
        assert bool(added) == (c.size > 2)  # gradients of nets that lie on two ranks each


def _sent(c: Communicator) -> float:
    return sum(row["wire_bytes"] for row in c.ledger.rows() if row["operation"] == "send")


@on_layouts(SINGLE, PAIR)
def check_collapse_is_named(c: Communicator) -> None:
    """To zero, and to the same output for all inputs."""
    for kind in ("small", "constant"):
        made = make(c, {"grouping": "1,2"}, {"learning_rate": STILL}, network())
        made.step(regression())
        made.epoch_end(1.0)
        before = made.metrics()
        assert before["collapsed"] == 0
        assert before["dual_norm"] > before["dual_spread"] > 0.1
        made._copy[0].weight.data.mul_(1e-5)
        made._copy[0].bias.data.mul_(1e-5 if kind == "small" else 1.0)
        made.step(regression())
        made.epoch_end(1.0)
        after = made.metrics()
        assert after["collapsed"] == 1
        assert (after["dual_norm"] < 1e-3 * before["dual_norm"]) == (kind == "small")
        assert after["dual_spread"] < 1e-3 * before["dual_spread"]
        assert sum("net1 has collapsed" in note for note in made.notes) == 1
        made.finalize()


@on_layouts(SINGLE, PAIR, TWO_BY_TWO)
def check_both_losses_and_the_norm_are_reported(c: Communicator) -> None:
    made = make(c, {"grouping": "1,2", "freeze_net1": True}, {"learning_rate": STILL}, network())
    made._copy[0].bias.data.add_(0.5)
    batch, net = regression(), network()
    for _ in range(2):
        made.step(batch)
    made.epoch_end(1.0)
    with torch.no_grad():
        h = net[:2](batch.inputs)
        a, other = torch.tanh(net[2](h) + 0.5), torch.tanh(net[2](h))
        task = squared(net(batch.inputs), batch.targets)
    said = made.metrics()
    assert said["net1_loss"] == pytest.approx(float((a - other).square().sum(1).mean() / 2), rel=1e-12)
    assert said["net2_loss"] == pytest.approx(float(task), rel=1e-12)
    assert all(said[f"peak_memory/rank_{rank}"] > 2**20 for rank in range(c.size))
    if c.size < 4:  # of the samples of one rank
        assert said["dual_spread"] == pytest.approx(float((a - a.mean(dim=0)).norm(dim=1).mean()), rel=1e-12)
    assert said["dual_norm"] == pytest.approx(float(a.norm(dim=1).mean()), rel=1e-12)
    made.finalize()
