"""The search, as the root of one worker runs it: our loop over an island's sampler.

Tickets come in, candidates are proposed and evaluated by the worker, every event becomes a journal line, and the island
exchanges what it has found.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Protocol

from atoll.communication.communicator import Patience
from atoll.communication.mailbox import Mailbox
from atoll.platform.search import propagators, resume
from atoll.platform.search.busy_budget import BusyBudget
from atoll.platform.search.island import Island
from atoll.platform.search.population import Individual, Population
from atoll.platform.search.proposals import Candidate, Proposer, key, proposal_of
from atoll.platform.search.pruning import Pruner
from atoll.platform.search.tickets import Ticket, TicketOffice
from atoll.platform.study import objectives
from atoll.platform.study.configuration import Configuration
from atoll.platform.study.objectives import TargetClock
from atoll.platform.study.study import Study
from atoll.platform.study.topology import Place
from atoll.platform.trial.outcome import Outcome, Stopped, TrialTimeout
from atoll.platform.trial.progress import Progress, as_fields
from atoll.storage import journal
from atoll.storage.folder import StudyFolder
from atoll.storage.journal import Event, JournalWriter

FAILED = 41


class TrialEvaluator(Protocol):
    """What a root needs of its worker."""

    places: list[Place]
    place: Place
    serve: Callable[[], None]
    interrupt: Callable[[], Exception | None]

    def evaluate(
        self,
        configuration: Configuration,
        on_progress: Callable[[Progress], None],
        *,
        prunes: Callable[[Progress], bool] | None = None,
        test: bool = False,
    ) -> Outcome:
        """Train a configuration."""

    def dismiss(self) -> None:
        """Tell the members that there is nothing more to do."""


class SearchLoop:
    """The search as the root of one worker runs it.

    Args:
        study: what to search.
        folder: where its journals are.
        worker: whose root this is.
        roots, island: mailboxes between all roots, and between those of this island.
        island_sizes: workers of every island.
        warm_start: configurations that are evaluated first, after the default one.
    """

    STOP_CHECK_INTERVAL = 0.5
    # Messages are taken in this often while a trial trains: MPI holds only so many, and senders keep the rest.
    RECEIVE_INTERVAL = 0.05

    def __init__(
        self,
        study: Study,
        folder: StudyFolder,
        worker: TrialEvaluator,
        roots: Mailbox,
        island: Mailbox,
        island_sizes: Sequence[int],
        warm_start: Sequence[dict[str, Any]] = (),
    ) -> None:
        self._study = study
        self._folder = folder
        self._worker = worker
        self._place = worker.place
        self._roots = roots
        self._space = study.search_space()
        self._workload = study.problem()
        self._objectives = objectives.resolve(study.objectives, self._workload)
        events = journal.replay(folder.journals)
        past = resume.read(events)
        self._journal = JournalWriter(folder.root_journal(self._place.world_rank))
        self._started = time.monotonic()
        self._trial_started = self._started
        self._received = self._started
        self._seconds_left = None if study.seconds is None else study.seconds - past.seconds
        self._busy = BusyBudget(roots, None if study.busy_seconds is None else study.busy_seconds - past.busy_seconds())
        self._stop_checked = 0.0
        self._stop_asked = False
        self._generation = sum(trial.worker == self._place.worker for trial in past.trials.values())
        given = _given(study, self._space.default(), warm_start)
        self._given = {key(hyperparameters): operator for hyperparameters, operator in given}
        first = [hyperparameters for hyperparameters, _ in given]
        self._office = TicketOffice(roots, past.tickets(study.trials, first), is_open=lambda: not self._over())
        self._office.return_ticket = self._return_ticket
        self._beat = worker.serve
        worker.serve = self._serve
        worker.interrupt = self._interrupt
        self._pruner = _pruner(study, self._workload.direction, roots, events, past)
        self._best: dict[str, float] = {}  # loss, by method
        self._noted: set[int] = set()  # trials whose prepared candidates are in the journal
        population = Population(study.population(self._place.island))
        self._proposer = self._make_proposer(population, len(given))
        self._proposer.failures.update(key(hyperparameters) for hyperparameters in past.failed())
        self._remember(past, population, len(island_sizes), island_sizes[self._place.island])
        self._island = Island(
            population=population,
            proposer=self._proposer,
            migration=study.migration,
            island_sizes=island_sizes,
            index=self._place.island,
            workers=island,
            roots=roots,
            # A resumed search must not repeat the random stream of its first start.
            seed=(study.seed * 1_000_003 + len(past.trials)) * 1_000_003 + roots.rank,
            on_emigration=self._note_emigration,
        )

    def _make_proposer(self, population: Population, num_given: int) -> Proposer:
        refuses = self._study.refusal(self._space)
        propagator = propagators.make(
            self._study.samplers()[self._place.island],
            self._space,
            population,
            seed=self._study.seed,
            num_objectives=len(self._objectives),
            first=num_given,
            refuses=refuses,
        )
        return Proposer(propagator, self._space, refuses, self._study.seed)

    def _remember(self, past: resume.Past, population: Population, num_islands: int, num_workers: int) -> None:
        """Tell population and sampler what was found before, in the order of the trials' numbers."""
        ended = past.individuals(self._place.island, num_islands, self._study.migration.pollination)
        visited = past.visited(num_islands)
        for position, trial in enumerate(ended):
            try:
                genes, attributes = self._genes_of(trial)
            except ValueError:
                continue  # of a wider space
            for refused in past.refused.get(trial.number, ()):
                checked = propagators.checked_attributes(refused["attributes"])
                self._proposer.refused(trial.number, refused["genes"], checked)
            self._proposer.started(trial.number, genes, attributes)
            losses, curve = self._losses(trial.state, trial.objectives or [trial.objective], trial.curve)
            if losses is None:
                self._proposer.dropped(trial.number)
                continue
            individual = Individual(
                number=trial.number,
                genes=tuple(genes.values()),
                losses=losses,
                island=trial.island,
                home=position % num_workers,
                is_complete=trial.state == "complete",
                visited=frozenset(visited.get(trial.number, ())),
                attributes=attributes,
                curve=curve,
            )
            if population.admit(individual):
                self._proposer.arrived(individual)

    def _genes_of(self, trial: resume.PastTrial) -> tuple[dict[str, Any], dict[str, Any]]:
        """A past trial's genes, as they were proposed if the space is still the same, and its sampler's attributes."""
        encoded = self._space.encode(trial.hyperparameters)
        proposed = trial.proposal.get("genes") or {}
        attributes = propagators.checked_attributes(trial.proposal.get("attributes") or {})
        return (proposed if list(proposed) == list(encoded) else encoded), attributes

    def _losses(
        self, state: str, found: Sequence[float | None], curve: Mapping[int, float] | None
    ) -> tuple[tuple[float, ...] | None, dict[int, float]]:
        """What is to be minimised: of a complete trial its objectives, of a pruned one the last value of its curve."""
        if state == "complete":
            return objectives.losses(self._objectives, found), {}
        if state == "pruned" and curve:
            losses = objectives.curve_losses(self._objectives[0], self._workload, curve)
            return (losses[max(losses)],), losses
        return None, {}

    def run(self) -> None:
        """Evaluate tickets until there are none."""
        for place in self._worker.places:
            self._journal.append("host", asdict(place))
        self._roots.comm.Barrier()  # nobody writes before everybody has read the journals
        while (ticket := self._office.take(self._wait)) is not None and not self._over():
            candidate = self._candidate(ticket)
            self._office.ask()
            self._evaluate(ticket, candidate)
        self._keep_prepared()
        self._finish()

    def _keep_prepared(self) -> None:
        """Wait for what a sampler is thinking about when the search ends, and note it for a resume."""
        number = self._proposer.number
        if number is not None:
            self._wait(self._proposer.is_made)
            self._note_prepared(number)

    def _candidate(self, ticket: Ticket) -> Candidate:
        """The ticket's configuration, or a proposed one."""
        if ticket.hyperparameters is None:
            candidate = self._proposer.take(ticket.number, self._wait)
            if ticket.number not in self._noted:
                self._note_refused(ticket.number, candidate)
            return candidate
        if ticket.proposal:
            return Candidate(ticket.hyperparameters, proposal_of(ticket.proposal))
        operator = self._given.get(key(ticket.hyperparameters), "retry")
        return self._proposer.settle(ticket.hyperparameters, operator)

    def _note_prepared(self, number: int) -> None:
        """Journal a prepared candidate, once it is there: it is what a resumed search goes on with."""
        if number not in self._noted and (candidate := self._proposer.ready(number)) is not None:
            self._noted.add(number)
            self._note_refused(number, candidate)
            fields = {"hyperparameters": candidate.hyperparameters, "proposal": candidate.as_dict()}
            self._journal.append("proposed", {"number": number} | fields)

    def _note_refused(self, number: int, candidate: Candidate) -> None:
        for refusal in candidate.refused:
            self._journal.append("refused", {"number": number} | vars(refusal))

    def _evaluate(self, ticket: Ticket, candidate: Candidate) -> None:
        number, attributes = ticket.number, candidate.proposal.attributes
        configuration = self._study.configuration(
            candidate.hyperparameters, number, self._place.threads, self._place.device
        )
        trial = {"number": number, "attempt": ticket.attempt}
        self._note_start(trial, configuration, candidate)
        self._island.start(number, candidate.proposal.genes, attributes)
        self._trial_started = time.monotonic()
        clock = TargetClock(self._workload)
        if self._pruner is not None:
            self._pruner.start(number)

        def report(progress: Progress) -> None:
            clock.see(progress.metric, progress.seconds, progress.step)
            self._journal.append("progress", trial | as_fields(progress))

        prunes = None if self._pruner is None else self._pruner.prunes
        outcome = self._worker.evaluate(configuration, report, prunes=prunes, test=self._study.confirm is not None)
        outcome, found = self._judge(outcome, clock)
        busy_seconds = time.monotonic() - self._trial_started
        losses, curve = self._losses(outcome.state, found, outcome.curve)
        if self._study.confirm is None and not self._is_best(configuration.method, outcome, losses):
            outcome = replace(outcome, schedules=[])
        self._note_end(trial, outcome, found, busy_seconds)
        self._busy.spend(busy_seconds)
        if outcome.state == "failed":
            self._remember_failure(candidate.hyperparameters)
        if losses is None:
            self._island.drop(number)
        else:
            self._island.add(
                Individual(
                    number=number,
                    genes=tuple(candidate.proposal.genes[name] for name in self._space.limits()),
                    losses=losses,
                    island=self._place.island,
                    home=self._island.rank,
                    is_complete=outcome.state == "complete",
                    attributes=attributes,
                    curve=curve,
                )
            )
        self._receive()
        self._island.migrate()

    def _judge(self, outcome: Outcome, clock: TargetClock) -> tuple[Outcome, list[float]]:
        """The objectives of a complete trial; one that is no number fails it."""
        if outcome.state != "complete":
            return outcome, []
        found = objectives.values(self._objectives, self._workload, outcome, clock)
        for objective, value in zip(self._objectives, found, strict=True):
            if math.isnan(value):
                return replace(outcome, state="failed", objective=None, reason=f"{objective.name} is no number"), []
        assert outcome.objective is not None
        # The workload's metric stays on record, whatever is optimised.
        metrics = {self._workload.metric: outcome.objective} | outcome.metrics
        metrics = {name: value for name, value in metrics.items() if name != self._objectives[0].name}
        return replace(outcome, objective=found[0], metrics=metrics), found

    def _is_best(self, method: str, outcome: Outcome, losses: Sequence[float] | None) -> bool:
        """Whether a trial is this worker's best of its method so far; of no other one is it kept what its ranks did."""
        if outcome.state != "complete" or not losses or (method in self._best and losses[0] >= self._best[method]):
            return False
        self._best[method] = losses[0]
        return True

    def _remember_failure(self, hyperparameters: dict[str, Any]) -> None:
        """Keep this root, and all others, from evaluating a failed configuration again unchanged."""
        self._proposer.failures.add(key(hyperparameters))
        self._roots.send_to(self._roots.others(), key(hyperparameters), FAILED)

    def _interrupt(self) -> Exception | None:
        """What ends the trial that is being evaluated, if anything does."""
        if self._stopping():
            return Stopped("the search was asked to stop")
        now, timeout, left = time.monotonic(), self._study.trial_timeout, self._seconds_left
        if timeout is not None and now - self._trial_started > timeout:
            return TrialTimeout(f"the trial was stopped after trial_timeout ({timeout:g} s)")
        if left is not None and self._study.grace is not None and now - self._started > left + self._study.grace:
            return Stopped("the search's seconds and grace were over")
        return None

    def _over(self) -> bool:
        """Whether no further trial may start."""
        left = self._seconds_left
        over = left is not None and time.monotonic() - self._started >= left
        return over or self._busy.is_over or self._stopping()

    # The journal.

    def _note_start(self, trial: dict[str, int], configuration: Configuration, candidate: Candidate) -> None:
        fields = {
            "island": self._place.island,
            "worker": self._place.worker,
            "generation": self._generation,
            "seed": configuration.seed,
            "host": self._place.hostname,
            "oversubscribed": any(place.oversubscribed for place in self._worker.places),
            "hyperparameters": candidate.hyperparameters,
            "configuration": configuration.model_dump(),
            "proposal": candidate.as_dict(),
        }
        self._generation += 1
        self._journal.append("trial_started", trial | fields)

    def _note_end(self, trial: dict[str, int], outcome: Outcome, found: Sequence[float], busy_seconds: float) -> None:
        fields = dict(vars(outcome)) | {"busy_seconds": busy_seconds}
        if len(found) > 1:
            fields["objectives"] = list(found)
        self._journal.append("trial_ended", trial | fields, sync=outcome.seconds > 1.0)

    def _note_emigration(self, number: int, to_island: int) -> None:
        fields = {"number": number, "from_island": self._place.island, "to_island": to_island}
        self._journal.append("migrated", fields)

    # Between trials, and while one trains.

    def _stopping(self) -> bool:
        if not self._stop_asked and time.monotonic() - self._stop_checked > self.STOP_CHECK_INTERVAL:
            self._stop_checked = time.monotonic()
            self._stop_asked = self._folder.stop_request.exists()
        return self._stop_asked

    def _serve(self) -> None:
        self._beat()
        self._busy.serve()
        self._office.serve()
        if (now := time.monotonic()) - self._received > self.RECEIVE_INTERVAL:
            self._received = now
            self._receive()
        self._prepare()

    def _prepare(self) -> None:
        """Let a slow sampler think about the next trial while this one trains, and note what it has found."""
        ahead = self._office.prefetched
        if ahead is None or ahead.hyperparameters is not None or not self._proposer.is_slow:
            return
        if not self._proposer.is_busy:
            self._receive()
            self._proposer.prepare(ahead.number)
        self._note_prepared(ahead.number)

    def _return_ticket(self, ticket: Ticket) -> Ticket:
        """Give the ticket ahead to a worker that has nothing to do, with what was proposed for it."""
        if ticket.hyperparameters is None and (candidate := self._proposer.ready(ticket.number)) is not None:
            self._note_prepared(ticket.number)
            ticket = replace(ticket, hyperparameters=candidate.hyperparameters, proposal=candidate.as_dict())
        self._proposer.give_up(ticket.number)
        return ticket

    def _wait(self, condition: Callable[[], bool]) -> None:
        patience = Patience(spin=False)
        while not condition():
            self._serve()
            patience.pause()

    def _finish(self) -> None:
        """Meet the other roots once nothing is under way, still serving them, and take in what arrives last."""
        self._worker.dismiss()
        self._wait(self._sent_all)
        everyone_is_here = self._roots.comm.Ibarrier()
        self._wait(lambda: self._received_and(everyone_is_here.Test))
        self._receive()
        self._journal.close()

    def _sent_all(self) -> bool:
        return self._received_and(lambda: self._roots.all_sent() and self._island.all_sent())

    def _received_and(self, condition: Callable[[], bool]) -> bool:
        self._receive()
        return condition()

    def _receive(self) -> None:
        self._island.receive()
        if self._pruner is not None:
            self._pruner.receive()
        while (message := self._roots.take(FAILED)) is not None:
            self._proposer.failures.add(message[1])


def _given(
    study: Study, default: dict[str, Any], warm_start: Sequence[dict[str, Any]]
) -> list[tuple[dict[str, Any], str]]:
    """The hyperparameters of the first trials, and where they come from."""
    if study.confirm is not None:
        return [(hyperparameters, "confirm") for hyperparameters in study.confirm.trials()]
    first = [(default, "default")] if study.default_first else []
    return first + [(hyperparameters, "warm_start") for hyperparameters in warm_start]


def _pruner(study: Study, direction: str, roots: Mailbox, events: Iterable[Event], past: resume.Past) -> Pruner | None:
    if study.pruning is None:
        return None
    pruner = Pruner(study.pruning, *study.pruning_rule(), -1.0 if direction == "maximize" else 1.0, roots)
    for event in events:
        # What was lost will be trained, and count, again.
        if event["event"] == "progress" and past.is_budgeted(event):
            pruner.replay(event["number"], event["epoch"], event["step"], event["seconds"], event["metric"])
    return pruner
