"""Nestings of tensors, as a network's inputs and targets may be: a tensor, or a dict, list or tuple of nestings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

Nested = Any  # a tensor, or a dict, list or tuple (named ones, too) of nestings; other leaves stay as they are


def map_tensors(function: Callable[[Tensor], Tensor], nested: Nested) -> Nested:
    """The same nesting, with `function` applied to each tensor.

    Example:
        >>> import torch
        >>> map_tensors(len, {"input_ids": torch.ones(3, 7), "lengths": (torch.ones(3), "bytes")})
        {'input_ids': 3, 'lengths': (3, 'bytes')}
    """
    if isinstance(nested, Tensor):
        return function(nested)
    if isinstance(nested, Mapping):
        values = {key: map_tensors(function, value) for key, value in nested.items()}
        return values if type(nested) is dict else type(nested)(values)  # type: ignore[call-arg]
    if isinstance(nested, tuple | list):
        parts = [map_tensors(function, part) for part in nested]
        return type(nested)(*parts) if hasattr(nested, "_fields") else type(nested)(parts)
    return nested


def tensors(nested: Nested) -> Iterator[Tensor]:
    """The tensors of a nesting, in order."""
    if isinstance(nested, Tensor):
        yield nested
    elif isinstance(nested, Mapping):
        for value in nested.values():
            yield from tensors(value)
    elif isinstance(nested, tuple | list):
        for part in nested:
            yield from tensors(part)


def num_samples(nested: Nested) -> int:
    """The number of samples: the length of the first tensor with a dimension. Raises ValueError if there is none."""
    for tensor in tensors(nested):
        if tensor.dim():
            return len(tensor)
    raise ValueError("a batch's inputs or targets must hold a tensor with one entry per sample; got none")
