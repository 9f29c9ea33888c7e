"""The search loop of one worker's root.

It takes tickets, lets the worker evaluate candidates, writes each event to the journal, and exchanges individuals with
the rest of the island.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from atoll.communication.communicator import Patience
from atoll.communication.mailbox import Mailbox
from atoll.platform.search import assembly, pausing, promotion, resume
from atoll.platform.search.busy_budget import BusyBudget
from atoll.platform.search.candidates import Candidates, Given, given_first
from atoll.platform.search.deadlines import Deadlines
from atoll.platform.search.extension import Extension
from atoll.platform.search.heard import Kind, Notes
from atoll.platform.search.island import Island
from atoll.platform.search.journal_writer import SearchJournal
from atoll.platform.search.other_launchers import OtherLaunchers
from atoll.platform.search.own_code import GivingUp, OwnCodeError
from atoll.platform.search.population import Individual, Renewal
from atoll.platform.search.population_based import first_schedule
from atoll.platform.search.promotion import Ended, Pauses
from atoll.platform.search.proposals import Candidate, key
from atoll.platform.search.pruning import Pruner
from atoll.platform.search.restore import earlier_candidate, pruner_of
from atoll.platform.search.scoring import Scoring
from atoll.platform.search.shared_study import SharedStudy
from atoll.platform.search.stopping import Stopping
from atoll.platform.search.tickets import GivenTickets, Ticket, TicketOffice, TicketSource
from atoll.platform.study.configuration import Configuration, numbered
from atoll.platform.study.learning import Learned
from atoll.platform.study.plan import Plan
from atoll.platform.study.related import Related
from atoll.platform.study.study import Study
from atoll.platform.study.topology import Place
from atoll.platform.trial.outcome import Outcome
from atoll.platform.trial.progress import Progress
from atoll.platform.trial.training import Hooks
from atoll.storage import launches
from atoll.storage.events import Event, StudyChanged, StudyStarted, TrialKey
from atoll.storage.folder import StudyFolder, TrialFolder
from atoll.storage.journal import JournalWriter
from atoll.storage.text import REASON_LIMIT, shortened

FAILED = 41
NONE = GivenTickets(())


class TrialEvaluator(Protocol):
    """The part of a worker that the loop uses."""

    places: list[Place]

    def evaluate(
        self,
        configuration: Configuration,
        hooks: Hooks,
        *,
        test: bool = False,
        folder: Path | None = None,
        trial: TrialKey | None = None,
    ) -> Outcome:
        """Train a configuration."""

    def dismiss(self, serve: Callable[[], None] = lambda: None) -> None:
        """Tell the worker's members that the search has ended; serves while sending."""


