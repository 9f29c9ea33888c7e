"""The base class of samplers of the user's own; `search/propagators/own.py` puts them on islands."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from atoll.searchspaces.space import Gene, Parameter, SearchSpace


@dataclass(frozen=True)
class TrialResult:
    """What a sampler is told of a trial.

    Attributes:
        number: the trial's number; negative for a row of `learn_from`, which was not trained here.
        hyperparameters: those that are searched and active. They have passed through genes, so that a number may differ
            from a proposal in its last digits: identify trials by their number.
        losses: one per objective, to be minimized (a maximized objective has its sign changed), infinite for a missed
            target; of a pruned trial the last value. None if there are none: failed, or infeasible.
        state: complete, pruned, failed, or infeasible: refused before training, by a constraint or by the method.
        curve: a pruned trial's losses by epoch, if it was trained on this island.

    Example:
        >>> from atoll import TrialResult
        >>> TrialResult(number=3, hyperparameters={"learning_rate": 0.1}, losses=(0.25,), state="complete").losses
        (0.25,)
    """

    number: int
    hyperparameters: dict[str, Any]
    losses: tuple[float, ...] | None
    state: Literal["complete", "pruned", "failed", "infeasible"]
    curve: Mapping[int, float] = field(default_factory=dict)


class Sampler(ABC):
    """Proposes hyperparameters: subclass it, and name the class in a study, `sampler: {name: file.py:Class}`.

    Each worker has an instance of its own. It is told of the trials of its whole island: those of other workers, those
    that migrate there, those from before a resume (by number), and those of `learn_from`, before all others.

    A proposal must depend on what the sampler was told, on its constructor's arguments, and on the trial's number, and
    on nothing else: not on earlier proposals, the time, or a random stream of its own. Otherwise a resumed search does
    not continue as the interrupted one would have. Draw from `self.random`, which is seeded before each proposal. The
    checks before a search refuse a sampler whose first proposals differ when they are repeated.

    An exception, a name that is not searched, or a value outside its range ends the search at once, as failed.

    Args:
        space: the search space.
        seed: the study's seed.
        num_objectives: the number of losses.

    A subclass's `__init__` takes the options of the study file as further keyword arguments; their annotations are
    checked. It passes the rest on, as below. It may raise ValueError, such as for several objectives.

    Attributes:
        space, seed, num_objectives: as given.
        random: a random stream, seeded from the study's seed, the trial's number, and the number of its proposals that
            were infeasible.

    Class attributes:
        is_slow: whether a proposal takes longer than about 10 ms. It is then made in a thread while the trial before
            trains, so it knows less. No two methods of an instance run at the same time.

    Example:
        >>> from optuna.distributions import FloatDistribution
        >>> from atoll import Parameter, Sampler, SearchSpace, TrialResult
        >>> class Nearby(Sampler):
        ...     def __init__(self, space, *, radius: float = 0.1, **others):
        ...         super().__init__(space, **others)
        ...         self.radius, self.best = radius, None
        ...     def propose(self, number):
        ...         if self.best is None:
        ...             return self.draw()
        ...         x = self.best.hyperparameters["x"] + self.random.uniform(-self.radius, self.radius)
        ...         return {"x": min(max(x, 0.0), 1.0)}
        ...     def told(self, result):
        ...         if result.losses and (self.best is None or result.losses < self.best.losses):
        ...             self.best = result
        >>> space = SearchSpace((Parameter(name="x", distribution=FloatDistribution(0, 1), default=0.5),))
        >>> sampler = Nearby(space, radius=0.01)
        >>> sampler.told(TrialResult(0, {"x": 0.3}, (1.0,), "complete"))
        >>> abs(sampler.propose(1)["x"] - 0.3) <= 0.01
        True
    """

    is_slow: ClassVar[bool] = False

    def __init__(self, space: SearchSpace, *, seed: int = 0, num_objectives: int = 1) -> None:
        self.space = space
        self.seed = seed
        self.num_objectives = num_objectives
        self.random = random.Random(seed)

    @abstractmethod
    def propose(self, number: int) -> Mapping[str, Any]:
        """The searched hyperparameters of trial `number`; those that are inactive may be left out, and are ignored.

        It is called again for the same trial after an infeasible proposal, of which the sampler was told. After ten of
        these, or two equal ones, a random configuration is taken.
        """

    def told(self, result: TrialResult) -> None:  # noqa: B027
        """A trial has ended, or a proposal was infeasible.

        A trial that continues after it had a result (`promotion`, or a longer training) is told again, after `left`.
        """

    def started(self, number: int, hyperparameters: Mapping[str, Any]) -> None:  # noqa: B027
        """A trial is being evaluated, here or by another worker of the island."""

    def left(self, number: int) -> None:  # noqa: B027
        """A trial that was told does not count any more: it has emigrated, or is about to be told again."""

    def draw(self) -> dict[str, Any]:
        """A random configuration, uniform on the scales of the space, drawn from `self.random`."""

        def gene(parameter: Parameter) -> Gene:
            low, high = parameter.limits()
            return self.random.randint(low, int(high)) if isinstance(low, int) else self.random.uniform(low, high)

        genes, values = self.space.draw(gene)
        return {name: values[name] for name in genes}
