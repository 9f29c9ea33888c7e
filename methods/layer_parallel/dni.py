"""DNI: decoupled neural interfaces, or synthetic gradients (Jaderberg et al., 2016; source 004, sections 4 to 8).

The network is a chain of groups on ranks. Above each group but the last, with output h of a batch, a synthesizer M
predicts the loss's gradient with respect to h, from h and perhaps the labels.

    gradient_loss      groups wait for the true gradient, as backprop does, and M learns beside them             (5.1)
    update_decoupled   groups step at once with M(h); M learns when the gradient of its batch arrives            (5.2)
    fully_decoupled    moreover a synthesizer I predicts each group's input, which then need not be waited for   (5.3)

In update_decoupled a group waits for its input only, and in fully_decoupled for nothing, or with inputs_from `previous`
for what the group below predicts from. What M learns from is the gradient that the group above makes of its own
synthetic one (`bootstrapped`), or the loss's gradient passed down group by group, each recomputing the batch without
dropout with the parameters it then has (`true`). I predicts from x (8.3.2) or from the input of the group below (4),
and learns from that group's output. Within an epoch a rank may be ahead of the ones above by any number of batches, or
by max_lead; between epochs all that is under way is taken.

M sees and predicts gradients for each sample, b times that of the mean loss over a batch of b, so that its scale does
not depend on the batch size. Synthesizers lie with their groups (6.6), or all on the last rank (6.5). Where several
ranks share a group's samples, each has a copy of its synthesizers, which are averaged after every epoch.

Bytes for each interface and batch: 8bd, h up and a gradient down; if all synthesizers lie on one rank 12bd more for M,
with 8 bytes for each label; 4bd d' more in fully_decoupled with inputs_from `previous`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from atoll.methods.common.evaluation import evaluating
from atoll.methods.common.optimizers import restore, saved
from atoll.methods.common.validation import require, require_choice
from atoll.methods.layer_parallel.chain import Arrival, Chain, HandOver, take
from atoll.methods.layer_parallel.grouping import check_grouping
from atoll.methods.layer_parallel.synthesizers import LocalLearner, RemoteLearner, Server, Synthesizer, check_labels
from atoll.methods.method import Batch, Context, Method, NotApplicable

MODES = ("gradient_loss", "update_decoupled", "fully_decoupled")
PLACEMENTS = ("with_groups", "one_rank")
TARGETS = ("bootstrapped", "true")
SOURCES = ("x", "previous")
STARTS = ("zero", "random")
UP, DOWN, BASE = 1, 2, 3  # tags: h, gradients, what inputs are predicted from


@dataclass(frozen=True, kw_only=True)
class DniHyperparameters:
    """Hyperparameters of DNI.

    Attributes:
        mode: what is decoupled.
        grouping: how the network is cut, with an interface between any two groups: first, last, even, balanced, counts
            such as 1,1,5, or at:NAMES.
        num_groups: of the first four of these.
        placement: of the synthesizers.
        targets: what M learns from in the decoupled modes.
        depth, width: hidden layers of a synthesizer, and their units or channels.
        conditioned: whether M sees the class labels.
        synthesizer_lr: learning rate of all synthesizers.
        start: of M's last layer, zero as in the original paper or random as in 7.3.
        inputs_from: what I predicts from.
        freeze_inputs: whether I stays at its random start, a comparator of 8.3.2.
        block_first: whether the first group is not trained, another one.
        max_lead: batches that a group may be ahead of the gradients from above; 0 for any number.
    """

    mode: str = "update_decoupled"
    grouping: str = "even"
    num_groups: int = 2
    placement: str = "with_groups"
    targets: str = "bootstrapped"
    depth: int = 1
    width: int = 64
    conditioned: bool = False
    synthesizer_lr: float = 0.001
    start: str = "zero"
    inputs_from: str = "x"
    freeze_inputs: bool = False
    block_first: bool = False
    max_lead: int = 0

    def __post_init__(self) -> None:
        check_grouping(self.grouping)
        require_choice("mode", self.mode, MODES)
        require_choice("placement", self.placement, PLACEMENTS)
        require_choice("targets", self.targets, TARGETS)
        require_choice("start", self.start, STARTS)
        require_choice("inputs_from", self.inputs_from, SOURCES)
        require(self.num_groups >= 1, f"num_groups must be at least 1; got {self.num_groups}")
        require(0 <= self.depth <= 2, f"depth must be in 0..2; got {self.depth}")
        require(self.width >= 1, f"width must be at least 1; got {self.width}")
        require(self.max_lead >= 0, f"max_lead must be at least 0; got {self.max_lead}")
        require(
            not self.freeze_inputs or self.mode == "fully_decoupled",
            f"freeze_inputs is about synthetic inputs, so mode must be fully_decoupled; got {self.mode!r}",
        )
        require(self.synthesizer_lr > 0, f"synthesizer_lr must be above 0; got {self.synthesizer_lr}")


@dataclass
class _Expected:
    """What is to arrive about a batch: for M the gradient above a group, for I the output of the group below it.

    Attributes:
        number: of the batch.
        arrival: on its way.
        indices: of the batch's samples.
        input: of the group, where the true gradient has to be passed on.
    """

    number: int
    arrival: Arrival | HandOver
    indices: Tensor
    input: Tensor | None = None


class Dni(Method[DniHyperparameters]):
    """Let groups step without waiting for the gradients of the groups above."""

    Hyperparameters = DniHyperparameters
    optimizer_defaults: ClassVar[Mapping[str, Any]] = {"optimizer": "adamw", "learning_rate": 0.001}
    layer_parallel: ClassVar[bool] = True
    asynchronous: ClassVar[bool] = True

    def __init__(self, hyperparameters: DniHyperparameters, context: Context) -> None:
        h = self._h = hyperparameters
        self._context, size = context, context.communicator.size
        self._server = size - 1 if h.placement == "one_rank" and size > 1 else None
        self._chain = chain = Chain(context, h.grouping, h.num_groups, size if self._server is None else size - 1)
        if self._server is not None and any(len(ranks) > 1 for ranks in chain.ranks_of):
            raise NotApplicable(
                f"with all synthesizers on one rank each group has at most one rank beside it; got {size} ranks for "
                f"{len(chain.groups)} groups"
            )
        self._messages = context.communicator.split(0)
        self._optimizers = {g: context.optimizers([flat.vector]) for g, flat in chain.flats.items()}
        self._num_classes = chain.shapes[-1][-1] if h.conditioned else 0
        self._local: dict[int, LocalLearner] = {}
        self._servers: list[Server] = []
        self._server_is_ready = self._server != context.communicator.rank
        self._learners = self._make_learners()
        self._gradients: dict[int, deque[_Expected]] = {g: deque() for g in chain.mine}
        self._inputs: dict[int, deque[_Expected]] = {g: deque() for g in chain.mine}
        self._num_steps = 0
        self._lead = 0
        self._report: dict[str, float] = {}
        self.notes = (chain.describe(),)
        if self._server is not None:
            self.notes += (f"all synthesizers on rank {self._server}",)

    # Synthesizers. Number g is M above group g, number G + g is I below it.

    def _make_learners(self) -> dict[int, LocalLearner | RemoteLearner]:
        """Those that this rank asks."""
        num, mine = len(self._chain.groups), self._chain.mine
        wanted = [g for g in mine if g < self._chain.last]
        if self._h.mode == "fully_decoupled":
            wanted += [num + g for g in mine if g > 0]
        if self._server is not None:
            return {n: RemoteLearner(self._messages, self._server, n, self._shapes(n)[1]) for n in wanted}
        self._local = {n: self._make_learner(n) for n in wanted}
        return dict(self._local)

    def _shapes(self, number: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What a synthesizer takes and gives for one sample."""
        shapes, num = self._chain.shapes, len(self._chain.groups)
        if number < num:
            return shapes[number + 1], shapes[number + 1]
        g = number - num
        return shapes[0 if self._h.inputs_from == "x" else g - 1], shapes[g]

    def _make_learner(self, number: int) -> LocalLearner:
        h, num = self._h, len(self._chain.groups)
        is_gradient = number < num
        made = Synthesizer(
            *self._shapes(number),
            num_classes=self._num_classes if is_gradient else 0,
            depth=h.depth,
            width=h.width,
            zero=is_gradient and h.start == "zero",
            seed=self._context.seed * 1_000_003 + number,
        )
        return LocalLearner(self._context, made, h.synthesizer_lr, frozen=h.freeze_inputs and not is_gradient)

    def _start_server(self, batch: Batch) -> None:
        """Serve the learners of all other ranks from now on."""
        num = len(self._chain.groups)
        numbers = list(range(self._chain.last))
        if self._h.mode == "fully_decoupled":
            numbers += range(num + 1, 2 * num)
        shape_of_labels = tuple(batch.targets.shape[1:])
        for n in numbers:
            if n not in self._local:
                self._local[n] = self._make_learner(n)
            labels = shape_of_labels if self._h.conditioned and n < num else None
            size = len(batch.targets)
            self._servers.append(Server(self._messages, n, self._local[n], *self._shapes(n), labels, size))
            self._context.communicator.services.append(self._servers[-1].serve)
        self._server_is_ready = True

    # A step.

    def step(self, batch: Batch) -> Tensor:
        """Train on one batch."""
        if self._h.conditioned and self._num_steps == 0:
            check_labels(batch.targets)
        if not self._server_is_ready:
            self._start_server(batch)
        # A group's ranks take turns in the batch: shares by a sample's index would not be equal.
        indices = torch.arange(len(batch.targets))
        for server in self._servers:
            # All learn a batch at the schedule's rate of its step, or that of the next one.
            self._context.communicator.wait_until(lambda server=server: server.is_done)  # type: ignore[misc]
        self._take_what_has_arrived()
        if self._h.mode == "gradient_loss":
            loss = self._locked_step(batch, indices)
        else:
            loss = self._decoupled_step(batch, indices)
        for server in self._servers:
            server.num_expected += 1
        self._num_steps += 1
        self._take_what_has_arrived()
        return self._chain.as_loss_of_rank(loss)

    def _labels(self, batch: Batch, held: Tensor) -> Tensor | None:
        return take(batch.targets, held) if self._h.conditioned else None

    def _task_loss(self, outputs: Tensor, batch: Batch, held: Tensor) -> Tensor:
        """This rank's part of the batch's mean loss."""
        mean = self._context.loss(outputs, take(batch.targets, held)) if len(held) else outputs.sum()
        return self._chain.part_of_mean(mean, len(held), len(batch.targets)) if len(held) else mean * 0

    def _update(self, group: int) -> None:
        self._chain.sum_gradients(group)
        if not (group == 0 and self._h.block_first):
            self._optimizers[group].step()

    def _locked_step(self, batch: Batch, indices: Tensor) -> Tensor | None:
        """Backprop from rank to rank, and M beside it (5.1)."""
        chain, size = self._chain, len(indices)
        inputs, outputs, gradients, loss = {}, {}, {}, None
        for g in chain.mine:
            held = chain.owned(g, indices)
            inputs[g] = (
                take(batch.inputs, held) if g == 0 else chain.receive(g - 1, g, indices, UP).wait().requires_grad_()
            )
            outputs[g] = chain.groups[g](inputs[g])
            if g < chain.last:
                chain.send(outputs[g], g, g + 1, indices, UP)
        for g in reversed(chain.mine):
            chain.flats[g].gradients.zero_()
            held = chain.owned(g, indices)
            if g == chain.last:
                loss = self._task_loss(outputs[g], batch, held)
                loss.backward()  # type: ignore[no-untyped-call]
            else:
                gradients[g] = chain.receive(g + 1, g, indices, DOWN).wait()
                outputs[g].backward(gradients[g])
            if g > 0:
                chain.send(_gradient_of(inputs[g]), g, g - 1, indices, DOWN)
        for g, gradient in gradients.items():
            labels = self._labels(batch, chain.owned(g, indices))
            self._learners[g].predict(self._num_steps, outputs[g].detach(), labels)
            self._learners[g].learn(self._num_steps, gradient * size)
        for g in chain.mine:
            self._update(g)
        return loss

    def _decoupled_step(self, batch: Batch, indices: Tensor) -> Tensor | None:
        """Step each group with what is predicted, and expect the truth (5.2, 5.3)."""
        chain, size, loss = self._chain, len(indices), None
        for g in chain.mine:
            held = chain.owned(g, indices)
            x = self._input(g, batch, indices, held).detach()
            if g > 0:
                x.requires_grad_()
            output = chain.groups[g](x)
            chain.flats[g].gradients.zero_()
            if g == chain.last:
                loss = self._task_loss(output, batch, held)
                loss.backward()  # type: ignore[no-untyped-call]
            else:
                chain.send(output, g, g + 1, indices, UP)
                predicted = self._learners[g].predict(self._num_steps, output.detach(), self._labels(batch, held))
                output.backward(predicted / size)
                arrival = chain.receive(g + 1, g, indices, DOWN)
                kept = x.detach() if self._h.targets == "true" and g > 0 else None
                self._gradients[g].append(_Expected(self._num_steps, arrival, indices, kept))
                self._lead = max(self._lead, len(self._gradients[g]))
            if g > 0 and (g == chain.last or self._h.targets == "bootstrapped"):
                chain.send(_gradient_of(x), g, g - 1, indices, DOWN)
            self._update(g)
            if self._h.max_lead and g < chain.last:
                self._context.communicator.wait_until(lambda g=g: self._is_close(g))  # type: ignore[misc]
        return loss

    def _is_close(self, group: int) -> bool:
        """Whether no more than max_lead gradients are outstanding; takes what has arrived."""
        self._take_what_has_arrived()
        return len(self._gradients[group]) <= self._h.max_lead

    def _input(self, group: int, batch: Batch, indices: Tensor, held: Tensor) -> Tensor:
        """What goes into a group: the data, the output of the group below, or a prediction of it."""
        chain, num = self._chain, len(self._chain.groups)
        if group == 0:
            x = take(batch.inputs, held)
        elif self._h.mode == "update_decoupled":
            return chain.receive(group - 1, group, indices, UP).wait()
        else:
            if self._h.inputs_from == "x" or group == 1:
                base = take(batch.inputs, held)
            else:
                base = chain.receive(group - 1, group, indices, BASE, shape=chain.shapes[group - 1]).wait()
            x = self._learners[num + group].predict(self._num_steps, base, None)
            arrival = chain.receive(group - 1, group, indices, UP)
            self._inputs[group].append(_Expected(self._num_steps, arrival, indices))
        if self._h.mode == "fully_decoupled" and self._h.inputs_from == "previous" and 0 < group < chain.last:
            chain.send(x, group, group + 1, indices, BASE)
        return x

    # What arrives.

    def _take_what_has_arrived(self) -> None:
        """Let synthesizers learn; never waits."""
        self._chain.progress()
        # From above, where gradients come from, so that on one rank all are there at once.
        for g in reversed(self._chain.mine):
            while self._gradients[g] and self._gradients[g][0].arrival.test():
                self._take_gradient(g, self._gradients[g].popleft())
            while self._inputs[g] and self._inputs[g][0].arrival.test():
                expected = self._inputs[g].popleft()
                self._learners[len(self._chain.groups) + g].learn(expected.number, expected.arrival.wait())

    def _take_gradient(self, group: int, expected: _Expected) -> None:
        gradient = expected.arrival.wait()
        self._learners[group].learn(expected.number, gradient * len(expected.indices))
        if expected.input is not None:
            x = expected.input.requires_grad_()
            with evaluating(self._chain.groups[group]):
                (passed,) = torch.autograd.grad(self._chain.groups[group](x), x, gradient)
            self._chain.send(passed, group, group - 1, expected.indices, DOWN)

    def _settle(self) -> None:
        """Take all that is under way; collective."""

        def is_done() -> bool:
            self._take_what_has_arrived()
            return not any(self._gradients.values()) and not any(self._inputs.values())

        untracked = self._context.untracked
        untracked.wait_until(is_done)
        self._chain.settle()
        for learner in self._learners.values():
            if isinstance(learner, RemoteLearner):
                learner.settle()
        untracked.wait_until(lambda: all(server.is_done for server in self._servers))
        untracked.barrier()

    # What is reported, and the state.

    def epoch_end(self, loss: float) -> None:
        """Take what is under way, average the copies of synthesizers, and add their losses up."""
        self._settle()
        num = len(self._chain.groups)
        sums = torch.zeros(2, 2 * num, dtype=torch.float64)
        for number, learner in self._local.items():
            sums[0, number] += sum(learner.losses)
            sums[1, number] += len(learner.losses)
            learner.losses.clear()
            if self._server is None:
                self._chain.average_over_peers(learner.flat.state)
        self._context.untracked.sum(sums)
        totals, counts = sums
        leads = torch.zeros(self._context.communicator.size, dtype=torch.float64)
        leads[self._context.communicator.rank] = self._lead
        self._context.untracked.sum(leads)
        self._lead = 0
        self._report = {"lead": float(leads.max())} | {f"lead/rank_{r}": float(lead) for r, lead in enumerate(leads)}
        for name, first in (("synthesizer_loss", 0), ("input_loss", num)):
            learnt = {n: float(totals[n] / counts[n]) for n in range(first, first + num) if counts[n]}
            if learnt:
                self._report |= {f"{name}/group_{n - first}": loss for n, loss in learnt.items()}
                self._report[name] = sum(learnt.values()) / len(learnt)

    def metrics(self) -> dict[str, float]:
        """Of the last epoch: the mean loss of each M, by the group below it, and of each I, by the one above.

        lead is the largest number of batches that a rank was ahead of the gradients from above.
        """
        return self._report

    def evaluation_model(self) -> nn.Module:
        """Return the network; its synthesizers have no part in it."""
        self._settle()
        return self._chain.reassemble()

    def finalize(self) -> nn.Module:
        """Return the network."""
        return self.evaluation_model()

    def state_dict(self) -> dict[str, Any]:
        """Return this rank's groups and synthesizers, and their optimizers; collective."""
        self._settle()
        return {
            "groups": self._chain.state_dict(),
            "optimizers": {g: saved(optimizer) for g, optimizer in self._optimizers.items()},
            "learners": {n: learner.state_dict() for n, learner in self._local.items()},
            "num_steps": self._num_steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self._chain.load_state_dict(state["groups"])
        for g, optimizer in self._optimizers.items():
            restore(optimizer, state["optimizers"][g])
        for n, kept in state["learners"].items():
            if n not in self._local:
                self._local[n] = self._make_learner(n)
            self._local[n].load_state_dict(kept)
        self._num_steps = state["num_steps"]


def _gradient_of(x: Tensor) -> Tensor:
    """The gradient that has arrived at a group's input; 0 where nothing depends on it."""
    return torch.zeros_like(x) if x.grad is None else x.grad
