"""Small networks that predict what another rank has not sent yet, and learn from what it sends (004, section 4).

A learner predicts for a batch, and learns once the truth about that batch arrives: pairs are matched by the batch's
number modulo the batches of an epoch (8.3.1). Its loss is mean ||truth - prediction||^2, summed over features. It lies
on the rank that asks (6.6), or on one that serves all (6.5).
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from atoll.communication.communicator import Communicator, Request
from atoll.methods.common.flat import FlatModel
from atoll.methods.common.optimizers import restore, saved
from atoll.methods.method import Context, NotApplicable

KERNEL = 3


class Synthesizer(nn.Module):
    """Predicts values of one shape from values of another, and perhaps from class labels.

    Images (C, H, W) are predicted from images by convolutions, sequences (T, d) from sequences position by position,
    and all else by linear layers from everything.

    Args:
        shape_in, shape_out: of one sample.
        num_classes: of the labels; 0 for none.
        depth: hidden layers, with ReLU.
        width: of each, in units or channels.
        zero: whether the last layer starts at zero, and so the prediction.
        seed: for the initial weights.
    """

    def __init__(
        self,
        shape_in: Sequence[int],
        shape_out: Sequence[int],
        *,
        num_classes: int,
        depth: int,
        width: int,
        zero: bool,
        seed: int,
    ) -> None:
        super().__init__()
        self._shape_out = tuple(shape_out)
        self._num_classes = num_classes
        same_kind = len(shape_in) == len(shape_out) and (len(shape_in) != 2 or shape_in[0] == shape_out[0])
        self._kind = {2: "sequence", 3: "image"}.get(len(shape_in), "vector") if same_kind else "vector"
        if self._kind == "image":
            sizes = [shape_in[0] + num_classes, *[width] * depth, shape_out[0]]
            layers: list[nn.Conv2d] | list[nn.Linear] = [_convolution(a, b) for a, b in itertools.pairwise(sizes)]
            self.resize: nn.Module = nn.AdaptiveAvgPool2d(tuple(shape_out[1:]))
        else:
            whole = self._kind == "vector"
            num_in, num_out = (math.prod(s) if whole else s[-1] for s in (shape_in, shape_out))
            sizes = [num_in + num_classes, *[width] * depth, num_out]
            layers = [nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
            self.resize = nn.Identity()
        between = [m for layer in layers for m in (layer, nn.ReLU())][:-1]
        self.layers = nn.Sequential(*between)
        self._initialise(layers, zero, seed)

    @staticmethod
    def _initialise(layers: Sequence[nn.Conv2d | nn.Linear], zero: bool, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed % 2**63)
        with torch.no_grad():
            for layer in layers:
                fan_in = math.prod(layer.weight.shape[1:])
                for parameter in layer.parameters():
                    parameter.uniform_(-(fan_in**-0.5), fan_in**-0.5, generator=generator)
            if zero:
                for parameter in layers[-1].parameters():
                    parameter.zero_()

    def forward(self, values: Tensor, labels: Tensor | None) -> Tensor:
        """Predict (n, *shape_out) from `values` (n, *shape_in) and labels (n,), or (n, T) of a sequence."""
        if self._kind == "vector":
            values = values.flatten(1)
        if labels is not None:
            values = torch.cat([values, self._one_hot(labels, values)], dim=1 if self._kind == "image" else -1)
        return self.layers(self.resize(values)).reshape(len(values), *self._shape_out)  # type: ignore[no-any-return]

    def _one_hot(self, labels: Tensor, values: Tensor) -> Tensor:
        classes = nn.functional.one_hot(labels.clamp_min(0), self._num_classes).to(values.dtype)
        if self._kind == "image":
            return classes[:, :, None, None].expand(-1, -1, *values.shape[2:])
        if self._kind == "sequence" and labels.dim() == 1:
            return classes[:, None].expand(-1, values.shape[1], -1)
        return classes.flatten(1) if self._kind == "vector" else classes


def _convolution(num_in: int, num_out: int) -> nn.Conv2d:
    return nn.Conv2d(num_in, num_out, KERNEL, padding=KERNEL // 2)


def check_labels(targets: Tensor) -> None:
    """Raise NotApplicable unless `targets` are class labels."""
    if targets.is_floating_point():
        raise NotApplicable(
            "synthesizers can be conditioned on class labels only, and this workload's targets are "
            f"{targets.dtype} numbers; conditioned must be false"
        )


class LocalLearner:
    """A synthesizer on this rank.

    Args:
        context: the trial's.
        synthesizer: what learns.
        rate: its learning rate, scaled by the schedule.
        frozen: whether it never learns.

    Attributes:
        losses: of what it has learnt since somebody emptied the list.
        num_learnt: batches.
    """

    def __init__(self, context: Context, synthesizer: Synthesizer, rate: float, *, frozen: bool = False) -> None:
        like = next(context.model.parameters())
        self.synthesizer = synthesizer.to(like.device, like.dtype)
        self.flat = FlatModel(self.synthesizer)
        self._optimizer = context.optimizers([self.flat.vector], rate, weight_decay=0.0)
        self._frozen = frozen
        self._num_batches = context.steps_per_epoch
        self._waiting: dict[int, tuple[Tensor, Tensor | None]] = {}
        self.losses: list[float] = []
        self.num_learnt = 0

    def predict(self, number: int, values: Tensor, labels: Tensor | None) -> Tensor:
        """The prediction for batch `number`, from `values` (n, ...)."""
        self._waiting[number % self._num_batches] = values, labels
        with torch.no_grad():
            return self.synthesizer(values, labels)  # type: ignore[no-any-return]

    def learn(self, number: int, truth: Tensor) -> None:
        """Learn from the truth about batch `number`, which has been predicted."""
        values, labels = self._waiting.pop(number % self._num_batches)
        self.num_learnt += 1
        if not len(values):
            return
        with torch.set_grad_enabled(not self._frozen):
            loss = nn.functional.mse_loss(self.synthesizer(values, labels), truth, reduction="sum") / len(values)
        self.losses.append(float(loss.detach()))
        if not self._frozen:
            self.flat.backward(loss)
            self._optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the synthesizer and its optimizer."""
        return {"flat": self.flat.state_dict(), "optimizer": saved(self._optimizer)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self.flat.load_state_dict(state["flat"])
        restore(self._optimizer, state["optimizer"])


class _Tags(NamedTuple):
    """Of one learner's messages."""

    values: int
    labels: int
    prediction: int
    truth: int

    @classmethod
    def of(cls, learner: int) -> _Tags:
        return cls(*range(4 * learner, 4 * learner + 4))


class RemoteLearner:
    """A synthesizer on another rank, which serves from its waits.

    Args:
        communicator: with both ranks.
        server: the other one.
        number: tells learners apart.
        shape_out: of a prediction for one sample.
    """

    def __init__(self, communicator: Communicator, server: int, number: int, shape_out: Sequence[int]) -> None:
        self._communicator = communicator
        self._server = server
        self._tags = _Tags.of(number)
        self._shape_out = tuple(shape_out)
        self._under_way: deque[Request] = deque()

    def _send(self, tensor: Tensor, tag: int) -> None:
        while self._under_way and self._under_way[0].test():
            self._under_way.popleft()
        self._under_way.append(self._communicator.start_send(tensor.contiguous(), self._server, tag))

    def predict(self, number: int, values: Tensor, labels: Tensor | None) -> Tensor:
        """Ask, and wait for the answer."""
        if labels is not None:
            self._send(labels, self._tags.labels)
        self._send(values, self._tags.values)
        prediction = torch.empty((len(values), *self._shape_out), dtype=values.dtype, device=values.device)
        self._communicator.receive(prediction, self._server, self._tags.prediction)
        return prediction

    def learn(self, number: int, truth: Tensor) -> None:
        """Send the truth; batches come in their order, so the server knows which one it is about."""
        self._send(truth, self._tags.truth)

    def settle(self) -> None:
        """Wait until the server has taken all that was sent."""
        while self._under_way:
            self._under_way.popleft().wait()


class Server:
    """Serves a learner to one other rank. `serve` is to be called in every wait.

    Args:
        communicator: with both ranks.
        number: tells learners apart.
        learner: the synthesizer.
        shape_in, shape_out: of one sample, and what it asks for.
        shape_of_labels: of one sample; None for none.
        batch_size: samples that are asked for at once.

    Attributes:
        num_expected: batches that the other rank will have asked about.
    """

    def __init__(
        self,
        communicator: Communicator,
        number: int,
        learner: LocalLearner,
        shape_in: Sequence[int],
        shape_out: Sequence[int],
        shape_of_labels: Sequence[int] | None,
        batch_size: int,
    ) -> None:
        self._communicator = communicator
        self._tags = _Tags.of(number)
        self.learner = learner
        self._shapes = ((batch_size, *shape_in), (batch_size, *shape_out))
        self._shape_of_labels = None if shape_of_labels is None else (batch_size, *shape_of_labels)
        self._asked: deque[tuple[Request, Request | None, Tensor, Tensor | None, int]] = deque()
        self._told: deque[tuple[Request, Tensor]] = deque()
        self._answers: list[Request] = []
        self._num_asked = self.num_expected = 0
        self._is_serving = False

    @property
    def is_done(self) -> bool:
        """Whether all that is expected has been asked, answered and learnt."""
        return self.learner.num_learnt >= self.num_expected and not self._answers

    def serve(self) -> None:
        """Answer what has arrived, and learn from it; never waits."""
        if not self._is_serving:  # what is staged for a GPU waits, and serves
            self._is_serving = True
            self._serve()
            self._is_serving = False

    def _serve(self) -> None:
        like = self.learner.flat.parameters
        tags = self._tags
        while (source := self._communicator.arrived(tags.values)) is not None:
            values = torch.empty(self._shapes[0], dtype=like.dtype, device=like.device)
            labels, received_labels = None, None
            if self._shape_of_labels is not None:
                labels = torch.empty(self._shape_of_labels, dtype=torch.int64, device=like.device)
                received_labels = self._communicator.start_receive(labels, source, tags.labels)
            received = self._communicator.start_receive(values, source, tags.values)
            self._asked.append((received, received_labels, values, labels, source))
        while (source := self._communicator.arrived(tags.truth)) is not None:
            truth = torch.empty(self._shapes[1], dtype=like.dtype, device=like.device)
            self._told.append((self._communicator.start_receive(truth, source, tags.truth), truth))
        self._answers = [request for request in self._answers if not request.test()]
        while self._asked and self._asked[0][0].test() and (self._asked[0][1] is None or self._asked[0][1].test()):
            _, _, values, labels, source = self._asked.popleft()
            prediction = self.learner.predict(self._num_asked, values, labels).contiguous()
            self._answers.append(self._communicator.start_send(prediction, source, tags.prediction))
            self._num_asked += 1
        while self._told and self.learner.num_learnt < self._num_asked and self._told[0][0].test():
            self.learner.learn(self.learner.num_learnt, self._told.popleft()[1])
