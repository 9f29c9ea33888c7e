"""The hyperparameters of network and loss that the architecture-search workloads share."""

from __future__ import annotations

from dataclasses import dataclass

from atoll.methods.common.validation import require, require_choice
from atoll.platform.workloads.residual import ACTIVATIONS, LOSSES, ORDERS


@dataclass(frozen=True, kw_only=True)
class ArchitectureHyperparameters:
    """Hyperparameters of network and loss (Coquelin 2024, table 6.1).

    Attributes:
        activation: the activation between convolutions.
        order: the order of activation, batch normalization and convolution in a block (figure 6.2).
        loss: the training loss; the metric is the same for all losses.
        filters: the number of channels of the first stage.
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
