"""What a study's journals say of its past."""

import json
import pickle

import journals
import pytest

from atoll.platform.search import resume
from atoll.platform.search.proposals import proposal_of
from atoll.platform.search.tickets import Ticket
from atoll.storage import launches
from atoll.storage.events import (
    LauncherJoined,
    ProposalRefused,
    Proposed,
    Restarted,
    StudyChanged,
    StudyStarted,
    WorkerFinished,
)
from atoll.storage.journal import JournalWriter

DEFAULT = {"B": 4}


def past(folder):
    return resume.read(launches.replay(folder.journals))


def test_a_fresh_study_starts_with_the_default_candidate(tmp_path):
    folder = journals.start_folder(tmp_path)
    assert list(past(folder).tickets(3, [DEFAULT])) == [Ticket(0, 0, DEFAULT), Ticket(1), Ticket(2)]


def test_lost_trials_come_again_and_the_budget_counts_those_that_ended(tmp_path):
    folder = journals.start_folder(tmp_path)
    lines = JournalWriter(folder.root_journal(0))
    for number in range(4):
        journals.start_trial(lines, number)
    journals.end_trial(lines, 0, 0.9)
    journals.end_trial(lines, 1, None)
    journals.end_trial(lines, 2, None, state="lost")
    found = past(folder)
    assert [trial.number for trial in found.running()] == [3]
    assert found.num_budgeted() == 2
    tickets = list(found.tickets(6, [DEFAULT]))
    assert [(t.number, t.attempt) for t in tickets] == [(2, 1), (3, 1), (4, 0), (5, 0)]
    assert tickets[0].hyperparameters == {"B": 3, "learning_rate": 0.1 / 3}


def test_a_pruned_trial_uses_up_budget_and_is_not_tried_again(tmp_path):
    folder = journals.start_folder(tmp_path)
    lines = JournalWriter(folder.root_journal(0))
    journals.start_trial(lines, 0)
    journals.end_trial(lines, 0, None, state="pruned", curve={"1": 0.5})
    assert past(folder).num_budgeted() == 1
    assert list(past(folder).tickets(2, [DEFAULT])) == [Ticket(1)]
    assert past(folder).used_up(1, None)


def test_a_continued_trial_counts_once_and_if_it_is_lost_it_still_continues_its_result(tmp_path):
    """By attempts, not by times: the clocks of hosts differ."""
    folder = journals.start_folder(tmp_path)
    here, there = JournalWriter(folder.root_journal(0)), JournalWriter(folder.root_journal(1))
    for number in range(3):
        journals.start_trial(here, number, island=1)
    journals.start_trial(there, 0, attempt=1, island=0, home=1)  # before the line of what it continues
    for number in range(3):
        journals.end_trial(here, number, None, state="pruned", curve={"1": 0.5}, busy_seconds=2.0)
    found = past(folder)
    assert [trial.key for trial in found.running()] == [(0, 1)]
    assert [trial.number for trial in found.counted()] == [1, 2]
    assert (found.num_budgeted(), found.worker_seconds()) == (2, 6.0)
    journals.end_trial(there, 0, None, attempt=1, state="lost")
    (ticket,) = past(folder).tickets(3, [DEFAULT], num_islands=2, reached={0: 1.0})
    assert (ticket.number, ticket.attempt, ticket.reached, ticket.home) == (0, 2, 1.0, 1)
    (ticket,) = past(folder).tickets(3, [DEFAULT], num_islands=1)
    assert ticket.home == 0  # there are fewer islands now
    journals.start_trial(there, 0, attempt=2)
    journals.end_trial(there, 0, 0.5, attempt=2)
    assert past(folder).num_budgeted() == 3
    assert {trial.key for trial in past(folder).counted()} == {(0, 2), (1, 0), (2, 0)}
    assert list(past(folder).tickets(3, [DEFAULT])) == []


def test_a_retried_trial_is_counted_once(tmp_path):
    folder = journals.start_folder(tmp_path)
    lines = JournalWriter(folder.root_journal(0))
    journals.start_trial(lines, 0)
    journals.end_trial(lines, 0, None, state="lost")
    journals.start_trial(lines, 0, attempt=1)
    journals.end_trial(lines, 0, 0.5, attempt=1)
    assert list(past(folder).tickets(2, [DEFAULT])) == [Ticket(1)]


