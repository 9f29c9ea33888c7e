"""What the workers of other launchers do: one population by islands, without MPI between the launchers.

The journals say it all, so each launcher follows those of the others: root 0 reads their new lines, and sends the
events to the other roots of its launch. A trial of another launcher joins the island's population as if a worker of
this launch had sent it. Only the launch that has bred an individual sends it to further islands, and says so in its
journal.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from atoll.communication.mailbox import Mailbox
from atoll.platform.search.busy_budget import BusyBudget
from atoll.platform.search.candidates import Candidates
from atoll.platform.search.island import Island
from atoll.platform.search.population import Individual, Renewal
from atoll.platform.search.proposals import key
from atoll.platform.search.pruning import Pruner
from atoll.platform.search.restore import genes_of, individual_of
from atoll.platform.search.resume import BUDGETED, Move, Past, PastTrial
from atoll.platform.search.scoring import Scoring
from atoll.platform.search.shared_tickets import TicketLog
from atoll.platform.search.stopping import Stopping
from atoll.platform.study.plan import Plan
from atoll.storage.events import (
    Event,
    Migrated,
    ProgressReported,
    StopRuleMet,
    TrialEnded,
    TrialKey,
    TrialLost,
    TrialStarted,
)
from atoll.storage.launches import JournalTail

NEWS_OF_OTHERS = 51

KINDS = (TrialStarted, ProgressReported, TrialEnded, TrialLost, Migrated, StopRuleMet)


class Reader:
    """Root 0's view of the other launchers.

    Args:
        tail: the journals of all launches but its own, after what the roots have read at the start.
        log: the log of tickets, which tells who takes part.
    """

    INTERVAL = 0.5  # seconds

    def __init__(self, tail: JournalTail, log: TicketLog) -> None:
        self._tail = tail
        self._log = log
        self._looked = time.monotonic()
        self._sizes: tuple[int, ...] = ()

    def news(self) -> tuple[list[Event], tuple[int, ...] | None] | None:
        """The new events, and the number of workers on each island if it has changed; None if there is nothing new."""
        if time.monotonic() - self._looked < self.INTERVAL:
            return None
        self._looked = time.monotonic()
        chunks = self._tail.read()
        self._tail.advance(chunks)
        events: list[Event] = [event for chunk in chunks.values() for event in chunk.events if isinstance(event, KINDS)]
        sizes = self._log.read().island_sizes()
        changed = None if sizes == self._sizes else sizes
        self._sizes = sizes
        return (events, changed) if events or changed else None


class OtherLaunchers:
    """One root's view of the other launchers.

    Args:
        roots: the mailbox of all roots of this launch.
        plan, past, scoring: the resolved study, its past when this launch began, and its objectives.
        island, index: this root's island.
        candidates, pruner, budget, stopping: learn from other launchers' trials as well.
        reader: on root 0; else None.
    """

    def __init__(
        self,
        *,
        roots: Mailbox,
        plan: Plan,
        past: Past,
        scoring: Scoring,
        island: Island,
        index: int,
        candidates: Candidates,
        pruner: Pruner | None,
        budget: BusyBudget,
        stopping: Stopping,
        reader: Reader | None,
    ) -> None:
        self._roots = roots
        self._plan = plan
        self._past = past
        self._scoring = scoring
        self._island = island
        self._index = index
        self._num_islands = plan.study.topology.islands
        self._candidates = candidates
        self._pruner = pruner
        self._budget = budget
        self._stopping = stopping
        self._reader = reader
        self._pays = reader is not None
        self._reports: dict[TrialKey, list[ProgressReported]] = {}
        self._continues: set[TrialKey] = set()
        self._before = past.results()

    def receive(self) -> None:
        """Take in what is new."""
        if self._reader is not None and (news := self._reader.news()) is not None:
            self._roots.send_to(range(self._roots.size), news, NEWS_OF_OTHERS)
        while (message := self._roots.take(NEWS_OF_OTHERS)) is not None:
            events, sizes = message[1]
            if sizes is not None:
                self._island.has_workers(sizes[self._index])
            for event in events:
                self._take(event)

    def end(self) -> None:
        """Read no further journals, as nobody may send once the roots have begun to leave."""
        self._reader = None

    def _take(self, event: Event) -> None:
        self._past.add(event)
        match event:
            case TrialStarted():
                self._started(event)
            case ProgressReported() if self._pruner is not None:
                self._reports.setdefault(event.key, []).append(event)
            case TrialEnded() if (trial := self._past.trials.get(event.key)) is not None:
                self._ended(trial)
                if self._pays and trial.state in BUDGETED:
                    self._budget.spend(trial.worker_seconds)
                    self._stopping.elsewhere(trial)
            case TrialLost() if (trial := self._past.trials.get(event.key)) is not None:
                self._lost(trial)
            case Migrated():
                self._moved(event.number, self._past.moves[event.number][-1])
            case StopRuleMet():
                self._stopping.met_elsewhere(event)

    def _is_here(self, trial: PastTrial) -> bool:
        return trial.island % self._num_islands == self._index

    def _started(self, event: TrialStarted) -> None:
        trial = self._past.trials[event.key]
        if event.home is not None:
            self._continues.add(event.key)
        elif (genes := self._genes(trial)) is not None:
            if self._is_here(trial):
                self._island.take_in("started", trial.number, *genes)
            else:
                self._island.take_in("taken", trial.number, genes[0])

    def _genes(self, trial: PastTrial) -> tuple[dict[str, float | int], dict[str, object]] | None:
        try:
            return genes_of(trial, self._plan.space, self._past)
        except ValueError:
            return None

    def _lost(self, trial: PastTrial) -> None:
        self._reports.pop(trial.key, None)
        if trial.key not in self._continues and self._is_here(trial):
            self._island.take_in("dropped", trial.number)

    def _ended(self, trial: PastTrial) -> None:
        reports = self._reports.pop(trial.key, [])
        if trial.state == "lost":
            self._lost(trial)
            return
        if self._pruner is not None:
            for report in reports:
                self._pruner.replay(report.number, report)
        if trial.state == "failed":
            self._candidates.failed(key(trial.hyperparameters))
        losses, curve = self._losses(trial)
        if trial.key in self._continues:
            is_complete = trial.state == "complete"
            self._island.take_in("renewed", Renewal(trial.number, trial.attempt, losses, is_complete, curve))
        else:
            self._joins(trial)

    def _joins(self, trial: PastTrial) -> None:
        """A new result is where it was bred, and where journals that were read before have sent it since."""
        if self._is_here(trial):
            if (individual := self._individual(trial)) is None:
                self._island.take_in("dropped", trial.number)
            else:
                self._island.take_in("arrived", individual)
        for move in self._past.moves.get(trial.number, ()):
            self._moved(trial.number, move)

    def _losses(self, trial: PastTrial) -> tuple[tuple[float, ...] | None, dict[int, float]]:
        return self._scoring.losses(trial.state, trial.objectives or [trial.objective], trial.curve)

    def _individual(self, trial: PastTrial) -> Individual | None:
        return individual_of(trial, self._past, self._plan.space, self._scoring, self._num_islands)

    def _moved(self, number: int, move: Move) -> None:
        """An individual moves; in whatever order its moves are heard of, and again if its result is heard of later."""
        if move.origin % self._num_islands == self._index and not self._plan.study.migration.pollination:
            self._island.take_in("left", number, move.steps)
        if move.target % self._num_islands == self._index:
            trial = self._newest(number)
            if trial is not None and (individual := self._individual(trial)) is not None:
                self._island.take_in("arrived", replace(individual, steps=move.steps + 1))

    def _newest(self, number: int) -> PastTrial | None:
        """The trial's newest result, from before this launch or since."""
        attempts: Sequence[int] = range(self._past.newest.get(number, -1), -1, -1)
        found = (self._past.trials.get((number, attempt)) for attempt in attempts)
        return next(
            (trial for trial in found if trial is not None and trial.state in BUDGETED), self._before.get(number)
        )
