"""Loss and gradient of a batch, as the training settings ask for: precision and accumulation over micro-batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from atoll.methods.common.compiled import compiled
from atoll.methods.common.work import Work

if TYPE_CHECKING:
    from atoll.methods.common.optimizers import OptimizerFactory
    from atoll.methods.method import Batch

AUTOCAST_DTYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
PRECISIONS = tuple(AUTOCAST_DTYPES)


class Gradients(Protocol):
    """Where gradients go: a `FlatModel`, or `GradientBuckets`, which also averages them over ranks."""

    def collecting(self, num_parts: int = 1, scale: float = 1.0) -> AbstractContextManager[None]:
        """Replace the gradients by the sum of those of `num_parts` backward passes in the block, divided by `scale`."""


class LossScale:
    """The dynamic factor of the loss that keeps float16 gradients from vanishing (Micikevicius et al. 2018).

    It doubles after `GROWTH_INTERVAL` steps with finite gradients. A step with others is skipped, and halves it.

    Attributes:
        value: the factor.
    """

    GROWTH_INTERVAL = 2000

    def __init__(self) -> None:
        self.value = 2.0**16
        self._num_finite = 0

    def accepts(self, gradients: list[Tensor]) -> bool:
        """Whether gradients are finite, so that the step may be taken; adapts the factor to it.

        Raises:
            FloatingPointError: if they are not finite at a factor of 1, as no smaller one would help.
        """
        if not all(bool(torch.isfinite(gradient).all()) for gradient in gradients):
            if self.value <= 1:
                raise FloatingPointError("the gradients are NaN or infinite, though the loss is not scaled any more")
            self.value = max(self.value / 2, 1.0)
            self._num_finite = 0
            return False
        self._num_finite += 1
        if self._num_finite == self.GROWTH_INTERVAL:
            self.value *= 2
            self._num_finite = 0
        return True

    def guard(self, optimizer: torch.optim.Optimizer) -> None:
        """Let the optimizer skip steps whose gradients are not finite."""
        step = optimizer.step

        def guarded() -> None:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            if self.accepts([p.grad for p in parameters if p.grad is not None]):
                step()

        optimizer.step = guarded  # type: ignore[method-assign, assignment]

    def state_dict(self) -> dict[str, Any]:
        """Return the factor, and the number of steps since it changed."""
        return {"value": self.value, "num_finite": self._num_finite}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self.value, self._num_finite = state["value"], state["num_finite"]


class BatchGradient:
    """Makes loss and gradient of a batch: forward, loss and backward of its micro-batches in the chosen precision.

    Args:
        model: the network.
        forward: (network, batch) -> outputs.
        loss: (outputs, targets) -> mean loss over the samples, a scalar.
        optimizers: of the trial; their settings hold `precision`, `accumulate` and `compile`.
        work: counts the samples. Default: a counter of its own.

    Attributes:
        num_calls: how often it was called: a method that never calls it ignores these settings.
    """

    def __init__(
        self,
        model: nn.Module,
        forward: Callable[[nn.Module, Batch], Any],
        loss: Callable[[Any, Any], Tensor],
        optimizers: OptimizerFactory,
        work: Work | None = None,
    ) -> None:
        self._model = compiled(model) if optimizers.settings.compile else model
        self._forward = forward
        self._loss = loss
        self._settings = optimizers.settings
        self._scale = optimizers.loss_scale
        self._dtype = AUTOCAST_DTYPES[self._settings.precision]
        self._work = Work() if work is None else work
        self.num_calls = 0

    def __call__(self, batch: Batch, gradients: Gradients) -> Tensor:
        """Put the gradient of the batch's mean loss into `gradients`; returns that loss, a detached scalar."""
        self.num_calls += 1
        self._work.add(len(batch.indices))
        scale = 1.0 if self._scale is None else self._scale.value
        if self._settings.accumulate == 1:
            with gradients.collecting(1, scale):
                return self._differentiate(batch, scale)
        total = torch.zeros((), device=batch.indices.device)
        parts = list(batch.parts(self._settings.accumulate))
        with gradients.collecting(len(parts), scale):
            for part in parts:
                share = len(part.indices) / len(batch.indices)
                total += self._differentiate(part, scale * share) * share
        return total

    def _differentiate(self, batch: Batch, factor: float) -> Tensor:
        """Backpropagate `factor` times the loss of a micro-batch; returns its loss."""
        if self._dtype is None:
            loss = self._loss(self._forward(self._model, batch), batch.targets)
        else:
            with torch.autocast(batch.indices.device.type, self._dtype):
                loss = self._loss(self._forward(self._model, batch), batch.targets)
            loss = loss.float()
        (loss if factor == 1 else loss * factor).backward()  # type: ignore[no-untyped-call]
        return loss.detach()


def split_evenly(num: int, num_parts: int) -> Iterator[slice]:
    """Cut `num` samples into `num_parts` runs that differ by at most one; fewer if there are fewer samples."""
    num_parts = min(num, num_parts)
    for part in range(num_parts):
        yield slice(part * num // num_parts, (part + 1) * num // num_parts)
