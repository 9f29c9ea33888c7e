"""Population-based training (Jaderberg et al. 2017): trainings that lag behind go on from the state of better ones.

Each trial is a *member* of the population. It pauses at every rung, with a checkpoint, and a free worker continues the
member that has come least far, so that nobody waits for a generation. A member that is among the worst at its rung
takes the state of one of the best, with some hyperparameters changed: then its next attempt is the training of that
member's *schedule* (values by step, see `Configuration`), extended by the change, with that member's seed. So what a
member has become can be trained again from the start; its proposal's parent is the member whose state it has.

The owner of the tickets has all members, so each decision is made once. It links the files of the state while it knows
that they exist: a member's state at its last pause stays until its next attempt starts, which needs a ticket. They take
the place of the member's own only once its next attempt is in the journal, so a crash leaves the one or the other.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from optuna.distributions import CategoricalDistribution

from atoll.platform.search.promotion import Ended, Pauses, Value
from atoll.platform.search.propagators.propagator import Proposal, seed_of
from atoll.platform.search.propagators.random_search import uniform_gene
from atoll.platform.search.tickets import Ticket
from atoll.platform.study.configuration import Schedule, numbered
from atoll.platform.study.interval import Every
from atoll.searchspaces import encoding
from atoll.storage.events import Event, ProgressReported

if TYPE_CHECKING:
    from atoll.platform.search.resume import Past, PastTrial
    from atoll.platform.study.plan import Plan
    from atoll.platform.study.samplers import Pbt
    from atoll.searchspaces.space import Parameter
    from atoll.searchspaces.space import Value as Setting
    from atoll.storage.folder import StudyFolder

log = logging.getLogger("atoll.search")

REACHED = "pbt:reached"  # in the attributes of a proposal: the fidelity of the state that it takes
NUM_TRIES = 50
COPY, PERTURB, RESAMPLE = "exploit", "perturb", "resample"  # operator, and sources of genes


@dataclass(frozen=True)
class EvenRungs:
    """Rungs at the multiples of an interval.

    Attributes:
        every: the interval, in epochs or steps.
    """

    every: Every

    @property
    def fidelity(self) -> str:
        """The unit of the rungs: steps or epochs."""
        return self.every.unit

    def passed(self, before: float, now: float) -> Iterable[float]:
        """The rungs above fidelity `before` and up to `now`, in order."""
        first, last = int(before // self.every.number) + 1, int(now // self.every.number)
        return [number * self.every.number for number in range(first, last + 1)]


@dataclass(frozen=True)
class _State:
    """A member's state at its last pause.

    Attributes:
        ticket: continues the member from there.
        rung: the last rung that it has passed.
        step: the number of completed steps.
    """

    ticket: Ticket
    rung: float
    step: int


class Members:
    """All members of a population, those that wait, and the decisions on how they go on.

    Args:
        plan: the study.
        folder: its files.
    """

    def __init__(self, plan: Plan, folder: StudyFolder) -> None:
        settings = plan.study.population_based
        assert settings is not None
        self._settings: Pbt = settings
        self._plan = plan
        self._folder = folder
        self._explorer = Explorer(plan)
        self._size = plan.study.members
        self._values: dict[float, dict[int, float]] = {}  # at each rung, by member, to minimize
        self._states: dict[int, _State] = {}  # of members that wait, or train from there
        self._waiting: set[int] = set()

    def take_in(self, ended: Ended) -> None:
        """A member has paused at the last of the rungs that it has reached, or has ended."""
        for rung, value in ended.values:
            self._values.setdefault(rung, {})[ended.number] = value
        if ended.ticket is None:
            self._states.pop(ended.number, None)
        else:
            rung = ended.values[-1][0] if ended.values else 0.0
            self._states[ended.number] = _State(ended.ticket, rung, ended.step)
            self._waiting.add(ended.number)

    def promote(self, num_training: int, *, has_new: bool) -> Ticket | None:
        """The ticket of the waiting member that has come least far, which then waits no more.

        None if there is none, or if a new member is to start instead, as the population is not complete.
        """
        if not self._waiting or (has_new and len(self._waiting) + num_training < self._size):
            return None
        number = min(self._waiting, key=lambda number: (self._states[number].step, number))
        self._waiting.remove(number)
        if (other := self._exploit(number)) is None:
            return self._states[number].ticket
        del self._states[number]  # until it pauses again, its files may be those of before
        return other

    def _exploit(self, number: int) -> Ticket | None:
        """The ticket with which a member that lags behind goes on from the state of a better one; None for its own."""
        mine = self._states[number]
        ranked: list[Value] = sorted((value, other) for other, value in self._values.get(mine.rung, {}).items())
        count = int(len(ranked) * self._settings.quantile)
        if number not in [other for _, other in ranked[len(ranked) - count :]]:
            return None
        rng = random.Random(seed_of(self._plan.study.seed, number, mine.step))
        donors = [other for _, other in ranked[:count] if other in self._states and other != number]
        if not donors:
            return None
        donor = rng.choice(donors)
        theirs = self._states[donor]
        if (changed := self._explorer.change(theirs.ticket, theirs.step, rng)) is None:
            return None
        ticket = replace(changed, number=number, attempt=mine.ticket.attempt, home=mine.ticket.home)
        try:
            self._folder.trial(number).stage(self._folder.trial(donor), theirs.step, ticket.schedule, ticket.seed)
        except FileNotFoundError:  # the better one has just ended
            return None
        except (OSError, ValueError) as error:
            log.warning("trial %d keeps its state, as that of trial %d cannot be linked: %s", number, donor, error)
            return None
        return ticket


class Explorer:
    """Changes the hyperparameters of a better member that may change in mid-training.

    Args:
        plan: the study.
    """

    def __init__(self, plan: Plan) -> None:
        settings = plan.study.population_based
        assert settings is not None
        self._plan = plan
        self._settings = settings
        self._mutable = [parameter for parameter in plan.space.parameters if parameter.name in plan.mutable]

    def change(self, better: Ticket, step: int, rng: random.Random) -> Ticket | None:
        """The ticket of a better member with changed hyperparameters; None if no feasible change was found.

        Args:
            better: continues that member.
            step: where it has paused, and what changes does so.
            rng: decides.
        """
        given, past_values = better.hyperparameters, better.schedule
        assert given is not None
        assert past_values is not None
        for _ in range(NUM_TRIES):
            values, sources = self._changed(given, rng)
            try:
                self._plan.space.check(values)
                genes = self._plan.space.encode(values)
            except ValueError:
                continue
            if values == given or self._plan.infeasibility(values) is not None:
                continue
            schedule = {
                name: past if values[name] == given[name] else past | {step: values[name]}
                for name, past in numbered(past_values).items()
            }
            origin: dict[str, int | str] = dict.fromkeys(genes, better.number)
            proposal = Proposal(genes, COPY, (better.number,), origin | sources, attributes={REACHED: better.reached})
            content = vars(proposal) | {"parents": list(proposal.parents), "waited": 0.0}
            return replace(better, hyperparameters=values, proposal=content, schedule=schedule)
        return None

    def _changed(
        self, given: Mapping[str, Setting], rng: random.Random
    ) -> tuple[dict[str, Setting], dict[str, int | str]]:
        """Values, and the origin of those that were changed."""
        values = dict(given)
        sources: dict[str, int | str] = {}
        for parameter in self._mutable:
            if (value := values.get(parameter.name)) is None:
                continue  # without effect here
            ceiling = parameter.ceiling(values)
            if value == 0 or rng.random() < self._settings.resample:
                low, high = parameter.limits()
                values[parameter.name] = parameter.decode(uniform_gene(low, high, rng), ceiling)
                sources[parameter.name] = RESAMPLE
            else:
                values[parameter.name] = self._moved(parameter, value, ceiling, rng)
                sources[parameter.name] = PERTURB
        return values, sources

    def _moved(self, parameter: Parameter, value: Any, ceiling: float | None, rng: random.Random) -> Setting:
        """A number multiplied or divided by the factor; of choices, a neighbor in their order."""
        up = rng.random() < 0.5
        distribution = parameter.distribution
        if isinstance(distribution, CategoricalDistribution):
            place = distribution.choices.index(value) + (1 if up else -1)
            return distribution.choices[min(max(place, 0), len(distribution.choices) - 1)]
        moved = value * self._settings.factor if up else value / self._settings.factor
        if step := distribution.step:
            moved = value + (1 if up else -1) * step * max(1, round(abs(moved - value) / step))
        return encoding.nearest(distribution, moved, ceiling)


def first_schedule(plan: Plan, hyperparameters: Mapping[str, Any]) -> Schedule:
    """The schedule of a new member: what may change, from step 0 on."""
    return {name: {0: hyperparameters[name]} for name in plan.mutable if name in hyperparameters}


def restored(plan: Plan, folder: StudyFolder, events: Iterable[Event], past: Past) -> tuple[Members, dict[int, float]]:
    """The members of a study's past, and the fidelity that each has reached.

    A member whose checkpoint is gone waits no more.

    Args:
        plan: the study.
        folder: its files.
        events, past: its journals, and what follows from them.
    """
    rungs = EvenRungs(plan.pbt_interval)
    ended = past.ended()
    reports: dict[tuple[int, int], list[ProgressReported]] = {trial.key: [] for trial in ended}
    for event in events:
        if isinstance(event, ProgressReported) and event.key in reports:
            reports[event.key].append(event)
    members = Members(plan, folder)
    reached: dict[int, float] = {}
    for trial in ended:
        pauses = Pauses(rungs, plan.judged)
        pauses.start(max(reached.get(trial.number, 0.0), _taken(trial)))
        for report in reports[trial.key]:
            pauses.sees(report)
        reached[trial.number] = pauses.reached
        waits = trial.state == "pruned" and past.counts(trial) and folder.trial(trial.number).manifest.exists()
        ticket = trial.next_ticket(plan.study.topology.islands, pauses.reached) if waits else None
        members.take_in(Ended(trial.number, pauses.values, ticket, trial.step))
    for trial in past.trials.values():  # a lost attempt may have begun with a state from further on
        if trial.attempt == past.newest[trial.number]:
            reached[trial.number] = max(reached.get(trial.number, 0.0), _taken(trial))
    return members, reached


def _taken(trial: PastTrial) -> float:
    """The fidelity of the state that a member has taken last."""
    return float((trial.proposal.get("attributes") or {}).get(REACHED, 0.0))


def are_waiting(past: Past, folder: StudyFolder) -> bool:
    """Whether a member can go on."""
    paused: Sequence[PastTrial] = [t for t in past.counted() if t.state == "pruned"]
    return any(folder.trial(trial.number).manifest.exists() for trial in paused)