def test_what_migrants_have_visited_is_known_to_fewer_islands(tmp_path):
    folder = journals.start_folder(tmp_path)
    lines = JournalWriter(folder.root_journal(0))
    lines.append(journals.event("migrated", {"number": 7, "from_island": 4, "to_island": 2}))
    lines.append(journals.event("migrated", {"number": 7, "from_island": 2, "to_island": 3}))
    assert past(folder).visited(5) == {7: {2, 3, 4}}
    assert past(folder).visited(3) == {7: {0, 1, 2}}


def test_individuals_live_where_they_have_moved(tmp_path):
    folder = journals.start_folder(tmp_path)
    lines = JournalWriter(folder.root_journal(0))
    for number in range(4):  # bred on islands 0, 1, 0, 1
        journals.start_trial(lines, number)
        journals.end_trial(lines, number, 0.5)
    lines.append(journals.event("migrated", {"number": 0, "from_island": 0, "to_island": 1}))

    def numbers(island, pollination, num_islands=2):
        return [t.number for t in past(folder).individuals(island, num_islands, pollination)]

    assert numbers(0, pollination=False) == [2]
    assert numbers(1, pollination=False) == [0, 1, 3]
    assert numbers(0, pollination=True) == [0, 2]
    assert numbers(0, pollination=True, num_islands=1) == [0, 1, 2, 3]


def test_individuals_that_return_live_where_their_last_move_led(tmp_path):
    """Whatever the order of the journals' times, which are those of several hosts; nobody is in two places."""
    folder = journals.start_folder(tmp_path)
    lines = JournalWriter(folder.root_journal(0))
    journals.start_trial(lines, 0)  # bred on island 0
    journals.end_trial(lines, 0, 0.5)
    moves = [(0, 1), (1, 0), (0, 2), (2, 1), (1, 0)]
    for steps in (3, 1, 4, 2, 0):
        origin, target = moves[steps]
        fields = {"number": 0, "from_island": origin, "to_island": target, "steps": steps}
        lines.append(journals.event("migrated", fields))
    found = past(folder)
    assert [len(found.individuals(island, 3, pollination=False)) for island in range(3)] == [1, 0, 0]
    assert [len(found.individuals(island, 2, pollination=False)) for island in range(2)] == [1, 0]
    assert found.steps(0) == 5
    departures = [sorted(found.departures(island, 3)) for island in range(3)]
    assert departures == [[(0, 0), (0, 2)], [(0, 1), (0, 4)], [(0, 3)]]


def test_moves_of_older_versions_are_counted_in_the_order_of_their_times(tmp_path):
    folder = journals.start_folder(tmp_path)
    lines = JournalWriter(folder.root_journal(0))
    journals.start_trial(lines, 0)
    journals.end_trial(lines, 0, 0.5)
    for origin, target in ((0, 2), (2, 1)):
        lines.append(journals.event("migrated", {"number": 0, "from_island": origin, "to_island": target}))
    lines.append(journals.event("migrated", {"number": 0, "from_island": 1, "to_island": 0, "steps": 2}))
    found = past(folder)
    assert [len(found.individuals(island, 3, pollination=False)) for island in range(3)] == [1, 0, 0]
    assert found.steps(0) == 3
    assert found.steps(1) == 0


def test_without_a_number_of_trials_tickets_do_not_end(tmp_path):
    tickets = past(journals.start_folder(tmp_path)).tickets(None, [DEFAULT])
    assert [next(tickets).number for _ in range(5)] == [0, 1, 2, 3, 4]


def test_seconds_add_up_over_starts(tmp_path):
    folder = journals.start_folder(tmp_path)
    lines = [("study_started", 100.0), ("study_ended", 107.0), ("study_started", 500.0), ("study_ended", 501.5)]
    text = "".join(json.dumps({"event": event, "time": time, "state": "stopped"}) + "\n" for event, time in lines)
    folder.launcher_journal().write_text(text)
    found = past(folder)
    assert found.seconds == 8.5
    assert found.used_up(None, 8.0)
    assert not found.used_up(1, 9.0)


