"""Parameter groups of a network whose layers are factored and restored while it trains."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from atoll.methods.common.groups import ParameterGroup, grouped, multipliers
from atoll.methods.common.optimizers import OptimizerSettings
from atoll.methods.common.own import is_own
from atoll.methods.low_rank.factored import join
from atoll.methods.low_rank.factored_layers import Factored
from atoll.methods.method import NotApplicable

REPLACES = "replaces weights while it trains, each time of which torch.compile would compile anew"


class FactoredGroups:
    """The groups of the full-rank network, by name: a layer's factors are in its weight's group.

    Args:
        model: the network, in full rank.
        groups: of its parameters.
    """

    def __init__(self, model: nn.Module, groups: Iterable[ParameterGroup]) -> None:
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self._factors = dict(zip((name for name, _ in named), multipliers(groups, named), strict=True))

    def of(self, model: nn.Module) -> list[ParameterGroup]:
        """The groups of the network's trained parameters now."""
        weights = {
            join(name, factor): join(name, layer.weight_name)
            for name, layer in model.named_modules()
            if isinstance(layer, Factored)
            for factor in layer.factor_names
        }
        named = [(weights.get(name, name), p) for name, p in model.named_parameters() if p.requires_grad]
        return grouped((p for _, p in named), (self._factors[name] for name, _ in named))


def check_retargets(method: str, settings: OptimizerSettings) -> None:
    """Raise NotApplicable for an optimizer of the user's own: its groups' options would be lost with the weights."""
    if is_own("optimizer", settings.optimizer):
        raise NotApplicable(
            f"{method} replaces parameters while it trains, so optimizer must be one of atoll's, or of torch's by "
            f"name; got {settings.optimizer}"
        )
