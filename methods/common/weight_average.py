"""An exponential moving average of the weights, which is evaluated in place of the weights; training never sees it."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from atoll.methods.method import Context, Method


# What a method that evaluates an average anyway does not support.
OWN_AVERAGE = MappingProxyType({"ema": "evaluates an average of its own"})


@dataclass(frozen=True)
class Evaluated:
    """Where a part of the network that a method evaluates is between two steps: the mean over `ranks` of `values`.

    Attributes:
        tensors: parameters or floating-point buffers of the network, the same ones on every rank.
        ranks: those that hold their values.
        values: (as `tensors`), which change in place. Default: `tensors` themselves.
    """

    tensors: Sequence[Tensor]
    ranks: Collection[int]
    values: Sequence[Tensor] | None = None


def replicas(model: nn.Module, ranks: Collection[int]) -> Evaluated:
    """Trained parameters and running statistics, of which each of the ranks has its own."""
    return Evaluated([*_trained(model), *_statistics(model)], ranks)


def center(model: nn.Module, vector: Tensor, root: int, num_ranks: int, num_servers: int = 0) -> list[Evaluated]:
    """Trained parameters that rank `root` has in a vector (n,), and running statistics, of which each rank has its own.

    Args:
        model: the network.
        vector: where they are; other ranks' is not read.
        root: its rank.
        num_ranks: of the worker.
        num_servers: of these, the first ones that do not train, and have no running statistics.
    """
    trained = _trained(model)
    parts = torch.split(vector, [parameter.numel() for parameter in trained])
    values = [part.view(parameter.shape) for part, parameter in zip(parts, trained, strict=True)]
    return [Evaluated(trained, [root], values), Evaluated(_statistics(model), range(num_servers, num_ranks))]


def _trained(model: nn.Module) -> list[Tensor]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _statistics(model: nn.Module) -> list[Tensor]:
    return [buffer for buffer in model.buffers() if buffer.is_floating_point()]


def rate(decay: float, num_steps: int) -> float:
    """The weight of the latest of `num_steps` steps, (1 - d) / (1 - d^t).

    Example:
        >>> rate(0.9, 1), rate(0.0, 5), round(rate(0.9, 1000), 6)
        (1.0, 1.0, 0.1)
    """
    return 1.0 if decay == 0 else (1 - decay) / -math.expm1(num_steps * math.log(decay))


class WeightAverage:
    """The average of the weights after each step, with the bias that starts it corrected.

    After t steps the weights of step i count with d^(t-i), and all counts sum to 1:

        z_t = (1 - d) sum_{i=1}^t d^(t-i) x_i / (1 - d^t),   z_t = z_{t-1} + a_t (x_t - z_{t-1}),
        a_t = (1 - d) / (1 - d^t)

    So the weights before training have no part in it, and for t well below 1 / (1 - d) it is the mean of all steps
    (Polyak and Juditsky 1992). Later it is the moving average of Tarvainen and Valpola (2017), whose ramp-up serves the
    same end; the correction is that of Adam (Kingma and Ba 2015, section 3). Without it, short trainings would be
    judged by their random first weights.

    A rank averages what it holds of the evaluated network (`Method.evaluated`). As averages and means are linear, the
    mean over ranks of their averages is the average of their mean. Running statistics are averaged like the weights,
    as those of the latest batches belong to the latest weights; counts of batches are the network's.

    To be made before the network gets hooks.

    Args:
        context: the trial's; the settings of its optimizers have the decay.
    """

    def __init__(self, context: Context) -> None:
        self._decay = context.optimizers.settings.ema
        self._communicator = context.untracked
        self._model = context.model
        self._shown = copy.deepcopy(context.model)
        self._parts: list[Evaluated] = []
        self._averages: list[list[Tensor]] = []
        self._num_steps = 0

    def follow(self, method: Method[Any]) -> None:
        """Average what this method evaluates, from its next step on."""
        self._parts = list(method.evaluated(self._model, self._communicator.size))
        self._averages = [
            [torch.zeros_like(value, requires_grad=False) for value in self._values(part)] for part in self._parts
        ]

    def _values(self, part: Evaluated) -> Sequence[Tensor]:
        """What this rank holds of a part."""
        if self._communicator.rank not in part.ranks:
            return []
        return part.tensors if part.values is None else part.values

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step."""
        self._num_steps += 1
        weight = rate(self._decay, self._num_steps)
        for part, averages in zip(self._parts, self._averages, strict=True):
            if averages:
                torch._foreach_lerp_(averages, list(self._values(part)), weight)

    @torch.no_grad()
    def model(self, latest: nn.Module) -> nn.Module:
        """The network with the averages, equal on every rank; collective.

        Args:
            latest: the network without averages, as the method evaluates it; its counts of batches are taken.
        """
        for counter, buffer in zip(self._shown.buffers(), latest.buffers(), strict=True):
            if not counter.is_floating_point():
                counter.copy_(buffer)
        shown = self._in_copy()
        for part, averages in zip(self._parts, self._averages, strict=True):
            if part.tensors:
                self._gather(part, averages, [shown[id(tensor)] for tensor in part.tensors])
        return self._shown

    def _in_copy(self) -> dict[int, Tensor]:
        """The copy's tensors, by the id of the network's."""
        pairs = [
            *zip(self._model.parameters(), self._shown.parameters(), strict=True),
            *zip(self._model.buffers(), self._shown.buffers(), strict=True),
        ]
        return {id(own): copied for own, copied in pairs}

    def _gather(self, part: Evaluated, averages: Sequence[Tensor], into: Sequence[Tensor]) -> None:
        """Put the mean over ranks of a part's averages into tensors of the copy, in one message."""
        like = into[0]
        total = like.new_zeros(sum(tensor.numel() for tensor in into))
        if averages:
            torch.cat([average.reshape(-1).to(like.device) for average in averages], out=total)
        if len(part.ranks) == 1:
            self._communicator.broadcast(total, next(iter(part.ranks)))
        else:
            self._communicator.sum(total)
            total /= len(part.ranks)
        for tensor, mean in zip(into, torch.split(total, [tensor.numel() for tensor in into]), strict=True):
            tensor.copy_(mean.view(tensor.shape))

    def state_dict(self) -> dict[str, Any]:
        """Return copies of this rank's averages, and the number of steps."""
        averages = [[average.clone() for average in part] for part in self._averages]
        return {"averages": averages, "num_steps": self._num_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`, which stays as it is."""
        for part, saved in zip(self._averages, state["averages"], strict=True):
            for average, value in zip(part, saved, strict=True):
                average.copy_(value)
        self._num_steps = state["num_steps"]
