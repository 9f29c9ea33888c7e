"""Several launchers of one study, in one process: who may come, who leads, what becomes of the trials of the dead."""

import json
import os
import threading
import time

import journals
import pytest

from atoll.platform.launch import lifecycle
from atoll.platform.launch.ask_tell import AskTell
from atoll.platform.launch.errors import AlreadyComplete, LaunchError
from atoll.platform.launch.membership import Membership
from atoll.platform.search.launch_settings import LaunchSettings
from atoll.platform.search.shared_tickets import LaunchClosed, SharedTickets
from atoll.platform.search.tickets import Ticket
from atoll.platform.trial.outcome import Outcome
from atoll.storage import launches, liveness
from atoll.storage.events import TrialLost
from atoll.storage.journal import JournalWriter
from atoll.storage.lock import Locked

pytestmark = pytest.mark.process  # git is asked for the state of the code


@pytest.fixture
def enter(plan_of, tmp_path, monkeypatch):
    """Lets a launcher enter; what has not left is released."""
    monkeypatch.setattr(Membership, "DEATHS_INTERVAL", 0.0)
    monkeypatch.setattr(Membership, "LEAD_INTERVAL", 0.0)
    entered = []

    def one(resuming=None, **content):
        member = Membership.enter(
            plan_of(**{"trials": 6} | content), f"sqlite:///{tmp_path}/atoll.db", resuming=resuming
        )
        entered.append(member)
        return member

    yield one
    for member in entered:
        member.release()


def tickets_of(member):
    return SharedTickets(member.settings.log(member.folder), member.launch)


def train(member, ticket, *, ends=True):
    """Write a trial's lines."""
    root = member.folder.root_journal(member.member.first_rank, member.launch)
    lines = JournalWriter(root, member.launch)
    journals.start_trial(lines, ticket.number, ticket.attempt, island=0, worker=member.member.first_worker)
    if ends:
        journals.end_trial(lines, ticket.number, 0.5, attempt=ticket.attempt)
    lines.close()


def test_the_first_leads_and_all_share_the_budget(enter):
    first, second = enter(), enter(topology={"workers": 2, "ranks": 1})
    assert (first.leads, second.leads) == (True, False)
    assert (second.member.first_rank, second.member.first_worker, second.member.num_ranks) == (1, 1, 2)
    mine, others = tickets_of(first), tickets_of(second)
    numbers = [t.number for _ in range(6) for t in (*mine.take(1), *others.take(1))]
    assert sorted(numbers) == list(range(6))
    assert mine.take(1) == others.take(1) == []
    assert sorted(liveness.launchers(first.folder)) == [1, 2]


def test_without_continue_a_running_study_is_refused(enter, plan_of, tmp_path):
    enter()
    for resuming in (False, True):
        with pytest.raises(Locked, match="this study is running as process"):
            Membership.enter(plan_of(), f"sqlite:///{tmp_path}/atoll.db", resuming=resuming)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"seed": 1}, "seed: 0 before, 1 now"),
        ({"trials": 7}, "is running with trials: 6, and 7 is asked for here"),
        ({"epochs": 30}, "is running with epochs: None, and 30 is asked for here"),
        ({"topology": {"ranks": 2}}, "topology.ranks: 1 before, 2 now"),
        ({"topology": {"islands": 2}}, "is running on 1 island, which others may join with as many or fewer; got 2"),
    ],
)
def test_only_the_same_study_is_joined(enter, changed, words):
    enter()
    with pytest.raises(LaunchError, match=words):
        enter(**changed)


def test_a_study_with_promotion_has_one_launcher(enter):
    promoting = {"pruning": {"rule": "asha", "promotion": True}, "checkpoint": {"every": "1 epoch"}}
    enter(**promoting)
    with pytest.raises(LaunchError, match="only one launcher may search a study with promotion"):
        enter(**promoting)


def test_a_study_that_stops_is_not_joined(enter):
    enter().folder.stop_request.touch()
    with pytest.raises(LaunchError, match="s is stopping"):
        enter()


def test_workers_of_fewer_islands_go_where_there_are_fewest(enter):
    enter(topology={"islands": 3, "workers": [2, 1, 3]})
    assert enter(topology={"islands": 1, "workers": 2}).member.island_sizes == (0, 2, 0)
    assert enter(topology={"islands": 2, "workers": 1}).member.island_sizes == (1, 1, 0)


