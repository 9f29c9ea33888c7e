"""When a search is over, and what ends a trial in training; the clock is the test's own."""

import pytest

from atoll.platform.search import deadlines
from atoll.platform.search.deadlines import Deadlines
from atoll.platform.study.study import Study
from atoll.platform.trial.outcome import Stopped, TrialTimeout


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(deadlines, "time", clock)
    return clock


def make(
    *,
    seconds_before=0.0,
    stop_requested=lambda: False,
    job_seconds=None,
    lengths=(),
    makes_way=lambda: False,
    **content,
):
    study = Study(name="s", workload="digits_mlp", method="ddp", **content)
    return Deadlines(
        study, seconds_before, stop_requested, job_seconds=job_seconds, lengths=lengths, makes_way=makes_way
    )


def test_without_limits_nothing_ends(clock):
    limits = make()
    clock.now += 1e6
    assert not limits.is_over()
    assert limits.interruption() is None


@pytest.mark.parametrize("seconds_before", [0.0, 4.0])
def test_a_budget_of_seconds_counts_what_was_searched_before_and_lets_trials_end(clock, seconds_before):
    limits = make(seconds=10.0, seconds_before=seconds_before)
    clock.now += 9.9 - seconds_before
    assert not limits.is_over()
    clock.now += 0.2
    assert limits.is_over()
    assert limits.interruption() is None


def test_after_its_seconds_and_grace_trials_are_stopped(clock):
    limits = make(seconds=10.0, grace=2.0)
    clock.now += 11.9
    assert limits.interruption() is None
    clock.now += 0.2
    assert isinstance(limits.interruption(), Stopped)


def test_a_timeout_counts_from_each_trials_start(clock):
    limits = make(trial_timeout=3.0)
    clock.now += 100.0
    limits.trial_starts()
    clock.now += 2.9
    assert limits.interruption() is None
    assert limits.trial_seconds() == pytest.approx(2.9)
    clock.now += 0.2
    assert isinstance(limits.interruption(), TrialTimeout)
    limits.trial_starts()
    assert limits.interruption() is None


def test_with_checkpoints_a_trial_is_asked_to_stop_before_it_is_ended(clock):
    limits = make(stop_requested=lambda: True, checkpoint={"every": "1 hours"}, stop_grace=20.0)
    assert limits.is_over()
    assert limits.asks_to_stop()
    clock.now += 9.9
    assert limits.interruption() is None
    clock.now += 0.2
    assert isinstance(limits.interruption(), Stopped)
    assert not make(checkpoint={"every": "1 hours"}).asks_to_stop()
    for_weights = make(checkpoint={"weights": "all"}, stop_requested=lambda: True)
    clock.now += 1.0
    assert isinstance(for_weights.interruption(), Stopped)  # there is no checkpoint to wait for


def test_a_request_to_stop_is_looked_for_now_and_then_and_never_forgotten(clock):
    asked = []
    answers = iter([False, True])

    def stop_requested():
        asked.append(clock.now)
        return next(answers)

    limits = make(stop_requested=stop_requested)
    assert not limits.is_over()
    assert not limits.is_over()
    assert len(asked) == 1  # it looks at a file
    clock.now += Deadlines.STOP_CHECK_INTERVAL + 0.1
    assert limits.is_over()
    assert isinstance(limits.interruption(), Stopped)
    clock.now += 100.0
    assert limits.is_over()
    assert len(asked) == 2


def test_whether_it_was_asked_to_stop_is_looked_up_at_once(clock):
    answers = iter([False, True])
    limits = make(stop_requested=lambda: next(answers))
    assert not limits.is_over()
    assert limits.was_asked_to_stop()
    assert limits.is_over()


CHECKPOINTS = {"checkpoint": {"every": "1 epoch"}}


def test_no_trial_starts_that_would_be_stopped_by_the_jobs_limit(clock):
    limits = make(job_seconds=1000.0, stop_grace=100.0, lengths=[50.0, 200.0, 300.0])
    clock.now += 699.0
    assert not limits.is_over()
    clock.now += 2.0  # 199 s are left until trials are asked to stop, and the median is 200
    assert limits.is_over()
    limits.trial_took(10.0)
    limits.trial_took(10.0)  # now it is 50
    assert not limits.is_over()
    clock.now += 150.0
    assert limits.is_over()


def test_one_that_writes_checkpoints_starts_until_trials_are_asked_to_stop(clock):
    limits = make(job_seconds=1000.0, stop_grace=100.0, lengths=[5000.0], **CHECKPOINTS)
    clock.now += 899.0
    assert not limits.is_over()
    clock.now += 2.0
    assert limits.is_over()


def test_a_stop_shortly_before_the_limit_leaves_half_of_the_time_for_a_checkpoint(clock):
    asked = []
    limits = make(stop_requested=lambda: bool(asked), job_seconds=1000.0, stop_grace=100.0, **CHECKPOINTS)
    clock.now += 980.0
    asked.append(True)
    assert limits.interruption() is None
    clock.now += 9.0
    assert limits.interruption() is None
    clock.now += 1.5
    assert isinstance(limits.interruption(), Stopped)


@pytest.mark.parametrize("checkpoint", [None, {"every": "1 epochs"}])
def test_for_a_change_trials_with_checkpoints_stop_and_others_are_trained_on(clock, checkpoint):
    waits = []
    limits = make(makes_way=lambda: bool(waits), checkpoint=checkpoint)
    limits.trial_starts()
    clock.now += 1.0
    assert not limits.is_over()
    waits.append(1)
    assert not limits.is_over()  # looked at twice a second
    clock.now += 1.0
    assert limits.is_over()
    assert limits.asks_to_stop() is (checkpoint is not None)
    clock.now += 1e6
    assert limits.interruption() is None
    assert not limits.was_asked_to_stop()
