"""DNI: synthetic gradients (Jaderberg 2017; Tong et al.)."""

import itertools
import time

import pytest
import torch
from on_ranks import on_ranks
from regression import STILL, network, regression, squared
from torch import nn

from atoll.communication.communicator import Communicator
from atoll.methods.data_parallel.ddp import Ddp
from atoll.methods.layer_parallel.dni import Dni
from atoll.methods.layer_parallel.dni_hyperparameters import MODES, DniHyperparameters
from atoll.methods.layer_parallel.synthesizers import Synthesizer
from atoll.methods.method import Batch, Context, NotApplicable
from atoll.platform.study import registry
from atoll.testing import CHECKS, Subject, problem
from atoll.testing.method_contract import FLOAT64
from atoll.testing.ranks import PAIR, SINGLE, TRIPLE, TWO_BY_TWO

SGD = {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 1e-3, "learning_rate": 0.05}
PLAIN = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "learning_rate": 0.05}
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


def backprop(c: Communicator, steps: list[Batch], settings: dict = SGD, model: nn.Module | None = None) -> torch.Tensor:
    model = model or network(WIDTHS)
    alone = c.split(c.rank)
    method, _ = problem.make(Ddp, alone, settings=settings, model=model, loss=squared, inputs=regression().inputs[:2])
    for batch in steps:
        method.step(batch)
    return problem.vector(model)


@on_ranks(SINGLE, PAIR, TWO_BY_TWO)
def test_one_module_equals_backprop(c: Communicator) -> None:
    steps = batches(6)
    for mode in MODES:
        method = make(c, {"mode": mode, "grouping": "4"})
        for batch in steps:
            method.step(batch)
        assert problem.close(problem.vector(method.finalize()), backprop(c, steps), FLOAT64), mode


@on_ranks(SINGLE, PAIR, TRIPLE, TWO_BY_TWO)
def test_gradient_loss_trains_the_network_by_backprop(c: Communicator) -> None:
    steps = batches(6)
    for placement in ("with_groups", "one_rank"):
        method = make(
            c, {"mode": "gradient_loss", "grouping": {3: "2,2"}.get(c.size, "1,1,1,1"), "placement": placement}
        )
        for batch in steps:
            method.step(batch)
        assert problem.close(problem.vector(method.finalize()), backprop(c, steps), FLOAT64), placement
        method.epoch_end(0.0)
        assert method.metrics()["synthesizer_loss"] > 0


@on_ranks(SINGLE, PAIR, TWO_BY_TWO)
def test_an_oracle_equals_backprop(c: Communicator) -> None:
    """Groups that step with the true gradient, of the network as it is before the step.

    Above the first group all is linear, and all targets are 0: so the gradient of each interface is linear in h, and a
    synthesizer without hidden layers that is given its coefficients before every step is exact.
    """
    steps = [Batch(indices=b.indices, inputs=b.inputs, targets=torch.zeros_like(b.targets)) for b in batches(6)]
    grouping = {2: "2,2", 4: "1,1,1,1"}.get(c.size, "1,1,2")
    method = make(c, {"grouping": grouping, "depth": 0}, PLAIN, linear_above_the_first())
    sizes = [int(size) for size in grouping.split(",")]
    for batch in steps:
        layers = [m for m in method.evaluation_model() if isinstance(m, nn.Linear)]
        state = method.state_dict()
        for name, learner in state["learners"].items():
            group = int(name.removeprefix("M/"))
            learner["flat"]["state"] = oracle(layers[sum(sizes[: group + 1]) :])
        method.load_state_dict(state)
        method.step(batch)
    expected = backprop(c, steps, PLAIN, linear_above_the_first())
    assert problem.close(problem.vector(method.finalize()), expected, FLOAT64)


def linear_above_the_first() -> nn.Sequential:
    """The network without the activations above its first layer."""
    model = network(WIDTHS)
    return nn.Sequential(*(m for number, m in enumerate(model) if number < 2 or isinstance(m, nn.Linear)))