def test_the_trials_of_a_dead_launcher_are_given_again(enter):
    first, dead = enter(), enter()
    held = tickets_of(dead).take(3)
    train(dead, held[0])
    train(dead, held[1], ends=False)
    dead.release()  # as the system does
    first.look()
    again = tickets_of(first).take(9)
    assert [(t.number, t.attempt) for t in again] == [(1, 1), (2, 0), (3, 0), (4, 0), (5, 0)]
    events = launches.replay(first.folder.journals)
    (lost,) = [event for event in events if isinstance(event, TrialLost)]
    assert (lost.number, lost.reason, lost.suspected) == (1, f"its launcher {dead.launch} died", False)
    with pytest.raises(LaunchClosed):
        tickets_of(dead).take(1)


def test_what_a_launcher_that_was_taken_for_dead_writes_does_not_count(enter):
    first, dead = enter(), enter()
    (ticket,) = tickets_of(dead).take(1)
    train(dead, ticket, ends=False)
    dead.release()
    first.look()
    late = JournalWriter(dead.folder.root_journal(dead.member.first_rank, dead.launch), dead.launch)
    journals.end_trial(late, ticket.number, 0.9)
    late.close()
    past = lifecycle.History.read(first.folder).past
    assert past.num_budgeted() == 0


def test_when_the_leader_leaves_another_leads_and_the_last_one_ends_the_study(enter):
    first, second = enter(), enter()
    (held,) = tickets_of(first).take(1)
    train(first, held, ends=False)
    assert not first.leave("the search was stopped", suspected=())
    first.release()
    assert liveness.state(second.folder) is None
    assert liveness.holder(second.folder) is not None
    second.look()
    assert second.leads
    assert [t.attempt for t in tickets_of(second).take(1)] == [1]
    assert second.leave("the search was stopped", suspected=())


def test_after_the_last_one_the_study_is_opened_anew(enter):
    first = enter()
    (ticket,) = tickets_of(first).take(1)
    train(first, ticket, ends=False)
    first.release()
    second = enter()
    assert second.leads
    assert second.settings.is_alone
    assert [(t.number, t.attempt) for t in tickets_of(second).take(2)] == [(0, 1), (1, 0)]
    assert LaunchSettings.read(second.folder, second.launch) == second.settings
    with pytest.raises(OSError, match="cannot be used"):
        tickets_of(first).take(1)


def test_a_complete_study_is_neither_joined_nor_opened(enter):
    first = enter()
    for ticket in tickets_of(first).take(6):
        train(first, ticket)
    assert first.leave("", suspected=())
    lifecycle.end(first.folder, first.plan.study, None)
    first.release()
    with pytest.raises(AlreadyComplete):
        enter()


def events_by_launch(folder):
    """The lines of the journals, with their launches."""
    return [
        (file.launch, json.loads(line))
        for file in launches.files(folder.journals)
        for line in file.path.read_text().splitlines()
    ]


def test_one_population_by_islands(plan_of, tmp_path, monkeypatch):
    """Individuals of each of two launchers descend from the other one's."""
    monkeypatch.setattr("atoll.platform.search.other_launchers.Reader.INTERVAL", 0.0)
    plan = plan_of(trials=200, method="local_sgd", sampler={"name": "evolution", "population": 4})
    folder = lifecycle.study_folder(plan.study)
    some = [AskTell(plan, f"sqlite:///{tmp_path}/atoll.db", resuming=None, accept_changes=False) for _ in range(2)]
    numbers: list[int] = []
    crossed: set[tuple[int, int]] = set()
    while crossed != {(1, 1), (1, 2), (2, 1), (2, 2)} and len(numbers) < 150:
        asked = some[len(numbers) % 2].ask()
        numbers.append(asked.number)
        asked.tell(Outcome("complete", asked.number / 100, {}, 0.1, 0.0, [], 0.0))
        time.sleep(0.05)  # the other launcher reads it some time
        started = [(launch, line) for launch, line in events_by_launch(folder) if line["event"] == "trial_started"]
        launch_of = {line["number"]: launch for launch, line in started}
        parents = ((parent, launch) for launch, line in started for parent in line["proposal"].get("parents") or [])
        crossed = {(launch_of[parent], launch) for parent, launch in parents}
    assert crossed == {(1, 1), (1, 2), (2, 1), (2, 2)}
    assert len(set(numbers)) == len(numbers)
    endings = [one.close() for one in some]
    assert [ending.state for ending in endings] == ["stopped", "complete"]
    assert "this launcher was stopped; 1 other launcher goes on" in endings[0].reason
    assert liveness.state(folder) == "complete"


