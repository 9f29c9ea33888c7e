"""The identities of methods.md for MAC, as checks over any communicator."""

from __future__ import annotations

import copy
import itertools

import problem
import pytest
import torch
from ranks import on_layouts
from torch import nn

from atoll.communication.communicator import Communicator
from atoll.methods.layer_parallel.mac import Mac
from atoll.methods.method import Batch

SINGLE, PAIR, TWO_BY_TWO = (0,), (0, 0), (0, 0, 1, 1)
LAYOUTS = (SINGLE, PAIR, TWO_BY_TWO)
# Sums of float64 terms in another order.
FLOAT64 = 1e-12
SGD = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0}
ADAM = {"optimizer": "adamw", "weight_decay": 0.0, "learning_rate": 0.01}
STILL = 1e-300  # a learning rate that changes nothing
SGD_STILL = SGD | {"learning_rate": STILL}
NUM = 24


def squared(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs - targets).square().sum(1).mean()


def network(widths: tuple[int, ...] = (6, 5, 4, 3), seed: int = 3) -> nn.Sequential:
    layers = [m for a, b in itertools.pairwise(widths) for m in (nn.Linear(a, b), nn.Tanh())]
    return problem.seeded(nn.Sequential(*layers[:-1]).double(), seed, scale=0.5)


def regression(num: int = NUM, widths: tuple[int, int] = (6, 3)) -> Batch:
    generator = torch.Generator().manual_seed(9)
    inputs, targets = (torch.randn(num, n, generator=generator, dtype=torch.float64) for n in widths)
    return Batch(indices=torch.arange(num), inputs=inputs, targets=targets)


def make(c: Communicator, hyperparameters: dict, settings: dict = SGD, model: nn.Module | None = None, loss=squared):
    model = model or network()
    inputs = regression().inputs[:2] if next(model.parameters()).shape[1] == 6 else None
    return problem.make(
        Mac, c, hyperparameters=hyperparameters, settings=settings, model=model, loss=loss, inputs=inputs
    )


def coordinates(method: Mac) -> dict[int, torch.Tensor]:
    """What this rank has of each group's coordinates, in the order of the samples it holds."""
    return {g: part["z"] for g, part in method.state_dict()["parts"].items() if part["z"] is not None}


def run(method: Mac, batches: list[Batch]) -> torch.Tensor:
    return torch.stack(list(method.epoch(iter(batches))))


def gradients(model: nn.Sequential, batch: Batch) -> list[torch.Tensor]:
    """Backprop's gradient of the squared loss for each layer with parameters."""
    loss = squared(model(batch.inputs), batch.targets)
    layers = [m for m in model if list(m.parameters())]
    return [problem_vector(torch.autograd.grad(loss, tuple(layer.parameters()), retain_graph=True)) for layer in layers]


def problem_vector(tensors) -> torch.Tensor:
    return torch.cat([t.detach().reshape(-1) for t in tensors]).clone()


def parameters(model: nn.Sequential) -> list[torch.Tensor]:
    return [problem_vector(m.parameters()) for m in model if list(m.parameters())]


@on_layouts(*LAYOUTS)
def check_the_first_w_step_changes_only_the_last_group(c: Communicator) -> None:
    w_steps = {"w_lr": 0.01, "w_iterations": 3, "w_iterations_last": 3}
    for settings in (ADAM, SGD | {"learning_rate": 0.01}):
        model = network()
        before = parameters(model)
        made, _ = make(c, {"grouping": "1,1,1", **w_steps}, settings, model)
        # The residuals themselves must vanish: with SGD the steps are taken all the same.
        if settings["optimizer"] == "sgd":
            made._is_at_its_minimum = lambda _: False
        run(made, [regression()])
        after = parameters(made.evaluation_model())
        for a, b in zip(before[:-1], after[:-1], strict=True):
            assert problem.close(a, b, 1e-15)  # the same products, of other numbers of samples at a time
        assert float((before[-1] - after[-1]).abs().max()) > 1e-3


