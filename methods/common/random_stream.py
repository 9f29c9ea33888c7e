"""A random stream of its own for a forward pass, whatever else the process draws."""

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


@contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Draw from a stream that the seed fixes inside the `with` block; after it, torch's random states are as before.

    Args:
        device: where the numbers are drawn; the CPU's stream is always fixed as well.
        seed: of the stream.
    """
    with _LOCK:
        states = _states(device)
        try:
            torch.default_generator.manual_seed(seed)
            if device.type == "cuda":
                with torch.cuda.device(device):
                    torch.cuda.manual_seed(seed)
            yield
        finally:
            torch.set_rng_state(states[0])
            if device.type == "cuda":
                torch.cuda.set_rng_state(states[1], device)


def draws(module: nn.Module, inputs: Tensor) -> bool:
    """Whether the module's forward pass in training mode draws random numbers, as dropout does, wherever in it.

    The pass is of a copy, and leaves torch's random states as they are.
    """
    trial = copy.deepcopy(module).train()
    with torch.no_grad(), seeded(inputs.device, 0):
        before = _states(inputs.device)
        trial(inputs)
        after = _states(inputs.device)
    return not all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def _states(device: torch.device) -> list[Tensor]:
    """The random state of the CPU and, on a GPU, the device's."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return states
