"""Small networks that predict another rank's values before they arrive, and learn from them (Tong et al. 2016, sec. 4).

A learner predicts for a batch, and learns once that batch's true values arrive: pairs are matched by the batch's number
modulo the batches per epoch (section 8.3.1). Its loss is mean ||truth - prediction||^2, summed over features. It is
placed on the rank that asks (section 6.6), or on one rank that serves all others (section 6.5).
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
    """Predicts values of one shape from values of another, and optionally from class labels.

    Images (C, H, W) are predicted from images by convolutions, sequences (T, d) from sequences position by position,
    and everything else by fully connected layers.

    Args:
        shape_in, shape_out: shapes of one sample.
        num_classes: number of label classes; 0 for no labels.
        depth: number of hidden layers, with ReLU.
        width: units or channels of each hidden layer.
        zero: whether the last layer, and so the prediction, starts at zero.
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
        self._initialize(layers, zero, seed)

    @staticmethod
    def _initialize(layers: Sequence[nn.Conv2d | nn.Linear], zero: bool, seed: int) -> None:
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
        """Predict (n, *shape_out) from `values` (n, *shape_in) and labels (n,), or (n, T) for sequences."""
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
        synthesizer: the network.
        rate: its learning rate, which the schedule scales.
        frozen: whether it never learns.

    Attributes:
        losses: its loss on each batch since the list was last emptied.
        num_learned: number of batches it has learned from.
    """

    def __init__(self, context: Context, synthesizer: Synthesizer, rate: float, *, frozen: bool = False) -> None:
        like = next(context.model.parameters())
        self.synthesizer = synthesizer.to(like.device, like.dtype)
        self.flat = FlatModel(self.synthesizer)
        self._optimizer = context.optimizers(self.flat, rate, weight_decay=0.0)
        self._frozen = frozen
        self._num_batches = context.steps_per_epoch
        self._waiting: dict[int, tuple[Tensor, Tensor | None]] = {}
        self.losses: list[float] = []
        self.num_learned = 0

    def predict(self, number: int, values: Tensor, labels: Tensor | None) -> Tensor:
        """Return the prediction for batch `number`, from `values` (n, ...)."""
        self._waiting[number % self._num_batches] = values, labels
        with torch.no_grad():
            return self.synthesizer(values, labels)  # type: ignore[no-any-return]

    def learn(self, number: int, truth: Tensor) -> None:
        """Learn from the true values of batch `number`, for which `predict` has been called."""
        values, labels = self._waiting.pop(number % self._num_batches)
        self.num_learned += 1
        if not len(values):
            return
        with torch.set_grad_enabled(not self._frozen):
            loss = nn.functional.mse_loss(self.synthesizer(values, labels), truth, reduction="sum") / len(values)
        self.losses.append(float(loss.detach()))
        if not self._frozen:
            self.flat.backward(loss)
            self._optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the synthesizer, its optimizer and its losses; every prediction must have been learned from."""
        assert not self._waiting, "a batch's true values are still under way"
        return {
            "flat": self.flat.state_dict(),
            "optimizer": saved(self._optimizer),
            "losses": list(self.losses),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self.flat.load_state_dict(state["flat"])
        restore(self._optimizer, state["optimizer"])
        self.losses = list(state["losses"])


class _Tags(NamedTuple):
    """Tags of one learner's messages."""

    values: int
    labels: int
    prediction: int
    truth: int

    @classmethod
    def of(cls, learner: int) -> _Tags:
        return cls(*range(4 * learner, 4 * learner + 4))


class RemoteLearner:
    """A synthesizer on another rank, which answers from its progress engine.

    Args:
        communicator: contains both ranks.
        server: the other rank.
        number: unique among learners; determines the message tags.
        shape_out: shape of a prediction for one sample.
    """

    def __init__(self, communicator: Communicator, server: int, number: int, shape_out: Sequence[int]) -> None:
        self._communicator = communicator
        self._server = server
        self._tags = _Tags.of(number)
        self._shape_out = tuple(shape_out)
        self._sends: deque[Request] = deque()

    def _send(self, tensor: Tensor, tag: int) -> None:
        while self._sends and self._sends[0].test():
            self._sends.popleft()
        self._sends.append(self._communicator.start_send(tensor.contiguous(), self._server, tag))

    def predict(self, number: int, values: Tensor, labels: Tensor | None) -> Tensor:
        """Request a prediction, and wait for it."""
        if labels is not None:
            self._send(labels, self._tags.labels)
        self._send(values, self._tags.values)
        prediction = torch.empty((len(values), *self._shape_out), dtype=values.dtype, device=values.device)
        self._communicator.receive(prediction, self._server, self._tags.prediction)
        return prediction

    def learn(self, number: int, truth: Tensor) -> None:
        """Send the true values; messages keep their order, so the server can match them to batches."""
        self._send(truth, self._tags.truth)

    def settle(self) -> None:
        """Wait until all sends have completed."""
        while self._sends:
            self._sends.popleft().wait()


class _PredictionRequest(NamedTuple):
    """A rank's request for a prediction; `received` and `labels_received` tell whether the tensors have arrived."""

    source: int
    values: Tensor
    received: Request
    labels: Tensor | None
    labels_received: Request | None

    def has_arrived(self) -> bool:
        return self.received.test() and (self.labels_received is None or self.labels_received.test())


class Server:
    """Serves a learner to one other rank. Every wait must call `serve`.

    Args:
        communicator: contains both ranks.
        number: unique among learners; determines the message tags.
        learner: the synthesizer.
        shape_in, shape_out: shapes of one sample's values and prediction.
        label_shape: shape of one sample's labels; None for no labels.
        batch_size: number of samples per request.

    Attributes:
        num_expected: number of requests that the other rank sends until the end of the current step.
    """

    def __init__(
        self,
        communicator: Communicator,
        number: int,
        learner: LocalLearner,
        shape_in: Sequence[int],
        shape_out: Sequence[int],
        label_shape: Sequence[int] | None,
        batch_size: int,
    ) -> None:
        self._communicator = communicator
        self._tags = _Tags.of(number)
        self.learner = learner
        self._shapes = ((batch_size, *shape_in), (batch_size, *shape_out))
        self._label_shape = None if label_shape is None else (batch_size, *label_shape)
        self._requests: deque[_PredictionRequest] = deque()
        self._truths: deque[tuple[Request, Tensor]] = deque()
        self._answers: list[Request] = []
        self._num_answered = self.num_expected = 0
        self._is_serving = False

    @property
    def is_done(self) -> bool:
        """Whether all expected batches have been requested, answered and learned from."""
        return self.learner.num_learned >= self.num_expected and not self._answers

    def serve(self) -> None:
        """Answer the requests that have arrived, and learn from the true values that have; never waits."""
        if not self._is_serving:  # staging a message for a GPU waits, and so calls this again
            self._is_serving = True
            self._serve()
            self._is_serving = False

    def _serve(self) -> None:
        tags = self._tags
        while (source := self._communicator.arrived(tags.values)) is not None:
            self._requests.append(self._start_receiving_request(source))
        while (source := self._communicator.arrived(tags.truth)) is not None:
            truth = self._empty(self._shapes[1])
            self._truths.append((self._communicator.start_receive(truth, source, tags.truth), truth))
        self._answers = [request for request in self._answers if not request.test()]
        while self._requests and self._requests[0].has_arrived():
            request = self._requests.popleft()
            prediction = self.learner.predict(self._num_answered, request.values, request.labels).contiguous()
            self._answers.append(self._communicator.start_send(prediction, request.source, tags.prediction))
            self._num_answered += 1
        while self._truths and self.learner.num_learned < self._num_answered and self._truths[0][0].test():
            self.learner.learn(self.learner.num_learned, self._truths.popleft()[1])

    def _start_receiving_request(self, source: int) -> _PredictionRequest:
        values, labels, labels_received = self._empty(self._shapes[0]), None, None
        if self._label_shape is not None:
            labels = torch.empty(self._label_shape, dtype=torch.int64, device=values.device)
            labels_received = self._communicator.start_receive(labels, source, self._tags.labels)
        received = self._communicator.start_receive(values, source, self._tags.values)
        return _PredictionRequest(source, values, received, labels, labels_received)

    def _empty(self, shape: tuple[int, ...]) -> Tensor:
        like = self.learner.flat.parameters
        return torch.empty(shape, dtype=like.dtype, device=like.device)