def oracle(layers: list[nn.Linear]) -> torch.Tensor:
    """Weight and bias of the gradient 2 (h A^T + a) A of ||h A^T + a||^2, the layers' product being A and a."""
    weight, bias = torch.eye(layers[0].in_features, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for layer in layers:
        weight, bias = (
            layer.weight.detach() @ weight,
            layer.weight.detach() @ (bias + 0 * weight[:, 0]) + layer.bias.detach(),
        )
    return torch.cat([(2 * weight.T @ weight).reshape(-1), 2 * bias @ weight])


@on_ranks(SINGLE, PAIR, TRIPLE, TWO_BY_TWO)
def test_a_zero_start_makes_the_first_update_of_lower_groups_zero(c: Communicator) -> None:
    for placement, mode in (
        ("with_groups", "update_decoupled"),
        ("one_rank", "update_decoupled"),
        ("with_groups", "fully_decoupled"),
    ):
        for start in ("zero", "random"):
            grouping = "2,2" if placement == "one_rank" and c.size == 3 else "1,2,1"
            if placement == "one_rank" and c.size == 4:
                grouping = "1,1,1,1"
            method = make(c, {"grouping": grouping, "start": start, "placement": placement, "mode": mode}, PLAIN)
            before = problem.vector(method.evaluation_model())
            method.step(batches(1)[0])
            change = (problem.vector(method.evaluation_model()) - before).abs()
            assert (float(change[:TRUNK].max()) == 0) == (start == "zero"), (placement, mode)
            assert float(change[-15:].max()) > 0


@on_ranks(PAIR, TWO_BY_TWO)
def test_groups_do_not_wait_for_those_above(c: Communicator) -> None:
    """The last rank begins when all others have done all their steps; whoever waited for it would wait for ever."""
    steps, untracked = batches(10), c.split(0)
    method = make(c, {"grouping": {2: "2,2", 4: "1,1,1,1"}[c.size]})
    if c.rank == c.size - 1:
        untracked.barrier()
    for batch in steps:
        method.step(batch)
    if c.rank < c.size - 1:
        untracked.barrier()
    method.epoch_end(0.0)
    assert method.metrics()[f"lead/rank_{c.size - 2}"] == len(steps)
    assert method.metrics()["synthesizer_loss"] > 0


@on_ranks(PAIR, TWO_BY_TWO)
def test_fully_decoupled_groups_wait_for_nobody(c: Communicator) -> None:
    steps, untracked = batches(10), c.split(0)
    method = make(c, {"grouping": {2: "2,2", 4: "1,1,1,1"}[c.size], "mode": "fully_decoupled"})
    if c.rank == 0:
        untracked.barrier()
    for batch in steps:
        method.step(batch)
    if c.rank > 0:
        untracked.barrier()
    method.epoch_end(0.0)
    assert method.metrics()["input_loss"] > 0


@on_ranks(TRIPLE)
@pytest.mark.parametrize("mode", ["update_decoupled", "fully_decoupled"])
def test_a_rank_that_has_done_its_steps_lets_the_synthesizers_of_another_rank_learn(c: Communicator, mode: str) -> None:
    """The last group begins when the first has done all its steps, and waits where a trial adds up losses."""
    steps, word = batches(10), torch.zeros(1)
    method = make(c, {"grouping": "2,2", "placement": "one_rank", "mode": mode})
    if c.rank == 1:
        c.receive(word, 0, tag=5)
    for batch in steps:
        method.step(batch)
    if c.rank == 0:
        c.send(word, 1, tag=5)
    c.barrier()
    method.epoch_end(0.0)
    assert method.metrics()["lead/rank_0"] == len(steps)
    assert method.metrics()["synthesizer_loss"] > 0


@on_ranks(SINGLE, PAIR, TRIPLE)
@pytest.mark.parametrize("mode", ["gradient_loss", "update_decoupled"])
def test_pairs_are_of_one_batch(c: Communicator, mode: str) -> None:
    """M learns a batch's gradient, b times that of the mean loss, from that batch's h: its loss in a still network."""
    steps = batches(5)
    still = PLAIN | {"learning_rate": STILL}
    for placement, targets in itertools.product(("with_groups", "one_rank"), ("bootstrapped", "true")):
        given = {"mode": mode, "grouping": "2,2", "placement": placement, "targets": targets}
        method = make(c, given | {"depth": 0, "start": "random", "synthesizer_lr": STILL}, still)
        for batch in steps:
            method.step(batch)
        method.epoch_end(0.0)
        net, total = network(WIDTHS), 0.0
        # seeded, so equal to the method's
        synthesizer = Synthesizer((7,), (7,), num_classes=0, depth=0, width=64, zero=False, seed=0).double()
        for batch in steps:
            h = net[:4](batch.inputs).detach().requires_grad_()
            (gradient,) = torch.autograd.grad(squared(net[4:](h), batch.targets) * len(h), h)
            total += float((gradient - synthesizer(h, None)).detach().square().sum(1).mean())
        assert method.metrics()["synthesizer_loss"] == pytest.approx(total / 5, rel=1e-9)


@on_ranks(PAIR)
def test_a_lead_may_be_bounded(c: Communicator) -> None:
    """Of a rank whose neighbour above is slow: 30 ms a step, of which its own takes one."""
    leads = {}
    for max_lead in (0, 1, 3):
        method = make(c, {"grouping": "2,2", "max_lead": max_lead})
        for batch in batches(10):
            if c.rank == 1:
                time.sleep(0.03)
            method.step(batch)
        method.epoch_end(0.0)
        leads[max_lead] = method.metrics()["lead"]
    # one more while its gradient is being waited for
    assert leads[1] == 2
    assert leads[3] == 4
    assert leads[0] > 4


@on_ranks(SINGLE, TRIPLE)
@pytest.mark.parametrize("given", [{"placement": "one_rank"}, {"targets": "true"}], ids=["one_rank", "true"])
def test_groups_that_step_at_once_continue_from_a_checkpoint(c: Communicator, given: dict) -> None:
    given = {
        "mode": "update_decoupled",
        "grouping": "even",
        "num_groups": 2 if "placement" in given else 3,
        "synthesizer_lr": 0.01,
    } | given
    subject = Subject(method=Dni, hyperparameters=given, settings={"learning_rate": 0.01})
    CHECKS["continues_from_a_checkpoint_at_any_step"](c, subject)


@on_ranks(TRIPLE)
def test_a_servers_synthesizers_are_saved_and_loaded(c: Communicator) -> None:
    steps = batches(10)
    given = {"mode": "gradient_loss", "grouping": "2,2", "placement": "one_rank", "synthesizer_lr": 0.01}
    losses = []
    method = make(c, given)
    for number, batch in enumerate(steps[:5]):
        method.step(batch)
        if number == 2:
            method.epoch_end(0.0)
    state = method.state_dict()  # within an epoch
    again = make(c, given, model=network(WIDTHS, seed=8))
    again.load_state_dict(state)
    for instance in (method, again):
        for batch in steps[5:]:
            instance.step(batch)
        instance.epoch_end(0.0)
        losses.append(instance.metrics()["synthesizer_loss"])
    assert losses[0] == losses[1] > 0  # a mean over the epoch's batches, those before the checkpoint included
    assert torch.equal(problem.vector(method.finalize()), problem.vector(again.finalize()))


def test_synthesizers_learn_from_the_true_gradient_unless_told_otherwise() -> None:
    """As in Tong et al. 2016, sections 4 and 5.2."""
    assert DniHyperparameters().targets == "true"
    space = registry.whole_space("dni")
    assert space.default()["targets"] == "true"
    (targets,) = (p for p in space.parameters if p.name == "targets")
    assert set(targets.distribution.choices) == {"true", "bootstrapped"}
    assert "targets" not in space.override({"mode": "gradient_loss"}).default()


@on_ranks(SINGLE, PAIR)
def test_the_true_gradient_is_passed_on(c: Communicator) -> None:
    """With a still network and M at zero, bootstrapped targets below the second interface are 0, true ones are not."""
    losses = {}
    for targets in ("bootstrapped", "true"):
        given = {"grouping": "1,2,1", "targets": targets, "synthesizer_lr": STILL}
        method = make(c, given, PLAIN | {"learning_rate": STILL})
        for batch in batches(3):
            method.step(batch)
        method.epoch_end(0.0)
        losses[targets] = method.metrics()
    default = make(c, {"grouping": "1,2,1", "synthesizer_lr": STILL}, PLAIN | {"learning_rate": STILL})
    for batch in batches(3):
        default.step(batch)
    default.epoch_end(0.0)
    assert default.metrics()["synthesizer_loss/group_0"] == losses["true"]["synthesizer_loss/group_0"]
    assert losses["bootstrapped"]["synthesizer_loss/group_0"] == 0
    assert losses["bootstrapped"]["synthesizer_loss/group_1"] == losses["true"]["synthesizer_loss/group_1"] > 0
    net, total = network(WIDTHS), 0.0
    for batch in batches(3):
        h = net[:2](batch.inputs).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(squared(net[2:](h), batch.targets) * len(h), h)
        total += float(gradient.square().sum(1).mean())
    assert losses["true"]["synthesizer_loss/group_0"] == pytest.approx(total / 3, rel=1e-9)


@on_ranks(SINGLE, PAIR, TWO_BY_TWO)
def test_synthesizers_learn(c: Communicator) -> None:
    for mode in MODES:
        for inputs_from in ("x", "previous"):
            given = {"mode": mode, "grouping": "1,1,2", "inputs_from": inputs_from, "synthesizer_lr": 0.01}
            method = make(c, given, PLAIN | {"learning_rate": STILL, "optimizer": "adamw"})
            losses = []
            for _ in range(10):
                for batch in batches(5):
                    method.step(batch)
                method.epoch_end(0.0)
                losses.append(method.metrics())
            # The upper one's: the lower one's target is bootstrapped from what is itself still learning, and in
            # fully_decoupled the inputs of both are.
            learnt = "input_loss" if mode == "fully_decoupled" else "synthesizer_loss/group_1"
            assert losses[-1][learnt] < 0.75 * losses[0][learnt]
            assert ("input_loss" in losses[0]) == (mode == "fully_decoupled")


@on_ranks(SINGLE, PAIR)
def test_the_comparators_of_8_3_2(c: Communicator) -> None:
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
    learners = frozen.state_dict()["learners"]
    assert all(not learner["optimizer"]["state"] for name, learner in learners.items() if name.startswith("I"))
    assert losses[0]["input_loss"] > 0


@on_ranks(PAIR, TWO_BY_TWO)
def test_bytes(c: Communicator) -> None:
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
        method = make(c, {"mode": mode, "placement": placement, "grouping": grouping})
        before = c.ledger.wire_bytes()
        for batch in batches(num):
            method.step(batch)
        method.epoch_end(0.0)
        sent = torch.tensor(c.ledger.wire_bytes() - before, dtype=torch.float64)
        c.split(0).sum(sent)
        assert float(sent) == num * b * (16 * between + 24 * asked), (mode, placement)


@on_ranks(TWO_BY_TWO)
def test_bytes_of_ranks_that_share_a_group(c: Communicator) -> None:
    """Each of r ranks sends 2(r-1)/r 4n (here 8n) more for every batch, and as much of a synthesizer every epoch."""
    num, b = 4, 8
    for mode in ("gradient_loss", "update_decoupled"):
        method = make(c, {"mode": mode, "grouping": "2,2", "depth": 0})
        before = c.ledger.wire_bytes()
        for batch in batches(num):
            method.step(batch)
        method.epoch_end(0.0)
        sent = torch.tensor(c.ledger.wire_bytes() - before, dtype=torch.float64)
        c.split(0).sum(sent)
        num_parameters = len(problem.vector(network(WIDTHS)))
        synthesizer = 7 * 7 + 7
        assert float(sent) == num * b * 16 * 7 + 2 * 8 * (num * num_parameters + synthesizer), mode
        method.finalize()


def test_integer_inputs_are_refused_where_they_would_be_predicted_from() -> None:
    model = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 1))
    context = Context.on_one_rank(model, squared, inputs=torch.tensor([[0, 4]]))
    for hyperparameters in ({"mode": "gradient_loss"}, {}, {"mode": "fully_decoupled", "num_groups": 1}):
        Dni(DniHyperparameters(**hyperparameters), context)
    with pytest.raises(NotApplicable, match=r"fully_decoupled predicts .* floating-point numbers; got torch\.int64"):
        Dni(DniHyperparameters(mode="fully_decoupled"), context)