@on_layouts(*LAYOUTS)
def check_one_coupled_gradient_equals_the_two_term_gradient(c: Communicator) -> None:
    """Equations 3.10 and 3.11, and both the gradient of the whole objective (3.5), at coordinates off the network's."""
    found = {}
    hyperparameters = {"grouping": "1,1,1", "w_lr": STILL, "z_lr": 0.05, "mu": 3.0, "mu_factor": 1.0, "w_iterations": 1}
    for variant in ("coupled", "two_term"):
        made, model = make(c, hyperparameters | {"variant": variant}, SGD_STILL)
        run(made, [regression()])
        before = coordinates(made)
        run(made, [regression()])
        found[variant] = before, coordinates(made)
    for g, z in found["two_term"][1].items():
        assert problem.close(found["coupled"][1][g], z, FLOAT64)
        assert not torch.equal(found["two_term"][0][g], z)
    if c.size == 1:
        batch, (before, after) = regression(), found["two_term"]
        z = {g: value.clone().requires_grad_() for g, value in before.items()}
        of = [model[:2], model[2:4], model[4:]]
        total = squared(of[2](z[2]), batch.targets) * NUM / 2
        total = total + 1.5 * ((z[1] - of[0](batch.inputs)).square().sum() + (z[2] - of[1](z[1])).square().sum())
        for g, gradient in zip(z, torch.autograd.grad(total, tuple(z.values())), strict=True):
            assert problem.close(after[g], before[g] - 0.05 * gradient, FLOAT64)


@on_layouts(*LAYOUTS)
def check_a_z_step_and_a_w_gradient_are_a_step_of_backprop_below_the_last_group(c: Communicator) -> None:
    """lr_z times backprop's gradient just below the last group, and nothing further down."""
    for variant in ("one_term", "two_term"):
        model = network()
        batch, before = regression(), parameters(model)
        expected = gradients(model, batch)
        made, _ = make(
            c,
            {"grouping": "1,1,1", "variant": variant, "w_lr": 1.0, "z_lr": 0.1, "w_iterations": 1, "mu_factor": 1.0},
            SGD_STILL,
            model,
        )
        made._is_at_its_minimum = lambda _: False  # what is zero is to be found to be
        run(made, [batch])
        run(made, [batch])
        after = parameters(made.evaluation_model())
        assert problem.close(before[0], after[0], 1e-15)
        assert problem.close(before[1] - after[1], 0.1 * expected[1], FLOAT64)
        assert torch.equal(before[2], after[2])


@on_layouts(SINGLE, PAIR)
def check_solved_coordinates_give_backprops_gradient_up_to_1_over_mu(c: Communicator) -> None:
    errors = []
    for mu in (10.0, 100.0, 1000.0):
        model = network((6, 5, 3))
        batch, before = regression(), parameters(model)
        expected = gradients(model, batch)[0]
        # The loss's half is the objective's: mu times the residual's half-squared gradient is mu/2 times the W-step's.
        made, _ = make(
            c,
            {
                "grouping": "1,1",
                "w_lr": mu,
                "w_iterations": 1,
                "mu": mu,
                "mu_max": mu,
                "z_iterations": 400,
                "z_lr": 0.9 / mu,
            },
            SGD_STILL,
            model,
        )
        run(made, [batch])
        run(made, [batch])
        change = before[0] - parameters(made.evaluation_model())[0]
        errors.append(float((change - expected).norm() / expected.norm()))
    assert errors[0] < 0.5
    for coarse, fine in itertools.pairwise(errors):
        # O(1/mu), with a next term that is a tenth of it at mu = 10
        assert coarse / fine == pytest.approx(10, rel=0.25)


