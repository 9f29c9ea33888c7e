"""Where a network is cut into groups of layers.

A layer is a module with a weight of two or more dimensions and all modules up to the next one: its activation, pooling,
normalisation and dropout. Groups are runs of layers, f_0 .. f_{G-1}.
"""

from __future__ import annotations

import itertools
import math
import re
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn

from atoll.methods.common.evaluation import deterministic
from atoll.methods.common.validation import require
from atoll.methods.method import Context, NotApplicable

NAMED = ("even", "first", "last", "balanced")
_COUNTS, _NAMES = re.compile(r"\d+(,\d+)*"), re.compile(r"at:[^,]+(,[^,]+)*")


@dataclass(frozen=True)
class Layer:
    """Modules that are trained together; `name` is that of the first one in the network."""

    name: str
    modules: tuple[nn.Module, ...]


def split_layers(model: nn.Module) -> list[Layer]:
    """The layers of a network that is an nn.Sequential of modules, or of others.

    Raises:
        NotApplicable: for any other network, or one whose layers share a parameter.
    """
    if not _is_chain(model):
        raise NotApplicable(
            "a layer-parallel method cuts the network between layers, so it must be an nn.Sequential, in which each "
            f"module takes what the one before it returns; got {type(model).__name__}, whose forward may do anything"
        )
    layers: list[Layer] = []
    ahead: list[nn.Module] = []  # such as a flattening before the first weight
    for name, module in _flattened(model):
        if any(p.dim() > 1 for p in module.parameters()):
            layers.append(Layer(name, (*ahead, module)))
            ahead = []
        elif layers:
            layers[-1] = Layer(layers[-1].name, (*layers[-1].modules, module))
        else:
            ahead.append(module)
    _check_parameters(layers)
    return layers


def _is_chain(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _flattened(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    # Not named_children, which leaves out a module that stands in the network for the second time.
    for name, module in model._modules.items():
        assert module is not None
        if _is_chain(module):
            yield from _flattened(module, f"{prefix}{name}.")
        else:
            yield prefix + name, module


def _check_parameters(layers: Sequence[Layer]) -> None:
    if not layers:
        raise NotApplicable("a layer-parallel method needs a network with at least one weight; it has none")
    owner: dict[int, str] = {}
    for layer in layers:
        for parameter in (p for module in layer.modules for p in module.parameters()):
            if owner.setdefault(id(parameter), layer.name) != layer.name:
                raise NotApplicable(
                    f"layers {owner[id(parameter)]} and {layer.name} share a parameter; a layer-parallel method needs "
                    "layers with parameters of their own"
                )


def check_grouping(grouping: str) -> None:
    """Raise ValueError unless `grouping` may say how a network is cut."""
    require(
        grouping in NAMED or bool(_COUNTS.fullmatch(grouping)) or bool(_NAMES.fullmatch(grouping)),
        f"grouping must be one of {', '.join(NAMED)}, or the number of layers in each group, such as 1,5, or at: and "
        f"the modules with which all groups but the first begin, such as at:2,6; got {grouping!r}",
    )


def group_sizes(
    grouping: str, num_groups: int, names: Sequence[str], seconds: Callable[[], Sequence[float]] = tuple
) -> list[int]:
    """How many layers each group has.

    Args:
        grouping: as `check_grouping` takes it. `first` gives one layer to each group but the last, `last` to each but
            the first, as (1,5) and (5,1) of 000 table 4.1 do; `even` shares layers out, `balanced` their time.
        num_groups: the number of groups of a grouping that does not say it.
        names: of the layers.
        seconds: measures the time of each layer, for `balanced`.

    Raises:
        NotApplicable: where the network has not got these layers.
    """
    n, g = len(names), num_groups
    if grouping.startswith("at:"):
        wanted = grouping.removeprefix("at:").split(",")
        begins = [list(names).index(name) for name in wanted if name in names[1:]]
        if len(begins) != len(wanted) or begins != sorted(set(begins)):
            raise NotApplicable(
                f"groups may begin with the layers {', '.join(names[1:]) or 'none'}, in this order; got {grouping!r}"
            )
        sizes = [b - a for a, b in itertools.pairwise([0, *begins, n])]
    elif grouping not in NAMED:
        sizes = [int(size) for size in grouping.split(",")]
        if sum(sizes) != n or 0 in sizes:
            raise NotApplicable(
                f"the network has {n} layers ({', '.join(names)}), each of which belongs to one group of at least one; "
                f"got the grouping {grouping!r} of {sum(sizes)}"
            )
    elif g > n:
        raise NotApplicable(f"the network has {n} layers ({', '.join(names)}), so at most {n} groups; got {g}")
    elif grouping == "first":
        sizes = [1] * (g - 1) + [n - g + 1]
    elif grouping == "last":
        sizes = [n - g + 1] + [1] * (g - 1)
    elif grouping == "even":
        sizes = [(i + 1) * n // g - i * n // g for i in range(g)]
    else:
        sizes = _balanced(seconds(), g)
    return sizes


def _balanced(seconds: Sequence[float], num_groups: int) -> list[int]:
    """The cut into runs whose slowest is the fastest, and of these the most even one."""

    @cache
    def best(start: int, groups: int, limit: float) -> tuple[float, float, tuple[int, ...]]:
        """The slowest run's time, the sum of squares, and the sizes, for what begins at `start`."""
        if groups == 1:
            rest = sum(seconds[start:])
            return rest, rest**2 if rest <= limit else math.inf, (len(seconds) - start,)
        found = []
        for size in range(1, len(seconds) - start - groups + 2):
            run = sum(seconds[start : start + size])
            slowest, squares, sizes = best(start + size, groups - 1, limit)
            found.append((max(run, slowest), squares + run**2 if run <= limit else math.inf, (size, *sizes)))
        return min(found, key=lambda f: f[0] if limit == math.inf else f[1])

    slowest = best(0, num_groups, math.inf)[0]
    return list(best(0, num_groups, slowest)[2])


class Stopwatch:
    """Measures layers where somebody asks."""

    NUM_REPEATS = 7

    def __init__(self, layers: Sequence[Layer], context: Context) -> None:
        self._layers = layers
        self._context = context

    def agreed_seconds(self) -> list[float]:
        """Seconds of each layer's forward pass, the median of some, as rank 0 measured them; collective."""
        seconds = torch.tensor(
            [
                statistics.median(times)
                for times in zip(*(self._measure() for _ in range(self.NUM_REPEATS)), strict=True)
            ],
            dtype=torch.float64,
        )
        self._context.untracked.broadcast(seconds)
        return [float(s) for s in seconds]

    def _measure(self) -> Iterator[float]:
        values = self._context.inputs
        for layer in self._layers:
            module = nn.Sequential(*layer.modules)
            started = time.perf_counter()
            values = deterministic(module, values)
            if values.is_cuda:
                torch.cuda.synchronize(values.device)
            yield time.perf_counter() - started
