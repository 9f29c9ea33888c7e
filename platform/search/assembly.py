"""An island's population and sampler on one worker's root, as they are when a launch begins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from atoll.platform.search import propagators
from atoll.platform.search.candidates import given_first
from atoll.platform.search.heard import Notes
from atoll.platform.search.own_code import OwnCodeError, raise_it
from atoll.platform.search.population import HeldPopulation, Population
from atoll.platform.search.proposals import Proposer
from atoll.platform.search.restore import learn, restore
from atoll.platform.search.resume import Past
from atoll.platform.search.scoring import Scoring
from atoll.platform.study.learning import Learned
from atoll.platform.study.plan import Plan
from atoll.platform.study.related import Related


@dataclass(frozen=True)
class Assembled:
    """The parts of a root that its proposals depend on."""

    population: Population
    proposer: Proposer
    scoring: Scoring


def assemble(
    plan: Plan,
    past: Past,
    *,
    island: int,
    island_sizes: Sequence[int],
    warm_start: Sequence[dict[str, Any]] = (),
    learned: Sequence[Learned] = (),
    related: Sequence[Related] = (),
    is_shared: bool = False,
    fail: Callable[[OwnCodeError], None] = raise_it,
    heard: Notes | None = None,
) -> Assembled:
    """Make an island's population and sampler, and tell them of earlier trials.

    Args:
        plan, past: the resolved study, and its trials before this launch.
        island, island_sizes: the island, and the number of workers on each.
        warm_start: configurations to evaluate first, after the default.
        learned: results from elsewhere, which the sampler is told before all others.
        related: results of related problems, which suggest configurations.
        is_shared: whether other launchers search the study.
        fail, heard: see `Proposer`.
    """
    study = plan.study
    scoring = Scoring(plan.objectives, plan.subject)
    population = Population(study.population(island), replace=study.migration.replace, island=island, seed=study.seed)
    held = HeldPopulation(population)
    propagator = propagators.make(
        study.samplers()[island],
        plan.space,
        held,
        seed=study.seed,
        num_objectives=len(plan.objectives),
        given=[hyperparameters for hyperparameters, _ in given_first(plan, warm_start)],
        infeasibility=plan.infeasibility,
        related=related,
    )
    proposer = Proposer(propagator, plan.space, plan.infeasibility, study.seed, fail, heard, held.hold)
    learn(learned, plan, population, proposer, num_islands=len(island_sizes))
    restore(past, plan, scoring, population, proposer, island=island, island_sizes=island_sizes, is_shared=is_shared)
    return Assembled(population, proposer, scoring)
