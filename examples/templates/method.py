"""A template for a method: copy this file, rename MyMethod, and adapt what the comments describe.

This one is local SGD: every rank trains alone, and every `period` steps the ranks average their parameters. A study
names it as `method: method.py:MyMethod`. Every rank of a worker runs the same code; calls of the communicator are
collective, so all ranks must make the same calls in the same order.
"""

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

from optuna.distributions import IntDistribution
from torch import Tensor, nn

from atoll import Batch, Context, Method, NotApplicable, OptimizerSettings, Parameter, SearchSpace, require


# The optimizer's settings (learning rate, momentum, schedule, batch size) are atoll's and searched with these.
@dataclass(frozen=True, kw_only=True)
class MyHyperparameters:
    """The method's own hyperparameters, with defaults. Invalid values raise ValueError here, before anything starts."""

    period: int = 4

    def __post_init__(self) -> None:
        require(self.period >= 1, f"period must be at least 1; got {self.period}")


class MyMethod(Method):
    """Average the parameters every `period` steps."""

    Hyperparameters = MyHyperparameters
    # The ranges to search. The first trial uses the defaults.
    search_space: ClassVar[SearchSpace] = SearchSpace(
        (Parameter(name="period", distribution=IntDistribution(1, 32, log=True), default=4, unit="steps"),)
    )
    # Number of ranks per worker; None is no limit.
    min_ranks: ClassVar[int] = 1
    max_ranks: ClassVar[int | None] = None
    # What `metrics` reports in every trial can be a study's objective. None: neither direction is better as such.
    metric_directions: ClassVar = {"averages": None}

    @classmethod
    def check(cls, hyperparameters: Any, settings: OptimizerSettings, num_ranks: int) -> None:
        """Refuse what the method cannot do. The search does not train such configurations, and counts them."""
        super().check(hyperparameters, settings, num_ranks)
        if hyperparameters.period > 1000:
            raise NotApplicable(f"my_method averages at least every 1000 steps; got period {hyperparameters.period}")

    def __init__(self, hyperparameters: MyHyperparameters, context: Context) -> None:
        self._period = hyperparameters.period
        self._context = context
        # One flat vector under all parameters: the optimizer updates it, the communicator sends it.
        self._flat = context.flatten()
        # Its learning rate follows the study's schedule. Make optimizers with this factory only.
        self._optimizer = context.optimizers(self._flat)
        self._num_steps = 0

    def step(self, batch: Batch) -> Tensor:
        """Train on this rank's batch. Return its mean loss, detached."""
        # Forward, loss and backward as the study's settings ask for (precision, accumulate); into the flat gradients.
        loss = self._context.gradient(batch, self._flat)
        self._optimizer.step()
        self._num_steps += 1
        if self._num_steps % self._period == 0:
            # `state` is the parameters and the running statistics of batch normalization.
            self._context.communicator.mean(self._flat.state)
        return loss

    def metrics(self) -> dict[str, float]:
        """Optional metrics of the method, recorded after every epoch."""
        return {"averages": float(self._num_steps // self._period)}

    def evaluation_model(self) -> nn.Module:
        """The model to evaluate after an epoch. Send what only evaluation needs with `context.untracked`."""
        return self._context.model

    def finalize(self) -> nn.Module:
        """The trained model, which must be equal on every rank."""
        self._context.communicator.mean(self._flat.state)
        return self._context.model

    # With these two functions trainings can be interrupted and continued. `state_dict` is called between any two steps,
    # and the training goes on as if it had not been: so it returns copies, and torch's optimizers share theirs.
    # Only tensors, numbers, strings, booleans, None, lists, tuples and dicts can be saved.
    # `atoll.testing.check_method` tests both.
    def state_dict(self) -> dict[str, Any]:
        """Copies of everything that training depends on."""
        return {
            "model": self._flat.state_dict(),
            "optimizer": copy.deepcopy(self._optimizer.state_dict()),
            "num_steps": self._num_steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned on this rank."""
        self._flat.load_state_dict(state["model"])
        self._optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        self._num_steps = state["num_steps"]
