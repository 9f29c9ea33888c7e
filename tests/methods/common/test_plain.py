"""What a saved state may consist of."""

import io
from collections import OrderedDict
from typing import NamedTuple

import numpy as np
import pytest
import torch

from atoll.methods.common.plain import require_plain
from atoll.methods.common.plateau import Plateau


class Name(NamedTuple):
    kind: str


PLAIN = {
    "tensors": [torch.ones(2), torch.nn.Parameter(torch.ones(2)), torch.empty(0, dtype=torch.int64)],
    "numbers": (1, 2.5, float("inf"), True),
    "others": {0: None, 1: "text"},
    "ordered": OrderedDict(a=1),
}


def test_what_is_plain_is_read_without_running_code():
    require_plain(PLAIN)
    file = io.BytesIO()
    torch.save(PLAIN, file)
    file.seek(0)
    assert torch.load(file, weights_only=True)["others"] == PLAIN["others"]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            {"a": [Plateau(0.1, 1)]},
            r"state\['a'\]\[0\] is of type atoll.methods.common.plateau.Plateau; .* must",
        ),
        ({"a": {Name("M"): 1}}, r"state\['a'\] has the key Name\(kind='M'\); keys of a saved state must be strings or"),
        ((Name("M"),), r"state\[0\] is of type .*Name"),
        ({"a": np.float64(1)}, r"state\['a'\] is of type numpy.float64"),
        ({True: 1}, "has the key True"),
        ({"a": {1}}, r"state\['a'\] is of type builtins.set"),
    ],
)
def test_the_part_that_is_not_plain_is_named(state, message):
    with pytest.raises(TypeError, match=message):
        require_plain(state)
