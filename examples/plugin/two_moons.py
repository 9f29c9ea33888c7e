"""A workload and a method that a package of your own registers by entry points (see pyproject.toml)."""

import copy
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from atoll import Batch, Classification, Context, Data, Method, Samples


def make_moons(num: int, noise: float, seed: int) -> Samples:
    """Noisy points (num, 2) on two interleaved half circles, and which of the two (num,) each lies on."""
    generator = torch.Generator().manual_seed(seed)
    angles = torch.pi * torch.rand(num, generator=generator)
    moons = torch.arange(num) % 2
    upper = torch.stack([angles.cos(), angles.sin()], dim=1)
    lower = torch.stack([1 - angles.cos(), 0.5 - angles.sin()], dim=1)
    points = torch.where(moons[:, None] == 0, upper, lower)
    return Samples(points + noise * torch.randn(num, 2, generator=generator), moons)


class TwoMoons(Classification):
    """Tell two interleaved half circles apart."""

    summary: ClassVar[str] = "two interleaved half circles, a perceptron 2-16-2"
    epochs: ClassVar[int] = 5

    def load(self, folder: Path | None) -> Data:
        parts = ((512, 0), (128, 1), (128, 2))
        return Data(*(make_moons(num, noise=0.1, seed=seed) for num, seed in parts))

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 2))


class HalfDdp(Method):
    """Data-parallel SGD whose gradients travel in 16 bits."""

    def __init__(self, hyperparameters: object, context: Context) -> None:
        self._context = context
        self._flat = context.flatten()
        self._optimizer = context.optimizers(self._flat)

    def step(self, batch: Batch) -> Tensor:
        loss = self._context.gradient(batch, self._flat)
        self._context.communicator.mean(self._flat.gradients, wire=torch.float16)
        self._optimizer.step()
        return loss

    def evaluation_model(self) -> nn.Module:
        return self._context.model

    def finalize(self) -> nn.Module:
        return self._context.model

    # What an interrupted training continues from. Torch's optimizers share their state, so it is copied.
    def state_dict(self) -> dict[str, Any]:
        return {"model": self._flat.state_dict(), "optimizer": copy.deepcopy(self._optimizer.state_dict())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._flat.load_state_dict(state["model"])
        self._optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
