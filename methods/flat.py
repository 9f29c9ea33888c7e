"""One flat tensor under all parameters of a model, so that a method updates and sends them as one vector."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

WIRE_DTYPES = {"float32": None, "float16": torch.float16, "bfloat16": torch.bfloat16}


class FlatModel:
    """A model whose parameters, gradients and running statistics are views of flat tensors.

    Attributes:
        parameters: (n,) all parameters.
        gradients: (n,) their gradients.
        state: (n + s,) the parameters, then the s floating elements of the buffers (batch-norm statistics), which are
            averaged whenever the parameters are.
    """

    def __init__(self, model: nn.Module) -> None:
        parameters = [p for p in model.parameters() if p.requires_grad]
        buffers = [b for b in model.buffers() if b.is_floating_point()]
        kinds = {(tensor.dtype, tensor.device) for tensor in (*parameters, *buffers)}
        if len(kinds) != 1:
            raise ValueError(f"the model's parameters must share one dtype and device; got {sorted(map(str, kinds))}")
        self.model = model
        num_parameters = sum(p.numel() for p in parameters)
        self.state = torch.cat([tensor.detach().reshape(-1) for tensor in (*parameters, *buffers)])
        self.parameters = self.state[:num_parameters]
        self.gradients = torch.zeros_like(self.parameters)
        for tensor, view in _views(self.state, [*parameters, *buffers]):
            tensor.data = view
        for parameter, view in _views(self.gradients, parameters):
            parameter.grad = view

    def backward(self, loss: Tensor) -> None:
        """Replace `gradients` by those of `loss`."""
        self.gradients.zero_()
        loss.backward()  # type: ignore[no-untyped-call]


def _views(flat: Tensor, tensors: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    start = 0
    for tensor in tensors:
        yield tensor, flat[start : start + tensor.numel()].view(tensor.shape)
        start += tensor.numel()
