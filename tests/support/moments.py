"""Moments of a method's state under noise, from its own step on virtual ranks; states are as in `paths`."""

from __future__ import annotations

import paths
import torch
from torch import Tensor


def affine(name: str, num_ranks: int, **arguments) -> tuple[Tensor, Tensor]:
    """One step on `paths.quadratic`: state <- map @ state + noise @ xi, with a number xi for each rank.

    Returns:
        The map (size, size) and the noise (size, p).
    """
    size = len(paths.linear_map(name, num_ranks, **arguments))
    start = torch.cat([torch.eye(size), torch.zeros(size, num_ranks)], dim=1).double()
    noise = torch.cat([torch.zeros(num_ranks, size), torch.eye(num_ranks)], dim=1).double()
    end = paths.moved(name, start, noise, **arguments)
    return end[:, :size], end[:, size:]


def stationary(step: tuple[Tensor, Tensor]) -> Tensor:
    """The covariance (size, size) of the state in the long run, for independent noise of variance 1."""
    m, noise = step
    size = len(m)
    flat = torch.linalg.solve(torch.eye(size**2).double() - torch.kron(m, m), (noise @ noise.T).reshape(-1))
    return flat.reshape(size, size)


class Multiplied:
    """A step of a method whose ranks' curvatures are random and independent, which maps E[state state^T] linearly.

    A rank's curvature must act on its own components of the state only, as in synchronous forms.

    Args:
        name, num_ranks, arguments: as of `paths.linear_map`; the objective is `paths.scaled`.
    """

    def __init__(self, name: str, num_ranks: int, **arguments) -> None:
        zero, one = (torch.full((num_ranks,), value, dtype=torch.float64) for value in (0.0, 1.0))
        first = torch.eye(num_ranks, dtype=torch.float64)[0]
        maps = paths.noisy_maps(name, num_ranks, noises=[zero, one, first], objective=paths.scaled, **arguments)
        if not maps[0][:, -1].any():  # what is evaluated has no effect on anything
            maps = [m[:-1, :-1] for m in maps]
        self._still, of_all, of_first = maps
        self._slope = of_all - self._still
        parts = torch.arange(len(self._still) // num_ranks)
        self._own = torch.arange(num_ranks)[:, None] + num_ranks * parts  # (p, 1 or 2): where x_i, or v_i and x_i, are
        self._slopes = self._slope[self._rows, self._columns]
        assert torch.equal(self._spread(self._slopes), self._slope)
        assert torch.equal(self._spread(self._slopes * first[:, None, None]), of_first - self._still)

    @property
    def _rows(self) -> Tensor:
        return self._own[:, :, None]

    @property
    def _columns(self) -> Tensor:
        return self._own[:, None, :]

    def _spread(self, blocks: Tensor) -> Tensor:
        whole = torch.zeros_like(self._still)
        whole[self._rows, self._columns] = blocks
        return whole

    def radius(self, mean: float, variance: float) -> float:
        """The factor of E[state state^T] per step, in the long run; curvatures have this mean and variance."""
        m = self._still + mean * self._slope
        moments = torch.eye(len(m), dtype=torch.float64)
        for _ in range(3000):
            moments = moments / moments.norm()
            before = moments
            own = self._slopes @ moments[self._rows, self._columns] @ self._slopes.mT
            moments = m @ moments @ m.T + variance * self._spread(own)
            if float((moments / moments.norm() - before).norm()) < 1e-12:
                break
        return float(moments.norm())
