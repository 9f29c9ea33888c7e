"""A random stream of its own for a forward pass."""

import pytest
import torch
from torch import nn

from atoll.methods.common.random_stream import draws, seeded

CPU = torch.device("cpu")


def test_a_stream_is_fixed_by_its_seed_and_leaves_the_random_state():
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    found = []
    for seed in (1, 2, 1):
        with seeded(CPU, seed):
            found.append(torch.rand(4))
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[1])
    assert torch.equal(torch.rand(4), expected)


def test_the_random_state_returns_after_an_error():
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), seeded(CPU, 1):
        torch.rand(1, 2) @ torch.rand(1, 2)
    assert torch.equal(torch.get_rng_state(), state)


class Functional(nn.Module):
    def forward(self, x):
        return nn.functional.dropout(x, 0.5, self.training)


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.Linear(4, 4), False),
        (nn.BatchNorm1d(4), False),
        (nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.1)), True),
        (nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.0)), False),
        (Functional(), True),
        (nn.Sequential(nn.Unflatten(1, (2, 2)), nn.TransformerEncoderLayer(2, 1, 4, batch_first=True)), True),
        (nn.Sequential(nn.Unflatten(1, (2, 2)), nn.TransformerEncoderLayer(2, 1, 4, 0.0, batch_first=True)), False),
    ],
)
def test_which_modules_draw(module, expected):
    state = torch.get_rng_state()
    before = [value.clone() for value in module.state_dict().values()]
    assert draws(module, torch.ones(3, 4)) == expected
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(before, module.state_dict().values(), strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.may_skip
def test_a_stream_on_a_gpu():
    device = torch.device("cuda", 0)
    torch.cuda.manual_seed(5)
    expected = torch.rand(4, device=device)
    torch.cuda.manual_seed(5)
    masks = []
    for _ in range(2):
        with seeded(device, 1):
            masks.append(nn.functional.dropout(torch.ones(100, device=device), 0.5))
    assert torch.equal(*masks)
    assert torch.equal(torch.rand(4, device=device), expected)
    assert draws(nn.Dropout(0.5), torch.ones(2, 2, device=device))
