"""MAC: the method of auxiliary coordinates (Martin 2024, chapters 3 and 4)."""

import copy
import itertools

import pytest
import torch
from on_ranks import on_ranks
from regression import NUM, SGD, STILL, network, regression, squared
from torch import nn

from atoll.communication.communicator import Communicator
from atoll.communication.threads import run_virtual_ranks
from atoll.methods.layer_parallel.mac import Mac, MacHyperparameters, per_group
from atoll.methods.layer_parallel.mac_report import predicted_speedup, predicted_speedup_of_unequal
from atoll.methods.layer_parallel.mac_state import acts_in_training
from atoll.methods.method import Batch, Context, NotApplicable
from atoll.testing import problem
from atoll.testing.method_contract import FLOAT64
from atoll.testing.ranks import PAIR, SINGLE, TRIPLE, TWO_BY_TWO

LAYOUTS = (SINGLE, PAIR, TWO_BY_TWO)
ADAM = {"optimizer": "adamw", "weight_decay": 0.0, "learning_rate": 0.01}
SGD = SGD | {"learning_rate": 0.01}
SGD_STILL = SGD | {"learning_rate": STILL}


def always_active(model: nn.Sequential) -> nn.Sequential:
    """The network with a dropout that never drops anything: MAC leaves out no step that should change nothing."""
    model.append(nn.Dropout(1e-300))
    return model


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
    return [joined(torch.autograd.grad(loss, tuple(layer.parameters()), retain_graph=True)) for layer in layers]


def joined(tensors) -> torch.Tensor:
    return torch.cat([t.detach().reshape(-1) for t in tensors]).clone()


def parameters(model: nn.Sequential) -> list[torch.Tensor]:
    return [joined(m.parameters()) for m in model if list(m.parameters())]


@on_ranks(*LAYOUTS)
@pytest.mark.parametrize("settings", [ADAM, SGD], ids=["adamw", "sgd"])
def test_the_first_w_step_changes_only_the_last_group(c: Communicator, settings: dict) -> None:
    w_steps = {"w_lr": 0.01, "w_iterations": 3, "w_iterations_last": 3}
    # The residuals themselves must vanish: with SGD the steps are taken all the same.
    model = network() if settings is ADAM else always_active(network())
    before = parameters(model)
    method, _ = make(c, {"grouping": "1,1,1", **w_steps}, settings, model)
    run(method, [regression()])
    after = parameters(method.evaluation_model())
    for a, b in zip(before[:-1], after[:-1], strict=True):
        assert problem.close(a, b, 1e-15)  # the same products, of other numbers of samples at a time
    assert float((before[-1] - after[-1]).abs().max()) > 1e-3


@on_ranks(*LAYOUTS)
def test_one_coupled_gradient_equals_the_two_term_gradient(c: Communicator) -> None:
    """Equations 3.10 and 3.11, and both the gradient of the whole objective (3.5), at coordinates off the network's."""
    results = {}
    hyperparameters = {"grouping": "1,1,1", "w_lr": STILL, "z_lr": 0.05, "mu": 3.0, "mu_factor": 1.0, "w_iterations": 1}
    for variant in ("coupled", "two_term"):
        method, model = make(c, hyperparameters | {"variant": variant}, SGD_STILL)
        run(method, [regression()])
        before = coordinates(method)
        run(method, [regression()])
        results[variant] = before, coordinates(method)
    for g, z in results["two_term"][1].items():
        assert problem.close(results["coupled"][1][g], z, FLOAT64)
        assert not torch.equal(results["two_term"][0][g], z)
    if c.size == 1:
        batch, (before, after) = regression(), results["two_term"]
        z = {g: value.clone().requires_grad_() for g, value in before.items()}
        of = [model[:2], model[2:4], model[4:]]
        total = squared(of[2](z[2]), batch.targets) * NUM / 2
        total = total + 1.5 * ((z[1] - of[0](batch.inputs)).square().sum() + (z[2] - of[1](z[1])).square().sum())
        for g, gradient in zip(z, torch.autograd.grad(total, tuple(z.values())), strict=True):
            assert problem.close(after[g], before[g] - 0.05 * gradient, FLOAT64)


@on_ranks(*LAYOUTS)
def test_a_z_step_and_a_w_gradient_are_a_step_of_backprop_below_the_last_group(c: Communicator) -> None:
    """lr_z times backprop's gradient just below the last group, and nothing further down."""
    for variant in ("one_term", "two_term"):
        model = always_active(network())
        batch, before = regression(), parameters(model)
        expected = gradients(model, batch)
        method, _ = make(
            c,
            {"grouping": "1,1,1", "variant": variant, "w_lr": 1.0, "z_lr": 0.1, "w_iterations": 1, "mu_factor": 1.0},
            SGD_STILL,
            model,
        )
        run(method, [batch])
        run(method, [batch])
        after = parameters(method.evaluation_model())
        assert problem.close(before[0], after[0], 1e-15)
        assert problem.close(before[1] - after[1], 0.1 * expected[1], FLOAT64)
        assert torch.equal(before[2], after[2])


