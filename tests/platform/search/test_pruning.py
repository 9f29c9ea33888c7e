"""Rungs, and who goes on from them."""

import itertools
from types import SimpleNamespace

import journals
import pytest

from atoll.communication.local_mailbox import LocalMailbox
from atoll.platform.search import restore, resume
from atoll.platform.search.pruning import Pruner
from atoll.platform.study import registry
from atoll.platform.study.judged import Judged
from atoll.platform.study.plan import Plan
from atoll.platform.study.pruning import Pruning
from atoll.platform.study.study import Study


def report(epoch, metric, *, train_loss=None, last=False, step=None, seconds=None):
    return SimpleNamespace(
        epoch=epoch,
        step=step or 10 * epoch,
        seconds=seconds or epoch / 2,
        metric=metric,
        validation_loss=metric,
        metrics={},
        train_loss=1.0 / epoch if train_loss is None else train_loss,
        last=last,
    )


METRIC = Judged()


def pruners(size=1, judged=METRIC, rule="asha", while_falling=True, **settings):
    return [Pruner(Pruning(**settings), rule, while_falling, judged, box) for box in LocalMailbox.connected(size)]


NUMBERS = itertools.count()


def train(pruner, curve, **options):
    """The epoch after which a trial is pruned, or None."""
    pruner.start(next(NUMBERS))
    for epoch, metric in enumerate(curve, 1):
        if pruner.prunes(report(epoch, metric, last=epoch == len(curve), **options)):
            return epoch
    return None


def test_rungs_of_asha_are_powers():
    (pruner,) = pruners(grace=2, factor=3)
    assert list(pruner._passed(0, 60)) == [2, 6, 18, 54]
    assert list(pruner._passed(2, 17)) == [6]
    (given,) = pruners(rungs=[2.5, 4])
    assert list(given._passed(0, 3)) == [2.5]


def test_asha_lets_the_best_share_of_a_rung_go_on():
    (pruner,) = pruners(factor=3)
    # the first is the best so far; then only a value among the best third of those that came goes on
    ends = [train(pruner, [value, value, value, value]) for value in (5.0, 6.0, 4.0, 4.5, 3.0, 3.5, 9.0, 3.2)]
    assert ends == [None, 1, None, 1, None, 3, 1, 3]


def test_a_metric_that_is_maximised():
    (pruner,) = pruners(judged=Judged(-1.0), factor=2)
    assert [train(pruner, [v] * 2) for v in (0.5, 0.4, 0.6)] == [None, 1, None]


def test_an_objective_that_is_compared_in_place_of_the_metric():
    """Also where it was not evaluated, and after a resume."""
    (pruner,) = pruners(judged=Judged.of("train_loss", "minimize", "accuracy", "maximize"), factor=2)
    pruner.replay(next(NUMBERS), report(1, 0.5, train_loss=2.0))
    pruner.start(next(NUMBERS))
    assert pruner.prunes(report(1, None, train_loss=3.0))
    pruner.start(next(NUMBERS))
    assert not pruner.prunes(report(1, 0.1, train_loss=1.0))
    assert pruner._rungs == {1: [1.0, 2.0, 3.0]}
    (further,) = pruners(judged=Judged.of("f1", "maximize", "accuracy", "maximize"), factor=2)
    further.start(next(NUMBERS))
    evaluated = report(1, 0.5)
    evaluated.metrics["f1"] = 0.25
    further.prunes(evaluated)
    further.prunes(report(2, 0.5))  # without it
    assert further._rungs == {1: [-0.25]}


def test_the_last_report_is_never_pruned():
    (pruner,) = pruners(factor=2)
    assert train(pruner, [1.0]) is None
    assert train(pruner, [2.0]) is None


def test_values_of_other_workers_count_once_they_have_arrived():
    here, there = pruners(2, factor=2)
    train(there, [1.0, 1.0])
    assert train(here, [2.0, 2.0]) == 1
    assert here._rungs[1] == [1.0, 2.0]


def test_median_stopping_waits_for_values_and_compares_at_every_report():
    (pruner,) = pruners(rule="median", startup=3, grace=2)
    assert [train(pruner, [v] * 3) for v in (1.0, 2.0, 3.0)] == [None, None, None]
    assert train(pruner, [9.0, 2.5, 0.0]) == 2  # not before grace
    assert train(pruner, [9.0, 1.9, 0.0]) is None


def test_fidelity_may_be_steps_or_seconds():
    (steps,) = pruners(fidelity="steps", grace=20, factor=2)
    assert train(steps, [1.0] * 4) is None
    assert train(steps, [2.0] * 4) == 2
    (seconds,) = pruners(fidelity="seconds", grace=1.5, factor=2)
    assert train(seconds, [1.0] * 4) is None
    assert train(seconds, [2.0] * 4) == 3


def test_median_stopping_compares_at_equal_fidelity_where_reports_never_meet():
    """Seconds never repeat, and neither do steps where the batch size is searched."""
    for fidelity in ("seconds", "steps"):
        (pruner,) = pruners(rule="median", startup=3, fidelity=fidelity)
        for number in range(4):
            pruner.start(next(NUMBERS))
            for epoch in range(1, 6):
                place = epoch * (10 + number)
                assert not pruner.prunes(report(epoch, 1.0, step=place, seconds=float(place), last=epoch == 5))
        pruner.start(next(NUMBERS))
        ends = [pruner.prunes(report(e, 2.0, step=7 * e, seconds=7.0 * e)) for e in range(1, 4)]
        assert ends == [False, True, True]  # at 7 nobody else had reported


