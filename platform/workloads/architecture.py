"""What the workloads of the architecture search share: the hyperparameters of network and loss."""

from __future__ import annotations

from dataclasses import dataclass

from atoll.methods.common.validation import require, require_choice
from atoll.platform.workloads.residual import ACTIVATIONS, LOSSES, ORDERS


@dataclass(frozen=True, kw_only=True)
class ArchitectureHyperparameters:
    """Source 001, table 6.1.

    Attributes:
        activation: between convolutions.
        order: of activation, batch normalisation and convolution inside a block (figure 6.2).
        loss: what is minimised; the metric is the same for all.
        filters: channels of the first stage.
    """

    activation: str = "relu"
    order: str = "original"
    loss: str = "binary_crossentropy"
    filters: int = 64

    def __post_init__(self) -> None:
        require_choice("activation", self.activation, tuple(ACTIVATIONS))
        require_choice("order", self.order, ORDERS)
        require_choice("loss", self.loss, tuple(LOSSES))
        require(1 <= self.filters <= 4096, f"filters must be in [1, 4096]; got {self.filters}")