def test_seconds_of_launchers_side_by_side_count_once():
    finished = WorkerFinished(time=0.0, elapsed=50.0)
    launches_one_after_another = [
        StudyStarted(time=100.0, elapsed=0.0),
        finished,
        LauncherJoined(time=130.0, elapsed=0.0, launcher=2, hostname="h", process=7, num_ranks=1, num_workers=1),
        finished.model_copy(update={"elapsed": 40.0}),  # until 170
        Restarted(time=160.0, elapsed=0.0, reason="killed"),  # of the first one
        finished.model_copy(update={"elapsed": 20.0}),  # until 180
    ]
    assert resume.read(launches_one_after_another[:2]).seconds == 50.0
    assert resume.read(launches_one_after_another[:4]).seconds == 70.0
    assert resume.read(launches_one_after_another).seconds == 80.0


def test_lines_that_are_incomplete_are_passed_over(tmp_path):
    folder = journals.start_folder(tmp_path)
    lines = JournalWriter(folder.root_journal(0))
    with folder.root_journal(0).open("a") as file:
        for event in ("trial_ended", "trial_lost", "trial_started", "migrated"):
            file.write(json.dumps({"event": event, "time": 0.0}) + "\n")
    journals.start_trial(lines, 0)
    assert [trial.number for trial in past(folder).running()] == [0]


@pytest.mark.parametrize("name", ["generation", "host", "oversubscribed", "proposal"])
def test_a_trial_is_not_lost_for_a_field_that_nothing_needs(tmp_path, name):
    folder = journals.start_folder(tmp_path)
    lines = JournalWriter(folder.root_journal(0))
    journals.start_trial(lines, 0, proposal={})
    without(folder.root_journal(0), name)
    assert [trial.number for trial in past(folder).running()] == [0]
    assert next(past(folder).tickets(1, [DEFAULT])).attempt == 1


@pytest.mark.parametrize("name", ["number", "worker", "hyperparameters", "configuration"])
def test_a_line_that_lacks_what_is_needed_is_counted_and_told(tmp_path, name):
    folder = journals.start_folder(tmp_path)
    journals.start_trial(JournalWriter(folder.root_journal(0)), 0)
    without(folder.root_journal(0), name)
    problems = []
    assert resume.read(launches.replay(folder.journals, problems)).trials == {}
    (problem,) = problems
    assert problem.startswith(f"ignored 1 invalid line of {folder.root_journal(0)}; the first: ")
    assert f"needs the field '{name}'" in problem