def test_who_is_behind_at_a_rung_ends_as_soon_as_its_loss_stops_falling():
    (pruner,) = pruners(factor=2, while_falling=False)
    train(pruner, [1.0] * 9)
    pruner.start(next(NUMBERS))
    losses = [0.9, 0.8, 0.7, 0.7]
    ends = [pruner.prunes(report(epoch, 2.0, train_loss=loss)) for epoch, loss in enumerate(losses, 1)]
    assert ends == [False, False, False, True]


def test_a_resumed_pruner_does_not_hear_of_what_was_lost():
    """Trial 0 was complete; trial 1 was lost in its second epoch, and will be trained, and count, again."""
    lines = []
    for number, metrics in enumerate(([0.5, 0.6, 0.7], [0.9, 0.9])):
        trial = {"number": number, "attempt": 0}
        facts = {"island": 0, "worker": number, "seed": 0, "hyperparameters": {}, "configuration": {}}
        lines.append(journals.event("trial_started", trial | facts))
        for epoch, metric in enumerate(metrics, 1):
            reached = {"epoch": epoch, "step": 10 * epoch, "seconds": epoch / 2, "metric": metric, "wire_bytes": 0.0}
            losses = {"train_loss": 1.0, "validation_loss": 1.0, "learning_rate": 0.1}
            lines.append(journals.event("progress", trial | reached | losses))
    lines.append(journals.event("trial_ended", {"number": 0, "attempt": 0, "state": "complete"}))
    lines.append(journals.event("trial_lost", {"number": 1, "attempt": 0, "reason": "its host died"}))
    pruned = Study(name="s", workload="digits_mlp", method="daso", pruning={"factor": 3})
    (roots,) = LocalMailbox.connected(1)
    pruner = restore.pruner_of(Plan.of(pruned), roots, lines, resume.read(lines))
    assert pruner._rungs == {1: [-0.5], 3: [-0.7]}


def test_macs_rule_ends_no_trial_whose_loss_still_falls():
    assert registry.method("mac").pruning == {"rule": "median", "while_falling": False}
    (pruner,) = pruners(rule="median", while_falling=False, startup=1)
    train(pruner, [1.0] * 5)
    assert train(pruner, [2.0] * 5) is None  # its training loss falls in every epoch
    assert train(pruner, [2.0] * 5, train_loss=0.5) == 2  # the second report has not fallen below the first


def test_a_study_takes_its_methods_rule_unless_it_says():
    def study(method, **pruning):
        return Plan.of(Study(name="s", workload="digits_mlp", method=method, pruning=pruning))

    assert study("mac").pruning_rule() == ("median", False)
    assert study("mac", rule="asha").pruning_rule() == ("asha", False)
    assert study("daso").pruning_rule() == ("asha", True)
    assert study("daso", while_falling=False).pruning_rule() == ("asha", False)


def test_a_resumed_search_knows_the_rungs():
    (pruner,) = pruners(factor=2)
    for number, metric in enumerate((1.0, 2.0)):
        for epoch in (1, 2):
            pruner.replay(number, report(epoch, metric))
    assert pruner._rungs == {1.0: [1.0, 2.0], 2.0: [1.0, 2.0]}
    assert train(pruner, [3.0, 3.0]) == 1


@pytest.mark.parametrize("rungs", [[], [0, 1], [3, 3]])
def test_rungs_must_rise(rungs):
    with pytest.raises(ValueError, match=r"rungs must be positive and increasing|at least 1 item"):
        Pruning(rungs=rungs)


def test_reports_within_an_epoch_count_once_in_a_rung():
    (pruner,) = pruners(factor=2)
    pruner.start(next(NUMBERS))
    for step in range(1, 41):  # four reports an epoch
        pruner.prunes(report(step // 4, 1 / step, train_loss=1 / step, step=step, last=step == 40))
    # At epoch 1 it had 0.25; compared with what it had later, 0.2 would be behind.
    assert train(pruner, [0.2, 0.1]) is None


def test_repeated_reports_leave_the_pruner_as_they_found_it():
    (whole,), (continued,) = pruners(factor=2, while_falling=False), pruners(factor=2, while_falling=False)
    for pruner in (whole, continued):
        train(pruner, [0.1, 0.05, 0.01])
        pruner.start(7)
    reports = [report(epoch, metric, train_loss=metric) for epoch, metric in ((1, 0.05), (2, 0.2), (3, 0.1))]
    decisions = [whole.prunes(each) for each in reports]
    continued.take_in_repeated(reports[0])
    assert [continued.prunes(each) for each in reports[1:]] == decisions[1:]


def test_a_trial_that_becomes_longer_counts_once_at_a_rung_and_is_not_judged_again_there():
    (pruner,) = pruners(factor=2)
    for number, values in enumerate(([5.0, 5.0], [1.0, 1.0], [2.0, 2.0], [5.5, 5.5])):
        for epoch, value in enumerate(values, 1):
            pruner.replay(number, report(epoch, value))
    pruner.start(0, continues=True)
    for epoch in (1, 2):
        pruner.take_in_repeated(report(epoch, 5.0))
    assert not pruner.prunes(report(3, 5.0))
    assert not pruner.prunes(report(4, 5.0))  # the first at the next rung
    assert train(pruner, [2.5, 2.5]) == 1  # the third of five at rung 1; of six, two of which are one, it would pass
    pruner.start(2, continues=True)
    pruner.take_in_repeated(report(3, 6.0))  # after the result, and before the checkpoint of an attempt that was lost
    assert pruner.prunes(report(4, 6.0))
