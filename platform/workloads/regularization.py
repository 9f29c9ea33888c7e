"""What image workloads may be regularized with, off by default: hyperparameters, and the parts of networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from atoll.methods.common.validation import require


@dataclass(frozen=True, kw_only=True)
class ImageHyperparameters:
    """Regularization of an image workload; a study may fix or search each.

    Attributes:
        label_smoothing: of the training loss, in [0, 1); the validation loss has none, and stays comparable.
        rand_augment: magnitude of RandAugment's two operations, 0 to 10; 0 for none (Cubuk et al. 2020).
        random_erasing: probability with which a rectangle of an image becomes noise (Zhong et al. 2020).
        orthogonal: whether weights start as orthogonal matrices (Saxe et al. 2014; Coquelin 2024, table A.6).
    """

    label_smoothing: float = 0.0
    rand_augment: float = 0.0
    random_erasing: float = 0.0
    orthogonal: bool = False

    def __post_init__(self) -> None:
        require(0 <= self.label_smoothing < 1, f"label_smoothing must be in [0, 1); got {self.label_smoothing}")
        require(0 <= self.rand_augment <= 10, f"rand_augment must be in [0, 10]; got {self.rand_augment}")
        require(0 <= self.random_erasing <= 1, f"random_erasing must be in [0, 1]; got {self.random_erasing}")


@dataclass(frozen=True, kw_only=True)
class VitHyperparameters(ImageHyperparameters):
    """Regularization of a vision transformer.

    Attributes:
        drop_path: probability with which a sample skips a residual branch of the last layer; it grows linearly from 0
            at the first one (Huang et al. 2016).
    """

    drop_path: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.drop_path < 1, f"drop_path must be in [0, 1); got {self.drop_path}")


class DropPath(nn.Module):
    """Drop a residual branch for some samples, and scale it for the others: the mean stays (Huang et al. 2016).

    Args:
        probability: of each sample's drop, in training.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, branch: Tensor) -> Tensor:
        """(b, ...) -> (b, ...)."""
        if not self.training or self.probability == 0:
            return branch
        keep = 1 - self.probability
        kept = torch.empty(len(branch), device=branch.device, dtype=branch.dtype).bernoulli_(keep)
        return branch * (kept / keep).view(-1, *[1] * (branch.dim() - 1))


def add_drop_path(layers: nn.ModuleList, probability: float) -> None:
    """Drop both residual branches of transformers' ViT layers, with probabilities from 0 to the given one.

    Such a layer applies its `dropout` to each branch just before it is added.
    """
    for number, layer in enumerate(layers):
        share = number / max(1, len(layers) - 1)
        layer.dropout = nn.Sequential(cast("nn.Module", layer.dropout), DropPath(probability * share))


def make_orthogonal(model: nn.Module) -> None:
    """Start weights of linear layers, convolutions and attention as (semi-)orthogonal matrices (Saxe et al. 2014).

    From torch's global random state, as all initial weights. Embeddings, biases and one-dimensional parameters stay.
    """
    for module in model.modules():
        names = ("in_proj_weight",) if isinstance(module, nn.MultiheadAttention) else ("weight",)
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.MultiheadAttention):
            for name in names:
                weight = getattr(module, name, None)
                if weight is not None:
                    nn.init.orthogonal_(weight)
