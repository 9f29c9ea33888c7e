"""Several tensors in one vector, so that one message carries them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def pack(tensors: Iterable[Tensor], out: Tensor | None = None) -> Tensor:
    """All elements of `tensors` (at least one) as one vector."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors], out=out)


def unpack(vector: Tensor, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
    """Views of a packed vector as tensors of the given shapes."""
    parts = torch.split(vector, [torch.Size(shape).numel() for shape in shapes])
    return [part.view(tuple(shape)) for part, shape in zip(parts, shapes, strict=True)]
