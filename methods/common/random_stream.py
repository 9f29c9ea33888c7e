"""Random streams of their own, whatever else the process draws."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

# Random states are global to the process, and virtual ranks are threads of one process. A thread that draws without
# the lock can still disturb the stream, as dropout outside of it does: real ranks are processes.
_LOCK = threading.Lock()


def derived_seed(seed: int, first: int, second: int) -> int:
    """A seed for one of many streams of a training, such as by step and rank; equal arguments give equal seeds."""
    return ((seed * 1_000_003 + first) * 1_009 + second) % 2**63


@contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Draw from a stream that the seed fixes inside the `with` block; after it, torch's random states are as before.

    Args:
        device: where the numbers are drawn; the CPU's stream is always fixed as well.
        seed: of the stream.
    """
    with _LOCK, torch.random.fork_rng([device] if device.type == "cuda" else []):
        for generator in _generators(device):
            generator.manual_seed(seed)
        yield


def draws(module: nn.Module, inputs: Tensor) -> bool:
    """Whether the module's forward pass in training mode draws random numbers, as dropout does, wherever in it.

    The pass is of a copy, and leaves torch's random states as they are.
    """
    trial = copy.deepcopy(module).train()
    with torch.no_grad(), seeded(inputs.device, 0):
        before = [generator.get_state() for generator in _generators(inputs.device)]
        trial(inputs)
        after = [generator.get_state() for generator in _generators(inputs.device)]
    return not all(map(torch.equal, before, after))


def _generators(device: torch.device) -> list[torch.Generator]:
    """The CPU's and, on a GPU, the device's. Torch's own `manual_seed` would also seed other devices."""
    if device.type != "cuda":
        return [torch.default_generator]
    index = torch.cuda.current_device() if device.index is None else device.index
    return [torch.default_generator, torch.cuda.default_generators[index]]
