"""The identities of methods.md for synthetic gradients, as checks over any communicator."""

from __future__ import annotations

import copy
import itertools
import time

import problem
import pytest
import torch
from mac_contract import network, regression, squared
from ranks import on_layouts
from torch import nn

from atoll.communication.communicator import Communicator
from atoll.methods.data_parallel.ddp import Ddp
from atoll.methods.layer_parallel.dni import Dni
from atoll.methods.layer_parallel.dni_hyperparameters import MODES
from atoll.methods.layer_parallel.dni_synthesizers import SynthesizerId
from atoll.methods.method import Batch

SINGLE, PAIR, TRIPLE, TWO_BY_TWO = (0,), (0, 0), (0, 0, 0), (0, 0, 1, 1)
SGD = {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 1e-3, "learning_rate": 0.05}
PLAIN = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "learning_rate": 0.05}
FLOAT64 = 1e-12
WIDTHS = (6, 5, 7, 4, 3)
TRUNK = 6 * 5 + 5


def make(c: Communicator, hyperparameters: dict, settings: dict = SGD, model: nn.Module | None = None) -> Dni:
    given = {"hyperparameters": hyperparameters, "settings": settings, "model": model or network(WIDTHS)}
    return problem.make(Dni, c, loss=squared, inputs=regression().inputs[:2], **given)[0]


def batches(num: int) -> list[Batch]:
    whole = regression(8 * num)
    # targets that follow from the inputs, as far as a gradient can then be predicted
    return [
        Batch(indices=whole.indices[k], inputs=whole.inputs[k], targets=whole.inputs[k, :3] * 2)
        for k in torch.arange(8 * num).split(8)
    ]


def backprop(c: Communicator, steps: list[Batch], settings: dict = SGD) -> torch.Tensor:
    model = network(WIDTHS)
    alone = c.split(c.rank)
    made, _ = problem.make(Ddp, alone, settings=settings, model=model, loss=squared, inputs=regression().inputs[:2])
    for batch in steps:
        made.step(batch)
    return problem.vector(model)


@on_layouts(SINGLE, PAIR, TWO_BY_TWO)
def check_one_module_equals_backprop(c: Communicator) -> None:
    steps = batches(6)
    for mode in MODES:
        made = make(c, {"mode": mode, "grouping": "4"})
        for batch in steps:
            made.step(batch)
        assert problem.close(problem.vector(made.finalize()), backprop(c, steps), FLOAT64), mode


@on_layouts(SINGLE, PAIR, TRIPLE, TWO_BY_TWO)
def check_gradient_loss_trains_the_network_by_backprop(c: Communicator) -> None:
    steps = batches(6)
    for placement in ("with_groups", "one_rank"):
        made = make(c, {"mode": "gradient_loss", "grouping": {3: "2,2"}.get(c.size, "1,1,1,1"), "placement": placement})
        for batch in steps:
            made.step(batch)
        assert problem.close(problem.vector(made.finalize()), backprop(c, steps), FLOAT64), placement
        made.epoch_end(0.0)
        assert made.metrics()["synthesizer_loss"] > 0


@on_layouts(SINGLE, PAIR, TWO_BY_TWO)
def check_an_oracle_equals_backprop(c: Communicator) -> None:
    """Groups that step with the true gradient, computed from the network as it is before the step."""
    steps = batches(6)
    made = make(c, {"grouping": {2: "2,2", 4: "1,1,1,1"}.get(c.size, "1,1,2")}, PLAIN)
    chain = made._chain
    for batch in steps:
        made.evaluation_model()  # every rank sees all parameters
        for name, learner in made._synthesizers.asked.items():
            learner.predict = _oracle(chain, name.group, batch, learner)
        made.step(batch)
    assert problem.close(problem.vector(made.finalize()), backprop(c, steps, PLAIN), FLOAT64)


