"""Nestings of tensors."""

from collections import OrderedDict, namedtuple

import pytest
import torch

from atoll.methods.common.nested import map_tensors, num_samples, tensors

Pair = namedtuple("Pair", ["a", "b"])


@pytest.mark.parametrize(
    "nested",
    [
        torch.ones(3, 2),
        {"ids": torch.ones(3), "mask": [torch.zeros(3, 1), None]},
        Pair(torch.ones(3), (torch.ones(3), "text")),
        OrderedDict(x=torch.ones(3)),
    ],
    ids=["tensor", "dict", "named tuple", "ordered dict"],
)
def test_structure_and_other_leaves_stay(nested):
    doubled = map_tensors(lambda tensor: 2 * tensor, nested)
    assert type(doubled) is type(nested)
    assert all(torch.equal(b, 2 * a) for a, b in zip(tensors(nested), tensors(doubled), strict=True))
    assert num_samples(doubled) == 3
    assert map_tensors(lambda tensor: 0, {"text": "t"}) == {"text": "t"}


def test_scalars_have_no_samples():
    assert num_samples((torch.tensor(1.0), torch.ones(4))) == 4
    with pytest.raises(ValueError, match="must hold a tensor with one entry per sample"):
        num_samples({"x": torch.tensor(1.0)})
