"""The journal of one worker's root: the events of the search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from atoll.platform.search.heard import Notes
from atoll.platform.search.proposals import Candidate
from atoll.platform.study.configuration import Configuration
from atoll.platform.study.topology import Place
from atoll.platform.trial.outcome import Outcome
from atoll.platform.trial.progress import Progress
from atoll.storage.events import (
    Event,
    Migrated,
    ProposalRefused,
    Proposed,
    RankPlaced,
    TrialKey,
    TrialStarted,
    WorkerFinished,
)
from atoll.storage.journal import JournalWriter


class SearchJournal:
    """Writes the events of one root.

    Args:
        lines: the journal's file.
        places: the places of the worker's ranks, the root's first.
        num_started: number of trials that the worker has started before a resume.
        provenance: the version of the study's provenance.
        change: the number of the study's last change.
        heard: what the root hears. Default: nothing is noted.
    """

    def __init__(
        self,
        lines: JournalWriter,
        places: Sequence[Place],
        num_started: int,
        provenance: int | None = None,
        change: int = 0,
        heard: Notes | None = None,
    ) -> None:
        self._lines = lines
        self._heard = Notes() if heard is None else heard
        self._places = places
        self._place = places[0]
        self._generation = num_started
        self._provenance = provenance
        self._change = change
        self._is_oversubscribed = any(place.oversubscribed for place in places)

    def ranks_placed(self) -> None:
        """The worker's ranks are placed."""
        for place in self._places:
            self._lines.append(
                RankPlaced(
                    world_rank=place.world_rank,
                    island=place.island,
                    worker=place.worker,
                    rank=place.rank,
                    node=place.node,
                    hostname=place.hostname,
                    device=place.device,
                    threads=place.threads,
                    process=place.process,
                    processor=place.processor,
                    cores=place.cores,
                    oversubscribed=place.oversubscribed,
                    started_as=place.started_as,
                )
            )

    def trial_started(
        self, key: TrialKey, configuration: Configuration, candidate: Candidate, home: int | None = None
    ) -> None:
        """A trial starts, or continues that was bred on the island `home`."""
        number, attempt = key
        self._lines.append(
            TrialStarted(
                number=number,
                attempt=attempt,
                island=self._place.island,
                worker=self._place.worker,
                generation=self._generation,
                seed=configuration.seed,
                host=self._place.hostname,
                oversubscribed=self._is_oversubscribed,
                hyperparameters=candidate.hyperparameters,
                configuration=configuration.model_dump(),
                proposal=candidate.as_dict(),
                provenance=self._provenance,
                home=home,
                change=self._change,
                heard=self._heard.take(number),
            )
        )
        self._generation += 1

    def progress(self, key: TrialKey, progress: Progress) -> None:
        """A trial reports."""
        self._lines.append(progress.as_event(*key))

    def trial_ended(self, key: TrialKey, outcome: Outcome, objectives: Sequence[float], worker_seconds: float) -> None:
        """A trial ends; the line is synced to disk if the trial took longer than a second."""
        several = objectives if len(objectives) > 1 else None
        event = outcome.as_event(*key, objectives=several, worker_seconds=worker_seconds)
        if self._heard.has_judged:  # other ends need no note: the worker's next line has it
            event = event.model_copy(update={"heard": self._heard.take(key[0])})
        self._lines.append(event, sync=outcome.seconds > 1.0)

    def prepared(self, number: int, hyperparameters: dict[str, Any], proposal: dict[str, Any]) -> None:
        """A candidate is ready for a trial that has not started."""
        self._lines.append(
            Proposed(
                number=number,
                hyperparameters=hyperparameters,
                proposal=proposal,
                change=self._change,
                heard=self._heard.take(number),
            )
        )

    def infeasible(self, number: int, candidate: Candidate) -> None:
        """Infeasible proposals preceded a candidate."""
        for proposal in candidate.infeasible:
            self._lines.append(
                ProposalRefused(
                    number=number,
                    hyperparameters=proposal.hyperparameters,
                    reason=proposal.reason,
                    genes=proposal.genes,
                    attributes=proposal.attributes,
                )
            )

    def migrated(self, number: int, to_island: int, steps: int) -> None:
        """An individual, after so many migrations, is sent to another island."""
        self._lines.append(Migrated(number=number, from_island=self._place.island, to_island=to_island, steps=steps))

    def stopping(self, event: Event) -> None:
        """A rule of `stop` was evaluated or is met; synced to disk."""
        self._lines.append(event, sync=True)

    def close(self) -> None:
        """Write the last line; sync and close the file."""
        self._lines.append(WorkerFinished(heard=self._heard.take()))
        self._lines.close()