class SearchLoop:
    """The search loop of one worker's root; `assemble` makes it from a plan.

    Args:
        plan: the resolved study.
        worker: the root's worker.
        roots: the mailbox of all roots.
        office: the source of tickets.
        candidates: the configurations for tickets.
        island: the population and its exchange.
        scoring: computes objectives from outcomes.
        pruner: decides which trials stop early; None to train all to the end.
        pauses: decides where trials pause, with promotion; None otherwise.
        budget: the budget of worker-seconds.
        stopping: the rules that end the search before its budget is used up.
        deadlines: the time limits and stop requests.
        search_journal: records events.
        folder_of: the folder of a trial's own files, by its number.
        giving_up: ends the search if code of the user's that proposes or prunes fails.
        other_launchers: what the workers of other launchers do; None if there can be none.
        beat: called in every wait between trials, for the heartbeat.
        may_start: whether a trial may start now; asked again and again until it is true, once for each trial.
        heard: what this root hears, for its journal.
    """

    # The interval of receiving messages during a trial: MPI buffers a limited number, and senders keep the rest.
    RECEIVE_INTERVAL = 0.05
    # The share of a trial's time that its worker waits for root 0 to hear of its result, if rules may end the search.
    HEARING_SHARE = 0.05

    def __init__(
        self,
        *,
        plan: Plan,
        worker: TrialEvaluator,
        roots: Mailbox,
        office: TicketOffice,
        candidates: Candidates,
        island: Island,
        scoring: Scoring,
        pruner: Pruner | None,
        pauses: Pauses | None,
        budget: BusyBudget,
        stopping: Stopping,
        deadlines: Deadlines,
        search_journal: SearchJournal,
        folder_of: Callable[[int], TrialFolder],
        giving_up: GivingUp,
        other_launchers: OtherLaunchers | None = None,
        beat: Callable[[], None],
        may_start: Callable[[], bool] = lambda: True,
        heard: Notes,
    ) -> None:
        self._plan = plan
        self._worker = worker
        self._place = worker.places[0]
        self._roots = roots
        self._office = office
        self._candidates = candidates
        self._island = island
        self._scoring = scoring
        self._pruner = pruner
        self._pauses = pauses
        self._budget = budget
        self._stopping = stopping
        self._deadlines = deadlines
        self._journal = search_journal
        self._folder_of = folder_of
        self._giving_up = giving_up
        self._other_launchers = other_launchers
        self._beat = beat
        self._may_start = may_start
        self._heard = heard
        self._received = time.monotonic()
        self._best: dict[str, float] = {}  # lowest loss by method

    @classmethod
    def assemble(
        cls,
        plan: Plan,
        folder: StudyFolder,
        worker: TrialEvaluator,
        roots: Mailbox,
        island_roots: Mailbox,
        island_sizes: Sequence[int],
        *,
        launch: int,
        shared: SharedStudy | None = None,
        warm_start: Sequence[dict[str, Any]] = (),
        learned: Sequence[Learned] = (),
        change: int = 0,
        related: Sequence[Related] = (),
        beat: Callable[[], None] = lambda: None,
        may_start: Callable[[], bool] = lambda: True,
    ) -> SearchLoop:
        """Make the loop and its collaborators, one after another, restored from the study's journals.

        Args:
            plan: the resolved study.
            folder: the study's files.
            worker: the root's worker.
            roots, island_roots: the mailboxes of all roots, and of this island's roots.
            island_sizes: the number of workers of each island.
            launch: the number of this launch of the study, whose journal the root writes.
            shared: what several launchers share. Default: nobody else searches the study.
            warm_start: configurations to evaluate first, after the default.
            learned: results from elsewhere, which the sampler is told before all others.
            change: the number of the study's last change that the plan has.
            related: results of related problems, which suggest configurations.
            beat: called in every wait between trials.
            may_start: whether a trial may start now.
        """
        study, place = plan.study, worker.places[0]
        events = launches.replay(folder.journals, until=None if shared is None else shared.sizes)
        past = resume.read(events)
        given = given_first(plan, warm_start)
        heard = Notes()
        giving_up = GivingUp(folder)
        joins = shared is not None and shared.joins
        assembled = assembly.assemble(
            plan, past, island=place.island, island_sizes=island_sizes, warm_start=warm_start, learned=learned,
            related=related, is_shared=joins, fail=giving_up, heard=heard,
        )  # fmt: skip
        population, proposer, scoring = assembled.population, assembled.proposer, assembled.scoring
        search_journal = _journal(folder, launch, worker.places, past, events, change, heard)
        # After the journal, whose seconds must reach the budget when these do.
        stops = folder.stop_request.exists if shared is None else shared.asks_to_stop
        stopping = Stopping(plan, roots, past, events, search_journal.stopping)
        deadlines = Deadlines(
            study,
            past.seconds,
            lambda: stopping.stops_running or stops(),
            job_seconds=None if shared is None else shared.seconds_left,
            makes_way=(lambda: False) if shared is None else shared.has_changed,
            lengths=[trial.worker_seconds for trial in past.counted() if trial.state == "complete"],
        )
        budget = _budget(study, roots, past)
        earlier = partial(earlier_candidate, past, plan.space)
        candidates = Candidates(proposer, search_journal, given, earlier)
        # Only the owner of the tickets uses these: they look for a file of each trial.
        rungs, reached = _paused(plan, folder, events, past) if roots.rank == 0 else (None, {})
        office = TicketOffice(
            roots,
            _tickets(plan, folder, past, given, len(island_sizes), reached, shared) if roots.rank == 0 else NONE,
            is_open=lambda: not (deadlines.is_over() or budget.is_over or stopping.is_over),
            give_back=candidates.give_back,
            rungs=rungs,
            promotes=study.pauses_trials,
        )
        island = Island(
            population=population,
            proposer=proposer,
            migration=study.migration,
            island_sizes=island_sizes,
            index=place.island,
            workers=island_roots,
            roots=roots,
            # A resumed search must not repeat the random stream of its first start.
            seed=(study.seed * 1_000_003 + len(past.trials)) * 1_000_003 + roots.rank,
            on_emigration=search_journal.migrated,
            heard=heard,
        )
        pruner = pruner_of(plan, roots, events, past, giving_up, heard)
        other_launchers = None
        if shared is not None:
            other_launchers = OtherLaunchers(
                roots=roots, plan=plan, past=past, scoring=scoring, island=island, index=place.island,
                candidates=candidates, pruner=pruner, budget=budget, stopping=stopping, reader=shared.reader(),
            )  # fmt: skip
        return cls(
            plan=plan, worker=worker, roots=roots, office=office, candidates=candidates, island=island, scoring=scoring,
            pruner=pruner, pauses=Pauses.of(plan), budget=budget, stopping=stopping, deadlines=deadlines,
            search_journal=search_journal,
            folder_of=folder.trial, giving_up=giving_up, other_launchers=other_launchers, beat=beat,
            may_start=may_start, heard=heard,
        )  # fmt: skip

    def run(self) -> None:
        """Evaluate tickets until there are none."""
        self._journal.ranks_placed()
        self._wait(self._roots.start_barrier())  # no root may write before all have read the journals
        while (ticket := self._next()) is not None and not self._is_over():
            try:
                candidate = self._candidates.of(ticket, self._wait)
            except OwnCodeError:  # all roots end, and so does the study, as failed
                break
            self._office.ask()
            self._evaluate(ticket, candidate)
        self._candidates.keep(self._wait)
        self._stopping.finish(self._wait)
        self._finish()

    def _next(self) -> Ticket | None:
        """The next ticket, once a trial may start."""
        self._wait(lambda: self._may_start() or self._is_over())
        return self._office.take(self._wait)

    def _is_over(self) -> bool:
        ended = self._budget.is_over or self._stopping.is_over or self._giving_up.has_happened
        return ended or self._deadlines.is_over()

    def _evaluate(self, ticket: Ticket, candidate: Candidate) -> None:
        trial = ticket.number, ticket.attempt
        configuration = self._configuration(ticket, candidate)
        self._journal.trial_started(trial, configuration, candidate, ticket.home)
        if ticket.home is None and not candidate.is_outside:
            self._island.start(ticket.number, candidate.proposal.genes, candidate.proposal.attributes)
        self._deadlines.trial_starts()
        clock = self._scoring.clock()
        if self._pruner is not None:
            self._pruner.start(ticket.number, continues=ticket.home is not None)
        if self._pauses is not None:
            self._pauses.start(ticket.reached)

        def report(progress: Progress) -> None:
            clock.advance(progress.step, progress.epoch)
            if progress.metric is not None:
                clock.see(progress.metric, progress.seconds, progress.step, progress.metrics.get("passes", math.nan))
            if progress.is_repeated and self._pruner is not None:
                self._pruner.take_in_repeated(progress)
            self._journal.progress(trial, progress)

        hooks = Hooks(
            on_progress=report,
            prunes=self._prunes(),
            pauses=self._pauses is not None,
            interrupt=self._deadlines.interruption,
            stops=self._deadlines.asks_to_stop,
            on_checkpoint=self._deadlines.trial_saves,
            serve=self._serve,
            value=self._plan.judged.value,
        )
        confirms = self._plan.study.confirm is not None
        folder = self._folder_of(ticket.number)
        if self._plan.study.keeps_weights and ticket.attempt:
            folder.remove_weights()  # of an earlier attempt
        path = folder.path
        if configuration.schedule is not None:
            self._adopt(folder, configuration)
        evaluated = self._worker.evaluate(configuration, hooks, test=confirms, folder=path, trial=trial)
        outcome, values = self._scoring.judge(
            self._unless_stopped(evaluated), clock, configuration.hyperparameters, self._wait
        )
        worker_seconds = self._deadlines.trial_seconds()
        if outcome.state == "complete":
            self._deadlines.trial_took(worker_seconds)
        losses, curve = self._scoring.losses(outcome.state, values, outcome.curve)
        if not confirms and not self._is_best(configuration.method, outcome, losses):
            outcome = replace(outcome, traces=[])
        self._journal.trial_ended(trial, outcome, values, worker_seconds)
        self._remove_files(ticket, folder, outcome.state, losses)
        self._budget.spend(worker_seconds)
        self._stopping.ended(trial, outcome.state, losses, candidate.hyperparameters)
        if outcome.state == "failed":
            self._tell_failure(ticket.number, candidate.hyperparameters)
        self._tell_result(ticket, candidate, outcome, losses, curve)
        if self._pauses is not None:
            waits = outcome.state == "pruned" and folder.manifest.exists()
            self._office.ended(
                Ended(
                    ticket.number,
                    self._pauses.values,
                    self._next_ticket(ticket, candidate, configuration) if waits else None,
                    self._pauses.step,
                )
            )
        self._receive()
        self._island.migrate()
        until = time.monotonic() + self.HEARING_SHARE * worker_seconds
        self._wait(lambda: self._stopping.may_start() or time.monotonic() >= until)

    def _configuration(self, ticket: Ticket, candidate: Candidate) -> Configuration:
        """What the trial trains; a member of a population, with the schedule and the seed of its state."""
        given = candidate.hyperparameters
        configuration = self._plan.configuration(given, ticket.number, self._place.threads, self._place.device)
        if self._plan.study.population_based is None:
            return configuration
        schedule = first_schedule(self._plan, given) if ticket.schedule is None else numbered(ticket.schedule)
        seed = configuration.seed if ticket.seed is None else ticket.seed
        return configuration.model_copy(update={"schedule": schedule, "seed": seed})

    def _adopt(self, folder: TrialFolder, configuration: Configuration) -> None:
        """Take the state of another member, if this training is to go on from one; without it, it starts anew."""
        try:
            folder.adopt(configuration.schedule, configuration.seed)
        except (OSError, ValueError) as error:
            print(f"the state in {folder.path} was not taken: {error}", file=sys.stderr, flush=True)

    def _unless_stopped(self, outcome: Outcome) -> Outcome:
        """A trial that fails once the search is asked to stop is lost, and is trained again.

        What asks a job to stop, such as Slurm, often asks all of its processes: those that load data, and those that
        user code has started, end at once, and fail their trial.
        """
        if outcome.state != "failed" or not self._deadlines.was_asked_to_stop():
            return outcome
        reason = f"failed after the search was asked to stop: {outcome.reason}"
        return replace(outcome, state="lost", reason=shortened(reason, REASON_LIMIT))

    def _remove_files(self, ticket: Ticket, folder: TrialFolder, state: str, losses: tuple[float, ...] | None) -> None:
        """Remove what does not stay of a trial that has ended; to be called before it joins the population."""
        number, study = ticket.number, self._plan.study
        is_paused = self._pauses is not None and state == "pruned"
        is_complete = state == "complete" and losses is not None
        stays = is_complete and (
            not study.keeps_only_incumbents_weights or self._island.population.is_nondominated(number, losses or ())
        )
        try:
            if state != "lost" and not is_paused and study.checkpoint is not None and study.writes_checkpoints:
                folder.settle(study.checkpoint.keep)
            if study.calls_function and state != "lost" and (ticket.attempt or self._deadlines.saves):
                folder.remove_checkpoints()
            if study.keeps_weights and not stays:
                folder.remove_weights()
        except OSError as error:  # no reason to end a search
            print(f"files stay in {folder.path}: {error}", file=sys.stderr, flush=True)

    def _prunes(self) -> Callable[[Progress], bool] | None:
        if self._pauses is not None:
            return self._pauses.pauses
        return None if self._pruner is None else self._pruner.prunes

    def _next_ticket(self, ticket: Ticket, candidate: Candidate, configuration: Configuration) -> Ticket:
        """Continues a paused trial."""
        assert self._pauses is not None
        home = self._place.island if ticket.home is None else ticket.home
        return Ticket(
            ticket.number,
            ticket.attempt + 1,
            candidate.hyperparameters,
            candidate.as_dict(),
            reached=self._pauses.reached,
            home=home,
            schedule=configuration.schedule,
            seed=None if configuration.schedule is None else configuration.seed,
        )

    def _tell_result(
        self,
        ticket: Ticket,
        candidate: Candidate,
        outcome: Outcome,
        losses: tuple[float, ...] | None,
        curve: dict[int, float],
    ) -> None:
        """Give a trial's result to the population, or to those that know an earlier one of it."""
        self._heard.add(Kind.ENDED)
        is_complete = outcome.state == "complete"
        if candidate.is_outside:
            return
        if ticket.home is not None:
            if outcome.state != "lost":
                self._island.renew(Renewal(ticket.number, ticket.attempt, losses, is_complete, curve))
        elif losses is None:
            self._island.drop(ticket.number)
        else:
            self._island.add(self._individual(ticket, candidate, is_complete, losses, curve))

    def _individual(
        self,
        ticket: Ticket,
        candidate: Candidate,
        is_complete: bool,
        losses: tuple[float, ...],
        curve: dict[int, float],
    ) -> Individual:
        return Individual(
            number=ticket.number,
            attempt=ticket.attempt,
            genes=tuple(candidate.proposal.genes[name] for name in self._plan.space.limits()),
            losses=losses,
            island=self._place.island,
            home=self._island.rank,
            is_complete=is_complete,
            attributes=candidate.proposal.attributes,
            curve=curve,
        )

    def _is_best(self, method: str, outcome: Outcome, losses: Sequence[float] | None) -> bool:
        """Whether a trial is this worker's best of its method so far; only such trials keep their traces."""
        if outcome.state != "complete" or not losses or (method in self._best and losses[0] >= self._best[method]):
            return False
        self._best[method] = losses[0]
        return True

    def _tell_failure(self, number: int, hyperparameters: dict[str, Any]) -> None:
        """Keep all roots from evaluating a failed configuration again unchanged."""
        self._candidates.failed(key(hyperparameters))
        self._roots.send_to(self._roots.others(), (number, key(hyperparameters)), FAILED)

    # Between and during trials.

    def _serve(self) -> None:
        self._budget.serve()
        self._stopping.serve()  # before tickets are given out
        self._office.serve()
        if (now := time.monotonic()) - self._received > self.RECEIVE_INTERVAL:
            self._received = now
            self._receive()
        self._candidates.prepare(self._office.prefetched, self._receive)

    def _wait(self, condition: Callable[[], bool]) -> None:
        patience = Patience(spin=False)
        while not condition():
            self._beat()
            self._serve()
            patience.pause()

    def _receive(self) -> None:
        self._island.receive()
        if self._pruner is not None:
            self._pruner.receive()
        while (message := self._roots.take(FAILED)) is not None:
            number, configuration_key = message[1]
            self._heard.add(Kind.FAILED, number)
            self._candidates.failed(configuration_key)
        if self._other_launchers is not None:
            self._other_launchers.receive()

    def _finish(self) -> None:
        """Wait for the other roots, serving them until all have finished, and receive the last messages."""
        if self._other_launchers is not None:
            self._other_launchers.end()
        self._worker.dismiss(self._serve)
        self._wait(self._sent_all)
        all_have_finished = self._roots.start_barrier()
        self._wait(lambda: self._received_and(all_have_finished))
        self._receive()
        self._journal.close()

    def _sent_all(self) -> bool:
        return self._received_and(lambda: self._roots.all_sent() and self._island.all_sent())

    def _received_and(self, condition: Callable[[], bool]) -> bool:
        self._receive()
        return condition()


