"""Cuts a network into groups of layers.

A layer is a module with a weight of at least two dimensions and all modules up to the next such module: its activation,
pooling, normalization and dropout. Groups are runs of consecutive layers, f_0 .. f_{G-1}.
"""

from __future__ import annotations

import itertools
import math
import re
import statistics
import time
from abc import ABC, abstractmethod
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
    """Modules that are trained together; `name` is the name of the module with the weight."""

    name: str
    modules: tuple[nn.Module, ...]


def split_layers(model: nn.Module) -> list[Layer]:
    """The layers of a network that is an nn.Sequential, possibly nested.

    Raises:
        NotApplicable: if the network is anything else, or if its layers share a parameter.
    """
    if not _is_chain(model):
        raise NotApplicable(
            "a layer-parallel method cuts the network between layers, so it must be an nn.Sequential, in which each "
            f"module takes what the one before it returns; got {type(model).__name__}, whose forward may do anything"
        )
    layers: list[Layer] = []
    ahead: list[nn.Module] = []  # modules before the first weight, such as a flattening
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
    # Not named_children, which skips a module's second occurrence.
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


class Grouping(ABC):
    """Where to cut a network, in a form that fits any number of layers."""

    @abstractmethod
    def sizes(self, names: Sequence[str], num_groups: int, seconds: Callable[[], Sequence[float]] = tuple) -> list[int]:
        """The number of layers of each group.

        Args:
            names: the layers' names.
            num_groups: number of groups, for a grouping that leaves it open.
            seconds: measures the time of each layer, for `balanced`.

        Raises:
            NotApplicable: if the grouping does not fit these layers.
        """


@dataclass(frozen=True)
class Counts(Grouping):
    """The number of layers of each group, such as 1,5."""

    counts: tuple[int, ...]
    text: str

    def sizes(self, names: Sequence[str], num_groups: int, seconds: Callable[[], Sequence[float]] = tuple) -> list[int]:
        """The counts."""
        if sum(self.counts) != len(names) or 0 in self.counts:
            raise NotApplicable(
                f"the network has {len(names)} layers ({', '.join(names)}), each of which belongs to one group of at "
                f"least one; got the grouping {self.text!r} of {sum(self.counts)}"
            )
        return list(self.counts)


@dataclass(frozen=True)
class FirstLayers(Grouping):
    """The layers with which all groups but the first begin, such as at:2,6."""

    names: tuple[str, ...]
    text: str

    def sizes(self, names: Sequence[str], num_groups: int, seconds: Callable[[], Sequence[float]] = tuple) -> list[int]:
        """The distances between these layers."""
        starts = [list(names).index(name) for name in self.names if name in names[1:]]
        if len(starts) != len(self.names) or starts != sorted(set(starts)):
            raise NotApplicable(
                f"groups may begin with the layers {', '.join(names[1:]) or 'none'}, in this order; got {self.text!r}"
            )
        return [b - a for a, b in itertools.pairwise([0, *starts, len(names)])]


@dataclass(frozen=True)
class NamedRule(Grouping):
    """One of the rules of `NAMED`, for a given number of groups.

    `first` gives one layer to each group but the last, and `last` to each group but the first, as the groupings (1,5)
    and (5,1) of Martin 2024, table 4.1, do; `even` distributes layers evenly, and `balanced` their computing time.
    """

    rule: str

    def sizes(self, names: Sequence[str], num_groups: int, seconds: Callable[[], Sequence[float]] = tuple) -> list[int]:
        """The sizes by this rule."""
        n, g = len(names), num_groups
        if g > n:
            raise NotApplicable(f"the network has {n} layers ({', '.join(names)}), so at most {n} groups; got {g}")
        if self.rule == "first":
            return [1] * (g - 1) + [n - g + 1]
        if self.rule == "last":
            return [n - g + 1] + [1] * (g - 1)
        if self.rule == "even":
            return [(i + 1) * n // g - i * n // g for i in range(g)]
        return _balanced(seconds(), g)


def parse_grouping(text: str) -> Grouping:
    """The grouping that `text` describes; raises ValueError if it describes none."""
    require(
        text in NAMED or bool(_COUNTS.fullmatch(text)) or bool(_NAMES.fullmatch(text)),
        f"grouping must be one of {', '.join(NAMED)}, or the number of layers in each group, such as 1,5, or at: and "
        f"the modules with which all groups but the first begin, such as at:2,6; got {text!r}",
    )
    if text in NAMED:
        return NamedRule(text)
    if text.startswith("at:"):
        return FirstLayers(tuple(text.removeprefix("at:").split(",")), text)
    return Counts(tuple(int(count) for count in text.split(",")), text)


def _balanced(seconds: Sequence[float], num_groups: int) -> list[int]:
    """The cut that minimizes the slowest group's time, and among these cuts the most even one."""

    @cache
    def best(start: int, groups: int, limit: float) -> tuple[float, float, tuple[int, ...]]:
        """The slowest group's time, the sum of squared times, and the sizes, for the layers from `start` on.

        Groups slower than `limit` have an infinite square. Without a limit the slowest time is minimized, with one the
        sum of squares.
        """
        if groups == 1:
            rest = sum(seconds[start:])
            return rest, rest**2 if rest <= limit else math.inf, (len(seconds) - start,)
        cuts = []
        for size in range(1, len(seconds) - start - groups + 2):
            first = sum(seconds[start : start + size])
            slowest, squares, sizes = best(start + size, groups - 1, limit)
            cuts.append((max(first, slowest), squares + first**2 if first <= limit else math.inf, (size, *sizes)))
        return min(cuts, key=lambda cut: cut[0] if limit == math.inf else cut[1])

    slowest = best(0, num_groups, math.inf)[0]
    return list(best(0, num_groups, slowest)[2])


class Stopwatch:
    """Measures how long each layer takes, on request."""

    NUM_REPEATS = 7

    def __init__(self, layers: Sequence[Layer], context: Context) -> None:
        self._layers = layers
        self._context = context

    def agreed_seconds(self) -> list[float]:
        """The median seconds of each layer's forward pass, as measured by rank 0; collective."""
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
