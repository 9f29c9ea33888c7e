"""One flat tensor under all parameters of a model, so that a method updates and sends them as one vector."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from atoll.communication.communicator import Communicator
from atoll.methods.common.groups import ParameterGroup, grouped, multipliers, runs, spread

WIRE_DTYPES = {"float32": None, "float16": torch.float16, "bfloat16": torch.bfloat16}


class FlatModel:
    """A model whose parameters, gradients and running statistics are views of flat tensors.

    It must be made before an optimizer takes the parameters. ValueError if they have several dtypes or devices, or if
    a trained one is not in one of the groups.

    Args:
        model: changed in place: its trained parameters and floating buffers become views.
        groups: of the model's parameters, or of a larger network's; `Context.flatten` gives the workload's. Default:
            all are in one group, and decay.

    Attributes:
        model: the model.
        trained: its parameters that require gradients, in its order.
        vector: (n,) all of these as one parameter for an optimizer; an elementwise rule gives the same result.
        factors: of the learning rate and the weight decay, for each of `trained`.
        parameters: (n,) the same memory, as a tensor.
        gradients: (n,) their gradients, and those of `vector`.
        statistics: (s,) the floating-point buffers (batch-norm statistics), averaged whenever parameters are.
        state: (n + s,) parameters, then statistics.
        counters: the other buffers (batch norm's count of batches).
        slices: the place of each parameter in `parameters`.

    Example:
        >>> import torch
        >>> from atoll import FlatModel
        >>> flat = FlatModel(torch.nn.Linear(3, 1))
        >>> flat.parameters.fill_(1.0).shape
        torch.Size([4])
        >>> flat.backward(flat.model(torch.tensor([[1.0, 2.0, 3.0]])).sum())
        >>> flat.gradients
        tensor([1., 2., 3., 1.])
        >>> _ = flat.parameters.sub_(flat.gradients, alpha=0.1)  # a step of SGD
        >>> flat.model.bias
        Parameter containing:
        tensor([0.9000], requires_grad=True)
    """

    def __init__(self, model: nn.Module, groups: Iterable[ParameterGroup] | None = None) -> None:
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self.trained = [p for _, p in named]
        self.factors = [(1.0, 1.0)] * len(named) if groups is None else multipliers(groups, named)
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

    @cached_property
    def groups(self) -> list[ParameterGroup]:
        """The groups for an elementwise optimizer: `vector` if all factors are equal, else views of runs of it.

        A run is as many consecutive parameters with equal factors as there are, so there are few to step over.
        """
        if len(set(self.factors)) <= 1:
            return [ParameterGroup([self.vector], *(self.factors or [(1.0, 1.0)])[0])]
        views, factors = [], []
        for where, both in runs(self.slices, self.factors):
            view = nn.Parameter(self.parameters[where])
            view.grad = self.gradients[where]
            views.append(view)
            factors.append(both)
        return grouped(views, factors)

    @property
    def groups_by_parameter(self) -> list[ParameterGroup]:
        """The groups for an optimizer that needs each parameter's shape."""
        return grouped(self.trained, self.factors)

    @cached_property
    def rate_factor(self) -> Tensor | float:
        """(n,) the factor of the learning rate for each element, or one number if all are equal."""
        return spread(self.slices, [rate for rate, _ in self.factors], self.parameters)

    @cached_property
    def decay_factor(self) -> Tensor | float:
        """(n,) the factor of the weight decay for each element, or one number if all are equal."""
        return spread(self.slices, [decay for _, decay in self.factors], self.parameters)

    def backward(self, loss: Tensor) -> None:
        """Replace `gradients` by those of `loss`."""
        with self.collecting():
            loss.backward()  # type: ignore[no-untyped-call]

    @contextmanager
    def collecting(self, num_parts: int = 1, scale: float = 1.0) -> Iterator[None]:
        """Replace `gradients` by the sum of those of all backward passes in the block, divided by `scale`."""
        self.gradients.zero_()
        yield
        if scale != 1:
            self.gradients.div_(scale)

    def average_statistics(self, communicator: Communicator) -> None:
        """Replace the running statistics, which each rank has of its own samples, by their mean; collective."""
        if self.statistics.numel():
            communicator.mean(self.statistics)

    def state_dict(self) -> dict[str, Any]:
        """Copies of the parameters and of all buffers, counters included."""
        return {"state": self.state.clone(), "counters": [counter.clone() for counter in self.counters]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self.state.copy_(state["state"])
        for counter, saved in zip(self.counters, state["counters"], strict=True):
            counter.copy_(saved)

    def on_gradient(self, function: Callable[[int], None]) -> None:
        """Call a bound method with a parameter's number as soon as backward has its gradient, the last parameter first.

        The method's object is held weakly: the garbage collector does not see autograd's hooks, so a strong reference
        would keep every trial's model forever.
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
        """Remove the hooks: if the network's parameters are replaced, another FlatModel takes over."""
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
