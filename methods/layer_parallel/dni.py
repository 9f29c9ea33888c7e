"""DNI: decoupled neural interfaces, or synthetic gradients (Jaderberg et al. 2016; Tong et al. 2016, sections 4 to 8).

The network is a chain of groups on ranks. Above each group but the last, with output h of a batch, a synthesizer M
predicts the loss's gradient with respect to h, from h and optionally the labels.

    gradient_loss      groups wait for the true gradient, as in backprop, and M learns from it         (section 5.1)
    update_decoupled   groups step at once with M(h); M learns when the gradient of its batch arrives  (section 5.2)
    fully_decoupled    also, a synthesizer I predicts each group's input, so groups need not wait      (section 5.3)

In update_decoupled a group waits for its input only. In fully_decoupled it waits for nothing, or with inputs_from
`previous` for the input of the group below. M learns from the loss's gradient (targets `true`; Tong et al. 2016,
sections 4 and 5.2), which is passed down group by group: each group recomputes the batch without dropout with the
parameters that it then has. With targets `bootstrapped` (Jaderberg et al. 2016) M learns from the gradient that the
group above derives from its own synthetic one; with two groups they are the same. I predicts from x (section 8.3.2) or
from the input of the group below (section 4), and learns from that group's output. Within an epoch a rank may be ahead
of the ones above by any number of batches, or by at most max_lead; between epochs all pending messages are processed.

M sees and predicts per-sample gradients, b times the gradient of the mean loss over a batch of b, so that its scale
does not depend on the batch size. Synthesizers are placed with their groups (section 6.6), or all on the last rank
(section 6.5). If several ranks share a group's samples, each has a copy of its synthesizers, and copies are averaged
after every epoch.

Bytes for each interface and batch: 8bd, h up and a gradient down; 12bd more for M if all synthesizers are on one rank,
plus 8 bytes per label; 4bd' more in fully_decoupled with inputs_from `previous`, with d' values in the input of the
group below. If r ranks share a group of n parameters, each also sends 2(r-1)/r 4n per batch, to sum its gradients, and
2(r-1)/r 4m per epoch, to average synthesizers of m parameters.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from atoll.methods.common.evaluation import evaluating
from atoll.methods.common.optimizers import restore, saved
from atoll.methods.common.weight_average import Evaluated
from atoll.methods.layer_parallel.chain import Arrival, Chain, HandOver, take
from atoll.methods.layer_parallel.dni_hyperparameters import DniHyperparameters
from atoll.methods.layer_parallel.dni_synthesizers import Synthesizers
from atoll.methods.layer_parallel.synthesizers import check_labels
from atoll.methods.method import Batch, Context, Method, MetricDirections, NotApplicable

UP, DOWN, BASE = 1, 2, 3  # message tags: h, gradients, the values that I predicts from


@dataclass
class _Expected:
    """A message about a batch that is still to arrive: the gradient at a group's output, or the input of a group.

    Attributes:
        number: the batch's number.
        arrival: the message.
        indices: the batch's samples.
        input: the group's input, if the true gradient has to be passed on to the group below.
    """

    number: int
    arrival: Arrival | HandOver
    indices: Tensor
    input: Tensor | None = None


class Dni(Method[DniHyperparameters]):
    """Let groups step without waiting for the gradients of the groups above."""

    Hyperparameters = DniHyperparameters
    mutable: ClassVar[tuple[str, ...]] = ("synthesizer_lr",)
    optimizer_defaults: ClassVar[Mapping[str, Any]] = {"optimizer": "adamw", "learning_rate": 0.001}
    metric_directions: ClassVar[MetricDirections] = {"lead": None, "synthesizer_loss": "minimize"}
    layer_parallel: ClassVar[bool] = True
    asynchronous: ClassVar[bool] = True

    def __init__(self, hyperparameters: DniHyperparameters, context: Context) -> None:
        h = self._hyperparameters = hyperparameters
        self._context, size = context, context.communicator.size
        server = size - 1 if h.placement == "one_rank" and size > 1 else None
        self._chain = chain = Chain(context, h.grouping, h.num_groups, size if server is None else size - 1)
        if h.mode == "fully_decoupled" and len(chain.groups) > 1 and not context.inputs.is_floating_point():
            raise NotApplicable(
                "fully_decoupled predicts the second group's input from the network's inputs, which must be "
                f"floating-point numbers; got {context.inputs.dtype}: mode must be gradient_loss or update_decoupled"
            )
        if server is not None and any(len(ranks) > 1 for ranks in chain.ranks_of):
            raise NotApplicable(
                "with all synthesizers on one rank, each group has at most one of the other ranks; "
                f"got {size} ranks for {len(chain.groups)} groups"
            )
        self._optimizers = {g: context.optimizers(flat) for g, flat in chain.flats.items()}
        self._synthesizers = Synthesizers(h, context, chain, server)
        self._gradients: dict[int, deque[_Expected]] = {g: deque() for g in chain.mine}
        self._inputs: dict[int, deque[_Expected]] = {g: deque() for g in chain.mine}
        self._num_steps = 0
        self._lead = 0
        self._is_busy = False
        self._report: dict[str, float] = {}
        self.notes = (chain.describe(),)
        if server is not None:
            self.notes += (f"all synthesizers on rank {server}",)
            context.communicator.services.append(self._serve)

    # A step.

    def step(self, batch: Batch) -> Tensor:
        """Train on one batch."""
        self._is_busy = True
        if self._hyperparameters.conditioned and self._num_steps == 0:
            check_labels(batch.targets)
        # Positions in the batch, not sample indices, place samples on a group's ranks: shares are then equal.
        indices = torch.arange(len(batch.targets))
        self._synthesizers.wait_for_served_batches(batch)
        self._process_arrivals()
        if self._hyperparameters.mode == "gradient_loss":
            loss = self._locked_step(batch, indices)
        else:
            loss = self._decoupled_step(batch, indices)
        self._synthesizers.expect_batch()
        self._num_steps += 1
        self._process_arrivals()
        self._is_busy = False
        return self._chain.as_loss_of_rank(loss)

    def _labels(self, batch: Batch, held: Tensor) -> Tensor | None:
        return take(batch.targets, held) if self._hyperparameters.conditioned else None

    def _task_loss(self, outputs: Tensor, batch: Batch, held: Tensor) -> Tensor:
        """This rank's part of the batch's mean loss."""
        if not len(held):
            return outputs.sum() * 0
        mean = self._context.loss(outputs, take(batch.targets, held))
        return self._chain.part_of_mean(mean, len(held), len(batch.targets))

    def _update(self, group: int) -> None:
        self._chain.sum_gradients(group)
        if not (group == 0 and self._hyperparameters.block_first):
            self._optimizers[group].step()

    def _locked_step(self, batch: Batch, indices: Tensor) -> Tensor | None:
        """Backpropagate from rank to rank, and let M learn (section 5.1)."""
        chain, size = self._chain, len(indices)
        inputs, outputs, gradients, loss = {}, {}, {}, None
        for g in chain.mine:
            if g == 0:
                inputs[g] = take(batch.inputs, chain.owned(g, indices))
            else:
                inputs[g] = chain.receive(g - 1, g, indices, UP).wait().requires_grad_()
            outputs[g] = chain.groups[g](inputs[g])
            if g < chain.last:
                chain.send(outputs[g], g, g + 1, indices, UP)
        for g in reversed(chain.mine):
            self._context.work.add(len(outputs[g]), g)
            chain.flats[g].gradients.zero_()
            if g == chain.last:
                loss = self._task_loss(outputs[g], batch, chain.owned(g, indices))
                loss.backward()  # type: ignore[no-untyped-call]
            else:
                gradients[g] = chain.receive(g + 1, g, indices, DOWN).wait()
                outputs[g].backward(gradients[g])
            if g > 0:
                chain.send(_gradient_of(inputs[g]), g, g - 1, indices, DOWN)
        for g, gradient in gradients.items():
            synthesizer, labels = self._synthesizers.gradient(g), self._labels(batch, chain.owned(g, indices))
            synthesizer.predict(self._num_steps, outputs[g].detach(), labels)
            synthesizer.learn(self._num_steps, gradient * size)
        for g in chain.mine:
            self._update(g)
        return loss

    def _decoupled_step(self, batch: Batch, indices: Tensor) -> Tensor | None:
        """Step each group with predictions, and expect the messages to learn from (sections 5.2, 5.3)."""
        chain, h, loss = self._chain, self._hyperparameters, None
        for g in chain.mine:
            held = chain.owned(g, indices)
            x = self._input(g, batch, indices, held).detach()
            if g > 0:
                x.requires_grad_()
            output = chain.groups[g](x)
            self._context.work.add(len(held), g)
            chain.flats[g].gradients.zero_()
            if g == chain.last:
                loss = self._task_loss(output, batch, held)
                loss.backward()  # type: ignore[no-untyped-call]
            else:
                self._descend_prediction(g, x, output, self._labels(batch, held), indices)
            if g > 0 and (g == chain.last or h.targets == "bootstrapped"):
                chain.send(_gradient_of(x), g, g - 1, indices, DOWN)
            self._update(g)
            if h.max_lead and g < chain.last:
                self._wait_for_gradients(g)
        return loss

    def _descend_prediction(
        self, group: int, x: Tensor, output: Tensor, labels: Tensor | None, indices: Tensor
    ) -> None:
        """Send a group's output up, backpropagate M's prediction, and expect the gradient that M learns from."""
        chain = self._chain
        chain.send(output, group, group + 1, indices, UP)
        predicted = self._synthesizers.gradient(group).predict(self._num_steps, output.detach(), labels)
        output.backward(predicted / len(indices))  # type: ignore[no-untyped-call]
        arrival = chain.receive(group + 1, group, indices, DOWN)
        kept_input = x.detach() if self._hyperparameters.targets == "true" and group > 0 else None
        self._gradients[group].append(_Expected(self._num_steps, arrival, indices, kept_input))
        self._lead = max(self._lead, len(self._gradients[group]))

    def _wait_for_gradients(self, group: int) -> None:
        """Wait until at most max_lead gradients of `group` are outstanding."""

        def is_close() -> bool:
            self._process_arrivals()
            return len(self._gradients[group]) <= self._hyperparameters.max_lead

        self._context.communicator.wait_until(is_close)

    def _input(self, group: int, batch: Batch, indices: Tensor, held: Tensor) -> Tensor:
        """The input of a group: the data, the output of the group below, or I's prediction of that output."""
        chain, h = self._chain, self._hyperparameters
        if group == 0:
            x = take(batch.inputs, held)
        elif h.mode == "update_decoupled":
            return chain.receive(group - 1, group, indices, UP).wait()
        else:
            if h.inputs_from == "x" or group == 1:
                base = take(batch.inputs, held)
            else:
                base = chain.receive(group - 1, group, indices, BASE, shape=chain.shapes[group - 1]).wait()
            x = self._synthesizers.input(group).predict(self._num_steps, base, None)
            arrival = chain.receive(group - 1, group, indices, UP)
            self._inputs[group].append(_Expected(self._num_steps, arrival, indices))
        if h.mode == "fully_decoupled" and h.inputs_from == "previous" and 0 < group < chain.last:
            chain.send(x, group, group + 1, indices, BASE)
        return x

    # Messages that arrive later.

    def _serve(self) -> None:
        """Process arrivals while this rank waits between two steps.

        In its steps the rank with the synthesizers waits for the gradients that they learn from, and some of them may
        reach this rank only after its last step of an epoch.
        """
        if not self._is_busy:
            self._is_busy = True  # staging a message for a GPU waits, and so calls this again
            self._process_arrivals()
            self._is_busy = False

    def _process_arrivals(self) -> None:
        """Let synthesizers learn from the messages that have arrived; never waits."""
        self._chain.progress()
        # Gradients come from above, so this order finds all of them at once if all groups are on one rank.
        for g in reversed(self._chain.mine):
            while self._gradients[g] and self._gradients[g][0].arrival.test():
                self._process_gradient(g, self._gradients[g].popleft())
            while self._inputs[g] and self._inputs[g][0].arrival.test():
                expected = self._inputs[g].popleft()
                self._synthesizers.input(g).learn(expected.number, expected.arrival.wait())

    def _process_gradient(self, group: int, expected: _Expected) -> None:
        """Let M learn, and pass a true gradient on to the group below."""
        gradient = expected.arrival.wait()
        self._synthesizers.gradient(group).learn(expected.number, gradient * len(expected.indices))
        if expected.input is not None:
            x = expected.input.requires_grad_()
            self._context.work.add(len(x), group)
            with evaluating(self._chain.groups[group]):
                (passed,) = torch.autograd.grad(self._chain.groups[group](x), x, gradient)
            self._chain.send(passed, group, group - 1, expected.indices, DOWN)

    def _settle(self) -> None:
        """Process all pending messages; collective."""
        self._is_busy = True

        def is_done() -> bool:
            self._process_arrivals()
            return not any(self._gradients.values()) and not any(self._inputs.values())

        self._context.untracked.wait_until(is_done)
        self._chain.settle()
        self._synthesizers.settle()
        self._is_busy = False
        self._context.untracked.barrier()

    # Reports and state.

    def epoch_end(self, loss: float) -> None:
        """Process pending messages, average the copies of synthesizers, and sum their losses over ranks."""
        self._settle()
        losses = self._synthesizers.losses()
        leads = torch.zeros(self._context.communicator.size, dtype=torch.float64)
        leads[self._context.communicator.rank] = self._lead
        self._context.untracked.sum(leads)
        self._lead = 0
        self._report = {"lead": float(leads.max())} | {f"lead/rank_{r}": float(lead) for r, lead in enumerate(leads)}
        self._report |= losses

    def metrics(self) -> dict[str, float]:
        """Return the last epoch's mean losses and leads.

        synthesizer_loss/group_g is the loss of M above group g, input_loss/group_g the loss of I below it. lead is the
        largest number of batches that a rank was ahead of the gradients from above.
        """
        return self._report

    def evaluated(self, model: nn.Module, num_ranks: int) -> Sequence[Evaluated]:
        """Return the groups' places."""
        return self._chain.evaluated()

    def evaluation_model(self) -> nn.Module:
        """Return the network, without synthesizers."""
        self._settle()
        return self._chain.reassemble()

    def finalize(self) -> nn.Module:
        """Return the network."""
        return self.evaluation_model()

    def state_dict(self) -> dict[str, Any]:
        """Process all pending messages, and return this rank's groups, synthesizers and optimizers; collective."""
        self._settle()
        return {
            "groups": self._chain.state_dict(),
            "optimizers": {g: saved(optimizer) for g, optimizer in self._optimizers.items()},
            "learners": self._synthesizers.state_dict(),
            "num_steps": self._num_steps,
            "lead": self._lead,
            "report": dict(self._report),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self._chain.load_state_dict(state["groups"])
        for g, optimizer in self._optimizers.items():
            restore(optimizer, state["optimizers"][g])
        self._synthesizers.load_state_dict(state["learners"])
        self._num_steps, self._lead, self._report = state["num_steps"], state["lead"], dict(state["report"])


def _gradient_of(x: Tensor) -> Tensor:
    """The gradient at a group's input; 0 if nothing depends on the input."""
    return torch.zeros_like(x) if x.grad is None else x.grad
