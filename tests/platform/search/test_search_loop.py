"""The loop of a worker's root, on local mailboxes and with a worker that trains nothing."""

import threading
import time

import pytest
from commands import journal_lines, wait_until

from atoll.communication.local_mailbox import LocalMailbox
from atoll.platform.search import resume
from atoll.platform.search.proposals import key
from atoll.platform.search.search_loop import FAILED, SearchLoop
from atoll.platform.study.plan import Plan
from atoll.platform.study.study import Study
from atoll.platform.study.topology import HostFacts, Shape, arrange
from atoll.platform.trial.outcome import Outcome, Stopped
from atoll.platform.trial.progress import Progress
from atoll.storage import launches
from atoll.storage.events import WorkerFinished
from atoll.storage.folder import StudyFolder


def progress(epoch, metric):
    return Progress(epoch, epoch, 0.1 * epoch, 1.0, 1.0, metric, 0.1, 0.0, {}, last=epoch == 2)


def outcome(state, objective=None, **changes):
    return Outcome(state, objective, {}, 0.2, 0.0, [], 0.0, **changes)


class FakeWorker:
    """Evaluates as `behave` says, which gets the configuration and the hooks; notes what it was given."""

    def __init__(self, behave, num_workers=1):
        self.places = arrange(Shape((num_workers,), 1), [HostFacts("host", {0, 1})] * num_workers)[:1]
        self.behave = behave
        self.evaluated = []
        self.is_dismissed = False

    def evaluate(self, configuration, hooks, *, test=False, folder=None, trial=None):
        self.evaluated.append(configuration.hyperparameters)
        return self.behave(configuration, hooks)

    def dismiss(self, serve=lambda: None):
        self.is_dismissed = True


def trains(configuration, hooks):
    for epoch in (1, 2):
        hooks.on_progress(progress(epoch, 0.5))
        hooks.serve()
    return outcome("complete", 0.5)


@pytest.fixture
def folder(tmp_path):
    folder = StudyFolder(tmp_path)
    folder.create()
    return folder


def plan(**content):
    defaults = {"name": "s", "workload": "digits_mlp", "method": "ddp", "sampler": {"name": "random"}, "epochs": 2}
    return Plan.of(Study(**defaults | content))


def run(folder, behave, *, roots=None, island_roots=None, num_workers=1, **content):
    worker = FakeWorker(behave, num_workers)
    roots = roots or LocalMailbox.connected(1)[0]
    island_roots = island_roots or LocalMailbox.connected(1)[0]
    SearchLoop.assemble(plan(**content), folder, worker, roots, island_roots, [num_workers], launch=1).run()
    assert worker.is_dismissed
    return worker


def lines_of(folder):
    """Event and trial of every line of root 0's journal."""
    names = ("host", "trial_started", "progress", "trial_ended")
    lines = sorted((line for name in names for line in journal_lines(folder.path, name)), key=lambda line: line["time"])
    return [(line["event"], line.get("number")) for line in lines]


def test_events_come_in_order_and_the_default_is_first(folder):
    worker = run(folder, trains, trials=3)
    trial = ["trial_started", "progress", "progress", "trial_ended"]
    assert lines_of(folder) == [("host", None), *((event, number) for number in range(3) for event in trial)]
    default = plan().space.default()
    assert default.items() <= worker.evaluated[0].items()
    assert len({key(hyperparameters) for hyperparameters in worker.evaluated}) == 3


def test_a_failed_trial_uses_up_budget_and_others_are_told(folder):
    """Root 1 is played here."""
    (mine, other), (island, _) = LocalMailbox.connected(2), LocalMailbox.connected(2)
    arguments = {"roots": mine, "island_roots": island, "num_workers": 2, "trials": 2}

    def fails(configuration, hooks):
        return outcome("failed", reason="broken")

    thread = threading.Thread(target=run, args=(folder, fails), kwargs=arguments, daemon=True)
    thread.start()
    other.start_barrier()
    told = []
    wait_until(lambda: (message := other.take(FAILED)) is not None and not told.append(message))
    wait_until(lambda: (message := other.take(FAILED)) is not None and not told.append(message))
    other.start_barrier()
    thread.join(30)
    assert not thread.is_alive()
    started = [line["hyperparameters"] for line in journal_lines(folder.path, "trial_started")]
    assert told == [(0, (number, key(hyperparameters))) for number, hyperparameters in enumerate(started)]
    assert [line["state"] for line in journal_lines(folder.path, "trial_ended")] == ["failed", "failed"]


