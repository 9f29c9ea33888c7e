"""A small regression problem for the layer-parallel methods: a chain of tanh layers, and a batch."""

from __future__ import annotations

import itertools

import torch
from torch import nn

from atoll.methods.method import Batch
from atoll.testing import problem

STILL = problem.STILL
SGD = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0}
NUM = 24


def squared(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs - targets).square().sum(1).mean()


def network(widths: tuple[int, ...] = (6, 5, 4, 3), seed: int = 3) -> nn.Sequential:
    layers = [m for a, b in itertools.pairwise(widths) for m in (nn.Linear(a, b), nn.Tanh())]
    return problem.seeded(nn.Sequential(*layers[:-1]).double(), seed, scale=0.5)


def regression(num: int = NUM, widths: tuple[int, int] = (6, 3)) -> Batch:
    generator = torch.Generator().manual_seed(9)
    inputs, targets = (torch.randn(num, n, generator=generator, dtype=torch.float64) for n in widths)
    return Batch(indices=torch.arange(num), inputs=inputs, targets=targets)
