"""States that a checkpoint can hold: plain values, which are read without running any code that a file names."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

_LEAVES = (torch.Tensor, nn.Parameter, bool, int, float, str, type(None))


def require_plain(state: object, name: str = "state") -> None:
    """Raise TypeError unless `torch.load(weights_only=True)` reads `state`; it names the part that is not plain.

    Plain are tensors, numbers, strings, booleans, None, and lists, tuples and dicts of these whose keys are strings or
    integers. Subclasses are not, except OrderedDict: reading them would import their modules.

    Args:
        state: what a method's `state_dict` returned.
        name: of the state, for the message.

    Example:
        >>> require_plain({"z": [1, 2.5]})
        >>> require_plain({"learners": {("M", 0): 1}})
        Traceback (most recent call last):
        TypeError: state['learners'] has the key ('M', 0); keys of a saved state must be strings or integers
    """
    if type(state) in (dict, OrderedDict):
        assert isinstance(state, dict)
        for key, value in state.items():
            if type(key) not in (str, int):
                raise TypeError(f"{name} has the key {key!r}; keys of a saved state must be strings or integers")
            require_plain(value, f"{name}[{key!r}]")
    elif type(state) in (list, tuple):
        assert isinstance(state, list | tuple)
        for number, value in enumerate(state):
            require_plain(value, f"{name}[{number}]")
    elif type(state) not in _LEAVES:
        raise TypeError(
            f"{name} is of type {type(state).__module__}.{type(state).__qualname__}; a saved state must consist of "
            "tensors, numbers, strings, booleans, None, lists, tuples and dicts"
        )