@on_layouts(PAIR, TWO_BY_TWO)
def check_distributed_execution_gives_the_numbers_of_one_rank(c: Communicator) -> None:
    alone = c.split(c.rank)
    for variant, size in itertools.product(("two_term", "one_term", "coupled"), (2, 4)):
        results = []
        for ranks in (c, alone):
            model = network((6, 8, 7, 6, 5, 3))
            made, _ = make(
                ranks,
                {
                    "variant": variant,
                    "grouping": {2: "2,3", 4: "1,1,1,2"}[size],
                    "w_iterations": 3,
                    "w_iterations_last": 2,
                    "w_lr": 0.01,
                    "z_iterations": 3,
                    "z_lr": 0.01,
                    "z_batch_size": 7,
                },
                ADAM,
                model,
            )
            whole = regression()
            batches = [
                Batch(indices=whole.indices[k], inputs=whole.inputs[k], targets=whole.targets[k])
                for k in torch.arange(NUM).split(8)
            ]
            losses = torch.stack([run(made, batches) for _ in range(4)])
            ranks.mean(losses)
            results.append((problem.vector(made.finalize()), losses))
        # Adam divides by the root of a second moment of 1e-8 and less: rounding is amplified.
        assert problem.close(results[0][0], results[1][0], 1e-9), (variant, size)
        assert problem.close(results[0][1], results[1][1], 1e-9), (variant, size)


@on_layouts(*LAYOUTS)
def check_rates_and_passes_of_each_group(c: Communicator) -> None:
    """The same as three groups of one rate, where the lists say so; and a rate that is nothing holds its group."""
    schedule = {
        "grouping": "1,1,1",
        "w_lr": 0.02,
        "w_iterations": 2,
        "w_iterations_last": 3,
        "z_lr": 0.03,
        "z_iterations": 2,
    }
    listed = {"w_lrs": "0.02,0.02,0.01", "w_iterations_each": "2,2,3", "z_lrs": "0.03,0.03", "z_iterations_each": "2,2"}
    results = []
    for given in (schedule, {"grouping": "1,1,1"} | listed, schedule | {"w_lrs": f"0.02,{STILL},0.01"}):
        model = network()
        before = parameters(model)
        made, _ = make(c, given, ADAM, model)
        for _ in range(4):
            run(made, [regression()])
        results.append(parameters(made.evaluation_model()))
    assert all(torch.equal(a, b) for a, b in zip(results[0], results[1], strict=True))
    moved = [not torch.equal(a, b) for a, b in zip(before, results[2], strict=True)]
    assert moved == [True, False, True]


@on_layouts(PAIR, TWO_BY_TWO)
def check_bytes(c: Communicator) -> None:
    """One_term w N d back, two_term as much forward, coupled both at every iteration; once w N d for a first pass."""
    widths, num_iterations, num_epochs = (6, 5, 4, 4, 3), 3, 2
    for variant, each in (("one_term", 1), ("two_term", 2), ("coupled", 2 * num_iterations)):
        for kept_as, width in (("float32", 8), ("bfloat16", 2)):
            model = network(widths)
            made, _ = make(
                c,
                {
                    "variant": variant,
                    "grouping": {2: "1,3", 4: "1,1,1,1"}[c.size],
                    "z_iterations": num_iterations,
                    "w_iterations": 1,
                    "coordinates": kept_as,
                },
                SGD_STILL,
                model,
            )
            before = c.ledger.wire_bytes()
            for _ in range(num_epochs):
                run(made, [regression()])
            sent = torch.tensor(c.ledger.wire_bytes() - before, dtype=torch.float64)
            c.sum(sent)
            values = NUM * (widths[1] if c.size == 2 else sum(widths[1:4]))
            assert float(sent) == width * values * (1 + num_epochs * each), (variant, kept_as)


@on_layouts(SINGLE, PAIR)
def check_dropout_acts_in_w_steps_only(c: Communicator) -> None:
    """Coordinates do not depend on the random state, and parameters do."""
    found, trained = [], []
    for seed in (1, 2):
        model = network()
        model.insert(4, nn.Dropout(0.5))
        model.insert(2, nn.Dropout(0.5))
        made, _ = make(c, {"grouping": "1,1,1", "w_lr": STILL, "w_iterations": 1}, SGD_STILL, model)
        torch.manual_seed(seed)
        run(made, [regression()])
        found.append(coordinates(made))
        rates = {"grouping": "1,1,1", "w_lr": 0.1, "w_iterations": 1}
        made, _ = make(c, rates, SGD | {"learning_rate": 0.1}, copy.deepcopy(model))
        torch.manual_seed(seed)
        run(made, [regression()])
        trained.append(problem.vector(made.finalize()))
    for g in found[0]:
        assert torch.equal(found[0][g], found[1][g])
    assert c.size > 1 or not torch.equal(*trained)  # virtual ranks share torch's random state


