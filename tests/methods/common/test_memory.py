"""The peak memory is that of the time since the last reset."""

import sys

import pytest
import torch

from atoll.methods.common.memory import peak_memory, reset_peak_memory

SIZE = 100_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forgets a peak")
def test_a_peak_is_forgotten():
    before = peak_memory()
    large = torch.ones(SIZE // 8, dtype=torch.float64)
    during = peak_memory()
    del large
    reset_peak_memory()
    assert during > before + SIZE // 2
    assert peak_memory() < during - SIZE // 2
