"""PowerSGD: gradients averaged as products of thin matrices, with error feedback (Vogels et al. 2019).

For each parameter of shape (m, ...), seen as a matrix (m, n), with e the rank's error and Q (n, r) kept between steps:

    M <- gradient + e,  P <- mean(M Q),  P <- orthonormal(P),  Q <- mean(M^T P),  gradient <- P Q^T,  e <- M - P Q^T

A matrix is compressed if r (m + n) `min_compression_rate` < m n, with r at most min(m, n), as in torch's hook. Others,
and vectors, are averaged whole; so is everything in the steps of the `warmup`. One rank sends 2(p-1)/p 4 (sum of
r (m + n), and the size of those averaged whole) bytes per step. r = min(m, n) is data-parallel SGD.

As in the authors' and torch's code, Q starts random and is orthonormalized before each use, P is summed in one message
for all parameters, and so is Q.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from atoll.methods.common.effects import TrainingShape, idle
from atoll.methods.common.optimizers import OptimizerSettings, restore, saved
from atoll.methods.common.validation import require
from atoll.methods.method import Batch, Context, Method, NotApplicable


@dataclass(frozen=True, kw_only=True)
class PowersgdHyperparameters:
    """Hyperparameters of PowerSGD.

    Attributes:
        rank: r, of the products that replace the gradients.
        warmup: share of all training steps, the first ones, with whole gradients.
        min_compression_rate: a gradient is compressed only if that makes it smaller by more than this factor.
        error_feedback: whether a product's error is added to the next gradient.
    """

    rank: int = 4
    warmup: float = 0.0
    min_compression_rate: float = 2.0
    error_feedback: bool = True

    def __post_init__(self) -> None:
        require(self.rank >= 1, f"rank must be at least 1; got {self.rank}")
        require(0 <= self.warmup <= 1, f"warmup must be a share of the steps, in [0, 1]; got {self.warmup}")
        rate = self.min_compression_rate
        require(rate > 0, f"min_compression_rate must be above 0; got {rate}")


def orthonormal(matrix: Tensor) -> Tensor:
    """An orthonormal basis (m, r) of the columns of `matrix` (m, r), by Householder reflections."""
    basis: Tensor = torch.linalg.qr(matrix).Q
    return basis


class _Compressed:
    """A parameter's gradient as a matrix (m, n), its error, and the factor Q (n, r) of the last step."""

    def __init__(self, gradient: Tensor, rank: int, generator: torch.Generator) -> None:
        self.gradient = gradient
        self.error = torch.zeros_like(gradient)
        # Drawn on the host, so that every rank has the same, whatever its device.
        start = torch.randn(gradient.shape[1], rank, generator=generator, dtype=torch.float64)
        self.q = start.to(gradient)


class Powersgd(Method[PowersgdHyperparameters]):
    """Average thin factors of the gradients, then step."""

    Hyperparameters = PowersgdHyperparameters

    @classmethod
    def check(cls, hyperparameters: PowersgdHyperparameters, settings: OptimizerSettings, num_ranks: int) -> None:
        """Raise NotApplicable for float16, some of whose gradients are infinite: they would stay in the errors."""
        super().check(hyperparameters, settings, num_ranks)
        if settings.precision == "float16":
            raise NotApplicable(
                "powersgd decomposes gradients and keeps the errors, which float16 makes infinite now and then; "
                "precision must be float32 or bfloat16; got float16"
            )

    @classmethod
    def without_effect(cls, hyperparameters: PowersgdHyperparameters, shape: TrainingShape) -> Mapping[str, str]:
        """Those of the factors where all steps have whole gradients. One rank compresses as several do."""
        warmup = hyperparameters.warmup
        if warmup == 1 or shape.ends_by(round(warmup * (shape.num_steps or 0))):
            why = f"a warmup of {warmup:g} is the whole training"
            return idle(("rank", "min_compression_rate", "error_feedback"), why)
        return {}

    def __init__(self, hyperparameters: PowersgdHyperparameters, context: Context) -> None:
        h = self._hyperparameters = hyperparameters
        self._context = context
        self._flat = context.flatten()
        self._optimizer = context.optimizers(self._flat)
        self._num_warmup_steps = round(h.warmup * context.num_epochs * context.steps_per_epoch)
        self._num_steps = 0
        generator = torch.Generator().manual_seed(context.seed)
        self._compressed: list[_Compressed] = []
        self._whole: list[Tensor] = []
        for parameter, where in zip(self._flat.trained, self._flat.slices, strict=True):
            gradient = self._flat.gradients[where]
            rows = parameter.shape[0] if parameter.dim() > 1 else parameter.numel()
            columns = parameter.numel() // max(1, rows)
            rank = min(h.rank, rows, columns)
            if rank * (rows + columns) * h.min_compression_rate < rows * columns:
                self._compressed.append(_Compressed(gradient.view(rows, columns), rank, generator))
            else:
                self._whole.append(gradient)
        if not self._compressed:
            self.notes = (
                f"powersgd: no gradient of rank {h.rank} is compressed by a factor above {h.min_compression_rate:g}, "
                "so this is ddp",
            )

    def step(self, batch: Batch) -> Tensor:
        """Train on one batch."""
        loss = self._context.gradient(batch, self._flat)
        if self._num_steps < self._num_warmup_steps:
            self._context.communicator.mean(self._flat.gradients)
        else:
            self._average()
        self._optimizer.step()
        self._num_steps += 1
        return loss

    def _average(self) -> None:
        if self._hyperparameters.error_feedback:
            for c in self._compressed:
                c.gradient.add_(c.error)
        # Gradients that are averaged whole are sent with P.
        factors = [c.gradient @ orthonormal(c.q) for c in self._compressed]
        self._mean([*factors, *self._whole])
        bases = [orthonormal(factor) for factor in factors]
        for c, basis in zip(self._compressed, bases, strict=True):
            torch.mm(c.gradient.t(), basis, out=c.q)
        self._mean([c.q for c in self._compressed])
        for c, basis in zip(self._compressed, bases, strict=True):
            product = basis @ c.q.t()
            torch.sub(c.gradient, product, out=c.error)
            c.gradient.copy_(product)

    def _mean(self, tensors: list[Tensor]) -> None:
        """Average tensors over ranks in place, in one message."""
        if not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        self._context.communicator.mean(flat)
        for tensor, part in zip(tensors, torch.split(flat, [t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view(tensor.shape))

    def evaluation_model(self) -> nn.Module:
        """Average the running statistics, and return the model."""
        self._flat.average_statistics(self._context.untracked)
        return self._context.model

    def finalize(self) -> nn.Module:
        """Return the trained model."""
        return self.evaluation_model()

    def state_dict(self) -> dict[str, Any]:
        """Return model, optimizer, errors, factors and counter."""
        return {
            "model": self._flat.state_dict(),
            "optimizer": saved(self._optimizer),
            "errors": [c.error.clone() for c in self._compressed],
            "factors": [c.q.clone() for c in self._compressed],
            "num_steps": self._num_steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self._flat.load_state_dict(state["model"])
        restore(self._optimizer, state["optimizer"])
        for c, error, factor in zip(self._compressed, state["errors"], state["factors"], strict=True):
            c.error.copy_(error)
            c.q.copy_(factor)
        self._num_steps = state["num_steps"]