@on_ranks(SINGLE, PAIR)
def test_solved_coordinates_give_backprops_gradient_up_to_1_over_mu(c: Communicator) -> None:
    errors = []
    for mu in (10.0, 100.0, 1000.0):
        model = network((6, 5, 3))
        batch, before = regression(), parameters(model)
        expected = gradients(model, batch)[0]
        # The loss's half is the objective's: mu times the residual's half-squared gradient is mu/2 times the W-step's.
        method, _ = make(
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
        run(method, [batch])
        run(method, [batch])
        change = before[0] - parameters(method.evaluation_model())[0]
        errors.append(float((change - expected).norm() / expected.norm()))
    assert errors[0] < 0.5
    for coarse, fine in itertools.pairwise(errors):
        # O(1/mu), with a next term that is a tenth of it at mu = 10
        assert coarse / fine == pytest.approx(10, rel=0.25)


@on_ranks(PAIR, TWO_BY_TWO)
def test_distributed_execution_gives_the_numbers_of_one_rank(c: Communicator) -> None:
    alone = c.split(c.rank)
    for variant, size in itertools.product(("two_term", "one_term", "coupled"), (2, 4)):
        results = []
        for ranks in (c, alone):
            model = network((6, 8, 7, 6, 5, 3))
            method, _ = make(
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
            losses = torch.stack([run(method, batches) for _ in range(4)])
            ranks.mean(losses)
            results.append((problem.vector(method.finalize()), losses))
        # Adam divides by the root of a second moment of 1e-8 and less: rounding is amplified.
        assert problem.close(results[0][0], results[1][0], 1e-9), (variant, size)
        assert problem.close(results[0][1], results[1][1], 1e-9), (variant, size)


@on_ranks(*LAYOUTS)
def test_rates_and_passes_of_each_group(c: Communicator) -> None:
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
        method, _ = make(c, given, ADAM, model)
        for _ in range(4):
            run(method, [regression()])
        results.append(parameters(method.evaluation_model()))
    assert all(torch.equal(a, b) for a, b in zip(results[0], results[1], strict=True))
    moved = [not torch.equal(a, b) for a, b in zip(before, results[2], strict=True)]
    assert moved == [True, False, True]


@on_ranks(PAIR, TWO_BY_TWO)
def test_bytes(c: Communicator) -> None:
    """One_term w N d back, two_term as much forward, coupled both at every iteration; once w N d for a first pass."""
    widths, num_iterations, num_epochs = (6, 5, 4, 4, 3), 3, 2
    for variant, each in (("one_term", 1), ("two_term", 2), ("coupled", 2 * num_iterations)):
        for kept_as, width in (("float32", 8), ("bfloat16", 2)):
            model = network(widths)
            method, _ = make(
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
                run(method, [regression()])
            values = NUM * (widths[1] if c.size == 2 else sum(widths[1:4]))
            assert sent_by_all(c, before) == width * values * (1 + num_epochs * each), (variant, kept_as)


def sent_by_all(c: Communicator, before: float) -> float:
    sent = torch.tensor(c.ledger.wire_bytes() - before, dtype=torch.float64)
    c.split(0).sum(sent)
    return float(sent)


@on_ranks(TRIPLE, TWO_BY_TWO)
def test_bytes_of_ranks_that_share_a_group(c: Communicator) -> None:
    """Each of r ranks sends 2(r-1)/r 4n (here 8n) more for every batch of every pass: data-parallel W-steps."""
    widths, num_iterations, num_epochs, num_batches = (6, 5, 4, 4, 3), 3, 2, 2
    given = {"variant": "one_term", "grouping": "1,3", "w_iterations": num_iterations, "w_iterations_last": 2}
    method, _ = make(c, given, SGD_STILL, always_active(network(widths)))
    whole = regression()
    batches = [
        Batch(indices=whole.indices[k], inputs=whole.inputs[k], targets=whole.targets[k])
        for k in torch.arange(NUM).split(NUM // num_batches)
    ]
    before = c.ledger.wire_bytes()
    for _ in range(num_epochs):
        run(method, batches)
    num_parameters = (6 * 5 + 5, 5 * 4 + 4 + 4 * 4 + 4 + 4 * 3 + 3)
    ranks = {3: (2, 1), 4: (2, 2)}[c.size]
    passes = (num_iterations, 2)
    of_gradients = sum(
        r * 2 * (r - 1) / r * 8 * n * w * num_batches for r, n, w in zip(ranks, num_parameters, passes, strict=True)
    )
    assert sent_by_all(c, before) == 8 * NUM * widths[1] * (1 + num_epochs) + num_epochs * of_gradients


@on_ranks(SINGLE, PAIR)
def test_dropout_acts_in_w_steps_only(c: Communicator) -> None:
    """Coordinates do not depend on the random state, and parameters do."""
    found, trained = [], []
    for seed in (1, 2):
        model = network()
        model.insert(4, nn.Dropout(0.5))
        model.insert(2, nn.Dropout(0.5))
        method, _ = make(c, {"grouping": "1,1,1", "w_lr": STILL, "w_iterations": 1}, SGD_STILL, model)
        torch.manual_seed(seed)
        run(method, [regression()])
        found.append(coordinates(method))
        rates = {"grouping": "1,1,1", "w_lr": 0.1, "w_iterations": 1}
        method, _ = make(c, rates, SGD | {"learning_rate": 0.1}, copy.deepcopy(model))
        torch.manual_seed(seed)
        run(method, [regression()])
        trained.append(problem.vector(method.finalize()))
    for g in found[0]:
        assert torch.equal(found[0][g], found[1][g])
    assert c.size > 1 or not torch.equal(*trained)  # virtual ranks share torch's random state


@on_ranks(SINGLE, PAIR, TWO_BY_TWO)
def test_no_group_minimises_rounding(c: Communicator) -> None:
    """Adam would make full steps of what rounding leaves of zero.

    In epoch e only the last group and e groups below it have residuals, with K coupled iterations K e groups below it.
    """
    for widths, (variant, spread) in itertools.product(
        ((6, 5, 4, 3), (6, 5, 4, 4, 4, 3)),
        (("one_term", 1), ("two_term", 1), ("coupled", 1), ("coupled", 2), ("coupled", 3)),
    ):
        num, num_iterations = len(widths) - 1, spread if variant == "coupled" else 2
        given = {"variant": variant, "w_lr": 0.01, "w_iterations": 2, "z_iterations": num_iterations}
        method, _ = make(c, given | {"grouping": ",".join("1" * num)}, ADAM, network(widths))
        before = parameters(method.evaluation_model())
        for epoch in range(4):
            z_before = coordinates(method)
            run(method, [regression()])
            after = parameters(method.evaluation_model())
            moved = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
            assert moved == [g >= num - 1 - spread * epoch for g in range(num)], (variant, num, spread, epoch)
            last_iteration = spread * (epoch + 1) - 1
            for g, z in coordinates(method).items():
                if epoch > 0:
                    assert torch.equal(z, z_before[g]) == (g < num - 1 - last_iteration), (variant, num, spread, epoch)


@on_ranks(*LAYOUTS)
def test_one_coupled_iteration_equals_two_term_with_adam(c: Communicator) -> None:
    """Equations 3.10 and 3.11: parameters, coordinates and losses, in every epoch and for any number of groups."""
    for widths in ((6, 5, 3), (6, 5, 4, 3), (6, 5, 4, 4, 4, 3)):
        found = []
        for variant in ("coupled", "two_term"):
            given = {"variant": variant, "grouping": ",".join("1" * (len(widths) - 1)), "z_lr": 0.01, "w_lr": 0.01}
            method, _ = make(c, given | {"w_iterations": 2, "w_iterations_last": 2}, ADAM, network(widths))
            losses = torch.stack([run(method, [regression()]) for _ in range(4)])
            found.append((losses, problem.vector(method.finalize()), coordinates(method)))
        (losses, values, z), (losses_2, values_2, z_2) = found
        assert problem.close(losses, losses_2, 1e-9)
        assert problem.close(values, values_2, 1e-9)
        assert all(problem.close(z[g], z_2[g], 1e-9) for g in z)


def test_groups_without_residuals_stay_after_a_checkpoint_and_a_change_of_the_iterations() -> None:
    """Which groups have residuals follows from the iterations made, not from those that are set now."""

    def work(c: Communicator) -> list[bool]:
        given = {"variant": "coupled", "grouping": "1,1,1,1,1", "w_lr": 0.01, "w_iterations": 2}
        method, _ = make(c, given | {"z_iterations": 1}, ADAM, network((6, 5, 4, 4, 4, 3)))
        run(method, [regression()])
        other, _ = make(c, given | {"z_iterations": 3}, ADAM, network((6, 5, 4, 4, 4, 3)))
        other.load_state_dict(method.state_dict())
        before = parameters(other.evaluation_model())
        run(other, [regression()])
        return [not torch.equal(a, b) for a, b in zip(before, parameters(other.evaluation_model()), strict=True)]

    assert run_virtual_ranks(work, (0,)) == [[False, False, False, True, True]]


@on_ranks(SINGLE, PAIR)
def test_coordinates_in_16_bit_train_too(c: Communicator) -> None:
    for kept_as in ("float16", "bfloat16"):
        hyperparameters = {"w_iterations": 5, "w_iterations_last": 5, "w_lr": 0.02, "z_lr": 0.1, "coordinates": kept_as}
        method, _ = problem.make(Mac, c, hyperparameters=hyperparameters, settings={"learning_rate": 0.02})
        losses = problem.train(method, list(problem.batches(c, 50, method=method)))
        wanted = [part["z_above"] for part in method.state_dict()["parts"].values() if part["z_above"] is not None]
        assert {values.dtype for values in wanted} <= {getattr(torch, kept_as)}
        assert {z.dtype for z in coordinates(method).values()} <= {torch.float64}
        assert sum(losses[-10:]) < 0.7 * sum(losses[:10])


@on_ranks(SINGLE, PAIR)
def test_mu_grows_where_the_loss_does_not_fall(c: Communicator) -> None:
    method, _ = make(c, {"mu_factor": 10.0, "mu_max": 500.0, "grouping": "1,2", "w_iterations": 1}, SGD_STILL)
    seen = []
    for loss in (1.0, 0.5, 0.498, 0.4, 0.9, 0.9):
        run(method, [regression()])
        seen.append(method.metrics()["mu_reached"])
        method.epoch_end(loss)
    assert seen == [1, 1, 1, 10, 10, 100]
    method.epoch_end(1.0)
    run(method, [regression()])
    assert method.metrics()["mu_reached"] == 500


@on_ranks(SINGLE, PAIR, TWO_BY_TWO)
def test_what_mac_reports(c: Communicator) -> None:
    method, _ = make(
        c,
        {"grouping": "1,2", "w_lr": 0.01, "w_iterations": 4, "w_iterations_last": 2, "z_iterations": 3, "z_lr": 0.01},
        ADAM,
    )
    run(method, [regression()])
    before = problem.vector(method.evaluation_model())
    run(method, [regression()])
    change = (problem.vector(method.evaluation_model()) - before).abs()
    said = method.metrics()
    assert said["parameter_change/group_0"] == pytest.approx(float(change[:35].mean()), rel=1e-12)
    assert said["parameter_change/group_1"] == pytest.approx(float(change[35:].mean()), rel=1e-12)
    assert said["predicted_speedup"] == pytest.approx(2 / (4 + 3))
    if c.size == 1:
        # of W-steps of 4 and 2 passes: sum(passes) / (max(w) + max(z)) is at most 3/4
        assert 0 < said["predicted_speedup_unequal"] < 0.75
        # one rank does one thing after the other
        assert said["measured_speedup"] < said["predicted_speedup_unequal"]
    assert said["measured_speedup"] > 0
    assert {f"idle_share/rank_{r}" for r in range(c.size)} < set(said)
    assert all(-1e-9 <= said[f"idle_share/rank_{r}"] <= 1 for r in range(c.size))


@on_ranks(*LAYOUTS)
def test_coordinates_do_not_decay(c: Communicator) -> None:
    """Weight decay is of parameters; the Z-step's own rate moves coordinates alike with and without."""
    moved = []
    for decay in (0.0, 0.5):
        settings = SGD_STILL | {"weight_decay": decay}
        given = {"grouping": "1,1,1", "w_lr": STILL, "z_lr": 0.05, "w_iterations": 1}
        method, _ = make(c, given, settings, always_active(network()))
        for _ in range(3):
            run(method, [regression()])
        moved.append(coordinates(method))
    for g, z in moved[0].items():
        assert problem.close(moved[1][g], z, FLOAT64)


def test_a_group_that_cannot_be_trained_is_refused():
    model = problem.make_model()
    model[0].requires_grad_(False)
    with pytest.raises(NotApplicable, match="each group of layers must have a parameter that is trained"):
        run_virtual_ranks(lambda c: problem.make(Mac, c, model=model), (0,))


def test_a_state_is_of_one_grouping():
    def work(c):
        method, _ = problem.make(Mac, c, hyperparameters={"grouping": "1,2"}, model=problem.make_deep_model())
        other, _ = problem.make(Mac, c, hyperparameters={"grouping": "2,1"}, model=problem.make_deep_model())
        other.load_state_dict(method.state_dict())

    with pytest.raises(ValueError, match=r"the state is of the grouping \(1, 2\), and the network is cut as \(2, 1\)"):
        run_virtual_ranks(work, (0,))


def test_balanced_groups_are_measured_and_the_same_on_all_ranks():
    def work(c):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 2000), nn.ReLU(), nn.Linear(2000, 4), nn.ReLU(), nn.Linear(4, 10)).double()
        method, _ = problem.make(Mac, c, hyperparameters={"grouping": "balanced"}, model=problem.seeded(model))
        return method.notes

    notes = run_virtual_ranks(work, (0, 0))
    assert notes[0] == notes[1]
    assert notes[0][0] == "grouping 1,2: 0 on rank 0; 2, 4 on rank 1"


def test_the_predicted_speedup_is_equation_3_25():
    # two groups, 67 and 67 passes, one of the Z-step (table 4.4)
    assert predicted_speedup(2, [67, 67], [1]) == pytest.approx(2 / 68)
    assert predicted_speedup(4, [1, 2, 3, 4], [5, 1, 1]) == pytest.approx(4 / 9)
    # with equal groups 3.20 is 3.23: W-steps of 3 passes and Z-steps of 2, each pass 1 s
    assert predicted_speedup_of_unequal([3, 3], [0, 2], [1, 1]) == predicted_speedup(2, [3, 3], [2])
    assert predicted_speedup_of_unequal([3, 6], [0, 2], [1, 2]) == pytest.approx(3 / 8)


@pytest.mark.parametrize(
    ("module", "acts"),
    [
        (nn.Dropout(0.5), True),
        (nn.Dropout(1), True),
        (nn.Dropout(0.0), False),
        (nn.BatchNorm1d(2), True),
        (nn.LayerNorm(2), False),
        (nn.MultiheadAttention(4, 2, dropout=0.1), True),
        (nn.MultiheadAttention(4, 2), False),
        (nn.Linear(2, 2), False),
    ],
)
def test_what_acts_in_training(module, acts):
    assert acts_in_training(module) == acts


def test_numbers_for_each_group():
    assert per_group("w_lrs", "", [1, 2]) == [1, 2]
    assert per_group("w_lrs", "0.5,2", [1, 2]) == [0.5, 2]
    with pytest.raises(NotApplicable, match=r"w_lrs must list 2 numbers above 0, one for each group; got '0\.5'"):
        per_group("w_lrs", "0.5", [1, 2])
    with pytest.raises(NotApplicable, match="must list 2 integers above 0"):
        per_group("w_iterations_each", "1.5,2", [1, 2], counts=True)
    with pytest.raises(NotApplicable, match="got 'a,2'"):
        per_group("w_lrs", "a,2", [1, 2])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"variant": "three_term"}, "variant must be one of coupled, two_term, one_term; got 'three_term'"),
        ({"w_iterations": 0}, "w_iterations must be at least 1; got 0"),
        ({"z_lr": 0.0}, "z_lr must be above 0; got 0.0"),
        ({"mu": 10.0, "mu_max": 1.0}, r"mu_max must be at least mu \(10.0\); got 1.0"),
        ({"coordinates": "int8"}, "coordinates must be one of float32, float16, bfloat16; got 'int8'"),
    ],
)
def test_wrong_hyperparameters_of_mac(wrong, message):
    with pytest.raises(ValueError, match=message):
        MacHyperparameters(**wrong)


def test_coordinates_that_move_together_take_equally_many_iterations():
    hyperparameters = {"variant": "coupled", "grouping": "1,1,1", "z_iterations_each": "1,2"}
    with pytest.raises(NotApplicable, match="z_iterations_each must be equal numbers; got '1,2'"):
        run_virtual_ranks(
            lambda c: problem.make(Mac, c, hyperparameters=hyperparameters, model=problem.make_deep_model()), (0,)
        )


def test_inputs_may_be_integers() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 1))
    tokens = torch.tensor([[0, 4], [2, 2], [1, 3]])
    batch = Batch(indices=torch.arange(3), inputs=tokens, targets=torch.ones(3, 1))
    method = Mac(
        MacHyperparameters(w_iterations=1, w_iterations_last=1), Context.on_one_rank(model, squared, inputs=tokens)
    )
    with torch.no_grad():
        expected = model[0](tokens)
    run(method, [batch])
    # The W-step of the first group is skipped, and the Z-step moves the coordinates by z_lr at most.
    torch.testing.assert_close(coordinates(method)[1].view(3, 2, 3), expected, atol=1e-4, rtol=0)
