"""A study's past from its journals: evaluated trials, lost trials, and migrations."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from atoll.platform.search.propagators.attributes import PICKLED, known_attributes
from atoll.platform.search.proposals import known_fields
from atoll.platform.search.tickets import Ticket
from atoll.platform.study import changes
from atoll.platform.study.configuration import Schedule, numbered
from atoll.storage.events import (
    Event,
    LauncherJoined,
    Migrated,
    ProgressReported,
    ProposalRefused,
    Proposed,
    Restarted,
    StudyChanged,
    StudyStarted,
    TrialEnded,
    TrialKey,
    TrialLost,
    TrialStarted,
)

BUDGETED = ("complete", "pruned", "failed")


@dataclass
class PastTrial:
    """One attempt at a trial.

    Attributes:
        island: the one that bred it.
        epochs, steps: the length for which it was started, in one of them.
        step, epoch: of its last report.
        schedule, seed: see `Ticket`.
        configured: all hyperparameters that it trained with.
        change: the number of the study's change whose space its proposal is in.
    """

    number: int
    attempt: int
    island: int
    worker: int
    hyperparameters: dict[str, Any]
    proposal: dict[str, Any]
    state: str = "running"
    objective: float | None = None
    objectives: list[float | None] | None = None
    curve: Mapping[int, float | None] | None = None
    suspected: bool = False
    epochs: int | None = None
    steps: int | None = None
    step: int = 0
    epoch: int = 0
    started: float = 0.0
    worker_seconds: float = 0.0
    schedule: Schedule | None = None
    seed: int | None = None
    configured: Mapping[str, Any] = field(default_factory=dict)
    change: int = 0

    @property
    def key(self) -> TrialKey:
        """The trial's number and this attempt."""
        return self.number, self.attempt

    def next_ticket(self, num_islands: int, reached: float = 0.0) -> Ticket:
        """Continues this attempt, which has a result.

        Args:
            num_islands: the number of islands, which may have changed.
            reached: the fidelity at which it has paused.
        """
        home = self.island % num_islands
        return Ticket(
            self.number,
            self.attempt + 1,
            self.hyperparameters,
            self.proposal,
            reached=reached,
            home=home,
            schedule=self.schedule,
            seed=self.seed,
        )


class Move(NamedTuple):
    """An individual was sent from an island to another one, after `steps` migrations before."""

    origin: int
    target: int
    steps: int


