"""Fixtures of the tests of batch systems."""

import fake_slurm
import pytest


@pytest.fixture(scope="module")
def slurm():
    """A fake Slurm of two nodes, which counts limits in seconds."""
    with fake_slurm.running(num_nodes=2, resolution=1, kill_wait=1) as running:
        yield running
