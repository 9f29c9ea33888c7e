"""A workload of your own, used by own_workload.yaml; atoll itself stays unchanged."""

from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from atoll import Data, Samples, Workload


class Sine(Workload):
    """Fit sin(x) on [-pi, pi] from noisy points."""

    summary: ClassVar[str] = "a sine from noisy points, a perceptron 1-32-1"
    metric: ClassVar[str] = "rmse"
    direction: ClassVar[str] = "minimize"
    target: float | None = 0.1
    epochs: ClassVar[int] = 10

    def load(self, folder: Path | None) -> Data:
        generator = torch.Generator().manual_seed(0)

        def part(count: int) -> Samples:
            x = torch.rand(count, 1, generator=generator) * 2 * torch.pi - torch.pi
            return Samples(x, torch.sin(x) + 0.05 * torch.randn(count, 1, generator=generator))

        return Data(train=part(512), validation=part(128), test=part(128))

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.mse_loss(outputs, targets)

    def measure(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.mse_loss(outputs, targets).sqrt()