def _oracle(chain, group: int, batch: Batch, learner):
    above = nn.Sequential(*(copy.deepcopy(g) for g in chain.groups[group + 1 :]))
    held = chain.owned(group, torch.arange(len(batch.targets)))

    def predict(number: int, values: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        learner._waiting[number % learner._num_batches] = values, labels
        h = values.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(squared(above(h), batch.targets[held]) * len(held), h)
        return gradient

    return predict


@on_layouts(SINGLE, PAIR, TRIPLE, TWO_BY_TWO)
def check_a_zero_start_makes_the_first_update_of_lower_groups_zero(c: Communicator) -> None:
    for placement, mode in (
        ("with_groups", "update_decoupled"),
        ("one_rank", "update_decoupled"),
        ("with_groups", "fully_decoupled"),
    ):
        for start in ("zero", "random"):
            grouping = "2,2" if placement == "one_rank" and c.size == 3 else "1,2,1"
            if placement == "one_rank" and c.size == 4:
                grouping = "1,1,1,1"
            made = make(c, {"grouping": grouping, "start": start, "placement": placement, "mode": mode}, PLAIN)
            before = problem.vector(made.evaluation_model())
            made.step(batches(1)[0])
            change = (problem.vector(made.evaluation_model()) - before).abs()
            assert (float(change[:TRUNK].max()) == 0) == (start == "zero"), (placement, mode)
            assert float(change[-15:].max()) > 0


@on_layouts(PAIR, TWO_BY_TWO)
def check_groups_do_not_wait_for_those_above(c: Communicator) -> None:
    """The last rank begins when all others have done all their steps; whoever waited for it would wait for ever."""
    steps, untracked = batches(10), c.split(0)
    made = make(c, {"grouping": {2: "2,2", 4: "1,1,1,1"}[c.size]})
    if c.rank == c.size - 1:
        untracked.barrier()
    for batch in steps:
        made.step(batch)
    if c.rank < c.size - 1:
        if c.rank == c.size - 2:
            assert len(made._gradients[c.rank]) == len(steps)
        untracked.barrier()
    made.epoch_end(0.0)
    assert not any(made._gradients.values())
    assert made.metrics()["synthesizer_loss"] > 0


@on_layouts(PAIR, TWO_BY_TWO)
def check_fully_decoupled_groups_wait_for_nobody(c: Communicator) -> None:
    steps, untracked = batches(10), c.split(0)
    made = make(c, {"grouping": {2: "2,2", 4: "1,1,1,1"}[c.size], "mode": "fully_decoupled"})
    if c.rank == 0:
        untracked.barrier()
    for batch in steps:
        made.step(batch)
    if c.rank > 0:
        untracked.barrier()
    made.epoch_end(0.0)
    assert made.metrics()["input_loss"] > 0
    assert not any(made._inputs.values())


@on_layouts(SINGLE, PAIR, TRIPLE)
def check_pairs_are_of_one_batch(c: Communicator) -> None:
    """M learns a batch's gradient from that batch's h: in a still network its loss is what these pairs make it."""
    steps = batches(5)
    still = PLAIN | {"learning_rate": 1e-300}
    for placement, targets in itertools.product(("with_groups", "one_rank"), ("bootstrapped", "true")):
        given = {"grouping": "2,2", "placement": placement, "targets": targets, "depth": 0, "start": "random"}
        made = make(c, given | {"synthesizer_lr": 1e-300}, still)
        for batch in steps:
            made.step(batch)
        made.epoch_end(0.0)
        net, total = network(WIDTHS), 0.0
        # seeded: the same as was made before
        synthesizer = made._synthesizers.make_learner(SynthesizerId("M", 0)).synthesizer
        for batch in steps:
            h = net[:4](batch.inputs).detach().requires_grad_()
            (gradient,) = torch.autograd.grad(squared(net[4:](h), batch.targets) * len(h), h)
            total += float((gradient - synthesizer(h, None)).detach().square().sum(1).mean())
        assert made.metrics()["synthesizer_loss"] == pytest.approx(total / 5, rel=1e-9)


@on_layouts(PAIR)
def check_a_lead_may_be_bounded(c: Communicator) -> None:
    """Of a rank whose neighbour above is slow: 30 ms a step, of which its own takes one."""
    leads = {}
    for max_lead in (0, 1, 3):
        made = make(c, {"grouping": "2,2", "max_lead": max_lead})
        for batch in batches(10):
            if c.rank == 1:
                time.sleep(0.03)
            made.step(batch)
        made.epoch_end(0.0)
        leads[max_lead] = made.metrics()["lead"]
    # one more while its gradient is being waited for
    assert leads[1] == 2
    assert leads[3] == 4
    assert leads[0] > 4


@on_layouts(TRIPLE)
def check_a_servers_synthesizers_are_saved_and_loaded(c: Communicator) -> None:
    steps = batches(10)
    given = {"mode": "gradient_loss", "grouping": "2,2", "placement": "one_rank", "synthesizer_lr": 0.01}
    losses = []
    made = make(c, given)
    for batch in steps[:5]:
        made.step(batch)
    made.epoch_end(0.0)
    state = made.state_dict()
    again = make(c, given, model=network(WIDTHS, seed=8))
    again.load_state_dict(state)
    for method in (made, again):
        for batch in steps[5:]:
            method.step(batch)
        method.epoch_end(0.0)
        losses.append(method.metrics()["synthesizer_loss"])
    assert losses[0] == losses[1] > 0
    assert torch.equal(problem.vector(made.finalize()), problem.vector(again.finalize()))


@on_layouts(SINGLE, PAIR)
def check_the_true_gradient_is_passed_on(c: Communicator) -> None:
    """With a still network and M at zero, bootstrapped targets below the second interface are 0, true ones are not."""
    losses = {}
    for targets in ("bootstrapped", "true"):
        given = {"grouping": "1,2,1", "targets": targets, "synthesizer_lr": 1e-300}
        made = make(c, given, PLAIN | {"learning_rate": 1e-300})
        for batch in batches(3):
            made.step(batch)
        made.epoch_end(0.0)
        losses[targets] = made.metrics()
    assert losses["bootstrapped"]["synthesizer_loss/group_0"] == 0
    assert losses["bootstrapped"]["synthesizer_loss/group_1"] == losses["true"]["synthesizer_loss/group_1"] > 0
    net, total = network(WIDTHS), 0.0
    for batch in batches(3):
        h = net[:2](batch.inputs).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(squared(net[2:](h), batch.targets) * len(h), h)
        total += float(gradient.square().sum(1).mean())
    assert losses["true"]["synthesizer_loss/group_0"] == pytest.approx(total / 3, rel=1e-9)


@on_layouts(SINGLE, PAIR, TWO_BY_TWO)
def check_synthesizers_learn(c: Communicator) -> None:
    for mode in MODES:
        for inputs_from in ("x", "previous"):
            given = {"mode": mode, "grouping": "1,1,2", "inputs_from": inputs_from, "synthesizer_lr": 0.01}
            made = make(c, given, PLAIN | {"learning_rate": 1e-300, "optimizer": "adamw"})
            losses = []
            for _ in range(10):
                for batch in batches(5):
                    made.step(batch)
                made.epoch_end(0.0)
                losses.append(made.metrics())
            # The upper one's: the lower one's target is bootstrapped from what is itself still learning, and in
            # fully_decoupled the inputs of both are.
            learnt = "input_loss" if mode == "fully_decoupled" else "synthesizer_loss/group_1"
            assert losses[-1][learnt] < 0.75 * losses[0][learnt]
            assert ("input_loss" in losses[0]) == (mode == "fully_decoupled")


@on_layouts(SINGLE, PAIR)
def check_the_comparators_of_8_3_2(c: Communicator) -> None:
    given = {"mode": "fully_decoupled", "grouping": "1,3"}
    blocked = make(c, given | {"block_first": True, "start": "random"}, PLAIN)
    frozen = make(c, given | {"freeze_inputs": True}, PLAIN)
    before = problem.vector(blocked.evaluation_model())
    losses = []
    for _ in range(2):
        for batch in batches(4):
            blocked.step(batch)
            frozen.step(batch)
        frozen.epoch_end(0.0)
        losses.append(frozen.metrics())
    after = problem.vector(blocked.finalize())
    assert torch.equal(before[:TRUNK], after[:TRUNK])
    assert not torch.equal(before[TRUNK:], after[TRUNK:])
    synthesizers = [learner for name, learner in frozen._synthesizers.local.items() if name.kind == "I"]
    assert all(not learner._optimizer.state for learner in synthesizers)
    assert losses[0]["input_loss"] > 0


@on_layouts(PAIR, TWO_BY_TWO)
def check_bytes(c: Communicator) -> None:
    """8bd for each interface and batch at 4 bytes a value, twice as much here; the server's lines are 12bd."""
    num, b = 4, 8
    for mode, placement in (
        ("gradient_loss", "with_groups"),
        ("update_decoupled", "with_groups"),
        ("fully_decoupled", "with_groups"),
        ("update_decoupled", "one_rank"),
    ):
        if placement == "one_rank":
            grouping, between, asked = {2: ("2,2", 0, 7), 4: ("1,1,2", 5 + 7, 5 + 7)}[c.size]
        else:
            grouping, between, asked = {2: ("2,2", 7, 0), 4: ("1,1,1,1", 5 + 7 + 4, 0)}[c.size]
        made = make(c, {"mode": mode, "placement": placement, "grouping": grouping})
        before = c.ledger.wire_bytes()
        for batch in batches(num):
            made.step(batch)
        made.epoch_end(0.0)
        sent = torch.tensor(c.ledger.wire_bytes() - before, dtype=torch.float64)
        c.split(0).sum(sent)
        assert float(sent) == num * b * (16 * between + 24 * asked), (mode, placement)
