"""A workload and a method that a package of your own registers by entry points."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from sklearn.datasets import make_moons
from torch import nn

from atoll.methods.data_parallel.ddp import Ddp, DdpHyperparameters
from atoll.platform.workloads.workload import Classification, Data, Samples


class TwoMoons(Classification):
    """Tell two interleaved half circles apart."""

    summary: ClassVar[str] = "two interleaved half circles, a perceptron 2-16-2"
    epochs: ClassVar[int] = 5

    def load(self, folder: Path | None) -> Data:
        def part(count: int, seed: int) -> Samples:
            inputs, targets = make_moons(count, noise=0.1, random_state=seed)
            return Samples(torch.tensor(inputs, dtype=torch.float32), torch.tensor(targets))

        return Data(train=part(512, 0), validation=part(128, 1), test=part(128, 2))

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 2))


@dataclass(frozen=True, kw_only=True)
class HalfDdpHyperparameters(DdpHyperparameters):
    wire: str = "float16"


class HalfDdp(Ddp):
    """Data-parallel SGD whose gradients travel in 16 bits unless told otherwise."""

    Hyperparameters = HalfDdpHyperparameters
