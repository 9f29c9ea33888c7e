"""Batch normalization over the samples of all ranks, so that p ranks with batch b equal one rank with batch p b."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from atoll.communication.communicator import Communicator

_KINDS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class _Ranks:
    """The ranks that share statistics; a copy of a network has the same ones."""

    def __init__(self, communicator: Communicator) -> None:
        self.communicator = communicator

    def __deepcopy__(self, memo: dict[int, Any]) -> _Ranks:
        return self


class _Normalize(torch.autograd.Function):
    """y = (x - mean) / sqrt(variance + eps) with statistics over the samples of all ranks.

    With m samples in all, dL/dx = (dL/dy - mean(dL/dy) - y mean(dL/dy y)) / sqrt(variance + eps), whose means are sums
    over ranks (Ioffe and Szegedy 2015, section 3, without scale and shift).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float, ranks: _Ranks) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x (b, c, ...) -> y, mean (c,), variance (c,) and m (1,)."""
        dims = [d for d in range(x.dim()) if d != 1]
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        count = x.numel() // x.shape[1]
        # The mean first: a difference of means of squares would cancel.
        first = torch.cat([wide.sum(dims), wide.new_tensor([count])])
        ranks.communicator.sum(first)
        total, mean = first[-1:], first[:-1] / first[-1]
        centered = wide - _along(mean, x)
        variance = centered.square().sum(dims)
        ranks.communicator.sum(variance)
        variance /= total
        inverse = (variance + eps).rsqrt()
        y = centered * _along(inverse, x)
        ctx.save_for_backward(y, inverse, total)
        ctx.ranks, ctx.dims = ranks, dims
        ctx.mark_non_differentiable(mean, variance, total)
        return y.to(x.dtype), mean, variance, total

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None, None]:
        """The gradient with respect to x."""
        y, inverse, total = ctx.saved_tensors
        gradient = gradients[0].to(y.dtype)
        sums = torch.cat([gradient.sum(ctx.dims), (gradient * y).sum(ctx.dims)])
        ctx.ranks.communicator.sum(sums)
        mean, slope = (sums / total).chunk(2)
        found = (gradient - _along(mean, y) - y * _along(slope, y)) * _along(inverse, y)
        return found.to(gradients[0].dtype), None, None


def _along(values: Tensor, like: Tensor) -> Tensor:
    """(c,) in the shape that broadcasts to (b, c, ...)."""
    return values.view(1, -1, *[1] * (like.dim() - 2))


class SynchronizedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """A batch normalization over the batches of all ranks; `synchronize_batch_norm` makes it."""

    ranks: _Ranks

    def forward(self, inputs: Tensor) -> Tensor:
        """(b, c, ...) -> (b, c, ...); running statistics in evaluation, as torch's."""
        if not self.training:  # ranks may evaluate different numbers of batches
            return super().forward(inputs)
        y, mean, variance, total = _Normalize.apply(inputs, self.eps, self.ranks)  # type: ignore[no-untyped-call]
        if self.track_running_stats:
            self._track(mean, variance * (total / (total - 1)))
        if self.affine:
            y = (y * _along(self.weight, y) + _along(self.bias, y)).to(y.dtype)
        return y  # type: ignore[no-any-return]

    def _track(self, mean: Tensor, variance: Tensor) -> None:
        assert self.num_batches_tracked is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        self.num_batches_tracked.add_(1)
        rate = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), rate)
        self.running_var.lerp_(variance.to(self.running_var.dtype), rate)

    def _check_input_dim(self, input: Tensor) -> None:
        pass


def synchronize_batch_norm(model: nn.Module, communicator: Communicator) -> int:
    """Normalize over the batches of all ranks from now on; collective. Returns the number of layers.

    The layers stay the same objects and only change their class, so names and state dicts stay, too. Each sends c + 1
    and c values forward and 2c backward in training, in the dtype of its inputs or float32.

    Args:
        model: changed in place.
        communicator: whose ranks take equal numbers of equally large steps, layer by layer.
    """
    layers = [module for module in model.modules() if type(module) in _KINDS]
    if communicator.size > 1 and layers:
        ranks = _Ranks(communicator.split(0))
        for layer in layers:
            layer.__class__ = SynchronizedBatchNorm
            assert isinstance(layer, SynchronizedBatchNorm)
            layer.ranks = ranks
    return len(layers)
