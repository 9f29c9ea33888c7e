"""Ends the trials of a launch that is over, and queues them again for whoever searches the study."""

from __future__ import annotations

from collections.abc import Callable, Collection

from atoll.platform.launch import lifecycle
from atoll.platform.search import pausing
from atoll.platform.search.resume import BUDGETED, PastTrial
from atoll.platform.search.shared_tickets import TicketLog
from atoll.platform.search.tickets import Ticket
from atoll.platform.study.plan import Plan
from atoll.storage import launches
from atoll.storage.events import TrialKey
from atoll.storage.folder import StudyFolder
from atoll.storage.journal import JournalWriter


def close(
    plan: Plan,
    folder: StudyFolder,
    log: TicketLog,
    launch: int,
    lines: JournalWriter,
    reason: str,
    is_suspected: Callable[[PastTrial], bool],
) -> None:
    """Close a launch. To be called in a turn.

    Args:
        plan, folder: the study and its files.
        log: the log of tickets.
        launch: the launch.
        lines: the journal that closes the launch's journals.
        reason: why its running trials are lost.
        is_suspected: whether a trial may be why.
    """
    started = launches.started_in(folder.journals, {launch})
    history = lifecycle.mark_lost(folder, lines, reason, is_suspected, of=started)
    log.close([launch], lambda: _unfinished(plan, folder, log.book.held.get(launch, {}), started, history))


def _unfinished(
    plan: Plan,
    folder: StudyFolder,
    held: dict[TrialKey, Ticket],
    started: Collection[TrialKey],
    history: lifecycle.History,
) -> list[Ticket]:
    """The tickets of what a launch has taken, or promoted, and not finished.

    Args:
        plan, folder: the study and its files.
        held: the tickets that it has taken.
        started: the attempts that its ranks have started.
        history: what was searched.
    """
    past, study = history.past, plan.study
    reached = {number: ticket.reached for (number, _), ticket in held.items()}
    if study.pauses_trials:
        of_results = pausing.restored(plan, folder, history.events, past)[1]
        reached |= {number: max(value, reached.get(number, 0.0)) for number, value in of_results.items()}
    begun = [trial for key in sorted({*held, *started}) if (trial := past.trials.get(key)) is not None]
    lost = [trial for trial in begun if trial.state not in BUDGETED and trial.attempt == past.newest[trial.number]]
    retries = [past.retry(trial, study.topology.islands, reached.get(trial.number, 0.0)) for trial in lost]
    return [*retries, *(past.filled(ticket, ()) for key, ticket in held.items() if key not in past.trials)]
