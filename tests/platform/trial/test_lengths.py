"""Trainings on data sets, of a length in steps, and when they report and evaluate."""

import itertools
import time
from typing import ClassVar

import pytest
import torch
from datasets_of_tests import Counting
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from atoll.communication.threads import run_virtual_ranks, single_rank
from atoll.methods.data_parallel.local_sgd import LocalSgd
from atoll.methods.method import NotApplicable
from atoll.platform.study import registry
from atoll.platform.study.configuration import Configuration
from atoll.platform.study.interval import Every
from atoll.platform.trial.trial import Trial
from atoll.platform.trial.triggers import EarlyStopping, IntervalTrigger, Length
from atoll.platform.workloads.digits import DigitsMlp
from atoll.platform.workloads.workload import Data

PER_EPOCH = 1257 // 32  # digits_mlp's batches of 32 of one rank


class InDataSets(DigitsMlp):
    """The digits, as data sets."""

    def load(self, folder):
        data = super().load(folder)
        return Data(*(TensorDataset(part.inputs, part.targets) for part in (data.train, data.validation, data.test)))


class Named(Dataset):
    """Items are dicts, with an input that the network does not need."""

    def __init__(self, part):
        self.part = part

    def __len__(self):
        return len(self.part)

    def __getitem__(self, i):
        return {"pixels": self.part.inputs[i], "weight": 1.0, "labels": self.part.targets[i]}


class TakesNames(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, pixels, weight):
        assert len(pixels) == len(weight)
        return self.network(pixels)


class InDicts(DigitsMlp):
    def load(self, folder):
        data = super().load(folder)
        return Data(*(Named(part) for part in (data.train, data.validation, data.test)))

    def model(self):
        return TakesNames(super().model())


class Streamed(DigitsMlp):
    def load(self, folder):
        data = super().load(folder)
        pairs = list(zip(data.train.inputs, data.train.targets, strict=True))

        class Pairs(Counting):
            def __iter__(self):
                return iter(pairs)

        return Data(Pairs(), data.validation, data.test)


def curve(monkeypatch, workload=DigitsMlp, nodes=(0,), method="ddp", hyperparameters=None, **content):
    monkeypatch.setattr("atoll.platform.study.registry.workload", lambda *_: workload())
    content = {"workload": "digits_mlp", "seed": 1, "hyperparameters": hyperparameters or {}} | content
    configuration = Configuration(method=method, **content)
    return run_virtual_ranks(lambda c: [*Trial(configuration, c, "cpu").train()], nodes)[0]


def values(reports):
    return [(r.step, r.epoch, r.train_loss, r.validation_loss, r.metric, r.learning_rate) for r in reports]


@pytest.mark.parametrize("workload", [InDataSets, InDicts])
@pytest.mark.parametrize(
    ("method", "nodes"), [("ddp", (0, 0)), ("local_sgd", (0, 1)), ("mac", (0,))], ids=["ddp", "local_sgd", "mac"]
)
def test_a_data_set_trains_as_tensors_do(monkeypatch, workload, method, nodes):
    hyperparameters = {"w_iterations": 1, "w_iterations_last": 1} if method == "mac" else {}
    options = {"method": method, "nodes": nodes, "epochs": 2, "hyperparameters": hyperparameters}
    if (method, workload) == ("mac", InDicts):
        with pytest.raises(NotApplicable, match=r"mac cuts the network into a chain.*must be one tensor; got dict"):
            curve(monkeypatch, workload, **options)
        return
    assert values(curve(monkeypatch, workload, **options)) == values(curve(monkeypatch, **options))


def test_a_length_in_steps_ends_within_an_epoch(monkeypatch):
    whole = curve(monkeypatch, epochs=3)
    assert [r.step for r in whole] == [PER_EPOCH * k for k in (1, 2, 3)]
    short = curve(monkeypatch, steps=PER_EPOCH + 10, hyperparameters={"schedule": "constant"})
    assert [(r.step, r.epoch, r.last) for r in short] == [(PER_EPOCH, 1, False), (PER_EPOCH + 10, 1, True)]
    tiny = curve(monkeypatch, steps=5)
    assert [(r.step, r.epoch, r.last) for r in tiny] == [(5, 0, True)]
    with pytest.raises(ValueError, match="a length in epochs or in steps; got epochs 3 and steps 5"):
        curve(monkeypatch, steps=5, epochs=3)