def test_what_has_failed_elsewhere_is_not_evaluated(tmp_path):
    """The same search twice: the second hears, before its second trial, that the configuration to come has failed."""
    histories = []
    for has_failed in (False, True):
        folder = StudyFolder(tmp_path / str(has_failed))
        folder.create()
        mine, other = LocalMailbox.connected(2)
        island, _ = LocalMailbox.connected(2)
        if has_failed:
            other.send((1, key(histories[0][1])), 0, FAILED)
        arguments = {"roots": mine, "island_roots": island, "num_workers": 2, "trials": 2}
        thread = threading.Thread(target=run, args=(folder, trains), kwargs=arguments, daemon=True)
        thread.start()
        other.start_barrier()
        wait_until(lambda f=folder: len(journal_lines(f.path, "trial_ended")) == 2)
        other.start_barrier()
        thread.join(30)
        assert not thread.is_alive()
        histories.append([line["hyperparameters"] for line in journal_lines(folder.path, "trial_started")])
    assert histories[0][0] == histories[1][0]
    assert histories[0][1] != histories[1][1]


def test_a_budget_of_seconds_lets_the_trial_in_training_end(folder):
    def takes_its_time(configuration, hooks):
        time.sleep(0.4)
        assert hooks.interrupt() is None
        return trains(configuration, hooks)

    worker = run(folder, takes_its_time, seconds=0.7)
    assert len(worker.evaluated) == 2
    assert lines_of(folder)[-1] == ("trial_ended", 1)
    # Its last line shows that the budget is used up, even if the last trial had ended before.
    past = launches.replay(folder.journals)
    assert isinstance(past[-1], WorkerFinished)
    assert resume.read(past).used_up(None, 0.2)


def test_a_budget_of_busy_seconds(folder):
    def takes_its_time(configuration, hooks):
        time.sleep(0.1)
        return trains(configuration, hooks)

    assert len(run(folder, takes_its_time, busy_seconds=0.25).evaluated) == 3


def test_a_request_to_stop_ends_the_trial_which_a_resume_takes_up_again(folder):
    def is_stopped_in_the_second(configuration, hooks):
        if configuration.seed != 1:
            return trains(configuration, hooks)
        folder.stop_request.touch()
        wait_until(lambda: isinstance(hooks.interrupt(), Stopped))
        return outcome("lost", reason="Stopped")

    first = run(folder, is_stopped_in_the_second, trials=4)
    assert len(first.evaluated) == 2
    folder.stop_request.unlink()
    second = run(folder, trains, trials=4)
    started = [(line["number"], line["attempt"]) for line in journal_lines(folder.path, "trial_started")]
    assert started == [(0, 0), (1, 0), (1, 1), (2, 0), (3, 0)]
    assert second.evaluated[0] == first.evaluated[1]


def test_a_request_to_stop_between_trials_evaluates_nothing_more(folder):
    def is_stopped_at_its_end(configuration, hooks):
        folder.stop_request.touch()
        wait_until(lambda: hooks.interrupt() is not None)
        return trains(configuration, hooks)

    assert len(run(folder, is_stopped_at_its_end, trials=4).evaluated) == 1


def test_pruning_is_asked_after_every_report_and_its_trial_ends_with_a_curve(folder):
    """With factor 2 the second trial, which is worse at every rung, is behind at the first one."""

    def obeys(configuration, hooks):
        metric = 0.5 if configuration.seed == 0 else 0.25
        for epoch in (1, 2):
            report = progress(epoch, metric)
            hooks.on_progress(report)
            if hooks.prunes(report):
                return outcome("pruned", curve={epoch: metric}, reason=f"pruned after epoch {epoch}")
        return outcome("complete", metric)

    run(folder, obeys, trials=2, pruning={"factor": 2, "while_falling": True})
    assert [line["state"] for line in journal_lines(folder.path, "trial_ended")] == ["complete", "pruned"]


def test_traces_are_kept_of_each_new_best_only(folder):
    metrics = iter([0.5, 0.25, 0.75])

    def traced(configuration, hooks):
        metric = next(metrics)
        hooks.on_progress(progress(1, metric))
        return outcome("complete", metric, traces=[{"rank": 0}])

    run(folder, traced, trials=3)
    assert [len(line["schedules"]) for line in journal_lines(folder.path, "trial_ended")] == [1, 0, 1]
