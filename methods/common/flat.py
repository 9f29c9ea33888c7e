"""One flat tensor under all parameters of a model, so that a method updates and sends them as one vector."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from atoll.communication.communicator import Communicator

WIRE_DTYPES = {"float32": None, "float16": torch.float16, "bfloat16": torch.bfloat16}


class FlatModel:
    """A model whose parameters, gradients and running statistics are views of flat tensors.

    Attributes:
        vector: (n,) all parameters as one, for an optimizer: elementwise rules do not care where a tensor ends.
        parameters: (n,) the same, without a gradient of its own.
        gradients: (n,) their gradients; those of `vector` as well.
        statistics: (s,) the floating elements of the buffers (batch-norm statistics), averaged whenever parameters are.
        state: (n + s,) parameters, then statistics.
        counters: the buffers that are no floating numbers (batch norm's count of batches).
        slices: where each parameter lies in `parameters`, in the model's order.
    """

    def __init__(self, model: nn.Module) -> None:
        self.trained = [p for p in model.parameters() if p.requires_grad]
        buffers = [b for b in model.buffers() if b.is_floating_point()]
        self.counters = [b for b in model.buffers() if not b.is_floating_point()]
        kinds = {(tensor.dtype, tensor.device) for tensor in (*self.trained, *buffers)}
        if len(kinds) != 1:
            raise ValueError(f"the model's parameters must share one dtype and device; got {sorted(map(str, kinds))}")
        self.model = model
        num_parameters = sum(p.numel() for p in self.trained)
        self.state = torch.cat([tensor.detach().reshape(-1) for tensor in (*self.trained, *buffers)])
        self.parameters, self.statistics = self.state[:num_parameters], self.state[num_parameters:]
        self.gradients = torch.zeros_like(self.parameters)
        self.slices = list(_slices(self.trained))
        for tensor, view in _views(self.state, [*self.trained, *buffers]):
            tensor.data = view
        for parameter, view in _views(self.gradients, self.trained):
            parameter.grad = view
        self.vector = nn.Parameter(self.parameters)
        self.vector.grad = self.gradients
        self._hooks: list[RemovableHandle] = []

    def backward(self, loss: Tensor) -> None:
        """Replace `gradients` by those of `loss`."""
        self.gradients.zero_()
        loss.backward()  # type: ignore[no-untyped-call]

    def average_statistics(self, communicator: Communicator) -> None:
        """Replace the running statistics, which each rank has of its own samples, by their mean over ranks."""
        if self.statistics.numel():
            communicator.mean(self.statistics)

    def state_dict(self) -> dict[str, Any]:
        """Copies of the parameters and of all buffers, those that are counters included."""
        return {"state": self.state.clone(), "counters": [counter.clone() for counter in self.counters]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self.state.copy_(state["state"])
        for counter, saved in zip(self.counters, state["counters"], strict=True):
            counter.copy_(saved)

    def on_gradient(self, function: Callable[[int], None]) -> None:
        """Call a bound method with a parameter's number as soon as backward has its gradient, the last one's first.

        The method's object is held weakly: autograd keeps hooks where no garbage collector looks, so a strong one would
        keep every trial's model for ever.
        """
        weak = weakref.WeakMethod(function)
        for number, parameter in enumerate(self.trained):
            self._hook(parameter, partial(_call, weak, number))

    def on_layer(self, function: Callable[[], None]) -> None:
        """Call a bound method after every layer's forward pass and every parameter's gradient; held weakly as well."""
        weak = weakref.WeakMethod(function)
        for module in self.model.modules():
            if not list(module.children()):
                self._hooks.append(module.register_forward_hook(partial(_call, weak, None)))
        for parameter in self.trained:
            self._hook(parameter, partial(_call, weak, None))

    def _hook(self, parameter: nn.Parameter, function: Callable[..., None]) -> None:
        self._hooks.append(parameter.register_post_accumulate_grad_hook(function))  # type: ignore[no-untyped-call]

    def release_hooks(self) -> None:
        """Call nobody any more: where the network's parameters change, another FlatModel takes over."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()


def _call(weak: weakref.WeakMethod[Any], number: int | None, *_: object) -> None:
    function = weak()
    if function is not None:
        function() if number is None else function(number)


def _slices(tensors: Sequence[Tensor]) -> Iterator[slice]:
    start = 0
    for tensor in tensors:
        yield slice(start, start + tensor.numel())
        start += tensor.numel()


def _views(flat: Tensor, tensors: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    for tensor, where in zip(tensors, _slices(tensors), strict=True):
        yield tensor, flat[where].view(tensor.shape)