def test_a_workload_may_have_a_length_in_steps(monkeypatch):
    class Short(DigitsMlp):
        steps: ClassVar = 7

    class ShortStream(Streamed):
        steps: ClassVar = 7

    assert [r.step for r in curve(monkeypatch, Short)] == [7]
    assert [r.step for r in curve(monkeypatch, Short, epochs=1)] == [PER_EPOCH]
    assert [r.step for r in curve(monkeypatch, Short, steps=5)] == [5]
    assert [r.step for r in curve(monkeypatch, ShortStream)] == [7]


def test_reports_come_at_their_interval_and_change_no_training(monkeypatch):
    by_epoch = curve(monkeypatch, epochs=2)
    by_steps = curve(monkeypatch, epochs=2, report_every="10 steps")
    assert [r.step for r in by_steps] == [10, 20, 30, 40, 50, 60, 70, 2 * PER_EPOCH]
    assert [r.epoch for r in by_steps] == [0, 0, 0, 1, 1, 1, 1, 2]
    assert [r.position for r in by_steps] == [r.step for r in by_steps]
    assert by_steps[-1].metric == by_epoch[-1].metric
    assert by_steps[-1].validation_loss == by_epoch[-1].validation_loss
    # The mean of the losses since the last report.
    assert sum(r.train_loss * n for r, n in zip(by_steps, [10] * 7 + [8], strict=True)) == pytest.approx(
        sum(r.train_loss * PER_EPOCH for r in by_epoch), rel=1e-5
    )
    rare = curve(monkeypatch, epochs=5, report_every="2 epochs")
    assert [(r.epoch, r.position) for r in rare] == [(2, 2), (4, 4), (5, 5)]


def test_evaluations_may_be_rarer_than_reports(monkeypatch):
    reports = curve(monkeypatch, steps=50, report_every="10 steps", evaluate_every="20 steps")
    assert [r.metric is not None for r in reports] == [False, True, False, True, True]
    assert [r.validation_loss is not None for r in reports] == [False, True, False, True, True]


