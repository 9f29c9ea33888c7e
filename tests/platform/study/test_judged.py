"""The value that pruning compares."""

import math
from types import SimpleNamespace

import pytest

from atoll.platform.study.judged import Judged


def report(value):
    return SimpleNamespace(train_loss=value, metric=value, metrics={"recall": value})


@pytest.mark.parametrize("name", [None, "train_loss", "recall"])
@pytest.mark.parametrize(("sign", "loss"), [(1.0, 0.25), (-1.0, -0.25)])
def test_a_value_becomes_a_loss_and_nan_the_worst(name, sign, loss):
    """Comparisons with NaN are all false: a rung that holds one would let anything pass."""
    judged = Judged(sign, name)
    assert judged.loss(report(0.25)) == loss
    assert judged.loss(report(math.nan)) == math.inf
    assert Judged(sign, "validation_loss").loss(SimpleNamespace(validation_loss=None)) is None
