"""Repeats the decisions of one worker's root in one launch, from what its journal says that it had heard.

Nothing is trained: the root's population, sampler and pruner are assembled as in a search, and told what it was told.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from atoll.communication.local_mailbox import LocalMailbox
from atoll.platform.search.assembly import assemble
from atoll.platform.search.differences import Difference, of_proposals
from atoll.platform.search.heard import Heard, Kind, read
from atoll.platform.search.island import Island
from atoll.platform.search.proposals import Candidate, key
from atoll.platform.search.restore import genes_of, individual_of, pruner_of
from atoll.platform.search.resume import BUDGETED, Past, PastTrial
from atoll.platform.study.plan import Plan
from atoll.platform.trial.progress import Progress
from atoll.storage.events import (
    Event,
    HeardEvent,
    ProgressReported,
    Proposed,
    RankPlaced,
    TrialKey,
    TrialStarted,
)

GIVEN = ("default", "warm_start", "confirm", "retry")


class CannotReplay(ValueError):
    """Journals do not tell enough to repeat decisions, or tell what cannot be repeated."""


@dataclass(frozen=True)
class Decision:
    """A repeated decision.

    Attributes:
        kind: proposal or pruning.
        number, worker, launch: the trial's number, the worker that decided, and the launch.
        time: when it was recorded, in seconds since the epoch.
        differences: of the present decision to the recorded one; none if they are equal.
    """

    kind: str
    number: int
    worker: int
    launch: int
    time: float
    differences: Sequence[Difference] = ()


@dataclass(frozen=True)
class LaunchRecord:
    """What the journals of one launch say.

    Attributes:
        number: the launch.
        before: the events that its roots read at the start.
        roots: each root's place and events.
        island_sizes: the number of workers on each island.
    """

    number: int
    before: Sequence[Event]
    roots: Sequence[tuple[RankPlaced, Sequence[Event]]]
    island_sizes: Sequence[int]


@dataclass
class Trials:
    """The trials of one launch.

    Attributes:
        past: their states, as if they were all that was searched.
        reports: the reports of each attempt.
        prepared: the trials with a proposal that was journaled before they started.
    """

    past: Past = field(default_factory=Past)
    reports: dict[TrialKey, list[ProgressReported]] = field(default_factory=lambda: defaultdict(list))
    prepared: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, launch: LaunchRecord) -> Trials:
        """Those of all roots of a launch."""
        trials = cls()
        for _, events in launch.roots:
            for event in events:
                trials.past.add(event)
                if isinstance(event, ProgressReported):
                    trials.reports[event.key].append(event)
                elif isinstance(event, Proposed):
                    trials.prepared.add(event.number)
        return trials


class RootReplay:
    """One root in one launch.

    Args:
        plan: the resolved study that decides now.
        past: from the events before the launch.
        launch, trials: the launch.
        place, events: the root's.
        earlier: see `restore.earlier`.

    Attributes:
        num_untold: the proposals of which the journal does not tell what they knew.
    """

    def __init__(
        self,
        plan: Plan,
        past: Past,
        launch: LaunchRecord,
        trials: Trials,
        place: RankPlaced,
        events: Sequence[Event],
        earlier: Mapping[str, Any],
    ) -> None:
        self._plan, self._past, self._launch, self._trials = plan, past, launch, trials
        self._place, self._events = place, events
        self._num_islands = len(launch.island_sizes)
        assembled = assemble(plan, past, island=place.island, island_sizes=launch.island_sizes, **earlier)
        self._proposer, self._scoring = assembled.proposer, assembled.scoring
        (nobody,) = LocalMailbox.connected(1)
        self._island = Island(
            population=assembled.population,
            proposer=assembled.proposer,
            migration=plan.study.migration,
            island_sizes=launch.island_sizes,
            index=place.island,
            workers=nobody,
            roots=nobody,
            seed=0,  # who was sent elsewhere is taken from the journal
        )
        self._pruner = pruner_of(plan, nobody, launch.before, past)
        self._made: dict[int, Candidate] = {}
        self._compared: set[int] = set()
        self._running: TrialKey = -1, 0
        self._num_heard: dict[int, int] = defaultdict(int)  # reports of other workers' trials, by number
        self._num_judged = 0
        self.num_untold = 0

    def decisions(self) -> Iterator[Decision]:
        """Repeat them in order.

        Raises:
            CannotReplay: if the journals lack something that the root had heard.
        """
        for event in self._events:
            if isinstance(event, HeardEvent):
                for heard in read(event.heard, getattr(event, "number", 0)):
                    yield from self._take(heard, event.time)
            if isinstance(event, Proposed):
                yield from self._compare(event.number, event.time, event.hyperparameters, event.proposal)
            elif isinstance(event, TrialStarted):
                yield from self._start(event)

    def _take(self, heard: Heard, time: float) -> Iterator[Decision]:
        match heard.kind:
            case Kind.PROPOSED:
                self._made[heard.number] = self._proposer.make(heard.number)
                self._compared.discard(heard.number)
            case Kind.GIVEN_UP:
                self._made.pop(heard.number, None)
                self._proposer.dropped(heard.number)
            case Kind.ENDED:
                self._end()
            case Kind.JUDGED | Kind.REPEATED:
                yield from self._judge(heard.kind, time)
            case Kind.REPORTED:
                self._report(heard.number)
            case _:
                self._tell(heard)

    def _tell(self, heard: Heard) -> None:
        """News of another worker or island."""
        number = heard.number
        match heard.kind:
            case Kind.STARTED if (genes := self._genes(self._trial(number))) is not None:
                self._island.take_in("started", number, *genes)
            case Kind.TAKEN if (genes := self._genes(self._trial(number))) is not None:
                self._island.take_in("taken", number, genes[0])
            case Kind.ARRIVED | Kind.IMMIGRATED:
                trial = self._trial(number)
                individual = individual_of(trial, self._trials.past, self._plan.space, self._scoring, self._num_islands)
                if individual is not None:
                    self._island.take_in("arrived", replace(individual, steps=heard.steps))
            case Kind.DROPPED:
                self._island.take_in("dropped", number)
            case Kind.LEFT:
                self._island.take_in("left", number, heard.steps)
            case Kind.FAILED:
                self._proposer.failed(key(self._trial(number).hyperparameters))

    def _trial(self, number: int) -> PastTrial:
        """A trial of this launch, or an earlier one's result."""
        newest = self._trials.past.newest.get(number)
        trial = None if newest is None else self._trials.past.trials.get((number, newest))
        if trial is None:
            trial = self._past.results().get(number)
        if trial is None:
            raise CannotReplay(
                f"worker {self._place.worker} had heard of trial {number} in launch {self._launch.number}, and no "
                "journal has that trial: a line or a file is missing"
            )
        return trial

    def _genes(self, trial: PastTrial) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """None if the trial is outside of the present space."""
        try:
            return genes_of(trial, self._plan.space, self._trials.past)
        except ValueError:
            return None

    # The root's own trials.

    def _start(self, event: TrialStarted) -> Iterator[Decision]:
        number, trial = event.number, self._trials.past.trials[event.key]
        is_new = not event.attempt and trial.proposal.get("operator") not in GIVEN
        if number in self._made:
            yield from self._compare(number, event.time, event.hyperparameters, event.proposal)
        elif is_new and number not in self._trials.prepared and number not in self._past.proposed:
            self.num_untold += 1
        self._running, self._num_judged = event.key, 0
        genes = self._genes(trial)
        if (candidate := self._made.pop(number, None)) is not None and (
            genes is None or (candidate.proposal.genes, candidate.proposal.attributes) != genes
        ):
            self._proposer.dropped(number)  # what the search goes on from is what was evaluated
        if genes is not None:
            self._island.start(number, *genes)
        if self._pruner is not None:
            self._pruner.start(number)

    def _compare(
        self, number: int, time: float, hyperparameters: Mapping[str, Any], proposal: Mapping[str, Any]
    ) -> Iterator[Decision]:
        if (candidate := self._made.get(number)) is None:
            if number not in self._compared:
                self.num_untold += 1
            return
        found = of_proposals(hyperparameters, proposal, candidate)
        if number not in self._compared or found:
            yield Decision("proposal", number, self._place.worker, self._launch.number, time, found)
        self._compared.add(number)

    def _end(self) -> None:
        trial = self._trials.past.trials[self._running]
        if trial.state == "failed":
            self._proposer.failed(key(trial.hyperparameters))
        individual = individual_of(trial, self._trials.past, self._plan.space, self._scoring, self._num_islands)
        if individual is None:
            self._island.drop(trial.number)
        else:
            self._island.add(individual)

    # Pruning.

    def _judge(self, kind: Kind, time: float) -> Iterator[Decision]:
        """The own trial's next report; the decision on the last one of a trial that was lost or failed is unknown."""
        reports, trial = self._trials.reports[self._running], self._trials.past.trials[self._running]
        if self._pruner is None or self._num_judged >= len(reports):
            return
        report = reports[self._num_judged]
        self._num_judged += 1
        is_last = self._num_judged == len(reports)
        progress = Progress.from_event(report, last=is_last and trial.state == "complete")
        if kind is Kind.REPEATED:
            self._pruner.take_in_repeated(progress)
            return
        now = self._pruner.prunes(progress)
        if is_last and trial.state not in BUDGETED[:2]:
            return
        then = is_last and trial.state == "pruned"
        at = f"after epoch {report.epoch}, step {report.step}"
        differences = [] if then == now else [Difference(at, _words(then), _words(now))]
        yield Decision("pruning", trial.number, self._place.worker, self._launch.number, time, differences)

    def _report(self, number: int) -> None:
        """The next report of another worker's trial."""
        trial = self._trial(number)
        sent = [r for r in self._trials.reports[trial.key] if self._pruner is not None and self._pruner.is_compared(r)]
        place = self._num_heard[number]
        self._num_heard[number] += 1
        if self._pruner is None or place >= len(sent):
            return
        self._pruner.replay(number, sent[place])


def _words(prunes: bool) -> str:
    return "stop" if prunes else "continue"
