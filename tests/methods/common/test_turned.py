"""Optimizer states in another basis."""

import pytest
import torch
from torch import nn

from atoll.methods.common.groups import ParameterGroup
from atoll.methods.common.optimizers import OPTIMIZERS, OptimizerFactory, OptimizerSettings
from atoll.methods.common.turned import Turned


def orthonormal(rows: int, columns: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(rows, columns, generator=generator, dtype=torch.float64)).Q


def stepped(optimizer: str) -> tuple[OptimizerFactory, torch.optim.Optimizer, nn.Parameter]:
    """An optimizer after three steps of a matrix (6, 5)."""
    generator = torch.Generator().manual_seed(2)
    factory = OptimizerFactory(OptimizerSettings(optimizer=optimizer, learning_rate=0.01, schedule="constant"), 10)
    matrix = nn.Parameter(torch.randn(6, 5, generator=generator, dtype=torch.float64))
    made = factory([matrix])
    for _ in range(3):
        matrix.grad = torch.randn(6, 5, generator=generator, dtype=torch.float64)
        made.step()
    return factory, made, matrix


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("cut", [0, 2])
def test_every_optimizer_goes_on_with_a_state_of_the_new_shape(optimizer: str, cut: int) -> None:
    factory, made, matrix = stepped(optimizer)
    before = dict(made.state[matrix])
    left, right = orthonormal(6, 6, 0)[:, : 6 - cut], orthonormal(5, 5, 1)[:, : 5 - cut]
    turned = nn.Parameter(left.T @ matrix.detach() @ right)
    factory.retarget(made, [ParameterGroup([turned])], {turned: Turned(matrix, left, right)})
    after = made.state[turned]
    assert set(after) == set(before) - {"z", "inverse"}
    for name, value in after.items():
        if isinstance(value, torch.Tensor) and value.dim():
            assert all(size in (1, of) for size, of in zip(value.shape, turned.shape, strict=True)), name
        else:
            assert value == before[name], name
    turned.grad = torch.ones_like(turned)
    made.step()
    assert bool(turned.isfinite().all())
    assert set(made.state[turned]) == set(before)


def test_squares_are_those_of_turned_gradients_if_elements_are_uncorrelated() -> None:
    generator = torch.Generator().manual_seed(0)
    scales = torch.rand(6, 5, generator=generator, dtype=torch.float64) + 0.1
    gradients = scales * torch.randn(20_000, 6, 5, generator=generator, dtype=torch.float64)
    turned = Turned(nn.Parameter(scales), orthonormal(6, 4, 1), orthonormal(5, 3, 2))
    expected = (turned.left.T @ gradients @ turned.right).square().mean(0)
    found = turned.squares(scales.square())
    assert torch.allclose(found, expected, rtol=0.05)  # 5 standard errors of a mean square: 5 (2/20,000)^0.5
    assert torch.allclose(turned.largest(scales), found.sqrt(), rtol=1e-14)


def test_rows_and_columns_are_the_means_of_squares_without_a_cut() -> None:
    value = torch.rand(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    turned = Turned(nn.Parameter(value), orthonormal(6, 6, 1), orthonormal(5, 5, 2))
    found = turned.squares(value)
    assert torch.allclose(turned.rows(value.mean(1, keepdim=True)), found.mean(1, keepdim=True), rtol=1e-13)
    assert torch.allclose(turned.columns(value.mean(0, keepdim=True)), found.mean(0, keepdim=True), rtol=1e-13)


def test_a_state_of_unknown_meaning_is_left_behind() -> None:
    matrix = nn.Parameter(torch.ones(2, 2))
    turned = Turned(matrix, torch.eye(2), torch.eye(2))
    assert turned.state({"step": 3, "curvature": torch.ones(2, 2)}) == {}
    assert turned.state({"step": 3, "momentum_buffer": None}) == {"step": 3, "momentum_buffer": None}