def test_reports_in_seconds_follow_the_speed_of_the_training(monkeypatch):
    reports = curve(monkeypatch, epochs=2, nodes=(0, 0), report_every="0.001 s")
    steps = [r.step for r in reports]
    assert steps == sorted(set(steps))
    assert 2 < len(steps) <= 2 * (1257 // 64)


def test_iterable_data_train_by_steps(monkeypatch):
    reports = curve(monkeypatch, Streamed, steps=60, report_every="30 steps", nodes=(0, 0))
    assert [r.step for r in reports] == [30, 60]
    assert reports[-1].metric > 0.5

    class Long(Streamed):
        steps_per_epoch: ClassVar = 15

    assert [r.step for r in curve(monkeypatch, Long, epochs=2)] == [15, 30]
    with pytest.raises(NotApplicable, match=r"iterable training data have no epochs: give the study's or workload's"):
        curve(monkeypatch, Streamed, epochs=2)
    with pytest.raises(NotApplicable, match=r"mac keeps something for each sample.*got the iterable Pairs"):
        curve(monkeypatch, Streamed, steps=60, method="mac")


def test_who_passes_over_an_epoch_in_its_own_order_reports_after_epochs(monkeypatch):
    assert [r.epoch for r in curve(monkeypatch, method="mac", epochs=2, report_every="2 epochs")] == [2]
    with pytest.raises(NotApplicable, match=r"mac passes over the batches of an epoch in its own order.*got 10 steps"):
        curve(monkeypatch, method="mac", report_every="10 steps")


class OldFashioned(LocalSgd):
    """Makes its gradients itself."""

    def step(self, batch):
        loss = self._context.loss(self._context.model(batch.inputs), batch.targets)
        self._flat.backward(loss)
        self._optimizer.step()
        return loss.detach()


@pytest.mark.parametrize("setting", [{"precision": "bfloat16"}, {"accumulate": 4}], ids=lambda s: next(iter(s)))
def test_settings_of_the_gradient_act_or_are_refused(monkeypatch, setting):
    plain = curve(monkeypatch, steps=20)
    assert curve(monkeypatch, steps=20, hyperparameters=setting)[-1].train_loss == pytest.approx(
        plain[-1].train_loss, rel=0.05
    )
    monkeypatch.setattr(registry, "method", lambda _: OldFashioned)
    with pytest.raises(NotApplicable, match=r"OldFashioned does not make its gradients with `context.gradient`, so"):
        curve(monkeypatch, steps=20, hyperparameters=setting)


def test_a_training_that_does_not_become_better_ends(monkeypatch):
    rates = {"learning_rate": 1e-12, "min_lr": 0.0}  # nothing changes
    reports = curve(monkeypatch, epochs=9, patience=2, hyperparameters=rates, nodes=(0, 0))
    assert [(r.epoch, r.last) for r in reports] == [(1, False), (2, False), (3, True)]
    within = curve(monkeypatch, epochs=9, patience=1, report_every="5 steps", hyperparameters=rates)
    assert [(r.step, r.last) for r in within] == [(5, False), (10, True)]
    assert len(curve(monkeypatch, epochs=3, patience=2)) == 3


def test_patience_counts_evaluations_since_the_best():
    stopping = EarlyStopping(2, "maximize")
    assert [stopping.ends(metric) for metric in (0.5, 0.4, 0.6, 0.6, 0.5)] == [False, False, False, False, True]
    never = EarlyStopping(None, "minimize")
    assert not any(never.ends(1.0) for _ in range(100))


def test_triggers_and_lengths():
    length = Length(25, 10)
    assert (length.num_epochs, [length.steps_of(e) for e in range(3)]) == (3, [10, 10, 5])
    seconds = IntervalTrigger(Every(1.0, "seconds"), length)
    assert seconds.is_due(1)
    assert not seconds.fires(1, 0.001)  # a look, which estimates a thousand steps and looks again after ten
    assert [step for step in (2, 10, 11) if seconds.is_due(step)] == [11]
    assert not seconds.fires(11, 0.5)
    assert [step for step in (21, 22) if seconds.is_due(step)] == [22]
    assert seconds.fires(22, 1.0)
    assert [step for step in (43, 44) if seconds.is_due(step)] == [44]
    assert seconds.fires(44, 2.0)
    default = IntervalTrigger(None, length)
    assert list(itertools.filterfalse(lambda step: not default.is_due(step), range(1, 12))) == [10, 11]


def test_a_later_attempt_counts_from_its_first_step():
    """A step took 0.03 s in the attempt before, and takes 0.4 s now."""
    length, every = Length(200, 10), Every(1.0, "seconds")
    before = IntervalTrigger(every, length)
    for step, seconds in ((1, 0.03), (11, 0.33), (33, 1.0)):
        before.fires(step, seconds)
    assert before.state_dict() == [66, 1.0]
    loaded, restarted = IntervalTrigger(every, length), IntervalTrigger(every, length)
    loaded.load_state_dict(before.state_dict(), 50, 1.5)
    assert [step for step in (50, 51) if loaded.is_due(step)] == [51]
    assert loaded.fires(51, 1.9)  # 0.9 s after it fired before; a step later it would be 1.3 s
    restarted.restart(50, 1.5)
    assert [step for step in (50, 51) if restarted.is_due(step)] == [51]
    assert not restarted.fires(51, 1.9)
    assert [step for step in (51, 52, 53) if restarted.is_due(step)] == [53]  # 1.2 s after the attempt began
    assert restarted.fires(53, 2.7)
    in_steps = IntervalTrigger(Every(7, "steps"), length)
    in_steps.load_state_dict([56, 0.0], 50, 1.5)
    assert [step for step in range(50, 57) if in_steps.is_due(step)] == [56]
    in_steps.restart(50, 1.5)
    assert [step for step in range(50, 58) if in_steps.is_due(step)] == [57]


@pytest.mark.parametrize(
    "text",
    ["", "10", "10 days", "0 steps", "1.5 epochs", "-3 steps", 7, "steps", "9" * 400 + " steps", "9" * 400 + " s"],
)
def test_intervals_are_checked(text):
    with pytest.raises(ValueError, match=r"an interval must be (?s:.){,200}$"):
        Every.parse(text)


@pytest.mark.parametrize(
    "text", ["5 steps", "1000000 steps", "1234567 steps", "300 hours", "0.00001 s", "20.123456789 seconds", "0.1 min"]
)
def test_an_interval_is_the_same_after_it_has_been_written(text):
    interval = Every.parse(text)
    assert Every.parse(str(interval)) == interval


def test_every_sample_of_a_data_set_is_evaluated_whatever_the_ranks(monkeypatch):
    trial = Configuration(workload="digits_mlp", method="ddp", steps=1)
    monkeypatch.setattr("atoll.platform.study.registry.workload", lambda *_: InDataSets())
    alone = [*Trial(trial, single_rank(), "cpu", test=True).train()][-1]
    assert {"test_loss", "test_accuracy"} <= alone.metrics.keys()
    assert torch.isfinite(torch.tensor(alone.metrics["test_loss"]))


def test_what_is_done_with_a_report_is_no_training():
    configuration = Configuration(workload="digits_mlp", method="ddp", epochs=2, report_every="20 steps")
    seconds = []
    for report in Trial(configuration, single_rank(), "cpu").train():
        seconds.append(report.seconds)
        time.sleep(0.5)
    assert seconds[-1] < 0.5
