"""Parameter groups: multipliers of the learning rate and the weight decay, by parameter."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from atoll.methods.common.validation import require

_NORMALIZATIONS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@dataclass(frozen=True, eq=False)
class ParameterGroup:
    """Parameters that are trained with the same multiples of the searched learning rate and weight decay.

    Attributes:
        parameters: each belongs to one group.
        rate: factor of learning_rate, above 0; a parameter that is not to be trained has requires_grad = False.
        decay: factor of weight_decay, at least 0.

    Example:
        >>> import torch
        >>> from atoll import ParameterGroup
        >>> backbone, head = torch.nn.Linear(4, 8), torch.nn.Linear(8, 2)
        >>> groups = [ParameterGroup(backbone.parameters(), rate=0.1), ParameterGroup(head.parameters(), decay=0.0)]
        >>> len(groups[0].parameters), groups[0].rate, groups[0].decay
        (2, 0.1, 1.0)
    """

    parameters: Sequence[nn.Parameter]
    rate: float = 1.0
    decay: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "parameters", list(self.parameters))  # model.parameters() can be read only once
        require(self.rate > 0, f"a parameter group's rate must be above 0; got {self.rate}")
        require(self.decay >= 0, f"a parameter group's decay must be at least 0; got {self.decay}")

    @property
    def multipliers(self) -> Multipliers:
        """The factors of learning rate and weight decay."""
        return self.rate, self.decay


Multipliers = tuple[float, float]  # of learning rate and weight decay
Groups = Callable[[nn.Module], Iterable[ParameterGroup]]


def default_groups(model: nn.Module) -> list[ParameterGroup]:
    """Two groups: weights, and what does not decay: biases, one-dimensional parameters, normalization layers.

    Example:
        >>> import torch
        >>> weights, others = default_groups(torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.LayerNorm(2)))
        >>> [tuple(p.shape) for p in weights.parameters], [tuple(p.shape) for p in others.parameters]
        ([(2, 4)], [(2,), (2,), (2,)])
        >>> weights.decay, others.decay
        (1.0, 0.0)
    """
    normalizing = {
        id(p) for m in model.modules() if isinstance(m, _NORMALIZATIONS) for p in m.parameters(recurse=False)
    }
    weights: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_other = parameter.dim() <= 1 or "bias" in name.rpartition(".")[2] or id(parameter) in normalizing
        (others if is_other else weights).append(parameter)
    return [ParameterGroup(weights), ParameterGroup(others, decay=0.0)]


def multipliers(groups: Iterable[ParameterGroup], named: Iterable[tuple[str, nn.Parameter]]) -> list[Multipliers]:
    """The factors of each of the named parameters.

    Raises:
        ValueError: for a parameter that is in no group or in several.
    """
    found: dict[int, Multipliers] = {}
    twice = set()
    for group in groups:
        for parameter in group.parameters:
            twice |= {id(parameter)} & found.keys()
            found[id(parameter)] = group.multipliers
    named = list(named)
    _refuse("more than one group", [name for name, parameter in named if id(parameter) in twice])
    _refuse("none", [name for name, parameter in named if id(parameter) not in found])
    return [found[id(parameter)] for _, parameter in named]


def _refuse(where: str, names: list[str]) -> None:
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    require(not names, f"parameter_groups must place each trained parameter in one group; in {where}: {shown}")


def grouped(parameters: Iterable[nn.Parameter], factors: Iterable[Multipliers]) -> list[ParameterGroup]:
    """Groups of the parameters with equal factors, the largest factors first: whatever the order of parameters."""
    found: dict[Multipliers, list[nn.Parameter]] = {}
    for parameter, both in zip(parameters, factors, strict=True):
        found.setdefault(both, []).append(parameter)
    return [ParameterGroup(found[both], *both) for both in sorted(found, reverse=True)]


def runs(slices: Sequence[slice], factors: Sequence[Multipliers]) -> Iterator[tuple[slice, Multipliers]]:
    """The maximal runs of consecutive slices with equal factors."""
    start = 0
    for number, both in enumerate(factors):
        if number + 1 == len(factors) or factors[number + 1] != both:
            yield slice(slices[start].start, slices[number].stop), both
            start = number + 1


def spread(slices: Sequence[slice], factors: Sequence[float], like: Tensor) -> Tensor | float:
    """A factor for each element of `like` (n,), or one number if all are equal."""
    if len(set(factors)) <= 1:
        return factors[0] if factors else 1.0
    spread = like.new_empty(like.shape)
    for where, factor in zip(slices, factors, strict=True):
        spread[where] = factor
    return spread