def test_the_last_one_waits_for_the_former_leader_to_finish_recording(enter):
    first, second = enter(), enter()
    assert not first.leave("the search was stopped", suspected=())
    releasing = threading.Timer(0.5, first.release)
    releasing.start()
    assert second.leave("the search was stopped", suspected=())
    assert second.leads
    releasing.join()


def test_a_launcher_that_leaves_early_can_go_on(enter):
    first, second = enter(), enter()
    assert not first.leave("", suspected=())
    assert first.has_tickets()  # as at the job's limit: the exit code is 75
    tickets_of(second).take(6)
    assert not first.has_tickets()
    assert lifecycle.left(None, True, 1).exit_code == 75
    assert lifecycle.left(None, False, 1).exit_code == 0


def test_a_launcher_that_cannot_open_a_study_holds_nothing(enter, monkeypatch):
    with monkeypatch.context() as full:
        full.setattr("atoll.storage.shared_log.SharedLog.create", lambda _: (_ for _ in ()).throw(OSError(28, "full")))
        with pytest.raises(OSError, match="full"):
            enter()
    assert enter().leads


def test_the_trials_of_several_that_leave_one_after_another_wait(enter):
    first, second, third = enter(), enter(), enter()
    for member in (second, third):
        (ticket,) = tickets_of(member).take(1)
        train(member, ticket, ends=False)
    waiting = []
    for member in (second, third):
        assert not member.leave("the search was stopped", suspected=())
        member.release()
        waiting.append(first.waiting())
        tickets_of(first).take(1)
    assert waiting == [{(0, 1)}, {(1, 1)}]


def test_what_a_launch_has_started_without_claiming_it_is_queued_again(enter):
    """With promotion, the owner of the rungs gives out such tickets."""
    member = enter()
    train(member, Ticket(4), ends=False)
    with member.next_launch("killed", suspected={0}):
        pass
    assert [(t.number, t.attempt) for t in tickets_of(member).take(2)] == [(4, 1), (0, 0)]


def test_ranks_of_a_dead_launcher_that_still_beat_on_another_host_keep_its_trials(enter):
    """They write checkpoints until they notice, and another attempt must not write them at the same time."""
    first, dead = enter(), enter()
    (ticket,) = tickets_of(dead).take(1)
    lines = JournalWriter(dead.folder.root_journal(1, dead.launch), dead.launch)
    lines.append(journals.event("host", journals.PLACED | {"world_rank": 1, "hostname": "far", "process": 7}))
    lines.close()
    train(dead, ticket, ends=False)
    beat = dead.folder.heartbeat(1)
    beat.touch()
    dead.release()
    first.look()
    assert 0 not in {t.number for t in tickets_of(first).take(1)}
    os.utime(beat, (1.0, 1.0))
    first.look()
    assert [(t.number, t.attempt) for t in tickets_of(first).take(1)] == [(0, 1)]


def test_ranks_are_asked_to_stop_before_the_jobs_limit(enter, monkeypatch):
    member = enter(walltime=1000.0, stop_grace=100.0)
    began = time.time()
    clock = [began]
    monkeypatch.setattr("atoll.platform.launch.membership.time.time", lambda: clock[0])
    ends = member.settings.ends
    assert began < ends <= began + 1000.0
    clock[0] = ends - 106.0
    member.look()
    assert not member.asks_to_stop()
    assert not member.is_late(50.0)
    clock[0] = ends - 104.0
    member.look()
    assert member.asks_to_stop()
    assert not member.folder.stop_request.exists()  # the others go on
    assert member.is_late(101.0)
    clock[0] = ends - 4.0
    assert member.is_late(50.0)
    assert not member.is_late(None)