def without(path, name):
    """Take a field out of every line of a journal."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({k: v for k, v in line.items() if k != name}) + "\n" for line in lines))


def test_a_clock_that_steps_back_changes_nothing(tmp_path):
    folder = journals.start_folder(tmp_path)
    lines = JournalWriter(folder.root_journal(0))
    journals.start_trial(lines, 0)
    journals.end_trial(lines, 0, 0.5)
    path = folder.root_journal(0)
    _, first, second = [json.loads(line) for line in path.read_text().splitlines()]
    second["time"] = first["time"] - 3600
    path.write_text(json.dumps(first) + "\n" + json.dumps(second) + "\n")
    assert past(folder).running() == []
    assert past(folder).num_budgeted() == 1


def test_what_has_ended_is_not_lost(tmp_path):
    folder = journals.start_folder(tmp_path)
    lines = JournalWriter(folder.root_journal(0))
    journals.start_trial(lines, 0)
    journals.end_trial(lines, 0, 0.5)
    lines.append(journals.event("trial_lost", {"number": 0, "attempt": 0, "reason": "seen too late"}))
    assert past(folder).num_budgeted() == 1


def test_a_number_that_was_given_out_and_not_started_is_given_out_again(tmp_path):
    folder = journals.start_folder(tmp_path)
    lines = JournalWriter(folder.root_journal(0))
    for number in (0, 2):
        journals.start_trial(lines, number)
        journals.end_trial(lines, number, 0.5)
    assert [ticket.number for ticket in past(folder).tickets(4, [DEFAULT])] == [1, 3]


class Exploit:
    def __reduce__(self):
        return print, ("run by a pickle",)


@pytest.mark.parametrize("state", [None, "lost", "complete"])
@pytest.mark.parametrize("decoy", [{}, {"a:optimizer:0": pickle.dumps(None).hex()}])
def test_no_pickle_of_a_journal_reaches_a_sampler(tmp_path, state, decoy):
    folder = journals.start_folder(tmp_path)
    lines = JournalWriter(folder.root_journal(0))
    attributes = decoy | {"cma:optimizer:0": pickle.dumps(Exploit()).hex(), "cma:generation": 1}
    proposal = {"genes": {"B": 0.5}, "operator": "optuna-cmaes", "parents": [], "sources": {}, "seconds": 0.1}
    proposal |= {"attributes": attributes}
    journals.start_trial(lines, 0, proposal=proposal)
    if state is not None:
        journals.end_trial(lines, 0, 0.5 if state == "complete" else None, state=state)
    lines.append(Proposed(number=1, hyperparameters={}, proposal=proposal))
    refused = {"genes": {"B": 0.5}, "attributes": attributes}
    lines.append(ProposalRefused(number=2, **refused))
    found = past(folder)
    kept = [found.trials[0, 0].proposal, found.proposed[1].proposal, vars(found.infeasible[2][0])]
    assert [content["attributes"] for content in kept] == [{"cma:generation": 1}] * 3
    assert not any("optimizer" in str(ticket.proposal) for ticket in found.tickets(3, []))
    told = list(found.warnings())
    assert told[0].startswith("ignored 3 pickled CMA-ES optimizers, such as version 0.1.0 wrote: no pickle is read")
    assert len(told) == 1 + bool(decoy)
    assert all("does not know, or that have another type: 'a:optimizer:0'" in text for text in told[1:])


@pytest.mark.parametrize(
    ("name", "value"),
    [("genes", {"B": "x"}), ("genes", [1]), ("operator", 1), ("parents", [None]), ("sources", {"B": {}}),
     ("attributes", []), ("seconds", "long"), ("from_later", 1)],
)  # fmt: skip
def test_a_proposal_has_known_fields_of_known_types(tmp_path, name, value):
    folder = journals.start_folder(tmp_path)
    lines = JournalWriter(folder.root_journal(0))
    journals.start_trial(lines, 0, proposal={"operator": "random", "genes": {"B": 0.5}} | {name: value})
    found = past(folder)
    assert name not in found.trials[0, 0].proposal
    (told,) = found.warnings()
    assert told.endswith(f"have another type: '{name}'")
    (ticket,) = found.tickets(1, [])
    proposal = proposal_of({"genes": {"B": 0.5}} | ticket.proposal)
    assert proposal.genes == {"B": 0.5}
    assert proposal.operator == ("unknown" if name == "operator" else "random")


def changed(number, *settings):
    return StudyChanged(
        number=number,
        requested=1.0,
        settings=[{"setting": setting, "before": 1, "after": 2, "said": ""} for setting in settings],
        first_trial=0,
        definition={},
    )


def test_proposals_of_before_another_space_or_sampler_are_of_another_time(tmp_path):
    found = resume.read([changed(1, "trials"), changed(2, "space.x", "stop"), changed(3, "seconds")])
    assert [found.is_current(change) for change in range(5)] == [False, False, True, True, False]
    assert not resume.read([changed(1, "sampler")]).is_current(0)
    assert resume.read([changed(1, "stop")]).is_current(0)


@pytest.mark.parametrize(("change", "is_used"), [(0, False), (1, True)])
def test_a_candidate_that_was_prepared_before_a_change_is_not_used(change, is_used):
    prepared = Proposed(number=4, hyperparameters={"B": 7}, proposal={"genes": {"B": 0.5}}, change=change)
    found = resume.read([prepared, changed(1, "space.B")])
    expected = Ticket(4, 0, {"B": 7}, {"genes": {"B": 0.5}}) if is_used else Ticket(4)
    assert found.filled(Ticket(4), [DEFAULT]) == expected
    assert (
        found.filled(Ticket(4, 0, {"B": 7}, {"genes": {"B": 0.5}}), [DEFAULT]) == expected
    )  # as a log of tickets has it