def _journal(
    folder: StudyFolder,
    launch: int,
    places: Sequence[Place],
    past: resume.Past,
    events: Sequence[Event],
    change: int,
    heard: Notes,
) -> SearchJournal:
    root = places[0]
    num_started = sum(trial.worker == root.worker for trial in past.trials.values())
    starts = (event for event in reversed(events) if isinstance(event, StudyStarted | StudyChanged))
    provenance = next((start.provenance for start in starts), None)
    lines = JournalWriter(folder.root_journal(root.world_rank, launch), launch)
    return SearchJournal(lines, places, num_started, provenance, change, heard)


def _paused(
    plan: Plan, folder: StudyFolder, events: Sequence[Event], past: resume.Past
) -> tuple[promotion.Paused | None, dict[int, float]]:
    """The trials that have paused, and what they have reached; none if trials do not pause."""
    return pausing.restored(plan, folder, events, past) if plan.study.pauses_trials else (None, {})


def _tickets(
    plan: Plan,
    folder: StudyFolder,
    past: resume.Past,
    given: Sequence[Given],
    num_islands: int,
    reached: dict[int, float],
    shared: SharedStudy | None,
) -> TicketSource:
    """Those of interrupted trials, of finished ones that are to be longer, then new ones."""
    first = [hyperparameters for hyperparameters, _ in given]
    if shared is not None:
        return shared.tickets(lambda ticket: past.filled(ticket, first))
    longer = Extension.of(plan.study, plan.length, folder, past).tickets(plan, num_islands, reached)
    return GivenTickets(past.tickets(plan.study.trials, first, num_islands=num_islands, reached=reached, longer=longer))


def _budget(study: Study, roots: Mailbox, past: resume.Past) -> BusyBudget:
    seconds = None if study.busy_seconds is None else study.busy_seconds - past.worker_seconds()
    return BusyBudget(roots, seconds)
