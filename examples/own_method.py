"""A training method of your own, used by own_method.yaml: sign SGD with majority vote (Bernstein et al., 2018).

Every rank sends the signs of its gradient; the update is the sign of their sum.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from optuna.distributions import FloatDistribution
from torch import Tensor, nn

from atoll import Batch, Context, Method, Parameter, SearchSpace, require


@dataclass(frozen=True, kw_only=True)
class SignSgdHyperparameters:
    shrinkage: float = 0.0

    def __post_init__(self) -> None:
        require(0 <= self.shrinkage < 1, f"shrinkage must be in [0, 1); got {self.shrinkage}")


class SignSgd(Method[SignSgdHyperparameters]):
    Hyperparameters = SignSgdHyperparameters
    search_space: ClassVar[SearchSpace] = SearchSpace(
        (Parameter(name="shrinkage", distribution=FloatDistribution(0.0, 0.01), default=0.0),)
    )

    def __init__(self, hyperparameters: SignSgdHyperparameters, context: Context) -> None:
        self._keep = 1 - hyperparameters.shrinkage
        self._context = context
        self._flat = context.flatten()

    def step(self, batch: Batch) -> Tensor:
        loss = self._context.gradient(batch, self._flat)
        votes = torch.sign(self._flat.gradients)
        self._context.communicator.sum(votes, wire=torch.float16)  # votes are small integers: float16 is exact
        self._flat.parameters.mul_(self._keep).sub_(torch.sign(votes), alpha=self._context.optimizers.learning_rate)
        return loss

    def evaluation_model(self) -> nn.Module:
        self._flat.average_statistics(self._context.untracked)
        return self._context.model

    def finalize(self) -> nn.Module:
        return self.evaluation_model()

    def state_dict(self) -> dict[str, Any]:
        return {"model": self._flat.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._flat.load_state_dict(state["model"])
