"""The peak memory is that of the time since the last reset."""

import subprocess
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


PROGRAM = """
from atoll.methods.common.memory import peak_memory, reset_peak_memory
reset_peak_memory()
held = bytearray(50_000_000)
print(peak_memory())
"""


@pytest.mark.process
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forgets a peak")
def test_what_a_process_was_before_its_program_does_not_count():
    """The system counts the peak of the process that has started it, which `getrusage` does not forget."""
    large = bytearray(4 * SIZE)
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert 50_000_000 < int(done.stdout) < 2 * SIZE
    assert len(large) == 4 * SIZE