@on_layouts(SINGLE, PAIR, TWO_BY_TWO)
def check_no_group_minimises_rounding(c: Communicator) -> None:
    """In epoch e only the last e groups have residuals; Adam would make full steps of what rounding leaves of zero."""
    for variant in ("one_term", "two_term"):
        model = network((6, 5, 4, 4, 3))
        made, _ = make(c, {"grouping": "1,1,1,1", "variant": variant, "w_lr": 0.01, "w_iterations": 2}, ADAM, model)
        before = parameters(made.evaluation_model())
        for epoch in range(4):
            run(made, [regression()])
            after = parameters(made.evaluation_model())
            moved = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
            assert moved == [False] * (3 - epoch) + [True] * (epoch + 1), (variant, epoch)


@on_layouts(SINGLE, PAIR)
def check_coordinates_in_16_bit_train_too(c: Communicator) -> None:
    for kept_as in ("float16", "bfloat16"):
        hyperparameters = {"w_iterations": 5, "w_iterations_last": 5, "w_lr": 0.02, "z_lr": 0.1, "coordinates": kept_as}
        made, _ = problem.make(Mac, c, hyperparameters=hyperparameters, settings={"learning_rate": 0.02})
        losses = problem.train(made, list(problem.batches(c, 50, method=made)))
        wanted = [part["z_above"] for part in made.state_dict()["parts"].values() if part["z_above"] is not None]
        assert {values.dtype for values in wanted} <= {getattr(torch, kept_as)}
        assert {z.dtype for z in coordinates(made).values()} <= {torch.float64}
        assert sum(losses[-10:]) < 0.7 * sum(losses[:10])


@on_layouts(SINGLE, PAIR)
def check_mu_grows_where_the_loss_does_not_fall(c: Communicator) -> None:
    made, _ = make(c, {"mu_factor": 10.0, "mu_max": 500.0, "grouping": "1,2", "w_iterations": 1}, SGD_STILL)
    seen = []
    for loss in (1.0, 0.5, 0.498, 0.4, 0.9, 0.9):
        run(made, [regression()])
        seen.append(made.metrics()["mu_reached"])
        made.epoch_end(loss)
    assert seen == [1, 1, 1, 10, 10, 100]
    made.epoch_end(1.0)
    run(made, [regression()])
    assert made.metrics()["mu_reached"] == 500


@on_layouts(SINGLE, PAIR, TWO_BY_TWO)
def check_what_mac_reports(c: Communicator) -> None:
    made, _ = make(
        c,
        {"grouping": "1,2", "w_lr": 0.01, "w_iterations": 4, "w_iterations_last": 2, "z_iterations": 3, "z_lr": 0.01},
        ADAM,
    )
    run(made, [regression()])
    before = problem.vector(made.evaluation_model())
    run(made, [regression()])
    change = (problem.vector(made.evaluation_model()) - before).abs()
    said = made.metrics()
    assert said["parameter_change/group_0"] == pytest.approx(float(change[:35].mean()), rel=1e-12)
    assert said["parameter_change/group_1"] == pytest.approx(float(change[35:].mean()), rel=1e-12)
    assert said["predicted_speedup"] == pytest.approx(2 / (4 + 3))
    if c.size == 1:
        parts = made._state.parts.values()
        w, z, passes = ([getattr(p, k) for p in parts] for k in ("w_seconds", "z_seconds", "w_pass_seconds"))
        assert said["predicted_speedup_unequal"] == pytest.approx(sum(passes) / (max(w) + max(z)), rel=1e-12)
        assert w == [pytest.approx(4 * passes[0]), pytest.approx(2 * passes[1])]
        # one rank does one thing after the other
        assert said["measured_speedup"] <= sum(passes) / (sum(w) + sum(z))
    assert said["measured_speedup"] > 0
    assert {f"idle_share/rank_{r}" for r in range(c.size)} < set(said)
    assert all(-1e-9 <= said[f"idle_share/rank_{r}"] <= 1 for r in range(c.size))
