"""The budget of busy seconds, on mailboxes inside one process."""

import journals

from atoll.communication.local_mailbox import LocalMailbox
from atoll.platform.search import resume
from atoll.platform.search.busy_budget import BusyBudget

STARTED = {
    "number": 0, "attempt": 0, "island": 0, "worker": 0, "seed": 0, "hyperparameters": {}, "configuration": {},
}  # fmt: skip


def budgets(size, seconds):
    return [BusyBudget(box, seconds) for box in LocalMailbox.connected(size)]


def serve(some):
    for _ in range(2):
        for one in some:
            one.serve()


def test_what_all_spend_counts_and_all_hear_of_the_end():
    first, second, third = some = budgets(3, 10.0)
    for one in some:
        one.spend(3.0)
    serve(some)
    assert [one.is_over for one in some] == [False] * 3  # 9 seconds
    third.spend(1.0)
    serve(some)
    assert [one.is_over for one in some] == [True] * 3
    second.spend(2.0)  # what was in training then
    serve(some)
    assert first.is_over


def test_a_budget_that_is_used_up_is_over_from_the_start():
    assert [one.is_over for one in budgets(2, 0.0)] == [True, True]
    assert [one.is_over for one in budgets(2, 0.1)] == [False, False]


def test_without_a_budget_nothing_is_sent():
    one, other = budgets(2, None)
    other.spend(1e9)
    assert one._mailbox.take(14) is None
    assert not one.is_over


def test_past_trials_count_but_lost_ones_do_not():
    def started(number):
        return journals.event("trial_started", STARTED | {"number": number})

    def ended(number, seconds, state):
        fields = {"number": number, "attempt": 0, "state": state, "busy_seconds": seconds}
        return journals.event("trial_ended", fields)

    lost = journals.event("trial_lost", {"number": 2, "attempt": 0, "time": 30.0, "reason": ""})
    events = [started(0), started(1), ended(0, 3.0, "complete"), ended(1, 5.0, "failed"), started(2), lost]
    past = resume.read(events)
    assert past.worker_seconds() == 3.0 + 5.0
    assert past.used_up(None, None, 8.0)
    assert not past.used_up(None, None, 8.001)
    assert not past.used_up(None, None)


def test_a_trial_whose_process_died_has_trained_until_its_last_line():
    """However much later the search is resumed."""
    start = journals.event("trial_started", STARTED | {"time": 10.0})
    numbers = ("step", "epoch", "seconds", "train_loss", "validation_loss", "metric", "learning_rate", "wire_bytes")
    report = journals.event("progress", {"number": 0, "attempt": 0, "time": 14.5} | dict.fromkeys(numbers, 1))
    (trial,) = resume.read([start, report]).running()
    assert trial.worker_seconds == 4.5
