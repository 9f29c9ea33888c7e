"""Rebuilds a resumed root's population, sampler and pruner from the journals."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from atoll.communication.mailbox import Mailbox
from atoll.platform.search import fitting
from atoll.platform.search.heard import Notes
from atoll.platform.search.own_code import OwnCodeError, raise_it
from atoll.platform.search.own_rule import OwnRule
from atoll.platform.search.population import Individual, Losses, Population
from atoll.platform.search.propagators.propagator import Proposal
from atoll.platform.search.proposals import Candidate, Proposer, key
from atoll.platform.search.pruning import Pruner
from atoll.platform.search.resume import Past, PastTrial
from atoll.platform.search.scoring import Scoring
from atoll.platform.study.learning import Learned
from atoll.platform.study.plan import Plan
from atoll.platform.study.related import Related
from atoll.searchspaces.space import SearchSpace
from atoll.storage.events import Event, ProgressReported
from atoll.storage.folder import StudyFolder


def restore(
    past: Past,
    plan: Plan,
    scoring: Scoring,
    population: Population,
    proposer: Proposer,
    *,
    island: int,
    island_sizes: Sequence[int],
    is_shared: bool = False,
) -> None:
    """Fill an island's population and sampler with earlier trials, in the order of their numbers.

    Trials outside the current search space are skipped, and so are those whose lines cannot be understood.

    Args:
        past, plan, scoring: the study's past, the resolved study and its objectives.
        population, proposer: the island's, to be filled.
        island, island_sizes: the island, and the number of workers on each.
        is_shared: whether other launchers search the study, who send the earlier trials to other islands.
    """
    proposer.failures.update(key(hyperparameters) for hyperparameters in past.failed())
    if proposer.shares_taken:
        _tell_taken(past, plan.space, proposer)
    num_islands, pollination = len(island_sizes), plan.study.migration.pollination
    ended = past.individuals(island, num_islands, pollination)
    visited = past.visited(num_islands) if pollination else {}
    if not pollination:
        # News of other launchers may come late.
        for number, steps in past.departures(island, num_islands):
            population.dismiss(number, steps)
    for position, trial in enumerate(ended):
        try:
            genes, attributes = genes_of(trial, plan.space, past)
            losses, curve = scoring.losses(trial.state, trial.objectives or [trial.objective], trial.curve)
        except ValueError:
            continue
        if past.is_current(trial.change):
            _tell_started(trial, past, plan.space, proposer, genes, attributes)
        if losses is None:
            proposer.dropped(trial.number)
            continue
        individual = replace(
            _individual(trial, past, num_islands, genes, attributes, losses, curve),
            home=-1 if is_shared else position % island_sizes[island],
            steps=past.steps(trial.number),
            visited=frozenset(visited.get(trial.number, ())),
        )
        if population.admit(individual):
            proposer.arrived(individual)


def _tell_started(
    trial: PastTrial,
    past: Past,
    space: SearchSpace,
    proposer: Proposer,
    genes: dict[str, Any],
    attributes: dict[str, Any],
) -> None:
    """A trial's start, after the infeasible proposals before it."""
    for proposal in past.infeasible.get(trial.number, ()):
        if space.holds(proposal.genes):
            proposer.infeasible(trial.number, proposal.genes, proposal.attributes)
    proposer.started(trial.number, genes, attributes)


def _tell_taken(past: Past, space: SearchSpace, proposer: Proposer) -> None:
    """The configurations of all islands' trials, also of lost ones, which will be trained again."""
    for trial in past.trials.values():
        try:
            proposer.taken(trial.number, genes_of(trial, space, past)[0])
        except ValueError:
            continue


def earlier(folder: StudyFolder) -> dict[str, Any]:
    """What the launcher has read for a study from elsewhere, as arguments of `SearchLoop.assemble`."""
    content = json.loads(folder.definition.read_text())
    return {
        "warm_start": content.get("warm_start") or [],
        "learned": [Learned.from_dict(one) for one in content.get("learned") or []],
        "related": [Related.from_dict(one) for one in content.get("related") or []],
    }


