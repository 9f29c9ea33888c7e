"""The samplers, with the interface of Propulate's propagators: population in, individual out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from atoll.platform.study.samplers import Evolution, FidelityGp, Genetic, Grid, Mixed, OwnSampler, Pbt, Random, Sampler

if TYPE_CHECKING:
    from atoll.platform.search.propagators.propagator import Breeders, Propagator
    from atoll.platform.study.related import Related
    from atoll.searchspaces.space import Infeasibility, SearchSpace, Value


def make(
    settings: Sampler,
    space: SearchSpace,
    population: Breeders,
    *,
    seed: int,
    num_objectives: int = 1,
    given: Sequence[Mapping[str, Value]] = (),
    infeasibility: Infeasibility = lambda _: None,
    related: Sequence[Related] = (),
) -> Propagator:
    """The propagator of a sampler, for one worker of an island.

    Args:
        settings: the sampler's settings.
        space: the search space.
        population: the island's population in the worker's view; its size is that of a generation.
        seed: the study's seed.
        num_objectives: the number of an individual's losses.
        given: the configurations of the first trials, after which the sampler proposes.
        infeasibility: returns why hyperparameters are infeasible, or None.
        related: the trials of related problems, which suggest configurations.

    Raises:
        UnknownName, OwnCodeError: if a sampler of the user's cannot be made.
    """
    made = _make(settings, space, population, seed, num_objectives, given, infeasibility)
    if related := [kept for one in related if (kept := one.within(space)) is not None]:
        from atoll.platform.search.propagators.related import RelatedPropagator

        made = RelatedPropagator(made, related, space, seed, infeasibility)
    if all(parameter.prior is None for parameter in space.parameters):
        return made
    from atoll.platform.search.propagators.priors import PriorPropagator

    return PriorPropagator(made, space, population, seed)


def _make(
    settings: Sampler,
    space: SearchSpace,
    population: Breeders,
    seed: int,
    num_objectives: int,
    given: Sequence[Mapping[str, Value]],
    infeasibility: Infeasibility,
) -> Propagator:
    if isinstance(settings, Mixed):
        from atoll.platform.search.propagators.mixed import MixedPropagator

        return MixedPropagator(
            [_make(m, space, population, seed, num_objectives, given, infeasibility) for m in settings.samplers]
        )
    if isinstance(settings, Evolution):
        from atoll.platform.search.propagators.evolution import EvolutionPropagator

        return EvolutionPropagator(settings, space, population, seed, infeasibility)
    if isinstance(settings, Random | Pbt):  # how members go on is decided in `population_based`
        from atoll.platform.search.propagators.random_search import RandomPropagator

        return RandomPropagator(space.limits(), seed)
    if isinstance(settings, Genetic):
        from atoll.platform.search.propagators.genetic import GeneticPropagator

        return GeneticPropagator(settings, space.limits(), population, seed)
    if isinstance(settings, Grid):
        from atoll.platform.search.propagators.grid import GridPropagator

        return GridPropagator(settings, space, seed, given, infeasibility)
    if isinstance(settings, OwnSampler):
        from atoll.platform.search.propagators.own import OwnPropagator

        return OwnPropagator(settings, space, num_objectives, seed)
    if isinstance(settings, FidelityGp):
        from atoll.platform.search.propagators.fidelity import FidelityPropagator

        return FidelityPropagator(settings, space, seed, infeasibility)
    from atoll.platform.search.propagators.optuna_sampler import OptunaPropagator

    return OptunaPropagator(settings, space, num_objectives, population.size, seed)
