"""AB training's merge modes: how the factors of all ranks become one full-rank weight (Coquelin 2024, chapter 5)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal, NamedTuple

from torch import Tensor

from atoll.methods.low_rank.factored_layers import Factored

FactorName = Literal["A", "B"]


class Group(NamedTuple):
    """A group of ranks: its number, and the factor that it trains."""

    number: int
    factor: FactorName


def place(rank: int, num_ranks: int, group_size: int) -> Group:
    """The group of a rank: runs of ranks as equal as possible, at least two; the first half of them trains A."""
    num_groups = max(2, num_ranks // group_size)
    number = rank * num_groups // num_ranks
    return Group(number, "A" if 2 * number < num_groups else "B")


class MergeMode(ABC):
    """How a merge makes a full-rank weight from a layer's factors.

    `pack` gives the tensors whose mean over all ranks is taken, and `unpack` makes the weight from these means, which
    it gets in the same order.

    Attributes:
        has_groups: whether groups of ranks train different factors, so that a merge also averages all other parameters.
    """

    has_groups: ClassVar[bool] = True

    @abstractmethod
    def pack(self, layer: Factored) -> list[Tensor]:
        """Copies of the tensors that this rank contributes to the mean over ranks."""

    @abstractmethod
    def unpack(self, layer: Factored, means: list[Tensor]) -> Tensor:
        """The full-rank weight."""


class FactorMeans(MergeMode):
    """The product of the mean factors.

    with_stale takes the mean over all ranks, frozen copies included (Coquelin 2024, eq. 5.8), and only_learned over the
    ranks that train the factor.

    Args:
        multiples: the multiple of each factor that this rank contributes to the mean over all ranks.
    """

    def __init__(self, multiples: Mapping[FactorName, float]) -> None:
        self._multiples = multiples

    def pack(self, layer: Factored) -> list[Tensor]:
        """A, then B."""
        return [getattr(layer, name).detach() * multiple for name, multiple in self._multiples.items()]

    def unpack(self, layer: Factored, means: list[Tensor]) -> Tensor:
        """mean(A) mean(B)."""
        mean_a, mean_b = means
        return (mean_a @ mean_b).view(layer.weight_shape)


class Full(MergeMode):
    """The mean of the products A B."""

    def pack(self, layer: Factored) -> list[Tensor]:
        """The product."""
        return [layer.merged().detach().clone()]

    def unpack(self, layer: Factored, means: list[Tensor]) -> Tensor:
        """The mean product."""
        (weight,) = means
        return weight


class OnlyB(MergeMode):
    """The product A B: without groups all ranks train B together, so it is equal on all ranks."""

    has_groups: ClassVar[bool] = False

    def pack(self, layer: Factored) -> list[Tensor]:
        """Nothing."""
        return []

    def unpack(self, layer: Factored, means: list[Tensor]) -> Tensor:
        """The product."""
        return layer.merged().detach()


MERGES = ("with_stale", "only_learned", "only_b", "full")


def merge_mode(name: str, rank: int, num_ranks: int, group_size: int) -> MergeMode:
    """The merge mode `name` of one of `num_ranks` ranks."""
    if name == "only_b":
        return OnlyB()
    if name == "full":
        return Full()
    if name == "with_stale":
        return FactorMeans({"A": 1.0, "B": 1.0})
    factors = [place(other, num_ranks, group_size).factor for other in range(num_ranks)]
    multiple = num_ranks / factors.count(factors[rank])
    return FactorMeans({"A": multiple, "B": 0.0} if factors[rank] == "A" else {"A": 0.0, "B": multiple})