@dataclass
class Past:
    """A study's trials, migrations, prepared and infeasible proposals, and seconds of searching so far.

    Attributes:
        moves: those of each migrant, by its trial's number.
        ignored: how many proposals had an entry, by its name, that this version does not know or that has a wrong type.
        newest: the newest attempt at each trial.
        changes: the numbers of the study's changes.
        bred_since: that of the last one of its space or sampler: proposals of before are not in this space.
    """

    trials: dict[TrialKey, PastTrial] = field(default_factory=dict)
    proposed: dict[int, Proposed] = field(default_factory=dict)
    infeasible: dict[int, list[ProposalRefused]] = field(default_factory=dict)
    moves: dict[int, list[Move]] = field(default_factory=dict)
    seconds: float = 0.0
    ignored: Counter[str] = field(default_factory=Counter)
    newest: dict[int, int] = field(default_factory=dict)
    changes: set[int] = field(default_factory=set)
    bred_since: int = 0

    def warnings(self) -> Iterator[str]:
        """A sentence on the pickled optimizers in the journals, and one on other entries that are not read."""
        pickled = {name for name in self.ignored if PICKLED.fullmatch(name)}
        if pickled:
            yield (
                f"ignored {max(self.ignored[name] for name in pickled)} pickled CMA-ES optimizers, such as version "
                "0.1.0 wrote: no pickle is read, and CMA-ES rebuilds its optimizer from the trials"
            )
        others = {name: count for name, count in self.ignored.items() if name not in pickled}
        if others:
            first = ", ".join(f"{name[:60]!r}" for name in itertools.islice(others, 3))
            yield (
                f"ignored {sum(others.values())} entries of proposals that this version of atoll does not know, or "
                f"that have another type: {first}{', ...' if len(others) > 3 else ''}"
            )

    def add(self, event: Event) -> None:
        """Take in one more event, apart from its time."""
        match event:
            case TrialStarted():
                if event.attempt and event.home is None:  # trained again from its start, as its result is lost
                    self.moves.pop(event.number, None)
                self.newest[event.number] = max(event.attempt, self.newest.get(event.number, 0))
                self.trials[event.key] = PastTrial(
                    number=event.number,
                    attempt=event.attempt,
                    island=event.island if event.home is None else event.home,
                    worker=event.worker,
                    hyperparameters=event.hyperparameters,
                    proposal=self._known(event.proposal),
                    epochs=_count(event.configuration.get("epochs")),
                    steps=_count(event.configuration.get("steps")),
                    started=_clock(event),
                    schedule=_schedule(event),
                    seed=event.seed,
                    configured=event.configuration.get("hyperparameters") or {},
                    change=event.change,
                )
            case StudyChanged():
                self.changes.add(event.number)
                if any(changes.is_of(str(one.get("setting")), changes.BREEDS) for one in event.settings):
                    self.bred_since = max(self.bred_since, event.number)
            case Proposed():
                self.proposed[event.number] = event.model_copy(update={"proposal": self._known(event.proposal)})
            case ProposalRefused():
                known = self._known({"genes": event.genes, "attributes": event.attributes})
                if "genes" in known:
                    self.infeasible.setdefault(event.number, []).append(event.model_copy(update=known))
            case Migrated():
                moves = self.moves.setdefault(event.number, [])
                steps = len(moves) if event.steps is None else event.steps  # older versions wrote no steps
                moves.append(Move(event.from_island, event.to_island, steps))
            case ProgressReported() | TrialEnded() | TrialLost() if (trial := self.trials.get(event.key)) is not None:
                _follow(trial, event)

    def _known(self, proposal: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a journaled proposal that may be used; the others are counted."""
        known, ignored = known_fields(proposal)
        if "attributes" in known:
            known["attributes"], unknown = known_attributes(known["attributes"])
            ignored += unknown
        self.ignored.update(ignored)
        return known

    def is_current(self, change: int) -> bool:
        """Whether what was proposed in the space of this change is in the present space, by the present sampler."""
        return self.bred_since <= change <= max(self.changes, default=0)

    def running(self) -> list[PastTrial]:
        """The attempts that have started and not ended."""
        return [trial for trial in self.trials.values() if trial.state == "running"]

    def counts(self, trial: PastTrial) -> bool:
        """Whether an attempt is its trial's result: it has one, and has not been continued."""
        return trial.state in BUDGETED and trial.attempt == self.newest[trial.number]

    def counted(self) -> list[PastTrial]:
        """The results of the trials that count towards the budget."""
        return [trial for trial in self.trials.values() if self.counts(trial)]

    def ended(self) -> list[PastTrial]:
        """All attempts that have a result, in order."""
        return sorted((t for t in self.trials.values() if t.state in BUDGETED), key=lambda trial: trial.key)

    def results(self) -> dict[int, PastTrial]:
        """Each trial's newest attempt that has a result, although it may have been continued since."""
        return {trial.number: trial for trial in self.ended()}

    def num_budgeted(self) -> int:
        """The number of trials that count towards the budget."""
        return len(self.counted())

    def all_failed(self) -> bool:
        """Whether there are trials that have used up budget, and all of them have failed."""
        return {trial.state for trial in self.counted()} == {"failed"}

    def is_budgeted(self, key: TrialKey) -> bool:
        """Whether an attempt counts towards the budget."""
        trial = self.trials.get(key)
        return trial is not None and self.counts(trial)

    def is_suspected(self, trial: PastTrial, *, continues: bool) -> bool:
        """Whether a worker has died during this trial before.

        Args:
            trial: its running attempt.
            continues: whether trials continue from checkpoints: then one that has got further since is not suspected.
        """
        earlier = (t for t in self.trials.values() if t.number == trial.number and t.suspected)
        return any(not continues or trial.step <= t.step for t in earlier)

    def failed(self) -> list[dict[str, Any]]:
        """The hyperparameters of failed trials, which must not be proposed again unchanged."""
        return [trial.hyperparameters for trial in self.trials.values() if trial.state == "failed"]

    def worker_seconds(self) -> float:
        """The worker-seconds of the trials that count towards the budget, before they were continued, too."""
        return sum(trial.worker_seconds for trial in self.trials.values() if trial.state in BUDGETED)

    def used_up(self, num_trials: int | None, seconds: float | None, busy_seconds: float | None = None) -> bool:
        """Whether one of the given budgets is used up."""
        # The roots have added the same numbers in a different order, and journals round them.
        elapsed, busy = self.seconds + 1e-5, self.worker_seconds() + 1e-5
        spent = ((self.num_budgeted(), num_trials), (elapsed, seconds), (busy, busy_seconds))
        return any(budget is not None and used >= budget for used, budget in spent)

    def tickets(
        self,
        num_trials: int | None,
        given: Sequence[dict[str, Any]],
        *,
        num_islands: int = 1,
        reached: Mapping[int, float] | None = None,
        longer: Iterable[Ticket] = (),
    ) -> Iterator[Ticket]:
        """The remaining tickets: lost trials, then finished ones that become longer, then new ones.

        Args:
            num_trials: the budget.
            given: the configurations of the first new ones.
            num_islands: the number of islands, which may have changed.
            reached: the fidelity at which each paused trial has paused, if it was continued and lost since.
            longer: the tickets of finished trials that become longer.
        """
        begun = self.begun(num_islands, reached=reached, longer=longer)
        started = self.started()
        left = None if num_trials is None else max(0, num_trials - len(started))
        fresh = itertools.islice((number for number in itertools.count() if number not in started), left)
        return itertools.chain(begun, (self.filled(Ticket(number), given) for number in fresh))

    def begun(
        self, num_islands: int, *, reached: Mapping[int, float] | None = None, longer: Iterable[Ticket] = ()
    ) -> list[Ticket]:
        """The tickets of what has begun: lost trials, then finished ones that become longer.

        Args:
            num_islands: the number of islands, which may have changed.
            reached: the fidelity at which each paused trial has paused, if it was continued and lost since.
            longer: the tickets of finished trials that become longer.
        """
        done = {trial.number for trial in self.counted()}
        lost = {t.number: t for t in sorted(self.trials.values(), key=lambda t: t.attempt) if t.number not in done}
        results = self.results()
        retries = (
            _retry(t, results.get(t.number), num_islands, (reached or {}).get(t.number, 0.0)) for t in lost.values()
        )
        return [*retries, *longer]

    def retry(self, lost: PastTrial, num_islands: int, reached: float = 0.0) -> Ticket:
        """The ticket of a lost attempt's next one; see `begun`."""
        return _retry(lost, self.results().get(lost.number), num_islands, reached)

    def started(self) -> set[int]:
        """The numbers of all trials that were started."""
        return {trial.number for trial in self.trials.values()}

    def filled(self, ticket: Ticket, given: Sequence[dict[str, Any]]) -> Ticket:
        """A new ticket with its given configuration, or with the one prepared before the search stopped.

        What was prepared before the space or the sampler has changed is not used.
        """
        proposed = self.proposed.get(ticket.number)
        if proposed is not None and not self.is_current(proposed.change):
            proposed = None
            if ticket.number not in self.newest:
                ticket = replace(ticket, hyperparameters=None, proposal=None)
        if ticket.hyperparameters is not None:
            return ticket
        if ticket.number < len(given):
            return replace(ticket, hyperparameters=given[ticket.number])
        if proposed is None:
            return ticket
        return replace(ticket, hyperparameters=proposed.hyperparameters, proposal=proposed.proposal)

    def visited(self, num_islands: int) -> dict[int, set[int]]:
        """The islands that know each migrant's trial with pollination; the number of islands may have changed."""
        return {
            number: {island % num_islands for move in moves for island in (move.origin, move.target)}
            for number, moves in self.moves.items()
        }

    def steps(self, number: int) -> int:
        """The number of migrations of an individual; lines of different journals come in any order."""
        return max((move.steps + 1 for move in self.moves.get(number, ())), default=0)

    def departures(self, island: int, num_islands: int) -> Iterator[tuple[int, int]]:
        """The trials of the individuals that have left an island, and their migrations before that.

        Without those whose results are not in the journals: they may be trained again, and begin anew.
        """
        known = self.results()
        for number, moves in self.moves.items():
            if number in known:
                yield from ((number, move.steps) for move in moves if move.origin % num_islands == island)

    def individuals(self, island: int, num_islands: int, pollination: bool) -> list[PastTrial]:
        """The ended trials of an island: with pollination those that it knows, without those that are there.

        The number of islands may have changed: a trial of island i goes to island i modulo their number.
        """
        chosen = []
        for number, trial in self.results().items():
            homes, moves = {trial.island}, self.moves.get(number, ())
            if pollination:
                homes.update(move.target for move in moves)
            elif moves:
                homes = {max(moves, key=lambda move: move.steps).target}
            if island in {home % num_islands for home in homes}:
                chosen.append(trial)
        return sorted(chosen, key=lambda trial: trial.number)


def read(events: Iterable[Event]) -> Past:
    """Collect a study's past from its journals' events, in the order of their times."""
    past = Past()
    started, before = None, 0.0
    anchor: tuple[float, float] | None = None  # when several launchers searched first: the time, and seconds before
    for event in events:
        past.add(event)
        if isinstance(event, StudyStarted):
            started, before, anchor = event.time, past.seconds, None
        elif isinstance(event, LauncherJoined | Restarted) and (anchor or isinstance(event, LauncherJoined)):
            # Launches side by side have no order, so only clocks tell when this one began.
            anchor = anchor or (event.time if started is None else started, before)
            started, before = event.time, anchor[1] + max(0.0, event.time - anchor[0])
        elif isinstance(event, Restarted) and event.elapsed is not None:
            started, before = event.time, past.seconds
        elif event.elapsed is not None:
            past.seconds = max(past.seconds, before + event.elapsed)
        elif started is not None:  # before version 3 there were only times
            past.seconds = max(past.seconds, before + event.time - started)
    return past


def _retry(lost: PastTrial, result: PastTrial | None, num_islands: int, reached: float) -> Ticket:
    """A lost attempt's next one; if it had continued a result, it still does."""
    again = Ticket(
        lost.number, lost.attempt + 1, lost.hyperparameters, lost.proposal, schedule=lost.schedule, seed=lost.seed
    )
    return again if result is None else replace(again, reached=reached, home=result.island % num_islands)


def _schedule(event: TrialStarted) -> Schedule | None:
    schedule = event.configuration.get("schedule")
    return numbered(schedule) if isinstance(schedule, dict) else None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _clock(event: Event) -> float:
    """Seconds to compare with those of other events of the same file."""
    return event.time if event.elapsed is None else event.elapsed


def _follow(trial: PastTrial, event: ProgressReported | TrialEnded | TrialLost) -> None:
    match event:
        case ProgressReported():  # if the trial's process dies, it counts as trained until its last line
            trial.worker_seconds = max(0.0, _clock(event) - trial.started)
            trial.step, trial.epoch = event.step, event.epoch
        case TrialEnded():
            trial.state = event.state
            trial.objective = event.objective
            trial.objectives = event.objectives
            trial.curve = event.curve or {}
            trial.worker_seconds = event.worker_seconds
        case TrialLost() if trial.state == "running":
            trial.state = "lost"
            trial.suspected = event.suspected
            trial.step = max(trial.step, event.step)
