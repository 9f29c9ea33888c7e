"""Data-parallel SGD: gradients averaged over all ranks at every step (001 section 2.5, equation 3.1).

p ranks with batch b equal one rank with batch p b, for any optimizer. One rank sends 2(p-1)/p w n bytes a step, with n
parameters and w bytes per element on the wire.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from atoll.methods.flat import WIRE_DTYPES, FlatModel
from atoll.methods.method import Batch, Context, Method
from atoll.methods.validation import require_choice


@dataclass(frozen=True, kw_only=True)
class DdpHyperparameters:
    """Hyperparameters of data-parallel training.

    Attributes:
        wire: dtype in which gradients travel.
    """

    wire: str = "float32"

    def __post_init__(self) -> None:
        require_choice("wire", self.wire, tuple(WIRE_DTYPES))


class Ddp(Method):
    """Average the gradients, then step."""

    Hyperparameters = DdpHyperparameters

    def __init__(self, hyperparameters: DdpHyperparameters, context: Context) -> None:
        self._context = context
        self._flat = FlatModel(context.model)
        self._optimizer = context.optimizers(context.model.parameters())
        self._wire = WIRE_DTYPES[hyperparameters.wire]

    def step(self, batch: Batch) -> Tensor:
        """Train on one batch (equation 3.1)."""
        loss = self._context.loss(self._context.model(batch.inputs), batch.targets)
        self._flat.backward(loss)
        self._context.communicator.mean(self._flat.gradients, wire=self._wire)
        self._optimizer.step()
        return loss.detach()

    def evaluation_model(self) -> nn.Module:
        """Average the running statistics, which each rank has of its own samples, and return the model."""
        statistics = self._flat.state[self._flat.parameters.numel() :]
        if statistics.numel():
            self._context.communicator.mean(statistics)
        return self._context.model

    def finalize(self) -> nn.Module:
        """Return the trained model."""
        return self.evaluation_model()

    def state_dict(self) -> dict[str, Any]:
        """Return model and optimizer."""
        return {"model": self._context.model.state_dict(), "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self._context.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
