"""A sampler of the user's own on an island: its hyperparameters become genes, and events become trials' results."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from atoll.platform.search.own_code import OwnCode
from atoll.platform.search.propagators.propagator import Propagator, Proposal, seed_of
from atoll.platform.study.own_sampler import Sampler, TrialResult
from atoll.platform.study.samplers import OwnSampler
from atoll.searchspaces.space import Gene, Parameter, SearchSpace, Value

if TYPE_CHECKING:
    from atoll.platform.search.population import Individual


class OwnPropagator(Propagator):
    """Asks the user's sampler.

    Its methods raise OwnCodeError if the sampler raises, or proposes what it must not.

    Args:
        settings: the sampler's name and options.
        space: the search space.
        num_objectives: the number of an individual's losses.
        seed: the study's seed.
    """

    tells_pending: ClassVar[bool] = True

    def __init__(self, settings: OwnSampler, space: SearchSpace, num_objectives: int, seed: int) -> None:
        self._code = OwnCode("sampler", settings.name)
        self._space = space
        self._seed = seed
        self._inactive = space.inactive_genes()
        self._under_way: dict[int, dict[str, Value]] = {}
        self._sampler: Sampler = self._code.make(
            Sampler, settings.options, space, seed=seed, num_objectives=num_objectives
        )
        if not hasattr(self._sampler, "random"):
            self._code.refuse("must call super().__init__(space, **others) in its __init__")
        self._operator = type(self._sampler).__name__

    @property
    def is_slow(self) -> bool:  # type: ignore[override]
        """Whether the sampler says so."""
        return bool(self._sampler.is_slow)

    def propose(self, number: int, attempt: int = 0) -> Proposal:
        """Ask the sampler, and check what it proposes."""
        started = time.perf_counter()
        self._sampler.random.seed(seed_of(self._seed, number, attempt))
        proposed = self._code.call(self._sampler.propose, number)
        genes = self._genes(number, proposed)
        return Proposal(genes, self._operator, seconds=time.perf_counter() - started)

    def _genes(self, number: int, proposed: object) -> dict[str, Gene]:
        """The genes of a proposal."""
        what = f"propose({number}) must return"
        if not isinstance(proposed, Mapping):
            self._code.refuse(f"{what} a dict of hyperparameters; got {_shown(proposed)}")
        searched = self._space.limits()
        if unknown := [name for name in proposed if name not in searched]:
            self._code.refuse(
                f"{what} searched hyperparameters only, {', '.join(searched)}; got {', '.join(map(_shown, unknown))}"
            )
        values = {name: v.item() if isinstance(v, np.generic) else v for name, v in proposed.items()}
        given = dict(self._space.fixed) | values

        def gene(parameter: Parameter) -> Gene:
            name = parameter.name
            if name not in values:
                self._code.refuse(f"{what} {name}, which is active; got {', '.join(values) or 'nothing'}")
            value, domain = values[name], parameter.domain()
            ceiling = parameter.ceiling(given)
            if ceiling is not None and isinstance(value, int | float) and value > ceiling:
                self._code.refuse(f"{what} a {name} of at most {parameter.at_most}, {ceiling:g}; got {_shown(value)}")
            if not parameter.contains(value):
                self._code.refuse(f"{what} a {name} in its range, {domain}; got {_shown(value)}")
            return parameter.encode(value, ceiling)

        return self._inactive | self._space.draw(gene)[0]

    def _values(self, genes: Mapping[str, Gene]) -> dict[str, Value]:
        """The searched and active hyperparameters."""
        active, values = self._space.draw(lambda parameter: genes[parameter.name])
        return {name: values[name] for name in active}

    def _tell(self, result: TrialResult) -> None:
        self._code.call(self._sampler.told, result)

    def started(self, number: int, genes: Mapping[str, Gene], attributes: Mapping[str, Any]) -> None:
        """Tell the sampler of a running trial."""
        values = self._under_way[number] = self._values(genes)
        self._code.call(self._sampler.started, number, dict(values))

    def arrived(self, individual: Individual) -> None:
        """Tell the sampler of an evaluated individual."""
        self._under_way.pop(individual.number, None)
        values = self._values(dict(zip(self._space.limits(), individual.genes, strict=True)))
        self._tell(
            TrialResult(
                individual.number,
                values,
                individual.losses,
                "complete" if individual.is_complete else "pruned",
                dict(individual.curve),
            )
        )

    def dropped(self, number: int) -> None:
        """Tell the sampler of a trial without a result; a proposal that was not used was never told."""
        if (values := self._under_way.pop(number, None)) is not None:
            self._tell(TrialResult(number, values, None, "failed"))

    def infeasible(self, number: int, genes: Mapping[str, Gene], attributes: Mapping[str, Any]) -> None:
        """Tell the sampler of an infeasible proposal."""
        self._tell(TrialResult(number, self._values(genes), None, "infeasible"))

    def left(self, number: int) -> None:
        """Tell the sampler of an emigrant."""
        self._code.call(self._sampler.left, number)


def check(settings: OwnSampler, space: SearchSpace, num_objectives: int, seed: int) -> None:
    """Make a sampler, and look whether its first proposals repeat.

    Raises:
        UnknownName, OwnCodeError: if it cannot be made, proposes what it must not, or depends on more than it should.
    """
    made, other = (OwnPropagator(settings, space, num_objectives, seed) for _ in range(2))
    first, second = (made.propose(number).genes for number in (0, 1))
    if not _are_equal(second, other.propose(1).genes) or not _are_equal(first, other.propose(0).genes):
        OwnCode("sampler", settings.name).refuse(
            "must propose the same for the same trial, whatever it has proposed before; a second instance proposed "
            "something else for trials 0 and 1: draw from self.random only"
        )


def _are_equal(some: Mapping[str, Gene], others: Mapping[str, Gene]) -> bool:
    return all(math.isclose(value, others[name], abs_tol=1e-12) for name, value in some.items())


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."
