"""SignSGD with error feedback: gradients as signs and a scale for each parameter (Karimireddy et al. 2019).

With e_i what rank i has not yet sent, and C(p) = mean(|p|) sign(p) for each parameter (a layer's weights, its biases):

    p_i <- gradient_i + e_i,  e_i <- p_i - C(p_i),  gradient <- mean(C(p_i)), then a step (algorithm 1)

The sign of 0 is +. Signs are sent as bits, and gathered by all ranks, so all have the same mean. One rank sends
(p-1) (n/8 + 4 L) bytes per step for L parameters: a 32nd of data-parallel SGD's on two ranks, as much with 64.
The error is in units of a gradient, as in `powersgd`; the source's contains the learning rate, which is the same for
SGD at a constant rate. Without error feedback it is SGD with scaled signs, which does not converge for every problem
(section 3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from atoll.methods.common.optimizers import OptimizerSettings, restore, saved
from atoll.methods.method import Batch, Context, Method, NotApplicable


@dataclass(frozen=True, kw_only=True)
class EfSignsgdHyperparameters:
    """Hyperparameters of signSGD with error feedback.

    Attributes:
        error_feedback: whether what the signs lack is added to the next gradient.
    """

    error_feedback: bool = True


def packed(signs: Tensor) -> Tensor:
    """Bits (n,), True for +, as bytes (ceil(n/8),); the first is the lowest bit of the first byte.

    Example:
        >>> packed(torch.tensor([True, False, True] + 8 * [False]))
        tensor([5, 0], dtype=torch.uint8)
    """
    bits = nn.functional.pad(signs.to(torch.uint8), (0, -len(signs) % 8)).view(-1, 8)
    weights = 2 ** torch.arange(8, dtype=torch.uint8, device=signs.device)
    return (bits * weights).sum(1, dtype=torch.uint8)


def unpacked(values: Tensor, num: int) -> Tensor:
    """The first `num` bits of bytes as booleans."""
    shifts = torch.arange(8, dtype=torch.uint8, device=values.device)
    return (values[:, None] >> shifts & 1).view(-1)[:num].bool()


class EfSignsgd(Method[EfSignsgdHyperparameters]):
    """Average signs with scales, then step."""

    Hyperparameters = EfSignsgdHyperparameters

    @classmethod
    def check(cls, hyperparameters: EfSignsgdHyperparameters, settings: OptimizerSettings, num_ranks: int) -> None:
        """Raise NotApplicable for float16, some of whose gradients are infinite: they would stay in the errors."""
        super().check(hyperparameters, settings, num_ranks)
        if settings.precision == "float16":
            raise NotApplicable(
                "ef_signsgd keeps what the signs lack, which float16 makes infinite now and then; precision must be "
                "float32 or bfloat16; got float16"
            )

    def __init__(self, hyperparameters: EfSignsgdHyperparameters, context: Context) -> None:
        self._hyperparameters = hyperparameters
        self._context = context
        self._flat = context.flatten()
        self._optimizer = context.optimizers(self._flat)
        self._error = torch.zeros_like(self._flat.gradients)
        self._sizes = [parameter.numel() for parameter in self._flat.trained]

    def step(self, batch: Batch) -> Tensor:
        """Train on one batch."""
        loss = self._context.gradient(batch, self._flat)
        gradients, c = self._flat.gradients, self._context.communicator
        if self._hyperparameters.error_feedback:
            gradients.add_(self._error)
        scales = torch.stack([part.abs().mean() for part in torch.split(gradients, self._sizes)])
        message = torch.cat([packed(gradients >= 0), scales.view(torch.uint8)])
        torch.sub(gradients, self._decoded(message), out=self._error)
        messages = message.repeat(c.size, 1)
        c.all_gather(messages)
        gradients.zero_()
        for one in messages:  # in one order, so that all ranks get the same bits
            gradients.add_(self._decoded(one), alpha=1 / c.size)
        self._optimizer.step()
        return loss

    def _decoded(self, message: Tensor) -> Tensor:
        """What a message stands for (n,)."""
        gradients = self._flat.gradients
        num_bytes = -(-len(gradients) // 8)
        scales = message[num_bytes:].clone().view(gradients.dtype)
        sizes = torch.tensor(self._sizes, device=scales.device)
        magnitudes = scales.repeat_interleave(sizes, output_size=len(gradients))
        return torch.where(unpacked(message[:num_bytes], len(gradients)), magnitudes, -magnitudes)

    def evaluation_model(self) -> nn.Module:
        """Average the running statistics, and return the model."""
        self._flat.average_statistics(self._context.untracked)
        return self._context.model

    def finalize(self) -> nn.Module:
        """Return the trained model."""
        return self.evaluation_model()

    def state_dict(self) -> dict[str, Any]:
        """Return model, optimizer and error."""
        return {"model": self._flat.state_dict(), "optimizer": saved(self._optimizer), "error": self._error.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self._flat.load_state_dict(state["model"])
        restore(self._optimizer, state["optimizer"])
        self._error.copy_(state["error"])