def learn(
    learned: Sequence[Learned], plan: Plan, population: Population, proposer: Proposer, *, num_islands: int
) -> None:
    """Give results from elsewhere to an island's population and sampler, which have no others yet.

    Their numbers are -1, -2 and so on, so that they are older than any trial. They are at home on no worker, as every
    island is told them.
    """
    for place, one in enumerate(learned, 1):
        values = fitting.completed(one.hyperparameters, {}, plan.space)
        try:
            fitting.check_inside(values, plan.space)
        except fitting.Outside:  # the space has changed since
            continue
        individual = Individual(
            number=-place,
            genes=tuple(plan.space.encode(values).values()),
            losses=one.losses,
            island=-1,
            home=-1,
            visited=frozenset(range(num_islands)),
        )
        if population.admit(individual):
            proposer.arrived(individual)


def genes_of(trial: PastTrial, space: SearchSpace, past: Past) -> tuple[dict[str, Any], dict[str, Any]]:
    """A past trial's genes (as proposed, if the space has not changed), and its sampler's attributes.

    One from before a change of the space or the sampler has no attributes, and the genes of its hyperparameters and of
    those that the space has got since.

    Raises:
        ValueError: if it is outside of the space.
    """
    if not past.is_current(trial.change):
        values = fitting.completed(trial.hyperparameters, trial.configured, space)
        fitting.check_inside(values, space)
        return space.encode(values), {}
    proposed = trial.proposal.get("genes") or {}
    if "genes" in trial.proposal and not proposed and space.parameters:
        raise fitting.Outside("it was proposed in another space")
    if space.holds(proposed):
        space.check(trial.hyperparameters)
        genes = {parameter.name: proposed[parameter.name] for parameter in space.parameters}
    else:
        genes = space.encode(trial.hyperparameters)
    return genes, trial.proposal.get("attributes") or {}


def individual_of(
    trial: PastTrial, past: Past, space: SearchSpace, scoring: Scoring, num_islands: int
) -> Individual | None:
    """A past trial as an individual that no worker here sends on; None if it has no losses, or no genes."""
    try:
        genes, attributes = genes_of(trial, space, past)
    except ValueError:
        return None
    losses, curve = scoring.losses(trial.state, trial.objectives or [trial.objective], trial.curve)
    return None if losses is None else _individual(trial, past, num_islands, genes, attributes, losses, curve)


def _individual(
    trial: PastTrial,
    past: Past,
    num_islands: int,
    genes: dict[str, Any],
    attributes: dict[str, Any],
    losses: Losses,
    curve: dict[int, float],
) -> Individual:
    return Individual(
        number=trial.number,
        genes=tuple(genes.values()),
        losses=losses,
        island=trial.island % num_islands,
        home=-1,
        is_complete=trial.state == "complete",
        attributes=attributes,
        curve=curve,
        attempt=trial.attempt,
        is_learned=not past.is_current(trial.change),
    )


def earlier_candidate(past: Past, space: SearchSpace, number: int) -> Candidate | None:
    """The candidate of a trial that was started before the space or the sampler has changed; None for any other one.

    It trains as it did before, although it may be outside of the space by now.
    """
    attempt = past.newest.get(number)
    trial = None if attempt is None else past.trials.get((number, attempt))
    if trial is None or past.is_current(trial.change):
        return None
    values = fitting.completed(trial.hyperparameters, trial.configured, space)
    try:
        fitting.check_inside(values, space)
    except fitting.Outside:
        return Candidate(values, Proposal({}, "retry"), is_outside=True)
    return Candidate(values, Proposal(space.encode(values), "retry"))


def pruner_of(
    plan: Plan,
    roots: Mailbox,
    events: Iterable[Event],
    past: Past,
    fail: Callable[[OwnCodeError], None] = raise_it,
    heard: Notes | None = None,
) -> Pruner | None:
    """The pruner of a study, with the values of earlier trials; None if no trial is stopped early.

    Args:
        plan, roots: the study, and the mailbox of all roots.
        events, past: from its journals.
        fail: called with an error of a rule of the user's.
        heard: see `Pruner`.
    """
    settings = plan.study.pruning
    if settings is None or settings.promotion:
        return None
    rule, while_falling = plan.pruning_rule()
    pruner = (
        OwnRule(settings, while_falling, plan.judged, roots, fail, heard)
        if settings.is_own
        else Pruner(settings, rule, while_falling, plan.judged, roots, heard)
    )
    results = {trial.key for trial in past.results().values()}
    for event in events:
        # Lost trials will be trained and counted again.
        if isinstance(event, ProgressReported) and event.key in results:
            pruner.replay(event.number, event)
    return pruner
