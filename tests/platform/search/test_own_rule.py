"""A pruning rule of the user's own: what it is told, from which workers, and when it is asked."""

import math
from types import SimpleNamespace

import pytest

from atoll.communication.local_mailbox import LocalMailbox
from atoll.platform.search.own_code import OwnCodeError
from atoll.platform.search.own_rule import OwnRule
from atoll.platform.study.judged import Judged
from atoll.platform.study.pruning import Pruning

RULE = """
from atoll import PruningRule

class Mine(PruningRule):
    def __init__(self, *, verdict=True):
        self.verdict = verdict
        LOG.append(self)
        self.told_so_far = []
    def told(self, report):
        self.told_so_far.append((report.number, report.fidelity, report.value))
    def prunes(self, report):
        return self.verdict

LOG = []
"""


def report(epoch, metric, *, train_loss=None, last=False):
    loss = 1.0 / epoch if train_loss is None else train_loss
    return SimpleNamespace(epoch=epoch, step=10 * epoch, seconds=0.5, metric=metric, train_loss=loss, last=last)


@pytest.fixture
def rules(tmp_path):
    (tmp_path / "mine.py").write_text(RULE)

    def make(size=1, *, sign=1.0, while_falling=True, failures=None, **settings):
        pruning = Pruning.model_validate({"rule": f"{tmp_path}/mine.py:Mine"} | settings)
        fail = [].append if failures is None else failures.append
        made = [OwnRule(pruning, while_falling, Judged(sign), roots, fail) for roots in LocalMailbox.connected(size)]
        from atoll.platform.study import registry

        log = registry.own_class("pruning_rule", pruning.rule, object).__init__.__globals__["LOG"]
        return made, log[-size:]

    return make


def test_it_is_asked_from_grace_on_and_never_at_the_last_report(rules):
    ((rule,), _) = rules(grace=2)
    rule.start(0)
    assert [rule.prunes(report(epoch, 0.5, last=epoch == 4)) for epoch in (1, 2, 3, 4)] == [False, True, True, False]


def test_it_is_not_heeded_while_the_loss_falls(rules):
    ((rule,), _) = rules(while_falling=False)
    rule.start(0)
    losses = (1.0, 0.5, 0.6)
    assert [rule.prunes(report(n, 0.5, train_loss=loss)) for n, loss in enumerate(losses, 1)] == [False, False, True]


def test_it_is_told_of_all_workers_and_of_what_was_before_a_resume(rules):
    (here, there), (ours, theirs) = rules(2, sign=-1.0)
    for rule in (here, there):
        rule.replay(7, report(1, 0.25))
        rule.replay(7, report(2, None))  # not evaluated
    there.start(1)
    there.prunes(report(1, 0.5))
    there.prunes(report(2, math.nan))
    here.start(0)
    here.prunes(report(1, 0.75))
    there.receive()
    assert ours.told_so_far == [(7, 1, -0.25), (1, 1, -0.5), (0, 1, -0.75)]
    assert theirs.told_so_far == ours.told_so_far


def test_a_decision_must_be_true_or_false(rules):
    failures = []
    ((rule,), _) = rules(verdict="yes", failures=failures)
    rule.start(0)
    assert [rule.prunes(report(1, 0.5)), rule.prunes(report(2, 0.5))] == [False, False]
    (failure,) = failures
    assert isinstance(failure, OwnCodeError)
    assert str(failure) == "pruning rule mine.py:Mine prunes must return true or false; got 'yes'"


def test_a_report_from_before_a_checkpoint_is_told_once(rules):
    ((rule,), (own,)) = rules(verdict=False)
    rule.start(3)
    for epoch in (1, 2):
        rule.prunes(report(epoch, 0.5))
    rule.start(3, continues=True)
    for epoch in (1, 2):
        rule.take_in_repeated(report(epoch, 0.5))
    assert own.told_so_far == [(3, 1, 0.5), (3, 2, 0.5)]
