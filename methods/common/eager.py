"""torch's optimizers without what they do for torch.compile, which nothing here compiles.

Their methods are wrapped for the compiler and import it when they are first called: as much CPU time as importing torch
itself, on every rank, before the first trial.
"""

from __future__ import annotations

import inspect
from functools import cache
from typing import TypeVar, cast

import torch

Kind = TypeVar("Kind", bound=torch.optim.Optimizer)

_WRAPPED = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")


@cache
def eager(kind: type[Kind]) -> type[Kind]:
    """The same optimizer with the same arithmetic, bit for bit, whose methods do not import the compiler.

    Args:
        kind: a class of torch.optim. It must not be made differentiable: `step` records no gradients.

    Example:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.ones(1))
        >>> weight.grad = torch.ones(1)
        >>> eager(torch.optim.SGD)([weight], lr=0.25).step()
        >>> weight.item()
        0.75
    """
    methods = {name: inspect.unwrap(getattr(kind, name)) for name in _WRAPPED}
    methods["step"] = torch.no_grad()(inspect.unwrap(kind.step))
    return cast("type[Kind]", type(kind.__name__, (kind,), methods))
