"""CIFAR-10 with the architecture search of Coquelin 2024, section 6.2, at a size that two cores can train."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from atoll.platform.workloads.architecture import ArchitectureHyperparameters
from atoll.platform.workloads.cifar10 import NUM_CLASSES, Cifar10LowRank
from atoll.platform.workloads.residual import LOSSES, resnet
from atoll.searchspaces.bigearthnet_nas import SPACE
from atoll.searchspaces.space import SearchSpace


class Cifar10Nas(Cifar10LowRank):
    """A residual network of three one-block stages on whole images, without augmentation as in the original search."""

    Hyperparameters: ClassVar[type] = ArchitectureHyperparameters
    search_space: ClassVar[SearchSpace] = SPACE
    summary: ClassVar[str] = "CIFAR-10, the architecture search of bigearthnet on a small residual network"
    target: float | None = None
    epochs: ClassVar[int] = 10

    def model(self) -> nn.Module:
        """A 3x3 stem and three blocks of two convolutions, with one, two and four times the filters."""
        h = self.hyperparameters
        return resnet(
            num_in=3,
            num_out=NUM_CLASSES,
            filters=h.filters,
            depths=(1, 1, 1),
            order=h.order,
            activation=h.activation,
            bottleneck=False,
            large=False,
        )

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The searched loss of logits (b, 10) against one-hot targets."""
        classes = nn.functional.one_hot(targets, NUM_CLASSES).to(outputs.dtype)
        return LOSSES[self.hyperparameters.loss](outputs, classes)
