"""The search, as the root of one worker runs it: our loop over Propulate's operators.

Tickets come in, individuals are bred and evaluated by the worker, every event becomes a journal line, and the island
exchanges what it has found.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from atoll.methods.communicator import Patience
from atoll.platform import registry, resume
from atoll.platform.configuration import Configuration
from atoll.platform.island import Founder, Individual, Island
from atoll.platform.mailbox import Mailbox
from atoll.platform.study import Study
from atoll.platform.tickets import Ticket, TicketOffice
from atoll.platform.trial import Progress
from atoll.platform.worker import Outcome, Stopped, TrialTimeout, Worker, as_fields
from atoll.searchspaces.space import SearchSpace
from atoll.storage import journal
from atoll.storage.folder import StudyFolder
from atoll.storage.journal import JournalWriter

FAILED = 13


class Root:
    """The search as the root of one worker runs it.

    Args:
        study: what to search.
        folder: where its journals are.
        worker: whose root this is.
        roots, island: mailboxes between all roots, and between those of this island.
        island_sizes: workers of every island.
    """

    STOP_CHECK_INTERVAL = 0.5
    # How often a failed configuration is bred before a random one takes its place.
    NUM_BREEDINGS = 10

    def __init__(
        self,
        study: Study,
        folder: StudyFolder,
        worker: Worker,
        roots: Mailbox,
        island: Mailbox,
        island_sizes: Sequence[int],
    ) -> None:
        self._study = study
        self._folder = folder
        self._worker = worker
        self._place = worker.place
        self._roots = roots
        self._space = study.search_space()
        self._sign = -1.0 if registry.workload(study.workload).direction == "maximize" else 1.0
        past = resume.read(journal.replay(folder.journals))
        self._journal = JournalWriter(folder.root_journal(self._place.world_rank))
        self._started = time.monotonic()
        self._trial_started = self._started
        self._seconds_left = None if study.seconds is None else study.seconds - past.seconds
        self._stop_checked = 0.0
        self._stop_asked = False
        self._office = TicketOffice(
            roots, past.tickets(study.trials, self._space.default()), open_=lambda: not self._over()
        )
        self._beat = worker.serve
        worker.serve = self._serve
        worker.interrupt = self._interrupt
        self._failures = {_key(hyperparameters) for hyperparameters in past.failed()}
        self._island = Island(
            sampler=study.sampler,
            population=study.population(),
            limits=self._space.limits(),
            island_sizes=island_sizes,
            index=self._place.island,
            workers=island,
            roots=roots,
            # A resumed search must not repeat the random stream of its first start.
            seed=(study.seed * 1_000_003 + len(past.trials)) * 1_000_003 + roots.rank,
            founders=_founders(past, self._place.island, len(island_sizes), study, self._space, self._sign),
            on_emigration=self._note_emigration,
        )

    def run(self) -> None:
        """Evaluate tickets until there are none."""
        for place in self._worker.places:
            self._journal.append("host", asdict(place))
        self._roots.comm.Barrier()  # nobody writes before everybody has read the journals
        while (ticket := self._office.take(self._wait)) is not None and not self._over():
            self._office.ask()
            self._evaluate(ticket)
        self._finish()

    def _breed(self, ticket: Ticket) -> tuple[Individual, dict[str, Any]]:
        """An individual and its hyperparameters: the ticket's, or new ones that have not failed before."""
        if ticket.hyperparameters is not None:
            return self._island.settle(self._space.encode(ticket.hyperparameters)), ticket.hyperparameters
        for _ in range(self.NUM_BREEDINGS):
            individual = self._island.breed()
            hyperparameters = self._decode(individual)
            if _key(hyperparameters) not in self._failures:
                return individual, hyperparameters
        individual = self._island.draw()
        return individual, self._decode(individual)

    def _decode(self, individual: Individual) -> dict[str, Any]:
        return self._space.decode({name: individual[name] for name in self._space.limits()})

    def _evaluate(self, ticket: Ticket) -> None:
        individual, hyperparameters = self._breed(ticket)
        configuration = self._study.configuration(
            hyperparameters, ticket.number, self._place.threads, self._place.device
        )
        key = {"number": ticket.number, "attempt": ticket.attempt}
        self._note_start(key, individual.generation, configuration, hyperparameters)
        self._trial_started = time.monotonic()
        outcome = self._worker.evaluate(configuration, lambda progress: self._report(key, progress))
        self._note_end(key, outcome)
        if outcome.state == "failed":
            self._remember_failure(hyperparameters)
        if outcome.state == "complete" and outcome.objective is not None:
            self._island.add(individual, ticket.number, self._sign * outcome.objective, outcome.seconds)
        self._island.exchange()
        self._learn_failures()

    def _report(self, key: dict[str, int], progress: Progress) -> None:
        self._journal.append("progress", key | as_fields(progress))

    def _remember_failure(self, hyperparameters: dict[str, Any]) -> None:
        """Keep this root, and all others, from breeding a failed configuration again unchanged."""
        self._failures.add(_key(hyperparameters))
        for root in range(self._roots.size):
            if root != self._roots.rank:
                self._roots.send(_key(hyperparameters), root, FAILED)

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
        return self._stopping() or (left is not None and time.monotonic() - self._started >= left)

    def _note_start(
        self, key: dict[str, int], generation: int, configuration: Configuration, hyperparameters: dict[str, Any]
    ) -> None:
        fields = {
            "island": self._place.island,
            "worker": self._place.worker,
            "generation": generation,
            "seed": configuration.seed,
            "host": self._place.hostname,
            "hyperparameters": hyperparameters,
            "configuration": configuration.model_dump(),
        }
        self._journal.append("trial_started", key | fields)

    def _note_end(self, key: dict[str, int], outcome: Outcome) -> None:
        self._journal.append("trial_ended", key | asdict(outcome), sync=outcome.seconds > 1.0)

    def _note_emigration(self, number: int, to_island: int) -> None:
        fields = {"number": number, "from_island": self._place.island, "to_island": to_island}
        self._journal.append("migrated", fields)

    def _stopping(self) -> bool:
        if not self._stop_asked and time.monotonic() - self._stop_checked > self.STOP_CHECK_INTERVAL:
            self._stop_checked = time.monotonic()
            self._stop_asked = self._folder.stop_request.exists()
        return self._stop_asked

    def _serve(self) -> None:
        self._beat()
        self._office.serve()

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
        self._island.exchange(emigrate=False)
        self._learn_failures()

    def _learn_failures(self) -> None:
        while (message := self._roots.take(FAILED)) is not None:
            self._failures.add(message[1])


def _key(hyperparameters: dict[str, Any]) -> str:
    return json.dumps(hyperparameters, sort_keys=True)


def _founders(
    past: resume.Past, island: int, num_islands: int, study: Study, space: SearchSpace, sign: float
) -> list[Founder]:
    founders = []
    for trial in past.population(island, num_islands, study.sampler.pollination):
        try:
            genes = space.encode(trial.hyperparameters)
        except ValueError:
            continue  # bred in a wider space
        founders.append(Founder(trial.number, genes, sign * float(trial.objective or 0.0)))
    return founders
